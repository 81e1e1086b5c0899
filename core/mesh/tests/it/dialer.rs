//! The dialer: it comes back, it waits longer each time, it follows the address, it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use gb6_core_mesh::{
    Backoff, CloseCode, DialError, Dialer, Endpoint, FailureReason, Link, MemoryNetwork,
};
use gb6_core_model::{NodeId, Role};

use crate::world::{authority, local, localhost, soon, timing, tls};

fn quick() -> Backoff {
    Backoff {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(10),
        settled: Duration::from_secs(5),
    }
}

async fn next_link(dialer: &Dialer) -> Link {
    let mut links = dialer.links();
    soon(links.wait_for(Option::is_some))
        .await
        .unwrap()
        .clone()
        .unwrap()
}

#[tokio::test]
async fn it_dials_until_the_peer_is_there_and_again_when_it_was_lost() {
    let network = MemoryNetwork::new();
    let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
    let dialer = Dialer::start(edge.clone(), "r1".into(), || None, quick(), 1);
    soon(async {
        while edge.stats().dial_failures(FailureReason::Unreachable) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(matches!(
        dialer.failure(),
        Some(DialError::Unreachable { .. })
    ));
    assert!(dialer.link().is_none());
    let region = network
        .bind(local("r1", &[Role::Region]), timing())
        .unwrap();
    let first = next_link(&dialer).await;
    assert_eq!(dialer.failure(), None);
    soon(region.accept())
        .await
        .unwrap()
        .close(CloseCode::Draining, "later");
    soon(first.closed()).await;
    let mut links = dialer.links();
    let second = soon(links.wait_for(|link| {
        link.as_ref()
            .is_some_and(|link| !link.same_link(&first) && link.close_reason().is_none())
    }))
    .await
    .unwrap()
    .clone()
    .unwrap();
    assert_eq!(second.peer().node, NodeId::from("r1"));
    drop(dialer);
    soon(async { while links.changed().await.is_ok() {} }).await;
    // Who holds the link keeps it.
    assert_eq!(second.close_reason(), None);
}

/// The placement moved the node: the next dial goes to the new address.
#[tokio::test]
async fn it_asks_for_the_address_before_each_dial() {
    let authority = authority();
    let region = Endpoint::listen(
        localhost(),
        &tls(&authority, "r1", &[Role::Region]),
        local("r1", &[Role::Region]),
        timing(),
    )
    .unwrap();
    let edge = Endpoint::dial_only(
        localhost(),
        &tls(&authority, "e1", &[Role::Edge]),
        local("e1", &[Role::Edge]),
        timing(),
    )
    .unwrap();
    let port = Arc::new(AtomicU16::new(0));
    let asked = Arc::new(AtomicUsize::new(0));
    let dialer = Dialer::start(
        edge,
        "r1".into(),
        {
            let (port, asked) = (Arc::clone(&port), Arc::clone(&asked));
            move || {
                asked.fetch_add(1, Ordering::Relaxed);
                match port.load(Ordering::Relaxed) {
                    0 => None,
                    port => Some(format!("127.0.0.1:{port}")),
                }
            }
        },
        quick(),
        2,
    );
    soon(async {
        while asked.load(Ordering::Relaxed) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(dialer.failure(), Some(DialError::NoAddress("r1".into())));
    port.store(region.local_addr().unwrap().port(), Ordering::Relaxed);
    assert_eq!(next_link(&dialer).await.peer().node, NodeId::from("r1"));
}

#[tokio::test]
async fn it_ends_with_its_endpoint() {
    let network = MemoryNetwork::new();
    let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
    let dialer = Dialer::start(edge.clone(), "r1".into(), || None, quick(), 1);
    edge.close(CloseCode::Done, "", Duration::from_secs(1))
        .await;
    let mut links = dialer.links();
    soon(async { while links.changed().await.is_ok() {} }).await;
}

/// A region that says how many come back with us is not dialled by all of them at once.
#[tokio::test]
async fn its_first_dial_after_a_loss_is_spread_as_the_peer_wished() {
    let mut dialers = tokio::task::JoinSet::new();
    for seed in 0..40 {
        dialers.spawn(async move {
            let network = MemoryNetwork::new();
            let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
            let mut node = local("r1", &[Role::Region]);
            node.retry_ms = 400;
            let region = network.bind(node, timing()).unwrap();
            let dialer = Dialer::start(edge.clone(), "r1".into(), || None, quick(), seed);
            let first = next_link(&dialer).await;
            assert_eq!(first.peer().retry_ms, 400);
            let accepted = soon(region.accept()).await.unwrap();
            accepted.close(CloseCode::Draining, "later");
            soon(first.closed()).await;
            let lost = tokio::time::Instant::now();
            let mut links = dialer.links();
            let another = |link: &Option<Link>| link.as_ref().is_some_and(|l| !l.same_link(&first));
            soon(links.wait_for(another)).await.unwrap();
            lost.elapsed()
        });
    }
    let waits = dialers.join_all().await;
    let late = Duration::from_millis(100);
    let early = waits.iter().filter(|wait| **wait < late).count();
    // Without the wish all would be back within a few ms.
    assert!((1..30).contains(&early), "{waits:?}");
}

/// No peer can make this node stay away for long.
#[tokio::test]
async fn a_wish_that_is_too_long_is_cut() {
    let network = MemoryNetwork::new();
    let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
    let mut node = local("r1", &[Role::Region]);
    node.retry_ms = u32::MAX;
    let _region = network.bind(node, timing()).unwrap();
    let dialer = Dialer::start(edge.clone(), "r1".into(), || None, quick(), 1);
    assert_eq!(next_link(&dialer).await.peer().retry_ms, 2_000);
}
