//! What a region tells about its shards.

use std::sync::Arc;

use gb6_core_obs::metrics::{
    Buckets, Counter, CounterFamily, Gauge, Histogram, Label, Metrics, Registration,
};
use gb6_region_shard::{Counters, Gauges};
use parking_lot::Mutex;

use crate::recovery::Replayed;

/// The numbers of one shard, as its actor last published them.
#[derive(Clone, Copy, Default)]
pub(crate) struct ShardNumbers {
    pub(crate) counters: Counters,
    pub(crate) gauges: Gauges,
    pub(crate) serving: bool,
    pub(crate) read_only: bool,
    pub(crate) shard_epoch: u64,
    pub(crate) tail_bytes: usize,
    pub(crate) indexed: u64,
    pub(crate) next_position: u64,
    pub(crate) index_errors: u64,
    pub(crate) checkpoint_position: u64,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) replayed: Replayed,
    pub(crate) recovery_ms: u64,
}

/// Metrics shared by all shards of a region.
#[derive(Clone)]
pub(crate) struct RegionMetrics {
    /// From the append of a batch to the end of its sync, in seconds.
    pub(crate) commit_seconds: Histogram,
    /// How long a batch waited for other shards' syncs, in seconds; only those that waited.
    pub(crate) turn_seconds: Histogram,
    /// Records that shared a sync.
    pub(crate) batch_records: Histogram,
    /// Streams refused because their peer is no edge.
    pub(crate) roles_refused: Counter,
    /// Shares of limits given to edges.
    pub(crate) limit_shares: Counter,
    /// Questions of edges for shares that the engine did not answer.
    pub(crate) limit_questions_unanswered: Counter,
    /// Signals that were lost on their way.
    pub(crate) signals_dropped: Counter,
    /// Questions about statuses of users, by what became of them.
    pub(crate) status_questions: CounterFamily,
    /// Users that are held as online.
    pub(crate) statuses_held: Gauge,
    /// Statuses that their engine did not take.
    pub(crate) status_holds_failed: Counter,
    /// How often the log was asked who owns a shard.
    pub(crate) confirms: Counter,
    /// Reads of history that were not answered in time.
    pub(crate) reads_given_up: ReadsGivenUp,
}

/// Reads of history that were not answered in time, by what they waited for.
#[derive(Clone)]
pub(crate) struct ReadsGivenUp {
    archive: Counter,
    places: Counter,
}

impl ReadsGivenUp {
    fn new(metrics: &Metrics) -> Self {
        Self {
            archive: metrics.counter(
                "gb6_history_archive_reads_given_up_total",
                "Reads of history that were answered with an error because the archive did not answer in time.",
            ),
            places: metrics.counter(
                "gb6_history_reads_given_up_total",
                "Reads of history that were answered with an error because as many as may go on at once did not get on: the index does not answer.",
            ),
        }
    }

    /// Counts one; `archive`: it was to look there.
    pub(crate) fn count(&self, archive: bool) {
        match archive {
            true => self.archive.inc(),
            false => self.places.inc(),
        }
    }
}

impl RegionMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            limit_shares: metrics.counter(
                "gb6_region_limit_shares_total",
                "Shares of limits of users and instances given to edges.",
            ),
            limit_questions_unanswered: metrics.counter(
                "gb6_region_limit_questions_unanswered_total",
                "Questions of edges for shares of limits that the engine of limits could not answer.",
            ),
            roles_refused: metrics.counter(
                "gb6_region_roles_refused_total",
                "Streams refused because the peer's certificate does not have the role edge.",
            ),
            confirms: metrics.counter(
                "gb6_region_confirms_total",
                "How often the log was asked who owns a shard, because the agreed records could not say it in time.",
            ),
            reads_given_up: ReadsGivenUp::new(metrics),
            status_questions: metrics.counter_family(
                "gb6_region_status_questions_total",
                "Questions about statuses of users, by what became of them: answered, failed where their engine did not answer, refused where too many waited.",
                &[Label::new("outcome", 8)],
            ),
            statuses_held: metrics.gauge(
                "gb6_region_statuses_held",
                "Users of instances that keep statuses that are held as online.",
            ),
            status_holds_failed: metrics.counter(
                "gb6_region_status_holds_failed_total",
                "Users of whom the engine of statuses did not take that they are online, or were.",
            ),
            signals_dropped: metrics.counter(
                "gb6_signals_dropped_total",
                "Signals that were lost because an edge, this node or the engine was too slow.",
            ),
            commit_seconds: metrics.histogram(
                "gb6_commit_seconds",
                "From the append of a batch to the end of its sync.",
                Buckets::SECONDS,
            ),
            turn_seconds: metrics.histogram(
                "gb6_commit_turn_seconds",
                "How long a batch waited for the syncs of the node's other shards.",
                Buckets::SECONDS,
            ),
            batch_records: metrics.histogram(
                "gb6_batch_records",
                "Records that shared one sync.",
                Buckets::COUNT,
            ),
        }
    }
}

/// Exports the numbers of `shard` until the registration is dropped.
pub(crate) fn export(
    metrics: &Metrics,
    shard: u32,
    numbers: Arc<Mutex<ShardNumbers>>,
) -> Registration {
    let shard = shard.to_string();
    metrics.collect(move |out| {
        let n = *numbers.lock();
        let labels = [("shard", shard.as_str())];
        let mut counter = |name, help, value| out.counter(name, help, &labels, value);
        counter(
            "gb6_records_committed_total",
            "Records made durable.",
            n.counters.committed,
        );
        counter(
            "gb6_publishes_acknowledged_total",
            "Publishes acknowledged, duplicates and resends among them.",
            n.counters.acknowledged,
        );
        counter(
            "gb6_publishes_duplicate_total",
            "Publishes whose message id had been written.",
            n.counters.duplicates,
        );
        counter(
            "gb6_publishes_superseded_total",
            "Publishes that were not written because the room has a newer version.",
            n.counters.superseded,
        );
        counter(
            "gb6_resends_answered_total",
            "Resends of edges answered from the table of numbers.",
            n.counters.resends_answered,
        );
        counter(
            "gb6_outcomes_unknown_total",
            "Resends whose outcome could not be told.",
            n.counters.outcome_unknown,
        );
        counter(
            "gb6_publishes_storage_full_total",
            "Publishes refused because the disk was full.",
            n.counters.storage_full,
        );
        counter(
            "gb6_publishes_not_written_total",
            "Publishes answered with an internal error: their batch could not be sealed, or the log refused it.",
            n.counters.not_written,
        );
        counter(
            "gb6_deliveries_total",
            "Publications sent to edges.",
            n.counters.delivered,
        );
        counter(
            "gb6_signals_total",
            "Signals taken: publications that are kept nowhere.",
            n.counters.signals,
        );
        counter(
            "gb6_attachments_refused_total",
            "Attachments of edges refused or ended.",
            n.counters.refused,
        );
        counter(
            "gb6_edges_lagging_total",
            "Attachments ended because the edge read too slowly.",
            n.counters.lagging,
        );
        counter(
            "gb6_edge_leases_ended_total",
            "Leases of edges that ended.",
            n.counters.leases_ended,
        );
        counter(
            "gb6_session_ends_dropped_total",
            "Sessions that were not remembered, and ends of lost edges' sessions whose instance has moved.",
            n.counters.session_ends_dropped,
        );
        counter(
            "gb6_index_errors_total",
            "Errors of the room index.",
            n.index_errors,
        );
        let mut gauge = |name, help, value: f64| out.gauge(name, help, &labels, value);
        gauge(
            "gb6_shard_serving",
            "1 while the shard is served.",
            f64::from(u8::from(n.serving)),
        );
        gauge(
            "gb6_shard_read_only",
            "1 while the shard can only be read: its disk has no space to begin an ownership.",
            f64::from(u8::from(n.read_only)),
        );
        gauge(
            "gb6_shard_epoch",
            "The shard epoch of the current ownership.",
            n.shard_epoch as f64,
        );
        gauge(
            "gb6_shard_rooms",
            "Rooms that the shard knows.",
            n.gauges.rooms as f64,
        );
        gauge(
            "gb6_shard_inbox",
            "Publishes that wait for a batch.",
            n.gauges.inbox as f64,
        );
        gauge(
            "gb6_shard_edges",
            "Edges with a lease.",
            n.gauges.edges as f64,
        );
        gauge(
            "gb6_dedupe_ids",
            "Message ids remembered.",
            n.gauges.dedupe_ids as f64,
        );
        gauge(
            "gb6_dedupe_window_seconds",
            "How far back every message id is known, in seconds of served time.",
            n.gauges.dedupe_window_ms as f64 / 1000.0,
        );
        gauge(
            "gb6_prefixes",
            "Different prefixes of channel names that edges follow.",
            n.gauges.prefixes as f64,
        );
        gauge(
            "gb6_publish_numbers",
            "Sessions and rooms whose publish numbers are remembered.",
            n.gauges.numbers as f64,
        );
        gauge(
            "gb6_shard_users",
            "Users that edges have, counted once for each edge.",
            n.gauges.users as f64,
        );
        gauge(
            "gb6_sessions_known",
            "Sessions of whose ends somebody wants to hear.",
            n.gauges.sessions as f64,
        );
        gauge(
            "gb6_session_ends_waiting",
            "Ends of sessions that wait for a batch.",
            n.gauges.session_ends as f64,
        );
        gauge(
            "gb6_tail_bytes",
            "Bytes of recent records in memory.",
            n.tail_bytes as f64,
        );
        gauge(
            "gb6_log_next_position",
            "The position of the log's next record.",
            n.next_position as f64,
        );
        gauge(
            "gb6_index_position",
            "The position before which every record is indexed.",
            n.indexed as f64,
        );
        gauge(
            "gb6_checkpoint_position",
            "The position of the newest checkpoint.",
            n.checkpoint_position as f64,
        );
        gauge(
            "gb6_checkpoint_bytes",
            "Bytes of the state in the newest checkpoint.",
            n.checkpoint_bytes as f64,
        );
        gauge(
            "gb6_replayed_records",
            "Records behind the checkpoint that were read when the shard was last acquired.",
            n.replayed.records as f64,
        );
        gauge(
            "gb6_replayed_bytes",
            "Bytes of those records.",
            n.replayed.bytes as f64,
        );
        gauge(
            "gb6_recovery_seconds",
            "How long the last acquisition took: checkpoint, replay, acquire record.",
            n.recovery_ms as f64 / 1e3,
        );
    })
}
