//! What the tests of the log share: small logs on a simulated disk.

use std::sync::Arc;

use gb6_core_ports::contract::log::LogFixture;
use gb6_core_ports::{Acquire, Fence, ShardLog, StoreError};
use gb6_core_wire::record::{Kind, Record};
use gb6_region_stores_embedded::sim_disk::{SimDisk, SimVfs};
use gb6_region_stores_embedded::{EmbeddedShardLog, LogConfig, RealVfs, SegmentedLog, Vfs};

/// Segments so small that every test goes through several.
pub(crate) fn small() -> LogConfig {
    LogConfig {
        segment_bytes_first: 4 * 1024,
        segment_bytes_max: 16 * 1024,
        index_every: 1024,
        batch_bytes_max: 8 * 1024,
        batch_records_max: 64,
        consumer_lag_bytes_max: 64 * 1024,
    }
}

/// A shard's directory on a simulated disk.
pub(crate) struct SimShard(pub(crate) SimDisk);

impl SimShard {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SimDisk::new(seed))
    }

    pub(crate) fn vfs(&self) -> SimVfs {
        self.0.dir("shard")
    }
}

impl LogFixture for SimShard {
    fn open(&self) -> Arc<dyn ShardLog> {
        Arc::new(EmbeddedShardLog::start(self.vfs(), small(), "test").expect("open"))
    }
}

/// A shard's directory on the real disk.
pub(crate) struct RealShard(pub(crate) tempfile::TempDir);

impl RealShard {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn vfs(&self) -> RealVfs {
        RealVfs::existing(self.0.path())
    }
}

impl LogFixture for RealShard {
    fn open(&self) -> Arc<dyn ShardLog> {
        Arc::new(EmbeddedShardLog::start(self.vfs(), small(), "test").expect("open"))
    }
}

/// Opens and acquires under the next free epoch.
pub(crate) fn owned<V: Vfs>(vfs: V, incarnation: u64) -> (SegmentedLog<V>, Fence) {
    let mut log = SegmentedLog::open(vfs, small()).expect("open");
    let fence = Fence {
        owner_incarnation: gb6_core_model::Incarnation(incarnation),
        ..gb6_core_ports::contract::log::fence(log.epoch().0 + 1)
    };
    log.acquire(&fence, Acquire::default()).expect("acquire");
    (log, fence)
}

/// The messages that a log holds, without acquire records: what clients were told about.
pub(crate) fn messages_of<V: Vfs>(log: &SegmentedLog<V>) -> Vec<Record> {
    try_messages_of(log).expect("read")
}

/// As [`messages_of`], for disks that may fail.
pub(crate) fn try_messages_of<V: Vfs>(log: &SegmentedLog<V>) -> Result<Vec<Record>, StoreError> {
    let reader = log.reader();
    let mut all = Vec::new();
    let mut from = log.range().first;
    while from < log.range().next {
        let page = reader.read(from, 100, 1 << 20)?;
        assert!(page.next > from, "no progress at {from}");
        from = page.next;
        all.extend(page.records);
    }
    for (n, pair) in all.windows(2).enumerate() {
        assert!(pair[0].position < pair[1].position, "order at {n}");
    }
    all.retain(|r| r.kind() == Kind::Message);
    Ok(all)
}
