//! When the leaders of partitions last answered the consumer that reads them, which asks them all the
//! time: so a log's silence is known where nobody asks for anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::Statistics;

/// How often the client says how it fares.
pub(crate) const SAID_EVERY: Duration = Duration::from_millis(500);

/// By partition, of one consumer. Those of the partitions that it reads, so there is a bound.
#[derive(Debug, Default)]
pub(crate) struct Hearing(Mutex<BTreeMap<i32, Instant>>);

impl Hearing {
    /// Takes what the client says of itself.
    pub(crate) fn take(&self, statistics: &Statistics) {
        let now = Instant::now();
        let heard = answers(statistics);
        let mut all = self.0.lock();
        for (partition, ago) in heard {
            if let Some(at) = now.checked_sub(ago) {
                let known = all.entry(partition).or_insert(at);
                *known = at.max(*known);
            }
        }
    }

    /// When the leader of a partition last answered.
    pub(crate) fn of(&self, partition: i32) -> Option<Instant> {
        self.0.lock().get(&partition).copied()
    }
}

/// How long ago the brokers answered that lead the partitions which are being read.
fn answers(statistics: &Statistics) -> Vec<(i32, Duration)> {
    let partitions = statistics
        .topics
        .values()
        .flat_map(|t| t.partitions.values());
    let read = partitions.filter(|p| p.partition >= 0 && p.fetch_state == "active");
    read.filter_map(|partition| {
        let mut brokers = statistics.brokers.values();
        let broker = brokers.find(|b| b.nodeid >= 0 && b.nodeid == partition.broker)?;
        let answers = broker.state == "UP";
        let micros = u64::try_from(broker.rxidle).ok().filter(|_| answers)?;
        Some((partition.partition, Duration::from_micros(micros)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::statistics::{Broker, Partition, Topic};

    fn statistics(brokers: &[(i32, &str, i64)], partitions: &[(i32, i32, &str)]) -> Statistics {
        let mut statistics = Statistics::default();
        for (nodeid, state, rxidle) in brokers {
            let broker = Broker {
                nodeid: *nodeid,
                state: (*state).to_owned(),
                rxidle: *rxidle,
                ..Broker::default()
            };
            statistics.brokers.insert(format!("b{nodeid}"), broker);
        }
        let mut topic = Topic::default();
        for (partition, broker, state) in partitions {
            let of = Partition {
                partition: *partition,
                broker: *broker,
                fetch_state: (*state).to_owned(),
                ..Partition::default()
            };
            topic.partitions.insert(*partition, of);
        }
        statistics.topics.insert("t".to_owned(), topic);
        statistics
    }

    #[test]
    fn a_partition_is_heard_when_the_broker_that_leads_it_answers() {
        let brokers = [
            (1, "UP", 2_000),
            (2, "DOWN", 1_000),
            (3, "UP", -1),
            (-1, "UP", 5),
        ];
        let partitions = [
            (0, 1, "active"),
            (1, 2, "active"),
            (2, 3, "active"),
            (3, -1, "active"),
            (4, 1, "stopped"),
            (-1, 1, "active"),
        ];
        let heard = answers(&statistics(&brokers, &partitions));
        assert_eq!(heard, [(0, Duration::from_micros(2_000))]);
        let hearing = Hearing::default();
        hearing.take(&statistics(&brokers, &partitions));
        let first = hearing.of(0).expect("it was heard");
        assert_eq!(hearing.of(1), None);
        // A broker that sleeps answers no more: what was known stays, and grows old.
        hearing.take(&statistics(&[(1, "UP", 900_000_000)], &[(0, 1, "active")]));
        assert_eq!(hearing.of(0), Some(first));
    }
}
