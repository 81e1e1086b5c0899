//! Forming a batch: offsets, times and ids for everything that waited.

use std::collections::HashMap;
use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{Publish, Published, RoomRef};
use gb6_core_wire::record::{Kind, Origin, RECORD_VERSION, Record, flags};
use prost::Message;

use crate::dedupe::{DedupeWindow, IdKey, Publisher, Written};
use crate::inbox::Waiting;
use crate::machine::{LinkId, Shard};
use crate::numbers::Known;
use crate::room::{RoomIx, Version};
use crate::sessions::EndEntry;

/// Numbers, lengths, epochs, and what sealing adds to a body: an upper bound for a record.
pub(crate) const RECORD_OVERHEAD: usize = 320;

/// Records for the log, in order, with positions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The records: the driver compresses, encrypts and appends them as one.
    pub records: Arc<Vec<Record>>,
}

/// What an operator, a mover or retention asks of the shard. Becomes records.
#[derive(Clone, Debug)]
pub enum Admin {
    /// End an instance's writes in this shard; empty `slots`: all of them.
    Seal {
        /// The instance.
        instance: String,
        /// The instance epoch of the seal: above the current one.
        epoch: u64,
        /// The slots.
        slots: Vec<u32>,
    },
    /// Begin an instance's writes in this shard.
    Open {
        /// The instance.
        instance: String,
        /// The instance epoch of the opening.
        epoch: u64,
        /// The slots.
        slots: Vec<u32>,
    },
    /// Records of another shard's log, in their order: they keep offset, time, ids and origin.
    Import(Vec<Record>),
    /// Erase the message at `offset`: it keeps its offset, its body goes.
    Erase {
        /// The room.
        room: RoomRef,
        /// The message's offset.
        offset: u64,
    },
    /// Publications of the room below `first` are not kept any more.
    Trim {
        /// The room.
        room: RoomRef,
        /// The new first kept offset.
        first: u64,
    },
}

/// How an [`Admin`] command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminOutcome {
    /// Durable; the position after its last record.
    Done(u64),
    /// Not done, and why.
    Refused(String),
    /// Whether it was written is not known.
    Unknown,
}

/// Why a batch was not committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendFailure {
    /// No space: nothing was written, and trying again later may help.
    StorageFull,
    /// It may or may not have been written: the owner must read its log again before it goes on.
    OutcomeUnknown,
    /// Another owner has taken over.
    Fenced,
    /// The batch could not be written as it is, or not now: nothing was written.
    Refused,
}

/// Who waits for a batch, and for which of its records.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) link: LinkId,
    pub(crate) edge: usize,
    pub(crate) request: u64,
    pub(crate) bytes: u64,
    /// Index of the record in the batch, which is of the same instance.
    pub(crate) record: usize,
    /// The client's id was written by an earlier publish of the same batch.
    pub(crate) duplicate: bool,
}

/// The batch in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) records: Arc<Vec<Record>>,
    /// The room of each record; `None` for records of an instance or of the shard.
    pub(crate) rooms: Vec<Option<RoomIx>>,
    /// Rooms that got offsets, in order of first use.
    pub(crate) touched: Vec<RoomIx>,
    pub(crate) waiters: Vec<Waiter>,
    /// (token, index after its last record).
    pub(crate) admins: Vec<(u64, usize)>,
    /// Who asked for a room's history to be removed.
    pub(crate) removals: Vec<(LinkId, u64, RoomIx)>,
    /// Ends of sessions whose records it has.
    pub(crate) ends: Vec<EndEntry>,
}

/// A batch while it is formed.
#[derive(Default)]
pub(crate) struct Forming {
    records: Vec<Record>,
    rooms: Vec<Option<RoomIx>>,
    touched: Vec<RoomIx>,
    waiters: Vec<Waiter>,
    admins: Vec<(u64, usize)>,
    pub(crate) removals: Vec<(LinkId, u64, RoomIx)>,
    pub(crate) ends: Vec<EndEntry>,
    ids: HashMap<IdKey, usize>,
    /// The newest version of each room in the batch, and its record.
    versions: HashMap<RoomIx, (Version, usize)>,
    bytes: usize,
}

impl Forming {
    /// Whether the batch removes everything of a room that lies below `first`.
    pub(crate) fn is_removed(&self, room_ix: RoomIx, first: u64) -> bool {
        let records = self.records.iter().zip(&self.rooms);
        let mut trims =
            records.filter(|(record, room)| record.kind() == Kind::Trim && **room == Some(room_ix));
        trims.any(|(record, _)| record.target_offset >= first)
    }
}

impl Shard {
    /// Forms the next batch from what waits, unless one is in flight or nobody serves. `unix_ms`
    /// is the wall clock. Answers that need no record are outputs even when there is no batch.
    pub fn next_batch(&mut self, now_ms: u64, unix_ms: i64) -> Option<Batch> {
        self.advance(now_ms);
        if self.serving.is_none() || self.in_flight.is_some() {
            return None;
        }
        let mut forming = Forming::default();
        let gated = self.form_admin(&mut forming, unix_ms);
        if !gated {
            self.form_removals(&mut forming, unix_ms);
            self.form_sessions(&mut forming, unix_ms);
            self.dedupe.expire(self.served_ms);
            while let Some(next) = self.inbox.peek() {
                let cost = publish_cost(&next.publish);
                if !self.fits(&forming, cost, 1) {
                    break;
                }
                if let Some(waiting) = self.inbox.pop() {
                    self.form_publish(&mut forming, waiting, unix_ms);
                }
            }
        }
        if forming.records.is_empty() {
            return None;
        }
        let records = Arc::new(forming.records);
        self.in_flight = Some(InFlight {
            records: records.clone(),
            rooms: forming.rooms,
            touched: forming.touched,
            waiters: forming.waiters,
            admins: forming.admins,
            removals: forming.removals,
            ends: forming.ends,
        });
        Some(Batch { records })
    }

    fn form_publish(&mut self, forming: &mut Forming, waiting: Waiting, unix_ms: i64) {
        let Waiting {
            link,
            edge,
            publish,
        } = waiting;
        let incarnation = self.edges.list[edge].incarnation;
        let room_ix = self.rooms.ensure(&publish.room);
        self.numbers
            .settle(incarnation, publish.session, room_ix, publish.settled_below);
        let known = self
            .numbers
            .look_up(incarnation, publish.session, room_ix, publish.number);
        if let Known::Written(written) = known {
            self.counters.resends_answered += 1;
            return self.acknowledge_again((link, edge), &publish, room_ix, written, false);
        }
        let id = (!publish.id.is_empty()).then(|| {
            DedupeWindow::key(
                &publish.room,
                Publisher::of(&publish.from.user, &publish.from.client),
                &publish.id,
            )
        });
        // Before the verdict on the number: a resend that was a duplicate has no record of its own.
        if let Some(written) = id.and_then(|id| self.dedupe.find(&id)) {
            self.counters.duplicates += 1;
            return self.acknowledge_again((link, edge), &publish, room_ix, written, true);
        }
        // As with ids: what was superseded has no record of its own either.
        let room = self.rooms.get(room_ix);
        let superseded = |v: &Version| v.supersedes(publish.version, &publish.version_epoch);
        if room.version.as_deref().is_some_and(superseded) {
            let newest = Written {
                offset: room.head,
                generation: room.generation,
                time: room.time,
            };
            self.counters.superseded += 1;
            return self.acknowledge_again((link, edge), &publish, room_ix, newest, false);
        }
        if known == Known::Unknown {
            self.counters.outcome_unknown += 1;
            return self.answer_error(link, edge, &publish, ErrorCode::OutcomeUnknown);
        }
        // What is written is answered wherever the room goes on; only what is new must be owned.
        let instance_epoch = match self.may_write(room_ix, publish.instance_epoch) {
            Ok(epoch) => epoch,
            Err(code) => {
                self.answer_error(link, edge, &publish, code);
                return self.rooms.drop_if_unused(room_ix);
            }
        };
        let open_head = self.rooms.get(room_ix).open_head;
        if publish.next_after > 0 && publish.next_after != open_head + 1 {
            self.answer_error(link, edge, &publish, ErrorCode::UnrecoverablePosition);
            return self.rooms.drop_if_unused(room_ix);
        }
        // What the same batch has written already: the answer waits for it.
        let twin = id.as_ref().and_then(|id| forming.ids.get(id).copied());
        let newer = forming.versions.get(&room_ix);
        let newer = newer
            .filter(|(v, _)| superseded(v))
            .map(|(_, record)| *record);
        if let Some(record) = twin.or(newer) {
            let duplicate = twin.is_some();
            match duplicate {
                true => self.counters.duplicates += 1,
                false => self.counters.superseded += 1,
            }
            forming.waiters.push(Waiter {
                link,
                edge,
                request: publish.request,
                bytes: publish.data.len() as u64,
                record,
                duplicate,
            });
            return;
        }
        if let Some(id) = id {
            forming.ids.insert(id, forming.records.len());
        }
        if publish.version > 0 {
            let version = Version {
                number: publish.version,
                epoch: publish.version_epoch.clone(),
            };
            let written = (version, forming.records.len());
            forming.versions.insert(room_ix, written);
        }
        forming.waiters.push(Waiter {
            link,
            edge,
            request: publish.request,
            bytes: publish.data.len() as u64,
            record: forming.records.len(),
            duplicate: false,
        });
        let record = self.message(publish, room_ix, incarnation, instance_epoch, unix_ms);
        self.touch(forming, room_ix, record.offset);
        self.push_record(forming, record, Some(room_ix));
    }

    /// The instance epoch under which a room may be written here now.
    pub(crate) fn may_write(
        &mut self,
        room_ix: RoomIx,
        routed_epoch: u64,
    ) -> Result<u64, ErrorCode> {
        let room = self.rooms.get(room_ix);
        let known = room.routed_by == Some(self.snapshot.revision);
        let epoch = self.ownership.check(
            &room.key,
            routed_epoch,
            &self.snapshot,
            (!known).then_some(&self.config.shard),
        )?;
        self.rooms.get_mut(room_ix).routed_by = Some(self.snapshot.revision);
        Ok(epoch)
    }

    fn message(
        &self,
        publish: Publish,
        room_ix: RoomIx,
        edge_incarnation: u64,
        instance_epoch: u64,
        unix_ms: i64,
    ) -> Record {
        let room = self.rooms.get(room_ix);
        Record {
            kind: Kind::Message.into(),
            instance: publish.room.instance,
            instance_epoch,
            channel: publish.room.channel,
            offset: room.open_head + 1,
            generation: room.generation,
            time: unix_ms.max(room.time),
            origin: Some(Origin {
                user: publish.from.user,
                client: publish.from.client,
                conn_info: publish.from.conn_info,
                chan_info: publish.from.chan_info,
                edge_incarnation,
                session: publish.session,
                number: publish.number,
                hops: 0,
                unknown: Vec::new(),
            }),
            client_id: publish.id,
            data_version: publish.version,
            version_epoch: publish.version_epoch,
            tags: publish.tags,
            content_type: publish.content_type,
            traceparent: publish.traceparent,
            body: publish.data,
            ..Record::default()
        }
    }

    /// Completes a record with what every record of this owner carries, and adds it.
    pub(crate) fn push_record(
        &mut self,
        forming: &mut Forming,
        mut record: Record,
        room: Option<RoomIx>,
    ) {
        let Some(serving) = self.serving else {
            return;
        };
        record.version = RECORD_VERSION;
        record.position = self.next_position + forming.records.len() as u64;
        record.shard_epoch = serving.epoch;
        record.owner_incarnation = serving.incarnation;
        record.served_ms = self.served_ms;
        forming.bytes += record_cost(&record);
        forming.records.push(record);
        forming.rooms.push(room);
        if let Some(room) = room {
            self.rooms.get_mut(room).in_flight += 1;
        }
    }

    fn touch(&mut self, forming: &mut Forming, room_ix: RoomIx, offset: u64) {
        let room = self.rooms.get_mut(room_ix);
        if room.open_head == room.head {
            forming.touched.push(room_ix);
        }
        room.open_head = offset;
    }

    /// Whether `count` more records of `cost` bytes together fit the batch; the first ones always
    /// do.
    pub(crate) fn fits(&self, forming: &Forming, cost: usize, count: usize) -> bool {
        forming.records.is_empty()
            || (forming.records.len() + count <= self.config.batch_records_max
                && forming.bytes + cost <= self.config.batch_bytes_max)
    }

    /// Takes in admin commands. Answers whether one of them was a seal or an open: what follows
    /// must see it, so it ends the batch.
    fn form_admin(&mut self, forming: &mut Forming, unix_ms: i64) -> bool {
        while let Some((_, next)) = self.admins.front() {
            let (cost, count) = admin_cost(next);
            if !self.fits(forming, cost, count) {
                break;
            }
            let Some((token, admin)) = self.admins.pop_front() else {
                break;
            };
            let is_gate = matches!(admin, Admin::Seal { .. } | Admin::Open { .. });
            let too_large =
                cost > self.config.batch_bytes_max || count > self.config.batch_records_max;
            let formed = match too_large {
                true => Err(format!(
                    "too much at once: at most {} records and {} bytes",
                    self.config.batch_records_max, self.config.batch_bytes_max
                )),
                false => self.form_admin_records(forming, admin, unix_ms),
            };
            match formed {
                Ok(()) => forming.admins.push((token, forming.records.len())),
                Err(why) => self.admin_done(token, AdminOutcome::Refused(why)),
            }
            if is_gate {
                return true;
            }
        }
        false
    }

    fn form_admin_records(
        &mut self,
        forming: &mut Forming,
        admin: Admin,
        unix_ms: i64,
    ) -> Result<(), String> {
        match admin {
            Admin::Seal {
                instance,
                epoch,
                slots,
            } => {
                let record = gate(Kind::Seal, instance, epoch, slots, unix_ms);
                self.push_record(forming, record, None);
            }
            Admin::Open {
                instance,
                epoch,
                slots,
            } => {
                let record = gate(Kind::Open, instance, epoch, slots, unix_ms);
                self.push_record(forming, record, None);
            }
            Admin::Import(records) => {
                self.check_import(&records)?;
                for record in records {
                    self.form_import(forming, record);
                }
            }
            Admin::Erase { room, offset } => {
                let room_ix = self.existing(&room)?;
                let (first, head) = (self.first_kept(room_ix), self.rooms.get(room_ix).head);
                if !(first..=head).contains(&offset) {
                    return Err(format!(
                        "offset {offset} is not kept: {first} to {head} are"
                    ));
                }
                let record = self.pointer(Kind::Tombstone, room_ix, offset, unix_ms);
                self.push_record(forming, record, Some(room_ix));
            }
            Admin::Trim { room, first } => {
                let room_ix = self.existing(&room)?;
                let head = self.rooms.get(room_ix).head;
                if head == 0 || first > head + 1 {
                    return Err(format!("offset {first} is above the newest, {head}"));
                }
                let record = self.pointer(Kind::Trim, room_ix, first, unix_ms);
                self.push_record(forming, record, Some(room_ix));
            }
        }
        Ok(())
    }

    fn existing(&self, room: &RoomRef) -> Result<RoomIx, String> {
        self.rooms
            .find(room)
            .ok_or_else(|| format!("no room {} in instance {}", room.channel, room.instance))
    }

    pub(crate) fn pointer(&self, kind: Kind, room_ix: RoomIx, target: u64, unix_ms: i64) -> Record {
        let room = self.rooms.get(room_ix);
        Record {
            kind: kind.into(),
            instance: room.key.instance.clone(),
            channel: room.key.channel.clone(),
            generation: room.generation,
            time: unix_ms.max(room.time),
            target_offset: target,
            ..Record::default()
        }
    }

    /// Whether every imported offset is the next of its room, or any first one of a fresh room.
    fn check_import(&self, records: &[Record]) -> Result<(), String> {
        let mut next: HashMap<(&str, &str), u64> = HashMap::new();
        for record in records.iter().filter(|r| r.takes_offset()) {
            let here = || {
                let room = self.rooms.find(&room_of(record));
                room.map_or(1, |ix| self.rooms.get(ix).open_head + 1)
            };
            let name = (record.instance.as_str(), record.channel.as_str());
            let next = next.entry(name).or_insert_with(here);
            if record.offset != *next && *next != 1 {
                return Err(format!(
                    "import of {} offset {}: the next one here is {next}",
                    record.channel, record.offset
                ));
            }
            *next = record.offset + 1;
        }
        Ok(())
    }

    fn form_import(&mut self, forming: &mut Forming, mut record: Record) {
        if record.kind() == Kind::Session {
            // It is in no room.
            return self.push_record(forming, record, None);
        }
        let room_ix = self.rooms.ensure(&room_of(&record));
        if record.takes_offset() {
            record.kind = Kind::Import.into();
            record.flags |= flags::IMPORTED;
            self.touch(forming, room_ix, record.offset);
        }
        self.push_record(forming, record, Some(room_ix));
    }

    /// Answers a publish that was not written.
    pub(crate) fn answer_error(
        &mut self,
        link: LinkId,
        edge: usize,
        publish: &Publish,
        code: ErrorCode,
    ) {
        let published = Published {
            request: publish.request,
            error: code.code(),
            ..Published::default()
        };
        let (instance, bytes) = (&publish.room.instance, publish.data.len() as u64);
        self.answer(link, edge, instance, bytes, published);
    }
}

/// At least what a publish adds to a batch in the log.
fn publish_cost(p: &Publish) -> usize {
    let tags: usize = p.tags.iter().map(|(k, v)| k.len() + v.len() + 12).sum();
    p.data.len()
        + p.id.len()
        + p.room.instance.len()
        + p.room.channel.len()
        + p.from.user.len()
        + p.from.client.len()
        + p.from.conn_info.len()
        + p.from.chan_info.len()
        + p.traceparent.len()
        + tags
        + RECORD_OVERHEAD
}

/// At least what a record adds to a batch in the log.
fn record_cost(record: &Record) -> usize {
    record.encoded_len() + RECORD_OVERHEAD / 2
}

/// At least what an admin command adds to a batch, and how many records it makes.
fn admin_cost(admin: &Admin) -> (usize, usize) {
    match admin {
        Admin::Seal { slots, .. } | Admin::Open { slots, .. } => {
            (slots.len() * 3 + RECORD_OVERHEAD, 1)
        }
        Admin::Import(records) => (records.iter().map(record_cost).sum(), records.len()),
        Admin::Erase { .. } | Admin::Trim { .. } => (512 + RECORD_OVERHEAD, 1),
    }
}

fn room_of(record: &Record) -> RoomRef {
    RoomRef {
        instance: record.instance.clone(),
        channel: record.channel.clone(),
    }
}

fn gate(kind: Kind, instance: String, epoch: u64, slots: Vec<u32>, unix_ms: i64) -> Record {
    Record {
        kind: kind.into(),
        instance,
        instance_epoch: epoch,
        slots,
        time: unix_ms,
        ..Record::default()
    }
}
