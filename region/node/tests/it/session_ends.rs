//! Ends of sessions in a real region's log: each once, through a crash of the region and the loss of
//! an edge; and how long they stay there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Namespace;
use gb6_core_ports::ShardLog;
use gb6_core_ports::memory::{MemoryLogConfig, MemoryStorage};
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, SessionEnd, SessionHere, SessionsReport};
use gb6_core_wire::record::{Kind, SessionBody, SessionEvent};

use crate::edge::{Edge, Machine, PATIENCE};

const PROCESS: u64 = 7;

fn end(number: u64) -> SessionEnd {
    SessionEnd {
        number,
        of: here(number),
        instance_epoch: 1,
        event: SessionEvent::Disconnect.into(),
        code: 3001,
        ..SessionEnd::default()
    }
}

fn here(session: u64) -> SessionHere {
    SessionHere {
        session,
        instance: "demo".into(),
        user: "alice".into(),
        client: format!("c{session}"),
    }
}

fn report(edge: &Edge, here: Vec<SessionHere>, ended: Vec<SessionEnd>) {
    edge.send(OwnerFrame::Sessions(SessionsReport {
        process: PROCESS,
        here,
        complete: true,
        ended,
        elsewhere: Vec::new(),
    }));
}

/// The next ends that are answered; `None` at the end of the link.
async fn answered(edge: &mut Edge) -> Option<Vec<u64>> {
    loop {
        if let EdgeFrame::SessionsWritten(written) = edge.next().await? {
            assert!(written.moved.is_empty());
            return Some(written.numbers);
        }
    }
}

/// How often each session's end stands in a log, and with which code.
fn ends(storage: &MemoryStorage) -> BTreeMap<u64, Vec<u32>> {
    let log = storage.open();
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    let mut from = log.range().expect("a range").first;
    loop {
        let page = log.read(from, 1_000, 1 << 20).expect("a page").records;
        let Some(last) = page.last() else {
            return found;
        };
        from = last.position + 1;
        for record in page.iter().filter(|r| r.kind() == Kind::Session) {
            assert_eq!((record.channel.as_str(), record.offset), ("#alice", 0));
            let session = record.origin.as_ref().expect("an origin").session;
            let body = SessionBody::parse(&record.body).expect("a body");
            found.entry(session).or_default().push(body.code);
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} never came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_crashes_has_every_end_once() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let all: BTreeSet<u64> = (1..=300).collect();
    let mut known: BTreeSet<u64> = BTreeSet::new();
    for number in &all {
        report(&edge, Vec::new(), vec![end(*number)]);
        if number.is_multiple_of(100) {
            known.extend(answered(&mut edge).await.expect("an answer"));
        }
    }
    // The disk as it is in the middle of it.
    let mut after = Machine::new(Namespace::default());
    after.storage = machine.storage.copy();
    let kept: BTreeSet<u64> = ends(&after.storage).into_keys().collect();
    assert!(known.is_subset(&kept), "what was answered is durable");
    let second = after.start().await;
    let mut edge = after.edge("e1").await;
    let again: Vec<SessionEnd> = all.difference(&known).map(|n| end(*n)).collect();
    report(&edge, Vec::new(), again);
    while known.len() < all.len() {
        known.extend(answered(&mut edge).await.expect("an answer"));
    }
    let once: BTreeMap<u64, Vec<u32>> = all.iter().map(|n| (*n, vec![3001])).collect();
    assert_eq!(ends(&after.storage), once);
    second.drain().await;
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_is_lost_is_told_of_and_one_that_comes_back_is_not() {
    let mut machine = Machine::new(Namespace::default());
    machine.config.edge_lease = Duration::from_millis(1_500);
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let sessions: Vec<SessionHere> = (1..=3).map(here).collect();
    report(&edge, sessions.clone(), vec![end(9)]);
    assert_eq!(answered(&mut edge).await, Some(vec![9]));
    drop(edge);
    // The same life of the edge, before its lease has ended.
    let mut edge = machine.edge_again("e1").await;
    report(&edge, sessions[..2].to_vec(), vec![end(10)]);
    assert_eq!(answered(&mut edge).await, Some(vec![10]));
    assert_eq!(ends(&machine.storage).len(), 2);
    drop(edge);
    eventually("the end of the lease", || ends(&machine.storage).len() == 4).await;
    let wanted = [
        (1, vec![0]),
        (2, vec![0]),
        (9, vec![3001]),
        (10, vec![3001]),
    ];
    assert_eq!(ends(&machine.storage), BTreeMap::from(wanted));
    region.drain().await;
    assert_eq!(ends(&machine.storage).len(), 4, "and once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_go_when_checkpoints_cover_them_and_all_consumers_have_passed() {
    let mut machine = Machine::new(Namespace::default());
    machine.storage = MemoryStorage::new(MemoryLogConfig {
        segment_records: 4,
        ..MemoryLogConfig::default()
    });
    machine.config.checkpoint_interval = Duration::from_millis(50);
    machine.config.retention_interval = Duration::from_millis(10);
    let log = machine.storage.open();
    log.register_consumer("webhooks", 0).expect("registered");
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    // A message among them that stays.
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    for number in 1..=40 {
        report(&edge, Vec::new(), vec![end(number)]);
        while answered(&mut edge).await.expect("an answer") != [number] {}
    }
    // Two checkpoints behind all of them.
    let next = log.range().expect("a range").next;
    for number in 2..=3 {
        let before = |at: u64| log.load_checkpoint_before(at).expect("one").map(|(p, _)| p);
        edge.publish(1, number, "1".into()).await;
        eventually("a checkpoint", || {
            before(u64::MAX) >= Some(next + number - 1)
        })
        .await;
    }
    assert_eq!(
        ends(&machine.storage).len(),
        40,
        "a consumer has still to read them"
    );
    log.remove_consumer("webhooks").expect("removed");
    eventually("space", || ends(&machine.storage).len() <= 4).await;
    // The message stands where it stood.
    let page = edge.history(0, 10).await;
    let offsets: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
    assert_eq!(offsets, [1, 2, 3]);
    region.drain().await;
}
