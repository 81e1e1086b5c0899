//! Sessions whose ends the instance wants to hear of: the owner is told who is here and what has
//! ended, until it has answered that it is in its log.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use gb6_core_wire::mesh::{
    OwnerFrame, SESSION_ENDS_UNANSWERED_MAX, SessionEnd, SessionHere, SessionsReport,
    SessionsWritten,
};
use gb6_core_wire::record::SessionEvent;
use prost::Message as _;

use super::{Hub, HubOut};

/// Ends of one instance that wait for the owner.
// overflow: the newest is dropped, and counted.
const WAITING_MAX: usize = 16_384;
/// How long an end that belongs to another shard waits for the placement that says to which, in ms.
const MOVED_MS: u64 = 500;

/// An end that is not answered.
struct Waiting {
    end: SessionEnd,
    /// Whether it was sent on this link.
    sent: bool,
}

/// Sessions and their ends.
#[derive(Default)]
pub(super) struct Ends {
    /// This life of the edge's process.
    process: u64,
    here: BTreeMap<u64, SessionHere>,
    /// Said with the next report.
    news: Vec<SessionHere>,
    /// Those that were named on this link and are another shard's now: said behind the news.
    elsewhere: BTreeSet<u64>,
    /// By their numbers.
    waiting: BTreeMap<u64, Waiting>,
    by_instance: HashMap<String, usize>,
    /// How many of those that wait were sent on this link.
    sent: usize,
    /// Whether all sessions were named on this link.
    complete: bool,
    /// What another shard is to be told, and from when on it may be tried.
    moved: VecDeque<(u64, SessionEnd)>,
}

impl Ends {
    /// Ends that the owner has not answered, and those that belong elsewhere.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.moved.len()
    }

    fn remove(&mut self, number: u64) -> Option<SessionEnd> {
        let waiting = self.waiting.remove(&number)?;
        self.sent -= usize::from(waiting.sent);
        let instance = &waiting.end.of.instance;
        if let Some(count) = self.by_instance.get_mut(instance) {
            *count -= 1;
            if *count == 0 {
                self.by_instance.remove(instance);
            }
        }
        Some(waiting.end)
    }
}

impl<S: Clone> Hub<S> {
    /// A session of this process has begun, of whose end the instance wants to hear; until its own
    /// end is given to [`Hub::session_ended_here`].
    pub fn session_here(&mut self, now_ms: u64, process: u64, here: SessionHere) {
        self.now = now_ms;
        self.ends.process = process;
        self.ends.here.insert(here.session, here.clone());
        self.ends.elsewhere.remove(&here.session);
        if self.lease.is_attached() {
            self.ends.news.push(here);
        }
    }

    /// Another shard is told of the end of a session from now on. The session goes on.
    pub fn session_elsewhere(&mut self, now_ms: u64, session: u64) {
        self.now = now_ms;
        let was_here = self.ends.here.remove(&session).is_some();
        if was_here && self.lease.is_attached() {
            self.ends.elsewhere.insert(session);
        }
    }

    /// A session, or one of its subscriptions, has ended. Numbers of ends ascend.
    pub fn session_ended_here(&mut self, now_ms: u64, process: u64, end: SessionEnd) {
        self.now = now_ms;
        let ends = &mut self.ends;
        ends.process = process;
        if end.event == SessionEvent::Disconnect as i32 {
            ends.here.remove(&end.of.session);
        }
        let instance = &end.of.instance;
        let waiting = ends.by_instance.get(instance).copied().unwrap_or(0);
        if waiting >= WAITING_MAX {
            self.counters.session_ends_dropped += 1;
        } else {
            ends.by_instance.insert(instance.clone(), waiting + 1);
            let (number, sent) = (end.number, false);
            ends.waiting.insert(number, Waiting { end, sent });
        }
    }

    /// Ends that belong to another shard by now; for the driver to hand on.
    pub fn take_moved(&mut self, now_ms: u64) -> Vec<SessionEnd> {
        let moved = &mut self.ends.moved;
        let due = moved.partition_point(|(at, _)| *at <= now_ms);
        moved.drain(..due).map(|(_, end)| end).collect()
    }

    /// Tells the owner what has changed; called when everything that came together was taken.
    pub fn report_sessions(&mut self, now_ms: u64, out: &mut impl HubOut<S>) {
        self.now = now_ms;
        if !self.lease.is_attached() || out.owner_full() {
            return;
        }
        let ends = &mut self.ends;
        let nothing =
            ends.news.is_empty() && ends.elsewhere.is_empty() && ends.sent == ends.waiting.len();
        if ends.process == 0 || (ends.complete && nothing) {
            return;
        }
        let process = ends.process;
        let mut part = report_of(process);
        let (mut count, mut bytes) = (0, 0);
        let mut fits = |cost: usize| {
            count += 1;
            // With the field's key and length before it.
            bytes += cost + 8;
            let fits =
                count <= self.config.presence_part && bytes <= self.config.presence_part_bytes;
            if !fits {
                (count, bytes) = (1, cost + 8);
            }
            fits
        };
        let next = |part: &mut SessionsReport| {
            OwnerFrame::Sessions(std::mem::replace(part, report_of(process)))
        };
        for here in std::mem::take(&mut ends.news) {
            if !fits(here.encoded_len()) {
                out.to_owner(next(&mut part));
            }
            part.here.push(here);
        }
        part.complete = !std::mem::replace(&mut ends.complete, true);
        for session in std::mem::take(&mut ends.elsewhere) {
            // A number has at most ten bytes.
            if !fits(10) {
                out.to_owner(next(&mut part));
            }
            part.elsewhere.push(session);
        }
        let free = SESSION_ENDS_UNANSWERED_MAX.saturating_sub(ends.sent);
        let unsent = ends.waiting.values_mut().filter(|waiting| !waiting.sent);
        for waiting in unsent.take(free) {
            if !fits(waiting.end.encoded_len()) {
                out.to_owner(next(&mut part));
            }
            waiting.sent = true;
            ends.sent += 1;
            part.ended.push(waiting.end.clone());
        }
        if part != report_of(process) {
            out.to_owner(OwnerFrame::Sessions(part));
        }
    }

    /// The owner accepted: it is told everything again.
    pub(super) fn tell_all_sessions(&mut self) {
        let ends = &mut self.ends;
        ends.news = ends.here.values().cloned().collect();
        ends.elsewhere.clear();
        ends.complete = false;
        ends.sent = 0;
        for waiting in ends.waiting.values_mut() {
            waiting.sent = false;
        }
    }

    pub(super) fn sessions_link_down(&mut self) {
        self.ends.news = Vec::new();
        self.ends.elsewhere.clear();
    }

    /// What the owner has written, and what it will not.
    pub(super) fn sessions_written(&mut self, frame: &SessionsWritten) {
        for number in &frame.numbers {
            match self.ends.remove(*number) {
                Some(_) => self.counters.session_ends += 1,
                None => self.counters.stray_frames += 1,
            }
        }
        for number in &frame.moved {
            if let Some(end) = self.ends.remove(*number) {
                self.ends.moved.push_back((self.now + MOVED_MS, end));
            }
        }
    }
}

/// A report that says nothing yet.
fn report_of(process: u64) -> SessionsReport {
    SessionsReport {
        process,
        ..SessionsReport::default()
    }
}
