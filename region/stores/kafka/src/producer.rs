//! The producer that all shards of a node share: batches of several shards that are under way at once
//! share requests.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_ports::StoreError;
use parking_lot::{Mutex, RwLock};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, ToBytes};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::client::{Told, log_line, producer};
use crate::config::Config;
use crate::errors;

/// Bytes that the client's queue takes, for the error that says it is full.
const QUEUE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The shortest time between two producers, where one after the other fails for good.
pub(crate) const REMAKE_EVERY: Duration = Duration::from_millis(500);

/// Who is told what became of a message.
pub(crate) trait Receiver: Send + Sync {
    /// It lies at this offset, or did not get there. Called on the client's thread, in the order of the
    /// offsets; must not block. May send.
    fn delivered(self: Arc<Self>, token: u64, result: Result<u64, StoreError>);
}

/// A message that is under way.
pub(crate) struct Delivery {
    pub(crate) receiver: Arc<dyn Receiver>,
    pub(crate) token: u64,
}

/// Takes what the client says.
pub(crate) struct Deliveries {
    told: Told,
    /// The client has failed for good.
    fatal: Arc<AtomicBool>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.note(&error);
        self.told.told(&error, reason);
    }
}

impl Deliveries {
    fn note(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Ordering::Release);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let result = match result {
            Ok(message) => {
                self.told.health.up();
                u64::try_from(message.offset()).map_err(|_| StoreError::OutcomeUnknown {
                    cause: "Kafka took a batch and did not say where it lies".into(),
                })
            }
            Err((error, _)) => {
                self.note(error);
                self.told.metrics.errors.with(&[&errors::kind(error)]).inc();
                Err(errors::of_delivery(error))
            }
        };
        ANSWERING.set(true);
        let Delivery { receiver, token } = *delivery;
        // The last one to hold the producer may be who is answered: it ends elsewhere.
        let delivered = std::panic::AssertUnwindSafe(|| receiver.delivered(token, result));
        if std::panic::catch_unwind(delivered).is_err() {
            // A defect of ours, which the panic itself reported. The client's thread goes on; in place of the
            // client another one is made, so that nothing is sent behind what is half known.
            tracing::error!("what a delivery to Kafka was for panicked: its client is replaced");
            self.fatal.store(true, Ordering::Release);
        }
        ANSWERING.set(false);
    }
}

type Client = ThreadedProducer<Deliveries>;

/// Settings beyond those of a producer of batches.
pub(crate) type Settings = &'static [(&'static str, &'static str)];

thread_local! {
    /// Whether this thread is a client's own, which answers.
    static ANSWERING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is the producer's own: then nothing may be waited for that it has to do.
pub(crate) fn is_answering() -> bool {
    ANSWERING.get()
}

/// Ends a client on a thread of its own: its end waits for its thread, which may be the one that this
/// runs on, and for what it has under way.
fn end(client: Arc<Client>) {
    // overflow: one client is handed over.
    let (hand_over, taken) = sync_channel::<Arc<Client>>(1);
    let ending = std::thread::Builder::new().name("kafka-producer-end".into());
    match ending.spawn(move || drop(taken.recv())) {
        // It waits for it, so it takes it.
        Ok(_) => drop(hand_over.send(client)),
        Err(error) => {
            tracing::error!(%error, "no thread to end a Kafka producer on: it is kept");
            std::mem::forget(client);
        }
    }
}

/// Drops a client. Where another has taken its place this may be the last to hold it: on its own thread, or
/// with a lock that its thread waits for.
fn let_go(client: Arc<Client>) {
    if let Some(last) = Arc::into_inner(client) {
        end(Arc::new(last));
    }
}

/// See the module.
pub(crate) struct LogProducer {
    config: Config,
    extra: Settings,
    told: Told,
    /// There until this is dropped.
    client: RwLock<Option<Arc<Client>>>,
    fatal: RwLock<Arc<AtomicBool>>,
    made: Mutex<Instant>,
}

impl LogProducer {
    pub(crate) fn new(config: &Config, told: &Told, extra: Settings) -> Result<Self, StoreError> {
        let fatal = Arc::new(AtomicBool::new(false));
        Ok(Self {
            client: RwLock::new(Some(Arc::new(make(config, told, extra, &fatal)?))),
            extra,
            fatal: RwLock::new(fatal),
            config: config.clone(),
            told: told.clone(),
            made: Mutex::new(Instant::now()),
        })
    }

    /// Hands a message to the client. Its receiver is told what became of it, unless this fails.
    pub(crate) fn send(
        &self,
        topic: &str,
        partition: i32,
        message: &Bytes,
        delivery: Delivery,
    ) -> Result<(), StoreError> {
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(delivery))
            .partition(partition)
            .payload(&message[..]);
        self.give(record)
    }

    /// As [`LogProducer::send`], for any message.
    pub(crate) fn give<K: ToBytes + ?Sized>(
        &self,
        record: BaseRecord<'_, K, [u8], Box<Delivery>>,
    ) -> Result<(), StoreError> {
        self.renew()?;
        // First the flag: so it is never that of a newer client.
        let fatal = self.fatal.read().clone();
        let client = self.client.read().clone().ok_or(StoreError::Closed)?;
        let sent = client.send(record);
        let_go(client);
        match sent {
            Ok(()) => Ok(()),
            Err((error, _)) => {
                // Not every failure for good is told before.
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                    fatal.store(true, Ordering::Release);
                }
                self.told
                    .metrics
                    .errors
                    .with(&[&errors::kind(&error)])
                    .inc();
                Err(errors::of_send(&error, QUEUE_BYTES_MAX, QUEUE_BYTES_MAX))
            }
        }
    }

    /// Gives up whatever is under way: what was not sent yet never is, and another producer takes the place
    /// of this one.
    pub(crate) fn abandon(&self) {
        self.fatal.read().store(true, Ordering::Release);
    }

    /// An idempotent producer that can not go on without a gap ends for good: another takes its place.
    /// What was under way in the old one is told as unknown.
    fn renew(&self) -> Result<(), StoreError> {
        if !self.fatal.read().load(Ordering::Acquire) {
            return Ok(());
        }
        let mut made = self.made.lock();
        if !self.fatal.read().load(Ordering::Acquire) {
            return Ok(());
        }
        if made.elapsed() < REMAKE_EVERY {
            return Err(StoreError::Unavailable {
                cause: "the Kafka producer failed for good, and another is made in a moment".into(),
            });
        }
        *made = Instant::now();
        let fatal = Arc::new(AtomicBool::new(false));
        let client = Arc::new(make(&self.config, &self.told, self.extra, &fatal)?);
        let old = self.client.write().replace(client);
        let reason = old.as_ref().and_then(|old| old.client().fatal_error());
        tracing::warn!(
            ?reason,
            "the Kafka producer failed for good, or was given up: another takes its place"
        );
        *self.fatal.write() = fatal;
        drop(made);
        if let Some(old) = old {
            end(old);
        }
        Ok(())
    }
}

impl Drop for LogProducer {
    fn drop(&mut self) {
        let client = self.client.write().take();
        match client {
            Some(client) if is_answering() => end(client),
            client => drop(client),
        }
    }
}

fn make(
    config: &Config,
    told: &Told,
    extra: Settings,
    fatal: &Arc<AtomicBool>,
) -> Result<Client, StoreError> {
    let context = Deliveries {
        told: told.clone(),
        fatal: fatal.clone(),
    };
    let cause = match producer(config) {
        Ok(mut settings) => {
            for (name, value) in extra {
                settings.set(*name, *value);
            }
            match settings.create_with_context(context) {
                Ok(client) => return Ok(client),
                Err(error) => errors::text(&error),
            }
        }
        Err(cause) => cause,
    };
    Err(StoreError::Unavailable {
        cause: format!("a Kafka producer can not be made: {cause}"),
    })
}
