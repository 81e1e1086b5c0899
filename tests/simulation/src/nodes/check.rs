//! What must hold when a run is over, read from the logs with fresh eyes.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_ports::ShardLog;
use gb6_core_wire::record::{Kind, Record};

use super::world::NodesWorld;
use super::{ROOM, SHARDS, instance};

/// Everything in the log of a shard.
fn read(world: &NodesWorld, shard: usize) -> Vec<Record> {
    let log = world.logs[shard].open();
    let (mut records, mut at) = (Vec::new(), 0);
    loop {
        let page = match log.read(at, 1_000, 1 << 20) {
            Ok(page) => page,
            Err(error) => panic!("the log of shard {shard} can not be read: {error}"),
        };
        records.extend(page.records);
        if page.next >= page.end || page.next == at {
            return records;
        }
        at = page.next;
    }
}

/// Checks each log by itself, and against what everybody was told. Returns how many messages there are.
pub(crate) fn check(world: &NodesWorld) -> usize {
    let mut messages = 0;
    for shard in 0..SHARDS {
        let log = read(world, shard);
        owners_one_after_the_other(shard, &log);
        let room: Vec<&Record> = log.iter().filter(|r| r.takes_offset()).collect();
        room_by_itself(shard, &room);
        told(world, shard, &room);
        messages += room.len();
    }
    messages
}

/// Nothing is of an owner that had been replaced.
fn owners_one_after_the_other(shard: usize, log: &[Record]) {
    let mut owner = (0, 0);
    for (position, record) in (0u64..).zip(log) {
        assert_eq!(record.position, position, "shard {shard} has a hole");
        let by = (record.shard_epoch, record.owner_incarnation);
        if record.kind() == Kind::Acquire {
            assert!(by.0 > owner.0, "shard {shard} is acquired under {}", by.0);
            owner = by;
        }
        assert_eq!(by, owner, "shard {shard}: {position} is of another owner");
    }
}

fn room_by_itself(shard: usize, records: &[&Record]) {
    let (mut time, mut bodies) = (0, BTreeSet::new());
    let (mut ids, mut numbers) = (BTreeSet::new(), BTreeMap::new());
    for (at, record) in (1u64..).zip(records) {
        assert_eq!(record.offset, at, "offsets are consecutive");
        let key = (record.instance.as_str(), record.channel.as_str());
        assert_eq!(key, (instance(shard).as_str(), ROOM));
        assert!(record.time >= time, "time never falls");
        time = record.time;
        assert!(
            bodies.insert(&record.body),
            "shard {shard}: {:?} is written twice",
            record.body
        );
        let Some(origin) = &record.origin else {
            panic!("{} has no origin", record.offset);
        };
        if !record.client_id.is_empty() {
            assert!(ids.insert((&origin.user, &record.client_id)), "an id twice");
        }
        let stream = (origin.edge_incarnation, origin.session);
        let last = numbers.insert(stream, origin.number);
        assert!(last < Some(origin.number), "reordered by its edge");
    }
}

/// Everybody got what they were told.
fn told(world: &NodesWorld, shard: usize, records: &[&Record]) {
    let offsets = records.iter().map(|r| (r.body.as_ref(), r.offset));
    let offsets: BTreeMap<&[u8], u64> = offsets.collect();
    for a in world.acknowledged.iter().filter(|a| a.shard == shard) {
        let at = offsets.get(a.data.as_bytes());
        assert_eq!(at, Some(&a.offset), "{} is acknowledged", a.data);
    }
    for (_, data) in world.refused.iter().filter(|(s, _)| *s == shard) {
        let at = offsets.get(data.as_bytes());
        assert_eq!(at, None, "{data} is said not to be written");
    }
    let delivered = world.subscribers.iter().filter(|s| s.shard == shard);
    let delivered = delivered.flat_map(|s| s.got.iter().map(|(offset, data)| (offset, data)));
    let shown = world.shown.iter().filter(|(s, ..)| *s == shard);
    for (offset, data) in delivered.chain(shown.map(|(_, offset, data)| (offset, data))) {
        let record = records.get(*offset as usize - 1);
        let body = record.map(|record| &record.body);
        assert_eq!(body, Some(data), "{offset} is another publication");
    }
    // Who waits for each answer finds its messages in the order in which it sent them.
    for (at, p) in world.publishers.iter().enumerate() {
        if p.window == 1 && p.shard == shard {
            let start = format!("{{\"p\":{at},\"n\":");
            let sent = records.iter().filter_map(|r| {
                let text = std::str::from_utf8(&r.body).ok()?;
                let n = text.strip_prefix(&start)?.strip_suffix('}')?;
                n.parse::<u64>().ok()
            });
            let sent: Vec<u64> = sent.collect();
            assert!(sent.is_sorted(), "publisher {at} is reordered: {sent:?}");
        }
    }
}
