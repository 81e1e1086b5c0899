//! The index of a region may be deleted at any time: after retention has run, every kept message
//! is served as before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{Session, read_log};
use gb6_tests_harness::history::Recorder;
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE};
use toml::Value;

use crate::load::{Load, target};

/// Publications kept for each room.
const KEPT: i64 = 100;
/// Checkpoints and retention have a minute each.
const RETENTION: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_messages_are_served_without_the_index() {
    let mut options = MeshOptions::new("index");
    options.snapshot = Box::new(|snapshot| {
        let room = &mut snapshot["instances"]["demo"]["namespaces"]["room"];
        room["history_size"] = Value::Integer(KEPT);
    });
    let mut mesh = Mesh::start(options).await.unwrap();
    let (session, _pushes) = Session::connect(&target(&mesh, "e1", "writer", Dialect::Protobuf))
        .await
        .unwrap();
    let session = std::sync::Arc::new(session);
    // Enough for several sealed segments, whose messages are nearly all trimmed.
    let rooms: Vec<String> = (0..4).map(|n| format!("room:index-{n}")).collect();
    for room in &rooms {
        for n in 0..600 {
            let filling: String = (0..300)
                .map(|i| {
                    gb6_tests_harness::history::fingerprint(format!("{room} {n} {i}").as_bytes())
                })
                .collect();
            let data = format!("{{\"n\":{n},\"filling\":\"{filling}\"}}");
            session.room_publish(room, None, &data).await.unwrap();
        }
    }
    // The only sign from outside that segments are gone is that the log says so. A checkpoint must
    // be behind what is trimmed, and there is none without writing.
    let log = mesh.directory().join("r1.log");
    let start = Instant::now();
    while !std::fs::read_to_string(&log)
        .unwrap()
        .contains("space given back")
    {
        assert!(start.elapsed() < RETENTION, "retention gives no space back");
        for room in &rooms {
            session
                .room_publish(room, None, "{\"more\":true}")
                .await
                .unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let before = kept(&session, &rooms).await;
    for (first, publications) in before.values() {
        assert!(*first > 500, "{first}");
        assert_eq!(publications.len() as i64, KEPT);
    }
    let index = mesh.directory().join("r1/rooms");
    assert!(index.is_dir(), "the index is elsewhere");
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

type Kept = BTreeMap<String, (u64, Vec<gb6_tests_harness::history::Publication>)>;

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
