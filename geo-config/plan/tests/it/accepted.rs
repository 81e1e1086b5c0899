//! Good files and what becomes of them.

use std::collections::BTreeSet;

use gb6_core_model::ids::SLOT_COUNT;
use gb6_core_model::snapshot::{CommandRate, Namespace};
use gb6_core_model::{InstanceId, NodeId, ShardId, Slot};
use gb6_geo_config_plan::{EXAMPLE, choose_slots};
use proptest::prelude::*;

use crate::{SECRET, example_with, read};

#[test]
fn the_example_is_complete_and_says_the_defaults() {
    let snapshot = read(EXAMPLE).unwrap();
    let demo = &snapshot.instances["demo"];
    assert_eq!(snapshot.revision, 7);
    assert_eq!(
        demo.keys[0].secret, SECRET,
        "the line end is no part of a secret"
    );
    assert_eq!(demo.slots, choose_slots(&InstanceId::from("demo"), 8));
    assert_eq!(snapshot.regions["eu"].owners, vec![NodeId::from("r1"); 4]);

    // Without the lines that say a default, the same comes out.
    let short = "[instances.demo]\nregion = \"eu\"\n\
        [[instances.demo.keys]]\nid = \"demo.main\"\nsecret_file = \"demo.secret\"\n\
        [instances.demo.namespaces.room]\npresence = true\njoin_leave = true\nforce_join_leave = true\n\
        [regions.eu]\nshards = 4\nowners = [\"r1\"]\n\
        [nodes.g1]\nroles = [\"geo\"]\nmesh = \"127.0.0.1:7700\"\n\
        [nodes.r1]\nroles = [\"region\"]\nmesh = \"127.0.0.1:7600\"\nregion = \"eu\"\n\
        [nodes.e1]\nroles = [\"edge\"]\n[nodes.e2]\nroles = [\"edge\"]\n";
    assert_eq!(read(short).unwrap(), snapshot);
}

#[test]
fn every_room_of_an_accepted_file_has_an_owner() {
    let snapshot = read(EXAMPLE).unwrap();
    for n in 0..500 {
        let route = snapshot
            .route(&InstanceId::from("demo"), &format!("room:{n}"))
            .unwrap();
        assert_eq!(route.owner, NodeId::from("r1"));
    }
}

#[test]
fn shards_are_dealt_out_in_turn_and_slots_can_be_placed() {
    let text = example_with("owners = [\"r1\"]", "owners = [\"r1\", \"r2\"]")
        .replace("slots = {}", "slots = { \"4711\" = 2 }")
        + "[nodes.r2]\nroles = [\"region\"]\nmesh = \"[::1]:7601\"\nregion = \"eu\"\n";
    let eu = &read(&text).unwrap().regions["eu"];
    let owners: Vec<&str> = eu.owners.iter().map(NodeId::as_str).collect();
    assert_eq!(owners, ["r1", "r2", "r1", "r2"]);
    assert_eq!(eu.shard_of(Slot(4711)), Some(ShardId(2)));
    assert_eq!(eu.shard_of(Slot(4712)), Some(ShardId(0)));
}

#[test]
fn human_units_and_choices() {
    let text = example_with("history_ttl = \"0\"", "history_ttl = \"7d\"")
        .replace(
            "max_message_bytes = \"64KiB\"",
            "max_message_bytes = \"1KiB\"",
        )
        .replace("{ per_second = 1000, burst = 5000 }", "\"unlimited\"")
        .replace("slots = 8", "slots = [9, 3, 16383]")
        .replace("allow_publish = \"member\"", "allow_publish = \"nobody\"");
    let demo = read(&text).unwrap().instances["demo"].clone();
    assert_eq!(demo.command_rate, None);
    assert_eq!(demo.slots, [3, 9, 16_383].map(Slot));
    let room = &demo.namespaces["room"];
    assert_eq!(room.history_ttl_ms, 604_800_000);
    assert_eq!(room.max_message_bytes, 1024);
    assert_eq!(room.allow_publish, gb6_core_model::snapshot::Who::Nobody);

    let text = example_with(
        "per_second = 1000, burst = 5000",
        "per_second = 10, burst = 20",
    );
    let rate = read(&text).unwrap().instances["demo"].command_rate;
    assert_eq!(
        rate,
        Some(CommandRate {
            per_second: 10,
            burst: 20
        })
    );
}

#[test]
fn an_empty_namespace_has_the_models_defaults() {
    let text = format!("{EXAMPLE}\n[instances.demo.namespaces.plain]\n");
    assert_eq!(
        read(&text).unwrap().instances["demo"].namespaces["plain"],
        Namespace::default()
    );
}

#[test]
// Computed by an independent program from the rule's description.
fn the_slot_rule_never_changes() {
    let slots = |name: &str| {
        choose_slots(&InstanceId::from(name), 8)
            .iter()
            .map(|s| s.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(slots("demo"), GOLDEN_DEMO);
    assert_eq!(slots("acme-2"), GOLDEN_ACME);
}

const GOLDEN_DEMO: [u16; 8] = [821, 3372, 5659, 6758, 8385, 9858, 10767, 16272];
const GOLDEN_ACME: [u16; 8] = [1583, 4521, 8286, 9018, 11044, 11301, 12003, 15912];

#[test]
fn instances_rarely_share_slots() {
    let mut pairs_sharing_two = 0;
    let sets: Vec<BTreeSet<Slot>> = (0..200)
        .map(|n| {
            choose_slots(&InstanceId::from(format!("tenant-{n}")), 8)
                .into_iter()
                .collect()
        })
        .collect();
    for (n, a) in sets.iter().enumerate() {
        pairs_sharing_two += sets[..n]
            .iter()
            .filter(|b| a.intersection(b).count() >= 2)
            .count();
    }
    assert!(
        pairs_sharing_two <= 2,
        "{pairs_sharing_two} of 19,900 pairs share two slots"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_larger_count_keeps_every_slot(name in "[a-z][a-z0-9-]{0,20}", a in 1_u16..64, b in 1_u16..64) {
        let id = InstanceId::from(name);
        let (few, many) = (choose_slots(&id, a.min(b)), choose_slots(&id, a.max(b)));
        prop_assert_eq!(few.len(), usize::from(a.min(b)));
        prop_assert!(few.iter().all(|s| many.contains(s) && s.0 < SLOT_COUNT));
        prop_assert!(many.windows(2).all(|w| w[0] < w[1]));
    }
}
