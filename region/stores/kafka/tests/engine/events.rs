//! The topic of events, as somebody outside reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use gb6_core_model::ShardId;
use gb6_core_ports::{EventSink, SinkEvent};
use gb6_region_stores_kafka::KafkaEvents;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::cluster::{REGION, Region, SHARDS, address, runtime};

fn event(shard: u32, position: u64) -> SinkEvent {
    SinkEvent {
        shard: ShardId(shard),
        position,
        key: format!("demo/room:{}", position % 5),
        value: format!("{{\"offset\":{position}}}").into(),
    }
}

#[test]
fn events_arrive_by_room_in_order_with_what_names_them() {
    let region = Region::new("");
    let (config, metrics) = (&region.config, &region.metrics);
    let sink = KafkaEvents::open(config, REGION, SHARDS, runtime(), metrics).expect("open");
    let all: Vec<_> = (0..400).map(|position| event(3, position)).collect();
    for some in all.chunks(sink.events_max().min(64)) {
        sink.publish(some).expect("published");
    }
    sink.publish(&[]).expect("nothing");
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", address())
        .set("group.id", "test")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = client.create().expect("a consumer");
    let topic = config.events_topic(REGION);
    let mut list = TopicPartitionList::new();
    for partition in 0..SHARDS as i32 {
        list.add_partition_offset(&topic, partition, Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&list).expect("assigned");
    let mut newest: BTreeMap<String, (i32, u64)> = BTreeMap::new();
    for _ in 0..400 {
        let message = consumer.poll(Duration::from_secs(10));
        let message = message.expect("in time").expect("a message");
        let headers = message.headers().expect("headers");
        let header = |index| {
            let header = headers.get(index);
            let value = std::str::from_utf8(header.value.expect("a value")).expect("text");
            (header.key, value.to_owned())
        };
        assert_eq!(header(0), ("gb6-shard", "3".to_owned()));
        let (name, position) = header(1);
        assert_eq!(name, "gb6-position");
        let position: u64 = position.parse().expect("a number");
        assert_eq!(message.payload(), Some(&event(3, position).value[..]));
        let key = String::from_utf8(message.key().expect("a key").to_vec()).expect("text");
        assert_eq!(key, event(3, position).key);
        let before = newest.insert(key, (message.partition(), position));
        assert!(
            before.is_none_or(|(partition, at)| partition == message.partition() && at < position),
            "{before:?} before {position}"
        );
    }
    assert_eq!(newest.len(), 5);
    KafkaEvents::open(config, REGION, SHARDS + 1, runtime(), metrics).expect("it is there already");
}

/// Sets how large messages of the topic of events may be.
fn limit(region: &Region, bytes: usize) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address());
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let topic = region.config.events_topic(REGION);
    let bytes = bytes.to_string();
    let altered =
        AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", &bytes);
    let done = runtime().block_on(admin.alter_configs([&altered], &AdminOptions::new()));
    let done = done.expect("answered").pop().expect("one answer");
    done.map_err(|(_, code)| code).expect("altered");
}

/// The positions of `count` events in their order, repetitions dropped.
fn positions(region: &Region, count: usize) -> Vec<u64> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", address())
        .set("group.id", "test");
    let consumer: BaseConsumer = client.create().expect("a consumer");
    let topic = region.config.events_topic(REGION);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Beginning)
        .expect("a partition");
    consumer.assign(&list).expect("assigned");
    let mut positions: Vec<u64> = Vec::new();
    while positions.len() < count {
        let message = consumer.poll(Duration::from_secs(10));
        let message = message.expect("in time").expect("a message");
        let header = message.headers().expect("headers").get(1);
        let value = std::str::from_utf8(header.value.expect("a value")).expect("text");
        let position = value.parse().expect("a number");
        if positions.last().is_none_or(|last| *last < position) {
            positions.push(position);
        }
    }
    positions
}

#[test]
fn an_event_that_is_too_large_is_left_out_and_holds_up_nothing() {
    let region = Region::new("");
    let (config, metrics) = (&region.config, &region.metrics);
    let sink = KafkaEvents::open(config, REGION, 1, runtime(), metrics).expect("open");
    let large = |position, bytes: usize| SinkEvent {
        value: vec![b'x'; bytes].into(),
        ..event(3, position)
    };
    // More than anything may be.
    let events = [event(3, 0), large(1, 5 << 20), event(3, 2)];
    sink.publish(&events).expect("the others");
    // More than the topic takes by now: the producer fails for good, and is replaced.
    limit(&region, 100_000);
    let events = [event(3, 3), large(4, 200_000), event(3, 5)];
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while let Err(error) = sink.publish(&events) {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
    sink.publish(&[event(3, 6)]).expect("it goes on");
    assert_eq!(positions(&region, 5), [0, 2, 3, 5, 6]);
    let text = metrics.text();
    assert!(
        text.contains("gb6_kafka_events_too_large_total 2"),
        "{text}"
    );
    // Who begins now is told.
    let error = KafkaEvents::open(config, REGION, 1, runtime(), metrics);
    let error = error.err().expect("too small a topic").to_string();
    for part in ["max.message.bytes", "100000", "4259840", "kafka-configs.sh"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}
