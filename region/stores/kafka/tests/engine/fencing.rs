//! Owners that slept, and what they write late.

use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::log::{acquire, append, everything, fence, message, messages};
use gb6_core_ports::{ShardLog, StoreError};
use gb6_region_stores_kafka::frame::encode_batch;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rustix::process::Signal;

use crate::cluster::{REGION, Region, address, unused_prefix};
use crate::owner::Owner;

/// Writes `message` into the shard's partition, as whoever may write there can.
pub(crate) fn write(region: &Region, message: &[u8]) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", address());
    let producer: BaseProducer = client.create().expect("a producer");
    let topic = region.config.log_topic(REGION);
    let record = BaseRecord::<(), [u8]>::to(&topic)
        .partition(3)
        .payload(message);
    producer
        .send(record)
        .map_err(|(error, _)| error)
        .expect("sent");
    producer.flush(Duration::from_secs(10)).expect("written");
}

#[test]
fn an_owner_that_slept_past_another_acknowledges_nothing_and_loses_nothing() {
    let mut in_time = 0;
    for round in 0..6 {
        let prefix = unused_prefix();
        let mut old = Owner::start(&prefix);
        old.hear(|owner| owner.committed.len() >= 20 + round);
        old.signal(Signal::STOP);
        let slept = Instant::now();
        let region = Region::of(&prefix, "");
        let log = region.logs().open_shard(ShardId(3)).expect("opened");
        let acquired = acquire(&log, &fence(2)).expect("acquired");
        let taken_over = acquired.record.position;
        let next = acquired.range.next;
        append(&log, &fence(2), messages(next, "room:new", 20)).expect("the new owner's");
        old.signal(Signal::CONT);
        // What it asks of Kafka ends after 3 s: that nobody answered in time is true then, too.
        let late = slept.elapsed() > Duration::from_secs(2);
        in_time += u32::from(!late);
        old.hear(|owner| owner.failed.len() > 3);
        append(&log, &fence(2), messages(next + 20, "room:new", 20)).expect("it goes on");
        assert_eq!(old.failed.len(), 4, "round {round}: {:?}", old.failed);
        for error in &old.failed {
            let told = error.starts_with("Fenced") || (late && error.starts_with("OutcomeUnknown"));
            assert!(told, "round {round}: {error}");
        }
        // What it acknowledged, before or after it slept, is there; nothing else of it follows.
        let reader = region.logs().open_shard(ShardId(3)).expect("opened");
        for log in [&log, &reader] {
            let all = everything(log);
            let of = |room: &str| -> Vec<u64> {
                let mine = all.iter().filter(|record| record.channel == room);
                mine.map(|record| record.position).collect()
            };
            let written = of("room:owner");
            assert!(written.starts_with(&old.committed), "round {round}");
            assert!(written.iter().all(|at| *at < taken_over), "round {round}");
            assert_eq!(of("room:new"), (next..next + 40).collect::<Vec<_>>());
        }
    }
    assert!(in_time > 0, "it slept too long in every round");
}

#[test]
fn what_a_deposed_owner_or_a_stranger_writes_is_passed_over_by_everybody() {
    let region = Region::new("");
    let logs = region.logs();
    let log = logs.open_shard(ShardId(3)).expect("opened");
    acquire(&log, &fence(1)).expect("acquired");
    append(&log, &fence(1), messages(1, "room:a", 5)).expect("appended");
    let next = acquire(&log, &fence(2)).expect("acquired").range.next;
    // At the right position, under the ownership before.
    let zombie = vec![message(next, "room:zombie", 1, 10)];
    write(&region, &encode_batch(&fence(1), next, &zombie));
    write(&region, b"not of this program");
    append(&log, &fence(2), messages(next, "room:a", 5)).expect("appended");
    // The newest ownership's, a second time and ahead.
    let again = messages(next, "room:a", 5);
    write(&region, &encode_batch(&fence(2), next, &again));
    let ahead = messages(next + 50, "room:zombie", 5);
    write(&region, &encode_batch(&fence(2), next + 50, &ahead));
    append(&log, &fence(2), messages(next + 5, "room:a", 5)).expect("appended");
    log.confirm(&fence(2)).expect("the owner");
    let reader = logs.open_shard(ShardId(3)).expect("opened");
    for log in [&log, &reader] {
        let all = everything(log);
        assert_eq!(all.len() as u64, next + 10);
        assert!(all.iter().all(|record| record.channel != "room:zombie"));
    }
    let text = region.metrics.text();
    assert!(
        text.contains("gb6_kafka_foreign_total 2"),
        "each handle saw it: {text}"
    );
}

#[test]
fn an_idle_owner_learns_that_it_is_deposed() {
    let region = Region::new("");
    let (old, new) = (region.logs(), region.logs());
    let old = old.open_shard(ShardId(3)).expect("opened");
    let new = new.open_shard(ShardId(3)).expect("opened");
    acquire(&old, &fence(1)).expect("acquired");
    append(&old, &fence(1), messages(1, "room:a", 5)).expect("appended");
    acquire(&new, &fence(2)).expect("acquired");
    append(&new, &fence(2), messages(7, "room:a", 5)).expect("appended");
    // It writes nothing and asks nothing: its range says what it has read.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while old.range().expect("range").next < 12 {
        assert!(
            std::time::Instant::now() < deadline,
            "it follows its partition"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let error = append(&old, &fence(1), Vec::new()).expect_err("deposed");
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}
