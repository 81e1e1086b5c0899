//! Measures the room store on TiKV beside the embedded one, in one run: writes of 256 entries, as the
//! indexer makes them, and reads of 100, as history does.
//!
//!     GB6_TEST_TIKV=HOST:PORT cargo run --release -p gb6-region-stores-tikv --features engine-tests \
//!         --example rooms-bench
//!
//! Against the double of TiKV in `tests/engines` it measures the client and the double, not TiKV.

use std::env;
use std::error::Error;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::rooms::room;
use gb6_core_ports::{RoomEntry, RoomStore};
use gb6_region_stores_embedded::{FjallRooms, RoomsConfig};
use gb6_region_stores_tikv::{Config, TikvRooms};

const SHARD: ShardId = ShardId(0);
const BATCHES: u64 = 200;
const BATCH: u64 = 256;
const READS: u64 = 1000;
const READ: usize = 100;

/// How the entries of a batch are spread.
const ROOMS: [(&str, u64); 3] = [("one room", 1), ("16 rooms", 16), ("256 rooms", 256)];

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("GB6_TEST_TIKV")
        .map_err(|_| "GB6_TEST_TIKV=HOST:PORT does not say where PD is: see `make engines`")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    println!(
        "| store | entries of a batch in | write of {BATCH}: p50, p99 ms | entries/s | read of {READ}: p50, p99 ms |"
    );
    println!("|---|---|---|---|---|");
    for (name, rooms) in ROOMS {
        let directory = tempfile::tempdir()?;
        let embedded = FjallRooms::open(&directory.path().join("rooms"), RoomsConfig::default())?;
        measure("embedded", name, rooms, &embedded)?;
        let config = Config::parse(&format!(
            "tikv://{address}?prefix=bench{now}-{rooms}&gc=off"
        ))?;
        let tikv = TikvRooms::open(config, "bench", &Metrics::bare())?;
        measure("TiKV", name, rooms, &tikv)?;
    }
    Ok(())
}

fn measure(
    store: &str,
    name: &str,
    rooms: u64,
    index: &dyn RoomStore,
) -> Result<(), Box<dyn Error>> {
    // Connections and files are made first.
    index.applied(SHARD)?;
    let keys: Vec<_> = (0..rooms)
        .map(|n| room("bench", &format!("room:{n}")))
        .collect();
    let each = BATCH / rooms;
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for batch in 0..BATCHES {
        let from = batch * BATCH;
        let entries: Vec<RoomEntry> = (0..BATCH)
            .zip(keys.iter().cycle())
            .map(|(n, key)| RoomEntry {
                room: key.clone(),
                offset: batch * each + n / rooms + 1,
                position: from + n,
            })
            .collect();
        let began = Instant::now();
        index.put(SHARD, &entries, from, from + BATCH)?;
        writes.push(began.elapsed());
    }
    let rate = (BATCHES * BATCH) as f64 / began.elapsed().as_secs_f64();
    let mut random = Random::new(1);
    let newest = BATCHES * each;
    for _ in 0..READS {
        let key = &keys[random.below(rooms) as usize];
        let low = random.below(newest.saturating_sub(READ as u64) + 1) + 1;
        let began = Instant::now();
        let found = index.forward(SHARD, key, low, READ)?;
        reads.push(began.elapsed());
        if found.len() as u64 != (newest + 1 - low).min(READ as u64) {
            return Err(format!("{} entries from {low} of {newest}", found.len()).into());
        }
    }
    println!(
        "| {store} | {name} | {} | {rate:.0} | {} |",
        shown(&mut writes),
        shown(&mut reads)
    );
    Ok(())
}

fn shown(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    format!("{:.2}, {:.2}", at(50), at(99))
}
