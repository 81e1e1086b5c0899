//! The port `EventSink`: a topic for others, who never see what a deposed owner wrote.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{EventSink, SinkEvent, StoreError};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use tokio::runtime::Handle;

use crate::client::Told;
use crate::config::Config;
use crate::producer::{Delivery, LogProducer, REMAKE_EVERY, Receiver, Settings};
use crate::topics::Topics;

/// Most events of one call.
const EVENTS_MAX: usize = 500;
/// How much longer than an append may take an answer is waited for.
const ANSWER_EXTRA: Duration = Duration::from_secs(2);
/// Who reads events drops positions below those that it has: of what is under way nothing may arrive
/// without what was given before it. So no single message is given up: the producer is, with all of them.
const WITHOUT_GAPS: Settings = &[
    ("enable.gapless.guarantee", "true"),
    ("message.timeout.ms", "0"),
];

/// Where the answers of one call go.
struct Answers(SyncSender<Result<(), StoreError>>);

impl Receiver for Answers {
    fn delivered(self: Arc<Self>, _: u64, result: Result<u64, StoreError>) {
        // Who sent it may have given up.
        let _ = self.0.try_send(result.map(|_| ()));
    }
}

/// The topic `<prefix>.<region>.events` of a region. Each event's key keeps it in the partition of its
/// room, in order; headers `gb6-shard` and `gb6-position` name it, for who drops repetitions.
pub struct KafkaEvents {
    producer: LogProducer,
    told: Told,
    topic: String,
    timeout: Duration,
}

impl KafkaEvents {
    /// Connects, and makes the topic with `partitions` if it is missing; how long events stay there is
    /// its operator's to say. Blocks.
    ///
    /// # Errors
    /// `Unavailable`: no broker answers, or not as wanted. `Conflict`: the topic does not take messages as
    /// large as events may be, or keeps fewer copies than asked for, with what mends it.
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
        Ok(Self {
            producer: LogProducer::new(config, &told, WITHOUT_GAPS)?,
            told,
            topic,
            timeout: config.timeout + ANSWER_EXTRA,
        })
    }

    /// Hands an event to the client.
    fn send(&self, event: &SinkEvent, receiver: Arc<Answers>) -> Result<(), StoreError> {
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
        let delivery = Box::new(Delivery { receiver, token: 0 });
        let record = BaseRecord::<str, [u8], _>::with_opaque_to(&self.topic, delivery)
            .key(&event.key)
            .payload(&event.value)
            .headers(headers);
        self.producer.give(record)
    }

    /// Events that the client does not take because of their size are left out. `TooLarge`: Kafka refuses
    /// one of those that it was given together.
    fn publish_together(&self, events: &[SinkEvent]) -> Result<(), StoreError> {
        // overflow: every event's answer has its place.
        let (sender, answers) = sync_channel(events.len().max(1));
        let receiver = Arc::new(Answers(sender));
        let deadline = Instant::now() + self.timeout;
        let mut outcome = Ok(());
        let mut sent = 0;
        for event in events {
            match self.send(event, receiver.clone()) {
                Ok(()) => sent += 1,
                Err(StoreError::TooLarge { .. }) => self.leave_out(event),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // Every answer is waited for: nothing may arrive behind its repetition.
        for _ in 0..sent {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(answer) = answers.recv_timeout(left) else {
                self.producer.abandon();
                return Err(StoreError::Unavailable {
                    cause: format!("Kafka did not take events within {:?}", self.timeout),
                });
            };
            // Of several the one that says what is wrong.
            if outcome.is_ok() || matches!(answer, Err(StoreError::TooLarge { .. })) {
                outcome = answer;
            }
        }
        outcome
    }

    fn leave_out(&self, event: &SinkEvent) {
        self.told.metrics.events_too_large.inc();
        tracing::error!(topic = self.topic, shard = %event.shard, position = event.position, bytes = event.value.len(), "an event is not published: Kafka takes no message of its size");
    }
}

impl EventSink for KafkaEvents {
    fn publish(&self, events: &[SinkEvent]) -> Result<(), StoreError> {
        match self.publish_together(events) {
            Err(StoreError::TooLarge { .. }) => {}
            Err(StoreError::OutcomeUnknown { cause }) => {
                return Err(StoreError::Unavailable { cause });
            }
            answer => return answer,
        }
        // The topic takes less than when it was opened. To go on without a gap the producer has failed for
        // good: what follows finds another.
        self.producer.abandon();
        std::thread::sleep(REMAKE_EVERY);
        if let [event] = events {
            self.leave_out(event);
            return Ok(());
        }
        // Alone each shows whether it is too large.
        let mut alone = events.chunks(1);
        alone.try_for_each(|event| self.publish(event))
    }

    fn events_max(&self) -> usize {
        EVENTS_MAX
    }
}
