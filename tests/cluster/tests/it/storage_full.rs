//! A full disk: publishes are refused with 1001, reads go on, and writing resumes by itself.

use std::time::{Duration, Instant};

use gb6_core_model::codes::ErrorCode;
use gb6_core_wire::client::Dialect;
use gb6_tests_cluster::{Disk, Volume};
use gb6_tests_harness::client::{Session, read_log};
use gb6_tests_harness::history::{Message, Recorder, What, fingerprint};
use gb6_tests_harness::process::{Mesh, MeshOptions, target_dir};

use crate::load::{LONG, target};

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
    let ballast = disk.path().join("ballast");
    fill(&ballast);
    let start = Instant::now();
    while publish().await != Err(full) {
        assert!(start.elapsed() < LONG, "the disk does not get full");
    }
    for _ in 0..3 {
        assert_eq!(publish().await, Err(full));
    }
    let before = session.history(ROOM, -1, None, false).await.unwrap();
    assert!(before.publications.len() >= 10);

    std::fs::remove_file(&ballast).unwrap();
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

/// Writes until nothing fits any more.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let block = vec![7; 64 * 1024];
    while file.write_all(&block).is_ok() {}
}
