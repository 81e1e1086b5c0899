//! What must hold when a run is over, read from the logs with fresh eyes.

use gb6_core_ports::ShardLog;
use gb6_core_wire::record::{Kind, Record};

use super::SHARDS;
use super::world::NodesWorld;
use crate::publishing::check;

/// Everything in the log of a shard.
fn read(world: &NodesWorld, shard: usize) -> Vec<Record> {
    let log = world.own.logs[shard].open();
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
pub(crate) fn logs(world: &NodesWorld) -> usize {
    let mut messages = 0;
    for shard in 0..SHARDS {
        let log = read(world, shard);
        owners_one_after_the_other(shard, &log);
        let room: Vec<&Record> = log.iter().filter(|r| r.takes_offset()).collect();
        check::room(world, shard, &room);
        for (_, offset, data) in world.own.shown.iter().filter(|(s, ..)| *s == shard) {
            check::is_written(&room, *offset, data);
        }
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
