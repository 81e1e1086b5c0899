//! How far back message ids are known, across a restart.

use gb6_core_model::limits;
use gb6_core_wire::mesh::ShardRef;
use gb6_core_wire::record::{Kind, Origin, Record};
use gb6_region_shard::{Shard, ShardConfig};

use crate::world::{rules, snapshot};

fn shard() -> Shard {
    let mut config = ShardConfig::new(ShardRef {
        region: "eu".into(),
        shard: 0,
    });
    config.dedupe_ids_max = 3;
    Shard::new(config, snapshot(rules()))
}

fn message(n: u64, served_ms: u64) -> Record {
    Record {
        kind: Kind::Message.into(),
        instance: "demo".into(),
        channel: "room:1".into(),
        offset: n + 1,
        position: n,
        origin: Some(Origin::default()),
        client_id: format!("id-{n}").into(),
        served_ms,
        ..Record::default()
    }
}

#[test]
fn a_window_that_the_bound_has_shortened_is_as_short_after_a_restart() {
    let window = |shard: &Shard| shard.gauges().dedupe_window_ms;
    let mut before = shard();
    for n in 0..5 {
        before.replay(&message(n, 10_000 * (n + 1)));
    }
    // Of five, the ids of 10 s and 20 s were pushed out; it is 50 s now.
    assert_eq!(window(&before), 30_000);
    let (_, state) = before.checkpoint();
    let mut after = shard();
    let next = after.restore(&state).expect("a good checkpoint");
    assert_eq!(window(&after), 30_000);
    // It grows again as time is served, to what is promised.
    after.replay(&message(next, 60_000 + limits::DEDUPE_WINDOW_MS));
    assert_eq!(window(&after), limits::DEDUPE_WINDOW_MS);
}

#[test]
fn a_checkpoint_of_an_older_program_says_nothing_about_it() {
    let mut before = shard();
    for n in 0..3 {
        before.replay(&message(n, 10_000));
    }
    // None was pushed out: the field is not written, as by a program that does not know it.
    let (_, state) = before.checkpoint();
    let mut after = shard();
    after.restore(&state).expect("a good checkpoint");
    assert_eq!(after.gauges().dedupe_window_ms, limits::DEDUPE_WINDOW_MS);
    assert_eq!(after.gauges().dedupe_ids, 3);
}
