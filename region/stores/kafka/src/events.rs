//! The port `EventSink`: a topic for others, who never see what a deposed owner wrote.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{EventSink, SinkEvent, StoreError};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::runtime::Handle;

use crate::client::{Told, log_line, producer};
use crate::config::Config;
use crate::errors;
use crate::topics::Topics;

/// Most events of one call.
const EVENTS_MAX: usize = 500;
/// How much longer than the client's own bound an answer is waited for.
const ANSWER_EXTRA: Duration = Duration::from_secs(2);

/// Takes what the client says.
struct Answers(Told);

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.told(&error, reason);
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = Box<SyncSender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        // Who sent it may have given up.
        let _ = sender.try_send(result);
    }
}

/// The topic `<prefix>.<region>.events` of a region. Each event's key keeps it in the partition of its
/// room, in order; headers `gb6-shard` and `gb6-position` name it, for who drops repetitions.
pub struct KafkaEvents {
    producer: ThreadedProducer<Answers>,
    topic: String,
    timeout: Duration,
}

impl KafkaEvents {
    /// Connects, and makes the topic with `partitions` if it is missing; how long events stay there is
    /// its operator's to say. Blocks.
    ///
    /// # Errors
    /// `Unavailable`: no broker answers, or not as wanted.
    pub fn open(
        config: &Config,
        region: &str,
        partitions: u32,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Self, StoreError> {
        let told = Told::new(metrics);
        let topic = config.events_topic(region);
        Topics::new(config, &told, runtime)?.ensure_events(&topic, partitions)?;
        let made = producer(config).and_then(|settings| {
            settings
                .create_with_context(Answers(told))
                .map_err(|error| errors::text(&error))
        });
        let producer = made.map_err(|cause| StoreError::Unavailable {
            cause: format!("a Kafka producer of events can not be made: {cause}"),
        })?;
        Ok(Self {
            producer,
            topic,
            timeout: config.timeout + ANSWER_EXTRA,
        })
    }
}

impl EventSink for KafkaEvents {
    fn publish(&self, events: &[SinkEvent]) -> Result<(), StoreError> {
        let failed = |error: &KafkaError| errors::unavailable("events are not published", error);
        // overflow: every event's answer has its place.
        let (sender, answers) = sync_channel(events.len().max(1));
        let deadline = Instant::now() + self.timeout;
        for event in events {
            let shard = event.shard.to_string();
            let position = event.position.to_string();
            let headers = OwnedHeaders::new_with_capacity(2)
                .insert(Header {
                    key: "gb6-shard",
                    value: Some(&shard),
                })
                .insert(Header {
                    key: "gb6-position",
                    value: Some(&position),
                });
            let record =
                BaseRecord::<str, [u8], _>::with_opaque_to(&self.topic, Box::new(sender.clone()))
                    .key(&event.key)
                    .payload(&event.value)
                    .headers(headers);
            self.producer
                .send(record)
                .map_err(|(error, _)| failed(&error))?;
        }
        for _ in events {
            let left = deadline.saturating_duration_since(Instant::now());
            match answers.recv_timeout(left) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_) => {
                    return Err(StoreError::Unavailable {
                        cause: format!("Kafka did not take events within {:?}", self.timeout),
                    });
                }
            }
        }
        Ok(())
    }

    fn events_max(&self) -> usize {
        EVENTS_MAX
    }
}
