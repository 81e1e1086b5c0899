//! The double of S3, with plain HTTP: it wants a signature, and does not look at it.

use std::net::SocketAddr;

use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::process::{Answer, http_request};

use super::{Dir, PATIENCE, kill_and_restart, stop};

/// Without it the request is nobody's.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 \
    Credential=gb6/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00\r\n";

async fn ask(engine: &Engine, method: &str, path: &str, head: &str, body: &str) -> Answer {
    let address: SocketAddr = engine.sockets()[0];
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n{SIGNED}{head}\r\n{body}"
    );
    http_request(address, request.as_bytes(), PATIENCE)
        .await
        .unwrap()
}

#[tokio::test]
async fn objects_outlive_a_kill_and_a_conditional_put_is_refused() {
    let dir = Dir::new();
    let mut engine = Engine::start(Kind::S3, &dir.join("s"), &[]).await.unwrap();
    let absent = "If-None-Match: *\r\n";
    let put = ask(&engine, "PUT", "/gb6/a/b", absent, "one").await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(
        ask(&engine, "PUT", "/gb6/a/b", absent, "two").await.status,
        412
    );
    kill_and_restart(&mut engine).await;
    assert_eq!(
        ask(&engine, "PUT", "/gb6/a/b", absent, "two").await.status,
        412
    );
    assert_eq!(ask(&engine, "GET", "/gb6/a/b", "", "").await.body, "one");
    assert_eq!(ask(&engine, "DELETE", "/gb6/a/b", "", "").await.status, 204);
    kill_and_restart(&mut engine).await;
    assert_eq!(ask(&engine, "GET", "/gb6/a/b", "", "").await.status, 404);
    stop(engine, Kind::S3).await;
}

#[tokio::test]
async fn one_of_many_conditional_puts_wins() {
    let dir = Dir::new();
    let engine = Engine::start(Kind::S3, &dir.join("s"), &[]).await.unwrap();
    let all = (0..8).map(|_| ask(&engine, "PUT", "/gb6/once", "If-None-Match: *\r\n", "x"));
    let mut won = 0;
    for answer in futures_util::future::join_all(all).await {
        match answer.status {
            200 => won += 1,
            status => assert_eq!(status, 412),
        }
    }
    assert_eq!(won, 1);
}
