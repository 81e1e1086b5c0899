//! A region node: its shards, from start to drain.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_mesh::Endpoint;
use gb6_core_model::snapshot::{Assigned, Region as Placed, Snapshot};
use gb6_core_model::{NodeId, ShardId, limits};
use gb6_core_obs::health::Health;
use gb6_core_obs::metrics::{Metrics, Registration};
use gb6_core_outbound::{Outbound, OutboundConfig};
use gb6_core_ports::{MapStore, RateLimiter, RoomStore, ShardLog, Signals, StoreError};
use gb6_core_wire::mesh::ShardRef;
use gb6_region_shard::{Admin, AdminOutcome};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::accept::{self, Served, Shards};
use crate::assignments::{self, Assignments};
use crate::bodies::RecordKeys;
use crate::catch_ups::CatchUps;
use crate::consumers::NodeConsumers;
use crate::events::Events;
use crate::keeper::{Keeper, NodeParts, Order, Ownership};
use crate::lease::Clock;
use crate::limits::Limits;
use crate::metrics::{RegionMetrics, ShardNumbers, export};
use crate::panics::Panics;
use crate::places::NodePlaces;
use crate::recoveries::Recoveries;
use crate::recovery::random_incarnation;
use crate::relay::{Relay, RelayMetrics};
use crate::statuses::StatusEngines;
use crate::table::ShardTable;
use crate::turns::CommitTurns;
use crate::webhooks::{self, WebhookMetrics};
use crate::worker::Input;

/// Inputs that may wait for a shard's actor; streams wait beyond it.
const INBOX_MAX: usize = 1024;

/// Opens the log of a shard: called at the start, and again after each attempt to serve that failed,
/// since the writer of what was open may have ended.
pub type OpenLog = Arc<dyn Fn(ShardId) -> Result<Arc<dyn ShardLog>, StoreError> + Send + Sync>;

/// How a region behaves.
#[derive(Clone, Debug)]
pub struct RegionConfig {
    /// This node.
    pub node: NodeId,
    /// Lease of edges; default 10 s.
    pub edge_lease: Duration,
    /// A checkpoint is made after so many bytes of log, or after twice the bytes of its state where
    /// that is more; default 64 MiB.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made after so long, if anything changed; default 60 s.
    pub checkpoint_interval: Duration,
    /// Space is given back so often; default 60 s.
    pub retention_interval: Duration,
    /// Message ids remembered by a shard; default 1,000,000.
    pub dedupe_ids_max: usize,
    /// Shards that are recovered at once; default 16, at least 1.
    pub recoveries_max: usize,
    /// Standbys that read their logs to the end at once, when they begin; default 4, at least 1.
    pub catch_ups_max: usize,
    /// Which servers of customers webhooks may reach; default public addresses, by TLS.
    pub outbound: OutboundConfig,
    /// Least pause before a request of a webhook is repeated; default 1 s.
    pub webhook_retry_min: Duration,
    /// The longest; default 5 min.
    pub webhook_retry_max: Duration,
    /// Where what is committed is published for others; default nowhere.
    pub events: Events,
    /// Where nodes decide who owns what: a node whose record does not change for so long is taken for
    /// dead; default 1.5 s.
    pub assign_lease: Duration,
    /// How often this node rewrites its record; default 300 ms.
    pub assign_beat: Duration,
    /// What leases of nodes, and the silence of logs, are reckoned by; default the system's.
    pub clock: Clock,
    /// How often a standby looks at a log whose end it has reached; default 50 ms.
    pub standby_look: Duration,
    /// How long a node that drains may take to hand its shards over; default 6 s. What is left then is
    /// given up.
    pub hand_over_max: Duration,
}

impl RegionConfig {
    /// The defaults for `node`.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            edge_lease: Duration::from_millis(limits::EDGE_LEASE_MS),
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(60),
            retention_interval: Duration::from_secs(60),
            dedupe_ids_max: limits::DEDUPE_IDS_MAX,
            recoveries_max: 16,
            catch_ups_max: 4,
            outbound: OutboundConfig::default(),
            webhook_retry_min: Duration::from_secs(1),
            webhook_retry_max: Duration::from_secs(300),
            events: Events::default(),
            assign_lease: Duration::from_millis(1_500),
            assign_beat: Duration::from_millis(300),
            clock: Clock::default(),
            standby_look: Duration::from_millis(50),
            hand_over_max: Duration::from_secs(6),
        }
    }
}

/// What a region works with.
pub struct RegionDeps {
    /// Where edges dial in.
    pub endpoint: Endpoint,
    /// The placement; followed.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The logs.
    pub open_log: OpenLog,
    /// The index of rooms.
    pub rooms: Arc<dyn RoomStore>,
    /// The signals between owners.
    pub signals: Arc<dyn Signals>,
    /// Where statuses of users are kept.
    pub statuses: StatusEngines,
    /// Record keys.
    pub keys: RecordKeys,
    /// What shares out limits of instances among the edges.
    pub limiter: Arc<dyn RateLimiter>,
    /// The records by which the nodes of the region decide who owns what; needed where the placement
    /// leaves that to them.
    pub map: Option<Arc<dyn MapStore>>,
    /// Where metrics go.
    pub metrics: Metrics,
    /// Where readiness goes.
    pub health: Health,
}

impl std::fmt::Debug for RegionDeps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegionDeps").finish_non_exhaustive()
    }
}

/// Why a region does not start, or an admin command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The snapshot gives this node nothing to do.
    #[error("the snapshot names no shard that {0} owns: check `owners` of its region")]
    NoShards(NodeId),
    /// The nodes of the region are to decide who owns what, and have nothing to agree by.
    #[error(
        "region {0} decides itself who owns its shards (`assigned = \"region\"` in the snapshot's file): its nodes need a store that they share, set `map` in [stores], or name `owners` in the snapshot's file"
    )]
    NoMap(String),
    /// What looks after assignments could not be started.
    #[error("assignments can not be looked after: {0}")]
    Assignments(#[source] StoreError),
    /// An authority for webhooks is no certificate.
    #[error("an authority that webhooks are to trust can not be used: {0}")]
    Authority(#[source] rustls::Error),
    /// No such shard here.
    #[error("this node does not own shard {0}")]
    NotOwner(ShardId),
    /// The shard's actor ended before it answered.
    #[error("the shard stopped before it answered; whether the command was carried out is unknown")]
    Stopped,
}

/// Why a node of a region that decides itself who owns what takes part no longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionEnd {
    /// It has given everything away, as it was told.
    Drained,
    /// Another process runs under its name and has taken its place.
    Replaced,
    /// What looks after its assignments panicked. Its shards are served by others once its lease has
    /// ended; only a restart mends it.
    Panicked,
}

/// A running region node.
#[derive(Debug)]
pub struct Region {
    shards: Shards,
    orders: watch::Sender<Order>,
    workers: Vec<JoinHandle<()>>,
    assignments: Option<Assignments>,
    hand_over_max: Duration,
    acceptor: JoinHandle<()>,
    endpoint: Endpoint,
    _metrics: Vec<Registration>,
}

impl std::fmt::Debug for ShardTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardTable").finish_non_exhaustive()
    }
}

/// A new inbox of a shard.
pub(crate) fn inbox() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
    // overflow: streams wait; the credit of each edge and instance bounds what they hold.
    mpsc::channel(INBOX_MAX)
}

impl Region {
    /// Starts serving every shard that the snapshot gives to this node, or, where it leaves that to the
    /// region's nodes, takes part in deciding. Returns at once: `health` says when all that this node
    /// owns is served.
    ///
    /// # Errors
    /// The snapshot gives this node no shard, there is nothing to decide by, or an authority for
    /// webhooks is no certificate.
    pub fn start(config: RegionConfig, deps: RegionDeps) -> Result<Self, RegionError> {
        let snapshot = deps.snapshot.borrow().clone();
        let deciding = decided_region(&snapshot, &config.node);
        let owned = owned_shards(&snapshot, &config.node);
        if owned.is_empty() && deciding.is_none() {
            return Err(RegionError::NoShards(config.node));
        }
        let region_metrics = RegionMetrics::new(&deps.metrics);
        let webhook_metrics = WebhookMetrics::new(&deps.metrics);
        let panics = Panics::new(&deps.metrics, &deps.health);
        let mut registrations = vec![webhook_metrics.export(&deps.metrics)];
        let webhooks = Arc::new(webhooks::Shared {
            outbound: Outbound::new(config.outbound.clone()).map_err(RegionError::Authority)?,
            metrics: webhook_metrics,
            pace: webhooks::Pace::new(config.webhook_retry_min, config.webhook_retry_max),
            reads: webhooks::Reads::new(&deps.metrics),
            panics: panics.clone(),
        });
        let consumers = NodeConsumers::new(&deps.metrics);
        let hand_over_max = config.hand_over_max;
        let recoveries = Arc::new(Recoveries::new(config.recoveries_max, &deps.metrics));
        let catch_ups = CatchUps::new(config.catch_ups_max, recoveries.clone(), &deps.metrics);
        let node = Arc::new(NodeParts {
            recoveries,
            catch_ups: Arc::new(catch_ups),
            config,
            deps: Arc::new(deps),
            metrics: region_metrics.clone(),
            turns: Arc::new(CommitTurns::default()),
            places: NodePlaces::default(),
            webhooks,
            consumers,
            panics,
        });
        let deps = &node.deps;
        let shards: Shards = Arc::default();
        let (orders, ordered) = watch::channel(Order::Serve);
        let mut workers = Vec::new();
        for shard in owned {
            let (inbox, inputs) = inbox();
            let numbers = Arc::new(Mutex::new(ShardNumbers::default()));
            registrations.push(export(&deps.metrics, shard.shard, numbers.clone()));
            let name = format!("shard {}/{}", shard.region, shard.shard);
            let keeper = Keeper {
                shard: shard.clone(),
                component: deps.health.register(&name),
                numbers,
                node: node.clone(),
                ownership: Ownership::Placed,
                standby: Mutex::default(),
            };
            workers.push(tokio::spawn(keeper.run(inputs, ordered.clone())));
            shards.insert(shard, inbox);
        }
        let assignments = match deciding {
            None => None,
            Some((region, count)) => {
                let map = deps.map.clone();
                let map = map.ok_or_else(|| RegionError::NoMap(region.clone()))?;
                let placed = snapshot.nodes.get(&node.config.node);
                let started = Assignments::start(assignments::Setup {
                    map,
                    region,
                    shards: count,
                    incarnation: random_incarnation().map_err(RegionError::Assignments)?.0,
                    mesh: placed.and_then(|placed| placed.mesh.clone()),
                    table: shards.clone(),
                    runtime: Handle::current(),
                    node: node.clone(),
                });
                Some(started.map_err(RegionError::Assignments)?)
            }
        };
        let endpoint = deps.endpoint.clone();
        let limits = Limits {
            limiter: deps.limiter.clone(),
            snapshot: deps.snapshot.clone(),
            began: Instant::now(),
            given: region_metrics.limit_shares.clone(),
            unanswered: region_metrics.limit_questions_unanswered.clone(),
        };
        let relay = Arc::new(Relay::new(RelayMetrics::new(&deps.metrics)));
        let acceptor = tokio::spawn(accept::run(
            endpoint.clone(),
            Served::new(shards.clone(), relay, limits),
            region_metrics.roles_refused.clone(),
            node.panics.clone(),
        ));
        Ok(Self {
            shards,
            orders,
            workers,
            assignments,
            hand_over_max,
            acceptor,
            endpoint,
            _metrics: registrations,
        })
    }

    /// Where nodes decide who owns what: tells when this one takes part no longer, and why.
    pub fn end(&self) -> Option<watch::Receiver<Option<RegionEnd>>> {
        self.assignments.as_ref().map(Assignments::end)
    }

    /// Carries out an admin command on a shard of this node.
    ///
    /// # Errors
    /// The shard is not owned here, or stopped before it answered.
    pub async fn admin(
        &self,
        shard: &ShardRef,
        command: Admin,
    ) -> Result<AdminOutcome, RegionError> {
        let inbox = self
            .shards
            .get(shard)
            .ok_or(RegionError::NotOwner(ShardId(shard.shard)))?;
        let (done, outcome) = oneshot::channel();
        let input = Input::Admin { command, done };
        inbox.send(input).await.map_err(|_| RegionError::Stopped)?;
        outcome.await.map_err(|_| RegionError::Stopped)
    }

    /// Hands its shards over where others can take them, finishes what is in flight, saves checkpoints,
    /// ends links.
    pub async fn drain(self) {
        if let Some(assignments) = self.assignments {
            assignments.drain(self.hand_over_max).await;
        }
        // Receivers live in the workers; without any there is nothing to drain.
        let _ = self.orders.send(Order::Stop);
        for worker in self.workers {
            if let Err(error) = worker.await {
                tracing::error!(%error, "a shard's actor failed while draining");
            }
        }
        self.acceptor.abort();
        self.endpoint
            .close(
                gb6_core_mesh::CloseCode::Draining,
                "the region stops",
                Duration::from_millis(500),
            )
            .await;
    }
}

/// The region of this node, and how many shards it has, where its nodes decide who owns what.
fn decided_region(snapshot: &Snapshot, node: &NodeId) -> Option<(String, u32)> {
    let name = snapshot.nodes.get(node)?.region.as_ref()?;
    let region = snapshot.regions.get(name)?;
    (region.assigned == Assigned::Region).then(|| (name.clone(), region.shards))
}

fn owned_shards(snapshot: &Snapshot, node: &NodeId) -> Vec<ShardRef> {
    let mut owned = Vec::new();
    let by_placement = |region: &Placed| region.assigned == Assigned::Placement;
    let regions = snapshot.regions.iter();
    for (name, region) in regions.filter(|(_, region)| by_placement(region)) {
        for (shard, owner) in (0u32..).zip(&region.owners) {
            if owner == node {
                owned.push(ShardRef {
                    region: name.clone(),
                    shard,
                });
            }
        }
    }
    owned
}
