//! How far the log is from the disk: commits of 1 and 256 records of 300 bytes beside a bare
//! write and fdatasync of as many bytes on a file of allocated blocks, alternating in one run;
//! then how long a log of some size takes to open.
//!
//! `cargo run --release -p gb6-region-stores-embedded --example append_floor -- [DIR] [MIB]`

use std::path::Path;
use std::time::{Duration, Instant};

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_ports::{Acquire, Fence, ShardLog, StoreError, wait};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};
use gb6_region_stores_embedded::{
    EmbeddedShardLog, LogConfig, RealVfs, SegmentedLog, Vfs, VfsFile,
};

const ROUNDS: usize = 2000;

fn record(position: u64) -> Record {
    Record {
        version: RECORD_VERSION,
        kind: Kind::Message as i32,
        instance: "demo".into(),
        channel: format!("room:{}", position % 64),
        offset: position,
        position,
        body: vec![b'x'; 300].into(),
        ..Record::default()
    }
}

fn fence(epoch: u64) -> Fence {
    Fence {
        region: "bench".into(),
        shard: ShardId(0),
        shard_epoch: ShardEpoch(epoch),
        owner_incarnation: Incarnation(epoch + 1),
    }
}

fn show(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{what:44} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    at(0.5)
}

fn io(e: std::io::Error) -> StoreError {
    StoreError::Io {
        operation: "prepare",
        path: "the benchmark's directory".into(),
        detail: e.to_string(),
    }
}

fn compare(dir: &Path, count: u64) -> Result<(), StoreError> {
    let vfs = RealVfs::create(&dir.join(format!("log-{count}"))).map_err(io)?;
    let log = EmbeddedShardLog::start(vfs, LogConfig::default(), "bench")?;
    let acquired = wait(|done| log.acquire(fence(1), Acquire::default(), done))?;
    let mut next = acquired.range.next;
    let bare = RealVfs::create(&dir.join("bare")).map_err(io)?;
    let name = format!("file-{count}");
    let file = bare.create(&name).map_err(io)?;
    let bytes = vec![7; 360 * count as usize];
    let size = 64 * 1024 * 1024;
    file.allocate(0, size).map_err(io)?;
    file.sync().map_err(io)?;
    let (mut ours, mut syncs, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        file.write_at(at, &bytes).map_err(io)?;
        file.sync().map_err(io)?;
        floor.push(began.elapsed());
        at = (at + bytes.len() as u64) % (size - bytes.len() as u64);
        let batch = (next..next + count).map(record).collect();
        let began = Instant::now();
        let commit = wait(|done| log.append(&fence(1), batch, done))?;
        ours.push(began.elapsed());
        syncs.push(Duration::from_micros(commit.sync_us));
        next = commit.next;
    }
    let floor = show(&format!("bare write and fdatasync, {count} x 300 B"), floor);
    let ours = show(&format!("log, append to answer, {count} x 300 B"), ours);
    show("log, write and sync alone", syncs);
    println!("ratio {:.2}", ours.as_secs_f64() / floor.as_secs_f64());
    Ok(())
}

fn opening(dir: &Path, mib: u64) -> Result<(), StoreError> {
    let path = dir.join("large");
    let mut log = SegmentedLog::open(RealVfs::create(&path).map_err(io)?, LogConfig::default())?;
    log.acquire(&fence(1), Acquire::default())?;
    let mut next = log.range().next;
    let began = Instant::now();
    while next * 350 < mib * 1024 * 1024 {
        next = log.commit((next..next + 2048).map(record).collect())?.next;
        log.run_jobs()?;
    }
    println!("wrote {mib} MiB in {:.1?}", began.elapsed());
    drop(log);
    let began = Instant::now();
    let mut log = SegmentedLog::open(RealVfs::existing(&path), LogConfig::default())?;
    println!("opened it in {:.1?}", began.elapsed());
    let began = Instant::now();
    log.acquire(&fence(2), Acquire::default())?;
    println!("acquired it in {:.1?}", began.elapsed());
    let reader = log.reader();
    let began = Instant::now();
    let page = reader.read(next / 2, 100_000, 64 * 1024 * 1024)?;
    println!(
        "read {} records in {:.1?}",
        page.records.len(),
        began.elapsed()
    );
    let hundred: Vec<u64> = (0..100).map(|n| next - 1 - n * 64).collect();
    let began = Instant::now();
    let found = reader.read_at(&hundred)?;
    println!("last {} of a room in {:.1?}", found.len(), began.elapsed());
    Ok(())
}

fn main() -> Result<(), StoreError> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| "append-floor-data".into());
    let mib = args.next().and_then(|m| m.parse().ok()).unwrap_or(512);
    compare(Path::new(&dir), 1)?;
    compare(Path::new(&dir), 256)?;
    opening(Path::new(&dir), mib)
}
