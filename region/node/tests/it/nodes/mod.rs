//! Several nodes of one region over agreed records and logs that all of them reach: starts, deaths,
//! hand-overs under load, the loss of the records, of the log, of both.

mod edge;
mod lost;
mod owners;
mod rounds;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gb6_core_mesh::{Endpoint, LocalNode, MemoryNetwork, NodeIdentity, Timing};
use gb6_core_model::snapshot::{Assigned, Instance, Namespace, Node, Region as Placed, Snapshot};
use gb6_core_model::{Incarnation, InstanceEpoch, InstanceId, NodeId, Role, ShardId, Slot};
use gb6_core_obs::{Health, Metrics};
use gb6_core_ports::memory::{MemoryMap, MemoryRateLimiter, MemoryStorage};
use gb6_core_ports::{Expect, MapLayer, MapStore, ShardLog, StoreError};
use gb6_core_wire::mesh::RoomRef;
use gb6_region_assign::{ShardRecord, node_key, shard_key};
use gb6_region_node::{RecordKeys, Region, RegionConfig, RegionDeps, RegionError, StatusEngines};
use gb6_region_stores_embedded::LocalSignals;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::clock::TestClock;
use crate::cut::{CutLog, SharedRooms};
use crate::edge::PATIENCE;
use edge::Edge;

pub(crate) const SHARDS: u32 = 4;
pub(crate) const NODES: [&str; 3] = ["r1", "r2", "r3"];

/// The room of a shard.
pub(crate) fn room(shard: u32) -> RoomRef {
    let slots: Vec<Slot> = (0..SHARDS as u16).map(Slot).collect();
    let demo = InstanceId::from("demo");
    let names = (0..).map(|n| format!("room:{n}"));
    let mut ours = names.filter(|name| {
        gb6_core_model::hash::slot_of(&demo, name, &slots) == Some(Slot(shard as u16))
    });
    RoomRef {
        instance: "demo".into(),
        channel: ours.next().expect("a room of every slot"),
    }
}

fn snapshot(assigned: Assigned) -> Arc<Snapshot> {
    let demo = Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(1),
        slots: (0..SHARDS as u16).map(Slot).collect(),
        namespaces: BTreeMap::from([("room".to_owned(), Namespace::default())]),
        subscriptions_max: 8,
        ..Instance::default()
    };
    let eu = Placed {
        shards: SHARDS,
        slots: BTreeMap::new(),
        owners: (0..SHARDS as usize).map(|n| NODES[n % 3].into()).collect(),
        assigned,
    };
    let node = || Node {
        roles: vec![Role::Region],
        mesh: None,
        region: Some("eu".into()),
    };
    Arc::new(Snapshot {
        revision: 1,
        instances: BTreeMap::from([(InstanceId::from("demo"), demo)]),
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        nodes: NODES.map(|name| (NodeId::from(name), node())).into(),
    })
}

/// The records as one node reaches them, or does not.
struct CutMap {
    map: MemoryMap,
    /// What it became when it was restored.
    restored: Arc<OnceLock<MemoryMap>>,
    cut: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    gives_up: Arc<AtomicBool>,
}

impl MapLayer for CutMap {
    fn below(&self) -> &dyn MapStore {
        self.restored.get().unwrap_or(&self.map)
    }

    fn reach(&self) -> Result<&dyn MapStore, StoreError> {
        if self.cut.load(Ordering::SeqCst) {
            let cause = "it is cut off".to_owned();
            return Err(StoreError::Unavailable { cause });
        }
        Ok(self.below())
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        if key.contains("/nodes/") && self.hangs.swap(false, Ordering::SeqCst) {
            // As a connection that swallows what it is given, until it is given up.
            let began = Instant::now();
            while !self.gives_up.load(Ordering::SeqCst) && began.elapsed() < 2 * PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            let cause = "no answer".to_owned();
            return Err(StoreError::Unavailable { cause });
        }
        self.reach()?.put(key, value, expect)
    }
}

/// A node in a runtime of its own, so that it can die.
pub(crate) struct Running {
    region: Option<Region>,
    runtime: Option<Runtime>,
    metrics: Metrics,
    health: Health,
    pub(crate) map_cut: Arc<AtomicBool>,
    /// The next put of its own record hangs.
    pub(crate) map_hangs: Arc<AtomicBool>,
    /// What hangs ends.
    pub(crate) map_gives_up: Arc<AtomicBool>,
    pub(crate) log_cut: Arc<AtomicBool>,
    /// The next batch gets no answer.
    pub(crate) loses: Arc<AtomicBool>,
}

impl Running {
    /// A metric, summed over its labels; 0 where there is none yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// A metric by its name and labels.
    fn metric_of(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        let value = value.and_then(|value| value.trim().parse().ok());
        value.expect("a metric of this name")
    }

    /// The process is gone: what it still runs reaches nothing any more.
    pub(crate) fn die(mut self) {
        self.map_cut.store(true, Ordering::SeqCst);
        self.log_cut.store(true, Ordering::SeqCst);
        drop(self.region.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.region.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Puts something over a log.
pub(crate) type OverLogs = Arc<dyn Fn(Arc<dyn ShardLog>) -> Arc<dyn ShardLog> + Send + Sync>;

/// What outlives nodes.
pub(crate) struct World {
    map: MemoryMap,
    restored: Arc<OnceLock<MemoryMap>>,
    pub(crate) logs: HashMap<u32, MemoryStorage>,
    rooms: Arc<SharedRooms>,
    network: MemoryNetwork,
    incarnations: AtomicU64,
    assigned: Assigned,
    standby_look: Duration,
    /// What is between the nodes and their logs.
    pub(crate) over_logs: Option<OverLogs>,
    /// Of the nodes.
    pub(crate) clock: TestClock,
    /// Of the tests' edges.
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            map: MemoryMap::default(),
            restored: Arc::default(),
            logs: (0..SHARDS).map(|s| (s, MemoryStorage::default())).collect(),
            rooms: Arc::default(),
            network: MemoryNetwork::new(),
            incarnations: AtomicU64::new(1),
            assigned: Assigned::Region,
            standby_look: Duration::from_millis(50),
            over_logs: None,
            clock: TestClock::new(),
            runtime: Runtime::new().expect("a runtime"),
        }
    }

    fn bind(&self, name: &str, role: Role) -> Endpoint {
        let identity = NodeIdentity::new(NodeId::from(name), vec![role]).expect("an identity");
        let incarnation = Incarnation(self.incarnations.fetch_add(1, Ordering::SeqCst));
        let local = LocalNode::new(identity, incarnation);
        let began = Instant::now();
        loop {
            // A process that has died may hold its name for a moment.
            match self.network.bind(local.clone(), Timing::default()) {
                Ok(endpoint) => return endpoint,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn start(&self, name: &str) -> Running {
        self.try_start(name, true).expect("a region")
    }

    fn try_start(&self, name: &str, with_map: bool) -> Result<Running, RegionError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let _inside = runtime.enter();
        let (map_cut, log_cut) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (map_hangs, map_gives_up) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let over_logs = self.over_logs.clone();
        let loses = Arc::<AtomicBool>::default();
        let (logs, cut, losing) = (self.logs.clone(), log_cut.clone(), loses.clone());
        let clock = self.clock.clone();
        let keys = RecordKeys::default();
        keys.add("demo", 1, [7; 32]);
        let (metrics, health) = (Metrics::bare(), Health::new());
        let map: Arc<dyn MapStore> = Arc::new(CutMap {
            map: self.map.clone(),
            restored: self.restored.clone(),
            cut: map_cut.clone(),
            hangs: map_hangs.clone(),
            gives_up: map_gives_up.clone(),
        });
        let deps = RegionDeps {
            endpoint: self.bind(name, Role::Region),
            snapshot: watch::channel(snapshot(self.assigned)).1,
            open_log: Arc::new(move |ShardId(shard)| {
                let mut log: Arc<dyn ShardLog> = Arc::new(logs[&shard].open());
                if let Some(over) = &over_logs {
                    log = over(log);
                }
                let log = CutLog::new(log, cut.clone(), clock.clone());
                Ok(Arc::new(log.losing(losing.clone())))
            }),
            rooms: self.rooms.clone(),
            signals: Arc::new(LocalSignals::new()),
            statuses: StatusEngines::in_memory(),
            keys,
            limiter: Arc::new(MemoryRateLimiter::default()),
            map: with_map.then_some(map),
            metrics: metrics.clone(),
            health: health.clone(),
        };
        let mut config = RegionConfig::new(NodeId::from(name));
        // The tests' edges do not renew theirs.
        config.edge_lease = Duration::from_secs(300);
        config.standby_look = self.standby_look;
        config.clock = self.clock.of_nodes();
        let region = Region::start(config, deps)?;
        drop(_inside);
        Ok(Running {
            region: Some(region),
            runtime: Some(runtime),
            metrics,
            health,
            map_cut,
            map_hangs,
            map_gives_up,
            log_cut,
            loses,
        })
    }

    pub(crate) fn record(&self, shard: u32) -> Option<(ShardRecord, u64)> {
        let key = shard_key("eu", shard);
        let map = self.restored.get().unwrap_or(&self.map);
        let entry = map.get(&key).expect("the map is there")?;
        let record = ShardRecord::decode(&key, &entry.value?).expect("a record");
        Some((record, entry.revision))
    }

    pub(crate) fn owner(&self, shard: u32) -> Option<String> {
        Some(self.record(shard)?.0.node?.as_str().to_owned())
    }

    pub(crate) fn edge(&self, name: &str, shard: u32) -> Edge {
        Edge {
            endpoint: self.bind(name, Role::Edge),
            incarnation: name.bytes().map(u64::from).sum(),
            shard,
            at: NODES[0].to_owned(),
            attached: None,
            epoch: 0,
            number: 0,
            refusals: 0,
            errors: 0,
        }
    }

    /// What each node has last written of itself: it changes whenever a node says that it lives.
    pub(crate) fn beats(&self) -> [u64; 3] {
        let map = self.restored.get().unwrap_or(&self.map);
        NODES.map(|name| {
            let entry = map.get(&node_key("eu", &NodeId::from(name)));
            entry.expect("the map is there").map_or(0, |e| e.revision)
        })
    }

    /// Waits until something holds.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        self.wait_for(PATIENCE, what, holds);
    }

    /// As [`World::wait`], for at most so long.
    pub(crate) fn wait_for(&self, patience: Duration, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < patience, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every shard has an owner and a standby, and nodes have alike.
    pub(crate) fn settle(&self, nodes: &[(&str, &Running)]) {
        self.wait("all is owned and followed", || {
            let owned = (0..SHARDS).all(|shard| {
                let record = self.record(shard);
                record.is_some_and(|(r, _)| r.node.is_some() && r.standby.is_some())
            });
            let serving: f64 = nodes
                .iter()
                .map(|(_, n)| n.metric("gb6_shard_serving"))
                .sum();
            let followed: f64 = nodes
                .iter()
                .map(|(_, n)| n.metric("gb6_region_shards_followed"))
                .sum();
            let alike = nodes
                .iter()
                .all(|(_, n)| n.metric("gb6_region_shards_owned") >= 1.0);
            owned && alike && serving == f64::from(SHARDS) && followed == f64::from(SHARDS)
        });
    }
}
