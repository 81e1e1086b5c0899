//! Webhooks on a log in memory and receivers on loopback that take, hang, lie and come back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::{Instance, Node, Region, Snapshot};
use gb6_core_model::{InstanceId, NodeId, Role, ShardId, Slot, WebhookEvent};
use gb6_core_obs::Health;
use gb6_core_obs::metrics::{Metrics, Registration};
use gb6_core_outbound::{Outbound, OutboundConfig, Reach};
use gb6_core_ports::contract::log as contract;
use gb6_core_ports::memory::{MemoryLog, MemoryLogConfig, MemoryStorage};
use gb6_core_ports::{Fence, LogLayer, ShardLog, StoreError};
use gb6_core_wire::mesh::ShardRef;
use gb6_core_wire::record::{Kind, Origin, Record, SessionBody, SessionEvent};
use parking_lot::{Condvar, Mutex};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::panics::Panics;
use crate::positions::{ListPlaces, StoreEvery};

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TAKEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const FAST: Pace = Pace {
    retry_min: Duration::from_millis(10),
    retry_max: Duration::from_millis(40),
    look: Duration::from_millis(10),
};
const EVERY: StoreEvery = StoreEvery {
    taken: Duration::from_millis(10),
    passed: Duration::from_millis(20),
};

/// What a receiver does with a request.
#[derive(Clone)]
enum Does {
    /// Answers with these bytes, and takes the events if they say 2xx.
    Answers(String),
    /// Never answers.
    Hangs,
    /// Closes the connection.
    Leaves,
}

/// A receiver: does each thing once, then always the last.
#[derive(Clone)]
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
    does: Arc<Mutex<VecDeque<Does>>>,
}

/// A request that was taken, or not.
#[derive(Clone, Debug)]
struct Got {
    head: String,
    body: String,
    taken: bool,
}

impl Receiver {
    async fn new(does: impl IntoIterator<Item = Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap());
        let new = Self {
            url,
            got: Arc::default(),
            does: Arc::new(Mutex::new(does.into_iter().collect())),
        };
        let receiver = new.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let receiver = receiver.clone();
                tokio::spawn(async move { receiver.serve(tcp).await });
            }
        });
        new
    }

    async fn taking() -> Self {
        Self::new([Does::Answers(TAKEN.into())]).await
    }

    async fn serve(&self, mut tcp: TcpStream) -> Option<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).ok()?;
            let length = header(&head, "content-length")?.parse().ok()?;
            let mut body = vec![0; length];
            tcp.read_exact(&mut body).await.ok()?;
            let does = {
                let mut does = self.does.lock();
                match does.len() {
                    1 => does[0].clone(),
                    _ => does.pop_front()?,
                }
            };
            let answer = match &does {
                Does::Answers(answer) => answer.clone(),
                Does::Hangs | Does::Leaves => String::new(),
            };
            self.got.lock().push(Got {
                head,
                body: String::from_utf8(body).ok()?,
                taken: answer.starts_with("HTTP/1.1 2"),
            });
            match does {
                Does::Answers(_) => tcp.write_all(answer.as_bytes()).await.ok()?,
                Does::Hangs => std::future::pending().await,
                Does::Leaves => return None,
            }
        }
    }

    fn then(&self, does: Does) {
        *self.does.lock() = VecDeque::from([does]);
    }

    /// The events that it has taken, in order, repetitions among them.
    fn events(&self) -> Vec<serde_json::Value> {
        let got = self.got.lock();
        let taken = got.iter().filter(|got| got.taken);
        taken
            .flat_map(|got| {
                let body: serde_json::Value = serde_json::from_str(&got.body).unwrap();
                body["events"].as_array().unwrap().clone()
            })
            .collect()
    }

    /// The numbers of the events that it has taken.
    fn numbers(&self) -> Vec<u64> {
        let events = self.events();
        let code = |event: &serde_json::Value| event["code"].as_u64().unwrap();
        events.iter().map(code).collect()
    }

    async fn requests(&self, count: usize) {
        until(|| self.got.lock().len() >= count).await;
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

async fn until(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < PATIENCE, "it does not come");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Webhooks of a shard, and how far they are. Dropped, they are killed.
struct Started {
    webhooks: ShardWebhooks,
    positions: Arc<Positions>,
    keeps: Aborting,
}

impl Started {
    async fn stop(mut self) {
        self.webhooks.stop().await;
        self.keeps.0.abort();
        let _ended = (&mut self.keeps.0).await;
        self.positions.store_all().await;
    }
}

/// One shard's disk, and what outlives its webhooks.
struct World {
    storage: MemoryStorage,
    log: MemoryLog,
    fence: Fence,
    feed: Feed,
    snapshot: watch::Sender<Arc<Snapshot>>,
    metrics: Metrics,
    shared: Arc<Shared>,
    _exported: Registration,
    /// The number of the next event: its code.
    next: u64,
}

impl World {
    fn new(webhooks: &[(&str, Config)], pace: Pace, outbound: OutboundConfig) -> Self {
        Self::on(MemoryStorage::default(), webhooks, pace, outbound)
    }

    fn on(
        storage: MemoryStorage,
        webhooks: &[(&str, Config)],
        pace: Pace,
        outbound: OutboundConfig,
    ) -> Self {
        let log = storage.open();
        let fence = contract::fence(1);
        contract::acquire(&log, &fence).unwrap();
        let metrics = Metrics::bare();
        let told = WebhookMetrics::new(&metrics);
        Self {
            feed: Feed::new(log.range().unwrap().next),
            storage,
            log,
            fence,
            snapshot: watch::channel(snapshot(webhooks)).0,
            _exported: told.export(&metrics),
            shared: Arc::new(Shared {
                outbound: Outbound::new(outbound).unwrap(),
                metrics: told,
                pace,
                reads: Reads::new(&metrics),
                panics: Panics::new(&metrics, &Health::new()),
            }),
            metrics,
            next: 0,
        }
    }

    fn start(&self) -> Started {
        self.start_on(Arc::new(self.storage.open()))
    }

    fn start_on(&self, log: Arc<dyn ShardLog>) -> Started {
        let places = ListPlaces::new(&self.metrics);
        let positions = Positions::new(0, log.clone(), places, EVERY);
        let kept = positions.clone();
        let keeps = tokio::spawn(async move { kept.keep().await });
        let webhooks = ShardWebhooks::start(Setup {
            shard: shard(),
            log,
            positions: positions.clone(),
            keys: Arc::default(),
            snapshot: self.snapshot.subscribe(),
            shared: self.shared.clone(),
            feed: self.feed.clone(),
        });
        Started {
            webhooks,
            positions,
            keeps: Aborting(keeps),
        }
    }

    /// Waits until the consumers of these instances, and no others, are registered.
    async fn registered(&self, instances: &[&str]) {
        let names: Vec<_> = instances.iter().map(|i| consumer_name(i)).collect();
        let known = || {
            let consumers = self.log.consumers().unwrap().into_iter();
            consumers.map(|c| c.name).collect::<Vec<_>>()
        };
        until(|| known() == names).await;
    }

    /// Where the consumer of an instance is.
    fn stored(&self, instance: &str) -> u64 {
        let mut consumers = self.log.consumers().unwrap().into_iter();
        let consumer = consumers.find(|c| c.name == consumer_name(instance));
        consumer.unwrap().position
    }

    /// Writes so many events of `instance` in one batch, each behind a message, of users in turn.
    fn write(&mut self, instance: &str, what: SessionEvent, count: u64) {
        let mut batch = Vec::new();
        let mut position = self.log.range().unwrap().next;
        for _ in 0..count {
            let n = self.next;
            self.next += 1;
            let user = format!("user{}", n % 3);
            let body = SessionBody {
                event: what.into(),
                channel: match what {
                    SessionEvent::Unsubscribe => "room:1".into(),
                    _ => String::new(),
                },
                code: n as u32,
                reason: "why".into(),
                ..SessionBody::default()
            };
            let message = Record {
                kind: Kind::Message.into(),
                instance: instance.into(),
                channel: "room:1".into(),
                offset: n + 1,
                position,
                body: "{}".into(),
                ..Record::default()
            };
            let session = Record {
                kind: Kind::Session.into(),
                channel: format!("#{user}"),
                offset: 0,
                position: position + 1,
                time: 1_700_000_000_000 + n as i64,
                origin: Some(Origin {
                    user,
                    client: format!("c{n}"),
                    edge_incarnation: 7,
                    session: n,
                    number: 1,
                    ..Origin::default()
                }),
                body: body.encode_to_vec().into(),
                ..message.clone()
            };
            batch.extend([message, session]);
            position += 2;
        }
        contract::append(&self.log, &self.fence, batch.clone()).unwrap();
        self.feed.committed(&batch);
    }

    fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.text();
        let value = |l: &str| l.strip_prefix(line)?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0.0)
    }

    fn failures(&self, instance: &str, reason: &str) -> f64 {
        self.metric(&format!(
            "gb6_webhook_failures_total{{instance=\"{instance}\",reason=\"{reason}\"}}"
        ))
    }
}

fn shard() -> ShardRef {
    ShardRef {
        region: "eu".into(),
        shard: 0,
    }
}

fn config(url: &str) -> Config {
    Config {
        url: url.into(),
        secret: SECRET.into(),
        events: WebhookEvent::ALL.iter().copied().collect(),
        timeout_ms: 20_000,
    }
}

/// Of a receiver that hangs.
fn hasty(url: &str) -> Config {
    Config {
        timeout_ms: 1_000,
        ..config(url)
    }
}

fn snapshot(webhooks: &[(&str, Config)]) -> Arc<Snapshot> {
    let instance = |webhooks| Instance {
        region: "eu".into(),
        slots: vec![Slot(1)],
        webhooks,
        ..Instance::default()
    };
    let mut instances = BTreeMap::from([(InstanceId::from("quiet"), instance(None))]);
    for (name, config) in webhooks {
        instances.insert(InstanceId::from(*name), instance(Some(config.clone())));
    }
    let eu = Region {
        shards: 2,
        slots: BTreeMap::from([(1, ShardId(0))]),
        owners: vec![NodeId::from("r1"); 2],
        ..Default::default()
    };
    let r1 = Node {
        roles: vec![Role::Region],
        mesh: None,
        region: Some("eu".into()),
    };
    Arc::new(Snapshot {
        revision: 1,
        instances,
        regions: BTreeMap::from([("eu".to_owned(), eu)]),
        nodes: BTreeMap::from([(NodeId::from("r1"), r1)]),
    })
}

fn loopback() -> OutboundConfig {
    OutboundConfig {
        reach: Reach::with_loopback(),
        ..OutboundConfig::default()
    }
}

/// HMAC-SHA-256 as RFC 2104 writes it, from the hash alone: not the way in which it is made.
fn hmac_sha256(key: &[u8], message: &[u8]) -> String {
    let hash = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = [&block.map(|b| b ^ 0x36)[..], message].concat();
    let outer = [&block.map(|b| b ^ 0x5c)[..], hash(&inner).as_ref()].concat();
    let tag = hash(&outer);
    tag.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_told_in_order_in_batches_and_signed() {
    let receiver = Receiver::taking().await;
    let mut world = World::new(&[("demo", config(&receiver.url))], FAST, loopback());
    // From before there was a webhook, and of somebody else.
    world.write("demo", SessionEvent::Disconnect, 5);
    let webhooks = world.start();
    world.registered(&["demo"]).await;
    for count in [1, 250, 7] {
        world.write("quiet", SessionEvent::Disconnect, 3);
        world.write("demo", SessionEvent::Unsubscribe, count);
    }
    until(|| receiver.events().len() >= 258).await;
    let events = receiver.events();
    let mine = (8..9).chain(12..262).chain(265..272).collect::<Vec<u64>>();
    assert_eq!(receiver.numbers(), mine);
    let first = serde_json::json!({
        "id": "0000000000000007-8-u1", "type": "unsubscribe", "instance": "demo", "user": "user2",
        "client": "c8", "channel": "room:1", "code": 8, "reason": "why", "time": 1_700_000_000_008_i64,
    });
    assert_eq!(events[0], first);
    let got = receiver.got.lock().clone();
    for Got { head, body, .. } in &got {
        assert!(
            head.starts_with("POST /hook?token=t HTTP/1.1\r\n"),
            "{head}"
        );
        assert_eq!(header(head, "content-type"), Some("application/json"));
        let events: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!((1..=100).contains(&events["events"].as_array().unwrap().len()));
        let signature = header(head, "gb6-signature").unwrap();
        let (time, tag) = signature.split_once(",v1=").unwrap();
        let time = time.strip_prefix("t=").unwrap();
        let signed = format!("{time}.{body}");
        assert_eq!(tag, hmac_sha256(SECRET.as_bytes(), signed.as_bytes()));
        let age = unix_s() - time.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
    }
    // Counted when the answer was read.
    let counted = || world.metric("gb6_webhook_events_total{instance=\"demo\"}");
    until(|| counted() >= 258.0).await;
    assert_eq!(counted(), 258.0);
    let end = world.log.range().unwrap().next;
    until(|| world.stored("demo") == end).await;
    assert_eq!(
        world.metric("gb6_webhook_waiting_events{instance=\"demo\"}"),
        0.0
    );
    webhooks.stop().await;
}

fn unix_s() -> i64 {
    crate::recovery::unix_ms() / 1000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_repeated_until_it_is_taken() {
    let huge = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}",
        "x".repeat(200_000)
    );
    let receiver = Receiver::new([
        Does::Answers("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno".into()),
        Does::Leaves,
        Does::Answers("lies, and no HTTP\r\n\r\n".into()),
        Does::Answers(
            "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:1/\r\n\r\n"
                .into(),
        ),
        Does::Answers(huge),
        Does::Hangs,
        Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".into()),
        Does::Answers(TAKEN.into()),
    ])
    .await;
    let mut world = World::new(&[("demo", hasty(&receiver.url))], FAST, loopback());
    let webhooks = world.start();
    world.registered(&["demo"]).await;
    world.write("demo", SessionEvent::Disconnect, 3);
    receiver.requests(6).await;
    assert_eq!(
        world.metric("gb6_webhook_waiting_events{instance=\"demo\"}"),
        3.0
    );
    assert!(world.metric("gb6_webhook_waiting_seconds{instance=\"demo\"}") > 1e6);
    until(|| world.metric("gb6_webhook_events_total{instance=\"demo\"}") == 3.0).await;
    assert_eq!(
        receiver.got.lock().len(),
        8,
        "as often as it failed, and once"
    );
    assert_eq!(world.failures("demo", "status"), 2.0, "500 and 302");
    assert_eq!(world.failures("demo", "too_large"), 1.0);
    assert_eq!(
        world.failures("demo", "broken") + world.failures("demo", "timeout"),
        4.0,
        "left, lied, hung, cut short"
    );
    assert!(world.failures("demo", "timeout") >= 1.0);
    let bodies: Vec<_> = receiver.got.lock().iter().map(|g| g.body.clone()).collect();
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the same ids");
    webhooks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_hangs_holds_up_its_own_instance_alone() {
    let (hangs, takes) = (Receiver::new([Does::Hangs]).await, Receiver::taking().await);
    let webhooks = [("acme", hasty(&hangs.url)), ("demo", config(&takes.url))];
    let mut world = World::new(&webhooks, FAST, loopback());
    let webhooks = world.start();
    world.registered(&["acme", "demo"]).await;
    for _ in 0..50 {
        world.write("acme", SessionEvent::Disconnect, 1);
        world.write("demo", SessionEvent::Disconnect, 1);
    }
    until(|| takes.numbers().len() == 50).await;
    let mine: Vec<u64> = (0..100).filter(|n| n % 2 == 1).collect();
    assert_eq!(takes.numbers(), mine);
    let events = takes.events();
    assert!(events.iter().all(|event| event["instance"] == "demo"));
    until(|| world.failures("acme", "timeout") >= 2.0).await;
    let end = world.log.range().unwrap().next;
    until(|| world.stored("demo") == end).await;
    assert!(world.stored("acme") < 5, "it is still at its first event");
    // It comes back, and nothing is lost.
    hangs.then(Does::Answers(TAKEN.into()));
    until(|| hangs.numbers().len() >= 50).await;
    webhooks.stop().await;
    assert_eq!(
        hangs.numbers(),
        (0..100).filter(|n| n % 2 == 0).collect::<Vec<u64>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_between_repeats_and_loses_nothing_and_keeps_the_order() {
    let receiver = Receiver::taking().await;
    let mut world = World::new(&[("demo", config(&receiver.url))], FAST, loopback());
    for round in 0..6 {
        let webhooks = world.start();
        world.registered(&["demo"]).await;
        world.write("demo", SessionEvent::Disconnect, 120);
        match round % 3 {
            0 => until(|| receiver.numbers().len() > 50).await,
            1 => {}
            _ => receiver.then(Does::Hangs),
        }
        // At any moment: nothing is stored, nobody is told.
        drop(webhooks);
        // Written while nobody sends, and known by no feed.
        world.write("demo", SessionEvent::Unsubscribe, 30);
        world.feed = Feed::new(world.log.range().unwrap().next);
        receiver.then(Does::Answers(TAKEN.into()));
    }
    let webhooks = world.start();
    let seen = || {
        let mut seen = Vec::new();
        for n in receiver.numbers() {
            if !seen.contains(&n) {
                seen.push(n);
            }
        }
        seen
    };
    until(|| seen().len() == 900).await;
    webhooks.stop().await;
    assert_eq!(
        seen(),
        (0..900).collect::<Vec<u64>>(),
        "first told in order"
    );
    let ids: std::collections::BTreeSet<_> = receiver
        .events()
        .iter()
        .map(|e| e["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 900, "a repetition has the id of the first");
    assert_eq!(world.stored("demo"), world.log.range().unwrap().next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_inside_is_reached() {
    let receiver = Receiver::taking().await;
    let port = receiver.url.rsplit_once(':').unwrap().1;
    for (url, reason) in [
        // An address of this machine, and names that lead to it.
        (receiver.url.clone(), "forbidden"),
        (format!("http://localhost:{port}"), "forbidden"),
        (format!("https://localhost:{port}"), "forbidden"),
        ("http://169.254.169.254/latest".to_owned(), "forbidden"),
        ("https://[::ffff:10.0.0.1]/".to_owned(), "forbidden"),
    ] {
        let mut world = World::new(&[("demo", config(&url))], FAST, OutboundConfig::default());
        let webhooks = world.start();
        world.registered(&["demo"]).await;
        world.write("demo", SessionEvent::Disconnect, 1);
        until(|| world.failures("demo", reason) >= 2.0).await;
        webhooks.stop().await;
        assert_eq!(
            world.metric("gb6_webhook_events_total{instance=\"demo\"}"),
            0.0
        );
    }
    assert!(receiver.got.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_used_at_once_and_a_webhook_that_is_removed_is_forgotten() {
    let fails = Receiver::new([Does::Answers(
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into(),
    )])
    .await;
    let takes = Receiver::taking().await;
    let slow = Pace {
        retry_min: Duration::from_secs(600),
        retry_max: Duration::from_secs(600),
        ..FAST
    };
    let mut world = World::new(&[("demo", config(&fails.url))], slow, loopback());
    // Of an instance that was removed while the node was down.
    world.log.register_consumer("webhook.gone", 0).unwrap();
    world.log.register_consumer("search", 0).unwrap();
    let webhooks = world.start();
    let names = || {
        let consumers = world.log.consumers().unwrap().into_iter();
        consumers.map(|c| c.name).collect::<Vec<_>>()
    };
    until(|| names() == ["search", "webhook.demo"]).await;
    world.write("demo", SessionEvent::Disconnect, 2);
    world.write("demo", SessionEvent::Unsubscribe, 2);
    until(|| world.failures("demo", "status") == 1.0).await;
    // Another address, and fewer events: nobody waits for the pause to end.
    let changed = Config {
        events: [WebhookEvent::Unsubscribe].into(),
        ..config(&takes.url)
    };
    world.snapshot.send_replace(snapshot(&[("demo", changed)]));
    until(|| takes.numbers().len() == 2).await;
    assert_eq!(takes.numbers(), [2, 3]);
    assert_eq!(fails.got.lock().len(), 1);
    world.snapshot.send_replace(snapshot(&[]));
    let names = || {
        let consumers = world.log.consumers().unwrap().into_iter();
        consumers.map(|c| c.name).collect::<Vec<_>>()
    };
    until(|| names() == ["search"]).await;
    let text = world.metrics.text();
    assert!(!text.contains("gb6_webhook_waiting_events{"), "{text}");
    webhooks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_far_behind_lapses_and_goes_on_with_what_is_left() {
    let storage = MemoryStorage::new(MemoryLogConfig {
        segment_records: 16,
        consumer_lag_bytes_max: 4_000,
        ..MemoryLogConfig::default()
    });
    let receiver = Receiver::new([Does::Answers(
        "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into(),
    )])
    .await;
    let mut world = World::on(
        storage,
        &[("demo", config(&receiver.url))],
        FAST,
        loopback(),
    );
    let webhooks = world.start();
    world.registered(&["demo"]).await;
    world.write("demo", SessionEvent::Disconnect, 10);
    receiver.requests(1).await;
    for _ in 0..20 {
        world.write("demo", SessionEvent::Disconnect, 10);
    }
    // Retention goes on, though nothing was taken.
    let to = world.log.range().unwrap().next - 40;
    let first = world.log.trim(&world.fence, to).unwrap();
    assert!(first > to - 20, "{first} {to}");
    until(|| world.metric("gb6_webhook_lapsed_total{instance=\"demo\"}") >= 1.0).await;
    receiver.then(Does::Answers(TAKEN.into()));
    until(|| receiver.numbers().last() == Some(&209)).await;
    let numbers = receiver.numbers();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let end = world.log.range().unwrap().next;
    until(|| world.stored("demo") == end).await;
    webhooks.stop().await;
}

/// A log that forgets no consumer while it is held.
struct Held {
    below: Arc<dyn ShardLog>,
    held: Arc<(Mutex<bool>, Condvar)>,
    asked: Arc<AtomicBool>,
}

impl LogLayer for Held {
    fn below(&self) -> &dyn ShardLog {
        &*self.below
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        self.asked.store(true, Ordering::SeqCst);
        let (held, changed) = &*self.held;
        changed.wait_while_for(&mut held.lock(), |held| *held, 2 * PATIENCE);
        self.below.remove_consumer(name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_to_end_sends_nothing_more_whatever_the_log_is_asked_for() {
    let takes = Receiver::taking().await;
    let both = [("acme", config(&takes.url)), ("demo", config(&takes.url))];
    let mut world = World::new(&both, FAST, loopback());
    let held = Arc::new((Mutex::new(true), Condvar::new()));
    let asked = Arc::<AtomicBool>::default();
    let webhooks = world.start_on(Arc::new(Held {
        below: Arc::new(world.storage.open()),
        held: held.clone(),
        asked: asked.clone(),
    }));
    world.registered(&["acme", "demo"]).await;
    let follows = |instance: &str| {
        let metric = format!("gb6_webhook_waiting_events{{instance=\"{instance}\"}}");
        world.metrics.text().contains(&metric)
    };
    until(|| follows("demo")).await;
    world.snapshot.send_replace(snapshot(&both[1..]));
    until(|| asked.load(Ordering::SeqCst)).await;
    assert!(!follows("acme"));
    let stopping = tokio::spawn(webhooks.stop());
    until(|| !follows("demo")).await;
    world.write("demo", SessionEvent::Disconnect, 1);
    tokio::time::sleep(10 * FAST.look).await;
    assert_eq!(takes.numbers(), [0; 0]);
    assert!(!stopping.is_finished(), "the log is still asked");
    *held.0.lock() = false;
    held.1.notify_all();
    stopping.await.unwrap();
    world.registered(&["demo"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_no_receiver_and_leaves_nothing_behind() {
    let receiver = Receiver::new([Does::Hangs]).await;
    let mut slow = config(&receiver.url);
    slow.timeout_ms = 30_000;
    let mut world = World::new(&[("demo", slow)], FAST, loopback());
    let log: Arc<dyn ShardLog> = Arc::new(world.storage.open());
    let webhooks = world.start_on(log.clone());
    world.registered(&["demo"]).await;
    world.write("demo", SessionEvent::Disconnect, 1);
    receiver.requests(1).await;
    let began = Instant::now();
    webhooks.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(Arc::strong_count(&log), 1, "nobody holds the log");
}
