//! Consumers of a log whose archive does not answer: webhooks and events wait for it, and nothing else does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gb6_core_model::Position;
use gb6_core_ports::memory::MemoryEvents;
use gb6_core_ports::{ConsumerState, LogLayer, ShardLog, StoreError};
use gb6_core_wire::mesh::{OwnerFrame, SessionEnd, SessionsReport};
use gb6_core_wire::record::SessionEvent;
use gb6_region_node::Events;
use parking_lot::{Condvar, Mutex};
use tokio::net::TcpListener;

use crate::edge::{Edge, Machine, PATIENCE};
use crate::webhooks::{CONSUMER, here, take, told_to};

/// Where the list of consumers lies, and who asks for it.
#[derive(Default)]
struct Lists {
    away: Mutex<bool>,
    changed: Condvar,
    /// Logs that were opened.
    opened: AtomicU64,
    /// The logs whose calls are under way.
    at_work: Mutex<Vec<u64>>,
    /// Calls that began while one of another log was under way.
    mixed: AtomicUsize,
}

impl Lists {
    fn set_away(&self, away: bool) {
        *self.away.lock() = away;
        self.changed.notify_all();
    }

    fn asked<T>(&self, log: u64, ask: impl FnOnce() -> T) -> T {
        {
            let mut at_work = self.at_work.lock();
            if at_work.iter().any(|other| *other != log) {
                self.mixed.fetch_add(1, Ordering::SeqCst);
            }
            at_work.push(log);
        }
        let mut away = self.away.lock();
        (self.changed).wait_while_for(&mut away, |away| *away, 3 * PATIENCE);
        drop(away);
        let answer = ask();
        let mut at_work = self.at_work.lock();
        let ours = at_work.iter().position(|other| *other == log);
        at_work.remove(ours.expect("it is at work"));
        answer
    }

    fn is_asked(&self) -> bool {
        !self.at_work.lock().is_empty()
    }
}

struct Listed {
    below: Arc<dyn ShardLog>,
    lists: Arc<Lists>,
    number: u64,
}

impl LogLayer for Listed {
    fn below(&self) -> &dyn ShardLog {
        &*self.below
    }

    fn register_consumer(&self, name: &str, at: Position) -> Result<ConsumerState, StoreError> {
        let ask = || self.below.register_consumer(name, at);
        self.lists.asked(self.number, ask)
    }

    fn set_consumers(&self, all: &[(String, Position)]) -> Result<Vec<String>, StoreError> {
        let ask = || self.below.set_consumers(all);
        self.lists.asked(self.number, ask)
    }

    fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        let ask = || self.below.remove_consumer(name);
        self.lists.asked(self.number, ask)
    }

    fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.lists.asked(self.number, || self.below.consumers())
    }
}

/// A machine whose instance has a webhook to `receiver` and whose events are published to `sink`.
fn machine(receiver: &TcpListener, sink: &MemoryEvents) -> (Machine, Arc<Lists>) {
    let mut machine = told_to(receiver);
    machine.config.events = Events::to(Arc::new(sink.clone()));
    let lists = Arc::new(Lists::default());
    let of = lists.clone();
    machine.wrap = Arc::new(move |below| {
        let number = of.opened.fetch_add(1, Ordering::SeqCst);
        let lists = of.clone();
        Arc::new(Listed {
            below,
            lists,
            number,
        })
    });
    (machine, lists)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An edge reports that a session has ended.
fn report(edge: &Edge, number: u64) {
    edge.send(OwnerFrame::Sessions(SessionsReport {
        process: 0xe1,
        ended: vec![SessionEnd {
            number,
            of: here(number, "alice"),
            instance_epoch: 1,
            event: SessionEvent::Disconnect.into(),
            code: 3001,
            ..SessionEnd::default()
        }],
        ..SessionsReport::default()
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_lost_is_served_again_while_its_consumers_can_not_end() {
    let receiver = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let sink = MemoryEvents::default();
    let (mut machine, lists) = machine(&receiver, &sink);
    let region = machine.start().await;
    let known = || {
        let consumers = machine.storage.open().consumers().expect("consumers");
        let names = consumers.into_iter().map(|consumer| consumer.name);
        names.collect::<BTreeSet<_>>()
    };
    let both = BTreeSet::from(["events".to_owned(), CONSUMER.to_owned()]);
    until("both are registered", || known() == both).await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    // How far that is is to be stored.
    until("it is published", || sink.events().len() == 1).await;
    lists.set_away(true);
    machine.faults.ends.store(true, Ordering::SeqCst);
    assert_eq!(edge.try_publish(1, 2, "2".into()).await, None, "it is lost");
    drop(edge);
    let began = Instant::now();
    let mut edge = machine.edge_again("e1").await;
    assert_eq!(edge.publish(1, 2, "2".into()).await, (2, 0));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(lists.is_asked(), "those of before have not ended");
    let ending = "gb6_region_consumers_ending";
    assert_eq!(machine.metric(ending), 1.0);
    report(&edge, 1);
    let quiet = tokio::time::timeout(Duration::from_millis(300), receiver.accept()).await;
    assert!(quiet.is_err(), "told before it is known what was");
    // It answers: they end, and those of now begin behind them.
    lists.set_away(false);
    let told = take(&receiver, "204 No Content").await;
    assert_eq!(told["events"].as_array().map(Vec::len), Some(1));
    assert_eq!(told["events"][0]["id"], "00000000000000e1-1-d");
    until("they have ended", || machine.metric(ending) == 0.0).await;
    until("all is published", || sink.events().len() >= 2).await;
    region.drain().await;
    assert_eq!(lists.mixed.load(Ordering::SeqCst), 0);
    assert!(lists.opened.load(Ordering::SeqCst) > 1);
    // Everything was told: it says so to whoever begins next.
    let stored = machine.storage.open().consumers().expect("consumers");
    let last = sink.events().last().map(|event| event.position);
    assert!(
        stored.iter().all(|consumer| Some(consumer.position) > last),
        "{stored:?} behind {last:?}"
    );
}
