//! What standbys go on from.

use std::sync::atomic::AtomicUsize;

use gb6_core_mesh::{LocalNode, MemoryNetwork, NodeIdentity, Timing};
use gb6_core_model::{Incarnation, NodeId, Role};
use gb6_core_obs::Health;
use gb6_core_outbound::{Outbound, OutboundConfig};
use gb6_core_ports::contract::log as contract;
use gb6_core_ports::memory::{MemoryRateLimiter, MemoryRooms, MemoryStorage};
use gb6_region_stores_embedded::LocalSignals;
use tokio::sync::watch;

use super::*;
use crate::bodies::RecordKeys;
use crate::catch_ups::CatchUps;
use crate::consumers::NodeConsumers;
use crate::metrics::RegionMetrics;
use crate::panics::Panics;
use crate::places::NodePlaces;
use crate::recoveries::Recoveries;
use crate::region::{OpenLog, RegionConfig, RegionDeps};
use crate::statuses::StatusEngines;
use crate::turns::CommitTurns;
use crate::webhooks::{self, WebhookMetrics};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a standby works with, beside its log.
fn node(open_log: OpenLog) -> Arc<NodeParts> {
    node_by(Clock::default(), open_log)
}

/// As [`node`], by a clock.
fn node_by(clock: Clock, open_log: OpenLog) -> Arc<NodeParts> {
    let name = NodeId::from("r2");
    let identity = NodeIdentity::new(name.clone(), vec![Role::Region]).expect("an identity");
    let local = LocalNode::new(identity, Incarnation(1));
    let endpoint = MemoryNetwork::new().bind(local, Timing::default());
    let (metrics, health) = (Metrics::bare(), Health::new());
    let panics = Panics::new(&metrics, &health);
    let mut config = RegionConfig::new(name);
    config.clock = clock;
    let recoveries = Arc::new(Recoveries::new(1, &metrics));
    Arc::new(NodeParts {
        deps: Arc::new(RegionDeps {
            endpoint: endpoint.expect("an endpoint"),
            snapshot: watch::channel(Arc::default()).1,
            open_log,
            rooms: Arc::new(MemoryRooms::default()),
            signals: Arc::new(LocalSignals::new()),
            statuses: StatusEngines::in_memory(),
            keys: RecordKeys::default(),
            limiter: Arc::new(MemoryRateLimiter::default()),
            map: None,
            metrics: metrics.clone(),
            health,
        }),
        metrics: RegionMetrics::new(&metrics),
        turns: Arc::new(CommitTurns::default()),
        recoveries: recoveries.clone(),
        catch_ups: Arc::new(CatchUps::new(1, recoveries, &metrics)),
        places: NodePlaces::default(),
        consumers: NodeConsumers::new(&metrics),
        webhooks: Arc::new(webhooks::Shared {
            outbound: Outbound::new(OutboundConfig::default()).expect("outbound"),
            metrics: WebhookMetrics::new(&metrics),
            pace: webhooks::Pace::new(config.webhook_retry_min, config.webhook_retry_max),
            reads: webhooks::Reads::new(&metrics),
            panics: panics.clone(),
        }),
        panics,
        config,
    })
}

/// Whether a standby comes to say that it has caught up.
fn catches_up(news: &NewsBox) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let caught_up = |news: &News| {
            matches!(
                news,
                News::CaughtUp {
                    caught_up: true,
                    ..
                }
            )
        };
        if news.take(Duration::from_millis(100)).iter().any(caught_up) {
            return true;
        }
    }
    false
}

#[tokio::test]
#[allow(clippy::panic, reason = "a defect of the log's client is what is met")]
async fn a_standby_that_panics_begins_again_and_says_so() {
    let storage = MemoryStorage::default();
    let log = storage.open();
    contract::acquire(&log, &contract::fence(1)).expect("acquired");
    let batch = contract::messages(1, "room:a", 5);
    contract::append(&log, &contract::fence(1), batch).expect("appended");
    let opened = Arc::new(AtomicUsize::new(0));
    let opens = opened.clone();
    let node = node(Arc::new(move |_| {
        match opens.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => panic!("a defect of the log"),
            _ => Ok(Arc::new(storage.open())),
        }
    }));
    let caught_up = |of: u8| format!("gb6_standby_caught_up{{shard=\"0\"}} {of}");
    let news = Arc::<NewsBox>::default();
    let follower = Follower::start(&node, shard(0), news.clone()).expect("a thread");
    let metrics = node.deps.metrics.clone();
    assert!(metrics.text().contains(&caught_up(0)));
    let following = tokio::task::spawn_blocking(move || {
        assert!(catches_up(&news), "it follows in the end");
        assert!(metrics.text().contains(&caught_up(1)));
        follower.take()
    });
    let followed = following.await.expect("it ends").expect("what it followed");
    assert_eq!(followed.1.next, 6);
    assert_eq!(opened.load(Ordering::SeqCst), 3);
    let told = r#"gb6_region_panics_total{part="standby"} 2"#;
    let text = node.deps.metrics.text();
    assert!(text.contains(told), "{text}");
    let not_ready = node.deps.health.now();
    let standby = "standby of shard eu/0";
    assert!(
        !not_ready.not_ready().contains_key(standby),
        "it works again"
    );
}

fn shard(shard: u32) -> ShardRef {
    ShardRef {
        region: "eu".into(),
        shard,
    }
}

#[tokio::test]
async fn standbys_that_begin_together_read_their_logs_one_after_the_other() {
    const LOGS: u32 = 5;
    let (now, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let free = Arc::new(AtomicBool::new(false));
    let (opens, at_most, goes) = (now.clone(), most.clone(), free.clone());
    let node = node(Arc::new(move |_| {
        at_most.fetch_max(opens.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Others could begin meanwhile.
        while !goes.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        opens.fetch_sub(1, Ordering::SeqCst);
        Ok(Arc::new(MemoryStorage::default().open()))
    }));
    let text = {
        let metrics = node.deps.metrics.clone();
        move || metrics.text()
    };
    let news = Arc::<NewsBox>::default();
    let started = |n| Follower::start(&node, shard(n), news.clone()).expect("a thread");
    let begun = Instant::now();
    let mut followers = vec![started(0)];
    for (waiting, n) in (1..LOGS).enumerate() {
        let so_many = format!("gb6_standby_catch_ups_waiting {waiting}\n");
        while !text().contains(&so_many) || now.load(Ordering::SeqCst) == 0 {
            assert!(begun.elapsed() < PATIENCE, "{}", text());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        followers.push(started(n));
    }
    // Of the logs of those that wait nobody knows yet.
    assert!(followers[1..].iter().all(|f| f.log_answers().is_none()));
    // One of them is wanted before it has begun.
    let taken = followers.pop().expect("a follower");
    let taken = tokio::task::spawn_blocking(move || taken.take().is_none());
    assert!(taken.await.expect("no panic"), "it has followed nothing");
    free.store(true, Ordering::SeqCst);
    while !followers.iter().all(Follower::has_caught_up) {
        assert!(begun.elapsed() < PATIENCE, "{}", text());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "one at a time");
    assert!(text().contains("gb6_standby_catch_ups_running 0\n"));
}

#[tokio::test]
async fn logs_that_nobody_can_open_are_silent_for_those_that_wait_too() {
    let ahead = Arc::new(AtomicU64::new(0));
    let shown = ahead.clone();
    let clock = Clock::by(move || Duration::from_millis(shown.load(Ordering::SeqCst)));
    let opened = Arc::new(AtomicUsize::new(0));
    let opens = opened.clone();
    let node = node_by(
        clock,
        Arc::new(move |_| {
            opens.fetch_add(1, Ordering::SeqCst);
            // Others come to wait for its place.
            std::thread::sleep(Duration::from_millis(30));
            let cause = "lost".to_owned();
            Err(StoreError::Unavailable { cause })
        }),
    );
    let news = Arc::<NewsBox>::default();
    let started = |n| Follower::start(&node, shard(n), news.clone()).expect("a thread");
    let followers: Vec<Follower> = (0..6).map(started).collect();
    let begun = Instant::now();
    let silent = || followers.iter().all(|f| f.log_answers() == Some(false));
    while !silent() {
        assert!(begun.elapsed() < PATIENCE, "they seem to answer");
        let before = opened.load(Ordering::SeqCst);
        ahead.fetch_add(300, Ordering::SeqCst);
        while opened.load(Ordering::SeqCst) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    // As soon as where nobody waits.
    assert_eq!(ahead.load(Ordering::SeqCst), 3_000);
}
