//! Which version of Kafka a broker is, by the requests that it knows: it tells nobody its number.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gb6_core_ports::Check;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use crate::client::{ASK, base};
use crate::config::Config;
use crate::errors;

/// The oldest version that a region may run on: since then a user needs no right on the whole cluster to
/// write without repetitions (KIP-679).
const OLDEST: &str = "2.8";
/// `DescribeCluster`, the request that came with that version (KIP-700).
const KEY_OF_OLDEST: i16 = 60;
/// How long what was logged before takes to be told.
const DRAINED_WITHIN: Duration = Duration::from_millis(100);
/// Brokers that are looked at; a client asks one or two.
const BROKERS_MAX: usize = 64;

/// Listens to what a client says of the brokers that it meets: whether each knows that request.
#[derive(Default)]
struct Listens(Mutex<BTreeMap<String, bool>>);

impl ClientContext for Listens {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        let Some((broker, key)) = known(message) else {
            return;
        };
        let mut brokers = self.0.lock();
        // overflow: further brokers are not looked at.
        if brokers.len() < BROKERS_MAX || brokers.contains_key(broker) {
            *brokers.entry(broker.to_owned()).or_insert(false) |= key == KEY_OF_OLDEST;
        }
    }
}

impl ConsumerContext for Listens {}

/// The broker, and one of the requests that it knows, of a line of librdkafka's log (`feature`):
/// `[thrd:…]: host:port/id:   ApiKey NAME (KEY) Versions A..B`.
fn known(line: &str) -> Option<(&str, i16)> {
    let (head, api) = line.split_once(":   ApiKey ")?;
    let broker = head.rsplit(' ').next()?;
    let broker = broker.split('/').next()?;
    let key = api.split_once('(')?.1.split_once(')')?.0;
    Some((broker, key.parse().ok()?))
}

/// What is to be said of brokers that know that request, or do not.
fn judge(what: String, brokers: &BTreeMap<String, bool>) -> Check {
    let old: Vec<&str> = brokers
        .iter()
        .filter(|(_, knows)| !**knows)
        .map(|(broker, _)| broker.as_str())
        .collect();
    if brokers.is_empty() {
        return Check::bad(
            what,
            format!("the broker does not say what it knows: Kafka {OLDEST} or newer is needed"),
        );
    }
    match old.is_empty() {
        true => Check::good(what, format!("{OLDEST} or newer")),
        false => Check::bad(
            what,
            format!(
                "{} is older than Kafka {OLDEST}: bring all brokers to {OLDEST} or newer",
                old.join(", ")
            ),
        ),
    }
}

/// Whether the brokers that a client comes to are as new as they must be. Blocks.
pub(crate) fn check(config: &Config, what: String) -> Check {
    let made = base(config).and_then(|mut settings| {
        settings
            .set("debug", "feature")
            .set_log_level(RDKafkaLogLevel::Debug)
            .create_with_context(Listens::default())
            .map_err(|error| errors::text(&error))
    });
    let client: BaseConsumer<Listens> = match made {
        Ok(client) => client,
        Err(cause) => return Check::bad(what, format!("a Kafka client can not be made: {cause}")),
    };
    if let Err(error) = client.fetch_metadata(None, ASK) {
        let error = errors::unavailable("no Kafka broker answers", &error);
        return Check::bad(what, error.to_string());
    }
    // What was logged is told to who polls. A broker is answered after it has said what it knows.
    let deadline = Instant::now() + ASK;
    while client.context().0.lock().is_empty() && Instant::now() < deadline {
        let _ = client.poll(DRAINED_WITHIN);
    }
    let _ = client.poll(DRAINED_WITHIN);
    let brokers = client.context().0.lock().clone();
    judge(what, &brokers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_say_what_a_broker_knows_are_found_among_others() {
        let line =
            "[thrd:k1:9092/bootstrap]: k1:9092/bootstrap:   ApiKey Metadata (3) Versions 0..13";
        assert_eq!(known(line), Some(("k1:9092", 3)));
        let line = "[thrd:sasl_ssl://[::1]:9092/7]: sasl_ssl://[::1]:9092/7:   ApiKey X (60) Versions 0..2";
        assert!(known(line).is_some_and(|(_, key)| key == 60));
        for other in [
            "",
            "[thrd:k1:9092/1]: k1:9092/1: Broker API support:",
            "[thrd:k1:9092/1]: k1:9092/1:  Feature ThrottleTime: Produce (1..2) supported by broker",
            "[thrd:k1:9092/1]: k1:9092/1:   ApiKey Metadata 3 Versions 0..13",
            "[thrd:k1:9092/1]: k1:9092/1:   ApiKey Metadata (99999) Versions 0..13",
        ] {
            assert_eq!(known(other), None, "{other}");
        }
    }

    #[test]
    fn one_old_broker_is_named() {
        let said = |brokers: &[(&str, bool)]| {
            let brokers = brokers
                .iter()
                .map(|(name, knows)| ((*name).to_owned(), *knows));
            judge("version".to_owned(), &brokers.collect()).found
        };
        assert!(said(&[("k1:9092", true), ("k2:9092", true)]).is_ok());
        let old = said(&[("k1:9092", false), ("k2:9092", true)]).expect_err("2.7");
        assert!(old.contains("k1:9092 is older than Kafka 2.8"), "{old}");
        assert!(said(&[]).is_err());
    }
}
