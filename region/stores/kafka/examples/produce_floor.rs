//! How far the log is from Kafka: batches of 1, 16 and 256 records of 300 bytes through the log, beside
//! bare produces of as many bytes with `acks=all` by a producer of the same settings, alternating in one
//! run: first one at a time, then with many under way.
//!
//! `cargo run --release -p gb6-region-stores-kafka --example produce_floor -- URI [ROUNDS]`

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{Acquire, Completion, Fence, ShardLog, StoreError, wait};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_kafka::frame::encode_batch;
use gb6_region_stores_kafka::{Config, KafkaLogs, KafkaShardLog};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};

const REGION: &str = "bench";
/// Batches under way at once when throughput is measured.
const UNDER_WAY: usize = 64;

fn record(position: u64) -> Record {
    Record {
        version: RECORD_VERSION,
        kind: Kind::Message as i32,
        instance: "demo".into(),
        channel: format!("room:{}", position % 64),
        offset: position,
        position,
        body: vec![b'x'; 300].into(),
        ..Record::default()
    }
}

fn fence() -> Fence {
    Fence {
        region: REGION.into(),
        shard: ShardId(0),
        shard_epoch: ShardEpoch(1),
        owner_incarnation: Incarnation(1),
    }
}

fn show(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |part: f64| {
        let index = ((times.len().max(1) - 1) as f64 * part) as usize;
        times.get(index).copied().unwrap_or_default()
    };
    println!(
        "{what:44} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    at(0.5)
}

/// Tells the sender of a message that it arrived.
struct Arrived;

impl ClientContext for Arrived {}

impl ProducerContext for Arrived {
    type DeliveryOpaque = Box<mpsc::SyncSender<bool>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        // The receiver waits for it.
        let _ = sender.send(result.is_ok());
    }
}

/// A bare producer on a topic of its own.
struct Bare {
    producer: ThreadedProducer<Arrived>,
    topic: String,
}

impl Bare {
    fn new(config: &Config, topic: &str) -> Result<Self, StoreError> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", config.brokers.join(","))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("socket.nagle.disable", "true")
            .set("compression.codec", "none");
        let producer = client.create_with_context(Arrived).map_err(failed)?;
        Ok(Self {
            producer,
            topic: topic.to_owned(),
        })
    }

    fn send(&self, bytes: &[u8], sender: mpsc::SyncSender<bool>) -> Result<(), StoreError> {
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, Box::new(sender))
            .partition(0)
            .payload(bytes);
        self.producer
            .send(record)
            .map_err(|(error, _)| failed(error))
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable {
        cause: error.to_string(),
    }
}

fn arrived(receiver: &mpsc::Receiver<bool>) -> Result<(), StoreError> {
    match receiver.recv() {
        Ok(true) => Ok(()),
        _ => Err(failed("a produce or an append failed")),
    }
}

fn one_at_a_time(
    log: &KafkaShardLog,
    bare: &Bare,
    next: &mut u64,
    count: u64,
    rounds: usize,
) -> Result<(), StoreError> {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let batch: Vec<Record> = (*next..*next + count).map(record).collect();
        let bytes = encode_batch(&fence(), *next, &batch);
        // overflow: one answer comes.
        let (sender, receiver) = mpsc::sync_channel(1);
        let began = Instant::now();
        bare.send(&bytes, sender)?;
        arrived(&receiver)?;
        floor.push(began.elapsed());
        let began = Instant::now();
        *next = wait(|done| log.append(&fence(), batch, done))?.next;
        ours.push(began.elapsed());
    }
    let floor = show(&format!("bare produce, {count} x 300 B"), floor);
    let ours = show(&format!("log, append to answer, {count} x 300 B"), ours);
    println!(
        "ratio of p50 {:.2}",
        ours.as_secs_f64() / floor.as_secs_f64()
    );
    Ok(())
}

fn many_under_way(
    log: &KafkaShardLog,
    bare: &Bare,
    next: &mut u64,
    count: u64,
    rounds: usize,
) -> Result<(), StoreError> {
    // Turn by turn, so that what else the machine does meets both.
    let (mut ours, mut floor) = (Duration::ZERO, Duration::ZERO);
    let turns = 10;
    for _ in 0..turns {
        // overflow: every answer has its place.
        let (sender, receiver) = mpsc::sync_channel(rounds);
        let batch: Vec<Record> = (*next..*next + count).map(record).collect();
        let bytes = encode_batch(&fence(), *next, &batch);
        let began = Instant::now();
        for sent in 0..rounds {
            if sent >= UNDER_WAY {
                arrived(&receiver)?;
            }
            bare.send(&bytes, sender.clone())?;
        }
        for _ in 0..rounds.min(UNDER_WAY) {
            arrived(&receiver)?;
        }
        floor += began.elapsed();
        let mut batches: Vec<Vec<Record>> = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            batches.push((*next..*next + count).map(record).collect());
            *next += count;
        }
        let began = Instant::now();
        for (sent, batch) in batches.into_iter().enumerate() {
            if sent >= UNDER_WAY {
                arrived(&receiver)?;
            }
            let sender = sender.clone();
            let done = Completion::new(move |answer: Result<_, StoreError>| {
                // The receiver waits for it.
                let _ = sender.send(answer.is_ok());
            });
            log.append(&fence(), batch, done);
        }
        for _ in 0..rounds.min(UNDER_WAY) {
            arrived(&receiver)?;
        }
        ours += began.elapsed();
    }
    let rate = |time: Duration| (turns * rounds) as f64 * count as f64 / time.as_secs_f64();
    println!(
        "{UNDER_WAY} batches of {count} under way: bare {:.0} records/s, log {:.0} records/s, {:.0} %",
        rate(floor),
        rate(ours),
        100.0 * rate(ours) / rate(floor)
    );
    Ok(())
}

fn main() -> Result<(), StoreError> {
    let mut args = std::env::args().skip(1);
    let uri = args.next().unwrap_or_default();
    let rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let config = Config::parse(&uri).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(failed)?;
    let metrics = Metrics::bare();
    let open = |region: &str| {
        let blobs = Arc::new(MemoryBlobs::default());
        let archives = Archives::new(blobs, region, "bench", ArchiveConfig::default(), &metrics);
        let handle = runtime.handle().clone();
        KafkaLogs::open(&config, region, 1, archives, handle, &metrics)
    };
    // A topic of the same settings for the bare produces.
    let bare_region = format!("{REGION}-bare");
    open(&bare_region)?;
    let bare = Bare::new(&config, &config.log_topic(&bare_region))?;
    let log = open(REGION)?.open_shard(ShardId(0))?;
    let acquired = wait(|done| log.acquire(fence(), Acquire::default(), done))?;
    let mut next = acquired.range.next;
    for count in [1, 16, 256] {
        one_at_a_time(&log, &bare, &mut next, count, rounds)?;
    }
    for count in [1, 16, 256] {
        many_under_way(&log, &bare, &mut next, count, rounds)?;
    }
    Ok(())
}
