//! History that lies in an archive which does not answer: those who ask for it are told so in time, and
//! nobody else waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Namespace;
use gb6_core_model::{ErrorCode, Position};
use gb6_core_ports::{LogLayer, ShardLog, StoreError};
use gb6_core_wire::record::Record;
use parking_lot::{Condvar, Mutex};

use crate::edge::{Machine, PATIENCE, channel};
use crate::index::{indexed, push_out_of_memory};

/// Reads of the archive that are asked for: more than there are places of either kind.
const ASKED: u64 = 40;
/// Pages of half a MiB: more than a stream queues, has places for, and may be read from the archive at once.
const UNREAD: u64 = 48;

/// Whether the archive is away, and how much of the log lies there.
#[derive(Default)]
struct Archive {
    before: AtomicU64,
    away: Mutex<bool>,
    changed: Condvar,
}

impl Archive {
    fn set_away(&self, away: bool) {
        *self.away.lock() = away;
        self.changed.notify_all();
    }
}

struct Archived {
    below: Arc<dyn ShardLog>,
    archive: Arc<Archive>,
}

impl LogLayer for Archived {
    fn below(&self) -> &dyn ShardLog {
        &*self.below
    }

    fn archived_before(&self) -> Position {
        self.archive.before.load(Ordering::SeqCst)
    }

    fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        if positions
            .iter()
            .any(|p| *p < LogLayer::archived_before(self))
        {
            let mut away = self.archive.away.lock();
            let wait = 3 * PATIENCE;
            (self.archive.changed).wait_while_for(&mut away, |away| *away, wait);
        }
        self.below.read_at(positions)
    }
}

fn machine() -> (Machine, Arc<Archive>) {
    let mut machine = Machine::new(Namespace::default());
    let archive = Arc::new(Archive::default());
    let of = archive.clone();
    machine.wrap = Arc::new(move |below| {
        let archive = of.clone();
        Arc::new(Archived { below, archive })
    });
    (machine, archive)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_does_not_answer_costs_those_who_read_it_an_error_and_others_nothing() {
    let (mut machine, archive) = machine();
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=5 {
        assert_eq!(edge.publish(1, n, format!("\"mine {n}\"")).await, (n, 0));
    }
    let before = machine.storage.open().range().expect("a range").next;
    push_out_of_memory(&mut edge).await;
    indexed(&machine).await;
    archive.before.store(before, Ordering::SeqCst);
    archive.set_away(true);
    let began = Instant::now();
    let asked: Vec<u64> = (0..ASKED).map(|_| edge.ask_history(0, 10)).collect();
    // It lies in the log, behind what is in memory: the first answer is its.
    let page = edge.history_of(channel(2), 0, 1).await;
    assert_eq!((page.error, page.publications.len()), (0, 1));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let mut answered = Vec::new();
    for _ in &asked {
        let page = edge.page().await;
        assert_eq!(page.error, ErrorCode::Internal.code());
        answered.push(page.request);
    }
    answered.sort_unstable();
    assert_eq!(answered, asked);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4), "they wait for it: {took:?}");
    let given_up = machine.metric("gb6_history_archive_reads_given_up_total");
    assert_eq!(given_up, ASKED as f64);
    // It is back, and read from.
    archive.set_away(false);
    let page = edge.history(0, 10).await;
    assert_eq!((page.error, page.publications.len()), (0, 5));
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_does_not_take_its_pages_keeps_no_other_from_the_archive() {
    let (mut machine, archive) = machine();
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let mut other = machine.edge("e2").await;
    push_out_of_memory(&mut edge).await;
    let before = indexed(&machine).await;
    archive.before.store(before, Ordering::SeqCst);
    archive.set_away(true);
    for _ in 0..UNREAD {
        edge.ask_history_of(channel(2), 0, 8);
    }
    // From memory: it is answered once all before it are on their way to the archive.
    let page = edge.history_of(channel(2), 70, 1).await;
    assert_eq!((page.error, page.publications.len()), (0, 1));
    archive.set_away(false);
    let page = other.history_of(channel(2), 0, 1).await;
    assert_eq!((page.error, page.publications.len()), (0, 1));
    // None is lost.
    for _ in 0..UNREAD {
        edge.page().await;
    }
    region.drain().await;
}
