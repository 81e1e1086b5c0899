//! The disk of a region's node is full. On engines a node keeps nothing there but the placement.

use std::time::{Duration, Instant};

use gb6_tests_cluster::load::LONG;
use gb6_tests_harness::process::Metrics;
use toml::{Table, Value};

use crate::seen;
use crate::world::{Extras, World};

/// A placement that it can not keep a node works by all the same, and on a full disk it starts by the one
/// that it has kept before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: GB6_MATRIX=all scripts/test-engines.sh crash runs it"]
async fn the_disk_of_a_node_is_full() {
    let extras = Extras {
        node_disk: true,
        ..Extras::default()
    };
    let mut world = World::with("node-full", extras).await;
    let load = world.load("node-full", 1).await;
    load.progress(20).await;
    world.until_owner("r1").await;
    let from = load.recorder.len();
    world.node_disk.as_ref().unwrap().fill(0).unwrap();
    let kept = revision(&mut world).await;
    place_anew(&world, 1_000);
    until(&mut world, "gb6_snapshot_not_kept_total", 1.0).await;
    until(&mut world, "gb6_snapshot_revision", kept + 1.0).await;
    load.progress(20).await;
    let meanwhile = seen::Publishes::of(&load.recorder.since(from));
    println!("node full: longest {:?}", meanwhile.longest);
    assert!(meanwhile.codes.is_empty(), "{:?}", meanwhile.codes);

    world.mesh.node("r1").kill().await.unwrap();
    let started = Instant::now();
    world.node_back("r1").await;
    println!(
        "node full: r1 was ready {:?} after its start",
        started.elapsed()
    );
    world.until_owner("r1").await;
    load.progress(20).await;
    // It has heard of the newer one from geo, and still can not keep it.
    until(&mut world, "gb6_snapshot_revision", kept + 1.0).await;
    until(&mut world, "gb6_snapshot_not_kept_total", 1.0).await;
    world.node_disk.as_ref().unwrap().make_room().unwrap();
    place_anew(&world, 2_000);
    until(&mut world, "gb6_snapshot_revision", kept + 2.0).await;
    let not_kept = metric(&mut world, "gb6_snapshot_not_kept_total").await;
    assert_eq!(not_kept, Some(1.0), "there is space again");
    load.progress(20).await;
    load.finish(&world.mesh).await;
}

/// Changes the snapshot that geo reads.
fn place_anew(world: &World, connections_max: i64) {
    let file = world.mesh.directory().join("snapshot.toml");
    let mut snapshot: Table = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let demo = snapshot["instances"]["demo"].as_table_mut().unwrap();
    demo.insert("connections_max".into(), Value::Integer(connections_max));
    let new = file.with_extension("new");
    std::fs::write(&new, snapshot.to_string()).unwrap();
    std::fs::rename(&new, &file).unwrap();
}

/// Of r1.
async fn metric(world: &mut World, name: &str) -> Option<f64> {
    let metrics = Metrics::read(world.mesh.node("r1").metrics()).await;
    metrics.unwrap().sum(name, &[])
}

/// Of the placement that r1 works by.
async fn revision(world: &mut World) -> f64 {
    metric(world, "gb6_snapshot_revision").await.unwrap()
}

/// Waits until r1 says so much.
async fn until(world: &mut World, name: &str, value: f64) {
    let begun = Instant::now();
    loop {
        let now = metric(world, name).await;
        if now >= Some(value) {
            return;
        }
        assert!(begun.elapsed() < LONG, "{name} is {now:?}, and not {value}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
