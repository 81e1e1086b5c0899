//! Tests of changes whose connection hangs.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use gb6_core_obs::{Health, Metrics};
use gb6_core_ports::memory::MemoryMap;
use gb6_core_ports::{Expect, MapLayer, MapStore};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::lease::NodeLease;
use crate::news::{News, NewsBox};
use crate::panics::Panics;
use crate::store::Store;

const KEY: &str = "regions/eu/nodes/r1";
const PATIENCE: Duration = Duration::from_secs(20);

/// When a call's connection hangs.
#[derive(Clone, Copy)]
enum Hangs {
    /// Before the store has heard of it.
    Before,
    /// Before the store's answer is heard.
    After,
}

/// A store some of whose calls hang, until they are let go.
#[derive(Default)]
struct Hanging {
    map: MemoryMap,
    /// What becomes of the next puts.
    next: Mutex<VecDeque<Hangs>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    free: bool,
    /// Puts that have begun, and ended.
    begun: u32,
    ended: u32,
}

impl Hanging {
    fn hang(&self) {
        let mut state = self.state.lock();
        while !state.free {
            self.changed.wait(&mut state);
        }
    }

    fn free(&self) {
        self.state.lock().free = true;
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        while !holds(&state) {
            let timed_out = self.changed.wait_for(&mut state, PATIENCE).timed_out();
            assert!(!timed_out, "{what}");
        }
    }

    fn count(&self, counts: impl FnOnce(&mut State)) {
        counts(&mut self.state.lock());
        self.changed.notify_all();
    }
}

impl MapLayer for Hanging {
    fn below(&self) -> &dyn MapStore {
        &self.map
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        self.count(|state| state.begun += 1);
        let hangs = self.next.lock().pop_front();
        if let Some(Hangs::Before) = hangs {
            self.hang();
        }
        let put = self.map.put(key, value, expect);
        if let Some(Hangs::After) = hangs {
            self.hang();
        }
        self.count(|state| state.ended += 1);
        put
    }
}

/// A store, and what it is told of.
struct Node {
    map: Arc<Hanging>,
    news: Arc<NewsBox>,
    metrics: Metrics,
    store: Store,
    stop: Arc<AtomicBool>,
}

impl Node {
    fn new(lease: Duration) -> Self {
        let (map, news) = <(Arc<Hanging>, Arc<NewsBox>)>::default();
        let (metrics, health) = (Metrics::bare(), Health::new());
        let stop = Arc::<AtomicBool>::default();
        let store = Store::start(
            map.clone(),
            "regions/eu/".into(),
            (news.clone(), Arc::new(NodeLease::new(lease))),
            stop.clone(),
            (&metrics, &Panics::new(&metrics, &health)),
        );
        Self {
            map,
            news,
            metrics,
            store: store.expect("threads"),
            stop,
        }
    }

    fn says(&self, value: &[u8], expected: Expected) {
        let change = Change {
            key: KEY.to_owned(),
            value: Some(value.to_vec()),
            expected,
        };
        assert!(self.store.change(true, change), "one at a time");
    }

    /// The next that is heard of changes.
    fn hears(&self) -> News {
        let late = Instant::now() + PATIENCE;
        loop {
            let news = self.news.take(Duration::from_millis(10));
            let mut news = news
                .into_iter()
                .filter(|news| !matches!(news, News::Looked { .. }));
            if let Some(first) = news.next() {
                assert!(news.next().is_none(), "one at a time");
                return first;
            }
            assert!(Instant::now() < late, "nothing is heard");
        }
    }

    fn made(&self, value: &[u8], expected: Expected, revision: u64) {
        self.says(value, expected);
        let written = Written::Done(revision);
        let heard = self.hears();
        let is_so = matches!(&heard, News::Written { outcome, .. } if *outcome == written);
        assert!(is_so, "{heard:?}");
    }

    fn made_again(&self) -> u64 {
        let name = "gb6_assignment_beats_again_total ";
        let text = self.metrics.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.expect("a metric").parse().expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.map.free();
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn what_hangs_is_made_beside_it_and_changes_nothing_when_it_comes_late() {
    let node = Node::new(Duration::from_millis(300));
    node.made(b"1", Expected::Absent, 1);
    node.map.next.lock().push_back(Hangs::Before);
    node.made(b"2", Expected::Revision(1), 2);
    assert_eq!(node.made_again(), 1);
    // The next ones do not wait for it, and another one may hang beside it.
    node.made(b"3", Expected::Revision(2), 3);
    node.map.next.lock().push_back(Hangs::Before);
    node.made(b"4", Expected::Revision(3), 4);
    assert_eq!(node.made_again(), 2);
    node.map.free();
    node.map.wait("all have ended", |state| state.ended == 6);
    node.made(b"5", Expected::Revision(4), 5);
    let there = node.map.map.get(KEY).expect("it is reached");
    assert_eq!(there.and_then(|entry| entry.value), Some(b"5".to_vec()));
}

#[test]
fn what_was_made_and_not_answered_is_found() {
    let node = Node::new(Duration::from_millis(300));
    node.made(b"1", Expected::Absent, 1);
    node.map.next.lock().push_back(Hangs::After);
    node.says(b"2", Expected::Revision(1));
    let mut heard = Vec::new();
    let late = Instant::now() + PATIENCE;
    while heard.len() < 2 {
        assert!(Instant::now() < late, "{heard:?}");
        let news = node.news.take(Duration::from_millis(10));
        let changes = |news: &News| !matches!(news, News::Looked { .. });
        heard.extend(news.into_iter().filter(changes));
    }
    assert!(
        matches!(
            &heard[..],
            [
                News::Written { outcome: Written::NotAsExpected, .. },
                News::Read { record: Some((value, 2)), .. },
            ] if value == b"2"
        ),
        "{heard:?}"
    );
    node.made(b"3", Expected::Revision(2), 3);
}

#[test]
fn a_record_that_is_not_there_yet_is_written_once_at_a_time() {
    let node = Node::new(Duration::from_millis(30));
    node.map.next.lock().push_back(Hangs::Before);
    node.says(b"1", Expected::Absent);
    node.map.wait("it has begun", |state| state.begun == 1);
    // Many times what a second attempt waits for.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!((node.map.state.lock().begun, node.made_again()), (1, 0));
    node.map.free();
    let heard = node.hears();
    let done = Written::Done(1);
    assert!(
        matches!(&heard, News::Written { outcome, .. } if *outcome == done),
        "{heard:?}"
    );
}
