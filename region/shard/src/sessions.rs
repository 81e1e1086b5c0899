//! Ends of sessions: records without a room offset, in the log of the shard of `#user`. They are
//! written on an edge's report, and for all sessions of an edge whose lease has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gb6_core_model::limits;
use gb6_core_wire::mesh::{
    EdgeFrame, RefusedReason, RoomRef, SESSION_ENDS_UNANSWERED_MAX, SessionEnd, SessionHere,
    SessionsReport, SessionsWritten,
};
use gb6_core_wire::record::{
    Kind, Origin, Record, SESSION_REASON_BYTES_MAX, SessionBody, SessionEvent,
};
use prost::Message as _;

use crate::batch::{Forming, RECORD_OVERHEAD};
use crate::machine::{LinkId, Output, Shard};
use crate::share::may_take;

/// Ends in one batch, so that publishes have their part of it.
const IN_BATCH_MAX: usize = 512;
/// Between two tries to write what a full disk, or a log that is away, did not take.
const RETRY_MS: u64 = 1_000;
/// Numbers that are remembered of each process of an edge: of those that it may send again none is
/// older.
const WRITTEN_MAX: usize = 2 * SESSION_ENDS_UNANSWERED_MAX;
/// Why a session ended whose edge was lost.
const LOST: &str = "edge lost";

/// An end that is to be written.
#[derive(Clone, Debug)]
pub(crate) struct EndEntry {
    process: u64,
    end: SessionEnd,
}

/// What is known of one life of an edge's process.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Numbers of ends that are in the log.
    pub(crate) written: BTreeSet<u64>,
    /// Numbers of ends that wait or are in a batch.
    pending: BTreeSet<u64>,
    /// Served time of the newest record.
    pub(crate) served_ms: u64,
}

/// All ends of a shard.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) processes: BTreeMap<u64, Process>,
    /// What waits for a batch. Bounded by what edges may have unanswered, and by the sessions of edges
    /// that were lost.
    queue: VecDeque<EndEntry>,
    /// When it may be tried again, in ms.
    retry_at: u64,
    /// Sessions of all edges.
    live: usize,
    /// The same by instance.
    by_instance: BTreeMap<String, usize>,
}

/// The sessions of an edge.
#[derive(Debug, Default)]
pub(crate) struct Live {
    process: u64,
    /// The link on which they are being named, until all have been; and who was.
    naming: Option<BTreeSet<u64>>,
    sessions: BTreeMap<u64, SessionHere>,
}

impl Live {
    /// The edge attaches: all of its sessions will be named.
    pub(crate) fn begin(&mut self) {
        self.naming = Some(BTreeSet::new());
    }
}

impl Sessions {
    /// Ends that wait for a batch, and sessions that are known.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.queue.len(), self.live)
    }

    /// Whether a further session of an instance is remembered.
    // overflow: nobody tells of the end of a further one whose edge is lost. An instance with many
    // sessions meets the bound before others do.
    fn has_room(&self, instance: &str, max: usize) -> bool {
        let own = self.by_instance.get(instance).copied().unwrap_or(0);
        may_take(own, self.live, max)
    }

    fn came(&mut self, instance: &str) {
        self.live += 1;
        match self.by_instance.get_mut(instance) {
            Some(own) => *own += 1,
            None => {
                self.by_instance.insert(instance.to_owned(), 1);
            }
        }
    }

    fn went(&mut self, instance: &str) {
        self.live -= 1;
        if let Some(own) = self.by_instance.get_mut(instance) {
            *own -= 1;
            if *own == 0 {
                self.by_instance.remove(instance);
            }
        }
    }

    /// Whether something may be written now.
    pub(crate) fn are_due(&self, now_ms: u64) -> bool {
        !self.queue.is_empty() && now_ms >= self.retry_at
    }

    /// A record is in the log.
    pub(crate) fn fold(&mut self, record: &Record) {
        let Some(origin) = record.origin.as_ref().filter(|o| o.number > 0) else {
            return;
        };
        let process = self.processes.entry(origin.edge_incarnation).or_default();
        process.served_ms = process.served_ms.max(record.served_ms);
        process.pending.remove(&origin.number);
        process.written.insert(origin.number);
        while process.written.len() > WRITTEN_MAX {
            process.written.pop_first();
        }
    }

    /// Forgets processes that can not send anything again.
    pub(crate) fn expire(&mut self, served_ms: u64, is_here: impl Fn(u64) -> bool) {
        let keep_from = served_ms.saturating_sub(limits::RESEND_WINDOW_MS);
        self.processes.retain(|process, known| {
            known.served_ms >= keep_from || !known.pending.is_empty() || is_here(*process)
        });
    }
}

impl Shard {
    /// An edge says which sessions have come to it and what has ended.
    pub(crate) fn sessions_report(&mut self, link: LinkId, edge: usize, report: SessionsReport) {
        let out_of_bounds = |end: &SessionEnd| {
            end.number == 0
                || end.event == SessionEvent::Unspecified as i32
                || end.reason.len() > SESSION_REASON_BYTES_MAX
                || end.channel.len() > limits::CHANNEL_BYTES_MAX
        };
        if report.process == 0 || report.ended.iter().any(out_of_bounds) {
            let text = "a report of sessions out of bounds";
            return self.refuse(link, RefusedReason::Violation, text);
        }
        let live = &mut self.edges.list[edge].live;
        live.process = report.process;
        for here in report.here {
            if let Some(named) = &mut live.naming {
                named.insert(here.session);
            }
            let is_known = live.sessions.contains_key(&here.session);
            let max = self.config.sessions_max;
            if !is_known && !self.sessions.has_room(&here.instance, max) {
                self.counters.session_ends_dropped += 1;
                continue;
            }
            self.sessions.came(&here.instance);
            if let Some(before) = live.sessions.insert(here.session, here) {
                self.sessions.went(&before.instance);
            }
        }
        if report.complete
            && let Some(named) = live.naming.take()
        {
            let sessions = &mut self.sessions;
            live.sessions.retain(|session, here| {
                let is_named = named.contains(session);
                if !is_named {
                    sessions.went(&here.instance);
                }
                is_named
            });
        }
        for session in report.elsewhere {
            if let Some(here) = live.sessions.remove(&session) {
                self.sessions.went(&here.instance);
            }
        }
        let mut again = Vec::new();
        let process = report.process;
        for end in report.ended {
            if end.event == SessionEvent::Disconnect as i32
                && let Some(here) = live.sessions.remove(&end.of.session)
            {
                self.sessions.went(&here.instance);
            }
            let known = self.sessions.processes.entry(process).or_default();
            if known.written.contains(&end.number) {
                again.push(end.number);
            } else if known.pending.insert(end.number) {
                known.served_ms = self.served_ms;
                self.sessions.queue.push_back(EndEntry { process, end });
            }
        }
        let pending = self.sessions.processes.get(&process);
        if pending.is_some_and(|p| p.pending.len() > SESSION_ENDS_UNANSWERED_MAX) {
            let text = "more ends of sessions than may be unanswered";
            return self.refuse(link, RefusedReason::Violation, text);
        }
        self.answer_ends(process, again, Vec::new());
    }

    /// An edge's lease has ended: so have its sessions, unless the edge lives on under another.
    pub(crate) fn sessions_lost(&mut self, edge: usize) {
        let lost = std::mem::take(&mut self.edges.list[edge].live);
        if lost.sessions.is_empty() {
            return;
        }
        for here in lost.sessions.values() {
            self.sessions.went(&here.instance);
        }
        let process = lost.process;
        let mut others = self.edges.list.iter_mut();
        let other = others.find(|(ix, other)| *ix != edge && other.live.process == process);
        if let Some((_, other)) = other {
            // What it has still to name is sorted out when it has named all.
            if other.live.naming.is_some() {
                for (session, here) in lost.sessions {
                    if let std::collections::btree_map::Entry::Vacant(entry) =
                        other.live.sessions.entry(session)
                    {
                        self.sessions.came(&here.instance);
                        entry.insert(here);
                    }
                }
            }
            return;
        }
        let ends = lost.sessions.into_values().map(|of| EndEntry {
            process,
            end: SessionEnd {
                number: 0,
                of,
                // Whichever it is now.
                instance_epoch: u64::MAX,
                event: SessionEvent::Disconnect.into(),
                channel: String::new(),
                code: 0,
                reason: LOST.to_owned(),
            },
        });
        self.sessions.queue.extend(ends);
        self.out.push_back(Output::Wake);
    }

    /// Whether an edge is attached that is this process.
    pub(crate) fn is_process_here(&self, process: u64) -> bool {
        let mut edges = self.edges.list.iter();
        edges.any(|(_, edge)| edge.live.process == process)
    }

    /// Takes ends into a batch.
    pub(crate) fn form_sessions(&mut self, forming: &mut Forming, unix_ms: i64) {
        if self.now_ms < self.sessions.retry_at {
            return;
        }
        for _ in 0..IN_BATCH_MAX {
            let Some(next) = self.sessions.queue.front() else {
                return;
            };
            let cost = next.end.encoded_len() + RECORD_OVERHEAD;
            if !self.fits(forming, cost, 1) {
                return;
            }
            let Some(entry) = self.sessions.queue.pop_front() else {
                return;
            };
            let room = RoomRef {
                instance: entry.end.of.instance.clone(),
                channel: SessionEnd::home(&entry.end.of.user),
            };
            let here = Some(&self.config.shard);
            let epoch = entry.end.instance_epoch;
            match self.ownership.check(&room, epoch, &self.snapshot, here) {
                Ok(instance_epoch) => {
                    let record = record_of(&entry, room, instance_epoch, unix_ms);
                    self.push_record(forming, record, None);
                    forming.ends.push(entry);
                }
                Err(_) => self.end_moved(&entry),
            }
        }
    }

    /// The instance is another shard's now: the edge reports it there.
    fn end_moved(&mut self, entry: &EndEntry) {
        let number = entry.end.number;
        if number == 0 {
            self.counters.session_ends_dropped += 1;
            return;
        }
        if let Some(process) = self.sessions.processes.get_mut(&entry.process) {
            process.pending.remove(&number);
        }
        self.answer_ends(entry.process, Vec::new(), vec![number]);
    }

    /// The records of these ends are durable.
    pub(crate) fn ends_committed(&mut self, ends: Vec<EndEntry>) {
        let mut by_process: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for entry in ends {
            self.counters.session_ends += 1;
            if entry.end.number > 0 {
                let numbers = by_process.entry(entry.process).or_default();
                numbers.push(entry.end.number);
            }
        }
        for (process, numbers) in by_process {
            self.answer_ends(process, numbers, Vec::new());
        }
    }

    /// Nothing of a batch was written: these ends are tried again.
    pub(crate) fn ends_failed(&mut self, ends: Vec<EndEntry>) {
        if ends.is_empty() {
            return;
        }
        self.sessions.retry_at = self.now_ms + RETRY_MS;
        for entry in ends.into_iter().rev() {
            self.sessions.queue.push_front(entry);
        }
    }

    fn answer_ends(&mut self, process: u64, numbers: Vec<u64>, moved: Vec<u64>) {
        if numbers.is_empty() && moved.is_empty() {
            return;
        }
        let edges = self.edges.list.iter();
        let mut links = edges
            .filter(|(_, edge)| edge.live.process == process)
            .filter_map(|(_, edge)| edge.link);
        // Without a link the edge says it again, and is answered then.
        if let Some(link) = links.next() {
            let written = SessionsWritten { numbers, moved };
            self.send(link, EdgeFrame::SessionsWritten(written));
        }
    }
}

fn record_of(entry: &EndEntry, room: RoomRef, instance_epoch: u64, unix_ms: i64) -> Record {
    let end = &entry.end;
    let body = SessionBody {
        event: end.event,
        channel: end.channel.clone(),
        code: end.code,
        reason: end.reason.clone(),
        unknown: Vec::new(),
    };
    Record {
        kind: Kind::Session.into(),
        instance: room.instance,
        instance_epoch,
        channel: room.channel,
        time: unix_ms,
        origin: Some(Origin {
            user: end.of.user.clone(),
            client: end.of.client.clone(),
            edge_incarnation: entry.process,
            session: end.of.session,
            number: end.number,
            ..Origin::default()
        }),
        body: body.encode_to_vec().into(),
        ..Record::default()
    }
}
