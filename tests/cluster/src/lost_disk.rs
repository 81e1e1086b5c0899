//! A region on embedded logs whose disk is lost: it begins again from its archive on an empty one.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use gb6_core_wire::client::{Dialect, SubscribeRequest};
use gb6_tests_harness::client::{Session, read_log};
use gb6_tests_harness::history::{Publication, Recorder, fingerprint};
use gb6_tests_harness::process::{Mesh, MeshOptions, Metrics, PATIENCE};
use toml::{Table, Value};

use crate::load::{LONG, Load, target};

/// Rooms, enough for every shard to have some.
const ROOMS: usize = 12;
/// Publications of each room that are in the archive before the disk is lost.
const ARCHIVED: u64 = 60;
/// And those that come after the last copy was awaited.
const TAIL: u64 = 20;

/// What one room holds: id and data of each publication, by offset.
type Rooms = BTreeMap<String, Vec<Publication>>;

/// Loses the disk of a region whose logs are copied to `blobs` (the URI of `stores.blobs`), and checks what
/// clients see of it: everything that was archived is there as it was, ids and recovery included; of what
/// came later each room has a beginning; all goes on; and the old disk never comes back.
///
/// # Panics
/// Something of that is not so.
pub async fn lost_disk(name: &str, blobs: &str) {
    let blobs = Value::String(blobs.to_owned());
    let mut mesh = Mesh::start(MeshOptions {
        node: Box::new(move |name, config| {
            if name == "r1" {
                let stores = Table::from_iter([("blobs".to_owned(), blobs.clone())]);
                config.insert("stores".into(), stores.into());
                // Small, so that some are in the archive.
                let every = Value::String("5s".into());
                let shards = Table::from_iter([("checkpoint_interval".to_owned(), every)]);
                config.insert("shards".into(), shards.into());
            }
        }),
        ..MeshOptions::new(name)
    })
    .await
    .unwrap();
    let rooms: Vec<String> = (0..ROOMS).map(|n| format!("room:lost-{n}")).collect();
    let (writer, _pushes) = Session::connect(&target(&mesh, "e1", "writer", Dialect::Protobuf))
        .await
        .unwrap();
    for n in 1..=ARCHIVED {
        publish_to_all(&writer, &rooms, n).await;
    }
    until_archived(&mut mesh).await;
    let archived = held(&writer, &rooms).await;
    for n in ARCHIVED + 1..=ARCHIVED + TAIL {
        publish_to_all(&writer, &rooms, n).await;
    }
    let acknowledged = held(&writer, &rooms).await;
    let epoch = writer
        .history(&rooms[0], 0, None, false)
        .await
        .unwrap()
        .epoch;

    // As docs/operations.md says: an empty data directory with the keys of the records, and new edges.
    mesh.node("r1").kill().await.unwrap();
    let data = mesh.directory().join("r1");
    let old = mesh.directory().join("r1-old");
    exchange_disk(&data, &old);
    mesh.node("r1").start().unwrap();
    mesh.node("r1").ready(LONG).await.unwrap();
    for edge in ["e1", "e2"] {
        mesh.node(edge).kill().await.unwrap();
        mesh.node(edge).start().unwrap();
        mesh.node(edge).ready(PATIENCE).await.unwrap();
    }
    let (writer, _pushes) = Session::connect(&target(&mesh, "e1", "writer", Dialect::Protobuf))
        .await
        .unwrap();
    let found = held(&writer, &rooms).await;
    let mut lost = 0;
    for room in &rooms {
        let (found, before) = (&found[room], &acknowledged[room]);
        assert!(
            found.len() >= archived[room].len(),
            "{room}: archived, and lost"
        );
        assert_eq!(found[..], before[..found.len()], "{room} is another");
        lost += before.len() - found.len();
    }
    println!(
        "{lost} publications of {} were lost with the disk",
        TAIL as usize * ROOMS
    );

    // A client that was away recovers what it missed.
    let missed = subscribe_after(&writer, &rooms[0], ARCHIVED - 10, &epoch).await;
    let from = ARCHIVED as usize - 10;
    let wanted: Vec<u64> = found[&rooms[0]][from..].iter().map(|p| p.offset).collect();
    assert_eq!(missed, wanted);
    // Ids of what is there are known, and the others are new: so a publisher that repeats all of them, as
    // one that was not answered does, has everything there once.
    for n in 1..=ARCHIVED + TAIL {
        for room in &rooms {
            let published = publish(&writer, room, n).await;
            let known = n <= found[room].len() as u64;
            assert_eq!((published.0, published.1), (n, known), "{room}");
        }
    }
    let whole = held(&writer, &rooms).await;
    assert_eq!(whole, acknowledged);

    // It goes on, also through another start on the new disk.
    let load = Load::start(&mesh, "lost-load", 1, (4, 4), Duration::from_millis(2)).await;
    load.progress(20).await;
    mesh.node("r1").kill().await.unwrap();
    mesh.node("r1").start().unwrap();
    mesh.node("r1").ready(PATIENCE).await.unwrap();
    load.progress(20).await;
    load.finish(&mesh).await;
    let (reader, _pushes) = Session::connect(&target(&mesh, "e2", "reader", Dialect::Json))
        .await
        .unwrap();
    assert_eq!(held(&reader, &rooms).await, whole);

    // The old disk does not come back: the archive knows who went on.
    mesh.node("r1").kill().await.unwrap();
    std::fs::rename(&data, mesh.directory().join("r1-new")).unwrap();
    std::fs::rename(&old, &data).unwrap();
    mesh.node("r1").start().unwrap();
    let begun = Instant::now();
    let log = mesh.directory().join("r1.log");
    while !std::fs::read_to_string(&log)
        .unwrap()
        .contains("has gone on from the archive")
    {
        assert!(begun.elapsed() < LONG, "the old disk is served again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ready = mesh.node("r1").ready(Duration::from_secs(1)).await;
    assert!(ready.is_err(), "the old disk is served again");
}

/// Puts the disk of a region away, and an empty one in its place, with the keys of the records.
fn exchange_disk(data: &Path, old: &Path) {
    std::fs::rename(data, old).unwrap();
    std::fs::create_dir(data).unwrap();
    std::fs::copy(old.join("record-keys.json"), data.join("record-keys.json")).unwrap();
}

/// Waits until everything is in the archive. Nobody may write meanwhile.
async fn until_archived(mesh: &mut Mesh) {
    let address = mesh.node("r1").http();
    let begun = Instant::now();
    // Not at the first look, whose figures may be of before the last record.
    let mut seen = 0;
    while seen < 3 {
        let metrics = Metrics::read(address).await.unwrap();
        let behind = metrics.sum("gb6_archive_behind_records", &[]);
        seen = if behind == Some(0.0) { seen + 1 } else { 0 };
        assert!(begun.elapsed() < LONG, "{behind:?} are not archived");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn publish_to_all(session: &Session, rooms: &[String], n: u64) {
    for room in rooms {
        let (offset, duplicate) = publish(session, room, n).await;
        assert_eq!((offset, duplicate), (n, false), "{room}");
    }
}

/// The n-th publication of a room: its offset, and whether its id was known.
async fn publish(session: &Session, room: &str, n: u64) -> (u64, bool) {
    let id = format!("m{n}");
    let word = |i: u32| fingerprint(format!("{room} {n} {i}").as_bytes());
    let filling: String = (0..60).map(word).collect();
    let data = format!("{{\"n\":{n},\"filling\":\"{filling}\"}}");
    let published = session.room_publish(room, Some(&id), &data).await.unwrap();
    (published.offset, published.duplicate)
}

/// Everything that the rooms hold.
async fn held(session: &Session, rooms: &[String]) -> Rooms {
    let mut held = Rooms::new();
    for room in rooms {
        let content = read_log(session, "reader", room, false, &Recorder::new()).await;
        held.insert(room.clone(), content.unwrap().publications);
    }
    held
}

/// Subscribes as a client that has seen everything up to `offset`: the offsets that it is given.
async fn subscribe_after(session: &Session, room: &str, offset: u64, epoch: &str) -> Vec<u64> {
    let request = SubscribeRequest {
        channel: room.to_owned(),
        recover: true,
        recoverable: true,
        offset,
        epoch: epoch.to_owned(),
        ..SubscribeRequest::default()
    };
    let result = session.subscribe(request).await.unwrap();
    assert!(result.recovered, "{result:?}");
    result.publications.iter().map(|p| p.offset).collect()
}
