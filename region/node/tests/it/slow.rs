//! Logs that are read slowly, a record at a time: that takes long, and is no silence.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::Position;
use gb6_core_ports::contract::log as contract;
use gb6_core_ports::{LogLayer, Page, ShardLog, StoreError};
use parking_lot::{Condvar, Mutex};

use crate::edge::PATIENCE;
use crate::nodes::{Running, SHARDS, World};

/// Records of each log.
const RECORDS: u64 = 6;
/// What passes for the node while it reads one of them.
const ONE_TAKES: Duration = Duration::from_secs(1);

/// Up to which position each log may be read.
#[derive(Default)]
struct Allowed {
    position: Mutex<Position>,
    changed: Condvar,
}

impl Allowed {
    fn allow(&self, position: Position) {
        *self.position.lock() = position;
        self.changed.notify_all();
    }
}

/// A log of which one record is read at once, and only what is allowed.
struct SlowLog {
    log: Arc<dyn ShardLog>,
    allowed: Arc<Allowed>,
}

impl LogLayer for SlowLog {
    fn below(&self) -> &dyn ShardLog {
        &*self.log
    }

    fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        let mut allowed = self.allowed.position.lock();
        while from > *allowed {
            let late = self.allowed.changed.wait_for(&mut allowed, PATIENCE);
            assert!(!late.timed_out(), "record {from} is never allowed");
        }
        drop(allowed);
        self.log.read(from, max_records.min(1), max_bytes)
    }
}

/// A world all of whose logs have some records, and are read as slowly as is allowed.
fn world() -> (World, Arc<Allowed>) {
    let mut world = World::new();
    for shard in 0..SHARDS {
        let log = world.logs[&shard].open();
        let fence = contract::fence(1);
        contract::acquire(&log, &fence).expect("acquired");
        let messages = contract::messages(1, "room:a", RECORDS - 1);
        contract::append(&log, &fence, messages).expect("appended");
    }
    let allowed = Arc::<Allowed>::default();
    let slowly = allowed.clone();
    world.over_logs = Some(Arc::new(move |log| {
        let allowed = slowly.clone();
        Arc::new(SlowLog { log, allowed })
    }));
    (world, allowed)
}

fn is_cut_off(node: &Running) -> bool {
    node.metric("gb6_region_nodes_cut_off") > 0.0
}

#[test]
fn a_node_that_recovers_shards_for_long_reaches_their_logs_as_long_as_it_reads_on() {
    let (world, allowed) = world();
    let r1 = world.start("r1");
    world.wait("it has taken all", || {
        (0..SHARDS).all(|shard| world.owner(shard).is_some())
    });
    world.wait("it recovers all", || {
        r1.metric("gb6_region_recoveries_running") == f64::from(SHARDS)
    });
    // The first is read at once, the last stays unread.
    for read in 1..RECORDS - 1 {
        world.clock.pass(ONE_TAKES, || [world.beats()[0]]);
        assert!(!is_cut_off(&r1), "{read} records were read");
        allowed.allow(read);
    }
    assert_eq!(r1.metric("gb6_shard_serving"), 0.0);
    // Nothing more is read: that is silence.
    world.clock.pass(5 * ONE_TAKES, || [world.beats()[0]]);
    world.wait("it says that it hears no log", || is_cut_off(&r1));
    allowed.allow(u64::MAX);
    world.wait("it serves", || {
        r1.metric("gb6_shard_serving") == f64::from(SHARDS)
    });
    world.wait("it hears them again", || !is_cut_off(&r1));
}
