//! The index of a region may be deleted at any time: after retention has run, every kept message
//! is served as before.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{Session, read_log};
use gb6_tests_harness::history::{Publication, Recorder, fingerprint};
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE};
use toml::{Table, Value};

use gb6_tests_cluster::load::{Load, target};

/// Publications kept for each room.
const KEPT: i64 = 100;
/// Retention has a minute, and needs two checkpoints before it.
const RETENTION: Duration = Duration::from_secs(240);
/// Bytes of a shard's first segment that nothing was trimmed from: the log's default.
const FIRST_SEGMENT: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_messages_are_served_without_the_index() {
    let mut options = MeshOptions::new("index");
    options.snapshot = Box::new(|snapshot| {
        let room = &mut snapshot["instances"]["demo"]["namespaces"]["room"];
        room["history_size"] = Value::Integer(KEPT);
    });
    options.node = Box::new(|name, config| {
        if name == "r1" {
            let every = Value::String("5s".into());
            let shards = Table::from_iter([("checkpoint_interval".to_owned(), every)]);
            assert!(config.insert("shards".into(), shards.into()).is_none());
        }
    });
    let mut mesh = Mesh::start(options).await.unwrap();
    let (session, _pushes) = Session::connect(&target(&mesh, "e1", "writer", Dialect::Protobuf))
        .await
        .unwrap();
    // Rooms with few messages, which stay in the first segments: those are rewritten, not dropped.
    let few: Vec<String> = (0..8).map(|n| format!("room:index-few-{n}")).collect();
    for room in &few {
        for n in 0..20 {
            session
                .room_publish(room, None, &data_of(room, n))
                .await
                .unwrap();
        }
    }
    // Enough for several sealed segments, whose messages are nearly all trimmed.
    let many: Vec<String> = (0..4).map(|n| format!("room:index-{n}")).collect();
    for room in &many {
        for n in 0..600 {
            session
                .room_publish(room, None, &data_of(room, n))
                .await
                .unwrap();
        }
    }
    let shards = mesh.directory().join("r1/shards");
    let sealed = first_segments(&shards);
    assert!(!sealed.is_empty(), "no segment is sealed");
    let start = Instant::now();
    loop {
        let now = first_segments(&shards);
        let shrunk = |shard: &String| now.get(shard).is_none_or(|n| n * 2 < FIRST_SEGMENT);
        if sealed.keys().all(shrunk) {
            break;
        }
        assert!(
            start.elapsed() < RETENTION,
            "retention gave nothing back: {sealed:?} became {now:?}"
        );
        // Two checkpoints must be behind what is trimmed, and there is none without writing.
        for room in &many {
            session
                .room_publish(room, None, "{\"more\":true}")
                .await
                .unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let rooms = [few, many.clone()].concat();
    let before = kept(&session, &rooms).await;
    for room in &many {
        let (first, publications) = &before[room];
        assert!(*first > 500, "{first}");
        assert_eq!(publications.len() as i64, KEPT);
    }
    let index = mesh.directory().join("r1/rooms");
    assert!(index.is_dir(), "the index is elsewhere");
    // Under the running region: it builds the index again without a restart.
    std::fs::remove_dir_all(&index).unwrap();
    let start = Instant::now();
    while !index.is_dir() {
        assert!(start.elapsed() < PATIENCE, "the index is not made again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(kept(&session, &rooms).await, before);
    // And while it is down.
    mesh.node("r1").kill().await.unwrap();
    std::fs::remove_dir_all(&index).unwrap();
    mesh.node("r1").start().unwrap();
    mesh.node("r1").ready(PATIENCE).await.unwrap();
    let (session, _pushes) = Session::connect(&target(&mesh, "e2", "reader", Dialect::Json))
        .await
        .unwrap();
    let after = kept(&session, &rooms).await;
    assert_eq!(after, before);
    // And the region goes on.
    let load = Load::start(&mesh, "index-load", 1, (2, 2), Duration::from_millis(1)).await;
    load.progress(20).await;
}

/// Data that does not compress.
fn data_of(room: &str, n: u32) -> String {
    let word = |i: u32| fingerprint(format!("{room} {n} {i}").as_bytes());
    let filling: String = (0..300).map(word).collect();
    format!("{{\"n\":{n},\"filling\":\"{filling}\"}}")
}

/// The bytes of the first segment of each shard that has sealed it.
fn first_segments(shards: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for shard in std::fs::read_dir(shards).unwrap() {
        let shard = shard.unwrap();
        let names: Vec<_> = std::fs::read_dir(shard.path())
            .unwrap()
            .map(|f| f.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".seg"))
            .collect();
        if names.len() < 2 {
            continue;
        }
        // One that is being rewritten may be gone by now.
        let first = names
            .iter()
            .filter(|name| name.starts_with("0000000000000000"));
        let bytes = first.filter_map(|name| Some(shard.path().join(name).metadata().ok()?.len()));
        found.insert(
            shard.file_name().to_string_lossy().into_owned(),
            bytes.sum(),
        );
    }
    found
}

type Kept = BTreeMap<String, (u64, Vec<Publication>)>;

async fn kept(session: &Session, rooms: &[String]) -> Kept {
    let mut kept = Kept::new();
    for room in rooms {
        let start = Instant::now();
        let content = loop {
            match read_log(session, "reader", room, true, &Recorder::new()).await {
                Ok(content) => break content,
                // The index is being built.
                Err(e) if e.code() == 100 && start.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => panic!("{room} can not be read: {e}"),
            }
        };
        kept.insert(room.clone(), (content.first, content.publications));
    }
    kept
}
