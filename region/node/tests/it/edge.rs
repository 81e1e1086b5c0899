//! A region of one shard, and an edge's side of the mesh, driven by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use gb6_core_mesh::{
    Endpoint, FrameReceiver, FrameSender, Link, LocalNode, MemoryNetwork, NodeIdentity,
    QueueLimits, Timing,
};
use gb6_core_model::snapshot::{Assigned, Instance, Namespace, Node, Region as Placed, Snapshot};
use gb6_core_model::{
    ChannelKey, Incarnation, InstanceEpoch, InstanceId, NodeId, Role, ShardId, Slot, Webhooks,
};
use gb6_core_obs::{Health, Metrics};
use gb6_core_ports::memory::{
    MemoryLogConfig, MemoryMap, MemoryRateLimiter, MemoryRooms, MemoryStorage,
};
use gb6_core_ports::{MapStore, RateLimiter, RoomEntry, RoomStore, ShardLog, Signals, StoreError};
use gb6_core_wire::mesh::{
    Attach, Class, EdgeFrame, HistoryPage, HistoryRequest, OwnerFrame, Person, Publish, Purpose,
    RoomRef, ShardRef, StreamOpen, ToEdge, ToOwner,
};
use gb6_region_node::{KeySource, RecordKeys, Region, RegionConfig, RegionDeps, StatusEngines};
use gb6_region_stores_embedded::LocalSignals;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::lying::{Faults, LyingLog};

/// How long anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn shard() -> ShardRef {
    ShardRef {
        region: "eu".into(),
        shard: 0,
    }
}

/// A room by number; [`room`] is the first.
pub(crate) fn channel(n: u64) -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: format!("room:{n}"),
    }
}

pub(crate) fn room() -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: "room:1".into(),
    }
}

fn snapshot(rules: Namespace, webhooks: Option<Webhooks>, assigned: Assigned) -> Arc<Snapshot> {
    let demo = Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(1),
        slots: vec![Slot(1)],
        namespaces: BTreeMap::from([("room".to_owned(), rules)]),
        subscriptions_max: 8,
        user_status_ttl_ms: 3_600_000,
        webhooks,
        ..Instance::default()
    };
    let eu = Placed {
        shards: 1,
        slots: BTreeMap::new(),
        owners: vec![NodeId::from("r1")],
        assigned,
    };
    let r1 = Node {
        roles: vec![Role::Region],
        mesh: None,
        region: Some("eu".into()),
    };
    Arc::new(Snapshot {
        revision: 1,
        instances: BTreeMap::from([(InstanceId::from("demo"), demo)]),
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        nodes: BTreeMap::from([(NodeId::from("r1"), r1)]),
    })
}

/// What happens to reads of the index, and who follows the log for it.
#[derive(Default)]
pub(crate) struct Watched {
    holds: Mutex<bool>,
    let_go: Condvar,
    waiting: AtomicUsize,
    /// Set: the next write panics.
    pub(crate) panics: AtomicBool,
    /// Writes that there were.
    pub(crate) writes: AtomicUsize,
    /// The index threads, each as often as it took over from another.
    followers: Mutex<Vec<ThreadId>>,
}

impl Watched {
    /// From now on reads wait, or no longer do.
    pub(crate) fn hold(&self, holds: bool) {
        *self.holds.lock() = holds;
        self.let_go.notify_all();
    }

    /// Reads that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// The index threads in the order in which they worked.
    pub(crate) fn followers(&self) -> Vec<ThreadId> {
        self.followers.lock().clone()
    }

    fn read(&self) {
        let mut holds = self.holds.lock();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.let_go
            .wait_while_for(&mut holds, |holds| *holds, 2 * PATIENCE);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn looked(&self) {
        let thread = std::thread::current();
        if thread.name().is_some_and(|name| name.starts_with("index-")) {
            let mut followers = self.followers.lock();
            if followers.last() != Some(&thread.id()) {
                followers.push(thread.id());
            }
        }
    }
}

/// The index, whose writes fail while it is stalled.
struct Index {
    rooms: Arc<dyn RoomStore>,
    stalled: Arc<AtomicBool>,
    watched: Arc<Watched>,
}

impl RoomStore for Index {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: u64,
        to: u64,
    ) -> Result<(), StoreError> {
        if self.stalled.load(Ordering::Relaxed) {
            let cause = "stalled".to_owned();
            return Err(StoreError::Unavailable { cause });
        }
        assert!(
            !self.watched.panics.swap(false, Ordering::SeqCst),
            "a defect of the index"
        );
        self.watched.writes.fetch_add(1, Ordering::SeqCst);
        self.rooms.put(shard, entries, from, to)
    }

    fn applied(&self, shard: ShardId) -> Result<u64, StoreError> {
        self.watched.looked();
        self.rooms.applied(shard)
    }

    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u64)>, StoreError> {
        self.watched.read();
        self.rooms.forward(shard, room, from, limit)
    }

    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u64)>, StoreError> {
        self.rooms.reverse(shard, room, from, limit)
    }

    fn delete_below(&self, shard: ShardId, room: &ChannelKey, to: u64) -> Result<(), StoreError> {
        self.rooms.delete_below(shard, room, to)
    }

    fn clear(&self, shard: ShardId) -> Result<(), StoreError> {
        self.rooms.clear(shard)
    }
}

/// Puts something around a log.
pub(crate) type Wrap = Arc<dyn Fn(Arc<dyn ShardLog>) -> Arc<dyn ShardLog> + Send + Sync>;

/// What outlives a region: its disk.
pub(crate) struct Machine {
    pub(crate) storage: MemoryStorage,
    pub(crate) rooms: Arc<dyn RoomStore>,
    /// Between the region and its log.
    pub(crate) wrap: Wrap,
    /// Of the log.
    pub(crate) faults: Arc<Faults>,
    /// While set, the index takes nothing.
    pub(crate) stalled: Arc<AtomicBool>,
    pub(crate) watched: Arc<Watched>,
    pub(crate) config: RegionConfig,
    /// The id of the instance's record key.
    pub(crate) key_id: u32,
    /// Whose key it is.
    pub(crate) key_of: &'static str,
    /// Where others lie.
    pub(crate) key_source: Option<Arc<dyn KeySource>>,
    pub(crate) metrics: Metrics,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) statuses: StatusEngines,
    pub(crate) limiter: Arc<dyn RateLimiter>,
    /// Of the instance.
    pub(crate) webhooks: Option<Webhooks>,
    /// The agreed records, where nodes decide who owns what.
    pub(crate) map: Option<MemoryMap>,
    network: MemoryNetwork,
    rules: Namespace,
    next_incarnation: u64,
}

impl Machine {
    pub(crate) fn new(rules: Namespace) -> Self {
        Self {
            storage: MemoryStorage::new(MemoryLogConfig::default()),
            wrap: Arc::new(|log| log),
            faults: Arc::default(),
            config: RegionConfig::new(NodeId::from("r1")),
            rooms: Arc::new(MemoryRooms::new()),
            stalled: Arc::default(),
            watched: Arc::default(),
            key_id: 1,
            key_of: "demo",
            key_source: None,
            metrics: Metrics::bare(),
            signals: Arc::new(LocalSignals::new()),
            statuses: StatusEngines::in_memory(),
            limiter: Arc::new(MemoryRateLimiter::default()),
            webhooks: None,
            map: None,
            network: MemoryNetwork::new(),
            rules,
            next_incarnation: 1,
        }
    }

    pub(crate) fn bind(&mut self, name: &str, role: Role) -> Endpoint {
        let identity = NodeIdentity::new(NodeId::from(name), vec![role]).expect("an identity");
        let incarnation = Incarnation(self.next_incarnation);
        self.next_incarnation += 1;
        self.network
            .bind(LocalNode::new(identity, incarnation), Timing::default())
            .expect("a free name")
    }

    /// Starts the region and waits until its shard is served.
    pub(crate) async fn start(&mut self) -> Region {
        let endpoint = self.bind("r1", Role::Region);
        let assigned = match self.map {
            Some(_) => Assigned::Region,
            None => Assigned::Placement,
        };
        let snapshot = snapshot(self.rules.clone(), self.webhooks.clone(), assigned);
        let (_, snapshot) = watch::channel(snapshot);
        let (storage, faults) = (self.storage.clone(), self.faults.clone());
        let wrap = self.wrap.clone();
        let keys = match self.key_source.clone() {
            Some(source) => RecordKeys::of(source),
            None => RecordKeys::default(),
        };
        keys.add(self.key_of, self.key_id, [7; 32]);
        let health = Health::new();
        let rooms: Arc<dyn RoomStore> = Arc::new(Index {
            rooms: self.rooms.clone(),
            stalled: self.stalled.clone(),
            watched: self.watched.clone(),
        });
        let deps = RegionDeps {
            endpoint,
            snapshot,
            open_log: Arc::new(move |_| {
                let log = LyingLog::new(Arc::new(storage.open()), faults.clone());
                Ok(wrap(Arc::new(log)))
            }),
            rooms,
            signals: self.signals.clone(),
            statuses: self.statuses.clone(),
            keys,
            limiter: self.limiter.clone(),
            map: self
                .map
                .clone()
                .map(|map| Arc::new(map) as Arc<dyn MapStore>),
            metrics: self.metrics.clone(),
            health: health.clone(),
        };
        let region = Region::start(self.config.clone(), deps).expect("a region");
        let ready = tokio::time::timeout(PATIENCE, health.wait_ready()).await;
        ready.expect("the shard is served in time");
        region
    }

    /// A metric without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.text();
        let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
        text.lines().find_map(value).expect("a metric of this name")
    }

    /// An edge that is attached, with its catch-up stream.
    /// Its incarnation follows from the name, so that the same edge can come back.
    pub(crate) async fn edge(&mut self, name: &str) -> Edge {
        self.try_edge(name).await.expect("it is attached")
    }

    /// As [`Machine::edge`], once a shard that was lost is served again.
    pub(crate) async fn edge_again(&mut self, name: &str) -> Edge {
        let began = Instant::now();
        loop {
            if let Some(edge) = self.try_edge(name).await {
                return edge;
            }
            assert!(began.elapsed() < PATIENCE, "the shard is not served again");
            tokio::task::yield_now().await;
        }
    }

    async fn try_edge(&mut self, name: &str) -> Option<Edge> {
        let endpoint = self.bind(name, Role::Edge);
        let link = endpoint
            .dial(&NodeId::from("r1"), None)
            .await
            .expect("a link");
        let open = |purpose| StreamOpen {
            purpose: Some(purpose),
        };
        let stream = link
            .open(open(Purpose::Shard(shard())))
            .await
            .expect("a stream");
        let (sender, receiver) = stream.split::<ToOwner, ToEdge>(QueueLimits::default());
        let stream = link
            .open(open(Purpose::CatchUp(shard())))
            .await
            .expect("a stream");
        let (ask, pages) = stream.split::<HistoryRequest, HistoryPage>(QueueLimits::default());
        let mut edge = Edge {
            _endpoint: endpoint,
            link,
            sender,
            receiver,
            ask,
            pages,
            requests: 0,
        };
        edge.send(OwnerFrame::Attach(Attach {
            edge_incarnation: name.bytes().map(u64::from).sum(),
            revision: 1,
            shard_epoch: 0,
        }));
        match edge.next().await? {
            EdgeFrame::Attached(_) => Some(edge),
            other => panic!("unexpected {other:?}"),
        }
    }
}

pub(crate) struct Edge {
    _endpoint: Endpoint,
    pub(crate) link: Link,
    sender: FrameSender<ToOwner>,
    receiver: FrameReceiver<ToEdge>,
    ask: FrameSender<HistoryRequest>,
    pages: FrameReceiver<HistoryPage>,
    requests: u64,
}

impl Edge {
    pub(crate) fn send(&self, frame: OwnerFrame) {
        let frame = ToOwner { frame: Some(frame) };
        self.sender
            .try_send(Class::Control, frame)
            .expect("room in the lane");
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<EdgeFrame> {
        let frame = tokio::time::timeout(PATIENCE, self.receiver.recv()).await;
        frame.expect("a frame in time").ok().flatten()?.frame
    }

    /// Publishes, and waits for the answer: offset and error code.
    pub(crate) async fn publish(&mut self, session: u64, number: u64, data: String) -> (u64, u32) {
        let answer = self.try_publish(session, number, data).await;
        answer.expect("the answer comes before the stream's end")
    }

    /// The same; `None` when the stream ended without an answer.
    pub(crate) async fn try_publish(
        &mut self,
        session: u64,
        number: u64,
        data: String,
    ) -> Option<(u64, u32)> {
        let publish = Publish {
            session,
            number,
            settled_below: number,
            data: data.into(),
            ..Publish::default()
        };
        self.try_publish_as(room(), publish).await
    }

    /// Publishes with numbers that follow each other, all at once, and waits for the answers: offsets, in order.
    pub(crate) async fn publish_together(
        &mut self,
        session: u64,
        numbers: std::ops::Range<u64>,
        data: &str,
    ) -> Vec<u64> {
        let first = self.requests + 1;
        for number in numbers.clone() {
            self.requests += 1;
            self.send(OwnerFrame::Publish(Publish {
                request: self.requests,
                room: room(),
                instance_epoch: 1,
                session,
                number,
                settled_below: numbers.start,
                data: data.to_owned().into(),
                ..Publish::default()
            }));
        }
        let mut offsets = Vec::new();
        while first + offsets.len() as u64 <= self.requests {
            match self.next().await {
                Some(EdgeFrame::Published(p)) if p.request >= first => {
                    assert_eq!(p.error, 0, "publish {}", p.request);
                    offsets.push(p.offset);
                }
                Some(_) => {}
                None => panic!("the stream ended before the answers"),
            }
        }
        offsets
    }

    /// Publishes to any room, as [`Edge::publish`].
    pub(crate) async fn publish_as(&mut self, room: RoomRef, publish: Publish) -> (u64, u32) {
        let answer = self.try_publish_as(room, publish).await;
        answer.expect("the answer comes before the stream's end")
    }

    async fn try_publish_as(&mut self, room: RoomRef, publish: Publish) -> Option<(u64, u32)> {
        self.requests += 1;
        self.send(OwnerFrame::Publish(Publish {
            request: self.requests,
            room,
            instance_epoch: 1,
            from: Person {
                user: "u".into(),
                client: "c".into(),
                ..Person::default()
            },
            ..publish
        }));
        loop {
            match self.next().await {
                Some(EdgeFrame::Published(p)) if p.request == self.requests => {
                    return Some((p.offset, p.error));
                }
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Reads a page of history after `since`.
    pub(crate) async fn history(&mut self, since: u64, limit: u32) -> HistoryPage {
        self.history_of(room(), since, limit).await
    }

    /// As [`Edge::history`], of any room.
    pub(crate) async fn history_of(
        &mut self,
        room: RoomRef,
        since: u64,
        limit: u32,
    ) -> HistoryPage {
        self.ask_history_of(room, since, limit);
        let page = self.page().await;
        assert_eq!(page.request, self.requests);
        page
    }

    /// Asks for a page of history after `since`. Returns the request's number.
    pub(crate) fn ask_history(&mut self, since: u64, limit: u32) -> u64 {
        self.ask_history_of(room(), since, limit)
    }

    /// As [`Edge::ask_history`], of any room.
    pub(crate) fn ask_history_of(&mut self, room: RoomRef, since: u64, limit: u32) -> u64 {
        self.requests += 1;
        let request = HistoryRequest {
            request: self.requests,
            room,
            since,
            limit,
            bytes: 512 * 1024,
            ..HistoryRequest::default()
        };
        self.ask
            .try_send(Class::CatchUp, request)
            .expect("room in the lane");
        self.requests
    }

    /// The next page.
    pub(crate) async fn page(&mut self) -> HistoryPage {
        let page = tokio::time::timeout(PATIENCE, self.pages.recv()).await;
        page.expect("a page in time")
            .expect("a page")
            .expect("a page")
    }
}
