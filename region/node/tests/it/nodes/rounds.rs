//! Rounds of whatever happens to nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{NODES, SHARDS, World};

/// A small generator of random numbers (SplitMix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Publishes to every shard while nodes die, drain, come back and are cut off, one or two at a time:
/// each publish is in the log once, in order, and is answered with its offset. `GB6_SEED=n` repeats a
/// run.
#[test]
fn whatever_happens_to_nodes_each_publish_is_written_once_and_in_order() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("GB6_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.subsec_nanos().into())
    });
    // Said where the test fails.
    println!("GB6_SEED={seed}");
    let mut rng = Rng(seed);
    let world = World::new();
    let mut nodes = NODES.map(|name| Some(world.start(name)));
    {
        let [r1, r2, r3] = nodes.each_ref().map(|node| node.as_ref().expect("it runs"));
        world.settle(&[("r1", r1), ("r2", r2), ("r3", r3)]);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let edges: Vec<_> = (0..SHARDS)
        .map(|shard| {
            let mut edge = world.edge(&format!("e{shard}"), shard);
            let stop = stop.clone();
            world.runtime.spawn(async move {
                let mut expected = 0;
                while !stop.load(Ordering::SeqCst) {
                    let (_, offset) = edge.publish().await;
                    expected += 1;
                    assert_eq!(offset, expected, "shard {shard}");
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                edge
            })
        })
        .collect();
    for _ in 0..6 {
        let index = rng.below(3) as usize;
        let pause = Duration::from_millis(rng.below(2_500));
        match (rng.below(5), nodes[index].take()) {
            (0, Some(node)) => node.die(),
            (1, Some(mut node)) => {
                let region = node.region.take().expect("it runs");
                node.runtime
                    .as_ref()
                    .expect("it runs")
                    .block_on(region.drain());
            }
            (2, Some(node)) => {
                node.map_cut.store(true, Ordering::SeqCst);
                node.log_cut.store(true, Ordering::SeqCst);
                nodes[index] = Some(node);
            }
            (_, Some(node)) => {
                node.map_cut.store(true, Ordering::SeqCst);
                nodes[index] = Some(node);
            }
            (_, None) => {}
        }
        std::thread::sleep(pause);
        for (name, node) in NODES.iter().zip(&mut nodes) {
            let node = node.get_or_insert_with(|| world.start(name));
            node.map_cut.store(false, Ordering::SeqCst);
            node.log_cut.store(false, Ordering::SeqCst);
        }
    }
    let all = || nodes.iter().flatten();
    world.wait("every shard is served", || {
        let serving: f64 = all().map(|node| node.metric("gb6_shard_serving")).sum();
        serving == f64::from(SHARDS)
    });
    stop.store(true, Ordering::SeqCst);
    for edge in edges {
        let mut edge = world.runtime.block_on(edge).expect("a publisher");
        let data = world.runtime.block_on(edge.history());
        let sent = (1..=edge.number).map(|n| n.to_string());
        let differs = data.iter().zip(sent).position(|(data, sent)| *data != sent);
        assert_eq!(differs, None, "shard {}", edge.shard);
        assert_eq!(data.len() as u64, edge.number, "shard {}", edge.shard);
    }
}
