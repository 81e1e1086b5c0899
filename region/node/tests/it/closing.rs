//! Logs whose engines have threads that use the node's runtime, also while they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use gb6_core_model::snapshot::Namespace;
use tokio::runtime::Handle;

use crate::cut::CutLog;
use crate::edge::{Machine, PATIENCE};

/// What the closing of logs has come to.
#[derive(Default)]
struct Closed {
    well: AtomicUsize,
    hung: AtomicUsize,
}

impl Closed {
    /// As an engine does that ends its tasks: waits for one.
    fn close(&self, runtime: &Handle) {
        // overflow: it is sent once.
        let (done, ended) = sync_channel(1);
        // Received below, or it took too long.
        runtime.spawn(async move { done.send(()).unwrap_or_default() });
        let count = match ended.recv_timeout(Duration::from_secs(2)) {
            Ok(()) => &self.well,
            Err(_) => &self.hung,
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_that_ends_with_the_help_of_the_runtime_is_closed_beside_it() {
    let mut machine = Machine::new(Namespace::default());
    let (closed, runtime) = (Arc::<Closed>::default(), Handle::current());
    let closes = closed.clone();
    machine.wrap = Arc::new(move |log| {
        let (closed, runtime) = (closes.clone(), runtime.clone());
        Arc::new(CutLog::closing(log, move || closed.close(&runtime)))
    });
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    drop(edge);
    let drained = tokio::time::timeout(PATIENCE, region.drain()).await;
    assert!(drained.is_ok(), "it drains");
    let hung = closed.hung.load(Ordering::SeqCst);
    let well = closed.well.load(Ordering::SeqCst);
    assert_eq!((well, hung), (1, 0), "closed when the region has drained");
}
