//! TiKV that is away, hangs, is slow or loses answers: calls end in time, what they answer is true, and
//! they work again by themselves.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gb6_core_model::{Position, ShardId};
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::rooms::room;
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use gb6_region_stores_tikv::{TikvRooms, check};
use gb6_tests_harness::engines::{Engine, Front, Kind};
use gb6_tests_harness::proxy::Mode;
use tokio::runtime::Runtime;

use crate::engine::{config, entry, prefix};

const SHARD: ShardId = ShardId(1);

fn open(address: &str, options: &str) -> (TikvRooms, Metrics) {
    let metrics = Metrics::bare();
    let config = config(address, &prefix(), options);
    let store = TikvRooms::open(config, "eu", &metrics).unwrap();
    (store, metrics)
}

/// Calls until one works.
pub(crate) fn heals<T>(mut call: impl FnMut() -> Result<T, StoreError>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match call() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < deadline, "it does not heal: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// An engine of the test's own, behind proxies.
pub(crate) struct Own {
    runtime: Runtime,
    engine: Engine,
    pub(crate) front: Front,
    directory: Option<tempfile::TempDir>,
}

impl Own {
    pub(crate) fn start(options: &[&str]) -> Self {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let started = Engine::start_behind(Kind::Tikv, directory.path(), options);
        let (engine, front) = runtime.block_on(started).unwrap();
        Self {
            runtime,
            engine,
            front,
            directory: Some(directory),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.front.addresses()[0].clone()
    }
}

impl Drop for Own {
    /// What it did when a test has failed is worth a look.
    fn drop(&mut self) {
        if thread::panicking() {
            let kept = self.directory.take().map(tempfile::TempDir::keep);
            println!("the data and logs of the engine are kept in {kept:?}");
        }
    }
}

#[test]
fn calls_to_a_cluster_that_says_nothing_end_in_time() {
    // It takes connections, in its backlog, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (store, _) = open(&address, "&timeout=700ms&gc=off");
    let began = Instant::now();
    // Many at once: they do not wait for each other's attempts.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let error = store.applied(SHARD).unwrap_err();
                assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            });
        }
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let checks = check(&config(&address, "gb6", "&timeout=700ms"), "eu");
    let found = checks[0].found.as_ref().unwrap_err();
    assert!(found.contains("does not answer"), "{found}");
}

#[test]
fn a_cluster_that_is_killed_hangs_or_is_cut_off_fails_calls_in_time_and_comes_back() {
    let mut own = Own::start(&[]);
    let (store, _) = open(&own.address(), "&timeout=2s&gc=off");
    let a = room("demo", "a");
    let mut at: Position = 0;
    for fault in [
        "kill both",
        "pause both",
        "pause pd",
        "pause store",
        "cut",
        "refuse",
    ] {
        heals(|| store.put(SHARD, &[entry("a", at + 1, at)], at, at + 1));
        at += 1;
        match fault {
            "kill both" => own.runtime.block_on(own.engine.kill()).unwrap(),
            "pause both" => own.engine.pause().unwrap(),
            "pause pd" => own.engine.pause_one("pd").unwrap(),
            "pause store" => own.engine.pause_one("store").unwrap(),
            "cut" => own.front.cut(),
            _ => {
                own.front.set(Mode::Refuse);
                own.front.close();
            }
        }
        for _ in 0..3 {
            let began = Instant::now();
            let error = store.forward(SHARD, &a, 0, 9).unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            let read = began.elapsed();
            let error = store.put(SHARD, &[], at, at).unwrap_err();
            // It did not get as far as a commit.
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
            let both = began.elapsed();
            assert!(read < Duration::from_secs(5), "{fault}: {read:?}");
            assert!(both < Duration::from_secs(10), "{fault}: {both:?}");
        }
        match fault {
            "kill both" => own.runtime.block_on(own.engine.restart()).unwrap(),
            "pause both" | "pause pd" | "pause store" => own.engine.resume().unwrap(),
            _ => own.front.heal(),
        }
        let found = heals(|| store.forward(SHARD, &a, 0, 99));
        let expected: Vec<_> = (0..at).map(|n| (n + 1, n)).collect();
        assert_eq!(found, expected, "after {fault}");
        assert_eq!(store.applied(SHARD).unwrap(), at);
    }
}

#[test]
fn a_slow_cluster_is_slow_and_nothing_else() {
    let own = Own::start(&[]);
    let prefix = prefix();
    let open = |options: &str| {
        let config = config(&own.address(), &prefix, options);
        TikvRooms::open(config, "eu", &Metrics::bare()).unwrap()
    };
    let store = open("&gc=off");
    heals(|| store.applied(SHARD));
    // 1 s for each question and its answer: writes, behind the log, keep to the timeout as it is.
    own.front.delay(Duration::from_millis(500));
    for n in 0..2 {
        store.put(SHARD, &[entry("a", n + 1, n)], n, n + 1).unwrap();
    }
    // Reads may ask more questions than it has seconds. Connecting too.
    let patient = open("&timeout=6s&gc=off");
    let found = heals(|| patient.forward(SHARD, &room("demo", "a"), 0, 9));
    assert_eq!(found, [(1, 0), (2, 1)]);
    patient.clear(SHARD).unwrap();
    assert_eq!(heals(|| patient.applied(SHARD)), 0);
}

/// How many commits were read back.
fn read_back(metrics: &Metrics) -> u64 {
    let text = metrics.text();
    let counted = text
        .lines()
        .find_map(|line| line.strip_prefix("gb6_tikv_commits_read_back_total "));
    counted.unwrap().parse().unwrap()
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_by_reading_back() {
    let own = Own::start(&[]);
    let (store, metrics) = open(&own.address(), "&gc=off");
    heals(|| store.applied(SHARD));
    let (pd, kv) = (own.front.proxy(0).unwrap(), own.front.proxy(1).unwrap());
    let millis = Duration::from_millis;
    let a = room("demo", "a");
    let mut at: Position = 0;
    // A commit asks for a timestamp before it says so to the store. While it waits for that the store
    // becomes slow: it is told in time, and its answer comes too late. Nothing says when that is but
    // the clock, so that an attempt may miss it; what is answered is true all the same.
    for attempt in 0..5 {
        let before = read_back(&metrics);
        pd.set(Mode::Delay(millis(600)));
        let answer = thread::scope(|scope| {
            let put = scope.spawn(|| store.put(SHARD, &[entry("a", at + 1, at)], at, at + 1));
            thread::sleep(millis(1800));
            kv.set(Mode::Delay(millis(5000)));
            thread::sleep(millis(10_200));
            kv.set(Mode::Delay(Duration::ZERO));
            pd.set(Mode::Delay(Duration::ZERO));
            put.join().unwrap()
        });
        let applied = heals(|| store.applied(SHARD));
        let found = heals(|| store.forward(SHARD, &a, at + 1, 9));
        match &answer {
            Ok(()) => {
                assert_eq!((applied, found), (at + 1, vec![(at + 1, at)]));
                if read_back(&metrics) > before {
                    return;
                }
            }
            Err(StoreError::OutcomeUnknown { .. }) => {}
            Err(_) => assert_eq!((applied, found), (at, vec![])),
        }
        println!("attempt {attempt}: {answer:?}");
        at = applied;
    }
    panic!("no commit was made whose answer came too late");
}

/// How many commits of a step the client called made and had not made.
fn not_made(metrics: &Metrics, step: &str) -> u64 {
    failures(metrics, "not_made", step)
}

/// How often a step failed in this way.
pub(crate) fn failures(metrics: &Metrics, kind: &str, step: &str) -> u64 {
    let text = metrics.text();
    let name = format!("gb6_tikv_failures_total{{kind=\"{kind}\",step=\"{step}\"}} ");
    let counted = text.lines().find_map(|line| line.strip_prefix(&name));
    counted.map_or(0, |counted| counted.parse().unwrap())
}

/// Makes a call that begins by reading and then commits. While its commit waits for a timestamp the store
/// goes away; the client asks PD where the key lies now, and PD has gone too, so that it gives up after
/// some seconds. As above only the clock says when that is, so that an attempt may miss it.
fn without_store_and_pd<T: Send>(own: &Own, call: impl FnOnce() -> T + Send) -> T {
    let (pd, kv) = (own.front.proxy(0).unwrap(), own.front.proxy(1).unwrap());
    let millis = Duration::from_millis;
    pd.set(Mode::Delay(millis(600)));
    thread::scope(|scope| {
        let called = scope.spawn(call);
        thread::sleep(millis(1800));
        kv.set(Mode::Refuse);
        kv.close_all();
        thread::sleep(millis(1000));
        pd.set(Mode::Refuse);
        pd.close_all();
        thread::sleep(millis(6500));
        own.front.heal();
        called.join().unwrap()
    })
}

#[test]
fn a_write_whose_commit_was_never_sent_is_not_called_written() {
    let own = Own::start(&[]);
    let (store, metrics) = open(&own.address(), "&timeout=5s&gc=off");
    heals(|| store.applied(SHARD));
    let mut at: Position = 0;
    for attempt in 0..8 {
        let entries = [entry("a", at + 1, at)];
        let answer = without_store_and_pd(&own, || store.put(SHARD, &entries, at, at + 1));
        let applied = heals(|| store.applied(SHARD));
        println!("attempt {attempt}: {answer:?}, then {applied} after {at}");
        match answer {
            Ok(()) => assert_eq!(applied, at + 1, "it was written, it said"),
            Err(StoreError::OutcomeUnknown { .. }) => {}
            Err(_) => assert_eq!(applied, at, "nothing was written, it said"),
        }
        if not_made(&metrics, "commit") > 0 {
            return;
        }
        at = applied;
    }
    panic!("no commit was given up while the client looked for the store");
}

#[test]
fn a_trim_whose_commit_was_never_sent_takes_nothing_that_stays() {
    let own = Own::start(&[]);
    let (store, metrics) = open(&own.address(), "&timeout=5s&gc=off");
    let a = room("demo", "a");
    for attempt in 0..8 {
        // One run, which is cut in the middle.
        let entries: Vec<RoomEntry> = (0..10).map(|n| entry("a", n + 1, n)).collect();
        heals(|| {
            store.clear(SHARD)?;
            store.put(SHARD, &entries, 0, 10)
        });
        let answer = without_store_and_pd(&own, || store.delete_below(SHARD, &a, 5));
        println!("attempt {attempt}: {answer:?}");
        let stays: Vec<(u64, Position)> = (4..10).map(|n| (n + 1, n)).collect();
        assert_eq!(heals(|| store.forward(SHARD, &a, 5, 99)), stays);
        heals(|| store.delete_below(SHARD, &a, 5));
        assert_eq!(heals(|| store.forward(SHARD, &a, 0, 99)), stays);
        if not_made(&metrics, "trim") > 0 {
            return;
        }
    }
    panic!("no commit was given up while the client looked for the store");
}

/// Writes until it is told to stop; every answer has to be true of what is read afterwards. Answers
/// with what is there, and how often each answer came.
fn write_on(store: &TikvRooms, stop: &AtomicBool) -> (Vec<(u64, Position)>, [u32; 3]) {
    let mut answers = [0; 3];
    let mut at: Position = 0;
    while !stop.load(Ordering::Relaxed) {
        // Into two rooms, so that one transaction has several keys.
        let entries: Vec<RoomEntry> = (at..at + 5)
            .flat_map(|n| [entry("a", n + 1, n), entry("b", n + 1, n)])
            .collect();
        let answer = store.put(SHARD, &entries, at, at + 5);
        if answer.is_ok() {
            answers[0] += 1;
            at += 5;
            continue;
        }
        let applied = heals(|| store.applied(SHARD));
        match answer.unwrap_err() {
            StoreError::Unavailable { .. } => {
                answers[1] += 1;
                assert_eq!(applied, at, "nothing was written, it said");
            }
            StoreError::OutcomeUnknown { .. } => {
                answers[2] += 1;
                assert!(applied == at || applied == at + 5, "{applied} after {at}");
            }
            error => panic!("nobody else writes: {error}"),
        }
        at = applied;
    }
    let applied = heals(|| store.applied(SHARD));
    assert_eq!(applied, at);
    ((0..at).map(|n| (n + 1, n)).collect(), answers)
}

#[test]
fn answers_to_writes_are_true_whatever_happens_in_the_middle() {
    let mut own = Own::start(&["--trace"]);
    let (store, metrics) = open(&own.address(), "&gc=off");
    heals(|| store.applied(SHARD));
    let stop = AtomicBool::new(false);
    let (expected, answers) = thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&store, &stop));
        let mut random = Random::new(11);
        let nap = |millis| thread::sleep(Duration::from_millis(millis));
        // On a machine that is slow enough no commit may fail in the first ones.
        for round in 0..120 {
            if round >= 30 && read_back(&metrics) > 0 {
                break;
            }
            nap(20 + random.below(1500));
            match round % 10 {
                // Answers are lost: with the connections, or in a hole.
                0..=4 => own.front.close(),
                5 => {
                    own.front.cut();
                    nap(random.below(300));
                    own.front.heal();
                }
                6 => {
                    own.engine.pause_one("store").unwrap();
                    nap(random.below(4000));
                    own.engine.resume().unwrap();
                }
                7 => {
                    own.runtime.block_on(own.engine.kill_one("store")).unwrap();
                    own.runtime.block_on(own.engine.restart()).unwrap();
                }
                8 => {
                    own.engine.pause_one("pd").unwrap();
                    nap(random.below(1000));
                    own.engine.resume().unwrap();
                }
                _ => {
                    own.front.delay(Duration::from_millis(100));
                    nap(500);
                    own.front.close();
                    own.front.delay(Duration::ZERO);
                }
            }
        }
        own.front.heal();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let [written, not_written, unknown] = answers;
    println!("{written} written, {not_written} not, {unknown} unknown");
    assert!(written > 0, "{answers:?}");
    for name in ["a", "b"] {
        let found = heals(|| store.forward(SHARD, &room("demo", name), 0, 1_000_000));
        assert!(found == expected, "room {name} has gaps");
    }
    let read_back = read_back(&metrics);
    let unsent = not_made(&metrics, "commit");
    println!("{read_back} commits read back, {unsent} of them never sent");
    assert_ne!(read_back, 0, "no commit failed: the test shows nothing");
}
