//! Faults that are the same for every engine, shown on the quickest one.

use std::time::{Duration, Instant};

use gb6_tests_harness::engines::{Engine, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Dir, PATIENCE};

/// Sends PING and waits for the answer.
async fn ping(stream: &mut TcpStream, patience: Duration) -> bool {
    let exchange = async {
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).await.ok()?;
        assert_eq!(&answer, b"+PONG\r\n");
        Some(())
    };
    let answered = tokio::time::timeout(patience, exchange).await;
    answered.ok().flatten().is_some()
}

#[tokio::test]
async fn a_paused_engine_answers_when_it_goes_on() {
    let dir = Dir::new();
    let engine = Engine::start(Kind::Redis, &dir.join("r"), &[])
        .await
        .unwrap();
    let mut stream = TcpStream::connect(engine.sockets()[0]).await.unwrap();
    assert!(ping(&mut stream, PATIENCE).await);
    engine.pause().unwrap();
    assert!(!ping(&mut stream, Duration::from_millis(300)).await);
    engine.resume().unwrap();
    // The answer to the ping of before.
    let mut late = [0; 7];
    stream.read_exact(&mut late).await.unwrap();
    assert!(ping(&mut stream, PATIENCE).await);
}

#[tokio::test]
async fn a_cut_and_a_delay_are_between_clients_and_the_engine() {
    let dir = Dir::new();
    let (engine, front) = Engine::start_behind(Kind::Redis, &dir.join("r"), &[])
        .await
        .unwrap();
    let behind = front.addresses()[0].clone();
    assert_eq!(engine.address(), format!("redis://{behind}"));
    let mut stream = TcpStream::connect(&behind).await.unwrap();
    assert!(ping(&mut stream, PATIENCE).await);

    front.delay(Duration::from_millis(200));
    let begun = Instant::now();
    assert!(ping(&mut stream, PATIENCE).await);
    assert!(begun.elapsed() >= Duration::from_millis(400));

    front.cut();
    assert!(!ping(&mut stream, Duration::from_millis(300)).await);
    front.heal();
    let mut stream = TcpStream::connect(&behind).await.unwrap();
    assert!(ping(&mut stream, PATIENCE).await);
}

#[tokio::test]
async fn dropping_it_ends_its_processes() {
    let dir = Dir::new();
    let engine = Engine::start(Kind::Redis, &dir.join("r"), &[])
        .await
        .unwrap();
    let address = engine.sockets()[0];
    drop(engine);
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let dir = Dir::new();
    let error = Engine::start(Kind::Redis, &dir.join("r"), &["--brokers", "3"]).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("error: redis has no option --brokers"),
        "{error}"
    );
}
