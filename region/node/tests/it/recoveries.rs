//! How many shards of a node are recovered at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_mesh::{LocalNode, MemoryNetwork, NodeIdentity, Timing};
use gb6_core_model::snapshot::{Node, Region as Placed, Snapshot};
use gb6_core_model::{Incarnation, NodeId, Role, ShardId};
use gb6_core_obs::{Health, Metrics};
use gb6_core_ports::ShardLog;
use gb6_core_ports::memory::{MemoryRateLimiter, MemoryRooms, MemoryStorage};
use gb6_region_node::{RecordKeys, Region, RegionConfig, RegionDeps, StatusEngines};
use gb6_region_stores_embedded::LocalSignals;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::edge::PATIENCE;

const SHARDS: u32 = 6;
/// The one whose log can not be opened for a while.
const STUCK: u32 = 2;

/// What is opened now.
#[derive(Default)]
struct Opening {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Beside the one that is stuck.
    now: u32,
    most: u32,
    free: bool,
}

impl Opening {
    fn open(&self, shard: u32) {
        let mut state = self.state.lock();
        if shard == STUCK {
            while !state.free {
                self.changed.wait(&mut state);
            }
            return;
        }
        state.now += 1;
        state.most = state.most.max(state.now);
        drop(state);
        // Long enough for all the others to begin meanwhile, if they may.
        std::thread::sleep(Duration::from_millis(50));
        self.state.lock().now -= 1;
    }

    fn free(&self) {
        self.state.lock().free = true;
        self.changed.notify_all();
    }
}

fn snapshot() -> Arc<Snapshot> {
    let eu = Placed {
        shards: SHARDS,
        owners: vec!["r1".into(); SHARDS as usize],
        ..Placed::default()
    };
    let r1 = Node {
        roles: vec![Role::Region],
        region: Some("eu".into()),
        mesh: None,
    };
    Arc::new(Snapshot {
        revision: 1,
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        nodes: BTreeMap::from([(NodeId::from("r1"), r1)]),
        ..Snapshot::default()
    })
}

fn metric(metrics: &Metrics, name: &str) -> f64 {
    let text = metrics.text();
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    });
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_recovered_one_by_one_and_one_that_is_stuck_stops_no_other() {
    let logs: HashMap<u32, MemoryStorage> =
        (0..SHARDS).map(|s| (s, MemoryStorage::default())).collect();
    let opening = Arc::new(Opening::default());
    let identity = NodeIdentity::new(NodeId::from("r1"), vec![Role::Region]).expect("an identity");
    let local = LocalNode::new(identity, Incarnation(1));
    let network = MemoryNetwork::new();
    let (metrics, opens) = (Metrics::bare(), opening.clone());
    let deps = RegionDeps {
        endpoint: network.bind(local, Timing::default()).expect("an endpoint"),
        snapshot: watch::channel(snapshot()).1,
        open_log: Arc::new(move |ShardId(shard)| {
            opens.open(shard);
            let log: Arc<dyn ShardLog> = Arc::new(logs[&shard].open());
            Ok(log)
        }),
        rooms: Arc::new(MemoryRooms::default()),
        signals: Arc::new(LocalSignals::new()),
        statuses: StatusEngines::in_memory(),
        keys: RecordKeys::default(),
        limiter: Arc::new(MemoryRateLimiter::default()),
        map: None,
        metrics: metrics.clone(),
        health: Health::new(),
    };
    let mut config = RegionConfig::new(NodeId::from("r1"));
    config.recoveries_max = 1;
    let region = Region::start(config, deps).expect("a region");
    let serve = async |shards: f64| {
        let began = Instant::now();
        while metric(&metrics, "gb6_shard_serving") < shards {
            assert!(began.elapsed() < PATIENCE, "{}", metrics.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    serve(f64::from(SHARDS) - 1.0).await;
    assert_eq!(opening.state.lock().most, 1, "one at a time");
    assert_eq!(metric(&metrics, "gb6_region_recoveries_waiting"), 0.0);
    opening.free();
    serve(f64::from(SHARDS)).await;
    region.drain().await;
}
