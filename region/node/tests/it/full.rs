//! Logs without space: of shards that the placement gives to a node, and of ones that nodes assign among
//! themselves.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gb6_core_model::NodeId;
use gb6_core_model::snapshot::Namespace;
use gb6_core_ports::memory::{MemoryLogConfig, MemoryMap, MemoryStorage};
use gb6_core_ports::{MapStore, ShardLog};
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame};
use gb6_region_assign::node_key;
use gb6_region_node::Region;
use gb6_region_shard::{Admin, AdminOutcome};

use crate::clock::TestClock;
use crate::edge::{Edge, Machine, PATIENCE, room, shard};

/// A machine whose only node decides itself that it owns the shard.
fn assigned(exclusive: bool) -> Machine {
    let mut machine = Machine::new(Namespace::default());
    machine.map = Some(MemoryMap::default());
    machine.storage = MemoryStorage::new(MemoryLogConfig {
        exclusive,
        ..MemoryLogConfig::default()
    });
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_reads_go_on_and_writing_resumes() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    machine.storage.set_capacity(0);
    assert_eq!(edge.publish(1, 2, "2".into()).await, (0, 1001));
    assert_eq!(edge.history(0, 10).await.publications.len(), 1);
    machine.storage.set_capacity(u64::MAX);
    assert_eq!(edge.publish(1, 3, "3".into()).await, (2, 0));
    region.drain().await;
}

/// A shard of five messages whose node starts on a full disk: it is read and not written.
async fn starts_full(machine: &mut Machine) -> (Region, Edge) {
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    for n in 1..=5 {
        assert_eq!(edge.publish(1, n, n.to_string()).await, (n, 0));
    }
    drop(edge);
    region.drain().await;
    machine.storage.set_capacity(0);
    let log = machine.storage.open();
    let held = log.range().expect("a range").next;

    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    edge.send(OwnerFrame::Interest(room()));
    let interested = edge.next().await;
    assert!(matches!(interested, Some(EdgeFrame::Interested(i)) if i.top == 5));
    let page = edge.history(0, 300).await;
    let got: Vec<u64> = page.publications.iter().map(|p| p.offset).collect();
    assert_eq!((page.error, got), (0, vec![1, 2, 3, 4, 5]));
    assert_eq!(page.publications[2].data, "3");
    let again = edge.publish(1, 5, "5".into()).await;
    assert_eq!(again, (5, 0), "what is in the log is answered from it");
    for n in 6..=8 {
        assert_eq!(edge.publish(1, n, n.to_string()).await, (0, 1001));
    }
    let erase = Admin::Erase {
        room: room(),
        offset: 3,
    };
    let outcome = region.admin(&shard(), erase).await.expect("an answer");
    assert!(matches!(outcome, AdminOutcome::Refused(_)), "{outcome:?}");
    let next = log.range().expect("a range").next;
    assert_eq!(next, held, "nothing was written");
    (region, edge)
}

/// There is space again: the shard is written.
async fn has_space_again(machine: &mut Machine, mut edge: Edge) {
    machine.storage.set_capacity(u64::MAX);
    // The stream ends when the shard is acquired, as after a restart.
    while edge.next().await.is_some() {}
    drop(edge);
    let mut edge = machine.edge_again("e1").await;
    assert_eq!(edge.publish(1, 9, "9".into()).await, (6, 0));
    let page = edge.history(0, 300).await;
    assert_eq!(page.publications.len(), 6);
    assert_eq!(page.publications[2].data, "3", "it was not erased");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placed_shard_on_a_full_disk_is_read_and_then_written() {
    let mut machine = Machine::new(Namespace::default());
    let (region, edge) = starts_full(&mut machine).await;
    has_space_again(&mut machine, edge).await;
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assigned_shard_on_a_full_disk_is_read_and_then_written() {
    let mut machine = assigned(true);
    let clock = TestClock::new();
    machine.config.clock = clock.of_nodes();
    let map = machine.map.clone().expect("agreed records");
    let beat = move || {
        let entry = map.get(&node_key("eu", &NodeId::from("r1")));
        [entry.expect("the map is there").map_or(0, |e| e.revision)]
    };
    let (region, mut edge) = starts_full(&mut machine).await;
    // Longer than a node whose log does not answer keeps its shards.
    let until = clock.now() + Duration::from_secs(4);
    while clock.now() < until {
        tokio::task::block_in_place(|| clock.step(&beat));
        let page = edge.history(0, 300).await;
        assert_eq!((page.error, page.publications.len()), (0, 5));
    }
    let cut_off = machine.metric("gb6_region_nodes_cut_off");
    assert_eq!(cut_off, 0.0, "a log that is full answers");
    has_space_again(&mut machine, edge).await;
    region.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_could_own_is_not_shown_before_it_is_acquired() {
    let mut machine = assigned(false);
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    drop(edge);
    region.drain().await;
    machine.storage.set_capacity(0);
    let (storage, faults) = (machine.storage.clone(), machine.faults.clone());
    let asked = faults.acquires.load(Ordering::SeqCst);
    let freed = tokio::spawn(async move {
        // It was refused, and asks again.
        while faults.acquires.load(Ordering::SeqCst) < asked + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        storage.set_capacity(u64::MAX);
    });
    let began = Instant::now();
    // It is ready, and serves, once there is space.
    let region = machine.start().await;
    assert!(freed.is_finished(), "it serves after {:?}", began.elapsed());
    let mut edge = machine.edge("e1").await;
    assert_eq!(edge.publish(1, 2, "2".into()).await, (2, 0));
    assert!(began.elapsed() < PATIENCE);
    region.drain().await;
}
