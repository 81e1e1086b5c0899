//! Frames of many small commands, up to the largest that is accepted.

use std::collections::BTreeSet;

use gb6_core_model::limits;
use gb6_core_model::snapshot::CommandRate;
use serde_json::json;

use crate::client::Client;
use crate::world::{World, config, snapshot};

/// As many small publishes as fit into one frame, with ids from 2 on.
fn whole_frame() -> (String, u64) {
    let mut frame = String::new();
    for id in 2.. {
        let line = format!(r#"{{"id":{id},"publish":{{"channel":"room:1","data":1}}}}"#);
        if frame.len() + line.len() + 1 > limits::CLIENT_FRAME_BYTES_MAX {
            return (frame, id - 1);
        }
        if id > 2 {
            frame.push('\n');
        }
        frame.push_str(&line);
    }
    unreachable!("the frame is full")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_of_small_commands_is_answered_one_by_one() {
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("a")).await;
    let mut other = Client::connect(world.address, &world.token("b")).await;
    let (frame, last) = whole_frame();
    assert!(frame.len() > limits::CLIENT_FRAME_BYTES_MAX - 100 && last > 18_000);
    client.send_text(frame).await;
    // The others have their turns meanwhile.
    other
        .call(json!({"id": 2, "presence_stats": {"channel": "room:1"}}))
        .await;
    // Its replies are more than its queue may hold.
    let (mut done, mut refused) = (0, 0);
    let mut waited_for: BTreeSet<u64> = (2..=last).collect();
    while !waited_for.is_empty() {
        let reply = client.next().await;
        assert!(waited_for.remove(&reply["id"].as_u64().unwrap()), "{reply}");
        match reply["error"]["code"].as_u64() {
            None => done += 1,
            Some(code) => {
                assert_eq!(code, 111, "{reply}");
                refused += 1;
            }
        }
    }
    assert_eq!(done + refused, last - 1);
    assert!(done >= 4_096, "{done} of {last}");
    assert_eq!(world.metric("gb6_edge_slow_total"), 0.0);
    // And the connection goes on.
    let reply = client
        .call(json!({"id": 2, "publish": {"channel": "room:1", "data": 2}}))
        .await;
    assert!(reply["publish"].is_object(), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_over_the_configured_rate_are_refused_and_then_end_the_connection() {
    let mut placed = snapshot();
    for instance in placed.instances.values_mut() {
        instance.command_rate = Some(CommandRate {
            per_second: 1_000,
            burst: 5_000,
        });
    }
    let world = World::start_placed(config(), placed).unwrap();
    let mut client = Client::connect(world.address, &world.token("a")).await;
    let pings = |ids: std::ops::Range<u32>| {
        let lines = ids.map(|id| format!(r#"{{"id":{id},"ping":{{}}}}"#));
        lines.collect::<Vec<_>>().join("\n")
    };
    client.send_text(pings(2..9_002)).await;
    let (mut done, mut refused) = (0, 0);
    for _ in 0..9_000 {
        let reply = client.next().await;
        match reply["error"]["code"].as_u64() {
            None => done += 1,
            Some(code) => {
                assert_eq!(code, 111, "{reply}");
                assert_eq!(reply["error"]["temporary"], true);
                refused += 1;
            }
        }
    }
    // The burst, and what the second or so of the test has earned.
    assert!(done >= 4_999 && refused >= 1, "{done} and {refused}");
    // An unsubscribe succeeds all the same.
    let reply = client
        .call(json!({"id": 2, "unsubscribe": {"channel": "room:1"}}))
        .await;
    assert!(reply["unsubscribe"].is_object(), "{reply}");
    // Who goes on regardless is disconnected, and may come back.
    client.send_text(pings(2..30_002)).await;
    assert_eq!(
        client.closed().await,
        (3013, "too many requests".to_owned())
    );
    let mut again = Client::connect(world.address, &world.token("a")).await;
    let reply = again
        .call(json!({"id": 2, "publish": {"channel": "room:1", "data": 1}}))
        .await;
    assert!(reply["publish"].is_object(), "{reply}");
}
