//! The machine itself: its state, what goes in, what comes out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::mesh::{
    EdgeFrame, HistoryPage, OwnerFrame, Publication, Publish, Published, RefusedReason,
    RemoveHistory, RoomRef, ShardRef, TraceQuery, Traced,
};

use crate::batch::{Admin, AdminOutcome, InFlight};
use crate::dedupe::DedupeWindow;
use crate::edges::Edges;
use crate::history::HistoryRead;
use crate::inbox::{Inbox, Waiting};
use crate::numbers::Numbers;
use crate::ownership::Ownership;
use crate::prefixes::Prefixes;
use crate::room::{RoomIx, Rooms};
use crate::sessions::Sessions;
use crate::statuses::StatusAsked;
use crate::trace::Traces;
use crate::users::Users;

/// The longest step of time that counts as served: a longer one means that this process was
/// paused, and leases and the served clock must not suffer for it. The driver ticks far more
/// often.
const STEP_MS_MAX: u64 = 2_000;

/// Users that edges have in one shard, counted once for each edge: some 200 bytes each.
const USERS_MAX: usize = 1 << 20;

/// Sessions remembered in one shard, of whose ends somebody wants to hear: some 200 bytes each.
const SESSIONS_MAX: usize = 1 << 20;

/// A link to an edge, numbered by the driver; never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId(pub u64);

/// What a shard is and how large it may get.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard.
    pub shard: ShardRef,
    /// Lease of edges in ms.
    pub lease_ms: u64,
    /// Publishes that an edge may have unanswered for one instance.
    pub credit: u32,
    /// Bytes of data that an edge may have unanswered for one instance.
    pub credit_bytes: u64,
    /// Message ids remembered.
    pub dedupe_ids_max: usize,
    /// Users that edges have, counted once for each edge.
    pub users_max: usize,
    /// Sessions of whose ends somebody wants to hear.
    pub sessions_max: usize,
    /// Records in one batch.
    pub batch_records_max: usize,
    /// Bytes in one batch as the log encodes it; a single record always goes.
    pub batch_bytes_max: usize,
}

impl ShardConfig {
    /// The defaults for `shard`.
    pub fn new(shard: ShardRef) -> Self {
        Self {
            shard,
            lease_ms: limits::EDGE_LEASE_MS,
            credit: limits::PUBLISH_CREDIT,
            credit_bytes: 8 * 1024 * 1024,
            dedupe_ids_max: limits::DEDUPE_IDS_MAX,
            users_max: USERS_MAX,
            sessions_max: SESSIONS_MAX,
            batch_records_max: 4096,
            batch_bytes_max: 1024 * 1024 - 64 * 1024,
        }
    }
}

/// What the driver must do.
#[derive(Debug)]
pub enum Output {
    /// Send a frame on a link's shard stream.
    Send {
        /// The link.
        link: LinkId,
        /// The frame.
        frame: EdgeFrame,
    },
    /// End a link's shard stream, after what was sent on it.
    Close {
        /// The link.
        link: LinkId,
    },
    /// Read publications and send the page on the link's catch-up stream.
    Read(HistoryRead),
    /// Send a page as it is on the link's catch-up stream.
    Page {
        /// The link.
        link: LinkId,
        /// The page.
        page: HistoryPage,
    },
    /// A room's first kept offset has moved: the index below it may go.
    Trimmed {
        /// The room.
        room: RoomRef,
        /// The first kept offset.
        first: u64,
    },
    /// A message was erased: readers must not see its body from now on, and its segment is to be
    /// rewritten.
    Erased {
        /// The room.
        room: RoomRef,
        /// Its offset.
        offset: u64,
    },
    /// A signal was published: it goes to everybody who follows the room, through the engine of
    /// `Signals`, with the wall clock as its time.
    Signal {
        /// The room.
        room: RoomRef,
        /// The publication, without offset and time.
        publication: Publication,
    },
    /// The same of a stream, which does not keep it: with the wall clock as its time it is given to
    /// [`Shard::signal_sent`] and [`Shard::signalled`].
    Unkept {
        /// The room.
        room: RoomRef,
        /// The publication, without offset and time.
        publication: Publication,
    },
    /// Edges want a room's signals: from now on each is given to [`Shard::signalled`].
    FollowSignals {
        /// The room.
        room: RoomRef,
        /// Whose status is to be told there as it changes; `None`: nobody's.
        status_of: Option<String>,
    },
    /// Nobody wants them any more.
    UnfollowSignals {
        /// The room.
        room: RoomRef,
    },
    /// A user of an instance that keeps statuses has come, or has gone.
    UserHere {
        /// The instance.
        instance: String,
        /// The user.
        user: String,
        /// Whether it is here now.
        here: bool,
        /// How long the instance keeps statuses, in ms; 0: no longer.
        ttl_ms: u64,
    },
    /// Answer a question about the status of a user, and change it where that is wanted.
    Status(Box<StatusAsked>),
    /// An admin command has ended.
    AdminDone {
        /// The caller's token.
        token: u64,
        /// How.
        outcome: AdminOutcome,
    },
    /// Something waits for the next batch without a frame having come in.
    Wake,
    /// An acknowledgement that was about to be made named an offset that is not durable. Its
    /// publisher was answered 1003 instead: this machine is broken, and the driver says so.
    Unfounded {
        /// The offset.
        offset: u64,
        /// The newest durable one of the room.
        head: u64,
    },
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Records committed.
    pub committed: u64,
    /// Publishes acknowledged, duplicates and resends among them.
    pub acknowledged: u64,
    /// Publishes whose client id had been written.
    pub duplicates: u64,
    /// Publishes that were not written because the room has a newer version.
    pub superseded: u64,
    /// Resends of edges that were answered from the table of numbers.
    pub resends_answered: u64,
    /// Resends whose outcome could not be told.
    pub outcome_unknown: u64,
    /// Publishes refused because the disk was full.
    pub storage_full: u64,
    /// Publishes not written because the log refused their batch for another reason, or the driver
    /// did not give them to the machine.
    pub not_written: u64,
    /// Deliveries to edges.
    pub delivered: u64,
    /// Signals taken.
    pub signals: u64,
    /// Ends of sessions and subscriptions written.
    pub session_ends: u64,
    /// Ends of sessions that nobody will write: too many sessions, or the instance has moved.
    pub session_ends_dropped: u64,
    /// Attachments refused or ended.
    pub refused: u64,
    /// Attachments ended because the edge read too slowly.
    pub lagging: u64,
    /// Leases of edges that ended.
    pub leases_ended: u64,
}

/// Sizes now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Rooms known.
    pub rooms: usize,
    /// Publishes that wait for a batch.
    pub inbox: usize,
    /// Publishes that are not answered, those that wait for a batch or are in one among them.
    pub unanswered: usize,
    /// Edges with a lease.
    pub edges: usize,
    /// Message ids remembered.
    pub dedupe_ids: usize,
    /// How far back every id is known, in ms of served time.
    pub dedupe_window_ms: u64,
    /// (Edge, session, room) triples with publish numbers.
    pub numbers: usize,
    /// Users that edges have, counted once for each edge.
    pub users: usize,
    /// Different prefixes that edges follow.
    pub prefixes: usize,
    /// Ends of sessions that wait for a batch.
    pub session_ends: usize,
    /// Sessions of which somebody wants to hear the end.
    pub sessions: usize,
    /// Lives of edges' processes whose ends of sessions are remembered.
    pub session_processes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Serving {
    pub(crate) epoch: u64,
    pub(crate) incarnation: u64,
    pub(crate) since_ms: u64,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) rooms: Rooms,
    pub(crate) dedupe: DedupeWindow,
    pub(crate) numbers: Numbers,
    pub(crate) inbox: Inbox,
    pub(crate) edges: Edges,
    pub(crate) users: Users,
    pub(crate) prefixes: Prefixes,
    pub(crate) sessions: Sessions,
    pub(crate) ownership: Ownership,
    pub(crate) traces: Traces,
    pub(crate) aging: BTreeSet<RoomIx>,
    pub(crate) admins: VecDeque<(u64, Admin)>,
    /// Removals of history that edges asked for, at most [`REMOVALS_MAX`](crate::removal::REMOVALS_MAX).
    pub(crate) removals: VecDeque<(LinkId, RemoveHistory)>,
    /// Erased messages whose bodies may still lie in the log: part of the state until the driver
    /// has rewritten their segments.
    pub(crate) erasures: BTreeSet<(RoomRef, u64)>,
    /// (Edge incarnation, session) of sessions that have ended while something of them waited.
    pub(crate) ending: BTreeSet<(u64, u64)>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) serving: Option<Serving>,
    /// The highest shard epoch seen in the log.
    pub(crate) log_epoch: u64,
    /// The position of the next record.
    pub(crate) next_position: u64,
    /// The served clock in ms: stands still while nobody serves.
    pub(crate) served_ms: u64,
    pub(crate) now_ms: u64,
    next_aging_ms: u64,
    pub(crate) counters: Counters,
    pub(crate) out: VecDeque<Output>,
}

impl Shard {
    /// An empty shard, to be filled by [`Shard::restore`] and [`Shard::replay`].
    pub fn new(config: ShardConfig, snapshot: Arc<Snapshot>) -> Self {
        Self {
            dedupe: DedupeWindow::new(config.dedupe_ids_max),
            config,
            snapshot,
            rooms: Rooms::default(),
            numbers: Numbers::default(),
            inbox: Inbox::default(),
            edges: Edges::default(),
            users: Users::default(),
            prefixes: Prefixes::default(),
            sessions: Sessions::default(),
            ownership: Ownership::default(),
            traces: Traces::default(),
            aging: BTreeSet::new(),
            admins: VecDeque::new(),
            removals: VecDeque::new(),
            erasures: BTreeSet::new(),
            ending: BTreeSet::new(),
            in_flight: None,
            serving: None,
            log_epoch: 0,
            next_position: 0,
            served_ms: 0,
            now_ms: 0,
            next_aging_ms: 0,
            counters: Counters::default(),
            out: VecDeque::new(),
        }
    }

    /// Begins to serve: the acquire record of `epoch` and `incarnation` is durable, and every
    /// committed record before `next_position` has been replayed.
    pub fn serve(&mut self, now_ms: u64, epoch: u64, incarnation: u64, next_position: u64) {
        self.now_ms = now_ms;
        self.log_epoch = self.log_epoch.max(epoch);
        self.next_position = next_position;
        self.serving = Some(Serving {
            epoch,
            incarnation,
            since_ms: now_ms,
        });
        // What replaying put out concerns an index that has seen it, or is rebuilt.
        self.out.clear();
    }

    /// Stops serving: every link is refused with `NotOwner`, nothing in flight is answered.
    pub fn stop_serving(&mut self) {
        self.leave_to("");
    }

    /// As [`Shard::stop_serving`], and tells the edges the node that serves it from now on; empty:
    /// it is not known.
    pub fn leave_to(&mut self, owner: &str) {
        self.serving = None;
        let links: Vec<LinkId> = self.edges.list.iter().filter_map(|(_, e)| e.link).collect();
        let text = "this node no longer owns the shard";
        for link in links {
            self.refuse_to(link, RefusedReason::NotOwner, text, owner);
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }

    /// Whether the machine serves.
    pub fn is_serving(&self) -> bool {
        self.serving.is_some()
    }

    /// The highest shard epoch in the log, the served time and the next position: what the next
    /// acquire record needs.
    pub fn log_state(&self) -> (u64, u64, u64) {
        (self.log_epoch, self.served_ms, self.next_position)
    }

    /// A newer snapshot: rules and instance epochs apply from now on.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        self.follow_signals_anew();
        self.statuses_anew(&before);
    }

    /// A frame on a link's shard stream. A link's first frame must be `attach`.
    pub fn frame(&mut self, now_ms: u64, link: LinkId, frame: OwnerFrame) {
        self.advance(now_ms);
        if let OwnerFrame::Attach(attach) = &frame {
            return self.attach(link, attach);
        }
        let Some(edge) = self.edges.by_link(link) else {
            return self.refuse(link, RefusedReason::Violation, "a frame before attach");
        };
        match frame {
            OwnerFrame::Attach(_) => {}
            OwnerFrame::Publish(publish) => self.publish(link, edge, publish),
            OwnerFrame::Interest(room) => self.interest(edge, room),
            OwnerFrame::Uninterest(room) => self.uninterest(edge, &room),
            OwnerFrame::Present(presence) => self.present(edge, presence),
            OwnerFrame::Absent(presence) => self.absent(edge, &presence),
            OwnerFrame::PresenceSet(part) => self.presence_set(edge, part),
            OwnerFrame::PresenceQuery(query) => self.presence_query(link, &query),
            OwnerFrame::Renew(renew) => self.renew(edge, renew),
            OwnerFrame::SessionEnded(ended) => {
                let incarnation = self.edges.list[edge].incarnation;
                // Looked at with the next batch or tick: many sessions may end at once.
                self.ending.insert((incarnation, ended.session));
            }
            OwnerFrame::Trace(query) => self.trace(link, &query),
            OwnerFrame::RemoveHistory(wanted) => self.remove_history(link, wanted),
            OwnerFrame::Signal(signal) => self.signal(link, signal),
            OwnerFrame::UsersHere(report) => self.users_here(link, edge, report),
            OwnerFrame::UserQuery(query) => self.user_query(link, &query),
            OwnerFrame::FollowPrefix(key) => self.follow_prefix(link, edge, key),
            OwnerFrame::UnfollowPrefix(key) => self.unfollow_prefix(edge, key),
            OwnerFrame::UserStatus(query) => self.user_status(link, query),
            OwnerFrame::Sessions(report) => self.sessions_report(link, edge, report),
        }
    }

    /// Takes a publish into the inbox, within the edge's credit for its instance.
    fn publish(&mut self, link: LinkId, edge: usize, publish: Publish) {
        let too_large = publish.data.len() > limits::CLIENT_FRAME_BYTES_MAX
            || publish.id.len() > limits::MESSAGE_ID_BYTES_MAX;
        if too_large || publish.number == 0 {
            return self.refuse(link, RefusedReason::Violation, "a publish out of bounds");
        }
        let (credit, credit_bytes) = (self.config.credit, self.config.credit_bytes);
        let unanswered = &mut self.edges.list[edge].unanswered;
        if !unanswered.contains_key(&publish.room.instance) {
            unanswered.insert(publish.room.instance.clone(), (0, 0));
        }
        if let Some((count, bytes)) = unanswered.get_mut(&publish.room.instance) {
            *count += 1;
            *bytes += publish.data.len() as u64;
            if *count > credit || *bytes > credit_bytes + limits::CLIENT_FRAME_BYTES_MAX as u64 {
                return self.refuse(
                    link,
                    RefusedReason::Violation,
                    "publishes beyond the credit",
                );
            }
        }
        self.inbox.push(Waiting {
            link,
            edge,
            publish,
        });
    }

    /// The driver can write nothing of a publish's instance, and does not give it to the machine: it is
    /// answered.
    pub fn not_writable(&mut self, link: LinkId, request: u64) {
        self.counters.not_written += 1;
        let refused = Published {
            request,
            error: ErrorCode::Internal.code(),
            ..Published::default()
        };
        self.send(link, EdgeFrame::Published(refused));
    }

    fn trace(&mut self, link: LinkId, query: &TraceQuery) {
        let found = self
            .rooms
            .find(&query.room)
            .filter(|ix| (1..=self.rooms.get(*ix).head).contains(&query.offset));
        let stats = found
            .and_then(|ix| self.traces.find(ix, query.offset))
            .unwrap_or_default();
        let error = match found {
            Some(_) => 0,
            None => ErrorCode::BadRequest.code(),
        };
        self.send(
            link,
            EdgeFrame::Traced(Traced {
                request: query.request,
                shard: self.config.shard.shard,
                shard_epoch: self.serving.map_or(0, |s| s.epoch),
                sync_us: stats.sync_us,
                batch: stats.records,
                error,
            }),
        );
    }

    /// Queues an admin command; [`Output::AdminDone`] with `token` ends it.
    pub fn admin(&mut self, token: u64, admin: Admin) {
        self.admins.push_back((token, admin));
    }

    /// Time passes; at least every 500 ms.
    pub fn tick(&mut self, now_ms: u64, unix_ms: i64) {
        self.advance(now_ms);
        if self.serving.is_none() {
            return;
        }
        self.expire_leases();
        self.end_sessions();
        if self.now_ms >= self.next_aging_ms {
            self.next_aging_ms = self.now_ms + 1_000;
            self.plan_aging(unix_ms);
            let (edges, served_ms) = (&self.edges, self.served_ms);
            self.numbers.expire(served_ms, |e| edges.holds_lease(e));
            let gone = self.sessions.processes.keys().copied();
            let here: BTreeSet<u64> = gone.filter(|p| self.is_process_here(*p)).collect();
            self.sessions
                .expire(served_ms, |process| here.contains(&process));
        }
    }

    /// Forgets, of those that published and ended sessions, who has been silent for longer than anybody
    /// sends something again: what time does in a machine that serves, for one that replays. Such a one
    /// knows no edges, whose numbers would stay for as long as it follows the log.
    pub fn forget_silent(&mut self) {
        self.numbers.expire(self.served_ms, |_| false);
        self.sessions.expire(self.served_ms, |_| false);
    }

    /// What the driver must do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Whether something waits for a batch and none is in flight.
    pub fn wants_batch(&self) -> bool {
        let waits = !(self.inbox.is_empty() && self.admins.is_empty() && self.removals.is_empty());
        self.in_flight.is_none() && (waits || self.sessions.are_due(self.now_ms))
    }

    /// Whether an instance waits that commits less than its share of this shard: its publishes
    /// should not wait for those of the others.
    pub fn is_urgent(&self) -> bool {
        self.inbox.has_light()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sizes now.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            rooms: self.rooms.len(),
            inbox: self.inbox.len(),
            unanswered: self.edges.unanswered(),
            edges: self.edges.list.len(),
            dedupe_ids: self.dedupe.len(),
            dedupe_window_ms: self.dedupe.window_ms(self.served_ms),
            numbers: self.numbers.len(),
            users: self.users.pairs(),
            prefixes: self.prefixes.len(),
            session_ends: self.sessions.sizes().0,
            sessions: self.sessions.sizes().1,
            session_processes: self.sessions.processes.len(),
        }
    }

    /// Erased messages whose segments are still to be rewritten.
    pub fn erasures(&self) -> impl Iterator<Item = &(RoomRef, u64)> {
        self.erasures.iter()
    }

    /// The body of an erased message is gone from the log.
    pub fn erased(&mut self, room: RoomRef, offset: u64) {
        self.erasures.remove(&(room, offset));
    }

    /// The first kept offset of every room of which something was trimmed.
    pub fn trimmed_rooms(&self) -> Vec<(RoomRef, u64)> {
        let rooms = self.rooms.iter().filter(|(_, room)| room.first > 1);
        rooms
            .map(|(_, room)| (room.key.clone(), room.first))
            .collect()
    }

    /// The first kept offset of a room, 1 for one that this shard does not know.
    pub fn first_offset(&self, room: &RoomRef) -> u64 {
        self.rooms.find(room).map_or(1, |ix| self.first_kept(ix))
    }

    /// The newest committed offset of a room.
    pub fn top_offset(&self, room: &RoomRef) -> u64 {
        self.rooms
            .find(room)
            .map_or(0, |ix| self.rooms.get(ix).head)
    }

    /// Connections present in a room.
    pub fn present_clients(&self, room: &RoomRef) -> usize {
        let room = self.rooms.find(room).map(|ix| self.rooms.get(ix));
        room.and_then(|r| r.presence.as_ref())
            .map_or(0, |p| p.len())
    }

    /// Whether a connection is present in a room.
    pub fn is_present(&self, room: &RoomRef, client: &str) -> bool {
        let room = self.rooms.find(room).map(|ix| self.rooms.get(ix));
        room.and_then(|r| r.presence.as_ref())
            .is_some_and(|p| p.reported_by(client).is_some())
    }

    pub(crate) fn advance(&mut self, now_ms: u64) {
        let step = now_ms.saturating_sub(self.now_ms);
        self.now_ms = self.now_ms.max(now_ms);
        if self.serving.is_some() {
            self.served_ms += step.min(STEP_MS_MAX);
            if step > STEP_MS_MAX {
                self.edges.extend_leases(step - STEP_MS_MAX);
            }
        }
    }

    pub(crate) fn send(&mut self, link: LinkId, frame: EdgeFrame) {
        self.out.push_back(Output::Send { link, frame });
    }
}
