//! Who owns a shard and goes on appending, as a region's driver does, whatever Kafka answers; and what
//! must be true of it in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_ports::contract::log::{acquire, everything, fence, message};
use gb6_core_ports::{Commit, ShardLog, StoreError, wait};
use gb6_region_stores_kafka::{KafkaLogs, KafkaShardLog};
use parking_lot::Mutex;

/// What one append came to.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The record's `data_version`.
    id: u64,
    answer: Result<Commit, StoreError>,
    took: Duration,
}

/// A running writer.
pub(crate) struct Writer {
    log: Arc<KafkaShardLog>,
    told: Arc<Mutex<Vec<Told>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Acquires the shard and begins to append, one batch at a time.
    pub(crate) fn start(logs: &KafkaLogs) -> Self {
        let log = Arc::new(logs.open_shard(ShardId(3)).expect("opened"));
        let (told, stop) = (Arc::<Mutex<Vec<Told>>>::default(), Arc::default());
        let run = {
            let (log, told, stop) = (log.clone(), told.clone(), Arc::clone(&stop));
            move || write(&log, &told, &stop)
        };
        Self {
            log,
            told,
            stop,
            thread: Some(std::thread::spawn(run)),
        }
    }

    /// Appends that were acknowledged.
    pub(crate) fn committed(&self) -> usize {
        let told = self.told.lock();
        told.iter().filter(|told| told.answer.is_ok()).count()
    }

    /// Appends that were not.
    pub(crate) fn failed(&self) -> Vec<StoreError> {
        let told = self.told.lock();
        told.iter().filter_map(|t| t.answer.clone().err()).collect()
    }

    /// Waits until so many more are acknowledged, and answers how long that took.
    pub(crate) fn more(&self, count: usize, patience: Duration) -> Duration {
        let (began, wanted) = (Instant::now(), self.committed() + count);
        while self.committed() < wanted {
            let failed = self.failed().len();
            assert!(
                began.elapsed() < patience,
                "{} of {wanted} are acknowledged, {failed} failed",
                self.committed()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }

    /// Ends it, and looks whether the log is as it was told: for it, and for who opens the log anew.
    /// Answers how many appends failed.
    pub(crate) fn end(mut self, logs: &KafkaLogs, longest: Duration) -> usize {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer's thread");
        }
        let told = self.told.lock().clone();
        let fresh = logs.open_shard(ShardId(3)).expect("opened");
        for all in [everything(&*self.log), everything(&fresh)] {
            for (record, position) in all.iter().zip(0..) {
                assert_eq!(record.position, position, "positions follow");
            }
            for Told { id, answer, took } in &told {
                let at: Vec<u64> = (all.iter().filter(|r| r.data_version == *id))
                    .map(|record| record.position)
                    .collect();
                match answer {
                    Ok(commit) => assert_eq!(at, [commit.first], "{id} was acknowledged"),
                    Err(error) if error.retryable() => {
                        assert!(at.is_empty(), "{id} was refused: {error}");
                    }
                    Err(_) => assert!(at.len() <= 1, "{id} is doubled"),
                }
                assert!(
                    *took < 3 * longest,
                    "{id} was answered after {took:?}: {answer:?}"
                );
            }
        }
        // A machine that stands still for a moment makes one of them late; who waits too long does so each time.
        let late: Vec<_> = told.iter().filter(|told| told.took >= longest).collect();
        assert!(late.len() <= 1, "answered late: {late:?}");
        told.iter().filter(|told| told.answer.is_err()).count()
    }
}

fn write(log: &KafkaShardLog, told: &Mutex<Vec<Told>>, stop: &AtomicBool) {
    let (mut epoch, mut next) = (0, None);
    let mut id = 0;
    while !stop.load(Ordering::Acquire) {
        let Some(first) = next else {
            epoch += 1;
            match acquire(log, &fence(epoch)) {
                Ok(acquired) => next = Some(acquired.range.next),
                Err(StoreError::Fenced { current, .. }) => epoch = current.0,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            continue;
        };
        id += 1;
        let mut record = message(first, "room:a", first, 200);
        record.data_version = id;
        let began = Instant::now();
        let answer = wait(|done| log.append(&fence(epoch), vec![record], done));
        match &answer {
            Ok(commit) => next = Some(commit.next),
            // The same ownership goes on.
            Err(error) if error.retryable() => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => next = None,
        }
        let took = began.elapsed();
        told.lock().push(Told { id, answer, took });
    }
}
