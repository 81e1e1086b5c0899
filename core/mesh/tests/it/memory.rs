//! What only the network in memory does: nodes come and go, paths are cut and heal.

use bytes::Bytes;
use gb6_core_mesh::{
    BindError, DialError, MemoryNetwork, QueueLimits, RecvError, Timing, memory_pair,
};
use gb6_core_model::{NodeId, Role};
use gb6_core_wire::mesh::{Class, Renew, SnapshotPush};

use crate::world::{World, local, shard, soon, timing};

#[tokio::test]
async fn a_cut_path_heals() {
    let network = MemoryNetwork::new();
    let region = network
        .bind(local("r1", &[Role::Region]), timing())
        .unwrap();
    let e1 = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
    let e2 = network.bind(local("e2", &[Role::Edge]), timing()).unwrap();
    let node = NodeId::from("r1");
    let first = e1.dial(&node, None).await.unwrap();
    let other = e2.dial(&node, None).await.unwrap();
    let accepted = region.accept().await.unwrap();
    network.cut(&node, &"e1".into());
    soon(first.closed()).await;
    soon(accepted.closed()).await;
    assert_eq!(other.close_reason(), None);
    assert!(matches!(
        e1.dial(&node, None).await,
        Err(DialError::Unreachable { .. })
    ));
    network.heal(&"e1".into(), &node);
    let _again = e1.dial(&node, None).await.unwrap();
    assert_eq!(e1.stats().links_down.get(), 1);
}

#[tokio::test]
async fn a_node_comes_back_once_its_endpoint_is_gone() {
    let network = MemoryNetwork::new();
    let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
    let bind = || network.bind(local("r1", &[Role::Region]), timing());
    let region = bind().unwrap();
    assert!(matches!(bind(), Err(BindError::InUse(node)) if node == "r1".into()));
    drop(region);
    let error = edge.dial(&"r1".into(), None).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, DialError::Unreachable { .. }), "{error}");
    let region = bind().unwrap();
    edge.dial(&"r1".into(), None).await.unwrap();
    assert_eq!(
        region.accept().await.unwrap().peer().node,
        NodeId::from("e1")
    );
}

#[tokio::test]
async fn links_that_nobody_accepts_are_bounded() {
    let network = MemoryNetwork::new();
    let _region = network
        .bind(local("r1", &[Role::Region]), timing())
        .unwrap();
    let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
    let node = NodeId::from("r1");
    let mut links = Vec::new();
    let error = loop {
        match edge.dial(&node, None).await {
            Ok(link) => links.push(link),
            Err(error) => break error,
        }
        assert!(links.len() < 1_000);
    };
    assert!(matches!(error, DialError::Timeout { .. }), "{error}");
}

/// Values are moved: the receiver has the sender's very bytes.
#[tokio::test]
async fn frames_are_moved_not_copied() {
    let (a, b) = memory_pair(&local("e1", &[Role::Edge]), &local("r1", &[Role::Region])).unwrap();
    let (opened, accepted) = tokio::join!(a.open(shard(1)), b.accept_stream());
    let (tx, _rx) = opened
        .unwrap()
        .split::<SnapshotPush, Renew>(QueueLimits::default());
    let (_tx, mut rx) = accepted
        .unwrap()
        .1
        .split::<Renew, SnapshotPush>(QueueLimits::default());
    let json = Bytes::from(vec![1; 1000]);
    let frame = SnapshotPush {
        revision: 1,
        json: json.clone(),
    };
    tx.try_send(Class::Control, frame).unwrap();
    let got = rx.recv().await.unwrap().unwrap();
    assert_eq!(got.json.as_ptr(), json.as_ptr());
    assert_eq!(rx.try_recv(), Ok(None));
}

#[tokio::test]
async fn ends_that_speak_different_frames_find_out() {
    let world = World::memory().await;
    let (opened, accepted) = tokio::join!(
        world.at_edge.open(shard(1)),
        world.at_region.accept_stream()
    );
    let limits = QueueLimits::default();
    let (edge_tx, _edge_rx) = opened.unwrap().split::<Renew, Renew>(limits);
    let (_region_tx, mut region_rx) = accepted.unwrap().1.split::<Renew, SnapshotPush>(limits);
    assert_eq!(soon(region_rx.recv()).await, Err(RecvError::Types));
    soon(edge_tx.closed()).await;
}

/// Ten thousand frames in a few calls: what `gb6 dev` pays for a link is a queue.
#[tokio::test]
async fn a_pair_needs_no_network() {
    let (a, b) = memory_pair(&local("e1", &[Role::Edge]), &local("r1", &[Role::Region])).unwrap();
    assert_eq!(Timing::default().idle.as_secs(), 6);
    let (opened, accepted) = tokio::join!(a.open(shard(1)), b.accept_stream());
    let limits = QueueLimits::default();
    let (tx, _) = opened.unwrap().split::<Renew, Renew>(limits);
    let (_, mut rx) = accepted.unwrap().1.split::<Renew, Renew>(limits);
    for sequence in 0..10_000 {
        tx.try_send(Class::Live, Renew { sequence }).unwrap();
    }
    let mut frames = Vec::new();
    assert_eq!(rx.recv_many(&mut frames, 20_000).await, Ok(10_000));
    assert!(frames.iter().map(|frame| frame.sequence).eq(0..10_000));
}
