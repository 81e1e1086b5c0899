//! Who asks thousands of times who is present costs itself time, and nobody else.

use gb6_core_wire::mesh::Person;
use serde_json::json;

use crate::client::Client;
use crate::world::{World, config, room};

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_thousands_of_presence_commands_costs_only_its_sender() {
    let world = World::start(config());
    let person = |n| Person {
        user: format!("u{n}"),
        client: format!("c{n}"),
        conn_info: vec![b'1'; 300].into(),
        ..Person::default()
    };
    world.owner.present(&room("room:1"), (0..1_000).map(person));
    let mut calm = Client::connect(world.address, &world.token("calm")).await;
    calm.call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    let mut flood = Client::connect(world.address, &world.token("flood")).await;
    let commands: Vec<String> = (2..4_002)
        .map(|id| match id % 2 {
            0 => json!({"id": id, "presence": {"channel": "room:1"}}).to_string(),
            _ => json!({"id": id, "presence_stats": {"channel": "room:1"}}).to_string(),
        })
        .collect();
    flood.send_text(commands.join("\n")).await;
    // Nothing of it has been read yet, and others' messages come.
    for n in 1..=200u64 {
        world
            .owner
            .append(&room("room:1"), n.to_string().into_bytes());
        let push = calm.next().await;
        assert_eq!(push["push"]["pub"]["offset"], n, "{push}");
    }
    let (mut people, mut stats, mut refused) = (0, 0, 0);
    for _ in 2..4_002 {
        let reply = flood.next().await;
        if let Some(found) = reply["presence"]["presence"].as_object() {
            assert_eq!(found.len(), 1_000);
            people += 1;
        } else if reply["presence_stats"].is_object() {
            stats += 1;
        } else {
            assert_eq!(reply["error"]["code"], 111, "{reply}");
            refused += 1;
        }
    }
    // One under way and 128 that wait, and those whose turn came while the frame was read.
    assert_eq!((people + refused, stats), (2_000, 2_000));
    assert!((129..300).contains(&people), "{people} were listed");
    // One question answers all who wait for it.
    let asked = world.owner.presence_queries();
    assert!(asked < 400, "{asked} questions");
    assert_eq!(
        world.metric("gb6_edge_attached_total{region=\"r\",shard=\"0\"}"),
        1.0
    );
    calm.call(json!({"id": 3, "presence_stats": {"channel": "room:1"}}))
        .await;
}
