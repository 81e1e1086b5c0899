//! A disk that fills up under Kafka.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use gb6_tests_cluster::{Disk, Volume};
use gb6_tests_harness::engines::Kind;
use gb6_tests_harness::process::target_dir;

use crate::world::{Extras, World};

/// A broker whose disk is full ends itself. Publishes wait for it, and nothing is lost when there is space
/// again and it was started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_kafka_is_full() {
    let disk = match Disk::new(Volume::Tmpfs { mib: 256 }, &target_dir().join("test-data")) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    };
    let place = disk.path().join("kafka");
    let extras = Extras {
        kafka: Some(place),
        ..Extras::default()
    };
    let mut world = World::with("kafka-full", extras).await;
    let load = world.load("kafka-full", 1).await;
    load.progress(20).await;
    let ballast = disk.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let block = vec![b'x'; 1 << 16];
    // Ends at a full disk.
    while file.write_all(&block).is_ok() {}
    let begun = Instant::now();
    while !world.part(Kind::Kafka).engine.pids().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the broker goes on without space"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("disk full: the broker ended after {:?}", begun.elapsed());
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    world.part(Kind::Kafka).engine.restart().await.unwrap();
    load.progress(20).await;
    load.finish(&world.mesh).await;
    drop(world);
}
