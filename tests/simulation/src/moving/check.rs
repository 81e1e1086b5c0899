//! What must hold when a move is over, read from both disks with fresh eyes.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_wire::record::{Kind, Record};
use gb6_region_stores_embedded::SegmentedLog;
use gb6_region_stores_embedded::sim_disk::SimDisk;

use super::world::MoveWorld;
use super::{EPOCHS, INSTANCES, ROOMS, SOURCE, TARGET};
use crate::region::{DIRECTORY, log_config, read_all};

/// Records that take offsets, by instance and room.
type Rooms = BTreeMap<(String, String), Vec<Record>>;

fn read(disk: &SimDisk) -> (Rooms, Vec<Record>) {
    let (mut rooms, mut seals) = (Rooms::new(), Vec::new());
    let read = SegmentedLog::open(disk.dir(DIRECTORY), log_config()).and_then(|log| {
        let mut at = log.range().first;
        read_all(&log, &mut at, |record| {
            if record.takes_offset() {
                let room = (record.instance.clone(), record.channel.clone());
                rooms.entry(room).or_default().push(record.clone());
            } else if record.kind() == Kind::Seal {
                seals.push(record.clone());
            }
        })
    });
    if let Err(error) = read {
        panic!("a log can not be read at the end: {error}");
    }
    (rooms, seals)
}

/// Checks both logs by themselves, against each other, and against what everybody was told.
/// Returns the records of the instance before and behind the move.
pub(crate) fn check(world: &MoveWorld) -> (usize, usize) {
    let (source, seals) = read(&world.shards[SOURCE].disk);
    let (target, _) = read(&world.shards[TARGET].disk);
    let seal = seals.iter().map(|s| s.position).min().unwrap_or(0);
    let (mut before, mut behind) = (0, 0);
    for (n, instance) in INSTANCES.iter().enumerate() {
        for room in ROOMS {
            let key = ((*instance).to_owned(), room.to_owned());
            let here = source.get(&key).map_or(&[][..], Vec::as_slice);
            let there = target.get(&key).map_or(&[][..], Vec::as_slice);
            match n {
                0 => {
                    carried(here, there, seal);
                    before += here.len();
                    behind += there.len() - here.len();
                }
                1 => assert!(there.is_empty(), "{instance} is in the target"),
                _ => assert!(here.is_empty(), "{instance} is in the source"),
            }
            let all = if n == 1 { here } else { there };
            room_by_itself(all);
            told(world, n, room, all);
        }
    }
    (before, behind)
}

/// The source ends at the seal; the target has the same, then goes on at the next offset.
fn carried(here: &[Record], there: &[Record], seal: u64) {
    assert!(
        here.iter().all(|r| r.position < seal),
        "written behind the seal"
    );
    assert!(there.len() >= here.len(), "the end of the log is lost");
    for (at, record) in there.iter().enumerate() {
        let Some(original) = here.get(at) else {
            assert_eq!(record.kind(), Kind::Message, "imported from nowhere");
            assert_eq!(record.instance_epoch, EPOCHS.2, "under the opening's epoch");
            continue;
        };
        assert_eq!(record.kind(), Kind::Import);
        let moved = Record {
            kind: original.kind,
            flags: original.flags,
            position: original.position,
            shard_epoch: original.shard_epoch,
            owner_incarnation: original.owner_incarnation,
            served_ms: original.served_ms,
            ..record.clone()
        };
        assert_eq!(moved, *original, "a record changes on its way");
    }
}

fn room_by_itself(records: &[Record]) {
    let (mut time, mut bodies) = (0, BTreeSet::new());
    let (mut ids, mut numbers) = (BTreeSet::new(), BTreeMap::new());
    for (at, record) in (1u64..).zip(records) {
        assert_eq!(record.offset, at, "offsets are consecutive");
        assert!(record.time >= time, "time never falls");
        time = record.time;
        assert!(
            bodies.insert(&record.body),
            "{:?} is written twice",
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
fn told(world: &MoveWorld, instance: usize, room: &str, records: &[Record]) {
    let mut offsets = BTreeMap::new();
    for record in records {
        offsets.insert(record.body.as_ref(), record.offset);
    }
    let mine = |n: usize, r: usize| n == instance && ROOMS[r] == room;
    for a in world
        .acknowledged
        .iter()
        .filter(|a| mine(a.instance, a.room))
    {
        let at = offsets.get(a.data.as_bytes());
        assert_eq!(at, Some(&a.offset), "{} is acknowledged", a.data);
    }
    for (_, _, data) in world.refused.iter().filter(|(n, r, _)| mine(*n, *r)) {
        let at = offsets.get(data.as_bytes());
        assert_eq!(at, None, "{data} is said not to be written");
    }
    for s in &world.subscribers {
        if mine(s.instance, s.room) {
            for (offset, data) in &s.got {
                let record = &records[*offset as usize - 1];
                assert_eq!(record.body, *data, "{offset} is another publication");
            }
        }
    }
    // Who waits for each answer finds its messages in the order in which it sent them.
    for (at, p) in world.publishers.iter().enumerate() {
        if p.window == 1 && mine(p.instance, p.room) {
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
