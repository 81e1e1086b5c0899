//! Where a hub puts what it has to say, and what it tells about itself.

use bytes::Bytes;
use gb6_core_model::limits;
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame, Refused, RoomRef};

use crate::request::{Answer, Notice};

/// The outputs of a [`crate::Hub`]. All calls for one session must reach it in the order in which
/// they are made here, through one queue.
pub trait HubOut<S> {
    /// What is delivered from here on belongs to this room: said before the first of its
    /// deliveries, so that the driver can check that no other instance's session gets any.
    fn of_room(&mut self, _room: &RoomRef) {}
    /// Queue a complete WebSocket frame. Called once per subscriber of a room: the same `Bytes`
    /// for all of one dialect.
    fn deliver(&mut self, to: &S, frame: Bytes);
    /// Bytes that wait to be written to a session's client.
    fn backlog(&self, _to: &S) -> usize {
        0
    }
    /// Answer a session's request: `Session::complete`.
    fn complete(&mut self, to: &S, token: u64, answer: Answer);
    /// Tell a session something unasked: `Session::notice`.
    fn notice(&mut self, to: &S, notice: Notice);
    /// Whether one more subscription may be ended now because the log can not continue it. The
    /// clients come back at once, so the driver sets a pace, which all hubs of an edge share.
    fn may_evict(&mut self) -> bool {
        true
    }
    /// A number for a channel of this instance, from 1, that no other channel of it has had at this
    /// edge; 0: none is given, and pushes carry the name.
    fn channel_number(&mut self, _instance: &str) -> i64 {
        0
    }
    /// Send on the shard stream. Order is kept.
    fn to_owner(&mut self, frame: OwnerFrame);
    /// Whether so much waits for the shard stream that publishes and interest are to be held back,
    /// until `Hub::owner_drained` is called.
    fn owner_full(&self) -> bool {
        false
    }
    /// Send on the catch-up stream. Order does not matter.
    fn to_history(&mut self, request: HistoryRequest);
    /// Close both streams, call `Hub::link_down`, and dial again.
    fn detach(&mut self, why: Detach);
}

/// Why a hub wants its link closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Detach {
    /// The owner refused or ended the attachment. `NotOwner` may name the owner.
    Refused(Refused),
    /// The lease may have ended: no renewal was acknowledged in time.
    LeaseEnded,
    /// The owner attached us under an older shard epoch than one seen before: it has been
    /// replaced and does not know it yet.
    StaleOwner,
    /// The owner broke a rule of the protocol.
    Violation,
}

/// Bounds and times of a hub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubConfig {
    /// How long a request waits for its answer, in ms. A publish that was sent is then answered
    /// 1003 and never sent again.
    pub answer_ms: u64,
    /// How long a room stays after its last subscriber left, in ms, with what it remembers: a
    /// client that comes back at once costs no trip to the region.
    pub linger_ms: u64,
    /// How long the connect of a user waits, in ms, until the owner has heard of the user; and how
    /// long after the end of a link connects wait for the next one.
    pub arrival_ms: u64,
    /// Publishes of one instance that may wait at the edge's own door; further ones get 111.
    pub door_max: usize,
    /// Bytes of data that may wait at the door of one instance; further publishes get 111.
    pub door_bytes_max: usize,
    /// Rooms that the owner may be told of without having answered; further ones wait, in order.
    pub interests_in_flight: usize,
    /// Bytes of memory for recent publications of one room: by default as many as one recovery may
    /// take.
    pub ring_room_bytes: usize,
    /// Bytes of memory for recent publications in all rooms of this hub.
    pub ring_bytes: usize,
    /// Bytes of publications that are kept so that the next ones can be told as differences, in all
    /// rooms of this hub.
    pub base_bytes: usize,
    /// Bytes that may wait for a subscriber when a signal is handed to it; with more waiting it does
    /// not get it.
    pub signal_backlog_bytes: usize,
    /// Bytes of tags filters of this hub's subscribers; further ones are answered 106.
    pub filter_bytes: usize,
    /// Bytes of live publications kept for one room while a gap before them is filled; what does
    /// not fit is read again from the log.
    pub ahead_bytes: usize,
    /// The same for all rooms of this hub together.
    pub ahead_total_bytes: usize,
    /// Bytes that close a gap of one room and are handed to each subscriber at once.
    pub fill_step_bytes: usize,
    /// Bytes that may wait for a subscriber when the next of them are handed out.
    pub fill_backlog_bytes: usize,
    /// How long a gap of a room waits for a subscriber for whom more waits, in ms.
    pub fill_patience_ms: u64,
    /// Bytes that were read to close gaps and wait to be handed out, in all rooms, from which on
    /// no more is read for gaps.
    pub fill_ready_bytes: usize,
    /// History reads of sessions under way at once, three quarters of them of one instance at most;
    /// others wait, and equal ones are asked once.
    pub reads_in_flight: usize,
    /// History reads of sessions of one instance that may wait; further ones get 111.
    pub reads_waiting: usize,
    /// Reads of the hub itself (filling, recovery) under way at once; others wait, at most three
    /// for each room.
    pub own_reads_in_flight: usize,
    /// After so long a read has no place among those under way any more: it waits for the archive, most
    /// likely, and others need not. Up to four for each place are under way then. In ms.
    pub slow_read_ms: u64,
    /// Questions (presence, traces) that the owner may be asked at once; equal ones are asked once.
    pub queries_in_flight: usize,
    /// Questions of one instance that may wait; further ones get 111.
    pub queries_waiting: usize,
    /// How long an internal read (filling, recovery) may take before it is asked again, in ms.
    pub fill_ms: u64,
    /// From an internal read that failed to the next attempt, in ms.
    pub fill_retry_ms: u64,
    /// People in one part of a presence set.
    pub presence_part: usize,
    /// Encoded bytes of one part of a presence set, far below what a frame of the mesh may have;
    /// a person alone is always sent.
    pub presence_part_bytes: usize,
    /// Rooms whose publish numbers one session keeps apart.
    pub numbered_rooms: usize,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            answer_ms: limits::PUBLISH_ANSWER_MS,
            linger_ms: 2_000,
            arrival_ms: 2_000,
            door_max: 4_096,
            door_bytes_max: 16 * 1024 * 1024,
            interests_in_flight: 4_096,
            ring_room_bytes: limits::RECOVERY_BYTES_MAX
                + limits::RECOVERY_PUBLICATIONS_MAX * super::ring::OVERHEAD,
            ring_bytes: 64 * 1024 * 1024,
            base_bytes: 32 * 1024 * 1024,
            signal_backlog_bytes: 128 * 1024,
            filter_bytes: 16 * 1024 * 1024,
            ahead_bytes: 1024 * 1024,
            ahead_total_bytes: 32 * 1024 * 1024,
            fill_step_bytes: 64 * 1024,
            fill_backlog_bytes: 256 * 1024,
            fill_patience_ms: 2_000,
            fill_ready_bytes: 8 * 1024 * 1024,
            reads_in_flight: 8,
            reads_waiting: 8_192,
            own_reads_in_flight: 8,
            slow_read_ms: 500,
            queries_in_flight: 64,
            queries_waiting: 4_096,
            fill_ms: 10_000,
            fill_retry_ms: 250,
            presence_part: 500,
            presence_part_bytes: 1024 * 1024,
            numbered_rooms: 1_024,
        }
    }
}

/// Events of one hub: each field only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HubCounters {
    /// Publications that came from the owner, live.
    pub delivers: u64,
    /// Frames handed to subscribers.
    pub fan_out: u64,
    /// Frames handed to those that follow a prefix.
    pub prefix_fan_out: u64,
    /// Publications encoded, once per form in use.
    pub encoded: u64,
    /// Deltas made, once per publication and dialect in use.
    pub deltas: u64,
    /// Signals that came from the owner.
    pub signals: u64,
    /// Signals that a subscriber was not handed because too much waited for it.
    pub signals_dropped: u64,
    /// Publications that a subscriber did not want: by its filter, or its own.
    pub unwanted: u64,
    /// Subscribes refused because too many filters were in use (106).
    pub filters_refused: u64,
    /// Live publications passed over because they had been delivered before.
    pub repeated: u64,
    /// Messages that the owner said were erased.
    pub erased: u64,
    /// Gaps that had to be filled from the log.
    pub gaps: u64,
    /// Live publications behind a gap that did not fit and are read again.
    pub ahead_dropped: u64,
    /// Internal reads of the log (filling and recovery).
    pub internal_reads: u64,
    /// Subscribes answered from what the hub remembered.
    pub recovered_here: u64,
    /// Subscribes answered after a read of the log.
    pub recovered_from_log: u64,
    /// Subscribes whose position could not be continued.
    pub not_recovered: u64,
    /// Publishes sent for the first time.
    pub published: u64,
    /// Publishes sent again after a break.
    pub resent: u64,
    /// Publishes refused at the door (111).
    pub door_refused: u64,
    /// Publishes answered 1003 here, because no answer came.
    pub outcome_unknown: u64,
    /// Requests other than publishes that got no answer in time.
    pub timeouts: u64,
    /// History reads answered together with an equal one.
    pub reads_shared: u64,
    /// Questions answered together with an equal one.
    pub queries_shared: u64,
    /// Questions refused because too many of their instance waited (111).
    pub queries_refused: u64,
    /// Subscriptions ended because the log could not continue them.
    pub evicted: u64,
    /// Ends of sessions that the owner has written.
    pub session_ends: u64,
    /// Ends of sessions that were dropped because too many of their instance waited.
    pub session_ends_dropped: u64,
    /// Connects that went on before the owner had heard of their user.
    pub arrivals_unheard: u64,
    /// Leases that ended.
    pub leases_ended: u64,
    /// Owners refused because they were stale.
    pub stale_owners: u64,
    /// Frames of the owner that broke a rule or belonged to nothing.
    pub stray_frames: u64,
}

/// The state of one hub at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HubGauges {
    /// Whether the hub is attached to an owner.
    pub attached: bool,
    /// The owner's shard epoch; 0: none seen.
    pub shard_epoch: u64,
    /// Rooms held.
    pub rooms: usize,
    /// Subscribers in all rooms.
    pub subscribers: usize,
    /// Different prefixes that are followed.
    pub prefixes: usize,
    /// Subscriptions to them.
    pub prefix_subscribers: usize,
    /// Subscribes to prefixes that had to wait for the owner, and are remembered for it.
    pub prefixes_waiting: usize,
    /// Rooms that the owner was told of and has not answered.
    pub interests_unanswered: usize,
    /// Rooms that the owner has still to be told of.
    pub interests_waiting: usize,
    /// Subscribes that wait.
    pub joining: usize,
    /// Publishes without an answer, sent or not.
    pub unanswered: usize,
    /// Publishes waiting at the door.
    pub at_door: usize,
    /// Bytes of recent publications kept.
    pub ring_bytes: usize,
    /// Bytes kept so that next publications can be told as differences.
    pub base_bytes: usize,
    /// Bytes of tags filters.
    pub filter_bytes: usize,
    /// Bytes of live publications kept behind gaps.
    pub ahead_bytes: usize,
    /// Bytes read to close gaps that wait to be handed out.
    pub ready_bytes: usize,
    /// Subscriptions that wait to be ended.
    pub evictions_waiting: usize,
    /// Users with sessions here that are reported to the owner.
    pub users: usize,
    /// Ends of sessions that the owner has not answered.
    pub session_ends: usize,
}
