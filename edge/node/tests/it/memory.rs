//! What connections cost in memory.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::body::post;
use crate::child::Child;
use crate::client::{PATIENCE, frame, raw};

/// The goal for an idle WebSocket that is subscribed to one room, in a release build; a debug
/// build with another allocator must keep it too.
const BYTES_EACH: usize = 7_400;

/// A subscribed WebSocket.
async fn subscribed(child: &Child) -> TcpStream {
    let mut tcp = raw(child.address).await;
    let lines = [
        json!({"connect": {"token": child.token}, "id": 1}).to_string(),
        json!({"subscribe": {"channel": "room:1"}, "id": 2}).to_string(),
    ];
    tcp.write_all(&frame(&lines.join("\n"))).await.unwrap();
    until_subscribed(&mut tcp).await;
    tcp
}

async fn until_subscribed(tcp: &mut TcpStream) {
    let mut seen = Vec::new();
    let answered = async {
        while !seen.windows(11).any(|w| w == b"\"subscribe\"") {
            assert_ne!(tcp.read_buf(&mut seen).await.unwrap(), 0, "closed");
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.unwrap();
}

/// An event stream that is subscribed by its first commands.
async fn listening(child: &Child) -> TcpStream {
    let lines = [
        json!({"connect": {"token": child.token}, "id": 1}).to_string(),
        json!({"subscribe": {"channel": "room:1"}, "id": 2}).to_string(),
    ];
    let request = post("/connection/sse", "", lines.join("\n").as_bytes());
    let mut tcp = TcpStream::connect(child.address).await.unwrap();
    tcp.write_all(&request).await.unwrap();
    until_subscribed(&mut tcp).await;
    tcp
}

/// What each of 2,000 more connections costs, in bytes.
async fn cost_of_each(child: &Child, open: impl AsyncFn(&Child) -> TcpStream) -> usize {
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(open(child).await);
    }
    let before = child.resident();
    for _ in 0..2000 {
        held.push(open(child).await);
    }
    child.resident().saturating_sub(before) / 2000
}

#[tokio::test]
async fn an_idle_connection_costs_few_bytes() {
    let each = cost_of_each(&Child::start(None), subscribed).await;
    assert!(each <= BYTES_EACH, "{each} bytes each");
}

/// Nothing of the HTTP layer stays with an answer that does not end.
#[tokio::test]
async fn an_idle_event_stream_costs_as_few() {
    let each = cost_of_each(&Child::start(None), listening).await;
    assert!(each <= BYTES_EACH, "{each} bytes each");
}

#[tokio::test]
async fn a_large_frame_leaves_nothing_behind() {
    let child = Child::start(None);
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(subscribed(&child).await);
    }
    let before = child.resident();
    // A megabyte each, of a command that is refused for its size alone.
    let padding = "x".repeat(60_000);
    let line = json!({"publish": {"channel": "room:1", "data": padding}, "id": 3}).to_string();
    let large = frame(&vec![line; 16].join("\n"));
    for tcp in &mut held {
        tcp.write_all(&large).await.unwrap();
        let mut seen = vec![0; 64 * 1024];
        let _ = tokio::time::timeout(PATIENCE, tcp.read(&mut seen))
            .await
            .unwrap();
    }
    // Sixteen publishes reach all twenty, who read them or not: what stays is bounded by the
    // room's own memory of recent publications and the allocator's.
    drop(held);
    let grown = child.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "{grown} bytes more");
}
