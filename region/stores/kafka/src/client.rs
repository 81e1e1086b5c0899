//! How this program's Kafka clients are set up, and where what they say goes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::StoreError;
use rdkafka::Statistics;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::Config;
use crate::errors;
use crate::frame::FRAME_BYTES_MAX;
use crate::hearing::{Hearing, SAID_EVERY};
use crate::metrics::KafkaMetrics;

/// The group that consumers name. None of them joins it: partitions are assigned, offsets not stored.
pub(crate) const GROUP: &str = "gb6-log";
/// Bytes of a message beyond its value, with room: keys and headers of Kafka.
pub(crate) const MESSAGE_EXTRA_BYTES: usize = 64 * 1024;
/// How long a broker holds an empty fetch: also how long a newly assigned partition may wait for the
/// one before to end.
const FETCH_WAIT_MS: u32 = 100;

/// The shortest time that an answer may take on its way: the largest fetch comes in it.
const SOCKET_MIN: Duration = Duration::from_secs(2);

/// KiB that a consumer fetches ahead: one more message fits. The partitions of a lane share one; each is kept
/// up with, or behind by no more than what was not archived.
const QUEUE_KIB: u32 = 2048;

/// A consumer of this program.
pub(crate) type LogConsumer = BaseConsumer<Told>;

/// Between two attempts to reach a broker again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether brokers can be reached, as far as the clients of a node know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Reach>);

#[derive(Debug, Default)]
struct Reach {
    down: AtomicBool,
    /// A thread looks whether one can be reached again.
    looked_for: AtomicBool,
}

impl Health {
    /// All brokers are gone, and nobody has reached one since.
    pub(crate) fn is_down(&self) -> bool {
        self.0.down.load(Ordering::Acquire)
    }

    pub(crate) fn down(&self) {
        if !self.0.down.swap(true, Ordering::AcqRel) {
            tracing::error!("no Kafka broker can be reached; publishing waits until one can");
        }
    }

    pub(crate) fn up(&self) {
        if self.is_down() && self.0.down.swap(false, Ordering::AcqRel) {
            tracing::info!("a Kafka broker can be reached again");
        }
    }

    /// While no broker can be reached, has one thread of the node ask again and again; does not wait for
    /// it. `ask` may block, and says whether one answered; `None` ends it, and whoever calls this next
    /// begins anew.
    pub(crate) fn look(&self, ask: impl Fn() -> Option<bool> + Send + 'static) {
        if !self.is_down() || self.0.looked_for.swap(true, Ordering::AcqRel) {
            return;
        }
        let health = self.clone();
        let looks = move || {
            while health.is_down() {
                match catch_unwind(AssertUnwindSafe(&ask)) {
                    Ok(Some(true)) => health.up(),
                    Ok(Some(false)) => std::thread::sleep(LOOK_AGAIN),
                    Ok(None) => break,
                    Err(_) => {
                        tracing::error!(
                            "what looks for Kafka panicked, which is a defect: it is tried again"
                        );
                        std::thread::sleep(LOOK_AGAIN);
                    }
                }
            }
            health.0.looked_for.store(false, Ordering::Release);
        };
        let thread = std::thread::Builder::new().name("kafka-look".into());
        if let Err(error) = thread.spawn(looks) {
            // The next call tries again.
            tracing::warn!(%error, "there is no thread to look for Kafka");
            self.0.looked_for.store(false, Ordering::Release);
        }
    }

    /// What an append is answered meanwhile.
    pub(crate) fn error() -> StoreError {
        StoreError::Unavailable {
            cause: "no Kafka broker can be reached".into(),
        }
    }
}

/// Where a client's errors and log lines go.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) health: Health,
    pub(crate) metrics: KafkaMetrics,
    /// Of the consumer whose this is.
    pub(crate) hearing: Arc<Hearing>,
}

impl Told {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            health: Health::default(),
            metrics: KafkaMetrics::new(metrics),
            hearing: Arc::default(),
        }
    }

    /// For a consumer of its own, which says whom it hears.
    pub(crate) fn of_another(&self) -> Self {
        Self {
            hearing: Arc::default(),
            ..self.clone()
        }
    }

    pub(crate) fn told(&self, error: &KafkaError, reason: &str) {
        self.metrics.errors.with(&[&errors::kind(error)]).inc();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.health.down();
        }
        tracing::debug!(%error, reason, "the Kafka client reports an error");
    }
}

impl ClientContext for Told {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.hearing.take(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.told(&error, reason);
    }
}

impl ConsumerContext for Told {}

/// A line of librdkafka's own log. Its warnings are about single connections, which come back by
/// themselves: what matters of them is told as an error by who meets it.
pub(crate) fn log_line(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", fac, message);
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::info!(target: "librdkafka", fac, message);
        }
        _ => tracing::debug!(target: "librdkafka", fac, message),
    }
}

/// What all clients have in common.
///
/// # Errors
/// In words: a password file can not be read.
pub(crate) fn base(config: &Config) -> Result<ClientConfig, String> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", "gb6")
        .set("security.protocol", config.security.protocol())
        .set("socket.nagle.disable", "true")
        .set("socket.keepalive.enable", "true")
        .set("socket.connection.setup.timeout.ms", "3000")
        // A broker that falls silent closes nothing. Until a question to it is over, the client believes in the
        // connection, and asks nobody else who leads now.
        .set(
            "socket.timeout.ms",
            config.timeout.max(SOCKET_MIN).as_millis().to_string(),
        )
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("retry.backoff.ms", "50")
        .set("retry.backoff.max.ms", "500")
        .set("message.max.bytes", largest_message().to_string());
    if let Some(login) = &config.login {
        client
            .set("sasl.mechanism", login.mechanism)
            .set("sasl.username", &login.user)
            .set("sasl.password", login.password.read()?.reveal());
    }
    for (name, file) in [
        ("ssl.ca.location", &config.ca_file),
        ("ssl.certificate.location", &config.cert_file),
        ("ssl.key.location", &config.key_file),
    ] {
        if let Some(file) = file {
            client.set(name, file.to_string_lossy());
        }
    }
    Ok(client)
}

/// Most bytes of a message, as clients and topics count them.
pub(crate) fn largest_message() -> usize {
    FRAME_BYTES_MAX + MESSAGE_EXTRA_BYTES
}

/// A producer of batches: each is one message, acknowledged by every copy that is in sync, in order.
pub(crate) fn producer(config: &Config) -> Result<ClientConfig, String> {
    let mut client = base(config)?;
    let timeout = config.timeout.as_millis().to_string();
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("max.in.flight", "5")
        .set("linger.ms", "0")
        // Records compress themselves, each under its own key.
        .set("compression.codec", "none")
        .set("message.timeout.ms", &timeout)
        .set("request.timeout.ms", &timeout)
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "262144");
    Ok(client)
}

/// A consumer that is assigned partitions and offsets by hand.
pub(crate) fn consumer(config: &Config) -> Result<ClientConfig, String> {
    let mut client = base(config)?;
    let largest = largest_message().to_string();
    client
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("isolation.level", "read_uncommitted")
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", FETCH_WAIT_MS.to_string())
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.message.max.bytes", &largest)
        .set("fetch.max.bytes", &largest)
        .set("queued.max.messages.kbytes", QUEUE_KIB.to_string());
    Ok(client)
}

/// Makes a consumer.
///
/// # Errors
/// `Unavailable`: the settings can not be used, in words.
pub(crate) fn make_consumer(config: &Config, told: &Told) -> Result<LogConsumer, StoreError> {
    make(consumer(config), told)
}

/// Makes a consumer that says whom it hears.
///
/// # Errors
/// As [`make_consumer`].
pub(crate) fn make_follower(config: &Config, told: &Told) -> Result<LogConsumer, StoreError> {
    let said_every = SAID_EVERY.as_millis().to_string();
    let settings = consumer(config).map(|mut settings| {
        settings.set("statistics.interval.ms", said_every);
        settings
    });
    make(settings, told)
}

fn make(settings: Result<ClientConfig, String>, told: &Told) -> Result<LogConsumer, StoreError> {
    let cause = match settings {
        Ok(settings) => match settings.create_with_context(told.clone()) {
            Ok(consumer) => return Ok(consumer),
            Err(error) => errors::text(&error),
        },
        Err(cause) => cause,
    };
    Err(StoreError::Unavailable {
        cause: format!("a Kafka consumer can not be made: {cause}"),
    })
}

/// How long a question to the brokers may take.
pub(crate) const ASK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{self, RecvTimeoutError};

    #[test]
    fn one_thread_looks_for_brokers_and_nobody_waits_for_it() {
        let long = Duration::from_secs(60);
        let health = Health::default();
        let (asked, asks) = mpsc::channel();
        let (answer, answers) = mpsc::channel::<Option<bool>>();
        let answers = Arc::new(parking_lot::Mutex::new(answers));
        let look = || {
            let (asked, answers) = (asked.clone(), answers.clone());
            health.look(move || {
                asked.send(()).expect("the test listens");
                answers.lock().recv().expect("the test answers")
            });
        };
        look();
        let nobody = asks.recv_timeout(Duration::from_millis(20));
        assert_eq!(nobody, Err(RecvTimeoutError::Timeout), "it is not down");
        health.down();
        // It is answered nothing yet: whoever has it look goes on, and no second thread begins.
        look();
        look();
        asks.recv_timeout(long).expect("a thread asks");
        let second = asks.recv_timeout(Duration::from_millis(20));
        assert_eq!(second, Err(RecvTimeoutError::Timeout));
        answer.send(Some(false)).expect("it listens");
        asks.recv_timeout(long).expect("it asks again");
        assert!(health.is_down());
        answer.send(Some(true)).expect("it listens");
        let until = |is: &dyn Fn() -> bool| {
            let deadline = std::time::Instant::now() + long;
            while !is() {
                assert!(std::time::Instant::now() < deadline);
                std::thread::yield_now();
            }
        };
        until(&|| !health.is_down());
        // Whoever asked may end; another begins.
        until(&|| !health.0.looked_for.load(Ordering::Acquire));
        health.down();
        look();
        asks.recv_timeout(long).expect("it asks anew");
        answer.send(None).expect("it listens");
        until(&|| !health.0.looked_for.load(Ordering::Acquire));
        assert!(health.is_down());
        look();
        asks.recv_timeout(long).expect("another asks");
        answer.send(Some(true)).expect("it listens");
        until(&|| !health.is_down());
    }
}
