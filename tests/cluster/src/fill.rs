//! Logs as a region leaves them behind, written many times faster than clients could publish.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, InstanceId, ShardEpoch, ShardId};
use gb6_core_ports::{Acquire, Fence, ShardLog, StoreError, wait};
use gb6_core_wire::mesh::ShardRef;
use gb6_core_wire::record::{ContentType, Kind, Origin, RECORD_VERSION, Record};
use gb6_region_shard::{Shard, ShardConfig};
use gb6_region_stores_embedded::{DataDir, LogConfig};
use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bytes of one batch: one sync each.
const BATCH_BYTES: usize = 768 * 1024;
/// Bytes between two checkpoints, as a region makes them.
const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;
const INCARNATION: Incarnation = Incarnation(0xf111);

/// What to write for one instance.
#[derive(Clone, Debug)]
pub struct Filling {
    /// The placement: rooms go to the shards that it names.
    pub snapshot: Arc<Snapshot>,
    /// The instance.
    pub instance: InstanceId,
    /// Rooms; their names are `room:fill-0` and on.
    pub rooms: usize,
    /// Bytes of log for each shard.
    pub shard_bytes: u64,
    /// Bytes at the end of each shard's log that no checkpoint covers.
    pub uncovered_bytes: u64,
    /// The chance in it.
    pub seed: u64,
}

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// Records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The newest offset of each room.
    pub tops: BTreeMap<String, u64>,
}

/// Writes logs into the data directory of a `gb6 dev` or region that has ended: messages of 300
/// bytes to 8 kB, each with an id, and the checkpoints that a region would have made. The shards'
/// index of rooms is left behind.
///
/// # Errors
/// The directory is in use, or the disk fails.
pub fn fill(data_dir: &Path, filling: &Filling) -> Result<Filled, StoreError> {
    let dir = DataDir::open(data_dir)?;
    let mut rooms: BTreeMap<ShardRef, Vec<String>> = BTreeMap::new();
    for room in (0..filling.rooms).map(|n| format!("room:fill-{n}")) {
        if let Some(route) = filling.snapshot.route(&filling.instance, &room) {
            let shard = ShardRef {
                region: route.region,
                shard: route.shard.0,
            };
            rooms.entry(shard).or_default().push(room);
        }
    }
    let shards = std::thread::scope(|scope| {
        let filling_all: Vec<_> = rooms
            .into_iter()
            .map(|(shard, rooms)| {
                let dir = &dir;
                scope.spawn(move || {
                    let log = dir.shard_log(ShardId(shard.shard), LogConfig::default())?;
                    fill_shard(&log, shard, &rooms, filling)
                })
            })
            .collect();
        let ended = filling_all.into_iter().map(|shard| {
            shard.join().unwrap_or_else(|_| {
                Err(StoreError::Unavailable {
                    cause: "a thread that wrote panicked".into(),
                })
            })
        });
        ended.collect::<Result<Vec<Filled>, StoreError>>()
    })?;
    Ok(shards
        .into_iter()
        .fold(Filled::default(), |mut all, shard| {
            all.records += shard.records;
            all.bytes += shard.bytes;
            all.tops.extend(shard.tops);
            all
        }))
}

fn fill_shard(
    log: &dyn ShardLog,
    shard: ShardRef,
    rooms: &[String],
    filling: &Filling,
) -> Result<Filled, StoreError> {
    let mut filled = Filled::default();
    let mut random = StdRng::seed_from_u64(filling.seed ^ u64::from(shard.shard));
    let noise: Vec<u8> = (0..1024 * 1024)
        .map(|_| random.random_range(b'a'..=b'z'))
        .collect();
    let mut machine = Shard::new(ShardConfig::new(shard.clone()), filling.snapshot.clone());
    let mut from = log.range()?.first;
    loop {
        let page = log.read(from, 8192, 8 * 1024 * 1024)?;
        page.records.iter().for_each(|r| machine.replay(r));
        from = page.next;
        if from >= page.end {
            break;
        }
    }
    let (epoch, served_ms, _) = machine.log_state();
    let fence = Fence {
        region: shard.region.as_str().into(),
        shard: ShardId(shard.shard),
        shard_epoch: ShardEpoch(epoch + 1),
        owner_incarnation: INCARNATION,
    };
    let acquire = Acquire { time: 1, served_ms };
    let acquired = wait(|done| log.acquire(fence.clone(), acquire, done))?;
    machine.replay(&acquired.record);
    let mut tops: Vec<u64> = vec![0; rooms.len()];
    let mut position = acquired.range.next;
    let (mut written, mut checkpointed) = (0, 0);
    let last = filling.shard_bytes.saturating_sub(filling.uncovered_bytes);
    let mut covered = false;
    while written < filling.shard_bytes {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES {
            let room = random.random_range(0..rooms.len());
            tops[room] += 1;
            // As many short ones as long ones.
            let size = match random.random_range(0..2) {
                0 => random.random_range(300..8_000),
                _ => 300,
            };
            let at = random.random_range(0..noise.len() - size);
            let record = Record {
                version: RECORD_VERSION,
                kind: Kind::Message.into(),
                instance: filling.instance.to_string(),
                instance_epoch: 1,
                channel: rooms[room].clone(),
                offset: tops[room],
                position,
                shard_epoch: fence.shard_epoch.0,
                owner_incarnation: INCARNATION.0,
                time: 1_700_000_000_000 + position as i64,
                origin: Some(Origin {
                    user: "writer".into(),
                    number: tops[room],
                    ..Origin::default()
                }),
                client_id: position.to_be_bytes().to_vec().into(),
                content_type: ContentType::Json.into(),
                body: [b"\"", &noise[at..at + size], b"\""].concat().into(),
                served_ms: served_ms + 1,
                ..Record::default()
            };
            bytes += record.encoded_len();
            position += 1;
            machine.replay(&record);
            batch.push(record);
        }
        filled.records += batch.len() as u64;
        written += bytes as u64;
        wait(|done| log.append(&fence, batch, done))?;
        while machine.poll_output().is_some() {}
        let due = written - checkpointed >= CHECKPOINT_BYTES && !covered;
        if due || (written >= last && !covered) {
            let (position, state) = machine.checkpoint();
            log.save_checkpoint(position, &state)?;
            checkpointed = written;
            covered = written >= last;
        }
    }
    filled.bytes += written;
    filled
        .tops
        .extend(rooms.iter().cloned().zip(tops.iter().copied()));
    Ok(filled)
}
