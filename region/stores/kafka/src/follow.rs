//! The thread of one shard's handle: reads the partition while somebody else may write to it, and fails
//! what waits for too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;

use crate::client::Health;
use crate::errors;
use crate::fetch::{assign, is_out_of_range, is_passing};
use crate::shared::Shared;

/// How often what waits is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long an owner has written nothing before it reads its partition, to learn of a newer ownership:
/// while it writes it learns of one from the offsets of its own batches.
const QUIET: Duration = Duration::from_millis(500);
/// How long a broker may take to say that it can be reached again.
const PROBE: Duration = Duration::from_millis(500);
/// Pause after an error of the consumer that does not pass by itself.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs until the handle is dropped.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut follower = Follower {
        shared,
        assigned: false,
        failing: false,
    };
    while !shared.is_stopped() {
        follower.step();
        shared.tick(Instant::now());
    }
}

struct Follower<'a> {
    shared: &'a Arc<Shared>,
    assigned: bool,
    /// The last read failed, and was told.
    failing: bool,
}

impl Follower<'_> {
    fn step(&mut self) {
        self.probe();
        match (self.assigned, self.shared.wants_to_read(QUIET)) {
            (false, true) => self.begin(),
            (true, false) => self.end(),
            _ => {}
        }
        if self.assigned {
            self.read();
        } else {
            // Its own events are taken all the same.
            if let Some(Err(error)) = self.shared.consumer.poll(Duration::ZERO) {
                self.failed(&error);
            }
            self.shared.wait_to_read(TICK);
        }
    }

    /// While no broker can be reached, nothing is begun: somebody has to look.
    fn probe(&self) {
        let health = &self.shared.cluster.told.health;
        if health.is_down() && self.shared.watermarks(PROBE).is_ok() {
            health.up();
        }
        let error = health.is_down().then(Health::error);
        self.shared.reachable(error);
    }

    fn begin(&mut self) {
        let offset = self.shared.next_offset();
        let (topic, partition) = (&self.shared.topic, self.shared.partition());
        match assign(&self.shared.consumer, topic, partition, offset) {
            Ok(()) => {
                self.assigned = true;
                self.shared.cluster.told.metrics.read_backs.inc();
            }
            Err(error) => self.failed(&error),
        }
    }

    fn end(&mut self) {
        if let Err(error) = self.shared.consumer.unassign() {
            self.failed(&error);
        }
        self.assigned = false;
    }

    fn read(&mut self) {
        match self.shared.consumer.poll(TICK) {
            None => {}
            Some(Ok(message)) => {
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
                self.failing = false;
                self.shared.cluster.told.health.up();
                self.shared.seen(offset, payload);
            }
            Some(Err(error)) if is_out_of_range(&error) => {
                // What came next is in the archive by now, or was lost.
                self.end();
                if let Err(error) = self.shared.jump(PROBE) {
                    tracing::warn!(topic = self.shared.topic, shard = %self.shared.shard, %error, "where the log goes on can not be told yet");
                    std::thread::sleep(PAUSE);
                }
            }
            Some(Err(error)) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &KafkaError) {
        let told = &self.shared.cluster.told;
        told.told(error, "reading a shard's partition");
        if is_passing(error) {
            return;
        }
        if !std::mem::replace(&mut self.failing, true) {
            let error = errors::text(error);
            tracing::warn!(topic = self.shared.topic, shard = %self.shared.shard, error, "the partition can not be read, and is tried again");
        }
        // Begun anew.
        self.end();
        std::thread::sleep(PAUSE);
    }
}
