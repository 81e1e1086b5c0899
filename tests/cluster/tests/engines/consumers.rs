//! A region whose instance has a webhook and whose events are published, while the archive in which it is kept
//! how far both are is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gb6_tests_cluster::Rounds;
use gb6_tests_cluster::load::LONG;
use gb6_tests_harness::engines::Kind;
use gb6_tests_harness::process::Metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::brokers::leader;
use crate::world::{Extras, NODES, World};

/// A call of S3 that gets no answer takes 30 s: nothing that clients do waits for one.
const SERVED_AGAIN_MAX: Duration = Duration::from_secs(20);

/// Takes whatever it is told; counts the requests.
async fn receiver() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let taken = Arc::<AtomicU64>::default();
    let counted = taken.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(take(tcp, counted.clone()));
        }
    });
    (url, taken)
}

async fn take(mut tcp: TcpStream, taken: Arc<AtomicU64>) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?.to_lowercase();
        let (_, length) = head.split_once("content-length: ")?;
        let mut body = vec![0; length.lines().next()?.parse().ok()?];
        tcp.read_exact(&mut body).await.ok()?;
        tcp.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .ok()?;
        taken.fetch_add(1, Ordering::SeqCst);
    }
}

/// A metric of all nodes of the region that answer.
async fn sum(world: &World, name: &str) -> f64 {
    let mut sum = 0.0;
    for (node, address) in world.mesh.addresses() {
        if NODES.contains(&node)
            && let Ok(metrics) = Metrics::read(address).await
        {
            sum += metrics.sum(name, &[]).unwrap_or(0.0);
        }
    }
    sum
}

/// Waits until a metric of all nodes is as wanted.
async fn until(world: &World, name: &str, wanted: impl Fn(f64) -> bool) {
    let begun = Instant::now();
    loop {
        let value = sum(world, name).await;
        if wanted(value) {
            return;
        }
        assert!(begun.elapsed() < LONG, "{name} is {value}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: GB6_MATRIX=all scripts/test-engines.sh crash runs it"]
async fn shards_that_are_lost_do_not_wait_for_their_webhooks_and_events() {
    let rounds = Rounds::on_engines("shards_that_are_lost_do_not_wait", 1);
    let (url, taken) = receiver().await;
    let extras = Extras {
        brokers: true,
        webhook: Some(url),
        ..Extras::default()
    };
    let mut world = World::with("consumers", extras).await;
    let load = world.load("consumers", rounds.seed).await;
    load.progress(20).await;
    until(&world, "gb6_region_consumer_lists_stored_total", |n| {
        n > 0.0
    })
    .await;
    world.part(Kind::S3).front.cut();
    // Shards are lost. Their owners can read no checkpoint; their standbys need none.
    let leader = leader(&mut world).await;
    let broker = format!("broker-{leader}");
    let kafka = &world.part(Kind::Kafka).engine;
    kafka.kill_one(&broker).await.unwrap();
    let begun = Instant::now();
    load.progress(20).await;
    let took = begun.elapsed();
    println!("consumers: {broker} killed, 20 more of each publisher after {took:?}");
    assert!(took < SERVED_AGAIN_MAX, "{took:?}; {}", load.saved());
    // What waited goes on.
    world.part(Kind::S3).front.heal();
    world.part(Kind::Kafka).engine.restart().await.unwrap();
    load.progress(20).await;
    until(&world, "gb6_region_consumers_ending", |n| n == 0.0).await;
    let published = sum(&world, "gb6_events_published_total").await;
    until(&world, "gb6_events_published_total", |n| n > published).await;
    let before = taken.load(Ordering::SeqCst);
    load.finish(&world.mesh).await;
    // Its clients have left.
    let begun = Instant::now();
    while taken.load(Ordering::SeqCst) == before {
        assert!(begun.elapsed() < LONG, "the webhook is told nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until(&world, "gb6_events_behind_records", |n| n == 0.0).await;
}
