//! A node and geo nodes that misbehave: whatever they push, the node's good snapshot stays.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gb6_core_mesh::snapshot::{FollowerConfig, GeoAddress, SnapshotFollower, SnapshotStore};
use gb6_core_mesh::{Endpoint, LocalNode, MemoryNetwork, NodeIdentity, QueueLimits, Timing};
use gb6_core_model::snapshot::{Node, Region, Snapshot};
use gb6_core_model::{Incarnation, NodeId, Role};
use gb6_core_wire::mesh::{Class, Purpose, SnapshotPush, SnapshotWanted};

/// Long enough for a loaded machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

fn bind(network: &MemoryNetwork, name: &str, role: Role) -> Endpoint {
    let identity = NodeIdentity::new(name, [role]).unwrap();
    let local = LocalNode::new(identity, Incarnation(1));
    network.bind(local, Timing::default()).unwrap()
}

fn snapshot(revision: u64) -> Snapshot {
    let node = Node {
        roles: vec![Role::Region],
        mesh: None,
        region: Some("eu".into()),
    };
    let region = Region {
        shards: 1,
        slots: BTreeMap::new(),
        owners: vec![NodeId::from("r1")],
        ..Default::default()
    };
    Snapshot {
        revision,
        instances: BTreeMap::new(),
        regions: BTreeMap::from([("eu".into(), region)]),
        nodes: BTreeMap::from([(NodeId::from("r1"), node)]),
    }
}

fn push(said: u64, snapshot: &Snapshot) -> SnapshotPush {
    SnapshotPush {
        revision: said,
        json: Bytes::from(serde_json::to_vec(snapshot).unwrap()),
    }
}

/// Answers one stream for each list of pushes, then ends that stream.
async fn serve(endpoint: Endpoint, lives: Vec<Vec<SnapshotPush>>) -> Vec<u64> {
    let mut asked_from = Vec::new();
    for pushes in lives {
        let link = endpoint.accept().await.unwrap();
        let (open, stream) = link.accept_stream().await.unwrap();
        let Some(Purpose::Snapshot(wanted)) = open.purpose else {
            panic!("asked for {open:?}");
        };
        asked_from.push(wanted.have_revision);
        let (out, mut requests) =
            stream.split::<SnapshotPush, SnapshotWanted>(QueueLimits::default());
        for push in pushes {
            out.send(Class::Control, push).await.unwrap();
        }
        drop(out);
        // The node leaves when it has read what it does not like, or the end.
        let _ = requests.recv().await;
    }
    asked_from
}

fn follower(dir: &tempfile::TempDir, network: &MemoryNetwork, geo: &[&str]) -> SnapshotFollower {
    let geo = geo
        .iter()
        .map(|name| GeoAddress {
            node: NodeId::from(*name),
            address: "unused:1".into(),
        })
        .collect();
    let store = SnapshotStore::in_dir(dir.path());
    let endpoint = bind(network, "e1", Role::Edge);
    SnapshotFollower::start(FollowerConfig { store, geo }, endpoint).unwrap()
}

#[tokio::test]
async fn what_is_damaged_foreign_or_old_never_replaces_a_good_one() {
    let (dir, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
    let geo = bind(&network, "g1", Role::Geo);
    let mut no_shards = snapshot(4);
    no_shards.regions.get_mut("eu").unwrap().shards = 0;
    let garbage = SnapshotPush {
        revision: 5,
        json: Bytes::from_static(b"{\"revision\":5"),
    };
    let lives = vec![
        vec![push(3, &snapshot(3)), push(2, &snapshot(2))],
        vec![push(4, &no_shards)],
        vec![garbage],
        vec![push(9, &snapshot(8))],
        vec![push(3, &snapshot(3)), push(6, &snapshot(6))],
    ];
    let serving = tokio::spawn(serve(geo, lives));
    let follower = follower(&dir, &network, &["g1"]);
    let mut seen = Vec::new();
    let mut snapshots = tokio::time::timeout(PATIENCE, follower.ready())
        .await
        .unwrap();
    loop {
        let revision = snapshots.borrow_and_update().revision;
        seen.push(revision);
        if revision >= 6 {
            break;
        }
        tokio::time::timeout(PATIENCE, snapshots.changed())
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(seen, [3, 6]);
    assert_eq!(follower.stats().refused.get(), 3);
    assert_eq!(follower.stats().taken.get(), 2);
    assert_eq!(
        SnapshotStore::in_dir(dir.path()).load().unwrap(),
        Some(snapshot(6))
    );
    drop(follower);
    let asked_from = tokio::time::timeout(PATIENCE, serving)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(asked_from, [0, 3, 3, 3, 3], "the node says what it has");
}

#[tokio::test]
async fn only_a_geo_node_is_followed_and_the_next_one_is_tried() {
    let (dir, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
    // An edge that pretends, and a node that is not there.
    let pretender = bind(&network, "e9", Role::Edge);
    tokio::spawn(async move {
        while let Some(link) = pretender.accept().await {
            tokio::spawn(async move { link.closed().await });
        }
    });
    let geo = bind(&network, "g2", Role::Geo);
    tokio::spawn(serve(geo, vec![vec![push(1, &snapshot(1))]]));
    let follower = follower(&dir, &network, &["e9", "g1", "g2"]);
    let snapshots = tokio::time::timeout(PATIENCE, follower.ready())
        .await
        .unwrap();
    assert_eq!(snapshots.borrow().revision, 1);
    assert!(follower.stats().interrupted.get() >= 2);
}

#[tokio::test]
async fn a_snapshot_that_can_not_be_kept_is_in_force_all_the_same() {
    let (dir, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
    let geo = bind(&network, "g1", Role::Geo);
    tokio::spawn(serve(geo, vec![vec![push(1, &snapshot(1))]]));
    let follower = follower(&dir, &network, &["g1"]);
    // A folder stands where the new file is to be written, so that every attempt fails.
    let in_the_way = dir.path().join("snapshot.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let snapshots = tokio::time::timeout(PATIENCE, follower.ready())
        .await
        .unwrap();
    assert_eq!(snapshots.borrow().revision, 1);
    assert_eq!(follower.stats().not_kept.get(), 1);
}
