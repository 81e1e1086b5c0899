//! A start after SIGKILL on a large log: what it reads is bounded by checkpoints, not by the log,
//! and the index of rooms is filled while the shards serve.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{InstanceId, NodeId};
use gb6_core_wire::client::Dialect;
use gb6_geo_config_plan::{DEMO_INSTANCE, DEMO_SHARDS, DemoMesh, demo_snapshot};
use gb6_tests_cluster::{Filling, fill};
use gb6_tests_harness::client::{Publisher, PublisherOptions, Session, Target, read_log};
use gb6_tests_harness::history::{Recorder, What};
use gb6_tests_harness::process::{DevOptions, DevServer, Metrics, PATIENCE, Scratch, target_dir};

use gb6_tests_cluster::load::LONG;

const MIB: u64 = 1024 * 1024;
/// Between two checkpoints of a shard.
const CHECKPOINT: u64 = 64 * MIB;
/// What a shard may write between the moment at which a checkpoint is due and its end.
const SLACK: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_log_is_served_at_once() {
    let mib = std::env::var("GB6_LOG_MIB").ok();
    let mib: u64 = mib.map_or(1024, |n| n.parse().unwrap());
    let scratch = Scratch::new("big-log").unwrap();
    let data = scratch.path().join("data");
    // The keys are made at the first start.
    let mut dev = DevServer::start(DevOptions::new(&data)).await.unwrap();
    dev.process.terminate();
    dev.process.wait(PATIENCE).await.unwrap();

    let began = Instant::now();
    let filling = Filling {
        snapshot: Arc::new(placement()),
        instance: InstanceId::from(DEMO_INSTANCE),
        rooms: 2000,
        shard_bytes: mib * MIB / u64::from(DEMO_SHARDS),
        uncovered_bytes: CHECKPOINT - 4 * MIB,
        seed: 7,
    };
    let filled = tokio::task::spawn_blocking(move || fill(&data, &filling));
    let filled = filled.await.unwrap().unwrap();
    println!(
        "{} records, {} MiB of log in {:?}",
        filled.records,
        filled.bytes / MIB,
        began.elapsed()
    );

    let began = Instant::now();
    dev.restart().await.unwrap();
    let took = began.elapsed();
    println!("ready after {took:?}, the index to be filled");
    assert!(took < promised(mib), "{took:?}");
    let behind = bounded(&dev).await;
    assert!(behind > filled.records / 2, "the index was waited for");

    // Killed while it writes, and while the index is filled.
    let recorder = Recorder::new();
    let rooms: Vec<String> = (0..8).map(|n| format!("room:big-{n}")).collect();
    let publishers: Vec<Publisher> = (0..8)
        .map(|n| {
            let name = format!("writer-{n}");
            let options = PublisherOptions {
                name: name.clone(),
                instance: DEMO_INSTANCE.into(),
                user: "alice".into(),
                targets: vec![target(&dev)],
                rooms: rooms.clone(),
                pause: Duration::ZERO,
                filling: 2000,
                seed: n,
            };
            Publisher::start(options, recorder.clone())
        })
        .collect();
    for publisher in &publishers {
        publisher.until_acknowledged(50, LONG).await.unwrap();
    }
    dev.process.kill().await.unwrap();
    let began = Instant::now();
    dev.restart().await.unwrap();
    let took = began.elapsed();
    println!("ready after SIGKILL after {took:?}");
    assert!(took < promised(mib), "{took:?}");
    bounded(&dev).await;
    for publisher in &publishers {
        let more = publisher.acknowledged() + 20;
        publisher.until_acknowledged(more, LONG).await.unwrap();
    }
    for publisher in publishers {
        publisher.stop().await.unwrap();
    }

    // What was written before any index knew it is served in the end, and what was acknowledged.
    let (session, _pushes) = Session::connect(&target(&dev)).await.unwrap();
    let (room, top) = filled.tops.iter().next().unwrap();
    let began = Instant::now();
    let page = loop {
        match session.history(room, 5, None, false).await {
            Ok(page) => break page,
            Err(e) if e.code() == 100 && began.elapsed() < LONG => {}
            Err(e) => panic!("{room} can not be read: {e}"),
        }
    };
    println!("the first messages are served {:?} later", began.elapsed());
    let offsets: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
    assert_eq!((offsets, page.offset), (vec![1, 2, 3, 4, 5], *top));
    until_indexed(&dev).await;
    let reader = "reads-everything";
    recorder.record(
        reader,
        What::Client {
            instance: DEMO_INSTANCE.into(),
            user: "alice".into(),
        },
    );
    for room in rooms {
        read_log(&session, reader, &room, false, &recorder)
            .await
            .unwrap();
    }
    recorder.assert_kept(&target_dir().join("histories/big-log.jsonl"));
}

/// How long a start may take. The promise is about the binary that people run and a log of 5 GiB;
/// a debug build replays what lies behind its checkpoints many times slower, and must only not read
/// the whole log.
fn promised(mib: u64) -> Duration {
    let released = std::env::var_os("GB6_BIN").is_some();
    match released && mib >= 5 * 1024 {
        true => Duration::from_secs(3),
        false => Duration::from_secs(30),
    }
}

/// Waits until the index knows every record.
async fn until_indexed(dev: &DevServer) {
    let began = Instant::now();
    while lag(&Metrics::read(dev.address).await.unwrap()) > 0 {
        assert!(began.elapsed() < LONG, "the index is not filled");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("everything is indexed {:?} later", began.elapsed());
}

/// Records that the index lacks.
fn lag(metrics: &Metrics) -> u64 {
    let sum = |name| metrics.sum(name, &[]).unwrap() as u64;
    sum("gb6_log_next_position").saturating_sub(sum("gb6_index_position"))
}

/// Checks that no shard has read more than lies between two checkpoints, and answers how many
/// records the index lacks.
async fn bounded(dev: &DevServer) -> u64 {
    let metrics = Metrics::read(dev.address).await.unwrap();
    for shard in 0..DEMO_SHARDS {
        let label = format!("shard=\"{shard}\"");
        let replayed = metrics.sum("gb6_replayed_bytes", &[&label]).unwrap() as u64;
        let state = metrics.sum("gb6_checkpoint_bytes", &[&label]).unwrap() as u64;
        // A large state is written less often.
        let bound = CHECKPOINT.max(2 * state) + SLACK;
        println!(
            "shard {shard}: {} kB replayed, {} kB of state",
            replayed / 1024,
            state / 1024
        );
        assert!(replayed <= bound, "{replayed} bytes, more than {bound}");
    }
    lag(&metrics)
}

/// Where `gb6 dev` places its rooms.
fn placement() -> Snapshot {
    let node = NodeId::from("dev");
    demo_snapshot(&DemoMesh {
        revision: 1,
        key_id: "any",
        secret: "any",
        region_node: &node,
        edge_node: &node,
    })
}

fn target(dev: &DevServer) -> Target {
    Target::new(&dev.ready.ws, &dev.ready.tokens["alice"], Dialect::Protobuf)
}
