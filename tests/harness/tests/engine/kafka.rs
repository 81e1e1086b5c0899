//! Kafka, with its own tools.

use gb6_tests_harness::engines::{Engine, Kind};

use super::{Dir, client, kill_and_restart, stop};

async fn tool(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut all = vec!["scripts/engine.sh", "tool", "kafka"];
    all.extend(arguments);
    client(&all, input).await
}

async fn create(address: &str, topic: &str) {
    let made = [
        "TopicCommand",
        "--bootstrap-server",
        address,
        "--create",
        "--topic",
        topic,
    ];
    tool(&made, "").await.unwrap();
}

/// The tool ends well when a message was not written; it says so.
async fn produce(address: &str, topic: &str, line: &str) -> Result<String, String> {
    let arguments = [
        "ConsoleProducer",
        "--bootstrap-server",
        address,
        "--topic",
        topic,
        "--command-property",
        "acks=all",
    ];
    tool(&arguments, line).await
}

async fn consume(address: &str, topic: &str, count: &str) -> String {
    let arguments = [
        "consumer.ConsoleConsumer",
        "--bootstrap-server",
        address,
        "--topic",
        topic,
        "--from-beginning",
        "--max-messages",
        count,
        "--timeout-ms",
        "30000",
    ];
    tool(&arguments, "").await.unwrap()
}

#[tokio::test]
async fn one_broker_keeps_what_it_acknowledged_when_it_is_killed() {
    let dir = Dir::new();
    let mut engine = Engine::start(Kind::Kafka, &dir.join("k"), &[])
        .await
        .unwrap();
    let address = engine.address().to_owned();
    create(&address, "t").await;
    produce(&address, "t", "one\n").await.unwrap();
    kill_and_restart(&mut engine).await;
    produce(&address, "t", "two\n").await.unwrap();
    assert_eq!(consume(&address, "t", "2").await, "one\ntwo");
    stop(engine, Kind::Kafka).await;
}

#[tokio::test]
async fn three_brokers_go_on_without_one() {
    let dir = Dir::new();
    let mut engine = Engine::start(Kind::Kafka, &dir.join("k"), &["--brokers", "3"])
        .await
        .unwrap();
    let address = engine.address().to_owned();
    assert_eq!(address.split(',').count(), 3);
    assert_eq!(engine.pids().len(), 3);
    create(&address, "t").await;
    engine.kill_one("broker-2").await.unwrap();
    assert_eq!(
        engine.pids().into_keys().collect::<Vec<_>>(),
        ["broker-1", "broker-3"]
    );
    produce(&address, "t", "one\n").await.unwrap();
    let gone = engine.kill_one("broker-2").await.unwrap_err().to_string();
    assert_eq!(
        gone,
        "kafka has no running process \"broker-2\"; it has: broker-1, broker-3"
    );
    engine.restart().await.unwrap();
    assert_eq!(engine.pids().len(), 3);
    assert_eq!(consume(&address, "t", "1").await, "one");
}

#[tokio::test]
async fn clients_reach_every_broker_through_the_front_only() {
    let dir = Dir::new();
    let (engine, front) = Engine::start_behind(Kind::Kafka, &dir.join("k"), &["--brokers", "3"])
        .await
        .unwrap();
    let address = engine.address().to_owned();
    assert_eq!(address, front.addresses()[..3].join(","));
    create(&address, "t").await;
    produce(&address, "t", "one\n").await.unwrap();
    // Asked at its own port, a broker names the front all the same.
    let own = engine.sockets()[0].to_string();
    front.cut();
    let line = [
        "ConsoleProducer",
        "--bootstrap-server",
        &own,
        "--topic",
        "t",
        "--max-block-ms",
        "3000",
        "--request-timeout-ms",
        "2000",
        "--command-property",
        "delivery.timeout.ms=4000",
    ];
    // However the tool ends, nothing is written.
    let _ = tool(&line, "two\n").await;
    front.heal();
    produce(&address, "t", "three\n").await.unwrap();
    assert_eq!(consume(&address, "t", "2").await, "one\nthree");
}
