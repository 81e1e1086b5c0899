//! Brokers that die, sleep, are cut off or are slow, while a shard is written to. A process that is
//! killed loses nothing that the system has taken: these tests say nothing about power cuts.

use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::log::{acquire, append, fence, messages};
use gb6_core_ports::{Fence, ShardLog, StoreError};
use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::proxy::Mode;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::cluster::{REGION, Region, runtime};
use crate::writer::Writer;

/// When things are to be well again, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);
/// After how long every append is answered: the default of 3 s, and a moment.
const ANSWERED: Duration = Duration::from_millis(4500);
/// When a shard whose broker fell silent has another owner; the broker sleeps on.
const SILENT_MAX: Duration = Duration::from_secs(40);
const ONE: &str = "faults?replication=1&min_insync=1&archive_after_s=2";

/// One such test at a time: brokers are large.
static ALONE: Mutex<()> = Mutex::new(());

/// The number of the broker that leads each partition, in the order of partitions.
fn leaders(region: &Region) -> Vec<i32> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", region.config.brokers.join(","));
    let consumer: BaseConsumer = client.create().expect("a client");
    let topic = region.config.log_topic(REGION);
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10));
    let metadata = metadata.expect("answered");
    let mut partitions: Vec<_> = (metadata.topics()[0].partitions().iter())
        .map(|partition| (partition.id(), partition.leader()))
        .collect();
    partitions.sort_unstable();
    partitions.into_iter().map(|(_, leader)| leader).collect()
}

/// The name of the broker that leads the shard's partition.
fn leader(region: &Region) -> String {
    format!("broker-{}", leaders(region)[3])
}

/// Asks until the answer is yes.
fn eventually(ask: impl Fn() -> Result<(), StoreError>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask() {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Somewhere for a Kafka of one's own.
fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("gb6-kafka-")
        .tempdir()
        .expect("a directory")
}

#[test]
fn a_broker_that_is_killed_and_comes_back_costs_no_message_and_no_restart() {
    let _alone = ALONE.lock();
    let home = directory();
    let started = runtime().block_on(Engine::start(Kind::Kafka, home.path(), &[]));
    let mut kafka = started.expect("a Kafka");
    let region = Region::at(&format!("{}/{ONE}", kafka.address()));
    let logs = region.logs();
    let writer = Writer::start(&logs);
    for round in 0..2 {
        writer.more(100, PATIENCE);
        let before = writer.failed().len();
        runtime().block_on(kafka.kill()).expect("killed");
        // It is told while no broker is there, not when one is again.
        let deadline = Instant::now() + PATIENCE;
        while writer.failed().len() == before {
            assert!(Instant::now() < deadline, "round {round}: nothing is told");
            std::thread::sleep(Duration::from_millis(5));
        }
        runtime().block_on(kafka.restart()).expect("restarted");
        let healed = writer.more(100, PATIENCE);
        println!("round {round}: 100 appends {healed:?} after the broker answered again");
    }
    assert!(writer.end(&logs, ANSWERED) > 0, "some appends failed");
}

#[test]
fn a_broker_that_sleeps_is_waited_for_no_longer_than_an_edge_waits() {
    let _alone = ALONE.lock();
    let home = directory();
    let started = runtime().block_on(Engine::start(Kind::Kafka, home.path(), &[]));
    let kafka = started.expect("a Kafka");
    let region = Region::at(&format!("{}/{ONE}", kafka.address()));
    let logs = region.logs();
    let writer = Writer::start(&logs);
    let idle = logs.open_shard(ShardId(3)).expect("opened");
    let owned = logs.open_shard(ShardId(2)).expect("opened");
    let ours = Fence {
        shard: ShardId(2),
        ..fence(1)
    };
    acquire(&owned, &ours).expect("acquired");
    owned.confirm(&ours).expect("the owner");
    {
        writer.more(100, PATIENCE);
        let before = writer.failed().len();
        kafka.pause().expect("paused");
        let began = Instant::now();
        // Nothing is proved by a log that does not answer.
        let error = idle.confirm(&fence(1)).expect_err("asleep");
        assert!(!matches!(error, StoreError::Closed), "{error}");
        // What was on its way when the process was told to stop may still be answered.
        let error = loop {
            match owned.confirm(&ours) {
                Err(error) => break error,
                Ok(()) => assert!(began.elapsed() < ANSWERED, "it sleeps, and answers"),
            }
        };
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        std::thread::sleep(Duration::from_secs(5).saturating_sub(began.elapsed()));
        let failed = writer.failed();
        assert!(failed.len() > before, "what waits is answered");
        kafka.resume().expect("resumed");
        writer.more(100, PATIENCE);
        // A question that nobody answered costs no ownership.
        eventually(|| owned.confirm(&ours));
        append(&owned, &ours, messages(1, "room:a", 5)).expect("it goes on");
    }
    writer.end(&logs, ANSWERED);
}

#[test]
fn a_network_that_is_cut_or_slow_costs_no_message() {
    let _alone = ALONE.lock();
    let home = directory();
    let starting = Engine::start_behind(Kind::Kafka, home.path(), &[]);
    let (kafka, front) = runtime().block_on(starting).expect("a Kafka");
    let region = Region::at(&format!("{}/{ONE}", kafka.address()));
    let logs = region.logs();
    let writer = Writer::start(&logs);
    writer.more(100, PATIENCE);
    front.cut();
    std::thread::sleep(Duration::from_secs(5));
    front.heal();
    writer.more(100, PATIENCE);
    let before = writer.failed().len();
    assert!(before > 0, "what was cut off is told");
    // A second for a question and its answer.
    front.delay(Duration::from_millis(500));
    writer.more(5, PATIENCE);
    front.heal();
    writer.more(100, PATIENCE);
    writer.end(&logs, ANSWERED);
}

#[test]
fn with_three_brokers_one_may_die_and_two_stop_writing() {
    let _alone = ALONE.lock();
    let home = directory();
    let options = ["--brokers", "3"];
    let started = runtime().block_on(Engine::start(Kind::Kafka, home.path(), &options));
    let mut kafka = started.expect("three brokers");
    let region = Region::at(&format!("{}/faults?archive_after_s=86400", kafka.address()));
    let logs = region.logs();
    let writer = Writer::start(&logs);
    writer.more(100, PATIENCE);
    let leader = leader(&region);
    runtime().block_on(kafka.kill_one(&leader)).expect("killed");
    let healed = writer.more(100, PATIENCE);
    println!("{leader}, which led, is gone: 100 appends within {healed:?}");
    runtime().block_on(kafka.restart()).expect("restarted");
    writer.more(100, PATIENCE);
    let before = writer.failed().len();
    for broker in ["broker-2", "broker-3"] {
        runtime().block_on(kafka.kill_one(broker)).expect("killed");
    }
    std::thread::sleep(Duration::from_secs(5));
    let committed = writer.committed();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(writer.committed(), committed, "one copy is none");
    assert!(writer.failed().len() > before, "and that was told");
    runtime().block_on(kafka.restart()).expect("restarted");
    writer.more(100, PATIENCE);
    writer.end(&logs, ANSWERED);
}

/// A broker that sleeps closes no connection: nobody is told that it leads no more.
#[test]
fn a_leader_that_falls_silent_is_not_waited_for_once_another_leads() {
    let _alone = ALONE.lock();
    let home = directory();
    let options = ["--brokers", "3"];
    let started = runtime().block_on(Engine::start(Kind::Kafka, home.path(), &options));
    let kafka = started.expect("three brokers");
    let region = Region::at(&format!("{}/faults?archive_after_s=86400", kafka.address()));
    let (owns, takes_over) = (region.logs(), region.logs());
    let log = owns.open_shard(ShardId(3)).expect("opened");
    acquire(&log, &fence(1)).expect("acquired");
    append(&log, &fence(1), messages(1, "room:a", 5)).expect("appended");
    // Another node has asked before who leads, and reads nothing.
    drop(takes_over.open_shard(ShardId(3)).expect("opened"));
    let leader = leader(&region);
    kafka.pause_one(&leader).expect("paused");
    let silent = Instant::now();
    // A session of three seconds, and an election.
    let taken = loop {
        let opened = takes_over.open_shard(ShardId(3));
        match opened.and_then(|log| acquire(&log, &fence(2)).map(|_| log)) {
            Ok(log) => break log,
            Err(StoreError::OutcomeUnknown { .. }) => {}
            Err(error) => assert!(error.retryable(), "{error}"),
        }
        assert!(silent.elapsed() < SILENT_MAX, "{leader} is waited for");
    };
    println!(
        "{leader}, which led, is silent: another owner after {:?}",
        silent.elapsed()
    );
    append(&taken, &fence(2), messages(7, "room:a", 5)).expect("appended");
    kafka.resume().expect("resumed");
}

/// Waits until something is so, or for `patience`.
fn within(patience: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_log_that_is_cut_off_is_silent_to_whoever_follows_it_and_to_an_owner_that_writes_nothing() {
    let _alone = ALONE.lock();
    let home = directory();
    let starting = Engine::start_behind(Kind::Kafka, home.path(), &[]);
    let (kafka, front) = runtime().block_on(starting).expect("a Kafka");
    let region = Region::at(&format!("{}/{ONE}", kafka.address()));
    let logs = region.logs();
    let owner = logs.open_shard(ShardId(3)).expect("opened");
    let follower = logs.open_shard(ShardId(3)).expect("opened");
    acquire(&owner, &fence(1)).expect("acquired");
    append(&owner, &fence(1), messages(1, "room:a", 5)).expect("appended");
    let both = [&owner, &follower];
    // Nobody writes, and both go on hearing it.
    let until = Instant::now() + Duration::from_secs(6);
    std::thread::sleep(Duration::from_secs(2));
    let hear = || {
        both.iter()
            .all(|log| log.silence() < Duration::from_millis(1_500))
    };
    let mut stalled = 0;
    while Instant::now() < until {
        if !hear() {
            // A machine may stand still for a moment: then they hear it again at once.
            stalled += 1;
            assert!(stalled <= 1, "they are silent again and again");
            within(Duration::from_secs(1), "they hear it", hear);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..2 {
        front.cut();
        std::thread::sleep(Duration::from_secs(5));
        for log in both {
            let silence = log.silence();
            assert!(silence > Duration::from_secs(3), "{silence:?}");
            assert_eq!(log.range().expect("what was read").next, 6);
        }
        front.heal();
        within(PATIENCE, "they hear it again", || {
            both.iter()
                .all(|log| log.silence() < Duration::from_secs(1))
        });
    }
    // Connections that stay, and a broker that sleeps.
    kafka.pause().expect("paused");
    std::thread::sleep(Duration::from_secs(5));
    for log in both {
        let silence = log.silence();
        assert!(silence > Duration::from_secs(3), "{silence:?}");
    }
    kafka.resume().expect("resumed");
    within(PATIENCE, "they hear it again", || {
        both.iter()
            .all(|log| log.silence() < Duration::from_secs(1))
    });
}

#[test]
fn one_broker_that_stays_away_keeps_nobody_from_those_that_are_back() {
    let _alone = ALONE.lock();
    let home = directory();
    let starting = Engine::start_behind(Kind::Kafka, home.path(), &["--brokers", "3"]);
    let (kafka, front) = runtime().block_on(starting).expect("three brokers");
    let mut region = Region::at(&format!("{}/{ONE}", kafka.address()));
    // Each partition has one copy, and there are enough that one broker leads the first of each lane.
    region.shards = 24;
    let logs = region.logs();
    let leaders = leaders(&region);
    let away = leaders[0];
    let led = |by: &dyn Fn(i32) -> bool| -> Vec<u32> {
        let numbers = (0..).zip(&leaders);
        let those = numbers.filter(|(_, leader)| by(**leader));
        those.map(|(number, _)| number).collect()
    };
    let first = &led(&|leader| leader == away)[..4];
    let others = led(&|leader| leader != away);
    let open = |shard: u32| logs.open_shard(ShardId(shard)).expect("opened");
    let _first: Vec<_> = first.iter().map(|shard| open(*shard)).collect();
    let last = *others.last().expect("others lead some");
    assert!(last > first[3], "{leaders:?}");
    let log = open(last);
    let mut epoch = 0;
    let mut asks = || {
        epoch += 1;
        let next = Fence {
            shard: ShardId(last),
            ..fence(epoch)
        };
        acquire(&log, &next).map(|_| ())
    };
    asks().expect("it is there");
    front.set(Mode::Refuse);
    front.close();
    let told = "no Kafka broker can be reached";
    within(PATIENCE, "that all are away is told", || {
        asks().is_err_and(|error| error.to_string().contains(told))
    });
    for number in (1..=3).filter(|number| *number != away) {
        let proxy = front.proxy(number as usize - 1).expect("one for each");
        proxy.set(Mode::Pass);
    }
    within(PATIENCE, "it can be written to again", || asks().is_ok());
}
