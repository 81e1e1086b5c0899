//! Giving space back: trims, rewrites, erasures. Blocks; runs off the async threads, one at a time
//! for a shard.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gb6_core_ports::retention::retention_offset;
use gb6_core_ports::{Fence, Retain, ShardLog, StoreError};
use gb6_core_wire::mesh::RoomRef;
use gb6_core_wire::record::{Kind, Record};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::history::{Reader, is_at};
use crate::indexer::key_of;

/// Segments rewritten in one run: the disk is shared with commits.
const REWRITES_MAX: usize = 4;
/// How long a run that erases waits for the index, which is a moment behind the log.
const INDEX_WAIT: Duration = Duration::from_secs(4);
/// How often it looks.
const INDEX_POLL: Duration = Duration::from_millis(20);

/// What a run needs to know of the shard's state.
pub(crate) struct Plan {
    pub(crate) fence: Fence,
    /// First kept offsets of rooms of which something was trimmed.
    pub(crate) first: HashMap<(String, String), u64>,
    /// Messages to erase.
    pub(crate) erase: BTreeSet<(RoomRef, u64)>,
    /// Everything before this position is covered by each of the two kept checkpoints.
    pub(crate) settled: u64,
    /// The position of the log's next record.
    pub(crate) next: u64,
}

/// What a run did.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) erased: Vec<(RoomRef, u64)>,
    pub(crate) freed_bytes: u64,
}

impl Plan {
    fn first_kept(&self, instance: &str, channel: &str) -> u64 {
        let key = (instance.to_owned(), channel.to_owned());
        self.first.get(&key).copied().unwrap_or(1)
    }

    fn retain(&self, record: &Record) -> Retain {
        use gb6_core_ports::retention::RetentionOffset;
        match retention_offset(record) {
            RetentionOffset::Room(offset)
                if offset < self.first_kept(&record.instance, &record.channel) =>
            {
                Retain::Drop
            }
            // A segment is rewritten when all consumers have passed it.
            RetentionOffset::Settled if record.kind() == Kind::Session => Retain::Drop,
            _ if self.is_erased(record) => Retain::Erase,
            _ => Retain::Keep,
        }
    }

    fn is_erased(&self, record: &Record) -> bool {
        record.takes_offset()
            && !self.erase.is_empty()
            && self.erase.contains(&(
                RoomRef {
                    instance: record.instance.clone(),
                    channel: record.channel.clone(),
                },
                record.offset,
            ))
    }

    /// What a rewrite for an erasure does: such a segment may hold records that no checkpoint
    /// covers, so everything else stays.
    fn erase_only(&self, record: &Record) -> Retain {
        if self.is_erased(record) {
            Retain::Erase
        } else {
            Retain::Keep
        }
    }
}

/// A run that goes on beside the actor. Without it the run ends before its next segment.
pub(crate) struct Running {
    pending: oneshot::Receiver<Result<Outcome, StoreError>>,
    stop: Arc<AtomicBool>,
}

impl Running {
    /// Begins a run. Must be called on a runtime.
    pub(crate) fn begin(reader: Arc<Reader>, plan: Plan) -> Self {
        let (done, pending) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = run(&reader, &plan, &stopped);
            // What it holds of the log goes before anybody hears that it has ended.
            drop(reader);
            // The actor polls for it, or has ended.
            let _ = done.send(outcome);
        });
        Self { pending, stop }
    }

    /// What it came to: `None` while it goes on.
    pub(crate) fn poll(&mut self) -> Option<Result<Outcome, StoreError>> {
        match self.pending.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(StoreError::Unavailable {
                cause: "the run ended without an answer".into(),
            })),
        }
    }

    /// Ends it and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        // What it did is done again at the next start, where a checkpoint does not know of it.
        let _ = (&mut self.pending).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Erases, rewrites and trims as planned, until `stop`.
fn run(reader: &Reader, plan: &Plan, stop: &AtomicBool) -> Result<Outcome, StoreError> {
    let stopped = || stop.load(Ordering::Acquire);
    let log: &dyn ShardLog = &*reader.log;
    let mut outcome = Outcome::default();
    if !plan.erase.is_empty() {
        // What it does not know yet would only be looked for in the next run.
        let until = Instant::now() + INDEX_WAIT;
        while reader.index.applied() < plan.next && Instant::now() < until && !stopped() {
            std::thread::sleep(INDEX_POLL);
        }
    }
    let mut rewritten = Vec::new();
    for (room, offset) in &plan.erase {
        if stopped() {
            return Ok(outcome);
        }
        let Some(position) = position_of(reader, room, *offset)? else {
            continue;
        };
        if let Some(segment) = log.seal_around(&plan.fence, position)?
            && !rewritten.contains(&segment)
        {
            rewritten.push(segment);
            outcome.freed_bytes +=
                log.rewrite(&plan.fence, segment, &mut |r| plan.erase_only(r))?;
        }
        outcome.erased.push((room.clone(), *offset));
    }
    let first_kept = |instance: &str, channel: &str| plan.first_kept(instance, channel);
    let found = log.plan_retention(&first_kept, plan.settled)?;
    if stopped() {
        return Ok(outcome);
    }
    log.trim(&plan.fence, found.trim_to)?;
    for segment in found.rewrite.iter().take(REWRITES_MAX) {
        if stopped() {
            return Ok(outcome);
        }
        if !rewritten.contains(&segment.segment) {
            let freed = log.rewrite(&plan.fence, segment.segment, &mut |r| plan.retain(r))?;
            outcome.freed_bytes += freed;
        }
    }
    if !found.waits_for.is_empty() {
        tracing::warn!(shard = %reader.shard, consumers = ?found.waits_for, "retention waits for log consumers");
    }
    Ok(outcome)
}

/// Where a message lies; `None` while the index does not know (a later run finds it).
fn position_of(reader: &Reader, room: &RoomRef, offset: u64) -> Result<Option<u64>, StoreError> {
    let Some(key) = key_of(&room.instance, &room.channel) else {
        return Ok(None);
    };
    let generation = reader.index.generation();
    let found = reader.rooms.forward(reader.shard, &key, offset, 1)?;
    let Some((_, position)) = found.first().filter(|(at, _)| *at == offset) else {
        return Ok(None);
    };
    let record = reader.log.read_at(&[*position])?.pop().flatten();
    if record.is_some_and(|record| !is_at(&record, room, offset)) {
        reader.index.distrust(generation);
        return Ok(None);
    }
    Ok(Some(*position))
}
