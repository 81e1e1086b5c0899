//! The snapshot of `gb6 dev`.

use std::collections::BTreeSet;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{InstanceId, NodeId};
use gb6_geo_config_plan::{DEMO_SHARDS, DemoMesh, demo_snapshot};

use crate::SECRET;

fn demo() -> Snapshot {
    let (region, edge) = (NodeId::from("region"), NodeId::from("edge"));
    demo_snapshot(&DemoMesh {
        revision: 3,
        key_id: "demo.k",
        secret: SECRET,
        region_node: &region,
        edge_node: &edge,
    })
}

#[test]
fn rooms_are_spread_over_every_shard() {
    let demo = demo();
    let shards: BTreeSet<u32> = (0..200)
        .filter_map(|n| demo.route(&InstanceId::from("demo"), &format!("room:{n}")))
        .map(|r| r.shard.0)
        .collect();
    assert_eq!(shards.len(), DEMO_SHARDS as usize);
}

#[test]
fn it_survives_the_trip_through_json_and_hides_its_secret() {
    let demo = demo();
    let json = serde_json::to_string(&demo).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), demo);
    assert!(
        !serde_json::to_string(&demo.for_roles(&[]))
            .unwrap()
            .contains(SECRET)
    );
    assert!(!format!("{demo:?}").contains(SECRET));
}

#[test]
fn its_rooms_have_everything_on_and_no_rate_limit() {
    let demo = &demo().instances["demo"];
    let room = &demo.namespaces["room"];
    assert_eq!(demo.command_rate, None);
    assert!(
        room.presence && room.force_join_leave && room.force_recovery && room.force_positioning
    );
    assert_eq!((room.history_size, room.history_ttl_ms), (0, 0));
}
