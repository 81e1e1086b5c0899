//! What a session that ends leaves behind: nothing, whatever was packed behind its end.

use serde_json::{Value, json};

use crate::client::{Client, open};
use crate::world::{World, config, eventually, room};

const SUBSCRIBERS: &str = "gb6_edge_subscribers{region=\"r\",shard=\"0\"}";

/// One frame with `first` and a subscribe behind it.
async fn with_a_subscribe_behind(client: &mut Client, first: Value) {
    let behind = json!({"id": 9, "subscribe": {"channel": "room:1"}});
    client.send_text(format!("{first}\n{behind}")).await;
}

/// Somebody who comes later is the only one in the room.
async fn assert_nobody_is_left(world: &World) {
    let mut later = Client::connect(world.address, &world.token("later")).await;
    // What an earlier session asked of the shard was done before this is answered.
    let reply = later
        .call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    assert!(reply["subscribe"].is_object(), "{reply}");
    let stats = later
        .call(json!({"id": 3, "presence_stats": {"channel": "room:1"}}))
        .await;
    assert_eq!(stats["presence_stats"]["num_clients"], 1, "{stats}");
    assert_eq!(world.owner.clients(&room("room:1")).len(), 1);
    world.metric_reaches(SUBSCRIBERS, 1.0).await;
    assert_eq!(world.metric(SUBSCRIBERS), 1.0);
    drop(later);
    let gone =
        || world.metric(SUBSCRIBERS) == 0.0 && world.owner.clients(&room("room:1")).is_empty();
    eventually("nobody is left", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_behind_a_bad_refresh_is_not_carried_out() {
    let world = World::start(config());
    let other = world.token("somebody else");
    for token in ["garbage", &other] {
        let mut client = Client::connect(world.address, &world.token("a")).await;
        // A room that it has asked for already: its shard knows the session.
        client
            .call(json!({"id": 2, "subscribe": {"channel": "room:2"}}))
            .await;
        let refresh = json!({"id": 3, "refresh": {"token": token}});
        with_a_subscribe_behind(&mut client, refresh).await;
        assert_eq!(client.closed().await.0, 3500);
    }
    assert_nobody_is_left(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_is_one_behind_a_token_whose_instance_does_not_list_the_origin() {
    let world = World::start(config());
    let demo = world.token("alice");
    let origin = [("Origin", "https://app.acme.example")];
    // At connect.
    let mut client = Client::open(world.address).await;
    client.ws = open(world.address, "", &origin).await.unwrap();
    let connect = json!({"id": 1, "connect": {"token": demo}});
    with_a_subscribe_behind(&mut client, connect).await;
    assert_eq!(client.closed().await.0, 3507);
    // At refresh: the connection is acme's and becomes nobody else's.
    client.ws = open(world.address, "", &origin).await.unwrap();
    let acme = world.token_of("acme", "alice", 60);
    let reply = client
        .call(json!({"id": 1, "connect": {"token": acme}}))
        .await;
    assert!(reply["connect"].is_object(), "{reply}");
    let refresh = json!({"id": 2, "refresh": {"token": demo}});
    with_a_subscribe_behind(&mut client, refresh).await;
    assert_eq!(client.closed().await.0, 3507);
    let acme_room = gb6_core_wire::mesh::RoomRef {
        instance: "acme".to_owned(),
        channel: "room:1".to_owned(),
    };
    assert_nobody_is_left(&world).await;
    assert!(world.owner.clients(&acme_room).is_empty());
}
