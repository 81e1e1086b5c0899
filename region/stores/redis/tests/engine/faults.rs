//! A server that is killed, paused, full or has another password: nothing blocks, nothing is wrong for
//! longer than it must be, and everything heals by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::limiter::{LimitKey, WHOLE};
use gb6_core_ports::{
    Hold, PeopleStatus, PersonKey, RateLimiter, SignalSink, Signals, Status, StatusSink,
    StoreError, Temporary, TemporaryKey, Want,
};
use gb6_core_wire::mesh::{Publication, RoomRef};
use gb6_region_stores_redis::{Config, RedisLimiter, RedisPeople, RedisSignals, RedisTemporary};

use crate::cluster::Cluster;
use crate::server::{Server, metric, region, runtime, until};

/// What a call may cost beside its deadline of 200 ms on a machine that does other things, too.
const SLACK: Duration = Duration::from_millis(600);

/// Counts what it is handed, by sender.
#[derive(Default)]
struct Count {
    last: Mutex<HashMap<String, u64>>,
    got: AtomicU64,
    live: AtomicU64,
    disorder: AtomicBool,
}

impl SignalSink for Count {
    fn signal(&self, _: &RoomRef, publication: Publication) {
        let text = String::from_utf8_lossy(&publication.data).into_owned();
        let (sender, number) = text.split_once(':').expect("sender:number");
        let number: u64 = number.parse().expect("a number");
        let mut last = self.last.lock().expect("no panic");
        let before = last.insert(sender.to_owned(), number);
        if before.is_some_and(|before| before >= number) {
            self.disorder.store(true, Ordering::Relaxed);
        }
        self.got.fetch_add(1, Ordering::Relaxed);
    }

    fn live(&self, _: &RoomRef) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    fn last(&self, sender: &str) -> u64 {
        let last = self.last.lock().expect("no panic");
        last.get(sender).copied().unwrap_or(0)
    }
}

fn room() -> RoomRef {
    RoomRef {
        instance: "demo".to_owned(),
        channel: "typing:1".to_owned(),
    }
}

fn want(demand: u64) -> Want {
    Want {
        key: LimitKey {
            instance: "demo".into(),
            user: Some("ann".to_owned()),
        },
        demand,
    }
}

fn publication(sender: &str, number: u64) -> Publication {
    Publication {
        data: format!("{sender}:{number}").into(),
        ..Publication::default()
    }
}

/// Two nodes that send to each other without end and share a limit, while `fault` and then `mend` are
/// done to Redis.
fn heals(config: &Config, fault: impl FnOnce(), mend: impl FnOnce()) {
    let (runtime, region) = (runtime(), region());
    let metrics = [Metrics::bare(), Metrics::bare()];
    let open = |m| RedisSignals::open(config, &region, runtime.handle(), m);
    let signals = [open(&metrics[0]), open(&metrics[1])];
    let limits = RedisLimiter::open(config, &region, runtime.handle(), &metrics[0]);
    let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
    let sinks = counts.clone().map(|count| count as Arc<dyn SignalSink>);
    for (signals, sink) in signals.iter().zip(&sinks) {
        signals.follow(&room(), sink).expect("follow");
    }
    let stop = AtomicBool::new(false);
    let slowest = Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        let done = Stop(&stop);
        for (signals, name) in signals.iter().zip(["a", "b"]) {
            let (stop, slowest) = (&stop, &slowest);
            scope.spawn(move || {
                for number in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let began = Instant::now();
                    // While Redis is lost it says so; this node has it nevertheless.
                    let _ = signals.send(&room(), publication(name, number));
                    let mut slowest = slowest.lock().expect("no panic");
                    *slowest = (*slowest).max(began.elapsed());
                    drop(slowest);
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
        }
        let both = |before: [u64; 2]| {
            let (a, b) = (counts[1].last("a"), counts[0].last("b"));
            a > before[0] && b > before[1]
        };
        until("signals reach the other node", || both([0, 0]));
        until("shares are given", || {
            limits.lease("e1", &[want(5)], 0).is_ok()
        });
        let live = counts[0].live.load(Ordering::Relaxed);

        fault();
        // The first calls are lost, each within its time; then they fail at once.
        until("the breaker opens", || {
            let began = Instant::now();
            let error = limits.lease("e1", &[want(5)], 0);
            assert!(
                began.elapsed() < Duration::from_millis(200) + SLACK,
                "{error:?}"
            );
            !limits.is_connected()
        });
        let began = Instant::now();
        let mut failed = 0;
        while failed < 1_000 {
            match limits.lease("e1", &[want(5)], 0) {
                Err(StoreError::Unavailable { cause }) => {
                    assert!(cause.contains("127.0.0.1"), "{cause}");
                    failed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(
            began.elapsed() < SLACK,
            "1000 calls took {:?}",
            began.elapsed()
        );
        // Each node has its own signals as before.
        let own = [counts[0].last("a"), counts[1].last("b")];
        until("a node's own signals go on", || {
            counts[0].last("a") > own[0] + 20 && counts[1].last("b") > own[1] + 20
        });
        until("the subscription is known to be lost", || {
            metric(&metrics[0], "gb6_redis_up", "signals-subscribe") == 0.0
        });

        mend();
        let before = [counts[1].last("a"), counts[0].last("b")];
        until("signals reach the other node again", || both(before));
        until("who follows is told", || {
            counts[0].live.load(Ordering::Relaxed) > live
        });
        until("shares are given again", || {
            limits.lease("e1", &[want(5)], 0).is_ok()
        });
        drop(done);
    });
    for count in &counts {
        assert!(
            !count.disorder.load(Ordering::Relaxed),
            "twice or out of order"
        );
    }
    let slowest = *slowest.lock().expect("no panic");
    assert!(slowest < SLACK, "sending a signal took {slowest:?}");
    assert!(metric(&metrics[0], "gb6_redis_breaks_total", "limits") >= 1.0);
    let shares = limits.lease("e1", &[want(5)], 0).expect("a share");
    assert_eq!(shares[0].parts, WHOLE);
}

#[test]
fn values_and_statuses_fail_within_their_time_and_come_back() {
    let mut server = Server::start(&[]);
    let (runtime, region, metrics) = (runtime(), region(), Metrics::bare());
    let config = server.config("lease_ms=5000");
    let values = RedisTemporary::open(&config, &region, runtime.handle(), &metrics);
    let people = RedisPeople::open(&config, &region, runtime.handle(), &metrics);
    until("all are connected", || {
        values.is_connected() && people.is_connected()
    });
    let key = TemporaryKey {
        instance: "demo".into(),
        name: "online:ann".to_owned(),
    };
    let ann = PersonKey {
        instance: "demo".into(),
        user: "ann".to_owned(),
    };
    let hold = [Hold {
        person: ann.clone(),
        status: Some(b"away".to_vec()),
    }];
    let read = || {
        people
            .read(std::slice::from_ref(&ann))
            .map(|read| read[0].said.clone())
    };
    let put = |value: &[u8]| {
        let values_of_ann = [(key.clone(), value.to_vec())];
        values.put(&values_of_ann, Duration::from_secs(60))
    };
    let get = || values.get(std::slice::from_ref(&key));
    put(b"it").expect("put");
    people.hold("e1", &hold).expect("hold");
    assert_eq!(read(), Ok(Some(b"away".to_vec())));
    let follows = Arc::new(Follows::default());
    let sink: Arc<dyn StatusSink> = follows.clone();
    people.follow(&ann, &sink);
    until("changes are told", || {
        follows.live.load(Ordering::Relaxed) == 1
    });

    server.kill();
    let within = |what: &str, call: &dyn Fn() -> Result<(), StoreError>| {
        let began = Instant::now();
        let error = call().expect_err(what);
        let told = matches!(
            error,
            StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }
        );
        assert!(told, "{what}: {error:?}");
        assert!(
            began.elapsed() < Duration::from_millis(200) + SLACK,
            "{what}"
        );
    };
    within("put", &|| put(b"it"));
    within("get", &|| get().map(drop));
    within("delete", &|| values.delete(std::slice::from_ref(&key)));
    within("hold", &|| people.hold("e1", &hold).map(drop));
    within("read", &|| read().map(drop));

    server.restart();
    until("values are kept again", || put(b"new").is_ok());
    assert_eq!(get(), Ok(vec![Some(b"new".to_vec())]));
    until("who follows is told", || {
        follows.live.load(Ordering::Relaxed) >= 2
    });
    // It is empty; what is said again is there again, and newer.
    until("statuses are held again", || {
        people.hold("e1", &hold).is_ok()
    });
    assert_eq!(read(), Ok(Some(b"away".to_vec())));
    assert_eq!(follows.changes.load(Ordering::Relaxed), 1);
}

/// Counts changes.
#[derive(Default)]
struct Follows {
    live: AtomicU64,
    changes: AtomicU64,
}

impl StatusSink for Follows {
    fn changed(&self, _: &PersonKey, status: &Status) {
        assert_eq!(status.said.as_deref(), Some(&b"away"[..]));
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn live(&self, _: &PersonKey) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the senders, also where an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_server_costs_deadlines_and_heals_when_it_is_back() {
    let server = Mutex::new(Server::start(&[]));
    let config = server.lock().expect("no panic").config("");
    heals(
        &config,
        || server.lock().expect("no panic").kill(),
        || server.lock().expect("no panic").restart(),
    );
}

#[test]
fn a_paused_server_costs_deadlines_and_heals_when_it_goes_on() {
    let server = Server::start(&[]);
    heals(&server.config(""), || server.pause(), || server.resume());
}

#[test]
fn a_cluster_whose_masters_are_killed_heals_when_they_are_back() {
    let cluster = Mutex::new(Cluster::start());
    let config = Config::parse(&cluster.lock().expect("no panic").uri()).expect("a URI");
    heals(
        &config,
        || {
            cluster
                .lock()
                .expect("no panic")
                .servers
                .iter_mut()
                .for_each(Server::kill)
        },
        || {
            cluster
                .lock()
                .expect("no panic")
                .servers
                .iter_mut()
                .for_each(Server::restart)
        },
    );
}

#[test]
fn a_moved_slot_of_a_cluster_moves_its_subscriptions() {
    let cluster = Cluster::start();
    let config = cluster.config("");
    let (runtime, region, metrics) = (runtime(), region(), Metrics::bare());
    let open = || RedisSignals::open(&config, &region, runtime.handle(), &metrics);
    let (here, there) = (open(), open());
    let count = Arc::new(Count::default());
    let sink: Arc<dyn SignalSink> = count.clone();
    here.follow(&room(), &sink).expect("follow");
    let number = AtomicU64::new(0);
    let reaches = |from: &RedisSignals| {
        let number = number.fetch_add(1, Ordering::Relaxed) + 1;
        // What is sent while the slot moves may be lost.
        let _ = from.send(&room(), publication("there", number));
        number
    };
    until("signals arrive", || {
        reaches(&there);
        count.last("there") > 0
    });
    // Whoever has the channel gives its slot, and all others, to the next.
    let ids: Vec<String> = cluster
        .servers
        .iter()
        .map(|server| server.command(&["cluster", "myid"]).trim().to_owned())
        .collect();
    let owner = cluster
        .servers
        .iter()
        .position(|server| {
            server
                .command(&["pubsub", "shardchannels"])
                .contains("typing:1")
        })
        .expect("one has the channel");
    let slot = {
        let channels = cluster.servers[owner].command(&["pubsub", "shardchannels"]);
        let channel = channels
            .lines()
            .find(|c| c.contains("typing:1"))
            .expect("it");
        cluster.servers[owner]
            .command(&["cluster", "keyslot", channel])
            .trim()
            .to_owned()
    };
    let next = (owner + 1) % 3;
    let mut order = vec![next, owner];
    order.push((owner + 2) % 3);
    for server in order {
        cluster.servers[server].command(&["cluster", "setslot", &slot, "node", &ids[next]]);
    }
    let before = count.last("there");
    until("signals arrive through the slot's new master", || {
        let sent = reaches(&there);
        let has = cluster.servers[next].command(&["pubsub", "shardchannels"]);
        has.contains("typing:1") && count.last("there") > before && sent > before
    });
    assert!(!count.disorder.load(Ordering::Relaxed));
}

#[test]
fn a_subscription_that_is_refused_is_asked_for_more_and_more_seldom() {
    let server = Server::start(&[]);
    let rules = ["~*", "&*", "+@all", "-subscribe"];
    let user = [&["acl", "setuser", "ann", "reset", "on", ">pw"][..], &rules].concat();
    assert_eq!(server.command(&user).trim(), "OK");
    let uri = format!("redis://ann:pw@127.0.0.1:{}", server.port);
    let config = Config::parse(&uri).expect("a URI");
    let (runtime, metrics) = (runtime(), Metrics::bare());
    let signals = RedisSignals::open(&config, "eu", runtime.handle(), &metrics);
    let count = Arc::new(Count::default());
    let sink: Arc<dyn SignalSink> = count.clone();
    signals.follow(&room(), &sink).expect("it answers at once");
    let breaks = || metric(&metrics, "gb6_redis_breaks_total", "signals-subscribe");
    let began = Instant::now();
    until("it was refused six times", || breaks() >= 6.0);
    // 50, 100, 200, 400 and 800 ms lie between them.
    assert!(
        began.elapsed() >= Duration::from_millis(1_500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(count.live.load(Ordering::Relaxed), 0);
    server.command(&["acl", "setuser", "ann", "+subscribe"]);
    until("it is followed", || count.live.load(Ordering::Relaxed) == 1);
}

#[test]
fn a_wrong_password_is_told_without_it_and_the_right_one_works() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let address = format!("127.0.0.1:{}", server.port);
    let (runtime, metrics) = (runtime(), Metrics::bare());
    let open = |login: &str| {
        let config = Config::parse(&format!("redis://{login}{address}")).expect("a URI");
        RedisLimiter::open(&config, "eu", runtime.handle(), &metrics)
    };
    for login in ["", ":wrong-one@"] {
        let limits = open(login);
        until("the server's answer is known", || {
            let error = limits
                .lease("e1", &[want(1)], 0)
                .expect_err("refused")
                .to_string();
            assert!(!error.contains("wrong-one"), "{error}");
            error.to_lowercase().contains("auth") || error.contains("WRONGPASS")
        });
    }
    let limits = open(":hunter2@");
    until("the right one works", || {
        limits.lease("e1", &[want(1)], 0).is_ok()
    });
}

#[test]
fn a_full_server_refuses_and_the_connection_stays() {
    let server = Server::start(&["--maxmemory", "100mb"]);
    let (runtime, metrics) = (runtime(), Metrics::bare());
    let config = server.config("timeout_ms=2000");
    let limits = RedisLimiter::open(&config, "eu", runtime.handle(), &metrics);
    until("shares are given", || {
        limits.lease("e1", &[want(1)], 0).is_ok()
    });
    server.command(&["config", "set", "maxmemory", "1"]);
    for _ in 0..20 {
        let error = limits.lease("e1", &[want(1)], 0).expect_err("no room");
        let StoreError::Unavailable { cause } = error else {
            panic!("{error:?}");
        };
        assert!(cause.contains("memory") || cause.contains("OOM"), "{cause}");
    }
    assert_eq!(metric(&metrics, "gb6_redis_breaks_total", "limits"), 0.0);
    assert!(metric(&metrics, "gb6_redis_calls_total", "refused") >= 20.0);
    server.command(&["config", "set", "maxmemory", "0"]);
    assert!(limits.lease("e1", &[want(1)], 0).is_ok());
    // What a script forgot is sent again.
    server.command(&["script", "flush"]);
    assert!(limits.lease("e1", &[want(1)], 0).is_ok());
}
