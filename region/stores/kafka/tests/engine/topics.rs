//! Topics that promise less than was asked for are refused, one setting after the other.

use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::StoreError;
use gb6_core_ports::memory::MemoryBlobs;
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_kafka::{Config, KafkaEvents, KafkaLogs, check, check_events};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::cluster::{REGION, SHARDS, address, runtime, unused_prefix};

fn open(uri: &str) -> Result<KafkaLogs, StoreError> {
    let metrics = Metrics::bare();
    let blobs = std::sync::Arc::new(MemoryBlobs::default());
    let archives = Archives::new(blobs, REGION, "node", ArchiveConfig::default(), &metrics);
    let config = Config::parse(uri).expect("a URI");
    KafkaLogs::open(&config, REGION, SHARDS, archives, runtime(), &metrics)
}

/// Makes a topic with a setting of its own, beside those that are as they must be.
fn make(topic: &str, partitions: u32, setting: (&str, &str)) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address());
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let mut new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
    let settings = [
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("compression.type", "producer"),
        ("unclean.leader.election.enable", "false"),
        ("max.message.bytes", "8000000"),
    ];
    for (name, value) in settings.into_iter().filter(|(name, _)| *name != setting.0) {
        new = new.set(name, value);
    }
    if !setting.0.is_empty() {
        new = new.set(setting.0, setting.1);
    }
    let made = runtime().block_on(admin.create_topics([&new], &AdminOptions::new()));
    let made = made.expect("answered").pop().expect("one answer");
    made.map_err(|(_, code)| code).expect("made");
}

#[test]
fn a_topic_that_promises_less_is_refused_by_the_setting_that_is_wrong() {
    for (setting, value, mend) in [
        ("cleanup.policy", "compact", "cleanup.policy=delete"),
        ("retention.ms", "604800000", "retention.ms=-1"),
        ("retention.bytes", "1000000", "retention.bytes=-1"),
        ("compression.type", "gzip", "compression.type=producer"),
        (
            "unclean.leader.election.enable",
            "true",
            "election.enable=false",
        ),
        ("max.message.bytes", "1048588", "max.message.bytes=4259840"),
    ] {
        let prefix = unused_prefix();
        let uri = format!("kafka://{}/{prefix}?replication=1&min_insync=1", address());
        make(&format!("{prefix}.{REGION}.log"), SHARDS, (setting, value));
        let error = open(&uri).err().expect(setting).to_string();
        for part in [setting, value, mend, "kafka-configs.sh"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let config = Config::parse(&uri).expect("a URI");
        let checks = check(&config, REGION, SHARDS, runtime());
        let bad: Vec<_> = checks.iter().filter(|check| !check.is_good()).collect();
        assert_eq!(bad.len(), 1, "{checks:?}");
    }
}

#[test]
fn a_topic_with_other_partitions_or_fewer_copies_is_refused() {
    let prefix = unused_prefix();
    make(&format!("{prefix}.{REGION}.log"), SHARDS, ("", ""));
    let at = address();
    open(&format!("kafka://{at}/{prefix}?replication=1&min_insync=1")).expect("as it must be");
    let error = open(&format!("kafka://{at}/{prefix}"))
        .err()
        .expect("one copy of three");
    let error = error.to_string();
    assert!(
        error.contains("replication factor is 1, and must be 3"),
        "{error}"
    );
    assert!(
        error.contains("min.insync.replicas is 1, and must be 2"),
        "{error}"
    );
    for (partitions, mend) in [(SHARDS - 1, "--partitions 4"), (SHARDS + 1, "5 shards")] {
        let prefix = unused_prefix();
        make(&format!("{prefix}.{REGION}.log"), partitions, ("", ""));
        let uri = format!("kafka://{at}/{prefix}?replication=1&min_insync=1");
        let error = open(&uri).err().expect("other partitions").to_string();
        assert!(error.contains(mend), "{error}");
    }
}

#[test]
fn a_topic_of_events_that_promises_less_is_refused_and_its_retention_is_not_looked_at() {
    let at = address();
    let one = "?replication=1&min_insync=1";
    for (setting, value, options, says) in [
        (
            "retention.ms",
            "60000",
            "",
            &[
                "replication factor is 1, and must be 3",
                "min.insync.replicas is 1, and must be 2",
            ][..],
        ),
        (
            "unclean.leader.election.enable",
            "true",
            one,
            &["--add-config unclean.leader.election.enable=false"],
        ),
        (
            "max.message.bytes",
            "1048588",
            one,
            &["--add-config max.message.bytes=4259840"],
        ),
        ("cleanup.policy", "compact", one, &[]),
        ("retention.ms", "60000", one, &[]),
    ] {
        let prefix = unused_prefix();
        // Other partitions than shards are its owner's to choose too.
        let topic = format!("{prefix}.{REGION}.events");
        make(&topic, SHARDS + 1, (setting, value));
        let config = Config::parse(&format!("kafka://{at}/{prefix}{options}")).expect("a URI");
        let opened = KafkaEvents::open(&config, REGION, SHARDS, runtime(), &Metrics::bare());
        let refused = opened.err();
        assert_eq!(refused.is_some(), !says.is_empty(), "{refused:?}");
        let error = refused.map(|error| error.to_string()).unwrap_or_default();
        let checks = check_events(&config, REGION, SHARDS, runtime());
        let told = checks.iter().filter(|check| check.what.ends_with(&topic));
        let told: Vec<String> = told.filter_map(|check| check.found.clone().err()).collect();
        assert_eq!(told.len(), says.len(), "{checks:?}");
        for (told, says) in told.iter().zip(says) {
            assert!(
                told.contains(says) && error.contains(says),
                "{error}: {told}"
            );
        }
    }
}

#[test]
fn more_copies_than_brokers_are_refused_with_what_to_do() {
    let uri = format!("kafka://{}/{}?replication=15", address(), unused_prefix());
    let error = open(&uri).err().expect("fifteen brokers").to_string();
    assert!(
        error.contains("15 copies") && error.contains("replication=1"),
        "{error}"
    );
    let checks = check(
        &Config::parse(&uri).expect("a URI"),
        REGION,
        SHARDS,
        runtime(),
    );
    let good: Vec<bool> = checks.iter().map(|check| check.is_good()).collect();
    assert_eq!(good, [false, true, true], "{checks:?}");
}

#[test]
fn brokers_that_are_not_there_or_speak_otherwise_are_told_in_time() {
    let at = address();
    for uri in [
        // Nobody listens on the port of tcpmux.
        "kafka://127.0.0.1:1/x?replication=1&min_insync=1".to_owned(),
        format!("kafka://{at}/x?replication=1&min_insync=1&security=ssl"),
        format!("kafka://u:wrong@{at}/x?replication=1&min_insync=1&security=sasl_plaintext"),
    ] {
        let began = Instant::now();
        let error = open(&uri).err().expect("no broker");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        let config = Config::parse(&uri).expect("a URI");
        let checks = check(&config, REGION, SHARDS, runtime());
        assert!(!checks[0].is_good(), "{checks:?}");
    }
}
