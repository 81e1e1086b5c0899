//! Signals through a region: from one edge to all that want them, and never in the way of what must
//! not be missing.

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::{ChannelKind, Namespace};
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, Person, Presence, Publication, SignalPublish};

use crate::edge::{Edge, Machine, room};

pub(crate) fn signals() -> Namespace {
    Namespace {
        kind: ChannelKind::Signal,
        presence: true,
        join_leave: true,
        ..Namespace::default()
    }
}

pub(crate) fn signal(edge: &Edge, request: u64, data: String) {
    send(edge, request, data, false);
}

fn send(edge: &Edge, request: u64, data: String, unkept: bool) {
    edge.send(OwnerFrame::Signal(SignalPublish {
        request,
        unkept,
        room: room(),
        instance_epoch: 1,
        from: Person {
            user: "u".into(),
            client: "c".into(),
            ..Person::default()
        },
        data: data.into(),
        ..SignalPublish::default()
    }));
}

pub(crate) async fn next_publication(edge: &mut Edge) -> Publication {
    loop {
        match edge.next().await.expect("the link stays") {
            EdgeFrame::Deliver(deliver) | EdgeFrame::Signal(deliver) => {
                assert_eq!(deliver.room, room());
                return deliver.publication;
            }
            EdgeFrame::Refused(why) => panic!("{why:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_edge_that_wants_them_gets_them_in_order() {
    let mut machine = Machine::new(signals());
    let _region = machine.start().await;
    let mut here = machine.edge("e1").await;
    let mut there = machine.edge("e2").await;
    for edge in [&mut here, &mut there] {
        edge.send(OwnerFrame::Interest(room()));
        assert!(matches!(edge.next().await, Some(EdgeFrame::Interested(i)) if i.top == 0));
    }
    let began = std::time::SystemTime::now();
    let unix = began
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64;
    for n in 1..=200 {
        signal(&here, n, n.to_string());
    }
    for n in 1..=200 {
        for edge in [&mut here, &mut there] {
            let publication = next_publication(edge).await;
            assert_eq!(publication.data, n.to_string());
            assert_eq!(
                (publication.offset, publication.from.unwrap().client),
                (0, "c".into())
            );
            assert!(
                publication.time.abs_diff(unix) < 60_000,
                "{}",
                publication.time
            );
        }
    }
    // Nothing is kept, and who is present is told as in a stream.
    let page = here.history(0, 10).await;
    assert_eq!((page.top, page.publications.len(), page.error), (0, 0, 0));
    there.send(OwnerFrame::Present(Presence {
        room: room(),
        person: Person {
            client: "p".into(),
            ..Person::default()
        },
    }));
    while !matches!(here.next().await, Some(EdgeFrame::Join(p)) if p.person.client == "p") {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_reads_slowly_loses_signals_and_nothing_else() {
    let mut machine = Machine::new(signals());
    let _region = machine.start().await;
    let mut slow = machine.edge("e1").await;
    slow.send(OwnerFrame::Interest(room()));
    assert!(matches!(slow.next().await, Some(EdgeFrame::Interested(_))));
    let mut flood = machine.edge("e2").await;
    const SENT: u64 = 20_000;
    for n in 1..=SENT {
        signal(&flood, n, n.to_string());
        if n % 500 == 0 {
            // Its credit comes back with the answers.
            while !matches!(flood.next().await, Some(EdgeFrame::Published(p)) if p.request == n) {}
        }
    }
    // Somebody comes: of the same class, and not to be missed.
    flood.send(OwnerFrame::Present(Presence {
        room: room(),
        person: Person {
            client: "last".into(),
            ..Person::default()
        },
    }));
    let mut got = Vec::new();
    loop {
        match slow.next().await.expect("the link stays") {
            EdgeFrame::Signal(deliver) => got.push(deliver.publication.data),
            EdgeFrame::Join(_) => break,
            EdgeFrame::Refused(why) => panic!("{why:?}"),
            _ => {}
        }
    }
    assert!(got.len() < SENT as usize, "all {SENT} waited");
    let number = |data: &bytes::Bytes| std::str::from_utf8(data).unwrap().parse::<u64>().unwrap();
    assert!(
        got.is_sorted_by_key(number),
        "order is kept among what came"
    );
    let dropped = machine.metric("gb6_signals_dropped_total");
    assert_eq!(dropped as u64, SENT - got.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_takes_no_signals() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    signal(&edge, 1, "1".into());
    let moving = ErrorCode::OwnerMoving.code();
    assert!(
        matches!(edge.next().await, Some(EdgeFrame::Published(p)) if (p.request, p.error) == (1, moving))
    );
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_hands_on_what_it_does_not_keep_between_what_it_keeps() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut here = machine.edge("e1").await;
    let mut there = machine.edge("e2").await;
    there.send(OwnerFrame::Interest(room()));
    assert!(matches!(there.next().await, Some(EdgeFrame::Interested(i)) if i.top == 0));
    for n in 1..=20 {
        assert_eq!(here.publish(1, n, n.to_string()).await, (n, 0));
        send(&here, 100 + n, format!("unkept {n}"), true);
        assert!(
            matches!(here.next().await, Some(EdgeFrame::Published(p)) if (p.request, p.offset, p.error) == (100 + n, 0, 0))
        );
    }
    for n in 1..=20 {
        let kept = next_publication(&mut there).await;
        assert_eq!((kept.offset, kept.data), (n, n.to_string().into()));
        let unkept = next_publication(&mut there).await;
        let data = format!("unkept {n}");
        assert_eq!((unkept.offset, unkept.data), (0, data.into()));
        assert!(unkept.time >= kept.time, "the wall clock of the owner");
    }
    let page = here.history(0, 100).await;
    let kept: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
    assert_eq!((page.top, kept), (20, (1..=20).collect()));
}
