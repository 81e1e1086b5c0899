//! A Kafka that asks who may do what: what the user of a region may not do is said before a start, with the
//! command that gives it, and nothing is left of having looked.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::log::{acquire, append, fence, messages};
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{Check, SinkEvent};
use gb6_core_ports::{EventSink, StoreError};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_kafka::{Config, KafkaEvents, KafkaLogs, check, check_events};
use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::process::workspace;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::cluster::{REGION, SHARDS, runtime};

const TOPIC_OF_LOGS: &str = "log";
const TOPIC_OF_EVENTS: &str = "events";
const LONG: Duration = Duration::from_secs(20);

/// A Kafka where a login may do what it was given, and everybody else all.
struct Guarded {
    engine: Engine,
    _directory: tempfile::TempDir,
}

impl Guarded {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("kafka");
        let started = runtime().block_on(Engine::start(Kind::Kafka, &place, &["--tls", "--acl"]));
        Self {
            engine: started.expect("Kafka with an authorizer"),
            _directory: directory,
        }
    }

    /// Where nobody is asked who they are.
    fn open_to_all(&self, prefix: &str) -> Config {
        let at = &self.engine.addresses()[0];
        let uri = format!("kafka://{at}/{prefix}?replication=1&min_insync=1");
        Config::parse(&uri).expect("a URI")
    }

    /// As the user who may do what was given.
    fn guarded(&self, prefix: &str) -> Config {
        let at = &self.engine.addresses()[2];
        let ca = self.engine.directory().join("tls/ca.pem");
        let uri = format!(
            "kafka://guarded:open%20sesame@{at}/{prefix}?replication=1&min_insync=1&security=sasl_ssl&ca_file={}",
            ca.display()
        );
        Config::parse(&uri).expect("a URI")
    }

    /// Runs `kafka-acls.sh` with what a shell makes of `arguments`.
    fn acls(&self, arguments: &str) {
        let script = workspace().join("scripts/engine.sh");
        let line = format!(
            "exec '{}' tool kafka AclCommand --bootstrap-server {} {arguments}",
            script.display(),
            self.engine.addresses()[0]
        );
        let ran = Command::new("sh").args(["-c", &line]).output();
        let ran = ran.expect("a shell");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{line}: {said}");
    }

    /// Gives rights on the topics of logs of these prefixes.
    fn give(&self, operations: &[&str], kind: &str, prefixes: &[&str]) {
        let operations = operations.iter().map(|name| format!(" --operation {name}"));
        let topics = prefixes
            .iter()
            .map(|prefix| format!(" --topic {prefix}.{REGION}.{kind}"));
        let arguments: String = operations.chain(topics).collect();
        self.acls(&format!("--add --allow-principal User:guarded{arguments}"));
    }

    /// Runs the command that a line advises, where its reader would run it as somebody who may.
    fn follow(&self, advice: &str) {
        let (_, command) = advice.split_once("kafka-acls.sh ").expect("a command");
        let own = format!("--bootstrap-server {} ", self.engine.addresses()[2]);
        let arguments = command.strip_prefix(&own).expect("the configured broker");
        self.acls(arguments);
    }

    /// The first and the next offset of the first partition.
    fn watermarks(&self, topic: &str) -> (i64, i64) {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.engine.addresses()[0]);
        let consumer: BaseConsumer = client.create().expect("a consumer");
        consumer.fetch_watermarks(topic, 0, LONG).expect("answered")
    }
}

fn open_log(config: &Config) -> Result<KafkaLogs, StoreError> {
    let metrics = Metrics::bare();
    let blobs = Arc::new(MemoryBlobs::default());
    let archives = Archives::new(blobs, REGION, "node", ArchiveConfig::default(), &metrics);
    KafkaLogs::open(config, REGION, SHARDS, archives, runtime(), &metrics)
}

fn open_events(config: &Config) -> KafkaEvents {
    let metrics = Metrics::bare();
    KafkaEvents::open(config, REGION, SHARDS, runtime(), &metrics).expect("opened")
}

fn failures(checks: &[Check]) -> Vec<String> {
    let bad = checks.iter().filter_map(|check| check.found.clone().err());
    bad.collect()
}

/// Writes to the first partition, as an owner does.
fn write(config: &Config) {
    let logs = open_log(config).expect("made");
    let log = logs.open_shard(ShardId(0)).expect("opened");
    let mut fence = fence(1);
    fence.shard = ShardId(0);
    acquire(&log, &fence).expect("acquired");
    append(&log, &fence, messages(1, "room:a", 3)).expect("appended");
}

/// Looks until `told` is what is said: a broker hears of what it was told to allow a moment later.
fn until(look: impl Fn() -> Vec<Check>, told: impl Fn(&[Check]) -> bool) -> Vec<Check> {
    let deadline = Instant::now() + LONG;
    loop {
        let checks = look();
        if told(&checks) {
            return checks;
        }
        assert!(Instant::now() < deadline, "{checks:#?}");
    }
}

#[test]
fn each_permission_that_is_missing_is_named_with_the_command_that_gives_it() {
    let kafka = Guarded::start();
    let of_log = |prefix: &str| check(&kafka.guarded(prefix), REGION, SHARDS, runtime());
    let of_events = |prefix: &str| check_events(&kafka.guarded(prefix), REGION, SHARDS, runtime());
    let none_bad = |checks: &[Check]| failures(checks).is_empty();

    // Topics that are there, and what lies in them.
    for prefix in ["read", "write", "delete", "configs", "nothing"] {
        write(&kafka.open_to_all(prefix));
    }
    open_events(&kafka.open_to_all("write"));
    kafka.give(
        &["Write"],
        TOPIC_OF_LOGS,
        &["read", "delete", "configs", "create"],
    );
    kafka.give(
        &["Read"],
        TOPIC_OF_LOGS,
        &["write", "delete", "configs", "create"],
    );
    kafka.give(
        &["Delete"],
        TOPIC_OF_LOGS,
        &["read", "write", "configs", "create"],
    );
    kafka.give(
        &["DescribeConfigs"],
        TOPIC_OF_LOGS,
        &["read", "write", "delete", "create"],
    );
    let group = "no DESCRIBE on the group gb6-log";
    let checks = until(
        || of_log("read"),
        |checks| failures(checks).iter().any(|said| said.contains(group)),
    );
    kafka.follow(failures(&checks).last().expect("a line"));
    for (prefix, name, operation) in [
        ("read", "READ", "Read"),
        ("write", "WRITE", "Write"),
        ("delete", "DELETE", "Delete"),
        ("configs", "DESCRIBE_CONFIGS", "DescribeConfigs"),
        ("create", "CREATE", "Create"),
    ] {
        let checks = until(|| of_log(prefix), |checks| failures(checks).len() == 1);
        let said = &failures(&checks)[0];
        let topic = format!("{prefix}.{REGION}.log");
        let wanted = format!("no {name} on the topic {topic}");
        assert!(said.contains(&wanted), "{said}");
        let given = format!("'User:guarded' --operation {operation} --topic {topic}");
        assert!(said.ends_with(&given), "{said}");
        kafka.follow(said);
        until(|| of_log(prefix), none_bad);
    }

    // Without any right a topic is not even seen, whether it is there or not.
    for prefix in ["nothing", "nowhere"] {
        let said = failures(&of_log(prefix));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("READ, WRITE, DELETE, CREATE"), "{said:?}");
        kafka.follow(&said[0]);
        until(|| of_log(prefix), none_bad);
    }

    // Nothing was made of a topic that is not there, and what that user may do is enough to make and use it.
    let known = |topic: &str| {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &kafka.engine.addresses()[0]);
        let consumer: BaseConsumer = client.create().expect("a consumer");
        let metadata = consumer.fetch_metadata(None, LONG).expect("answered");
        metadata.topics().iter().any(|found| found.name() == topic)
    };
    let topic = format!("create.{REGION}.log");
    assert!(!known(&topic));
    let missing = of_log("create");
    let last = missing.last().expect("a line").found.clone();
    let later = last.expect("it may be made");
    assert!(
        later.contains("READ, WRITE, DELETE is seen when"),
        "{later}"
    );
    write(&kafka.guarded("create"));
    assert!(known(&topic));
    let before = kafka.watermarks(&topic);
    assert!(before.1 > 0, "{before:?}");
    let checks = of_log("create");
    assert!(none_bad(&checks), "{checks:?}");
    assert_eq!(kafka.watermarks(&topic), before, "it left something");
    for said in ["version", "permissions on topic"] {
        let line = |check: &Check| check.what.contains(said);
        assert!(checks.iter().any(line), "{said}: {checks:?}");
    }

    // Events are written, and neither read nor deleted.
    kafka.give(
        &["Describe", "DescribeConfigs"],
        TOPIC_OF_EVENTS,
        &["write"],
    );
    let checks = until(
        || of_events("write"),
        |checks| {
            failures(checks)
                .iter()
                .any(|said| said.contains("no WRITE on"))
        },
    );
    kafka.follow(&failures(&checks)[0]);
    until(|| of_events("write"), none_bad);
    let topic = format!("write.{REGION}.events");
    assert_eq!(kafka.watermarks(&topic), (0, 0), "it left something");
    let event = SinkEvent {
        shard: ShardId(0),
        position: 1,
        key: "demo/room:a".to_owned(),
        value: "{}".into(),
    };
    let sink = open_events(&kafka.guarded("write"));
    sink.publish(&[event]).expect("published");
    // Of a topic of events that is not there only whether it may be made is seen.
    kafka.give(&["DescribeConfigs", "Write"], TOPIC_OF_EVENTS, &["create"]);
    let checks = until(
        || of_events("create"),
        |checks| {
            failures(checks)
                .iter()
                .any(|said| said.contains("no CREATE on"))
        },
    );
    kafka.follow(&failures(&checks)[0]);
    until(|| of_events("create"), none_bad);
}
