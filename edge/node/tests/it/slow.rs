//! A client that does not read costs nobody memory or time.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Client, close_code, frame, raw};
use crate::world::{World, config, eventually, room};

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_disconnected_with_3008() {
    let mut settings = config();
    settings.slow_close_timeout = Duration::from_secs(5);
    let world = World::start(settings);
    let mut slow = raw(world.address).await;
    let lines = [
        json!({"id": 1, "connect": {"token": world.token("slow")}}).to_string(),
        json!({"id": 2, "subscribe": {"channel": "room:1"}}).to_string(),
    ];
    slow.write_all(&frame(&lines.join("\n"))).await.unwrap();
    let mut good = Client::connect(world.address, &world.token("good")).await;
    good.call(json!({"id": 2, "subscribe": {"channel": "room:1"}}))
        .await;
    world
        .metric_reaches("gb6_edge_subscribers{region=\"r\",shard=\"0\"}", 2.0)
        .await;
    let data = format!("\"{}\"", "x".repeat(60_000));
    let mut sent = 0u64;
    while world.metric("gb6_edge_slow_total") == 0.0 {
        world
            .owner
            .append(&room("room:1"), data.clone().into_bytes());
        sent += 1;
        // Whoever reads gets everything meanwhile.
        let push = good.next().await;
        assert_eq!(push["push"]["pub"]["offset"], sent);
        assert!(sent < 1000, "60 MB and still not slow");
    }
    eventually("slow session gone", || world.edge.sessions() == 1).await;
    // When it reads at last, the last thing is why.
    assert_eq!(close_code_far(&mut slow, b"slow").await, Some(3008));
}

/// As [`close_code`], behind megabytes of other frames.
async fn close_code_far(tcp: &mut tokio::net::TcpStream, reason: &[u8]) -> Option<u16> {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    let _ = tcp.read_to_end(&mut bytes).await;
    let length = reason.len() as u8 + 2;
    bytes
        .windows(4 + reason.len())
        .rev()
        .find(|w| w[..2] == [0x88, length] && &w[4..] == reason)
        .map(|w| u16::from_be_bytes([w[2], w[3]]))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_for_long_is_disconnected_with_3009() {
    let mut settings = config();
    // Time alone ends it: its queue would hold everything.
    settings.outbox_bytes = 256 << 20;
    settings.write_timeout = Duration::from_millis(300);
    settings.slow_close_timeout = Duration::from_secs(5);
    let world = World::start(settings);
    let mut stalled = raw(world.address).await;
    let lines = [
        json!({"id": 1, "connect": {"token": world.token("stalled")}}).to_string(),
        json!({"id": 2, "subscribe": {"channel": "room:1"}}).to_string(),
    ];
    stalled.write_all(&frame(&lines.join("\n"))).await.unwrap();
    let subscribers = "gb6_edge_subscribers{region=\"r\",shard=\"0\"}";
    world.metric_reaches(subscribers, 1.0).await;
    // More than the kernel takes for it.
    let data = format!("\"{}\"", "x".repeat(60_000));
    for _ in 0..400 {
        world
            .owner
            .append(&room("room:1"), data.clone().into_bytes());
        tokio::task::yield_now().await;
    }
    let ended = "gb6_edge_closed_total{code=\"3009\"}";
    world.metric_reaches(ended, 1.0).await;
    assert_eq!(world.metric("gb6_edge_slow_total"), 0.0);
    eventually("left", || world.metric(subscribers) == 0.0).await;
    // When it reads at last, the last thing is why.
    let code = close_code_far(&mut stalled, b"write error").await;
    assert_eq!(code, Some(3009));
    // One that goes on not reading is cut off.
    let mut settings = config();
    settings.outbox_bytes = 256 << 20;
    settings.write_timeout = Duration::from_millis(300);
    let world = World::start(settings);
    let mut never = raw(world.address).await;
    never.write_all(&frame(&lines.join("\n"))).await.unwrap();
    world.metric_reaches(subscribers, 1.0).await;
    for _ in 0..400 {
        world
            .owner
            .append(&room("room:1"), data.clone().into_bytes());
        tokio::task::yield_now().await;
    }
    world.metric_reaches(ended, 1.0).await;
    eventually("connection cut", || world.edge.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_cut_off() {
    let world = World::start(config());
    let mut never = raw(world.address).await;
    let lines = [
        json!({"id": 1, "connect": {"token": world.token("slow")}}).to_string(),
        json!({"id": 2, "subscribe": {"channel": "room:1"}}).to_string(),
    ];
    never.write_all(&frame(&lines.join("\n"))).await.unwrap();
    world
        .metric_reaches("gb6_edge_subscribers{region=\"r\",shard=\"0\"}", 1.0)
        .await;
    let data = format!("\"{}\"", "x".repeat(60_000));
    let mut sent = 0;
    while world.metric("gb6_edge_slow_total") == 0.0 {
        world
            .owner
            .append(&room("room:1"), data.clone().into_bytes());
        sent += 1;
        assert!(sent < 1000, "60 MB and still not slow");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    eventually("connection cut", || world.edge.connections() == 0).await;
}

#[tokio::test]
async fn who_floods_pings_without_reading_is_slow_too() {
    let world = World::start(config());
    let mut tcp = raw(world.address).await;
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend_from_slice(&[7; 125]);
    let many = ping.repeat(1000);
    let flood = tokio::spawn(async move {
        while tcp.write_all(&many).await.is_ok() {}
        drop(tcp);
    });
    world.metric_reaches("gb6_edge_slow_total", 1.0).await;
    eventually("connection cut", || world.edge.connections() == 0).await;
    flood.abort();
}

#[tokio::test]
async fn a_session_that_ends_leaves_its_rooms() {
    let world = World::start(config());
    let mut tcp = raw(world.address).await;
    let lines = [
        json!({"id": 1, "connect": {"token": world.token("a")}}).to_string(),
        json!({"id": 2, "subscribe": {"channel": "room:1"}}).to_string(),
    ];
    tcp.write_all(&frame(&lines.join("\n"))).await.unwrap();
    let subscribers = "gb6_edge_subscribers{region=\"r\",shard=\"0\"}";
    world.metric_reaches(subscribers, 1.0).await;
    drop(tcp);
    eventually("left", || world.metric(subscribers) == 0.0).await;
    let mut tcp = raw(world.address).await;
    tcp.write_all(&[0x81]).await.unwrap();
    drop(tcp);
    eventually("gone", || world.edge.connections() == 0).await;
    let mut tcp = raw(world.address).await;
    tcp.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(close_code(&mut tcp).await, Some(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_in_many_rooms_are_no_flood_for_a_client_that_reads() {
    const ROOMS: usize = 8;
    const MESSAGES: u64 = 60;
    let world = World::start(config());
    let mut client = Client::connect(world.address, &world.token("a")).await;
    let names: Vec<String> = (0..ROOMS).map(|n| format!("room:{n}")).collect();
    for (id, channel) in (2..).zip(&names) {
        client
            .call(json!({"id": id, "subscribe": {"channel": channel}}))
            .await;
    }
    let (edge, region) = ("e1".into(), "r1".into());
    world.network.cut(&edge, &region);
    // Ten times what its queue holds, of which nobody is told.
    let data = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..MESSAGES {
        for channel in &names {
            world
                .owner
                .append(&room(channel), data.clone().into_bytes());
        }
    }
    world.network.heal(&edge, &region);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..MESSAGES * ROOMS as u64 {
        let push = client.next().await;
        let channel = push["push"]["channel"].as_str().unwrap().to_owned();
        let last: &mut u64 = seen.entry(channel).or_default();
        *last += 1;
        assert_eq!(push["push"]["pub"]["offset"], *last);
    }
    assert_eq!(seen.len(), ROOMS);
    assert_eq!(world.metric("gb6_edge_slow_total"), 0.0);
}
