//! Reading what lies in memory, in Kafka and in the archive, and what moves between them meanwhile.

use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::{acquire, append, everything, fence, message};
use gb6_core_ports::{Retain, ShardLog, StoreError};
use gb6_core_wire::record::Kind;
use gb6_region_stores_kafka::KafkaShardLog;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::cluster::{REGION, Region, address, runtime};

/// Appends `mib` of records from `next` on, and answers where the log goes on.
fn fill(log: &KafkaShardLog, mut next: u64, mib: u64) -> u64 {
    for _ in 0..mib * 16 {
        let batch: Vec<_> = (next..next + 16)
            .map(|position| message(position, "room:a", position, 4000))
            .collect();
        next = append(log, &fence(1), batch).expect("appended").next;
    }
    next
}

fn reads_everything(log: &KafkaShardLog, next: u64) {
    let mut from = 0;
    while from < next {
        let page = log.read(from, 500, 1 << 20).expect("read");
        for (record, position) in page.records.iter().zip(from..) {
            assert_eq!(record.position, position);
            let wanted = message(position, "room:a", position, 4000);
            let acquire = record.kind() == Kind::Acquire;
            assert!(acquire || record.body == wanted.body, "{position}");
        }
        assert_eq!(page.next, from + page.records.len() as u64);
        from = page.next;
    }
    let mut random = Random::new(next);
    let positions: Vec<u64> = (0..60).map(|_| random.below(next)).collect();
    let found = log.read_at(&positions).expect("read");
    for (position, record) in positions.iter().zip(found) {
        assert_eq!(record.map(|record| record.position), Some(*position));
    }
}

/// The first offset that Kafka still holds of the shard.
fn begin(region: &Region) -> i64 {
    watermarks(region).1
}

/// A consumer, the first offset of the shard's partition, and the next one.
fn watermarks(region: &Region) -> (BaseConsumer, i64, i64) {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", address())
        .set("group.id", "test")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = client.create().expect("a consumer");
    let topic = region.config.log_topic(REGION);
    let wait = Duration::from_secs(10);
    let (low, high) = consumer.fetch_watermarks(&topic, 3, wait).expect("asked");
    (consumer, low, high)
}

/// All bytes that Kafka still holds of the shard, while nobody writes or deletes.
fn partition(region: &Region) -> Vec<u8> {
    let (consumer, low, high) = watermarks(region);
    let topic = region.config.log_topic(REGION);
    let wait = Duration::from_secs(10);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 3, Offset::Offset(low))
        .expect("a partition");
    consumer.assign(&list).expect("assigned");
    let (mut bytes, mut next) = (Vec::new(), low);
    while next < high {
        let message = consumer.poll(wait).expect("in time").expect("a message");
        bytes.extend_from_slice(message.payload().unwrap_or_default());
        next = message.offset() + 1;
    }
    bytes
}

#[test]
fn what_memory_has_no_place_for_is_read_from_kafka() {
    let region = Region::new("&cache_mib=1&live_mib=1024&archive_after_s=86400");
    let logs = region.logs();
    let log = logs.open_shard(ShardId(3)).expect("opened");
    let next = acquire(&log, &fence(1)).expect("acquired").range.next;
    let next = fill(&log, next, 6);
    reads_everything(&log, next);
    let follower = logs.open_shard(ShardId(3)).expect("opened");
    reads_everything(&follower, next);
    assert_eq!(begin(&region), 0, "nothing was archived");
}

#[test]
fn what_grows_is_archived_and_deleted_while_others_read() {
    let region = Region::new("&cache_mib=1&live_mib=2&archive_after_s=86400");
    let log = region.logs().open_shard(ShardId(3)).expect("opened");
    let mut next = acquire(&log, &fence(1)).expect("acquired").range.next;
    let follower = region.logs().open_shard(ShardId(3)).expect("opened");
    assert_eq!(log.archived_before(), 0);
    next = fill(&log, next, 3);
    let deadline = Instant::now() + Duration::from_secs(20);
    while begin(&region) == 0 {
        assert!(Instant::now() < deadline, "nothing was deleted");
        next = fill(&log, next, 1);
    }
    assert!((1..=next).contains(&log.archived_before()));
    reads_everything(&log, next);
    // It knows of Kafka's offsets alone, and of no archive.
    follower.confirm(&fence(1)).expect_err("not its own");
    let seen = Instant::now() + Duration::from_secs(5);
    while follower.range().expect("range").next < next {
        assert!(Instant::now() < seen, "the follower is behind");
        std::thread::sleep(Duration::from_millis(5));
    }
    reads_everything(&follower, next);
    let late = region.logs().open_shard(ShardId(3)).expect("opened");
    reads_everything(&late, next);
    // The next owner goes on behind the archive.
    let acquired = acquire(&late, &fence(2)).expect("acquired");
    assert_eq!(acquired.record.position, next);
    assert_eq!(everything(&late).len() as u64, next + 1);
}

#[test]
fn an_owner_goes_on_where_another_has_archived_meanwhile() {
    let region = Region::new("&archive_after_s=86400");
    let first = region.logs().open_shard(ShardId(3)).expect("opened");
    let next = acquire(&first, &fence(1)).expect("acquired").range.next;
    // It has read everything, and knows of no archive.
    let second = region.logs().open_shard(ShardId(3)).expect("opened");
    let next = fill(&first, next, 1);
    first.seal_around(&fence(1), next - 1).expect("sealed");
    first.save_checkpoint(next, b"state").expect("saved");
    let deadline = Instant::now() + Duration::from_secs(5);
    while second.range().expect("range").next < next {
        assert!(Instant::now() < deadline, "the follower is behind");
        std::thread::sleep(Duration::from_millis(5));
    }
    let saved = second.load_checkpoint().expect("loaded");
    assert_eq!(
        saved,
        Some((next, b"state".to_vec())),
        "another has saved it"
    );
    let at = acquire(&second, &fence(2))
        .expect("acquired")
        .record
        .position;
    assert_eq!(at, next);
    second.register_consumer("search", 5).expect("the owner's");
    let segment = second.seal_around(&fence(2), at).expect("sealed");
    assert_ne!(segment, first.seal_around(&fence(1), 5).ok().flatten());
    let error = first.save_checkpoint(next, b"late").expect_err("deposed");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    reads_everything(&second, next + 1);
    let late = region.logs().open_shard(ShardId(3)).expect("opened");
    assert_eq!(everything(&late).len() as u64, next + 1);
    assert_eq!(late.consumers().expect("listed")[0].position, 5);
}

#[test]
fn what_is_erased_is_gone_from_kafka_and_the_archive() {
    let region = Region::new("&archive_after_s=86400");
    let log = region.logs().open_shard(ShardId(3)).expect("opened");
    acquire(&log, &fence(1)).expect("acquired");
    let follower = region.logs().open_shard(ShardId(3)).expect("opened");
    let secret = b"what nobody is to read again";
    let mut record = message(1, "room:a", 1, 10);
    record.body = secret.to_vec().into();
    append(&log, &fence(1), vec![record]).expect("appended");
    let is_in = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
    assert!(is_in(&partition(&region)), "it can be seen");
    let segment = log
        .seal_around(&fence(1), 1)
        .expect("sealed")
        .expect("kept");
    log.rewrite(&fence(1), segment, &mut |record| match record.position {
        1 => Retain::Erase,
        _ => Retain::Keep,
    })
    .expect("rewritten");
    assert!(!is_in(&partition(&region)), "it is deleted");
    for object in region.blobs.list("", None, 1000).expect("listed") {
        let bytes = region.blobs.get(&object.key, 1 << 24).expect("read");
        assert!(!is_in(&bytes.expect("there")), "{}", object.key);
    }
    let found = log.read_at(&[1]).expect("read").pop().flatten();
    assert!(found.expect("its place").body.is_empty());
    let late = region.logs().open_shard(ShardId(3)).expect("opened");
    assert!(everything(&late)[1].body.is_empty());
    // A handle that had read it forgets it with what is archived.
    let deadline = Instant::now() + Duration::from_secs(60);
    while follower.read_at(&[1]).expect("read")[0]
        .as_ref()
        .is_some_and(|r| !r.body.is_empty())
    {
        assert!(Instant::now() < deadline, "a follower still shows it");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_topic_that_was_made_anew_is_found_to_have_lost_what_was_read() {
    let region = Region::new("&archive_after_s=86400");
    let owner = region.logs().open_shard(ShardId(3)).expect("opened");
    let next = acquire(&owner, &fence(1)).expect("acquired").range.next;
    let next = fill(&owner, next, 1);
    // It has never written anything.
    let follower = region.logs().open_shard(ShardId(3)).expect("opened");
    assert_eq!(follower.range().expect("range").next, next);
    drop(owner);
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address());
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let topic = region.config.log_topic(REGION);
    let deleting = admin.delete_topics(&[&topic], &AdminOptions::new());
    let deleted = runtime().block_on(deleting).expect("answered");
    deleted[0].as_ref().expect("deleted");
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Some(error) = region.try_logs().err() {
        assert!(Instant::now() < deadline, "it is not made anew: {error}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let error = loop {
        match follower.range() {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < deadline, "nothing is noticed"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let StoreError::Corrupt { detail, .. } = &error else {
        panic!("{error}");
    };
    assert!(detail.contains("made anew"), "{detail}");
}
