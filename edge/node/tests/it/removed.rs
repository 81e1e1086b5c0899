//! Instances that a new placement has no more: their sessions end, whatever carries them.

use serde_json::json;

use crate::body::{Body, events, post};
use crate::client::Client;
use crate::quic::{Quic, with_quic};
use crate::world::{World, config};

/// Takes the instance `acme` out of the placement.
fn remove_acme(world: &World) {
    let mut snapshot = world.snapshot.clone();
    snapshot.revision += 1;
    snapshot.instances.remove("acme");
    world.place(snapshot);
}

#[tokio::test]
async fn the_sessions_of_an_instance_that_is_gone_end_on_every_transport() {
    let world = World::start(with_quic());
    let token = |instance| world.token_of(instance, "alice", 600);
    let acme = token("acme");
    let mut websocket = Client::connect(world.address, &acme).await;
    let mut stays = Client::connect(world.address, &token("demo")).await;
    let mut quic = Quic::connect(world.edge.quic_addr().unwrap(), &acme).await;
    let connect = json!({"connect": {"token": acme}, "id": 1}).to_string();
    let request = post("/connection/http_stream", "", connect.as_bytes());
    let mut stream = Body::open(world.address, &request).await;
    let mut sse = Body::open(world.address, &events("/connection/sse", &connect)).await;
    let uni = events("/connection/uni_sse", &json!({"token": acme}).to_string());
    let mut uni = Body::open(world.address, &uni).await;
    assert!(stream.line().await.unwrap()["connect"].is_object());
    assert!(sse.event().await.is_some() && uni.event().await.is_some());

    remove_acme(&world);
    let want = json!({"code": 3508, "reason": "not available"});
    let push = json!({"push": {"disconnect": want}});
    assert_eq!(websocket.closed().await, (3508, "not available".to_owned()));
    assert_eq!(quic.closed().await, 3508);
    assert_eq!(stream.line().await, Some(push.clone()));
    assert_eq!(stream.line().await, None);
    assert_eq!(sse.event().await, Some(push));
    assert_eq!(uni.event().await, Some(json!({"disconnect": want})));
    assert_eq!(uni.event().await, None);

    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    assert!(stays.call(subscribe).await["subscribe"].is_object());
    // Its keys are gone too: nobody gets in by them.
    let mut late = Client::open(world.address).await;
    late.send(&json!({"id": 1, "connect": {"token": acme}}))
        .await;
    assert_eq!(late.closed().await.0, 3500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_held_still_hears_that_its_instance_is_gone() {
    let world = World::start(config());
    let acme = world.token_of("acme", "alice", 600);
    let mut client = Client::connect(world.address, &acme).await;
    world.cut();
    let current = "gb6_edge_revocations_current{instance=\"acme\"}";
    world.metric_falls(current, 0.0).await;
    client
        .send(&json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    remove_acme(&world);
    assert_eq!(client.closed().await.0, 3508);
}
