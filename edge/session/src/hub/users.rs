//! The named users that have sessions at this edge, of those whose `#user` channel lies in this
//! shard: reported to the shard's owner, so that what is wanted of a user goes to its edges alone.
//!
//! Whoever has seen the answer to a connect must be found. So the connect of a user that the owner
//! has not heard of waits until it has, for a bounded time. While there is no link it does not wait:
//! the owner knows then that this edge has not reported, and says so to whoever asks. It learns that
//! a link has ended a moment after this edge; so for that long connects wait for the next link.

use std::collections::{BTreeMap, VecDeque};

use gb6_core_wire::mesh::{OwnerFrame, UserChange, UsersHere};
use prost::Message as _;

use super::{Hub, HubOut};
use crate::request::{ARRIVAL, Answer};

/// A user: instance and name.
type Key = (String, String);

/// A user with sessions here, or that had some a moment ago.
#[derive(Default)]
struct Stay {
    /// First sessions that came less last ones that left: 0 or 1, but for a moment.
    here: u32,
    /// Which of its idle times is meant.
    idle: u64,
    /// The number of the renewal behind what the owner was told on this link; `None`: it was told
    /// nothing.
    told: Option<u64>,
}

/// Whoever waits until the owner has heard of a user.
struct Waiter<S> {
    /// Until when, in ms.
    until: u64,
    user: Key,
    handle: S,
}

/// Everything about users.
pub(super) struct Users<S> {
    stays: BTreeMap<Key, Stay>,
    /// Said with the next report.
    changes: Vec<UserChange>,
    /// Who waits, in the order in which they came. Bounded by the edge's connections.
    waiting: VecDeque<Waiter<S>>,
    /// Users without a session: when the owner is told, and of which idle time.
    idle: VecDeque<(u64, Key, u64)>,
    idles: u64,
    /// The snapshot revision by which all users of this shard are known here; 0: none.
    placed: u64,
    /// Whether the owner was told on this link by which revision it has all of them.
    complete: bool,
    /// Whether a renewal is to be sent, for those who wait.
    prove: bool,
    /// The newest renewal that was answered.
    heard: u64,
    /// Since when there is no link; `None`: there is one.
    down_since: Option<u64>,
}

impl<S> Users<S> {
    pub(super) fn new() -> Self {
        Self {
            stays: BTreeMap::new(),
            changes: Vec::new(),
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
            idles: 0,
            placed: 0,
            complete: false,
            prove: false,
            heard: 0,
            down_since: Some(0),
        }
    }

    /// Whether somebody waits.
    pub(super) fn are_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Users that are known to have sessions here, those that left a moment ago among them.
    pub(super) fn len(&self) -> usize {
        self.stays.len()
    }

    /// Whether the owner has heard of a user.
    fn is_heard(&self, user: &Key) -> bool {
        let told = self.stays.get(user).and_then(|stay| stay.told);
        told.is_some_and(|told| told <= self.heard)
    }
}

impl<S: Clone> Hub<S> {
    /// A user's session has come: the `first` one at this edge, or one that came before the owner
    /// was known to have heard of the first. Whoever waits is answered [`Answer::Arrived`], once.
    pub fn user_came(
        &mut self,
        now_ms: u64,
        (instance, user): (&str, &str),
        first: bool,
        waits: Option<&S>,
        out: &mut impl HubOut<S>,
    ) {
        self.now = now_ms;
        let key = (instance.to_owned(), user.to_owned());
        let attached = self.lease.is_attached();
        let stay = self.users.stays.entry(key.clone()).or_default();
        stay.here += u32::from(first);
        if attached && stay.told.is_none() {
            stay.told = Some(self.lease.sequence() + 1);
            self.users.changes.push(change(&key, false));
        }
        let Some(handle) = waits else { return };
        let heard = attached && self.users.is_heard(&key);
        if heard || self.nobody_listens() {
            self.counters.arrivals_unheard += u64::from(!heard);
            return out.complete(handle, ARRIVAL, Answer::Arrived(heard));
        }
        self.users.prove = true;
        self.users.waiting.push_back(Waiter {
            until: now_ms + self.config.arrival_ms,
            user: key,
            handle: handle.clone(),
        });
    }

    /// Whether there has been no link for so long that the owner knows it.
    fn nobody_listens(&self) -> bool {
        let known = |since: u64| self.now >= since + self.config.arrival_ms;
        self.users.down_since.is_some_and(known)
    }

    /// The last session of a user at this edge has gone. The owner is told a while later, if none
    /// has come meanwhile.
    pub fn user_left(&mut self, now_ms: u64, (instance, user): (&str, &str)) {
        self.now = now_ms;
        let key = (instance.to_owned(), user.to_owned());
        let Some(stay) = self.users.stays.get_mut(&key) else {
            return;
        };
        stay.here = stay.here.saturating_sub(1);
        if stay.here == 0 {
            self.users.idles += 1;
            stay.idle = self.users.idles;
            let at = now_ms + self.config.linger_ms;
            self.users.idle.push_back((at, key, stay.idle));
        }
    }

    /// All users whose channel lies in this shard by the snapshot of this revision have been named.
    pub fn users_placed(&mut self, now_ms: u64, revision: u64) {
        self.now = now_ms;
        self.users.placed = revision;
        self.users.complete = false;
    }

    /// Tells the owner what has changed; called when everything that came together was taken.
    pub fn report_users(&mut self, now_ms: u64, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        if !self.lease.is_attached() {
            return;
        }
        let users = &mut self.users;
        if !users.changes.is_empty() || (!users.complete && users.placed > 0) {
            users.complete = true;
            let mut part = UsersHere::default();
            let mut bytes = 0;
            for change in std::mem::take(&mut users.changes) {
                // With the field's key and length before it.
                bytes += change.encoded_len() + 8;
                let full = part.changes.len() >= self.config.presence_part
                    || bytes > self.config.presence_part_bytes;
                if full && !part.changes.is_empty() {
                    out.to_owner(OwnerFrame::UsersHere(std::mem::take(&mut part)));
                    bytes = 0;
                }
                part.changes.push(change);
            }
            part.complete_by = users.placed;
            out.to_owner(OwnerFrame::UsersHere(part));
        }
        // One that is due by time proves it as well.
        if users.prove && self.lease.may_renew() {
            users.prove = false;
            out.to_owner(OwnerFrame::Renew(self.lease.renew(now_ms)));
        }
    }

    /// The owner accepted: it is told all users.
    pub(super) fn tell_all_users(&mut self) {
        let next = self.lease.sequence() + 1;
        let users = &mut self.users;
        users.down_since = None;
        users.complete = false;
        users.prove = !users.waiting.is_empty();
        users.changes.clear();
        for (key, stay) in &mut users.stays {
            stay.told = Some(next);
            users.changes.push(change(key, false));
        }
    }

    /// There is no link: the owner forgets what it was told.
    pub(super) fn users_link_down(&mut self, now: u64) {
        let users = &mut self.users;
        if users.down_since.is_some() {
            return;
        }
        users.down_since = Some(now);
        users.changes.clear();
        for stay in users.stays.values_mut() {
            stay.told = None;
        }
    }

    /// A renewal was answered: what was said before it has been heard.
    pub(super) fn users_heard(&mut self, sequence: u64, out: &mut impl HubOut<S>) {
        self.users.heard = self.users.heard.max(sequence);
        self.let_go_on(out);
    }

    pub(super) fn tick_users(&mut self, now: u64, out: &mut impl HubOut<S>) {
        while let Some((at, ..)) = self.users.idle.front()
            && *at <= now
            && let Some((_, key, idle)) = self.users.idle.pop_front()
        {
            let gone = |stay: &Stay| stay.here == 0 && stay.idle == idle;
            if self.users.stays.get(&key).is_some_and(gone)
                && let Some(stay) = self.users.stays.remove(&key)
                && stay.told.is_some()
            {
                self.users.changes.push(change(&key, true));
            }
        }
        self.let_go_on(out);
        self.report_users(now, out);
    }

    /// Lets go on who need not wait any more.
    fn let_go_on(&mut self, out: &mut impl HubOut<S>) {
        let now = self.now;
        let nobody_listens = self.nobody_listens();
        let mut waiting = std::mem::take(&mut self.users.waiting);
        waiting.retain(|waiter| {
            let heard = self.users.is_heard(&waiter.user);
            let late = nobody_listens || waiter.until <= now;
            if late && !heard {
                self.counters.arrivals_unheard += 1;
            }
            if late || heard {
                out.complete(&waiter.handle, ARRIVAL, Answer::Arrived(heard));
            }
            !late && !heard
        });
        self.users.waiting = waiting;
    }
}

fn change((instance, user): &Key, left: bool) -> UserChange {
    UserChange {
        instance: instance.clone(),
        user: user.clone(),
        left,
    }
}
