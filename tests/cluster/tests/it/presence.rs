//! Presence heals: the people of a dead edge are gone within its lease, and an owner that restarts
//! has the living ones back within it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gb6_core_model::limits::EDGE_LEASE_MS;
use gb6_core_wire::client::{Dialect, SubscribeRequest};
use gb6_tests_harness::client::{Push, Session};
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE};
use tokio::sync::mpsc;

use gb6_tests_cluster::load::target;

const ROOM: &str = "room:people";
/// The lease, and what a busy machine may add.
const LEASE: Duration = Duration::from_millis(EDGE_LEASE_MS + 5_000);

async fn person(mesh: &Mesh, edge: &str, user: &str) -> (Session, mpsc::Receiver<Push>) {
    let target = target(mesh, edge, user, Dialect::Json);
    let (session, pushes) = Session::connect(&target).await.unwrap();
    let request = SubscribeRequest {
        channel: ROOM.into(),
        ..SubscribeRequest::default()
    };
    session.subscribe(request).await.unwrap();
    (session, pushes)
}

async fn present(session: &Session) -> Option<BTreeSet<String>> {
    let presence = session.presence(ROOM).await.ok()?;
    Some(presence.presence.into_values().map(|i| i.user).collect())
}

/// Waits until exactly these are present, and returns how long it took.
async fn until_present(session: &Session, users: &[&str], patience: Duration) -> Duration {
    let wanted: BTreeSet<String> = users.iter().map(|u| (*u).to_owned()).collect();
    let start = Instant::now();
    loop {
        let now = present(session).await;
        if now.as_ref() == Some(&wanted) {
            return start.elapsed();
        }
        assert!(start.elapsed() < patience, "{now:?} and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_edge_and_a_restarted_owner() {
    let mut mesh = Mesh::start(MeshOptions::new("presence")).await.unwrap();
    let (_alice, _pushes) = person(&mesh, "e1", "alice").await;
    let (bob, mut pushes) = person(&mesh, "e2", "bob").await;
    until_present(&bob, &["alice", "bob"], PATIENCE).await;

    // The owner forgets everything and is told again; nobody sees a join or a leave of it.
    mesh.node("r1").kill().await.unwrap();
    mesh.node("r1").start().unwrap();
    mesh.node("r1").ready(PATIENCE).await.unwrap();
    until_present(&bob, &["alice", "bob"], LEASE).await;
    let mut moves = Vec::new();
    while let Ok(push) = pushes.try_recv() {
        if let Push::Push(push) = push {
            moves.extend(push.leave.and_then(|l| l.info).map(|i| i.user));
        }
    }
    assert!(moves.is_empty(), "{moves:?} left, and they did not");

    mesh.node("e1").kill().await.unwrap();
    until_present(&bob, &["bob"], LEASE).await;
    let left = async {
        loop {
            if let Some(Push::Push(push)) = pushes.recv().await
                && let Some(leave) = push.leave
            {
                return leave.info.map(|i| i.user);
            }
        }
    };
    let left = tokio::time::timeout(PATIENCE, left).await.unwrap();
    assert_eq!(left.as_deref(), Some("alice"));
}
