//! Messages that are sealed with a record key which this node does not have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Namespace;
use gb6_core_ports::StoreError;
use gb6_region_node::KeySource;

use crate::edge::{Machine, PATIENCE};

/// Where keys lie: one of id 1, or none any more.
struct Keys {
    there: bool,
    asked: AtomicUsize,
}

impl Keys {
    fn new(there: bool) -> Arc<Self> {
        let asked = AtomicUsize::new(0);
        Arc::new(Self { there, asked })
    }
}

impl KeySource for Keys {
    fn key(&self, instance: &str, key_id: u32) -> Result<Option<[u8; 32]>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let known = self.there && (instance, key_id) == ("demo", 1);
        Ok(known.then_some([7; 32]))
    }
}

/// A machine with three messages that are sealed with key 1, now with key 2 alone.
async fn machine(keys: Arc<Keys>) -> Machine {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for number in 1..=3 {
        assert_eq!(edge.publish(1, number, "old".into()).await, (number, 0));
    }
    drop(edge);
    region.drain().await;
    machine.key_id = 2;
    machine.key_source = Some(keys);
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_whose_key_was_destroyed_is_said_to_be_gone() {
    let keys = Keys::new(false);
    let mut machine = machine(keys.clone()).await;
    let _region = machine.start().await;
    let mut edge = machine.edge("e2").await;
    // It is served, and goes on under the new key.
    assert_eq!(edge.publish(1, 4, "new".into()).await, (4, 0));
    let (began, mut unknown) = (Instant::now(), 0);
    let gone = ErrorCode::UnrecoverablePosition.code();
    loop {
        let page = edge.history(0, 10).await;
        assert!(page.publications.is_empty());
        if page.error == gone {
            break;
        }
        assert_eq!(page.error, ErrorCode::Internal.code());
        unknown += 1;
        assert!(began.elapsed() < PATIENCE, "it is never known");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(unknown > 0, "once does not say it");
    assert_eq!(keys.asked.load(Ordering::SeqCst), 2, "and seldom");
    for since in 0..3 {
        assert_eq!(edge.history(since, 10).await.error, gone);
    }
    let page = edge.history(3, 10).await;
    assert_eq!((page.error, page.publications.len()), (0, 1));
    assert_eq!(page.publications[0].data, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_whose_key_another_node_made_is_read_with_it() {
    let mut machine = machine(Keys::new(true)).await;
    let _region = machine.start().await;
    let mut edge = machine.edge("e2").await;
    let page = edge.history(0, 10).await;
    assert_eq!((page.error, page.publications.len()), (0, 3));
    assert!(page.publications.iter().all(|p| p.data == "old"));
}
