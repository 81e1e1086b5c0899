//! What was revoked, and what must hold of it.
//!
//! Who is revoked is reached by nothing and heard by nobody, from where its edge has the record, and at
//! an edge that is in contact from when a bound has passed; an edge that was cut off catches up first;
//! and nobody is cut off whom no revocation names.

use std::collections::BTreeSet;

use gb6_edge_session::{Revocation, RevocationFollower};

use crate::edge::Running;
use crate::tokens::Token;
use crate::world::World;

/// What an edge in contact may take to apply a revocation that is durable, in ms: the next look at
/// the log, with the tick that begins it and the way there and back.
const BOUND_MS: u64 = RevocationFollower::LOOK_MS + 50 + 300;

/// What was revoked, for the rules of a run.
#[derive(Default)]
pub(crate) struct Ledger {
    /// All that anybody has tried to revoke.
    tried: Vec<Revocation>,
    durable: Vec<Durable>,
    /// Users of whom it is not known what was revoked last.
    unsure: BTreeSet<String>,
    /// Until when an edge may be out of contact without knowing it.
    disturbed: [u64; 2],
    /// Open connections that were cut off.
    pub(crate) cut: u64,
    /// How often what had expired was removed from the log, and how many records were written anew.
    pub(crate) removed: u64,
    pub(crate) anew: u64,
}

/// A revocation that its writer was told is durable.
struct Durable {
    revocation: Revocation,
    at: u64,
    offset: u64,
}

impl Ledger {
    /// Somebody tries to revoke something.
    pub(crate) fn is_tried(&mut self, revocation: &Revocation) {
        if let Some(user) = blocked(revocation) {
            self.unsure.insert(user.to_owned());
        }
        self.tried.push(revocation.clone());
    }

    /// They were told that it is durable.
    pub(crate) fn is_durable(&mut self, revocation: Revocation, at: u64, offset: u64) {
        if let Some(user) = blocked(&revocation) {
            // Nothing else of it is on its way, unless it was tried more often.
            let of_user = |r: &&Revocation| blocked(r) == Some(user);
            let durable = self.durable.iter().map(|d| &d.revocation);
            let tries = self.tried.iter().filter(of_user).count();
            if tries == durable.filter(of_user).count() + 1 {
                self.unsure.remove(user);
            }
        }
        self.durable.push(Durable {
            revocation,
            at,
            offset,
        });
    }

    /// Something is in the way of an edge until then, and it need not know.
    pub(crate) fn disturb(&mut self, edge: usize, until: u64) {
        let known = &mut self.disturbed[edge];
        *known = until.max(*known);
    }

    /// The same of both edges.
    pub(crate) fn disturb_all(&mut self, until: u64) {
        (0..2).for_each(|edge| self.disturb(edge, until));
    }

    /// How many are durable.
    pub(crate) fn len(&self) -> usize {
        self.durable.len()
    }

    /// Whether the newest up to an offset that is known of a user's blocks is that there is none.
    fn is_unblocked(&self, user: &str, seen: u64) -> bool {
        let of_user = |d: &&Durable| blocked(&d.revocation) == Some(user);
        let known = self.durable.iter().filter(|d| d.offset <= seen);
        let last = known.filter(of_user).max_by_key(|d| d.offset);
        let unblocked = |d: &Durable| matches!(d.revocation, Revocation::Unblock { .. });
        last.is_some_and(unblocked) && !self.unsure.contains(user)
    }

    /// What is durable against a token at a time, Unix ms.
    fn against<'a>(&'a self, token: &'a Token, unix_ms: i64) -> impl Iterator<Item = &'a Durable> {
        let of_user = |r: &Revocation| blocked(r) == Some(&token.user);
        let last = self.durable.iter().filter(move |d| of_user(&d.revocation));
        let last = last.map(|d| d.offset).max();
        self.durable.iter().filter(move |d| match &d.revocation {
            Revocation::Block { until, .. } => {
                let lasts = until.is_none_or(|until| until > unix_ms);
                Some(d.offset) == last && lasts && !self.unsure.contains(&token.user)
            }
            Revocation::Token { until, .. } | Revocation::UserTokens { until, .. } => {
                names(&d.revocation, token) && *until > unix_ms
            }
            _ => false,
        })
    }
}

/// Whose block a revocation begins or ends.
fn blocked(revocation: &Revocation) -> Option<&str> {
    match revocation {
        Revocation::Block { user, .. } | Revocation::Unblock { user } => Some(user),
        _ => None,
    }
}

/// Whether a revocation is about a token, whenever that is.
fn names(revocation: &Revocation, token: &Token) -> bool {
    match revocation {
        Revocation::Token { until, .. } => *revocation == Revocation::of_token(token.key(), *until),
        Revocation::UserTokens { user, before, .. } => {
            *user == token.user && token.issued < *before
        }
        Revocation::Block { user, .. } => *user == token.user,
        _ => false,
    }
}

impl World {
    /// A session is reached by something, or heard: it must not be one that is revoked.
    pub(crate) fn check_reach(&mut self, edge: usize, connection: u64, what: &str) {
        let (now, unix_ms) = (self.now, self.unix());
        let Some(running) = &self.edges[edge].up else {
            return;
        };
        let token = running.sessions.get(&connection).map(|c| &c.token);
        let Some(Some(token)) = token else {
            return;
        };
        let user = &token.user;
        assert!(
            running.link.is_some(),
            "{user} {what} by edge {edge}, cut off"
        );
        let contact = self.contact(running);
        for revoked in self.ledger.against(token, unix_ms) {
            let revocation = &revoked.revocation;
            assert!(
                revoked.offset > running.following.seen,
                "{user} {what} by edge {edge}, which has {revocation:?}"
            );
            let Some(since) = contact else { continue };
            assert!(
                revoked.at >= since,
                "{user} {what} by edge {edge}, which was cut off and has not heard of {revocation:?}"
            );
            let since = since.max(self.ledger.disturbed[edge]);
            assert!(
                now <= since.max(revoked.at) + BOUND_MS,
                "{user} {what} by edge {edge} in contact, {} ms behind {revocation:?}",
                now - revoked.at
            );
        }
    }

    /// Since when an edge has had a link to whoever owns the shard now.
    fn contact(&self, running: &Running) -> Option<u64> {
        let wire = self.wires.get(&running.link?)?;
        let newest = self.newest_owner == Some((wire.region, wire.region_life));
        newest.then_some(running.linked_at)
    }

    /// A session ends for a token that is not valid: something that its edge has read must revoke it.
    pub(crate) fn check_cut(&self, edge: usize, connection: u64) {
        let Some(running) = &self.edges[edge].up else {
            return;
        };
        let connected = running.sessions.get(&connection);
        if let Some(token) = connected.and_then(|c| c.token.as_ref()) {
            let (ledger, seen) = (&self.ledger, running.following.seen);
            let unblocked = ledger.is_unblocked(&token.user, seen);
            let revokes = |r: &&Revocation| match r {
                Revocation::Block { .. } => names(r, token) && !unblocked,
                _ => names(r, token),
            };
            let named = ledger.tried.iter().find(revokes);
            assert!(named.is_some(), "{token:?} is revoked by nobody");
        }
    }

    /// What of revocations is not at rest; empty: nothing.
    pub(crate) fn unfollowed(&self, top: u64) -> String {
        for (n, edge) in self.edges.iter().enumerate() {
            let Some(running) = &edge.up else { continue };
            let follower = &running.following.follower;
            if !follower.is_current() || follower.applied() != top {
                return format!("edge {n} knows {} of {top} revocations", follower.applied());
            }
            for connected in running.sessions.values() {
                let Some(token) = &connected.token else {
                    continue;
                };
                if self.ledger.against(token, self.unix()).next().is_some() {
                    return format!("{token:?} is revoked and connected");
                }
            }
        }
        String::new()
    }
}
