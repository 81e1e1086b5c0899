//! Reading batches from Kafka that memory no longer has: a few consumers, shared by all shards of a
//! node, each of which reads one piece of one partition at a time.

use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_model::ShardId;
use gb6_core_ports::StoreError;
use parking_lot::{Condvar, Mutex};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::client::{LogConsumer, Told, make_consumer};
use crate::config::Config;
use crate::errors;
use crate::frame::FrameError;
use crate::kept::{Batch, damage, read_message};
use crate::tail::{Tail, Verdict};

/// Consumers of a node: reads of live history that may go on at once.
const CONSUMERS_MAX: usize = 4;
/// How long one read may take, the wait for a consumer included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nothing was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FetchError {
    /// Kafka no longer has it, or not yet.
    OutOfRange,
    /// Anything else.
    Store(StoreError),
}

/// What to read: the messages from `from` to `until`, an offset, of one shard's partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) topic: &'a str,
    pub(crate) shard: ShardId,
    pub(crate) from: Tail,
    pub(crate) until: u64,
    /// After so many bytes of batches the rest is left.
    pub(crate) bytes_max: usize,
}

/// See the module.
pub(crate) struct Fetcher {
    config: Config,
    told: Told,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    idle: Vec<LogConsumer>,
    made: usize,
}

impl Fetcher {
    pub(crate) fn new(config: &Config, told: &Told) -> Self {
        Self {
            config: config.clone(),
            told: told.clone(),
            pool: Mutex::new(Pool {
                idle: Vec::new(),
                made: 0,
            }),
            returned: Condvar::new(),
        }
    }

    /// Reads the batches of a piece that count.
    pub(crate) fn fetch(&self, piece: Piece<'_>) -> Result<Vec<Batch>, FetchError> {
        let deadline = Instant::now() + FETCH_TIMEOUT;
        self.told.metrics.fetches.inc();
        let consumer = self.take(deadline).map_err(FetchError::Store)?;
        let read = read(&consumer, piece, deadline);
        let reusable = !matches!(read, Err(FetchError::Store(_)));
        self.give_back(reusable.then_some(consumer));
        read
    }

    fn take(&self, deadline: Instant) -> Result<LogConsumer, StoreError> {
        let mut pool = self.pool.lock();
        loop {
            if let Some(consumer) = pool.idle.pop() {
                return Ok(consumer);
            }
            if pool.made < CONSUMERS_MAX {
                pool.made += 1;
                drop(pool);
                return make_consumer(&self.config, &self.told)
                    .inspect_err(|_| self.give_back(None));
            }
            if self.returned.wait_until(&mut pool, deadline).timed_out() {
                return Err(StoreError::Unavailable {
                    cause: "too many reads from Kafka wait".into(),
                });
            }
        }
    }

    fn give_back(&self, consumer: Option<LogConsumer>) {
        let mut pool = self.pool.lock();
        match consumer {
            Some(consumer) => pool.idle.push(consumer),
            None => pool.made -= 1,
        }
        self.returned.notify_one();
    }
}

/// Lets a consumer read one partition from `offset` on.
pub(crate) fn assign(
    consumer: &LogConsumer,
    topic: &str,
    partition: i32,
    offset: u64,
) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
    list.add_partition_offset(topic, partition, offset)?;
    consumer.assign(&list)
}

/// Whether the partition does not hold what was asked for.
pub(crate) fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::OffsetOutOfRange | Code::AutoOffsetReset)
    )
}

/// Whether whoever was asked knows no such partition.
pub(crate) fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    )
}

/// Whether who was asked has not answered in time.
pub(crate) fn is_silence(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::OperationTimedOut | Code::RequestTimedOut | Code::TimedOutQueue)
    )
}

/// Errors that pass by themselves, while the client goes on.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    let passes = matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                // What was asked had another address meanwhile.
                | Code::DestroyBroker
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                // A new leader does not know yet what all copies have.
                | Code::OffsetNotAvailable
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::CoordinatorLoadInProgress
                | Code::GroupAuthorizationFailed
        )
    );
    passes || is_silence(error)
}

fn read(
    consumer: &LogConsumer,
    piece: Piece<'_>,
    deadline: Instant,
) -> Result<Vec<Batch>, FetchError> {
    let failed = |error: &KafkaError| {
        FetchError::Store(errors::unavailable(
            "a piece of the log can not be read",
            error,
        ))
    };
    let partition = piece.shard.0 as i32;
    assign(consumer, piece.topic, partition, piece.from.offset).map_err(|e| failed(&e))?;
    let mut tail = piece.from;
    let mut batches = Vec::new();
    let mut bytes = 0;
    let mut found = Ok(());
    while tail.offset < piece.until && bytes < piece.bytes_max {
        let left = deadline.saturating_duration_since(Instant::now());
        match consumer.poll(left) {
            None if left.is_zero() => {
                found = Err(FetchError::Store(StoreError::Unavailable {
                    cause: format!(
                        "Kafka did not send a piece of the log within {FETCH_TIMEOUT:?}"
                    ),
                }));
            }
            None => {}
            Some(Err(error)) if is_out_of_range(&error) => found = Err(FetchError::OutOfRange),
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => found = Err(failed(&error)),
            Some(Ok(message)) => {
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                let ours = message.topic() == piece.topic && message.partition() == partition;
                if ours && offset >= tail.offset {
                    let message = Bytes::copy_from_slice(message.payload().unwrap_or_default());
                    bytes += message.len();
                    found = take(&mut tail, piece, offset, message, &mut batches);
                }
            }
        }
        if found.is_err() {
            break;
        }
    }
    // In vain where the client is closing: it is not used again.
    let _ = consumer.unassign();
    found.map(|()| batches)
}

fn take(
    tail: &mut Tail,
    piece: Piece<'_>,
    offset: u64,
    message: Bytes,
    batches: &mut Vec<Batch>,
) -> Result<(), FetchError> {
    let (header, served_ms) = match read_message(piece.shard, &message) {
        Ok(read) => read,
        Err(FrameError::Foreign) => {
            tail.pass(offset);
            return Ok(());
        }
        Err(error) => {
            let error = damage(piece.topic, Some(offset), tail.next, &error);
            return Err(FetchError::Store(error));
        }
    };
    let (Verdict::Acquired(first) | Verdict::Committed(first)) =
        tail.take(offset, &header, served_ms)
    else {
        return Ok(());
    };
    if header.count == 0 {
        return Ok(());
    }
    batches.push(Batch {
        first,
        next: tail.next,
        header,
        served_ms: tail.served_ms,
        message,
    });
    Ok(())
}
