//! The sessions of each user at this edge, so that what the application's server wants of a user finds
//! them without a look at all sessions.
//!
//! The shard of a named user's `#user` channel is told when the first session comes and when the last
//! one leaves, in that order: under the lock that decides which is which.

use std::collections::HashMap;
use std::sync::Arc;

use gb6_core_model::{Channel, InstanceId, SessionId};
use gb6_core_wire::mesh::{CONNECTIONS_MAX, ConnectionThere};
use gb6_edge_session::ServerCommand;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::connection::handle::{Event, SessionHandle};
use crate::connection::instance::InstanceTag;
use crate::shards::ShardInbox;

/// Who is connected here.
#[derive(Default)]
pub(crate) struct People {
    instances: Mutex<HashMap<InstanceTag, Members>>,
}

/// The sessions of one instance.
struct Members {
    instance: InstanceId,
    users: HashMap<Arc<str>, User>,
    /// Sessions of nobody in particular: there may be many.
    anonymous: HashMap<SessionId, Arc<SessionHandle>>,
    sessions: usize,
}

/// A named user.
#[derive(Default)]
struct User {
    sessions: Vec<Arc<SessionHandle>>,
    /// The shard that was told of it; `None`: none can be.
    shard: Option<Arc<ShardInbox>>,
    /// Whether the shard's owner has heard of it.
    heard: bool,
}

/// The name of the channel whose shard keeps the edges of a user; `None`: no such channel can be, and
/// the user is looked for at all edges.
pub(crate) fn home_of(user: &str) -> Option<Channel> {
    Channel::personal(user)
}

/// A session's entry: what is needed to take it out again.
pub(crate) struct Listed {
    instance: InstanceTag,
    user: Arc<str>,
}

/// A command, and for which of a user's sessions it is.
pub(crate) struct Ordered {
    /// Only the one with this client id; empty: any.
    pub(crate) client: String,
    /// Only the one with this session id; empty: any.
    pub(crate) session: String,
    /// Client ids that are not meant.
    pub(crate) whitelist: Vec<String>,
    /// What is to be done.
    pub(crate) command: ServerCommand,
}

impl Ordered {
    /// Whether a session with these ids is meant.
    pub(crate) fn is_for(&self, client: &str, secret: u128) -> bool {
        (self.client.is_empty() || self.client == client)
            && (self.session.is_empty() || self.session == format!("{secret:032x}"))
            && !self.whitelist.iter().any(|kept| kept == client)
    }
}

impl People {
    /// Enters a session of a user; empty: anonymous. `shard` finds the shard of the user's channel.
    /// With the entry comes that shard where the session must wait until its owner has heard of the
    /// user: it is told by [`gb6_edge_session::ARRIVAL`].
    pub(crate) fn enter(
        &self,
        name: &InstanceId,
        user: &str,
        session: &Arc<SessionHandle>,
        shard: impl FnOnce() -> Option<Arc<ShardInbox>>,
    ) -> (Listed, Option<Arc<ShardInbox>>) {
        let instance = InstanceTag::of(name.as_str());
        let mut instances = self.instances.lock();
        let members = instances.entry(instance).or_insert_with(|| Members {
            instance: name.clone(),
            users: HashMap::new(),
            anonymous: HashMap::new(),
            sessions: 0,
        });
        members.sessions += 1;
        if user.is_empty() {
            members.anonymous.insert(session.session, session.clone());
            let user = Arc::from("");
            return (Listed { instance, user }, None);
        }
        let user = match members.users.get_key_value(user) {
            Some((user, _)) => Arc::clone(user),
            None => Arc::from(user),
        };
        let entry = members.users.entry(Arc::clone(&user)).or_default();
        let first = entry.sessions.is_empty();
        if first {
            entry.sessions.reserve_exact(1);
            entry.shard = shard();
        }
        entry.sessions.push(session.clone());
        let waits = entry.shard.clone().filter(|_| !entry.heard);
        let waits = waits.filter(|shard| shard.user_came(name, &user, first, Some(session)));
        (Listed { instance, user }, waits)
    }

    /// The owner of the shard `by` has heard of a session's user, which means nothing where the user's
    /// channel lies in another shard by now.
    pub(crate) fn heard(&self, listed: &Listed, by: &Arc<ShardInbox>) {
        let mut instances = self.instances.lock();
        let members = instances.get_mut(&listed.instance);
        if let Some(user) = members.and_then(|m| m.users.get_mut(&listed.user))
            && user.shard.as_ref().is_some_and(|s| Arc::ptr_eq(s, by))
        {
            user.heard = true;
        }
    }

    /// Tells of every user again whose channel lies in another shard now, or whose shard has another
    /// task. `shard` finds the shard of a user's channel. Instances that are `unmoved` are passed over,
    /// so that nobody waits for a look at all users.
    pub(crate) fn place(
        &self,
        unmoved: impl Fn(&InstanceId) -> bool,
        shard: impl Fn(&InstanceId, &str) -> Option<Arc<ShardInbox>>,
    ) {
        let mut instances = self.instances.lock();
        for members in instances.values_mut().filter(|m| !unmoved(&m.instance)) {
            for (name, user) in &mut members.users {
                let now = shard(&members.instance, name);
                let same = match (&user.shard, &now) {
                    (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                    (before, now) => before.is_none() && now.is_none(),
                };
                if same {
                    continue;
                }
                if let Some(before) = std::mem::replace(&mut user.shard, now) {
                    before.user_left(&members.instance, name);
                }
                if let Some(now) = &user.shard {
                    now.user_came(&members.instance, name, true, None);
                }
                user.heard = false;
            }
        }
    }

    /// Takes a session out.
    pub(crate) fn leave(&self, listed: &Listed, session: SessionId) {
        let mut instances = self.instances.lock();
        let Some(members) = instances.get_mut(&listed.instance) else {
            return;
        };
        members.sessions -= 1;
        if listed.user.is_empty() {
            members.anonymous.remove(&session);
        } else if let Some(user) = members.users.get_mut(&listed.user) {
            user.sessions.retain(|s| s.session != session);
            if user.sessions.is_empty()
                && let Some(user) = members.users.remove(&listed.user)
                && let Some(shard) = user.shard
            {
                shard.user_left(&members.instance, &listed.user);
            }
        }
        if members.sessions == 0 {
            instances.remove(&listed.instance);
        }
    }

    /// The sessions of a user; empty: of anonymous people.
    pub(crate) fn of(&self, instance: InstanceTag, user: &str) -> Vec<Arc<SessionHandle>> {
        let instances = self.instances.lock();
        let Some(members) = instances.get(&instance) else {
            return Vec::new();
        };
        match user.is_empty() {
            true => members.anonymous.values().cloned().collect(),
            false => {
                let user = members.users.get(user);
                user.map(|u| u.sessions.clone()).unwrap_or_default()
            }
        }
    }

    /// All sessions of an instance.
    pub(crate) fn all(&self, instance: &InstanceId) -> Vec<Arc<SessionHandle>> {
        let instances = self.instances.lock();
        let Some(members) = instances.get(&InstanceTag::of(instance.as_str())) else {
            return Vec::new();
        };
        let named = members.users.values().flat_map(|user| &user.sessions);
        named.chain(members.anonymous.values()).cloned().collect()
    }

    /// Tells a user's sessions of a command; each sees for itself whether it is meant.
    pub(crate) fn command(&self, instance: &str, user: &str, ordered: Ordered) {
        let ordered = Arc::new(ordered);
        for session in self.of(InstanceTag::of(instance), user) {
            // One that has just ended needs nothing any more.
            session.outbox.event(Event::Ordered(ordered.clone()));
        }
    }

    /// Asks a user's sessions what they are. The answer comes when each has said it or is gone.
    pub(crate) fn describe(
        &self,
        instance: &str,
        user: &str,
    ) -> oneshot::Receiver<Vec<ConnectionThere>> {
        let (done, answer) = oneshot::channel();
        let roll = Arc::new(Roll {
            entries: Mutex::default(),
            done: Mutex::new(Some(done)),
        });
        for session in self.of(InstanceTag::of(instance), user) {
            session.outbox.event(Event::Describe(roll.clone()));
        }
        answer
    }

    /// Sessions of an instance, and different users among them.
    pub(crate) fn count(&self, instance: &str) -> (usize, usize) {
        let instances = self.instances.lock();
        let members = instances.get(&InstanceTag::of(instance));
        members.map_or((0, 0), |m| {
            (
                m.sessions,
                m.users.len() + usize::from(!m.anonymous.is_empty()),
            )
        })
    }
}

/// What sessions say of themselves; sent to who asked when the last of them has dropped it.
pub(crate) struct Roll {
    entries: Mutex<Vec<ConnectionThere>>,
    done: Mutex<Option<oneshot::Sender<Vec<ConnectionThere>>>>,
}

impl Roll {
    /// A session is this one. Overflow: it is left out.
    pub(crate) fn add(&self, entry: ConnectionThere) {
        let mut entries = self.entries.lock();
        if entries.len() < CONNECTIONS_MAX {
            entries.push(entry);
        }
    }
}

impl Drop for Roll {
    fn drop(&mut self) {
        if let Some(done) = self.done.get_mut().take() {
            // Whoever asked may have gone.
            let _ = done.send(std::mem::take(self.entries.get_mut()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u64) -> Arc<SessionHandle> {
        Arc::new(SessionHandle::new(SessionId(number), 0xabc, None, 100))
    }

    #[test]
    fn users_have_their_sessions_until_they_leave() {
        let people = People::default();
        let (demo, acme) = (InstanceId::from("demo"), InstanceId::from("acme"));
        let sessions: Vec<_> = (1..=5).map(session).collect();
        let listed = [
            people.enter(&demo, "alice", &sessions[0], || None).0,
            people.enter(&demo, "alice", &sessions[1], || None).0,
            people.enter(&demo, "bob", &sessions[2], || None).0,
            people.enter(&demo, "", &sessions[3], || None).0,
            people.enter(&acme, "alice", &sessions[4], || None).0,
        ];
        let of = |instance: &InstanceId, user: &str| {
            let sessions = people.of(InstanceTag::of(instance.as_str()), user);
            let sessions = sessions.into_iter();
            let mut numbers: Vec<u64> = sessions.map(|s| s.session.0).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(of(&demo, "alice"), [1, 2]);
        assert_eq!(of(&demo, ""), [4]);
        assert_eq!(of(&acme, "alice"), [5]);
        assert!(of(&acme, "bob").is_empty());
        for (instance, sessions) in [(&demo, 4), (&acme, 1), (&InstanceId::from("none"), 0)] {
            assert_eq!(people.all(instance).len(), sessions);
        }
        assert_eq!(people.count("demo"), (4, 3));
        assert_eq!(people.count("acme"), (1, 1));
        for (listed, session) in listed.iter().zip(&sessions) {
            people.leave(listed, session.session);
        }
        assert_eq!(people.count("demo"), (0, 0));
        assert!(people.instances.lock().is_empty());
    }

    #[test]
    fn what_another_shard_has_heard_is_no_proof() {
        let people = People::default();
        let demo = InstanceId::from("demo");
        let shards = [1, 2].map(|_| Arc::new(ShardInbox::new(10)));
        let enter = |number: u64, shard: usize| {
            let shard = shards[shard].clone();
            people.enter(&demo, "alice", &session(number), || Some(shard))
        };
        let (listed, waits) = enter(1, 0);
        assert!(waits.is_some_and(|by| Arc::ptr_eq(&by, &shards[0])));
        // The answer of the first shard comes behind a placement that has the user in the second.
        people.place(|_| false, |_, _| Some(shards[1].clone()));
        people.heard(&listed, &shards[0]);
        let (_, waits) = enter(2, 1);
        assert!(waits.is_some_and(|by| Arc::ptr_eq(&by, &shards[1])));
        people.heard(&listed, &shards[1]);
        assert!(enter(3, 1).1.is_none());
        // Who has not moved is not even looked at.
        people.place(|instance| *instance == demo, |_, _| panic!("nobody asks"));
        assert!(enter(4, 1).1.is_none());
    }

    #[test]
    fn a_command_is_for_those_that_it_names() {
        let ordered = |client: &str, session: &str, whitelist: &[&str]| Ordered {
            client: client.into(),
            session: session.into(),
            whitelist: whitelist.iter().map(|c| (*c).into()).collect(),
            command: ServerCommand::Disconnect(gb6_core_model::Disconnect::Shutdown.into()),
        };
        let id = format!("{:032x}", 0xabcu128);
        for (order, is_for) in [
            (ordered("", "", &[]), true),
            (ordered("c1", "", &[]), true),
            (ordered("c2", "", &[]), false),
            (ordered("", &id, &[]), true),
            (ordered("", "abc", &[]), false),
            (ordered("", "", &["c2"]), true),
            (ordered("", "", &["c2", "c1"]), false),
        ] {
            assert_eq!(order.is_for("c1", 0xabc), is_for);
        }
    }

    #[tokio::test]
    async fn a_roll_is_whole_when_the_last_session_has_let_go_of_it() {
        let people = People::default();
        let one = session(1);
        people.enter(&InstanceId::from("demo"), "alice", &one, || None);
        let mut answer = people.describe("demo", "alice");
        assert!(answer.try_recv().is_err());
        one.outbox.end();
        assert_eq!(answer.await, Ok(Vec::new()));
        assert_eq!(people.describe("demo", "nobody").await, Ok(Vec::new()));
    }
}
