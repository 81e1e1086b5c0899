//! What must hold of each room when a run is over, by what was read from the logs with fresh eyes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gb6_core_wire::record::Record;

use super::{Setting, World};

/// Checks a room by itself, and against what everybody was told.
pub(crate) fn room<S: Setting>(world: &World<S>, room: usize, records: &[&Record]) {
    by_itself(world, room, records);
    told(world, room, records);
}

fn by_itself<S: Setting>(world: &World<S>, room: usize, records: &[&Record]) {
    let room = &world.rooms[room];
    let (mut time, mut bodies) = (0, BTreeSet::new());
    let (mut ids, mut numbers) = (BTreeSet::new(), BTreeMap::new());
    for (at, record) in (1u64..).zip(records) {
        assert_eq!(record.offset, at, "offsets are consecutive");
        let key = (&record.instance, &record.channel);
        assert_eq!(key, (&room.instance, &room.channel));
        assert!(record.time >= time, "time never falls");
        time = record.time;
        assert!(
            bodies.insert(&record.body),
            "{room:?}: {:?} is written twice",
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
fn told<S: Setting>(world: &World<S>, room: usize, records: &[&Record]) {
    let offsets = records.iter().map(|r| (r.body.as_ref(), r.offset));
    let offsets: BTreeMap<&[u8], u64> = offsets.collect();
    for a in world.acknowledged.iter().filter(|a| a.room == room) {
        let at = offsets.get(a.data.as_bytes());
        assert_eq!(at, Some(&a.offset), "{} is acknowledged", a.data);
    }
    for (_, data) in world.refused.iter().filter(|(r, _)| *r == room) {
        let at = offsets.get(data.as_bytes());
        assert_eq!(at, None, "{data} is said not to be written");
    }
    for s in world.subscribers.iter().filter(|s| s.room == room) {
        for (offset, data) in &s.got {
            is_written(records, *offset, data);
        }
    }
    // Who waits for each answer finds its messages in the order in which it sent them.
    for (at, p) in world.publishers.iter().enumerate() {
        if p.window == 1 && p.room == room {
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

/// What somebody was given as a room's publication of an offset is that one.
pub(crate) fn is_written(records: &[&Record], offset: u64, data: &Bytes) {
    let record = records.get(offset as usize - 1);
    let body = record.map(|record| &record.body);
    assert_eq!(body, Some(data), "{offset} is another publication");
}
