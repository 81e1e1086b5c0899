//! How far the log is from Kafka: batches of 1, 16 and 256 records of 300 bytes through the log, beside
//! bare produces of as many bytes with `acks=all` by a producer of the same settings to a partition of the
//! same settings, turn by turn in one run: first one at a time, then with many under way, then publishes
//! that a group commit gathers, as a region does, beside as many produces. The log encodes its records,
//! keeps them for readers and archives them; a bare produce sends the same bytes again and again.
//!
//! `cargo run --release -p gb6-region-stores-kafka --example produce_floor -- URI [ROUNDS]`
//!
//! With `URI bare IN_FLIGHT SECONDS` only produces of one record each, to one partition: over several this
//! client is slower, for each has requests of its own. A line of JSON says how many there were, how long
//! they took, and the processor time of each.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
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
use tokio::runtime::Runtime;

const REGION: &str = "bench";
/// Batches under way at once when throughput is measured.
const UNDER_WAY: usize = 64;
/// Publishes under way at once that a group commit gathers.
const PUBLISHES: usize = 256;
/// How often bare produces and the log take turns.
const TURNS: usize = 20;

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

/// The batch that begins at `position`.
fn batch(position: u64, count: u64) -> Vec<Record> {
    (position..position + count).map(record).collect()
}

/// The value at `part` of `times`, which are sorted.
fn at(times: &[Duration], part: f64) -> Duration {
    let index = ((times.len().max(1) - 1) as f64 * part) as usize;
    times.get(index).copied().unwrap_or_default()
}

fn show(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    println!(
        "{what:44} p50 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}",
        at(&times, 0.5),
        at(&times, 0.99),
        at(&times, 1.0)
    );
    at(&times, 0.5)
}

/// Processor time of this process' threads that still run.
fn processor_time() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let nanos = tasks.flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable {
        cause: error.to_string(),
    }
}

/// Who waits for messages or batches: each says when it was given, or that it failed.
type Arrivals = SyncSender<Option<Instant>>;

/// Waits for the next one, and says how long it took.
fn arrived(receiver: &Receiver<Option<Instant>>) -> Result<Duration, StoreError> {
    match receiver.recv() {
        Ok(Some(given)) => Ok(given.elapsed()),
        _ => Err(failed("a produce or an append failed")),
    }
}

/// Tells the sender of a message that it arrived.
struct Arrived;

impl ClientContext for Arrived {}

impl ProducerContext for Arrived {
    type DeliveryOpaque = Box<(Instant, Arrivals)>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let (given, arrivals) = *sender;
        // The receiver waits for it.
        let _ = arrivals.send(result.is_ok().then_some(given));
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

    fn send(&self, bytes: &[u8], arrivals: &Arrivals) -> Result<(), StoreError> {
        let opaque = Box::new((Instant::now(), arrivals.clone()));
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, opaque)
            .partition(0)
            .payload(bytes);
        self.producer
            .send(record)
            .map_err(|(error, _)| failed(error))
    }

    /// Produces `bytes` so many times, `under_way` at once.
    fn turn(&self, bytes: &Bytes, times: usize, under_way: usize) -> Result<(), StoreError> {
        // overflow: every answer has its place.
        let (sender, receiver) = sync_channel(times);
        for sent in 0..times {
            if sent >= under_way {
                arrived(&receiver)?;
            }
            self.send(bytes, &sender)?;
        }
        (0..times.min(under_way)).try_for_each(|_| arrived(&receiver).map(drop))
    }
}

/// The log, and where it goes on.
struct Log {
    shard: KafkaShardLog,
    next: u64,
}

impl Log {
    /// Appends batches of so many records, `under_way` at once.
    fn turn(&self, batches: Vec<Vec<Record>>, under_way: usize) -> Result<(), StoreError> {
        let times = batches.len();
        // overflow: every answer has its place.
        let (sender, receiver) = sync_channel(times);
        for (sent, batch) in batches.into_iter().enumerate() {
            if sent >= under_way {
                arrived(&receiver)?;
            }
            let (given, sender) = (Instant::now(), sender.clone());
            let done = Completion::new(move |answer: Result<_, StoreError>| {
                // The receiver waits for it.
                let _ = sender.send(answer.is_ok().then_some(given));
            });
            self.shard.append(&fence(), batch, done);
        }
        (0..times.min(under_way)).try_for_each(|_| arrived(&receiver).map(drop))
    }
}

/// What bare produces, or the log, took over all turns.
#[derive(Default)]
struct Side {
    turns: Vec<f64>,
    processor: Duration,
}

impl Side {
    fn take(&mut self, turn: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let processor = processor_time();
        let began = Instant::now();
        turn()?;
        self.turns.push(began.elapsed().as_secs_f64());
        self.processor += processor_time().saturating_sub(processor);
        Ok(())
    }

    /// In words: records a second in the middle turn, and processor time of each.
    fn say(&self, records: usize) -> String {
        let micros = self.processor.as_secs_f64() * 1e6 / (records * self.turns.len()) as f64;
        let rate = records as f64 / middle(&self.turns);
        format!("{rate:.0} records/s ({micros:.2} us of processor each)")
    }
}

fn middle(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_unstable_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

/// Lets both take turns, each of `records` records; who begins changes.
fn compare(
    what: &str,
    log: &mut Log,
    records: usize,
    bare: impl Fn() -> Result<(), StoreError>,
    ours: impl Fn(&mut Log, &mut Side) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (mut floor, mut own) = (Side::default(), Side::default());
    for turn in 0..TURNS {
        if turn % 2 == 0 {
            floor.take(&bare)?;
        }
        ours(log, &mut own)?;
        if turn % 2 == 1 {
            floor.take(&bare)?;
        }
    }
    let both = floor.turns.iter().zip(&own.turns);
    let ratios: Vec<f64> = both.map(|(floor, own)| 100.0 * floor / own).collect();
    println!(
        "{what}: bare {}, log {}, {:.0} % in the middle turn",
        floor.say(records),
        own.say(records),
        middle(&ratios)
    );
    Ok(())
}

fn one_at_a_time(log: &mut Log, bare: &Bare, count: u64, rounds: usize) -> Result<(), StoreError> {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let batch = batch(log.next, count);
        let bytes = encode_batch(&fence(), log.next, &batch);
        // overflow: one answer comes.
        let (sender, receiver) = sync_channel(1);
        bare.send(&bytes, &sender)?;
        floor.push(arrived(&receiver)?);
        let began = Instant::now();
        log.next = wait(|done| log.shard.append(&fence(), batch, done))?.next;
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

fn many_under_way(log: &mut Log, bare: &Bare, count: u64, rounds: usize) -> Result<(), StoreError> {
    let bytes = encode_batch(&fence(), log.next, &batch(log.next, count));
    compare(
        &format!("{UNDER_WAY} batches of {count} under way"),
        log,
        rounds * count as usize,
        || bare.turn(&bytes, rounds, UNDER_WAY),
        |log, side| {
            let first = (0..rounds as u64).map(|n| log.next + n * count);
            let batches: Vec<Vec<Record>> = first.map(|first| batch(first, count)).collect();
            log.next += rounds as u64 * count;
            side.take(|| log.turn(batches, UNDER_WAY))
        },
    )
}

/// A produce for each publish, beside a log that is given all that wait together, one batch at a time.
fn gathered_publishes(log: &mut Log, bare: &Bare, rounds: usize) -> Result<(), StoreError> {
    let bytes = encode_batch(&fence(), log.next, &batch(log.next, 1));
    compare(
        &format!("{PUBLISHES} publishes under way, gathered by the log"),
        log,
        rounds * PUBLISHES,
        || bare.turn(&bytes, rounds * PUBLISHES, PUBLISHES),
        |log, side| {
            let count = PUBLISHES as u64;
            let first = (0..rounds as u64).map(|n| log.next + n * count);
            let batches: Vec<Vec<Record>> = first.map(|first| batch(first, count)).collect();
            log.next += rounds as u64 * count;
            side.take(|| log.turn(batches, 1))
        },
    )
}

/// Produces of one record each for so long.
fn bare_alone(bare: &Bare, under_way: usize, time: Duration) -> Result<(), StoreError> {
    let bytes = encode_batch(&fence(), 1, &batch(1, 1));
    // overflow: every answer has its place.
    let (sender, receiver) = sync_channel(under_way);
    let mut times = Vec::new();
    let processor = processor_time();
    let began = Instant::now();
    for sent in 0.. {
        if sent >= under_way {
            times.push(arrived(&receiver)?);
        }
        if began.elapsed() > time {
            break;
        }
        bare.send(&bytes, &sender)?;
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    let processor = processor_time().saturating_sub(processor).as_nanos();
    let each = processor / times.len().max(1) as u128;
    times.sort_unstable();
    let micros = |part| at(&times, part).as_micros();
    println!(
        "{{\"per_s\":{rate:.0},\"p50_us\":{},\"p99_us\":{},\"ns_per_op\":{each}}}",
        micros(0.5),
        micros(0.99)
    );
    Ok(())
}

/// Opens the logs of `region`, which makes its topic.
fn open(config: &Config, region: &str, runtime: &Runtime) -> Result<KafkaLogs, StoreError> {
    let metrics = Metrics::bare();
    let blobs = Arc::new(MemoryBlobs::default());
    let archives = Archives::new(blobs, region, "bench", ArchiveConfig::default(), &metrics);
    let handle = runtime.handle().clone();
    KafkaLogs::open(config, region, 1, archives, handle, &metrics)
}

fn main() -> Result<(), StoreError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|n| n.parse::<usize>().ok());
    let uri = args.first().map_or("", String::as_str);
    let config = Config::parse(uri).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(failed)?;
    // A topic of the same settings for the bare produces.
    let bare_region = format!("{REGION}-bare");
    open(&config, &bare_region, &runtime)?;
    let bare = Bare::new(&config, &config.log_topic(&bare_region))?;
    if args.get(1).is_some_and(|how| how == "bare") {
        let seconds = number(3).unwrap_or(5) as u64;
        return bare_alone(&bare, number(2).unwrap_or(1), Duration::from_secs(seconds));
    }
    let rounds = number(1).unwrap_or(2000);
    let shard = open(&config, REGION, &runtime)?.open_shard(ShardId(0))?;
    let acquired = wait(|done| shard.acquire(fence(), Acquire::default(), done))?;
    let next = acquired.range.next;
    let mut log = Log { shard, next };
    for count in [1, 16, 256] {
        one_at_a_time(&mut log, &bare, count, rounds)?;
    }
    for count in [1, 16, 256] {
        many_under_way(&mut log, &bare, count, rounds / 4)?;
    }
    gathered_publishes(&mut log, &bare, rounds / 64)
}
