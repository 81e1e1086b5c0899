//! An owner that does not read for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::client::Client;
use crate::world::{World, config, room};

/// Bytes of one publish.
const SIZE: usize = 60_000;
/// So many of them are more than the stream to the owner holds, and less than its credit.
const COUNT: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_fit_is_sent_while_others_keep_the_shard_busy() {
    let world = World::start(config());
    let mut reader = Client::connect(world.address, &world.token("reader")).await;
    reader
        .call(json!({"id": 2, "subscribe": {"channel": "room:busy"}}))
        .await;
    let mut writer = Client::connect(world.address, &world.token("writer")).await;
    world.owner.deafen(true);
    // Frames of the owner leave the shard's task no pause.
    let over = Arc::new(AtomicBool::new(false));
    let busy = {
        let (owner, over) = (world.owner.clone(), over.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                owner.append(&room("room:busy"), b"1".to_vec());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let reading = tokio::spawn(async move { while reader.event().await.is_ok() {} });
    let data = "x".repeat(SIZE);
    for n in 0..COUNT {
        let publish = json!({"channel": "room:full", "data": data});
        writer.send(&json!({"id": n + 2, "publish": publish})).await;
    }
    world
        .metric_reaches("gb6_edge_owner_queue{region=\"r\",shard=\"0\"}", 1.0)
        .await;
    world.owner.deafen(false);
    for n in 0..COUNT {
        let reply = writer.next().await;
        assert_eq!(reply["id"], n + 2, "{reply}");
        assert!(reply["error"].is_null(), "{reply}");
    }
    over.store(true, Ordering::Relaxed);
    busy.await.unwrap();
    reading.abort();
}
