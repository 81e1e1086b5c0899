//! What must hold when a move is over, read from both disks with fresh eyes.

use std::collections::BTreeMap;

use gb6_core_wire::record::{Kind, Record};
use gb6_region_stores_embedded::SegmentedLog;
use gb6_region_stores_embedded::sim_disk::SimDisk;

use super::world::MoveWorld;
use super::{EPOCHS, INSTANCES, ROOMS, SOURCE, TARGET, people};
use crate::publishing::check;
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
pub(crate) fn logs(world: &MoveWorld) -> (usize, usize) {
    let (source, seals) = read(&world.own.shards[SOURCE].disk);
    let (target, _) = read(&world.own.shards[TARGET].disk);
    let seal = seals.iter().map(|s| s.position).min().unwrap_or(0);
    let (mut before, mut behind) = (0, 0);
    for (n, instance) in INSTANCES.iter().enumerate() {
        for (at, room) in ROOMS.iter().enumerate() {
            let key = ((*instance).to_owned(), (*room).to_owned());
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
            let all: Vec<&Record> = all.iter().collect();
            check::room(world, people::room(n, at), &all);
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
