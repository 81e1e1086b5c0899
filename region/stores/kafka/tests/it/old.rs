//! Brokers that are too old are named before a start.

use gb6_region_stores_kafka::{Config, check};
use rdkafka::mocking::MockCluster;

#[test]
fn a_broker_that_is_too_old_is_named() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // That of librdkafka's tests knows few requests.
    let old = MockCluster::new(1).expect("a broker");
    let brokers = old.bootstrap_servers();
    let uri = format!("kafka://{brokers}/x?replication=1&min_insync=1");
    let config = Config::parse(&uri).expect("a URI");
    let checks = check(&config, "test", 4, runtime.handle().clone());
    let version = checks.iter().find(|check| check.what.ends_with("version"));
    let said = version.expect("a line").found.clone().expect_err("too old");
    let wanted = format!("{brokers} is older than Kafka 2.8");
    assert!(said.contains(&wanted), "{said}");
}
