//! Geo and its followers over the mesh, with real files: what changes, what is refused, what
//! survives a restart of either side.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where something is missing"
)]

mod directory;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::snapshot::{
    FollowError, FollowerConfig, GeoAddress, SnapshotFollower, SnapshotStore, StoreError,
};
use gb6_core_mesh::{Endpoint, LocalNode, MemoryNetwork, NodeIdentity, Timing};
use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, Role};
use gb6_core_obs::{Health, Metrics};
use gb6_geo_config_node::{Geo, GeoConfig, GeoError};
use gb6_geo_config_plan::EXAMPLE;
use tempfile::TempDir;
use tokio::sync::watch;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Long enough for a loaded machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    dir: TempDir,
    network: MemoryNetwork,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            network: MemoryNetwork::new(),
            metrics: Metrics::bare(),
        };
        fs::write(world.path("demo.secret"), format!("{SECRET}\n")).unwrap();
        world.write(EXAMPLE);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces the snapshot file, as an editor does.
    fn write(&self, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path("snapshot.toml")).unwrap();
    }

    /// Puts a node on the network, once its earlier life has left it.
    async fn bind(&self, name: &str, role: Role) -> Endpoint {
        let identity = NodeIdentity::new(name, [role]).unwrap();
        let local = LocalNode::new(identity, Incarnation(7));
        soon("the end of the node's earlier life", async {
            loop {
                match self.network.bind(local.clone(), Timing::default()) {
                    Ok(endpoint) => return endpoint,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
        .await
    }

    async fn geo(&self) -> Result<Geo, GeoError> {
        let config = GeoConfig {
            snapshot: self.path("snapshot.toml"),
            data_dir: self.path("g1"),
            poll: Duration::from_millis(20),
        };
        let endpoint = self.bind("g1", Role::Geo).await;
        Geo::start(config, None, endpoint, &self.metrics, &Health::new()).await
    }

    async fn follower(&self, name: &str, role: Role) -> SnapshotFollower {
        let config = FollowerConfig {
            store: self.store(name),
            geo: vec!["g1@127.0.0.1:7700".parse().unwrap()],
        };
        SnapshotFollower::start(config, self.bind(name, role).await).unwrap()
    }

    fn store(&self, name: &str) -> SnapshotStore {
        SnapshotStore::in_dir(&self.path(name))
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

async fn revision(snapshots: &mut watch::Receiver<Arc<Snapshot>>, wanted: u64) -> Arc<Snapshot> {
    soon("the revision", snapshots.wait_for(|s| s.revision >= wanted))
        .await
        .unwrap()
        .clone()
}

fn limited(subscriptions: u32) -> String {
    EXAMPLE.replace(
        "subscriptions_max = 1024",
        &format!("subscriptions_max = {subscriptions}"),
    )
}

#[tokio::test]
async fn nodes_get_the_snapshot_and_every_change_of_it() {
    let world = World::new();
    let _geo = world.geo().await.unwrap();
    let edge = world.follower("e1", Role::Edge).await;
    let region = world.follower("r1", Role::Region).await;
    let mut at_edge = soon("the first snapshot", edge.ready()).await;
    let mut at_region = soon("the first snapshot", region.ready()).await;

    let first = revision(&mut at_edge, 1).await;
    assert_eq!(first.revision, 1);
    assert_eq!(first.instances["demo"].keys[0].secret, SECRET);
    // Only who verifies tokens is given the keys.
    assert!(
        revision(&mut at_region, 1).await.instances["demo"]
            .keys
            .is_empty()
    );
    assert!(
        !fs::read_to_string(world.store("r1").path())
            .unwrap()
            .contains(SECRET)
    );

    world.write(&limited(5));
    let second = revision(&mut at_edge, 2).await;
    assert_eq!(second.instances["demo"].subscriptions_max, 5);
    assert_eq!(revision(&mut at_region, 2).await.revision, 2);

    // A secret in a file of its own is part of the snapshot.
    fs::write(world.path("demo.secret"), SECRET.repeat(2)).unwrap();
    assert_eq!(
        revision(&mut at_edge, 3).await.instances["demo"].keys[0].secret,
        SECRET.repeat(2)
    );

    let kept = world.store("e1");
    assert_eq!(
        fs::metadata(kept.path()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(kept.load().unwrap().unwrap().revision, 3);
    let metrics = world.metrics.text();
    assert!(metrics.contains("gb6_geo_snapshot_revision 3"), "{metrics}");
    assert!(metrics.contains("gb6_geo_followers 2"), "{metrics}");
}

#[tokio::test]
async fn regions_alone_are_given_where_webhooks_go() {
    let world = World::new();
    let hidden = "https://hooks.example/deep-in-the-url";
    let secret = "and-0123456789abcdef0123456789abcdef";
    world.write(&format!(
        "{EXAMPLE}\n[instances.demo.webhooks]\nurl = \"{hidden}\"\nsecret = \"{secret}\"\n"
    ));
    let _geo = world.geo().await.unwrap();
    let edge = world.follower("e1", Role::Edge).await;
    let region = world.follower("r1", Role::Region).await;
    let mut at_edge = soon("the first snapshot", edge.ready()).await;
    let mut at_region = soon("the first snapshot", region.ready()).await;
    let given = revision(&mut at_region, 1).await;
    let webhooks = given.instances["demo"].webhooks.as_ref().unwrap();
    assert_eq!(
        (webhooks.url.as_str(), webhooks.secret.as_str()),
        (hidden, secret)
    );
    let given = revision(&mut at_edge, 1).await;
    let webhooks = given.instances["demo"].webhooks.as_ref().unwrap();
    assert_eq!(webhooks.events.len(), 2, "it knows what is to be told");
    let kept = fs::read_to_string(world.store("e1").path()).unwrap();
    assert!(!kept.contains("deep-in-the-url") && !kept.contains(secret));
}

#[tokio::test]
async fn a_mistake_changes_nothing_until_it_is_mended() {
    let world = World::new();
    let geo = world.geo().await.unwrap();
    let edge = world.follower("e1", Role::Edge).await;
    let mut snapshots = soon("the first snapshot", edge.ready()).await;

    world.write(&EXAMPLE.replace("owners = [\"r1\"]", "owners = [\"nobody\"]"));
    soon("the mistake", async {
        while geo.file_is_good() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!((geo.revision(), snapshots.borrow().revision), (1, 1));
    let metrics = world.metrics.text();
    assert!(
        metrics.contains("gb6_geo_snapshot_refused_total 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("gb6_geo_snapshot_file_good 0"),
        "{metrics}"
    );

    // Geo starts with the mistake in the file, from what it kept.
    drop(geo);
    let geo = world.geo().await.unwrap();
    assert_eq!(geo.revision(), 1);

    world.write(&limited(6));
    assert_eq!(
        revision(&mut snapshots, 2).await.instances["demo"].subscriptions_max,
        6
    );
    assert!(geo.file_is_good());
}

#[tokio::test]
async fn revisions_rise_over_restarts_and_only_with_changes() {
    let world = World::new();
    let geo = world.geo().await.unwrap();
    // Other words, other comments: the same snapshot.
    world.write(&format!("# a comment\n{EXAMPLE}"));
    geo.reload();
    soon("looking", async {
        while !geo.file_is_good() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(geo.revision(), 1);
    geo.drain(Duration::ZERO).await;

    let geo = world.geo().await.unwrap();
    assert_eq!(geo.revision(), 1, "nothing has changed");
    geo.drain(Duration::ZERO).await;

    world.write(&limited(7));
    let geo = world.geo().await.unwrap();
    assert_eq!(geo.revision(), 2);
    world.write(&limited(8));
    geo.reload();
    soon("the change", geo.reached(3)).await;
}

#[tokio::test]
async fn a_node_works_without_geo_and_catches_up_when_it_is_back() {
    let world = World::new();
    let geo = world.geo().await.unwrap();
    let edge = world.follower("e1", Role::Edge).await;
    soon("the first snapshot", edge.ready()).await;
    drop(edge);
    geo.drain(Duration::ZERO).await;

    let edge = world.follower("e1", Role::Edge).await;
    let mut snapshots = soon("the kept snapshot", edge.ready()).await;
    assert_eq!(snapshots.borrow().revision, 1);
    soon("the attempt to reach geo", async {
        while edge.stats().interrupted.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!edge.stats().following());

    world.write(&limited(9));
    let _geo = world.geo().await.unwrap();
    assert_eq!(
        revision(&mut snapshots, 2).await.instances["demo"].subscriptions_max,
        9
    );
    assert!(edge.stats().following());
}

#[tokio::test]
async fn a_node_never_goes_back() {
    let world = World::new();
    let geo = world.geo().await.unwrap();
    // The node has worked by a newer snapshot than geo knows of.
    let mut newer = {
        let edge = world.follower("e0", Role::Edge).await;
        let snapshot = soon("a snapshot", edge.ready()).await.borrow().clone();
        (*snapshot).clone()
    };
    newer.revision = 5;
    newer.instances.get_mut("demo").unwrap().subscriptions_max = 55;
    world.store("e1").save(&newer).unwrap();
    let edge = world.follower("e1", Role::Edge).await;
    let mut snapshots = soon("the kept snapshot", edge.ready()).await;
    assert_eq!(snapshots.borrow().revision, 5);

    for n in 2..=6 {
        world.write(&limited(n));
        geo.reload();
        soon("the change", geo.reached(u64::from(n))).await;
    }
    // The first that it takes is the first that is newer.
    let taken = revision(&mut snapshots, 6).await;
    assert_eq!(
        (taken.revision, taken.instances["demo"].subscriptions_max),
        (6, 6)
    );
    assert_eq!(edge.stats().taken.get(), 1);
}

#[tokio::test]
async fn without_a_good_file_and_a_kept_snapshot_geo_does_not_start() {
    let world = World::new();
    world.write("[instances.demo]\nregoin = \"eu\"\n");
    let error = world.geo().await.unwrap_err().to_string();
    assert!(
        error.contains("snapshot.toml") && error.contains("`region`?"),
        "{error}"
    );
    fs::remove_file(world.path("snapshot.toml")).unwrap();
    let error = world.geo().await.unwrap_err().to_string();
    assert!(
        error.contains("can not be read") && error.contains("config example snapshot"),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_without_anything_to_go_by_says_so() {
    let world = World::new();
    let endpoint = world.bind("e1", Role::Edge).await;
    let start = |store: SnapshotStore| {
        let geo = Vec::new();
        SnapshotFollower::start(FollowerConfig { store, geo }, endpoint.clone())
    };
    let error = start(world.store("e1")).unwrap_err();
    assert!(matches!(error, FollowError::Nothing { .. }), "{error}");

    let store = world.store("e2");
    fs::create_dir_all(world.path("e2")).unwrap();
    fs::write(store.path(), "{\"revision\":").unwrap();
    let error = start(store.clone()).unwrap_err();
    assert!(
        matches!(error, FollowError::Store(StoreError::Damaged { .. })),
        "{error}"
    );
    fs::write(
        store.path(),
        "{\"revision\":0,\"instances\":{},\"regions\":{},\"nodes\":{}}",
    )
    .unwrap();
    let error = start(store).unwrap_err();
    assert!(
        matches!(error, FollowError::Store(StoreError::Unusable { .. })),
        "{error}"
    );
}

#[test]
fn addresses_of_geo() {
    let good: GeoAddress = "g1@geo.example.org:7700".parse().unwrap();
    assert_eq!(
        (good.node.as_str(), good.address.as_str()),
        ("g1", "geo.example.org:7700")
    );
    assert_eq!(good.to_string(), "g1@geo.example.org:7700");
    for bad in [
        "",
        "g1",
        "127.0.0.1:7700",
        "g1@host",
        "g1@:7700",
        "G1@host:7700",
        "g1@host:0",
    ] {
        assert!(bad.parse::<GeoAddress>().is_err(), "{bad}");
    }
    assert_eq!(
        SnapshotStore::in_dir(Path::new("d")).path(),
        Path::new("d/snapshot.json")
    );
}
