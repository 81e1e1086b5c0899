//! What every link does, run over QUIC and in memory.

use std::time::Duration;

use bytes::Bytes;
use gb6_core_mesh::transport::{DATAGRAM_BYTES_MAX, STREAMS_MAX};
use gb6_core_mesh::{
    CloseCode, Closed, DatagramError, DialError, FrameReceiver, FrameSender, OpenError,
    QueueLimits, RecvError, SendError, Stream, TrySendError,
};
use gb6_core_model::limits::MESH_FRAME_BYTES_MAX;
use gb6_core_model::{Incarnation, NodeId, Role};
use gb6_core_wire::mesh::{Class, Purpose, ShardRef, SnapshotPush, StreamOpen};
use prost::Message;

use crate::world::{World, shard, soon, timing};

macro_rules! on_both_kinds {
    ($($name:ident),+ $(,)?) => {
        mod quic {
            $(#[tokio::test]
            async fn $name() {
                super::soon(super::$name(super::World::quic().await)).await;
            })+
        }
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::soon(super::$name(super::World::memory().await)).await;
            })+
        }
    };
}

on_both_kinds!(
    peers_are_known,
    frames_go_both_ways_in_order,
    many_frames_come_in_one_call,
    control_overtakes_live,
    a_full_lane_hands_the_frame_back,
    a_full_live_lane_keeps_no_control_frame_out,
    sending_waits_for_room,
    the_largest_frame_passes_and_a_larger_one_does_not,
    dropping_the_sender_finishes_the_stream,
    dropping_the_receiver_closes_the_sender,
    dropping_a_stream_closes_both_ways,
    closing_tells_the_peer_why,
    dropping_the_last_handle_closes_the_link,
    a_stream_keeps_its_link,
    a_cut_ends_both_sides,
    only_the_dialler_opens,
    an_opening_needs_a_purpose,
    streams_are_bounded,
    datagrams_pass,
    counters_count,
    trying_does_not_wait,
    dropping_a_receive_loses_nothing,
    a_quiet_link_stays,
    closing_an_endpoint_ends_its_links,
);

/// A frame with a number and a body.
fn frame(revision: u64, bytes: usize) -> SnapshotPush {
    SnapshotPush {
        revision,
        json: Bytes::from(vec![b'x'; bytes]),
    }
}

type Halves = (FrameSender<SnapshotPush>, FrameReceiver<SnapshotPush>);

fn split(stream: Stream, limits: QueueLimits) -> Halves {
    stream.split(limits)
}

/// A stream's halves at the edge and at the region.
async fn streams(world: &World, limits: QueueLimits) -> (Halves, Halves) {
    let (opened, accepted) = tokio::join!(
        world.at_edge.open(shard(1)),
        world.at_region.accept_stream()
    );
    let (open, accepted) = accepted.unwrap();
    assert_eq!(open, shard(1));
    (split(opened.unwrap(), limits), split(accepted, limits))
}

async fn peers_are_known(world: World) {
    let region = world.at_edge.peer();
    assert_eq!(region.node, NodeId::from("r1"));
    assert!(region.has_role(Role::Region) && !region.has_role(Role::Edge));
    assert_eq!(region.incarnation, Incarnation(7));
    assert_eq!(region.version, 1);
    assert_eq!(world.at_region.peer().node, NodeId::from("e1"));
    assert!(world.at_edge.dialled() && !world.at_region.dialled());
}

async fn frames_go_both_ways_in_order(world: World) {
    let ((edge_tx, mut edge_rx), (region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    let there = tokio::spawn(async move {
        for n in 0..5_000 {
            edge_tx
                .send(Class::Live, frame(n, n as usize % 700))
                .await
                .unwrap();
        }
        edge_tx
    });
    let back = tokio::spawn(async move {
        for n in 0..5_000 {
            region_tx
                .send(Class::Acknowledgement, frame(n, 3))
                .await
                .unwrap();
        }
        region_tx
    });
    for n in 0..5_000 {
        assert_eq!(
            region_rx.recv().await.unwrap(),
            Some(frame(n, n as usize % 700))
        );
        assert_eq!(edge_rx.recv().await.unwrap(), Some(frame(n, 3)));
    }
    there.await.unwrap();
    back.await.unwrap();
}

async fn many_frames_come_in_one_call(world: World) {
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    for n in 0..2_000 {
        edge_tx.try_send(Class::Live, frame(n, 10)).unwrap();
    }
    drop(edge_tx);
    let mut frames = Vec::new();
    let mut calls = 0;
    while region_rx.recv_many(&mut frames, 500).await.unwrap() > 0 {
        calls += 1;
    }
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.revision).collect();
    assert_eq!(numbers, (0..2_000).collect::<Vec<_>>());
    assert!((4..200).contains(&calls), "{calls} calls for 2,000 frames");
}

/// Live frames that fill the windows and far more, then one of control: the writer sends what lies
/// in the windows first, control next.
async fn control_overtakes_live(world: World) {
    let limits = QueueLimits {
        frames: 1_000,
        bytes: 64 * 1024 * 1024,
    };
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) = streams(&world, limits).await;
    const LIVE: u64 = 200;
    for n in 1..=LIVE {
        edge_tx.try_send(Class::Live, frame(n, 64 * 1024)).unwrap();
    }
    edge_tx
        .try_send(Class::Acknowledgement, frame(1_001, 1))
        .unwrap();
    edge_tx.try_send(Class::Control, frame(1_000, 1)).unwrap();
    let mut numbers = Vec::new();
    for _ in 0..LIVE + 2 {
        numbers.push(region_rx.recv().await.unwrap().unwrap().revision);
    }
    let control = numbers.iter().position(|n| *n == 1_000).unwrap();
    let acknowledgement = numbers.iter().position(|n| *n == 1_001).unwrap();
    assert!(
        control < acknowledgement && acknowledgement < 100,
        "{numbers:?}"
    );
    numbers.retain(|n| *n <= LIVE);
    assert_eq!(numbers, (1..=LIVE).collect::<Vec<_>>());
}

async fn a_full_lane_hands_the_frame_back(world: World) {
    let limits = QueueLimits {
        frames: 8,
        bytes: 4 * 1024 * 1024,
    };
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) = streams(&world, limits).await;
    // Far more than the windows hold, with a chance for a writer before each.
    let mut sent = 0;
    let refused = loop {
        tokio::task::yield_now().await;
        match edge_tx.try_send(Class::Live, frame(sent, 256 * 1024)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(edge_tx.waiting() <= 8);
        assert!(sent < 1_000, "the queue is not bounded");
    };
    assert_eq!(refused, TrySendError::Full(frame(sent, 256 * 1024)));
    assert!(sent >= 8);
    assert_eq!(world.edge.stats().queue_full.get(), 1);
    for n in 0..sent {
        assert_eq!(region_rx.recv().await.unwrap().unwrap().revision, n);
    }
}

async fn a_full_live_lane_keeps_no_control_frame_out(world: World) {
    let limits = QueueLimits {
        frames: 4,
        bytes: 1024,
    };
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) = streams(&world, limits).await;
    // No writer runs before the first await. An empty lane takes a frame of any size.
    edge_tx.try_send(Class::Live, frame(1, 5_000)).unwrap();
    assert!(matches!(
        edge_tx.try_send(Class::Live, frame(2, 1)),
        Err(TrySendError::Full(_))
    ));
    edge_tx.try_send(Class::Control, frame(3, 1)).unwrap();
    assert_eq!(region_rx.recv().await.unwrap().unwrap().revision, 3);
    assert_eq!(region_rx.recv().await.unwrap().unwrap().revision, 1);
}

async fn sending_waits_for_room(world: World) {
    let limits = QueueLimits {
        frames: 4,
        bytes: 1024 * 1024,
    };
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) = streams(&world, limits).await;
    let sending = tokio::spawn(async move {
        for n in 0..300 {
            edge_tx
                .send(Class::Live, frame(n, 32 * 1024))
                .await
                .unwrap();
            assert!(edge_tx.waiting() <= 4);
        }
    });
    for n in 0..300 {
        assert_eq!(region_rx.recv().await.unwrap().unwrap().revision, n);
    }
    assert_eq!(region_rx.recv().await, Ok(None));
    sending.await.unwrap();
}

async fn the_largest_frame_passes_and_a_larger_one_does_not(world: World) {
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    let largest = {
        let overhead = frame(1, MESH_FRAME_BYTES_MAX).encoded_len() - MESH_FRAME_BYTES_MAX;
        frame(1, MESH_FRAME_BYTES_MAX - overhead)
    };
    assert_eq!(largest.encoded_len(), MESH_FRAME_BYTES_MAX);
    let mut larger = largest.clone();
    larger.revision = 1_000;
    let bytes = MESH_FRAME_BYTES_MAX + 1;
    assert_eq!(
        edge_tx.try_send(Class::Live, larger.clone()),
        Err(TrySendError::TooLarge { bytes })
    );
    assert_eq!(
        edge_tx.send(Class::Live, larger).await,
        Err(SendError::TooLarge { bytes })
    );
    edge_tx.try_send(Class::Live, largest.clone()).unwrap();
    edge_tx.try_send(Class::Live, frame(2, 1)).unwrap();
    assert!(region_rx.recv().await.unwrap() == Some(largest));
    assert_eq!(region_rx.recv().await.unwrap(), Some(frame(2, 1)));
}

async fn dropping_the_sender_finishes_the_stream(world: World) {
    let ((edge_tx, mut edge_rx), (region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    edge_tx.try_send(Class::Live, frame(1, 1)).unwrap();
    drop(edge_tx);
    assert_eq!(region_rx.recv().await, Ok(Some(frame(1, 1))));
    assert_eq!(region_rx.recv().await, Ok(None));
    assert_eq!(region_rx.recv().await, Ok(None));
    // The other direction lives on.
    region_tx.try_send(Class::Live, frame(2, 1)).unwrap();
    assert_eq!(edge_rx.recv().await, Ok(Some(frame(2, 1))));
    assert_eq!(world.at_edge.close_reason(), None);
}

async fn dropping_the_receiver_closes_the_sender(world: World) {
    let ((edge_tx, _edge_rx), (_region_tx, region_rx)) =
        streams(&world, QueueLimits::default()).await;
    edge_tx.try_send(Class::Live, frame(1, 1)).unwrap();
    drop(region_rx);
    edge_tx.closed().await;
    assert_eq!(
        edge_tx.try_send(Class::Live, frame(2, 1)),
        Err(TrySendError::Closed)
    );
    assert_eq!(
        edge_tx.send(Class::Live, frame(2, 1)).await,
        Err(SendError::Closed)
    );
    assert_eq!(world.at_edge.close_reason(), None);
}

async fn dropping_a_stream_closes_both_ways(world: World) {
    let (opened, accepted) = tokio::join!(
        world.at_edge.open(shard(1)),
        world.at_region.accept_stream()
    );
    let (edge_tx, mut edge_rx) = split(opened.unwrap(), QueueLimits::default());
    drop(accepted.unwrap());
    edge_tx.closed().await;
    let end = edge_rx.recv().await;
    assert!(
        matches!(end, Ok(None) | Err(RecvError::Reset(_))),
        "{end:?}"
    );
    // And dropped before the other side has split its own.
    let (opened, accepted) = tokio::join!(
        world.at_edge.open(shard(2)),
        world.at_region.accept_stream()
    );
    drop(opened.unwrap());
    let (region_tx, mut region_rx) = split(accepted.unwrap().1, QueueLimits::default());
    region_tx.closed().await;
    let end = region_rx.recv().await;
    assert!(
        matches!(end, Ok(None) | Err(RecvError::Reset(_))),
        "{end:?}"
    );
}

async fn closing_tells_the_peer_why(world: World) {
    let ((edge_tx, mut edge_rx), (region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    let accepting = tokio::spawn({
        let link = world.at_region.clone();
        async move { link.accept_stream().await.map(|_| ()) }
    });
    world.at_edge.close(CloseCode::Draining, "going to sleep");
    let local = Closed::Local {
        code: CloseCode::Draining,
        text: "going to sleep".into(),
    };
    let peer = Closed::Peer {
        code: CloseCode::Draining,
        text: "going to sleep".into(),
    };
    assert_eq!(world.at_edge.closed().await, local);
    assert_eq!(world.at_region.closed().await, peer);
    assert_eq!(accepting.await.unwrap(), Err(peer.clone()));
    assert_eq!(edge_rx.recv().await, Err(RecvError::Link(local.clone())));
    assert_eq!(region_rx.recv().await, Err(RecvError::Link(peer.clone())));
    edge_tx.closed().await;
    region_tx.closed().await;
    assert_eq!(
        region_tx.try_send(Class::Control, frame(1, 1)),
        Err(TrySendError::Closed)
    );
    assert_eq!(
        world.at_edge.open(shard(3)).await.map(|_| ()),
        Err(OpenError::Closed(local))
    );
    assert_eq!(
        world.at_region.send_datagram(Bytes::from_static(b"x")),
        Err(DatagramError::Closed(peer))
    );
}

async fn dropping_the_last_handle_closes_the_link(world: World) {
    let World {
        at_edge, at_region, ..
    } = world;
    let other = at_edge.clone();
    drop(at_edge);
    assert_eq!(other.close_reason(), None);
    drop(other);
    assert_eq!(
        at_region.closed().await,
        Closed::Peer {
            code: CloseCode::Done,
            text: "no longer needed".into()
        }
    );
}

async fn a_stream_keeps_its_link(world: World) {
    let ((edge_tx, edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    let World {
        at_edge, at_region, ..
    } = world;
    drop(at_edge);
    edge_tx.try_send(Class::Live, frame(1, 100_000)).unwrap();
    drop(edge_rx);
    drop(edge_tx);
    // What was sent before the last drop still comes.
    assert_eq!(region_rx.recv().await, Ok(Some(frame(1, 100_000))));
    at_region.closed().await;
}

async fn a_cut_ends_both_sides(world: World) {
    let ((edge_tx, mut edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    world.cut();
    for (end, error) in [
        (world.at_edge.closed().await, edge_rx.recv().await),
        (world.at_region.closed().await, region_rx.recv().await),
    ] {
        assert!(matches!(end, Closed::TimedOut | Closed::Lost(_)), "{end}");
        assert_eq!(error, Err(RecvError::Link(end)));
    }
    edge_tx.closed().await;
    assert!(world.at_edge.open(shard(2)).await.is_err());
    let address = world.region.local_addr().map(|_| "127.0.0.1:9");
    assert!(world.edge.dial(&"r1".into(), address).await.is_err());
}

async fn only_the_dialler_opens(world: World) {
    assert_eq!(
        world.at_region.open(shard(1)).await.map(|_| ()),
        Err(OpenError::NotDialler("e1".into()))
    );
}

async fn an_opening_needs_a_purpose(world: World) {
    assert_eq!(
        world.at_edge.open(StreamOpen::default()).await.map(|_| ()),
        Err(OpenError::NoPurpose)
    );
}

async fn streams_are_bounded(world: World) {
    let accepting = tokio::spawn({
        let link = world.at_region.clone();
        async move {
            let mut held = Vec::new();
            while held.len() < STREAMS_MAX as usize {
                held.push(link.accept_stream().await.unwrap());
            }
            held
        }
    });
    let mut opened = Vec::new();
    for n in 0..STREAMS_MAX {
        opened.push(world.at_edge.open(shard(n)).await.unwrap());
    }
    let mut accepted = accepting.await.unwrap();
    assert_eq!(
        world.at_edge.open(shard(9_999)).await.map(|_| ()),
        Err(OpenError::Timeout("r1".into()))
    );
    // Those that have ended make room for others. (QUIC grants in steps of an eighth.)
    opened.truncate(STREAMS_MAX as usize / 2);
    accepted.truncate(STREAMS_MAX as usize / 2);
    let catch_up = StreamOpen {
        purpose: Some(Purpose::CatchUp(ShardRef::default())),
    };
    let (again, there) = tokio::join!(
        world.at_edge.open(catch_up.clone()),
        world.at_region.accept_stream()
    );
    again.unwrap();
    assert_eq!(there.unwrap().0, catch_up);
}

async fn datagrams_pass(world: World) {
    let largest = Bytes::from(vec![7; DATAGRAM_BYTES_MAX]);
    world.at_edge.send_datagram(largest.clone()).unwrap();
    assert_eq!(world.at_region.recv_datagram().await, Ok(largest));
    world
        .at_region
        .send_datagram(Bytes::from_static(b"hi"))
        .unwrap();
    assert_eq!(
        world.at_edge.recv_datagram().await,
        Ok(Bytes::from_static(b"hi"))
    );
    let bytes = DATAGRAM_BYTES_MAX + 1;
    assert_eq!(
        world.at_edge.send_datagram(Bytes::from(vec![0; bytes])),
        Err(DatagramError::TooLarge { bytes })
    );
}

async fn counters_count(world: World) {
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    edge_tx.try_send(Class::Live, frame(1, 100)).unwrap();
    region_rx.recv().await.unwrap();
    let (edge, region) = (world.edge.stats(), world.region.stats());
    assert_eq!((edge.links_up.get(), region.links_up.get()), (1, 1));
    assert_eq!(edge.streams_opened.get(), 1);
    assert_eq!(region.streams_accepted.get(), 1);
    assert_eq!(edge.frames_out.get(), 1);
    assert_eq!(edge.bytes_out.get(), frame(1, 100).encoded_len() as u64);
    assert_eq!(region.frames_in.get(), 1);
    world.at_region.close(CloseCode::Done, "");
    world.at_edge.closed().await;
    while region.links_down.get() == 0 || edge.links_down.get() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((edge.links_down.get(), region.links_down.get()), (1, 1));
}

async fn trying_does_not_wait(world: World) {
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    assert_eq!(region_rx.try_recv(), Ok(None));
    edge_tx.try_send(Class::Live, frame(1, 1)).unwrap();
    edge_tx.try_send(Class::Live, frame(2, 1)).unwrap();
    let mut tried = Vec::new();
    while tried.len() < 2 {
        match region_rx.try_recv().unwrap() {
            Some(frame) => tried.push(frame.revision),
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(tried, [1, 2]);
    edge_tx.try_send(Class::Live, frame(3, 1)).unwrap();
    assert_eq!(region_rx.recv().await, Ok(Some(frame(3, 1))));
}

async fn dropping_a_receive_loses_nothing(world: World) {
    let ((edge_tx, _edge_rx), (_region_tx, mut region_rx)) =
        streams(&world, QueueLimits::default()).await;
    let sending = tokio::spawn(async move {
        for n in 0..2_000 {
            edge_tx.send(Class::Live, frame(n, 500)).await.unwrap();
            if n % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
    });
    let mut numbers = Vec::new();
    let mut dropped = 0;
    while numbers.len() < 2_000 {
        let mut frames = Vec::new();
        tokio::select! {
            biased;
            received = region_rx.recv_many(&mut frames, 3) => assert!(received.unwrap() > 0),
            () = std::future::ready(()) => dropped += 1,
        }
        if frames.is_empty() {
            tokio::task::yield_now().await;
        }
        numbers.extend(frames.iter().map(|frame| frame.revision));
    }
    assert!(dropped > 0);
    assert!(numbers.into_iter().eq(0..2_000));
    sending.await.unwrap();
}

/// Silence alone ends no link: keep-alives say that the peer is there.
async fn a_quiet_link_stays(world: World) {
    let quiet = tokio::time::timeout(timing().idle * 3 / 2, world.at_edge.closed()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(world.at_region.close_reason(), None);
}

async fn closing_an_endpoint_ends_its_links(world: World) {
    let address = world.region.local_addr().map(|addr| addr.to_string());
    let patience = Duration::from_secs(5);
    world
        .region
        .close(CloseCode::Draining, "stopping", patience)
        .await;
    assert_eq!(
        world.at_edge.closed().await,
        Closed::Peer {
            code: CloseCode::Draining,
            text: "stopping".into()
        }
    );
    assert!(matches!(
        world.at_region.closed().await,
        Closed::Local { .. }
    ));
    assert!(world.region.accept().await.is_none());
    let error = world.region.dial(&"e1".into(), address.as_deref()).await;
    assert_eq!(error.map(|_| ()), Err(DialError::EndpointClosed));
}
