//! The fate of a batch: folding it into the state, answering, delivering. The only place where an
//! acknowledgement is born (invariant A4).

use std::collections::BTreeSet;
use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{Deliver, EdgeFrame, Erased, Publication, Publish, Published, RoomRef};
use gb6_core_wire::record::{Kind, Record};

use crate::batch::{AdminOutcome, AppendFailure, InFlight};
use crate::dedupe::{DedupeWindow, Publisher, Written};
use crate::machine::{LinkId, Output, Shard};
use crate::room::{RoomIx, Version};
use crate::trace::SyncStats;

/// What a publish of an earlier batch, or a record of this one, is acknowledged with.
struct Acknowledgement {
    link: LinkId,
    edge: usize,
    request: u64,
    bytes: u64,
    /// The newest durable offset of its room.
    head: u64,
    written: Written,
    duplicate: bool,
}

impl Shard {
    /// The batch in flight is durable.
    pub fn committed(&mut self, now_ms: u64, stats: SyncStats) {
        self.advance(now_ms);
        let Some(batch) = self.in_flight.take() else {
            return;
        };
        let InFlight {
            records,
            rooms,
            touched,
            waiters,
            admins,
            removals,
            ends,
        } = batch;
        let spans = touched.iter().map(|ix| {
            let room = self.rooms.get(*ix);
            (*ix, room.head + 1, room.open_head)
        });
        self.traces.push(stats, spans.collect());
        let first_position = self.next_position;
        for (record, room) in records.iter().zip(&rooms) {
            self.fold(record, *room);
        }
        self.counters.committed += records.len() as u64;
        for waiter in waiters {
            let record = &records[waiter.record];
            let written = Written {
                offset: record.offset,
                generation: record.generation,
                time: record.time,
            };
            let acknowledgement = Acknowledgement {
                link: waiter.link,
                edge: waiter.edge,
                request: waiter.request,
                bytes: waiter.bytes,
                head: rooms[waiter.record].map_or(0, |ix| self.rooms.get(ix).head),
                written,
                duplicate: waiter.duplicate,
            };
            self.acknowledge(&record.instance, acknowledgement);
        }
        for (record, room) in records.iter().zip(&rooms) {
            if let (true, Some(room)) = (record.takes_offset(), room) {
                self.deliver(*room, record);
            }
        }
        for (token, end) in admins {
            self.admin_done(token, AdminOutcome::Done(first_position + end as u64));
        }
        self.ends_committed(ends);
        for (link, request, room) in removals {
            self.history_removed(link, request, room);
        }
        for room in rooms.into_iter().flatten() {
            self.rooms.get_mut(room).in_flight -= 1;
        }
        for room in touched {
            self.plan_trim(room);
        }
        self.end_sessions();
    }

    /// Forgets the numbers of ended sessions of which nothing waits any more: what came before
    /// the end of a session is looked at before its numbers go. Once for a batch or a tick: it
    /// looks at everything that waits.
    pub(crate) fn end_sessions(&mut self) {
        if self.ending.is_empty() {
            return;
        }
        let inbox = self.inbox.iter();
        let inbox = inbox.map(|w| (self.edges.list[w.edge].incarnation, w.publish.session));
        let in_flight = self.in_flight.iter().flat_map(|b| b.records.iter());
        let in_flight = in_flight.filter_map(|r| r.origin.as_ref());
        let in_flight = in_flight.map(|o| (o.edge_incarnation, o.session));
        let ending = std::mem::take(&mut self.ending);
        let waiting: BTreeSet<_> = inbox
            .chain(in_flight)
            .filter(|session| ending.contains(session))
            .collect();
        for (edge, session) in ending.difference(&waiting) {
            self.numbers.end_session(*edge, *session);
        }
        self.ending = waiting;
    }

    /// The batch in flight was not committed. After anything but a full disk the machine no
    /// longer serves: the driver reads the log again and builds a new one, or another owner has
    /// the shard.
    pub fn failed(&mut self, now_ms: u64, failure: AppendFailure) {
        self.advance(now_ms);
        let Some(batch) = self.in_flight.take() else {
            return;
        };
        for ix in batch.rooms.iter().copied().flatten() {
            let room = self.rooms.get_mut(ix);
            room.open_head = room.head;
            room.trimming = false;
            room.in_flight -= 1;
            self.rooms.drop_if_unused(ix);
        }
        let (code, outcome) = match failure {
            AppendFailure::StorageFull => {
                self.counters.storage_full += batch.waiters.len() as u64;
                let why = "storage full".to_owned();
                (ErrorCode::StorageFull, AdminOutcome::Refused(why))
            }
            AppendFailure::OutcomeUnknown => (ErrorCode::OutcomeUnknown, AdminOutcome::Unknown),
            AppendFailure::Fenced => (ErrorCode::OutcomeUnknown, AdminOutcome::Unknown),
            AppendFailure::Refused => {
                self.counters.not_written += batch.waiters.len() as u64;
                let why = "the log refused the batch".to_owned();
                (ErrorCode::Internal, AdminOutcome::Refused(why))
            }
        };
        for (token, _) in batch.admins {
            self.admin_done(token, outcome.clone());
        }
        if !matches!(failure, AppendFailure::StorageFull | AppendFailure::Refused) {
            // Nothing is answered: the edges resend to whoever owns the shard next, and that one
            // knows from the log what was written.
            self.stop_serving();
            return;
        }
        self.ends_failed(batch.ends);
        for (link, request, room) in batch.removals {
            self.removal_failed(link, request, room, code);
        }
        for waiter in batch.waiters {
            let published = Published {
                request: waiter.request,
                error: code.code(),
                ..Published::default()
            };
            self.answer(
                waiter.link,
                waiter.edge,
                &batch.records[waiter.record].instance,
                waiter.bytes,
                published,
            );
        }
    }

    /// Answers a publish whose record has been durable since an earlier batch.
    pub(crate) fn acknowledge_again(
        &mut self,
        (link, edge): (LinkId, usize),
        publish: &Publish,
        room: RoomIx,
        written: Written,
        duplicate: bool,
    ) {
        let acknowledgement = Acknowledgement {
            link,
            edge,
            request: publish.request,
            bytes: publish.data.len() as u64,
            head: self.rooms.get(room).head,
            written,
            duplicate,
        };
        self.acknowledge(&publish.room.instance, acknowledgement);
    }

    /// The one birthplace of acknowledgements: `written` stands in the committed log.
    fn acknowledge(&mut self, instance: &str, a: Acknowledgement) {
        if !(1..=a.head).contains(&a.written.offset) {
            self.out.push_back(Output::Unfounded {
                offset: a.written.offset,
                head: a.head,
            });
            let published = Published {
                request: a.request,
                error: ErrorCode::OutcomeUnknown.code(),
                ..Published::default()
            };
            return self.answer(a.link, a.edge, instance, a.bytes, published);
        }
        let published = Published {
            request: a.request,
            offset: a.written.offset,
            generation: a.written.generation,
            time: a.written.time,
            duplicate: a.duplicate,
            error: 0,
        };
        self.counters.acknowledged += 1;
        self.answer(a.link, a.edge, instance, a.bytes, published);
    }

    /// Sends an answer, if the link that asked still stands, and gives its credit back.
    pub(crate) fn answer(
        &mut self,
        link: LinkId,
        edge: usize,
        instance: &str,
        bytes: u64,
        published: Published,
    ) {
        let Some(edge) = self.edges.list.get_mut(edge) else {
            return;
        };
        if edge.link != Some(link) {
            return;
        }
        if let Some((count, total)) = edge.unanswered.get_mut(instance) {
            *count = count.saturating_sub(1);
            *total = total.saturating_sub(bytes);
        }
        self.send(link, EdgeFrame::Published(published));
    }

    /// One copy of a publication to each edge that wants it, for the room or for a prefix.
    fn deliver(&mut self, room_ix: RoomIx, record: &Record) {
        let room = self.rooms.get(room_ix);
        let edges = self.prefixes.with_edges(&room.key, &room.edges);
        if edges.is_empty() {
            return;
        }
        let deliver = Deliver {
            room: room.key.clone(),
            publication: Publication::of(record),
        };
        let links = edges.iter().filter_map(|ix| self.edges.list[*ix].link);
        let links: Vec<LinkId> = links.collect();
        for link in links {
            self.counters.delivered += 1;
            self.out.push_back(Output::Send {
                link,
                frame: EdgeFrame::Deliver(deliver.clone()),
            });
        }
    }

    /// Tells the edges that want the room what they must not show any more. What it erases was
    /// delivered to them with an earlier batch.
    fn tell_erased(&mut self, room: &RoomRef, offset: u64, erasures: u64) {
        let edges = self.rooms.find(room).map(|ix| &self.rooms.get(ix).edges);
        let links = edges.into_iter().flatten();
        let links = links.filter_map(|ix| self.edges.list[*ix].link);
        let links: Vec<LinkId> = links.collect();
        for link in links {
            let erased = Erased {
                room: room.clone(),
                offset,
                erasures,
            };
            self.send(link, EdgeFrame::Erased(erased));
        }
    }

    /// A committed record that was read from the log, in order. Only before [`Shard::serve`].
    pub fn replay(&mut self, record: &Record) {
        let in_room = !record.channel.is_empty() && record.kind() != Kind::Session;
        let room = in_room.then(|| {
            self.rooms.ensure(&RoomRef {
                instance: record.instance.clone(),
                channel: record.channel.clone(),
            })
        });
        self.next_position = self.next_position.max(record.position);
        self.fold(record, room);
        if let Some(room) = room {
            let room = self.rooms.get_mut(room);
            room.open_head = room.head;
        }
    }

    /// Folds a committed record into the state: the same for the owner and for a reader of its
    /// log.
    fn fold(&mut self, record: &Record, room: Option<RoomIx>) {
        debug_assert_eq!(
            record.position, self.next_position,
            "positions are consecutive"
        );
        self.next_position = record.position + 1;
        self.served_ms = self.served_ms.max(record.served_ms);
        match (record.kind(), room) {
            (Kind::Message | Kind::Import, Some(room)) => self.fold_message(record, room),
            (Kind::Trim, Some(room)) => {
                let room = self.rooms.get_mut(room);
                room.first = room.first.max(record.target_offset);
                room.trimming = false;
                let first = room.first;
                let trimmed = |(r, offset): &(RoomRef, u64)| *r == room.key && *offset < first;
                self.erasures.retain(|e| !trimmed(e));
                while room.marks.front().is_some_and(|(o, _)| *o < first) {
                    room.marks.pop_front();
                }
                self.out.push_back(Output::Trimmed {
                    room: room.key.clone(),
                    first,
                });
            }
            (Kind::Tombstone, Some(room)) => {
                let room = self.rooms.get_mut(room);
                room.erasures += 1;
                let (room, erasures) = (room.key.clone(), room.erasures);
                let offset = record.target_offset;
                self.erasures.insert((room.clone(), offset));
                let told = room.clone();
                // Readers know it before any edge that may ask them.
                self.out.push_back(Output::Erased { room, offset });
                self.tell_erased(&told, offset, erasures);
            }
            (Kind::Seal | Kind::Open, _) => self.ownership.fold(record),
            (Kind::Session, _) => self.sessions.fold(record),
            (Kind::Acquire, _) => {
                self.log_epoch = self.log_epoch.max(record.shard_epoch);
            }
            _ => {}
        }
    }

    fn fold_message(&mut self, record: &Record, room_ix: RoomIx) {
        let aging = self
            .rules(&self.rooms.get(room_ix).key)
            .is_some_and(|r| r.history_ttl_ms > 0);
        let room = self.rooms.get_mut(room_ix);
        // Where retention has taken records away, or an import begins, the room begins here.
        if record.offset != room.head + 1 {
            room.first = room.first.max(record.offset);
        }
        room.head = record.offset;
        room.time = room.time.max(record.time);
        room.generation = record.generation;
        if record.data_version > 0 {
            room.version = Some(Box::new(Version {
                number: record.data_version,
                epoch: record.version_epoch.clone(),
            }));
        }
        if aging {
            self.mark_age(room_ix, record.offset, record.time);
        }
        let written = Written {
            offset: record.offset,
            generation: record.generation,
            time: record.time,
        };
        let Some(origin) = &record.origin else {
            return;
        };
        if !record.client_id.is_empty() {
            let room = &self.rooms.get(room_ix).key;
            let publisher = Publisher::of(&origin.user, &origin.client);
            let key = DedupeWindow::key(room, publisher, &record.client_id);
            self.dedupe.expire(record.served_ms);
            self.dedupe
                .insert(&record.instance, key, written, record.served_ms);
        }
        if origin.edge_incarnation != 0 {
            self.numbers.record(
                origin.edge_incarnation,
                origin.session,
                room_ix,
                origin.number,
                written,
                record.served_ms,
            );
        }
    }

    pub(crate) fn admin_done(&mut self, token: u64, outcome: AdminOutcome) {
        self.out.push_back(Output::AdminDone { token, outcome });
    }

    /// Records of the batch in flight, for a driver that must know what it was.
    pub fn in_flight(&self) -> Option<Arc<Vec<Record>>> {
        self.in_flight.as_ref().map(|b| b.records.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::ShardConfig;
    use gb6_core_wire::mesh::{Attach, OwnerFrame, ShardRef};

    #[test]
    fn what_is_not_durable_is_never_acknowledged() {
        let config = ShardConfig::new(ShardRef::default());
        let mut shard = Shard::new(config, Arc::default());
        shard.serve(0, 1, 1, 0);
        let link = LinkId(1);
        let attach = Attach {
            edge_incarnation: 7,
            revision: 1,
            shard_epoch: 0,
        };
        shard.frame(0, link, OwnerFrame::Attach(attach));
        shard.out.clear();
        let edge = shard.edges.by_link(link).expect("attached");
        let publish = Publish {
            request: 5,
            ..Publish::default()
        };
        let room = shard.rooms.ensure(&publish.room);
        shard.rooms.get_mut(room).head = 3;
        for (offset, founded) in [(3, true), (4, false), (0, false)] {
            let written = Written {
                offset,
                generation: 0,
                time: 0,
            };
            shard.acknowledge_again((link, edge), &publish, room, written, false);
            let answer = |output: &Output| match output {
                Output::Send {
                    frame: EdgeFrame::Published(p),
                    ..
                } => Some((p.offset, p.error)),
                _ => None,
            };
            let answers: Vec<_> = shard.out.iter().filter_map(answer).collect();
            let unknown = (0, ErrorCode::OutcomeUnknown.code());
            assert_eq!(answers, [if founded { (offset, 0) } else { unknown }]);
            let said = shard
                .out
                .drain(..)
                .any(|o| matches!(o, Output::Unfounded { offset: o, head: 3 } if o == offset));
            assert_eq!(said, !founded, "{offset}");
        }
    }
}
