//! A disk that fills up under Kafka, one under PostgreSQL while a node dies, and one under TiKV while much is
//! written. The others are cells of the matrix.

use std::time::{Duration, Instant};

use gb6_tests_cluster::load::LONG;
use gb6_tests_harness::engines::Kind;
use gb6_tests_harness::process::{PATIENCE, ProcessError};

use crate::faults::Fault;
use crate::full;
use crate::old::{Old, SHARDS};
use crate::seen::{self, Reads};
use crate::world::{Extras, NODES, World};

/// A broker whose disk is full ends itself. Publishes wait for it, and nothing is lost when there is space
/// again and it was started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_kafka_is_full() {
    let extras = Extras {
        disks: vec![Kind::Kafka],
        ..Extras::default()
    };
    let mut world = World::with("kafka-full", extras).await;
    let load = world.load("kafka-full", 1).await;
    load.progress(20).await;
    let begun = Instant::now();
    while !world.part(Kind::Kafka).engine.pids().is_empty() {
        // What the broker deletes meanwhile is space again.
        let disk = world.part(Kind::Kafka).disk.as_ref().unwrap();
        disk.fill(0).unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the broker goes on without space"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("disk full: the broker ended after {:?}", begun.elapsed());
    let part = world.part(Kind::Kafka);
    part.disk.as_ref().unwrap().make_room().unwrap();
    part.engine.restart().await.unwrap();
    load.progress(20).await;
    load.finish(&world.mesh).await;
}

/// Without space in PostgreSQL nothing new is agreed on: the shards of a node that dies have no owner
/// until there is some, and a node that starts meanwhile waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: GB6_MATRIX=all scripts/test-engines.sh crash runs it"]
async fn a_node_dies_while_the_disk_of_the_map_is_full() {
    let extras = Extras {
        disks: vec![Kind::Postgres],
        ..Extras::default()
    };
    let mut world = World::with("map-full", extras).await;
    let load = world.load("map-full", 1).await;
    load.progress(20).await;
    for name in NODES {
        world.until_owner(name).await;
    }
    let full = Fault::Full(Duration::from_secs(8));
    full::begin(&mut world, Kind::Postgres, full).await;
    let from = load.recorder.len();
    load.progress(20).await;
    let before = seen::Publishes::of(&load.recorder.since(from));
    assert!(before.codes.is_empty(), "{:?}", before.codes);

    world.mesh.node("r1").kill().await.unwrap();
    let from = load.recorder.len();
    let died = Instant::now();
    world.mesh.node("r1").start().unwrap();
    tokio::time::sleep(full.lasts()).await;
    let owned = world.owned().await;
    assert!(owned < f64::from(SHARDS), "{owned} shards have an owner");
    full::end(&mut world, Kind::Postgres).await;
    let room = Instant::now();
    load.progress(20).await;
    println!(
        "map full: {owned} of {SHARDS} shards had an owner for {:?}, all {:?} after there was space",
        room - died,
        room.elapsed()
    );
    let seen = seen::Publishes::of(&load.recorder.since(from));
    println!(
        "map full: publishes: longest {:?}, {}",
        seen.longest,
        seen::counted(&seen.codes)
    );
    match world.mesh.node("r1").ready(PATIENCE).await {
        Ok(()) => println!("map full: r1 waited for space"),
        Err(ProcessError::Ended { .. }) => world.node_back("r1").await,
        Err(error) => panic!("{error}"),
    }
    world.until_owner("r1").await;
    load.progress(20).await;
    load.finish(&world.mesh).await;
}

/// What TiKV has no space for is read as long as it is in memory, and otherwise waits. With space again it
/// is indexed from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: GB6_MATRIX=all scripts/test-engines.sh crash runs it"]
async fn what_was_written_while_the_disk_of_tikv_is_full() {
    let extras = Extras {
        disks: vec![Kind::Tikv],
        ..Extras::default()
    };
    let mut world = World::with("index-full", extras).await;
    let load = world.load("index-full", 1).await;
    load.progress(20).await;
    let full = Fault::Full(Duration::ZERO);
    full::begin(&mut world, Kind::Tikv, full).await;
    let from = load.recorder.len();
    let old = Old::publish(&world, "index-full", 0).await;
    let reads = Reads::of(&world, &load, &old.any()).await;
    println!(
        "index full: recent history: {}, old: {} in {:?}",
        seen::answers(&reads.recent),
        seen::answers(&reads.old),
        reads.longest
    );
    assert!(reads.recent.iter().all(Result::is_ok));
    assert!(reads.old.iter().all(|answer| *answer == Err(100)));
    full::end(&mut world, Kind::Tikv).await;
    let room = Instant::now();
    loop {
        let reads = Reads::of(&world, &load, &old.any()).await;
        if reads.old.iter().all(Result::is_ok) {
            break;
        }
        assert!(room.elapsed() < LONG, "{}", seen::answers(&reads.old));
    }
    println!(
        "index full: read {:?} after there was space",
        room.elapsed()
    );
    old.check(&world).await;
    load.progress(20).await;
    let publishes = seen::Publishes::of(&load.recorder.since(from));
    println!("index full: longest publish {:?}", publishes.longest);
    assert!(publishes.codes.is_empty(), "{:?}", publishes.codes);
    load.finish(&world.mesh).await;
}
