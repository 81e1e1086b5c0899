//! What waits to be published, and the task that sends it: several messages at once, in their order,
//! each at most once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::future::try_join_all;
use gb6_core_ports::StoreError;
use parking_lot::Mutex;
use redis::{Pipeline, RedisResult};
use tokio::sync::Notify;

use super::Shared;
use crate::connect::Connection;
use crate::link::Link;
use crate::metrics::TopicMetrics;

/// Messages that may wait: what a node sends in a tenth of a second at most.
const WAITING_MAX: usize = 16 * 1024;
/// Bytes of them.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages that are sent at once.
const BATCH_MAX: usize = 512;
/// Bytes of them, beyond which no further one is added.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// A channel and what is sent in it.
type Message = (Vec<u8>, Vec<u8>);

/// What waits.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    metrics: TopicMetrics,
}

#[derive(Default)]
struct Waiting {
    // overflow: the newest message is dropped and counted.
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Queue {
    pub(super) fn new(metrics: TopicMetrics) -> Self {
        Self {
            waiting: Mutex::default(),
            filled: Notify::new(),
            metrics,
        }
    }

    pub(super) fn push(&self, channel: Vec<u8>, message: Vec<u8>) -> Result<(), StoreError> {
        let bytes = channel.len() + message.len();
        let mut waiting = self.waiting.lock();
        let full =
            waiting.messages.len() >= WAITING_MAX || waiting.bytes + bytes > WAITING_BYTES_MAX;
        if full && !waiting.messages.is_empty() {
            self.metrics.full.inc();
            return Err(StoreError::Backpressure {
                waiting: waiting.bytes as u64,
                limit: WAITING_BYTES_MAX as u64,
            });
        }
        waiting.bytes += bytes;
        waiting.messages.push_back((channel, message));
        self.metrics.waiting.set(waiting.messages.len() as i64);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    fn take(&self) -> Vec<Message> {
        let mut waiting = self.waiting.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(message) = waiting.messages.pop_front() else {
                break;
            };
            bytes += message.0.len() + message.1.len();
            batch.push(message);
        }
        waiting.bytes -= bytes;
        self.metrics.waiting.set(waiting.messages.len() as i64);
        batch
    }
}

/// Sends what waits, for ever.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    let cluster = shared.config.cluster;
    loop {
        let batch = shared.queue.take();
        if batch.is_empty() {
            shared.queue.filled.notified().await;
            continue;
        }
        let count = batch.len() as u64;
        match link
            .run(|connection| send(connection, cluster, batch))
            .await
        {
            Ok(()) => shared.metrics.published.inc_by(count),
            // What it was about has passed when Redis is back.
            Err(_) => shared.metrics.lost.inc_by(count),
        }
    }
}

async fn send(mut connection: Connection, cluster: bool, batch: Vec<Message>) -> RedisResult<()> {
    if !cluster {
        return pipeline("PUBLISH", batch)
            .query_async(&mut connection)
            .await;
    }
    // The messages of a channel go to one node in one piece, so they keep their order.
    let mut channels: HashMap<Vec<u8>, Vec<Message>> = HashMap::new();
    for message in batch {
        channels.entry(message.0.clone()).or_default().push(message);
    }
    let sent = channels.into_values().map(|messages| {
        let mut connection = connection.clone();
        async move {
            let sent = pipeline("SPUBLISH", messages);
            sent.query_async::<()>(&mut connection).await
        }
    });
    try_join_all(sent).await.map(|_| ())
}

fn pipeline(command: &str, messages: Vec<Message>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(messages.len());
    for (channel, message) in messages {
        pipeline.cmd(command).arg(channel).arg(message).ignore();
    }
    pipeline
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_obs::metrics::Metrics;

    #[test]
    fn the_queue_is_bounded_and_keeps_the_order() {
        let queue = Queue::new(TopicMetrics::new(&Metrics::bare(), "test"));
        let push = |n: usize, bytes: usize| queue.push(vec![1], vec![(n % 251) as u8; bytes]);
        for n in 0..WAITING_MAX {
            push(n, 1).unwrap();
        }
        let full = push(0, 1).unwrap_err();
        assert!(matches!(full, StoreError::Backpressure { .. }), "{full}");
        assert_eq!(queue.metrics.full.get(), 1);
        let mut taken = 0;
        loop {
            let batch = queue.take();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= BATCH_MAX);
            for (_, message) in batch {
                assert_eq!(message, [(taken % 251) as u8]);
                taken += 1;
            }
        }
        assert_eq!(taken, WAITING_MAX);
        assert_eq!(
            (queue.metrics.waiting.get(), queue.waiting.lock().bytes),
            (0, 0)
        );
    }

    #[test]
    fn bytes_are_bounded_and_one_that_is_larger_goes_alone() {
        let queue = Queue::new(TopicMetrics::new(&Metrics::bare(), "test"));
        queue.push(vec![1], vec![0; WAITING_BYTES_MAX]).unwrap();
        assert!(queue.push(vec![1], vec![0]).is_err());
        assert_eq!(queue.take().len(), 1);
        queue.push(vec![1], vec![0; BATCH_BYTES_MAX]).unwrap();
        queue.push(vec![1], vec![0]).unwrap();
        assert_eq!((queue.take().len(), queue.take().len()), (1, 1));
    }
}
