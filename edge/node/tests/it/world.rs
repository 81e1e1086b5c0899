//! One edge and one owner, and what the tests need to talk to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gb6_core_mesh::{Endpoint, LocalNode, MemoryNetwork, NodeIdentity, Timing};
use gb6_core_model::caps::Match;
use gb6_core_model::snapshot::{
    Instance, Key, KeyAlgorithm, KeyUse, Namespace, Node, Region, Snapshot,
};
use gb6_core_model::{
    Allow, Capability, Incarnation, InstanceEpoch, InstanceId, NodeId, Role, Slot,
};
use gb6_core_obs::{Health, Metrics};
use gb6_core_wire::mesh::RoomRef;
use gb6_edge_node::{
    Asset, Edge, EdgeConfig, EdgeDeps, EdgeError, EdgeHandle, TokenRequest, issue_token,
};
use tokio::sync::watch;

use crate::owner::Owner;
use crate::relay::Relay;

/// An edge with everything around it.
pub(crate) struct World {
    pub(crate) edge: EdgeHandle,
    pub(crate) address: SocketAddr,
    pub(crate) owner: Owner,
    pub(crate) relay: Relay,
    pub(crate) metrics: Metrics,
    pub(crate) snapshot: Snapshot,
    pub(crate) network: MemoryNetwork,
    placement: watch::Sender<Arc<Snapshot>>,
    _endpoint: Endpoint,
}

/// Another edge of the same mesh.
pub(crate) struct Other {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Metrics,
    _edge: EdgeHandle,
}

impl Other {
    /// The value of a metric, 0 where there is none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        value_of(&self.metrics, name)
    }
}

pub(crate) fn value_of(metrics: &Metrics, name: &str) -> f64 {
    metrics
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .filter_map(|value| value.parse::<f64>().ok())
        .sum()
}

fn key(id: &str, secret: &str) -> Key {
    Key {
        id: id.to_owned(),
        usage: KeyUse::Client,
        algorithm: KeyAlgorithm::HS256,
        secret: secret.to_owned(),
        ..Key::default()
    }
}

/// The key of an instance for the server API.
pub(crate) fn api_key(instance: &str) -> String {
    format!("gb6_{instance}_0123456789abcdef")
}

/// Two instances, `demo` and `acme`, in a region of one shard.
pub(crate) fn snapshot() -> Snapshot {
    let api_key = |name: &str| Key {
        usage: KeyUse::Api,
        ..key(&format!("{name}.api"), &api_key(name))
    };
    let instance = |name, key, origins: &[&str]| Instance {
        region: "r".to_owned(),
        epoch: InstanceEpoch(1),
        slots: vec![Slot(1), Slot(2)],
        keys: vec![key, api_key(name)],
        namespaces: BTreeMap::from([(
            "room".to_owned(),
            Namespace {
                presence: true,
                ..Namespace::default()
            },
        )]),
        allowed_origins: origins.iter().map(|o| (*o).to_owned()).collect(),
        subscriptions_max: 1024,
        ..Instance::default()
    };
    Snapshot {
        revision: 1,
        instances: BTreeMap::from([
            (
                "demo".into(),
                instance("demo", key("demo.k1", "demo secret"), &[]),
            ),
            (
                "acme".into(),
                instance(
                    "acme",
                    key("acme.k1", "acme secret"),
                    &["https://app.acme.example"],
                ),
            ),
        ]),
        regions: BTreeMap::from([(
            "r".to_owned(),
            Region {
                shards: 1,
                slots: BTreeMap::new(),
                owners: vec!["r1".into()],
                ..Default::default()
            },
        )]),
        nodes: BTreeMap::from([(
            NodeId::from("r1"),
            Node {
                roles: vec![Role::Region],
                mesh: None,
                region: Some("r".to_owned()),
            },
        )]),
    }
}

/// The settings of a test's edge: any port, and times that do not make a test wait.
pub(crate) fn config() -> EdgeConfig {
    let mut config = EdgeConfig::new("127.0.0.1:0".parse().unwrap(), InstanceId::from("demo"));
    config.tick = Duration::from_millis(20);
    config.drain_window = Duration::from_millis(200);
    config.close_timeout = Duration::from_millis(500);
    config.slow_close_timeout = Duration::from_millis(300);
    config
}

pub(crate) fn local(name: &str, role: Role) -> LocalNode {
    LocalNode::new(NodeIdentity::new(name, [role]).unwrap(), Incarnation(7))
}

/// The dependencies of an edge on `network`.
pub(crate) fn deps(network: &MemoryNetwork, snapshot: watch::Receiver<Arc<Snapshot>>) -> EdgeDeps {
    deps_of("e1", network, snapshot)
}

fn deps_of(
    name: &str,
    network: &MemoryNetwork,
    snapshot: watch::Receiver<Arc<Snapshot>>,
) -> EdgeDeps {
    EdgeDeps {
        snapshot,
        endpoint: network
            .bind(local(name, Role::Edge), Timing::default())
            .unwrap(),
        metrics: Metrics::bare(),
        health: Health::new(),
        assets: Arc::new(|path| {
            (path.is_empty() || path == "index.html").then(|| Asset {
                bytes: Bytes::from_static(b"<!doctype html>"),
                content_type: "text/html".to_owned(),
                etag: "v1".to_owned(),
                immutable: false,
            })
        }),
    }
}

impl World {
    /// Starts an edge with `config`.
    pub(crate) fn start(config: EdgeConfig) -> Self {
        Self::try_start(config).unwrap()
    }

    /// Starts an edge with `config`, if it can be.
    pub(crate) fn try_start(config: EdgeConfig) -> Result<Self, EdgeError> {
        Self::start_placed(config, snapshot())
    }

    /// Starts an edge with `config` and a placement of one's own.
    pub(crate) fn start_placed(config: EdgeConfig, snapshot: Snapshot) -> Result<Self, EdgeError> {
        let network = MemoryNetwork::new();
        let region = network
            .bind(local("r1", Role::Region), Timing::default())
            .unwrap();
        let owner = Owner::default();
        owner.place(snapshot.clone());
        owner.serve(region.clone());
        let (placement, receiver) = watch::channel(Arc::new(snapshot.clone()));
        let deps = deps(&network, receiver);
        let metrics = deps.metrics.clone();
        let edge = Edge::start(config, deps)?;
        Ok(Self {
            address: edge.local_addr(),
            edge,
            relay: owner.relay.clone(),
            owner,
            metrics,
            snapshot,
            network,
            placement,
            _endpoint: region,
        })
    }

    /// Gives the edge another placement.
    pub(crate) fn place(&self, snapshot: Snapshot) {
        self.owner.place(snapshot.clone());
        self.placement.send_replace(Arc::new(snapshot));
    }

    /// A token of `instance` for `user` that lasts `ttl` seconds.
    pub(crate) fn token_of(&self, instance: &str, user: &str, ttl: i64) -> String {
        let request = TokenRequest {
            user: user.to_owned(),
            now: unix_s(),
            ttl: Some(ttl),
            caps: Some(vec![Capability {
                channels: vec!["room:*".to_owned()],
                matching: Match::Wildcard,
                allow: vec![
                    Allow::Subscribe,
                    Allow::Publish,
                    Allow::Presence,
                    Allow::History,
                ],
            }]),
            info: None,
        };
        issue_token(&self.snapshot.instances[instance].keys[0], &request).unwrap()
    }

    /// A token of the demo instance.
    pub(crate) fn token(&self, user: &str) -> String {
        self.token_of("demo", user, 600)
    }

    /// The value of a metric, 0 where there is none.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        value_of(&self.metrics, name)
    }

    /// Starts another edge of the same mesh.
    pub(crate) fn another_edge(&self, name: &str) -> Other {
        self.another_edge_with(name, config())
    }

    /// Starts another edge of the same mesh with `config`.
    pub(crate) fn another_edge_with(&self, name: &str, config: EdgeConfig) -> Other {
        let deps = deps_of(name, &self.network, self.placement.subscribe());
        let metrics = deps.metrics.clone();
        let edge = Edge::start(config, deps).unwrap();
        Other {
            address: edge.local_addr(),
            metrics,
            _edge: edge,
        }
    }

    /// Cuts the edge off from the region.
    pub(crate) fn cut(&self) {
        self.network.cut(&"e1".into(), &"r1".into());
    }

    /// Waits until a metric has fallen.
    pub(crate) async fn metric_falls(&self, name: &str, at_most: f64) {
        eventually(name, || self.metric(name) <= at_most).await;
    }

    /// Waits until a metric has reached `at_least`.
    pub(crate) async fn metric_reaches(&self, name: &str, at_least: f64) {
        eventually(name, || self.metric(name) >= at_least).await;
    }
}

pub(crate) fn room(channel: &str) -> RoomRef {
    RoomRef {
        instance: "demo".to_owned(),
        channel: channel.to_owned(),
    }
}

pub(crate) fn unix_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

/// Waits until `what` holds, at most 10 s.
pub(crate) async fn eventually(name: &str, mut what: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !what() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{name} never came"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
