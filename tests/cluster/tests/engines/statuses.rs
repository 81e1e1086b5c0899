//! Statuses of users of a whole `gb6` on Redis: shared by two processes, gone while Redis is, and healed without
//! a restart. Nothing else notices.

use std::time::{Duration, Instant};

use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::process::{DevOptions, DevServer, Scratch, http_request};
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one method may take while Redis is lost. Each call of Redis has 200 ms, of which a method makes
/// few; the rest is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(3);

async fn call(server: &DevServer, method: &str, body: &Value) -> Value {
    let body = body.to_string();
    let (address, key) = (server.address, &server.ready.api_key);
    let request = format!(
        "POST /api/{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = http_request(address, request.as_bytes(), PATIENCE).await;
    serde_json::from_str(&answer.unwrap().body).unwrap()
}

async fn status(server: &DevServer) -> Value {
    let answer = call(server, "get_user_status", &json!({"users": ["alice"]})).await;
    answer["result"]["statuses"][0].clone()
}

/// Methods about statuses fail in time, and a publish does not.
async fn fails_alone(server: &DevServer) {
    let alice = json!({"users": ["alice"]});
    for method in [
        "get_user_status",
        "update_user_status",
        "delete_user_status",
    ] {
        let began = Instant::now();
        let answer = call(server, method, &alice).await;
        assert_eq!(answer["error"]["code"], 100, "{method}: {answer}");
        assert!(
            began.elapsed() < DEADLINE,
            "{method}: {:?}",
            began.elapsed()
        );
    }
    let published = call(server, "publish", &json!({"channel": "room:1", "data": 1})).await;
    assert!(published["result"]["offset"].is_u64(), "{published}");
}

/// Says that alice is in this state, until that is taken and read again.
async fn heals(server: &DevServer, state: &str) {
    let began = Instant::now();
    loop {
        let update = json!({"users": ["alice"], "state": state});
        call(server, "update_user_status", &update).await;
        if status(server).await["state"] == *state {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "statuses are not kept again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until alice is read to be in this state: a single call that takes longer than 200 ms is refused.
async fn shows(server: &DevServer, state: &str) {
    let began = Instant::now();
    while status(server).await["state"] != *state {
        assert!(
            began.elapsed() < PATIENCE,
            "nobody says that she is {state}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_are_shared_by_processes_and_lost_alone() {
    let scratch = Scratch::new("statuses").unwrap();
    let place = scratch.path().join("redis");
    let mut redis = Engine::start(Kind::Redis, &place, &[]).await.unwrap();
    let start = async |name: &str| {
        let mut options = DevOptions::new(&scratch.path().join(name));
        options.arguments = ["--stores-signals", redis.address()]
            .map(str::to_owned)
            .to_vec();
        DevServer::start(options).await.unwrap()
    };
    // Two servers of the same region and instance, with logs of their own.
    let (one, other) = (start("one").await, start("other").await);
    heals(&one, "busy").await;
    shows(&other, "busy").await;

    redis.kill().await.unwrap();
    fails_alone(&one).await;
    redis.restart().await.unwrap();
    heals(&one, "away").await;

    redis.pause().unwrap();
    fails_alone(&one).await;
    redis.resume().unwrap();
    heals(&one, "back").await;
    heals(&other, "there").await;
    shows(&one, "there").await;
}
