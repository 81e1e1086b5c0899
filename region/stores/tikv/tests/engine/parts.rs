//! A TiKV whose keys lie in several parts, one of which can not be found: a transaction that reached only
//! the others is not called written.

use std::thread;
use std::time::Duration;

use gb6_core_model::{Position, ShardId};
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract::rooms::room;
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use gb6_region_stores_tikv::TikvRooms;
use gb6_tests_harness::proxy::Mode;

use crate::engine::{config, entry, prefix};
use crate::lost::{Own, failures, heals};
use crate::shared::{key_of, split_at};

const SHARD: ShardId = ShardId(1);

/// Makes a call that begins with a timestamp and reads a key whose part is known. While its commit asks PD
/// where a part lies that is not known yet, PD goes away, and comes back once the client has given up and
/// asks for a timestamp. Only the clock says when that is, so that an attempt may miss it.
fn without_pd<T: Send>(own: &Own, call: impl FnOnce() -> T + Send) -> T {
    let pd = own.front.proxy(0).unwrap();
    let millis = Duration::from_millis;
    pd.set(Mode::Delay(millis(600)));
    thread::scope(|scope| {
        let called = scope.spawn(call);
        thread::sleep(millis(1800));
        pd.set(Mode::Refuse);
        pd.close_all();
        thread::sleep(millis(6000));
        own.front.heal();
        called.join().unwrap()
    })
}

#[test]
fn a_write_that_reached_only_the_part_of_its_state_is_written_again() {
    let prefix = prefix();
    // The states of shards; entries; the rest.
    let split = split_at(&[key_of(&prefix, b'e', b""), key_of(&prefix, b'f', b"")]);
    let own = Own::start(&["--split", &split]);
    let node = || {
        let metrics = Metrics::bare();
        let config = config(&own.address(), &prefix, "&timeout=5s&gc=off");
        let store = TikvRooms::open(config, "eu", &metrics).unwrap();
        (store, metrics)
    };
    let a = room("demo", "a");
    for attempt in 0..8 {
        // Whatever was written last is believed by nobody, and need not be replaced.
        let (before, _) = node();
        let at = heals(|| before.applied(SHARD));
        heals(|| before.put(SHARD, &[], at, at));
        // A client that does not know yet where entries lie.
        let (store, metrics) = node();
        assert_eq!(heals(|| store.applied(SHARD)), at);
        let entries: Vec<RoomEntry> = (at..at + 3).map(|n| entry("a", n + 1, n)).collect();
        let answer = without_pd(&own, || store.put(SHARD, &entries, at, at + 3));
        let (other, _) = node();
        let applied = heals(|| store.applied(SHARD));
        let in_part = failures(&metrics, "part_made", "commit");
        println!("attempt {attempt}: {answer:?}, then {applied} after {at}, {in_part} in part");
        let all: Vec<(u64, Position)> = (0..at + 3).map(|n| (n + 1, n)).collect();
        match answer {
            Ok(()) => {
                assert_eq!(applied, at + 3, "it was written, it said");
                assert_eq!(heals(|| other.forward(SHARD, &a, 0, 999)), all);
            }
            Err(StoreError::Unavailable { .. }) => {
                assert_eq!(applied, at, "nothing was written, it said");
            }
            Err(StoreError::OutcomeUnknown { .. }) => {}
            Err(error) => panic!("nobody else writes: {error}"),
        }
        // The node that made it may be dead by now.
        assert_eq!(heals(|| other.applied(SHARD)), at);
        if in_part > 0 {
            // As whoever writes behind the log does.
            heals(|| other.put(SHARD, &entries, at, at + 3));
            assert_eq!(heals(|| other.applied(SHARD)), at + 3);
            assert_eq!(heals(|| store.forward(SHARD, &a, 0, 999)), all);
            return;
        }
        if answer.is_ok() {
            heals(|| store.put(SHARD, &[], at + 3, at + 3));
        }
    }
    panic!("no commit reached only a part of the cluster");
}
