//! Which edges have sessions of each named user: what edges report on their links, forgotten with
//! those. An edge that has not reported all of its users is not counted among those that have, so
//! that whoever asks knows that it may have anybody.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use gb6_core_wire::mesh::{EdgeFrame, RefusedReason, UserAnswer, UserQuery, UsersHere, edges_sum};
use slab::Slab;

use crate::machine::{LinkId, Shard};
use crate::share::may_take;

type UserIx = usize;

/// A user that some edge has.
#[derive(Debug)]
struct User {
    instance: Arc<str>,
    name: Arc<str>,
    /// Edges by their slab index, ascending.
    edges: Vec<u32>,
}

/// The users of every edge.
#[derive(Debug, Default)]
pub(crate) struct Users {
    list: Slab<User>,
    by_name: HashMap<Arc<str>, Names>,
    /// How many (user, edge) there are.
    pairs: usize,
}

/// The users of one instance.
#[derive(Debug, Default)]
struct Names {
    users: HashMap<Arc<str>, UserIx>,
    /// How many (user, edge) there are.
    pairs: usize,
}

/// What an edge has reported on its present link.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    node: String,
    users: BTreeSet<UserIx>,
    /// The snapshot revision by which it has reported all of its users; 0: it has not.
    complete_by: u64,
    /// Instances of which it has more than fit: asked about their users it counts as one that has not
    /// reported, for as long as its link lasts.
    too_many: BTreeSet<Arc<str>>,
}

impl Users {
    /// (User, edge) pairs.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// The named users of an instance.
    pub(crate) fn of<'a>(&'a self, instance: &str) -> impl Iterator<Item = &'a Arc<str>> {
        let names = self.by_name.get(instance);
        names.into_iter().flat_map(|names| names.users.keys())
    }

    pub(crate) fn find(&self, instance: &str, user: &str) -> Option<UserIx> {
        self.by_name.get(instance)?.users.get(user).copied()
    }

    fn ensure(&mut self, instance: &str, user: &str) -> UserIx {
        if let Some(ix) = self.find(instance, user) {
            return ix;
        }
        let instance = match self.by_name.get_key_value(instance) {
            Some((known, _)) => known.clone(),
            None => Arc::from(instance),
        };
        let name: Arc<str> = Arc::from(user);
        let ix = self.list.insert(User {
            instance: instance.clone(),
            name: name.clone(),
            edges: Vec::with_capacity(1),
        });
        let names = self.by_name.entry(instance).or_default();
        names.users.insert(name, ix);
        ix
    }

    /// Whether a further (user, edge) of an instance is remembered.
    fn has_room(&self, instance: &str, max: usize) -> bool {
        let own = self.by_name.get(instance).map_or(0, |names| names.pairs);
        may_take(own, self.pairs, max)
    }

    /// Whether it is the first edge that has the user.
    fn insert(&mut self, ix: UserIx, edge: u32) -> bool {
        let user = &mut self.list[ix];
        if let Err(at) = user.edges.binary_search(&edge) {
            user.edges.insert(at, edge);
            self.pairs += 1;
            if let Some(names) = self.by_name.get_mut(&user.instance) {
                names.pairs += 1;
            }
        }
        self.list[ix].edges.len() == 1
    }

    /// The user, if no edge has it any more: instance and name.
    fn remove(&mut self, ix: UserIx, edge: u32) -> Option<(Arc<str>, Arc<str>)> {
        let user = self.list.get_mut(ix)?;
        if let Ok(at) = user.edges.binary_search(&edge) {
            user.edges.remove(at);
            self.pairs -= 1;
            if let Some(names) = self.by_name.get_mut(&user.instance) {
                names.pairs -= 1;
            }
        }
        if !user.edges.is_empty() {
            return None;
        }
        let user = self.list.remove(ix);
        if let Some(names) = self.by_name.get_mut(&user.instance) {
            names.users.remove(&user.name);
            if names.users.is_empty() {
                self.by_name.remove(&user.instance);
            }
        }
        Some((user.instance, user.name))
    }
}

impl Shard {
    /// An edge says which users have come to it and left it.
    pub(crate) fn users_here(&mut self, link: LinkId, edge: usize, report: UsersHere) {
        let Ok(number) = u32::try_from(edge) else {
            return;
        };
        if report.changes.iter().any(|change| change.user.is_empty()) {
            return self.refuse(link, RefusedReason::Violation, "a user without a name");
        }
        for change in report.changes {
            let reported = &mut self.edges.list[edge].reported;
            if change.left {
                if let Some(ix) = self.users.find(&change.instance, &change.user)
                    && reported.users.remove(&ix)
                {
                    self.user_left(ix, number);
                }
                continue;
            }
            let instance = change.instance.as_str();
            let found = self.users.find(instance, &change.user);
            let is_known = found.is_some_and(|ix| reported.users.contains(&ix));
            if is_known || reported.too_many.contains(instance) {
                continue;
            }
            if self.users.has_room(instance, self.config.users_max) {
                let ix = self.users.ensure(instance, &change.user);
                reported.users.insert(ix);
                if self.users.insert(ix, number) {
                    self.user_is_here(&change.instance, &change.user, true);
                }
            } else {
                // overflow: all users of the instance at this edge are forgotten, and commands about
                // any of its users go to the edge. An instance with many users meets the bound before
                // others do.
                let list = &self.users.list;
                let its_own = |ix: &UserIx| *list[*ix].instance == *instance;
                let users = reported.users.iter().copied();
                let forgotten: Vec<UserIx> = users.filter(its_own).collect();
                reported.too_many.insert(Arc::from(instance));
                for ix in forgotten {
                    self.edges.list[edge].reported.users.remove(&ix);
                    self.user_left(ix, number);
                }
            }
        }
        let reported = &mut self.edges.list[edge].reported;
        reported.node = report.node;
        if report.complete_by > 0 {
            reported.complete_by = report.complete_by;
        }
    }

    /// Forgets what an edge has reported.
    pub(crate) fn users_forgotten(&mut self, edge: usize) {
        let reported = std::mem::take(&mut self.edges.list[edge].reported);
        let Ok(number) = u32::try_from(edge) else {
            return;
        };
        for ix in reported.users {
            self.user_left(ix, number);
        }
    }

    fn user_left(&mut self, ix: UserIx, edge: u32) {
        if let Some((instance, user)) = self.users.remove(ix, edge) {
            self.user_is_here(&instance, &user, false);
        }
    }

    /// Which edges have a user, and which have said whom they have.
    pub(crate) fn user_query(&mut self, link: LinkId, query: &UserQuery) {
        let found = self.users.find(&query.instance, &query.user);
        let has = found.map_or(&[][..], |ix| &self.users.list[ix].edges);
        let has = has.iter().map(|edge| &self.edges.list[*edge as usize]);
        let edges = has.map(|edge| edge.reported.node.clone()).collect();
        let all = self.edges.list.iter().map(|(_, edge)| &edge.reported);
        let reported = all.filter(|r| {
            let is_complete = r.complete_by != 0 && r.complete_by == query.revision;
            is_complete && !r.too_many.contains(query.instance.as_str())
        });
        let answer = UserAnswer {
            request: query.request,
            edges,
            reported: u32::try_from(reported.clone().count()).unwrap_or(u32::MAX),
            reported_sum: edges_sum(reported.map(|r| r.node.as_str())),
        };
        self.send(link, EdgeFrame::UserAnswer(answer));
    }
}
