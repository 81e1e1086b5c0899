//! The shards that this edge has to do with: one task each, made when first needed, and the links
//! to the nodes that own them.

mod census;
mod inbox;
mod link;
mod out;
mod task;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use futures_util::FutureExt as _;

use gb6_core_mesh::{Backoff, Dialer, Endpoint};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Glob, InstanceId, NodeId, ShardId};
use gb6_core_obs::Samples;
use gb6_core_wire::mesh::{RoomRef, ShardRef};
use gb6_edge_session::{HubCounters, HubGauges};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use census::{Census, Found};
pub(crate) use inbox::ShardInbox;

use crate::connection::handle::Event;
use crate::shared::Shared;

/// All shards of one edge.
pub(crate) struct Shards {
    endpoint: Endpoint,
    backoff: Backoff,
    /// By region and number.
    shards: RwLock<BTreeMap<String, BTreeMap<u32, Shard>>>,
    peers: Mutex<BTreeMap<NodeId, Weak<Dialer>>>,
    /// The revision of the placement by which every user was told of to its shard.
    placed: AtomicU64,
    /// Set once the tasks are being ended: none begins any more.
    stopped: AtomicBool,
    /// What stands for every shard that has no task then: nobody takes anything out of it.
    nobody: Arc<ShardInbox>,
}

struct Shard {
    inbox: Arc<ShardInbox>,
    report: Arc<Mutex<Report>>,
    task: tokio::task::JoinHandle<()>,
}

/// What a shard's task says of itself, once a second.
#[derive(Clone, Copy, Default)]
pub(crate) struct Report {
    pub(crate) counters: HubCounters,
    pub(crate) gauges: HubGauges,
    /// Attachments begun.
    pub(crate) attached: u64,
    /// Attachments that ended, or could not be begun.
    pub(crate) detached: u64,
    /// Frames that wait for the shard stream.
    pub(crate) owner_queue: usize,
    /// Links dropped because too many frames waited.
    pub(crate) owner_queue_overflows: u64,
}

impl Shards {
    /// No shards yet; links to their owners go out from `endpoint`.
    pub(crate) fn new(endpoint: Endpoint, backoff: Backoff) -> Self {
        let nobody = Arc::new(ShardInbox::new(0));
        nobody.close();
        Self {
            endpoint,
            backoff,
            shards: RwLock::default(),
            peers: Mutex::default(),
            placed: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            nobody,
        }
    }

    /// The inbox of the shard that owns `room`; `None` where the placement names none.
    pub(crate) fn inbox_for(
        &self,
        shared: &Arc<Shared>,
        snapshot: &Snapshot,
        room: &RoomRef,
    ) -> Option<Arc<ShardInbox>> {
        let instance = InstanceId::from(room.instance.as_str());
        let (region, shard) = snapshot.shard_of(&instance, &room.channel)?;
        Some(self.inbox(shared, region, shard))
    }

    /// The inbox of a shard that the placement names. Once the edge has stopped, one that refuses
    /// requests and drops what it is told: nobody would end a task that began then.
    pub(crate) fn inbox(
        &self,
        shared: &Arc<Shared>,
        region: &str,
        ShardId(number): ShardId,
    ) -> Arc<ShardInbox> {
        let known = |shards: &BTreeMap<String, BTreeMap<u32, Shard>>| {
            Some(shards.get(region)?.get(&number)?.inbox.clone())
        };
        if let Some(inbox) = known(&self.shards.read()) {
            return inbox;
        }
        let mut shards = self.shards.write();
        // Under the lock, so that no task begins behind those that are taken out.
        if self.stopped.load(Ordering::Relaxed) {
            return self.nobody.clone();
        }
        let shards = shards.entry(region.to_owned()).or_default();
        let shard = shards.entry(number).or_insert_with(|| {
            let inbox = Arc::new(ShardInbox::new(shared.config.shard_inbox_max));
            inbox.placed(self.placed.load(Ordering::Relaxed));
            let report = Arc::new(Mutex::new(Report::default()));
            let reference = ShardRef {
                region: region.to_owned(),
                shard: number,
            };
            let task = task::ShardTask::new(shared, reference, inbox.clone(), report.clone());
            Shard {
                inbox: inbox.clone(),
                report,
                task: tokio::spawn(attended(shared.clone(), inbox, task.run())),
            }
        });
        shard.inbox.clone()
    }

    /// Every user was told of to its shard by the placement of this revision.
    pub(crate) fn users_placed(&self, revision: u64) {
        // Under the lock, so that no task begins between the two.
        let shards = self.shards.write();
        self.placed.store(revision, Ordering::Relaxed);
        for shard in shards.values().flat_map(BTreeMap::values) {
            shard.inbox.placed(revision);
        }
    }

    /// Which rooms of an instance have subscribers here, of those that fit a pattern. The answer
    /// comes when every shard's task has said it.
    pub(crate) fn count(
        &self,
        instance: &str,
        pattern: Option<Glob>,
        sums_only: bool,
    ) -> oneshot::Receiver<Found> {
        let (census, answer) = Census::new(instance.to_owned(), pattern, sums_only);
        let census = Arc::new(census);
        let shards = self.shards.read();
        for shard in shards.values().flat_map(BTreeMap::values) {
            shard.inbox.count(&census);
        }
        answer
    }

    /// Forgets the task of an inbox: the shard gets another one when it is next asked for.
    fn forget(&self, inbox: &Arc<ShardInbox>) {
        let mut shards = self.shards.write();
        for shards in shards.values_mut() {
            shards.retain(|_, shard| !Arc::ptr_eq(&shard.inbox, inbox));
        }
    }

    /// The dialler of a node, shared by all of its shards; it ends with the last that uses it.
    pub(crate) fn dialer(&self, shared: &Arc<Shared>, node: &NodeId) -> Arc<Dialer> {
        let mut peers = self.peers.lock();
        peers.retain(|_, peer| peer.strong_count() > 0);
        if let Some(dialer) = peers.get(node).and_then(Weak::upgrade) {
            return dialer;
        }
        let shared = Arc::downgrade(shared);
        let name = node.clone();
        let address = move || {
            let snapshot = shared.upgrade()?.snapshot.load_full();
            snapshot.nodes.get(&name)?.mesh.clone()
        };
        let dialer = Arc::new(Dialer::start(
            self.endpoint.clone(),
            node.clone(),
            address,
            self.backoff,
            rand::random(),
        ));
        peers.insert(node.clone(), Arc::downgrade(&dialer));
        dialer
    }

    /// Ends all tasks, after the publishes under way are answered or given up.
    pub(crate) async fn stop(&self) {
        let tasks = self.take_all();
        for shard in &tasks {
            shard.inbox.stop();
        }
        for shard in tasks {
            // An error says that the task panicked or was aborted: it has ended too.
            let _ = shard.task.await;
        }
    }

    /// Ends all tasks at once.
    pub(crate) fn abort(&self) {
        for shard in self.take_all() {
            shard.task.abort();
        }
    }

    /// Takes all shards out, for good.
    fn take_all(&self) -> Vec<Shard> {
        let mut shards = self.shards.write();
        self.stopped.store(true, Ordering::Relaxed);
        let shards = std::mem::take(&mut *shards).into_values();
        shards.flat_map(BTreeMap::into_values).collect()
    }

    /// Adds the state of every shard to a reading of the metrics.
    pub(crate) fn collect(&self, out: &mut Samples<'_>) {
        let shards = self.shards.read();
        let all = shards.iter().flat_map(|(region, shards)| {
            let shards = shards.iter();
            shards.map(move |(number, shard)| (region, number, shard))
        });
        for (region, number, shard) in all {
            let number = number.to_string();
            let labels = [("region", region.as_str()), ("shard", number.as_str())];
            let mut report = *shard.report.lock();
            // What the edge itself follows is nobody's room.
            let (own, gauges) = (shard.inbox.own(), &mut report.gauges);
            gauges.rooms = gauges.rooms.saturating_sub(own);
            gauges.subscribers = gauges.subscribers.saturating_sub(own);
            collect_one(&report, shard.inbox.len(), &labels, out);
        }
    }
}

/// Runs a shard's task. When it panics, which is a defect of ours, nobody may wait for it for ever:
/// the sessions that have asked there are ended with a code that lets them come back and recover.
async fn attended(shared: Arc<Shared>, inbox: Arc<ShardInbox>, run: impl Future<Output = ()>) {
    if AssertUnwindSafe(run).catch_unwind().await.is_ok() {
        return;
    }
    tracing::error!("a shard's task panicked; sessions with rooms in it are told to reconnect");
    shared.metrics.shard_panics.inc();
    // Before anybody is told: who asks from here on is refused.
    inbox.close();
    shared.shards.forget(&inbox);
    shared.place_users(|_| false);
    shared.place_sessions(|_| false);
    for session in shared.all() {
        session.outbox.event(Event::Lost(inbox.clone()));
    }
}

fn collect_one(
    report: &Report,
    waiting: usize,
    labels: &[(&'static str, &str)],
    out: &mut Samples<'_>,
) {
    let (g, c) = (&report.gauges, &report.counters);
    for (name, help, value) in [
        (
            "gb6_edge_shard_attached",
            "Whether the edge is attached to the shard's owner.",
            f64::from(u8::from(g.attached)),
        ),
        (
            "gb6_edge_shard_epoch",
            "The shard epoch of the owner.",
            g.shard_epoch as f64,
        ),
        (
            "gb6_edge_shard_inbox",
            "Requests waiting for the shard's task.",
            waiting as f64,
        ),
        (
            "gb6_edge_owner_queue",
            "Frames waiting for the stream to the owner.",
            report.owner_queue as f64,
        ),
        (
            "gb6_edge_rooms",
            "Rooms with subscribers here.",
            g.rooms as f64,
        ),
        (
            "gb6_edge_subscribers",
            "Subscriptions here.",
            g.subscribers as f64,
        ),
        (
            "gb6_edge_prefixes",
            "Different prefixes of channel names followed here.",
            g.prefixes as f64,
        ),
        (
            "gb6_edge_prefix_subscribers",
            "Subscriptions to prefixes here.",
            g.prefix_subscribers as f64,
        ),
        (
            "gb6_edge_prefixes_waiting",
            "Subscribes to prefixes that had to wait for the owner, in the time of an answer.",
            g.prefixes_waiting as f64,
        ),
        (
            "gb6_edge_interests_unanswered",
            "Rooms that the owner was told of and has not answered.",
            g.interests_unanswered as f64,
        ),
        (
            "gb6_edge_interests_waiting",
            "Rooms that the owner has still to be told of.",
            g.interests_waiting as f64,
        ),
        (
            "gb6_edge_joining",
            "Subscribes that wait for their room.",
            g.joining as f64,
        ),
        (
            "gb6_edge_publishes_unanswered",
            "Publishes without an answer.",
            g.unanswered as f64,
        ),
        (
            "gb6_edge_publishes_at_door",
            "Publishes waiting for credit.",
            g.at_door as f64,
        ),
        (
            "gb6_edge_recent_bytes",
            "Bytes of recent publications kept.",
            g.ring_bytes as f64,
        ),
        (
            "gb6_edge_delta_base_bytes",
            "Bytes kept so that next publications can be told as differences.",
            g.base_bytes as f64,
        ),
        (
            "gb6_edge_filter_bytes",
            "Bytes of subscribers' tags filters.",
            g.filter_bytes as f64,
        ),
        (
            "gb6_edge_ahead_bytes",
            "Bytes of live publications kept behind gaps.",
            g.ahead_bytes as f64,
        ),
        (
            "gb6_edge_fill_ready_bytes",
            "Bytes read to close gaps that wait to be handed out.",
            g.ready_bytes as f64,
        ),
        (
            "gb6_edge_shard_users",
            "Users with sessions here that are reported to the shard's owner.",
            g.users as f64,
        ),
        (
            "gb6_edge_session_ends_waiting",
            "Ends of sessions and subscriptions that the shard's owner has not answered.",
            g.session_ends as f64,
        ),
        (
            "gb6_edge_evictions_waiting",
            "Subscriptions waiting to be ended.",
            g.evictions_waiting as f64,
        ),
    ] {
        out.gauge(name, help, labels, value);
    }
    for (name, help, value) in [
        (
            "gb6_edge_attached_total",
            "Attachments to the shard's owner.",
            report.attached,
        ),
        (
            "gb6_edge_detached_total",
            "Attachments that ended or failed.",
            report.detached,
        ),
        (
            "gb6_edge_owner_queue_overflows_total",
            "Links dropped because the owner did not read what waited for it.",
            report.owner_queue_overflows,
        ),
        (
            "gb6_edge_delivers_total",
            "Publications received live.",
            c.delivers,
        ),
        (
            "gb6_edge_fan_out_total",
            "Frames handed to subscribers.",
            c.fan_out,
        ),
        (
            "gb6_edge_prefix_fan_out_total",
            "Frames handed to subscribers of prefixes.",
            c.prefix_fan_out,
        ),
        (
            "gb6_edge_encoded_total",
            "Publications encoded, once per form: dialect, number or name, delta.",
            c.encoded,
        ),
        (
            "gb6_edge_deltas_total",
            "Differences between publications made, once per room and dialect at most.",
            c.deltas,
        ),
        (
            "gb6_edge_signals_total",
            "Signals received: publications that are kept nowhere.",
            c.signals,
        ),
        (
            "gb6_edge_signals_dropped_total",
            "Signals that a subscriber did not get because too much waited for it.",
            c.signals_dropped,
        ),
        (
            "gb6_edge_unwanted_total",
            "Publications that a subscriber did not want: by its filter, or its own.",
            c.unwanted,
        ),
        (
            "gb6_edge_filters_refused_total",
            "Subscribes refused because too many filters were in use.",
            c.filters_refused,
        ),
        (
            "gb6_edge_repeated_total",
            "Live publications that had been delivered before.",
            c.repeated,
        ),
        (
            "gb6_edge_erased_total",
            "Messages taken out of memory because they were erased.",
            c.erased,
        ),
        ("gb6_edge_gaps_total", "Gaps filled from the log.", c.gaps),
        (
            "gb6_edge_ahead_dropped_total",
            "Live publications behind a gap that did not fit and were read again.",
            c.ahead_dropped,
        ),
        (
            "gb6_edge_internal_reads_total",
            "Reads of the log for filling and recovery.",
            c.internal_reads,
        ),
        (
            "gb6_edge_recovered_here_total",
            "Subscribes recovered from memory.",
            c.recovered_here,
        ),
        (
            "gb6_edge_recovered_from_log_total",
            "Subscribes recovered from the log.",
            c.recovered_from_log,
        ),
        (
            "gb6_edge_not_recovered_total",
            "Subscribes that could not be recovered.",
            c.not_recovered,
        ),
        (
            "gb6_edge_published_total",
            "Publishes sent to the owner.",
            c.published,
        ),
        (
            "gb6_edge_resent_total",
            "Publishes sent again after a break.",
            c.resent,
        ),
        (
            "gb6_edge_door_refused_total",
            "Publishes refused at the door (111).",
            c.door_refused,
        ),
        (
            "gb6_edge_outcome_unknown_total",
            "Publishes answered 1003 here.",
            c.outcome_unknown,
        ),
        (
            "gb6_edge_timeouts_total",
            "Other requests without an answer in time.",
            c.timeouts,
        ),
        (
            "gb6_edge_reads_shared_total",
            "History reads answered together.",
            c.reads_shared,
        ),
        (
            "gb6_edge_queries_shared_total",
            "Questions about presence and traces answered together.",
            c.queries_shared,
        ),
        (
            "gb6_edge_queries_refused_total",
            "Questions refused because too many of their instance waited (111).",
            c.queries_refused,
        ),
        (
            "gb6_edge_evicted_total",
            "Subscriptions the log could not continue.",
            c.evicted,
        ),
        (
            "gb6_edge_session_ends_total",
            "Ends of sessions and subscriptions that are in the log.",
            c.session_ends,
        ),
        (
            "gb6_edge_session_ends_dropped_total",
            "Ends of sessions and subscriptions dropped because too many of their instance waited.",
            c.session_ends_dropped,
        ),
        (
            "gb6_edge_arrivals_unheard_total",
            "Connects that went on before the shard's owner had heard of their user.",
            c.arrivals_unheard,
        ),
        (
            "gb6_edge_leases_ended_total",
            "Leases with the owner that ended.",
            c.leases_ended,
        ),
        (
            "gb6_edge_stale_owners_total",
            "Owners refused because they were replaced.",
            c.stale_owners,
        ),
        (
            "gb6_edge_stray_frames_total",
            "Frames of the owner that fitted nothing.",
            c.stray_frames,
        ),
    ] {
        out.counter(name, help, labels, value);
    }
}
