//! A full disk: publishes are refused with 1001, reads go on, and writing resumes by itself.

use std::time::{Duration, Instant};

use gb6_core_model::codes::ErrorCode;
use gb6_core_wire::client::{Dialect, SubscribeRequest};
use gb6_tests_cluster::{Disk, Volume};
use gb6_tests_harness::client::{Session, read_log};
use gb6_tests_harness::history::{Message, Recorder, What, fingerprint};
use gb6_tests_harness::process::{Mesh, MeshOptions, Metrics, PATIENCE, target_dir};

use gb6_tests_cluster::load::{LONG, target};

const ROOM: &str = "room:full";
const NAME: &str = "writer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_are_refused_and_reads_go_on() {
    let disk = match Disk::new(Volume::Tmpfs { mib: 96 }, &target_dir().join("test-data")) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    };
    let mut options = MeshOptions::new("full");
    options.region_data = Some(disk.path().join("r1"));
    let mesh = Mesh::start(options).await.unwrap();
    let recorder = Recorder::new();
    let client = What::Client {
        instance: "demo".into(),
        user: NAME.into(),
    };
    recorder.record(NAME, client);
    let (session, _pushes) = Session::connect(&target(&mesh, "e1", NAME, Dialect::Protobuf))
        .await
        .unwrap();
    let mut number = 0;
    let mut publish = async || {
        number += 1;
        let id = format!("m{number}");
        // Does not compress.
        let filling: String = (0..2_000)
            .map(|n| fingerprint(format!("{id} {n}").as_bytes()))
            .collect();
        let data = format!("{{\"id\":\"{id}\",\"filling\":\"{filling}\"}}");
        let message = Message {
            room: ROOM.into(),
            id: Some(id.clone()),
            data: fingerprint(data.as_bytes()),
        };
        recorder.record(NAME, What::Sent(message.clone()));
        let result = session.room_publish(ROOM, Some(&id), &data).await;
        let what = match &result {
            Ok(published) => What::Acknowledged {
                message,
                offset: Some(published.offset),
                epoch: published.epoch.clone(),
                duplicate: published.duplicate,
            },
            Err(error) => What::Failed {
                message,
                code: error.code(),
            },
        };
        recorder.record(NAME, what);
        result.map(|_| ()).map_err(|e| e.code())
    };
    let full = ErrorCode::StorageFull.code();
    for _ in 0..10 {
        publish().await.unwrap();
    }
    // Everything that is left, but for what a log needs to notice.
    disk.fill(0).unwrap();
    let start = Instant::now();
    while publish().await != Err(full) {
        assert!(start.elapsed() < LONG, "the disk does not get full");
    }
    for _ in 0..3 {
        assert_eq!(publish().await, Err(full));
    }
    let before = session.history(ROOM, -1, None, false).await.unwrap();
    assert!(before.publications.len() >= 10);

    disk.make_room().unwrap();
    let start = Instant::now();
    while publish().await.is_err() {
        assert!(start.elapsed() < LONG, "writing does not resume");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..5 {
        publish().await.unwrap();
    }
    read_log(&session, NAME, ROOM, false, &recorder)
        .await
        .unwrap();
    recorder.assert_kept(&target_dir().join("histories/full.jsonl"));
    drop(mesh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_starts_on_a_full_disk_serves_reads() {
    let disk = match Disk::new(Volume::Tmpfs { mib: 96 }, &target_dir().join("test-data")) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    };
    let mut options = MeshOptions::new("full-start");
    options.region_data = Some(disk.path().join("r1"));
    let mut mesh = Mesh::start(options).await.unwrap();
    let rooms: Vec<String> = (0..16).map(|n| format!("room:full-start-{n}")).collect();
    let (writer, _pushes) = Session::connect(&target(&mesh, "e1", "writer", Dialect::Protobuf))
        .await
        .unwrap();
    for n in 0..20 {
        for room in &rooms {
            let data = format!("{{\"n\":{n}}}");
            writer.room_publish(room, None, &data).await.unwrap();
        }
    }
    // One room has more than a region has in memory: its beginning is read through the index.
    let long = "room:full-start-long";
    for n in 0..1_500 {
        let filling: String = (0..200)
            .map(|i| fingerprint(format!("{n} {i}").as_bytes()))
            .collect();
        let data = format!("{{\"filling\":\"{filling}\"}}");
        writer.room_publish(long, None, &data).await.unwrap();
    }
    let beginning = async |session: &Session| {
        let page = session.history(long, 20, None, false).await.unwrap();
        let offsets = page.publications.iter().map(|p| p.offset);
        assert_eq!(
            offsets.collect::<Vec<u64>>(),
            (1..=20).collect::<Vec<u64>>()
        );
    };
    beginning(&writer).await;
    let full = ErrorCode::StorageFull.code();
    // Again and again: a start on a full disk must leave nothing behind that a later one needs.
    for round in 0..3 {
        mesh.node("r1").kill().await.unwrap();
        disk.fill(0).unwrap();
        mesh.node("r1").start().unwrap();
        mesh.node("r1").ready(PATIENCE).await.unwrap();
        let user = format!("reader-{round}");
        let (reader, _pushes) = Session::connect(&target(&mesh, "e2", &user, Dialect::Json))
            .await
            .unwrap();
        // The edge notices after a moment that the region is another one.
        let start = Instant::now();
        while reader.history(&rooms[0], 0, None, false).await.is_err() {
            assert!(start.elapsed() < LONG, "reading does not go on");
        }
        for room in &rooms {
            let page = reader.history(room, -1, None, false).await.unwrap();
            let offsets: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
            assert_eq!(offsets, (1..=20).collect::<Vec<u64>>(), "{room}");
            let refused = reader.room_publish(room, None, "{\"more\":true}").await;
            assert_eq!(refused.map_err(|e| e.code()).unwrap_err(), full, "{room}");
        }
        beginning(&reader).await;
        let subscribed = reader.subscribe(SubscribeRequest {
            channel: rooms[0].clone(),
            ..SubscribeRequest::default()
        });
        assert_eq!(subscribed.await.unwrap().offset, 20);
    }

    disk.make_room().unwrap();
    let (writer, _pushes) = Session::connect(&target(&mesh, "e1", "writer-2", Dialect::Protobuf))
        .await
        .unwrap();
    for room in &rooms {
        let start = Instant::now();
        let published = loop {
            match writer.room_publish(room, Some("once"), "{\"n\":20}").await {
                Ok(published) => break published,
                Err(_) => assert!(start.elapsed() < LONG, "writing does not resume"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(
            (published.offset, published.duplicate),
            (21, false),
            "{room}"
        );
    }
    for room in &rooms {
        let page = writer.history(room, -1, None, false).await.unwrap();
        assert_eq!(page.publications.len(), 21, "{room}");
    }
    beginning(&writer).await;
    let metrics = Metrics::read(mesh.node("r1").http()).await.unwrap();
    assert_eq!(metrics.sum("gb6_shard_read_only", &[]), Some(0.0));
    // A full disk is no damage.
    assert_eq!(metrics.sum("gb6_rooms_resets_total", &[]), Some(0.0));
}
