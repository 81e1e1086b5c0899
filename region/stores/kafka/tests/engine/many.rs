//! Many shards of one node: what they cost has bounds for the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::log::{acquire, append, fence, message};
use gb6_core_ports::{Fence, ShardLog};
use gb6_region_stores_kafka::KafkaShardLog;

use crate::cluster::Region;

const SHARDS: u32 = 64;
/// What they may keep together.
const NODE_CACHE_MIB: u64 = 16;

/// The threads of this process, by the beginning of their names.
fn threads() -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("Linux") {
        let name = task.expect("a thread").path().join("comm");
        // One may have ended meanwhile.
        if let Ok(name) = std::fs::read_to_string(name) {
            let name = name.trim().trim_end_matches(|c: char| c.is_ascii_digit());
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn fence_of(shard: u32, epoch: u64) -> Fence {
    Fence {
        shard: ShardId(shard),
        ..fence(epoch)
    }
}

fn metric(region: &Region, name: &str) -> u64 {
    let text = region.metrics.text();
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|value| value.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} in {text}"))
}

#[test]
fn sixty_four_shards_share_threads_and_memory_and_lose_nothing() {
    let options = format!("&node_cache_mib={NODE_CACHE_MIB}&cache_mib=4&archive_after_s=86400");
    let mut region = Region::new(&options);
    region.shards = SHARDS;
    let (owners, followers) = (region.logs(), region.logs());
    let before: usize = threads().values().sum();
    let open = |shard| owners.open_shard(ShardId(shard)).expect("opened");
    let logs: Vec<Arc<KafkaShardLog>> = (0..SHARDS).map(|shard| Arc::new(open(shard))).collect();
    // Each 1 MiB and more, in batches of 64 KiB: together four times what they may keep.
    let batches = 16;
    std::thread::scope(|scope| {
        for part in logs.chunks(16).zip(0..) {
            scope.spawn(move || {
                for (log, n) in part.0.iter().zip(0..) {
                    let fence = fence_of(part.1 * 16 + n, 1);
                    let mut next = acquire(&**log, &fence).expect("acquired").range.next;
                    for _ in 0..batches {
                        let batch = (next..next + 16).map(|at| message(at, "room:a", at, 4000));
                        next = append(&**log, &fence, batch.collect())
                            .expect("appended")
                            .next;
                    }
                }
            });
        }
    });
    let most = threads();
    let added = most.values().sum::<usize>() - before;
    println!("{added} more threads: {most:?}");
    assert!(added <= 64, "{added} more threads: {most:?}");
    assert_eq!(metric(&region, "gb6_kafka_followers "), 4);
    let deadline = Instant::now() + Duration::from_secs(20);
    let cached = || metric(&region, "gb6_kafka_memory_bytes{what=\"cached\"} ");
    while cached() > NODE_CACHE_MIB << 20 {
        assert!(Instant::now() < deadline, "{} bytes are kept", cached());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(cached() > 1 << 20, "something is kept");
    // What is not in memory is read, by whoever has them open.
    let next = 1 + 16 * batches;
    for (log, shard) in logs.iter().zip(0..) {
        assert_eq!(log.range().expect("range").next, next, "shard {shard}");
        let first = log.read(1, 16, 1 << 20).expect("read");
        assert_eq!(first.records.len(), 16, "shard {shard}");
        assert!(log.silence() < Duration::from_secs(3), "shard {shard}");
    }
    let read = metric(&region, "gb6_kafka_memory_bytes{what=\"read\"} ");
    assert!(read > 0, "pieces are counted");
    // They are followed by another node, and taken over.
    let open = |shard| followers.open_shard(ShardId(shard)).expect("opened");
    let following: Vec<KafkaShardLog> = (0..SHARDS).map(open).collect();
    for (log, shard) in logs.iter().zip(0..) {
        let batch = vec![message(next, "room:a", next, 10)];
        append(&**log, &fence_of(shard, 1), batch).expect("appended");
    }
    for (log, shard) in following.iter().zip(0..) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while log.range().expect("range").next <= next {
            assert!(Instant::now() < deadline, "shard {shard} is not followed");
            std::thread::sleep(Duration::from_millis(2));
        }
        let acquired = acquire(log, &fence_of(shard, 2)).expect("acquired");
        assert_eq!(acquired.record.position, next + 1, "shard {shard}");
    }
    for (log, shard) in logs.iter().zip(0..) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while log.confirm(&fence_of(shard, 1)).is_ok() {
            assert!(Instant::now() < deadline, "shard {shard} has two owners");
        }
    }
    drop((logs, following, owners, followers));
    let deadline = Instant::now() + Duration::from_secs(30);
    while cached() + metric(&region, "gb6_kafka_memory_bytes{what=\"read\"} ") > 0 {
        assert!(Instant::now() < deadline, "what is closed keeps memory");
        std::thread::sleep(Duration::from_millis(20));
    }
}
