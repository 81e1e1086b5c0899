//! The engines of signals and of limits are lost and come back: freshness and sharpness suffer, and
//! nothing else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gb6_core_model::snapshot::Namespace;
use gb6_core_ports::memory::MemoryRateLimiter;
use gb6_core_ports::{RateLimiter, Share, SignalSink, Signals, StoreError, Want};
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, Publication, RoomRef};
use gb6_region_stores_embedded::LocalSignals;

use crate::edge::{Machine, room};
use crate::limits::{Asking, wanted};
use crate::signals::{next_publication, signal, signals};

/// Engines between nodes that can be lost: as the ports say, this node has its own signals then.
#[derive(Default)]
struct Losable {
    lost: AtomicBool,
    signals: LocalSignals,
    limiter: MemoryRateLimiter,
}

impl Losable {
    fn there(&self) -> Result<(), StoreError> {
        match self.lost.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable {
                cause: "lost".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

impl Signals for Losable {
    fn follow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        self.signals.follow(room, sink)
    }

    fn unfollow(&self, room: &RoomRef, sink: &Arc<dyn SignalSink>) -> Result<(), StoreError> {
        self.signals.unfollow(room, sink)
    }

    fn send(&self, room: &RoomRef, publication: Publication) -> Result<(), StoreError> {
        self.signals.send(room, publication)?;
        self.there()
    }
}

impl RateLimiter for Losable {
    fn lease(&self, holder: &str, wants: &[Want], now_ms: u64) -> Result<Vec<Share>, StoreError> {
        self.there()?;
        self.limiter.lease(holder, wants, now_ms)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_engine_of_limits_edges_get_no_answer_and_publishes_go_on() {
    let mut machine = Machine::new(Namespace::default());
    let engine = Arc::new(Losable::default());
    machine.limiter = engine.clone();
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let mut asking = Asking::of(&edge).await;
    assert_eq!(asking.parts("demo", "alice", 9).await, 1_000_000);
    engine.lost.store(true, Ordering::Relaxed);
    for number in 1..=3 {
        asking.ask(vec![wanted("demo", "alice", 9)]);
        let (offset, error) = edge.publish(1, number, number.to_string()).await;
        assert_eq!((offset, error), (number, 0));
    }
    while machine.metric("gb6_region_limit_questions_unanswered_total") < 3.0 {
        tokio::task::yield_now().await;
    }
    engine.lost.store(false, Ordering::Relaxed);
    // The stream is the same, and the next question is answered, not one of those before.
    assert_eq!(asking.parts("demo", "bob", 9).await, 1_000_000);
    assert_eq!(
        machine.metric("gb6_region_limit_questions_unanswered_total"),
        3.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_engine_of_signals_edges_of_this_node_get_them_all() {
    let mut machine = Machine::new(signals());
    let engine = Arc::new(Losable::default());
    machine.signals = engine.clone();
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    edge.send(OwnerFrame::Interest(room()));
    assert!(matches!(edge.next().await, Some(EdgeFrame::Interested(_))));
    for n in 1..=30 {
        engine.lost.store((11..=20).contains(&n), Ordering::Relaxed);
        signal(&edge, n, n.to_string());
        assert_eq!(next_publication(&mut edge).await.data, n.to_string());
    }
    // Those of which others knew nothing are counted.
    assert_eq!(machine.metric("gb6_signals_dropped_total"), 10.0);
}
