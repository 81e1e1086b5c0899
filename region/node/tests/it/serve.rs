//! Publishing, delivery, history, restart, index loss, erasure.

use std::sync::atomic::Ordering;
use std::time::Instant;

use gb6_core_mesh::QueueLimits;
use gb6_core_model::snapshot::Namespace;
use gb6_core_model::{Channel, ChannelKey, ErrorCode, NodeId, Role, ShardId};
use gb6_core_ports::ShardLog;
use gb6_core_wire::mesh::{
    Attach, Class, EdgeFrame, HistoryPage, OwnerFrame, Publish, Purpose, StreamOpen, ToEdge,
    ToOwner,
};
use gb6_core_wire::record::flags;
use gb6_region_shard::{Admin, AdminOutcome};

use crate::edge::{Machine, PATIENCE, room, shard};

fn text(n: u64) -> String {
    format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(700))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_are_acknowledged_delivered_and_survive_a_restart() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    edge.send(OwnerFrame::Interest(room()));
    let interested = edge.next().await;
    assert!(matches!(interested, Some(EdgeFrame::Interested(i)) if i.top == 0 && i.first == 1));
    let mut watcher = machine.edge("e2").await;
    watcher.send(OwnerFrame::Interest(room()));
    assert!(matches!(
        watcher.next().await,
        Some(EdgeFrame::Interested(_))
    ));
    for n in 1..=50 {
        assert_eq!(edge.publish(1, n, text(n)).await, (n, 0));
    }
    for n in 1..=50 {
        match watcher.next().await {
            Some(EdgeFrame::Deliver(d)) => {
                assert_eq!(d.publication.offset, n);
                assert_eq!(d.publication.data, text(n));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    drop((edge, watcher));
    region.drain().await;

    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let page = edge.history(0, 300).await;
    let got: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
    assert_eq!(got, (1..=50).collect::<Vec<u64>>());
    assert_eq!(
        page.publications[6].data,
        text(7),
        "clear again, from a sealed record"
    );
    assert_eq!(
        edge.publish(1, 50, text(50)).await,
        (50, 0),
        "a resend finds its record"
    );
    assert_eq!(edge.publish(1, 51, text(51)).await, (51, 0));
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_index_is_rebuilt_while_the_shard_serves() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=20 {
        assert_eq!(edge.publish(1, n, text(n)).await, (n, 0));
    }
    drop(edge);
    region.drain().await;
    machine.rooms.clear(ShardId(0)).expect("cleared");
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(
        edge.publish(2, 1, text(21)).await,
        (21, 0),
        "serves at once"
    );
    let page = edge.history(0, 300).await;
    assert_eq!(page.error, 0);
    assert_eq!(page.publications.len(), 21);
    let part = edge.history(3, 4).await;
    let got: Vec<u64> = part.publications.iter().map(|p| p.offset).collect();
    assert_eq!(got, [4, 5, 6, 7]);
    // Memory had those; the index has them too, a moment later.
    let began = Instant::now();
    let key = ChannelKey::new("demo".into(), Channel::parse("room:1").expect("a channel"));
    loop {
        let found = machine.rooms.forward(ShardId(0), &key, 1, 100);
        if found.expect("an index").len() == 21 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the index is not built again");
        tokio::task::yield_now().await;
    }
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_message_keeps_its_offset_and_shows_nothing() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let message = |session: u64, number: u64, id: u64| Publish {
        session,
        number,
        settled_below: number,
        id: format!("id-{id}").into(),
        data: text(id).into(),
        ..Publish::default()
    };
    for n in 1..=5 {
        edge.publish_as(room(), message(1, n, n)).await;
    }
    edge.send(OwnerFrame::Interest(room()));
    assert!(matches!(edge.next().await, Some(EdgeFrame::Interested(_))));
    let erase = Admin::Erase {
        room: room(),
        offset: 3,
    };
    let outcome = region.admin(&shard(), erase).await.expect("an owner");
    assert!(matches!(outcome, AdminOutcome::Done(_)), "{outcome:?}");
    // The edge is told, so that it shows nothing of it from its memory.
    match edge.next().await {
        Some(EdgeFrame::Erased(e)) => assert_eq!((e.room, e.offset), (room(), 3)),
        other => panic!("unexpected {other:?}"),
    }
    let page = edge.history(0, 300).await;
    shows_nothing_of_the_third(&page);
    // Its segment is rewritten, and its owner starts again.
    let log = machine.storage.open();
    let began = Instant::now();
    let erased = loop {
        let records = log.read(0, 100, 1 << 20).expect("a page").records;
        let third = records
            .into_iter()
            .find(|r| r.offset == 3)
            .expect("a record");
        if third.flags & flags::ERASED != 0 {
            break third;
        }
        assert!(began.elapsed() < PATIENCE, "the segment is not rewritten");
        tokio::task::yield_now().await;
    };
    assert!(erased.body.is_empty() && erased.tags.is_empty());
    drop(edge);
    region.drain().await;
    // Without a checkpoint: the log alone says which message ids are known.
    while machine.storage.damage_newest_checkpoint().is_some() {}
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    shows_nothing_of_the_third(&edge.history(0, 300).await);
    let again = edge.publish_as(room(), message(2, 1, 3)).await;
    assert_eq!(again, (3, 0), "its id is still known");
    region.drain().await;
}

fn shows_nothing_of_the_third(page: &HistoryPage) {
    let third = &page.publications[2];
    assert_eq!(third.offset, 3);
    assert!(third.data.is_empty() && third.flags & flags::ERASED != 0);
    assert!(third.tags.is_empty(), "{:?}", third.tags);
    assert_eq!(page.publications[3].data, text(4));
    assert_eq!(page.publications[3].tags["id"], "id-4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_sealed_is_an_internal_error_and_no_full_disk() {
    let mut machine = Machine::new(Namespace::default());
    // Id 0 means clear: no key has it.
    machine.key_id = 0;
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=3 {
        let code = ErrorCode::Internal.code();
        assert_eq!(edge.publish(1, n, text(n)).await, (0, code));
    }
    drop(edge);
    region.drain().await;
    machine.key_id = 1;
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 4, text(4)).await, (1, 0));
    region.drain().await;
}

/// Another node has made the key, a moment ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_instances_key_nothing_of_it_is_written_or_taken_for_erased() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, text(1)).await, (1, 0));
    drop(edge);
    region.drain().await;
    machine.key_of = "other";
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let code = ErrorCode::Internal.code();
    let page = edge.history(0, 10).await;
    assert_eq!((page.error, page.publications.len()), (code, 0));
    let next = || machine.storage.open().range().expect("a range").next;
    let before = next();
    assert_eq!(edge.publish(1, 2, text(2)).await, (0, code));
    assert_eq!(next(), before, "nothing is written in the clear");
    let began = Instant::now();
    while machine.metric("gb6_publishes_not_written_total{shard=\"0\"}") < 1.0 {
        assert!(began.elapsed() < PATIENCE, "it is not counted");
        tokio::task::yield_now().await;
    }
    drop(edge);
    region.drain().await;
    machine.key_of = "demo";
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let page = edge.history(0, 10).await;
    assert_eq!((page.error, page.publications.len()), (0, 1));
    assert_eq!(page.publications[0].data, text(1));
    assert_eq!(edge.publish(1, 3, text(3)).await, (2, 0));
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_for_a_foreign_shard_is_refused() {
    use gb6_core_mesh::QueueLimits;
    use gb6_core_wire::mesh::{Purpose, RefusedReason, ShardRef, StreamOpen, ToEdge, ToOwner};
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let edge = machine.edge("e1").await;
    let open = StreamOpen {
        purpose: Some(Purpose::Shard(ShardRef {
            region: "eu".into(),
            shard: 9,
        })),
    };
    let stream = edge.link.open(open).await.expect("a stream");
    let (_sender, mut receiver) = stream.split::<ToOwner, ToEdge>(QueueLimits::default());
    let frame = tokio::time::timeout(PATIENCE, receiver.recv()).await;
    let frame = frame
        .expect("in time")
        .expect("a frame")
        .and_then(|f| f.frame);
    match frame {
        Some(EdgeFrame::Refused(r)) => assert_eq!(r.reason(), RefusedReason::NotOwner),
        other => panic!("unexpected {other:?}"),
    }
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_wait_for_the_index_leave_their_places_to_others() {
    let mut machine = Machine::new(Namespace::default());
    machine.stalled.store(true, Ordering::Relaxed);
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    // More than memory holds: the oldest can be found by the index alone.
    for n in 1..=120 {
        let data = format!("\"{}\"", "x".repeat(60_000));
        assert_eq!(edge.publish(1, n, data).await, (n, 0));
    }
    let deep: Vec<u64> = (0..40).map(|_| edge.ask_history(0, 5)).collect();
    // The newest are in memory, and answered while the others wait.
    for since in [110, 112, 114] {
        let newest = edge.ask_history(since, 5);
        let page = edge.page().await;
        assert_eq!((page.request, page.error), (newest, 0));
        assert_eq!(page.publications[0].offset, since + 1);
    }
    machine.stalled.store(false, Ordering::Relaxed);
    let mut answered = Vec::new();
    for _ in &deep {
        let page = edge.page().await;
        assert_eq!((page.error, page.publications[0].offset), (0, 1));
        answered.push(page.request);
    }
    answered.sort_unstable();
    assert_eq!(answered, deep);
}

/// A page ends at its bound in bytes, from memory and from the log, forwards and backwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_ends_at_its_bytes() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=150 {
        let data = format!("\"{}\"", "x".repeat(50_000));
        assert_eq!(edge.publish(1, n, data).await, (n, 0));
    }
    let key = ChannelKey::new("demo".into(), Channel::parse("room:1").expect("a channel"));
    let began = Instant::now();
    while machine
        .rooms
        .forward(ShardId(0), &key, 1, 150)
        .expect("an index")
        .len()
        < 150
    {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(began.elapsed() < PATIENCE, "the index follows");
    }
    for since in [0, 120] {
        let page = edge.history(since, 300).await;
        let bytes: usize = page.publications.iter().map(|p| p.size()).sum();
        assert_eq!(page.error, 0);
        assert_eq!(page.publications.len(), 10, "from {since}");
        assert!(bytes <= 512 * 1024 && bytes + page.publications[0].size() > 512 * 1024);
        let offsets = page.publications.iter().map(|p| p.offset);
        assert!(offsets.eq(since + 1..=since + 10));
    }
    let page = edge.history(140, 3).await;
    assert_eq!(page.publications.len(), 3, "or at its number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_role_is_served_nothing() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    for (role, refused) in [(Role::Geo, 1), (Role::Region, 2)] {
        let endpoint = machine.bind(&format!("other{refused}"), role);
        let region = NodeId::from("r1");
        let link = endpoint.dial(&region, None).await.expect("a valid peer");
        let open = StreamOpen {
            purpose: Some(Purpose::Shard(shard())),
        };
        let stream = link.open(open).await.expect("a stream");
        let (sender, mut receiver) = stream.split::<ToOwner, ToEdge>(QueueLimits::default());
        let attach = OwnerFrame::Attach(Attach {
            edge_incarnation: 1,
            revision: 1,
            shard_epoch: 0,
        });
        let attach = ToOwner {
            frame: Some(attach),
        };
        let _ = sender.try_send(Class::Control, attach);
        let answer = tokio::time::timeout(PATIENCE, receiver.recv()).await;
        let answer = answer.expect("the stream ends");
        assert!(!matches!(answer, Ok(Some(_))), "{role:?}: {answer:?}");
        let counted = format!("gb6_region_roles_refused_total {refused}");
        assert!(machine.metrics.text().lines().any(|line| line == counted));
    }
    // An edge is.
    machine.edge("e1").await;
}
