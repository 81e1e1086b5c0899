//! The port `ShardLog`: the archive, and behind it the partition.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::{Position, ShardId};
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::{
    Acquire, Acquired, Commit, Completion, ConsumerState, Fence, LogCaps, LogRange, Page, Retain,
    RetentionPlan, ShardLog, StoreError,
};
use gb6_core_wire::record::Record;

use crate::client::ASK;
use crate::cluster::Cluster;
use crate::producer::is_answering;
use crate::reading::Reader;
use crate::seal::Sealer;
use crate::shared::{Shared, resume};
use crate::staging::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};

/// How long opening may take: the live part is read to its end.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// A shard's log on Kafka. Dropping it waits a moment for what was appended.
pub struct KafkaShardLog {
    shared: Arc<Shared>,
    sealer: Arc<Sealer>,
    reader: Arc<Reader>,
}

impl KafkaShardLog {
    pub(crate) fn open(cluster: Arc<Cluster>, shard: ShardId) -> Result<Self, StoreError> {
        let seat = cluster.lanes.join(shard.0 as i32)?;
        let archive = cluster.archives.open(shard)?;
        let (tail, first) = resume(&archive)?;
        let shared = Arc::new(Shared::new(cluster, shard, seat, archive, (tail, first)));
        shared.jump(ASK)?;
        let reader = Arc::new(Reader::new(shared.clone()));
        let sealer = Arc::new(Sealer::new(shared.clone(), reader.clone()));
        let log = Self {
            shared: shared.clone(),
            reader,
            sealer: sealer.clone(),
        };
        shared.begin(sealer)?;
        shared.catch_up(OPEN_PATIENCE)?;
        Ok(log)
    }
}

impl ShardLog for KafkaShardLog {
    fn caps(&self) -> LogCaps {
        LogCaps {
            durability: self.shared.cluster.config.durability(),
            batch_records_max: BATCH_RECORDS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            rewrite: true,
            exclusive: false,
        }
    }

    fn acquire(&self, fence: Fence, acquire: Acquire, done: Completion<Acquired>) {
        self.shared.acquire(fence, acquire, done);
    }

    fn append(&self, fence: &Fence, batch: Vec<Record>, done: Completion<Commit>) {
        self.shared.append(fence, batch, done);
    }

    fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.shared.confirm(fence)
    }

    fn range(&self) -> Result<LogRange, StoreError> {
        self.shared.live(|live| {
            live.check_whole()?;
            Ok(LogRange {
                first: live.first,
                next: live.tail().next,
            })
        })
    }

    fn silence(&self) -> Duration {
        self.shared.silence()
    }

    fn archived_before(&self) -> Position {
        self.shared.live_from()
    }

    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.reader.read(from, max_records, max_bytes)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        self.reader.read_at(positions)
    }

    fn trim(&self, fence: &Fence, to: Position) -> Result<Position, StoreError> {
        self.sealer.trim(fence, to)
    }

    fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        self.sealer.rewrite(fence, segment, retain)
    }

    fn seal_around(&self, fence: &Fence, position: Position) -> Result<Option<u64>, StoreError> {
        self.sealer.seal_around(fence, position)
    }

    fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.shared.archive.plan_retention(first_kept, settled)
    }

    fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        let fence = self.sealer.fence()?;
        self.shared
            .archive
            .register_consumer(&fence, name, position)
    }

    fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        let fence = self.sealer.fence()?;
        self.shared.archive.set_consumer(&fence, name, position)
    }

    fn set_consumers(&self, positions: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        let fence = self.sealer.fence()?;
        self.shared.archive.set_consumers(&fence, positions)
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        let fence = self.sealer.fence()?;
        self.shared.archive.remove_consumer(&fence, name)
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.shared.archive.consumers(self.shared.unarchived())
    }

    fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        self.sealer.save_checkpoint(position, state)
    }

    fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        // Another node may have saved one since.
        if self.sealer.fence().is_err() {
            self.shared.refresh()?;
        }
        let next = self.range()?.next;
        self.shared.archive.load_checkpoint_before(next, before)
    }
}

impl Drop for KafkaShardLog {
    fn drop(&mut self) {
        // What is under way is not waited for by who has to answer it.
        if !is_answering() {
            self.shared.settle(self.shared.cluster.config.timeout);
        }
        self.shared.stop();
        self.shared.change(|live| live.close());
    }
}
