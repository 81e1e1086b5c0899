//! Questions to all edges, through a relay in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_mesh::{Endpoint, LocalNode, MemoryNetwork, NodeIdentity, Timing};
use gb6_core_model::snapshot::{Node, Region, Snapshot};
use gb6_core_model::{Incarnation, InstanceId, NodeId, Role};
use gb6_core_obs::{Health, Metrics};
use gb6_core_wire::mesh::{AnswerKind, EdgeQuestion, Emulation, Purpose, QuestionKind};
use tokio::sync::watch;

use super::{AskError, relays_of};
use crate::{Edge, EdgeConfig, EdgeDeps, EdgeHandle, no_assets};

#[path = "../../tests/it/relay.rs"]
#[expect(dead_code, reason = "the tests over sockets use the rest")]
mod fake;

fn snapshot() -> Snapshot {
    let node = |role| Node {
        roles: vec![role],
        mesh: None,
        region: None,
    };
    Snapshot {
        revision: 1,
        regions: BTreeMap::from([(
            "r".to_owned(),
            Region {
                shards: 1,
                slots: BTreeMap::new(),
                owners: vec!["r1".into()],
                ..Default::default()
            },
        )]),
        // e9 is placed and does not run; e2 runs and is not placed.
        nodes: BTreeMap::from([
            ("r1".into(), node(Role::Region)),
            ("e1".into(), node(Role::Edge)),
            ("e9".into(), node(Role::Edge)),
        ]),
        ..Snapshot::default()
    }
}

fn bind(network: &MemoryNetwork, name: &str, role: Role) -> Option<Endpoint> {
    let identity = NodeIdentity::new(name, [role]).ok()?;
    let local = LocalNode::new(identity, Incarnation(7));
    network.bind(local, Timing::default()).ok()
}

fn edge(network: &MemoryNetwork, name: &str) -> Option<EdgeHandle> {
    let (_, receiver) = watch::channel(Arc::new(snapshot()));
    let address = "127.0.0.1:0".parse().ok()?;
    let config = EdgeConfig::new(address, InstanceId::from("demo"));
    let deps = EdgeDeps {
        snapshot: receiver,
        endpoint: bind(network, name, Role::Edge)?,
        metrics: Metrics::bare(),
        health: Health::new(),
        assets: no_assets(),
    };
    Edge::start(config, deps).ok()
}

fn question() -> EdgeQuestion {
    EdgeQuestion {
        kind: Some(QuestionKind::Emulation(Emulation::default())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_edges_are_asked_and_who_does_not_answer_is_named() {
    const WITHIN: Duration = Duration::from_millis(300);
    let network = MemoryNetwork::new();
    let region = bind(&network, "r1", Role::Region).expect("an endpoint");
    let relay = fake::Relay::default();
    tokio::spawn({
        let relay = relay.clone();
        async move {
            while let Some(link) = region.accept().await {
                let relay = relay.clone();
                tokio::spawn(async move {
                    while let Ok((open, stream)) = link.accept_stream().await {
                        if let Some(Purpose::Relay(_)) = open.purpose {
                            tokio::spawn(relay.clone().serve(stream));
                        }
                    }
                });
            }
        }
    });
    let one = edge(&network, "e1").expect("an edge");
    let _two = edge(&network, "e2").expect("an edge");
    let shared = one.shared();
    let node = |name: &str| NodeId::from(name);
    let began = std::time::Instant::now();
    while shared.relays.gauges().2 < 2 {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gathered = shared.relays.ask_all(shared, question(), WITHIN).await;
    assert!(gathered.answers.keys().eq([&node("e1"), &node("e2")]));
    assert!(
        gathered
            .answers
            .values()
            .all(|a| matches!(a.kind, Some(AnswerKind::Done(_))))
    );
    let unknown = BTreeMap::from([(node("e9"), AskError::Unknown)]);
    assert_eq!(gathered.failed, unknown);

    // A question of a later version: nobody knows it, and says so at once.
    let later = EdgeQuestion { kind: None };
    let gathered = shared.relays.ask_all(shared, later, WITHIN).await;
    assert!(gathered.answers.is_empty());
    assert_eq!(gathered.failed[&node("e1")], AskError::Unsupported);
    assert_eq!(gathered.failed[&node("e2")], AskError::Unsupported);

    relay.mute(true);
    let begin = tokio::time::Instant::now();
    let gathered = shared.relays.ask_all(shared, question(), WITHIN).await;
    assert!(begin.elapsed() >= WITHIN);
    assert!(gathered.answers.keys().eq([&node("e1")]));
    assert_eq!(gathered.failed[&node("e2")], AskError::Silent);
    assert_eq!(shared.relays.gauges().0, 0, "nothing of it is kept");
}

#[test]
fn relays_are_the_first_two_of_each_region() {
    let mut snapshot = snapshot();
    let owners = ["b", "d", "a", "c", "a"].map(NodeId::from).to_vec();
    let other = Region {
        shards: 5,
        slots: BTreeMap::new(),
        owners,
        ..Region::default()
    };
    snapshot.regions.insert("other".to_owned(), other);
    let relays: Vec<NodeId> = relays_of(&snapshot).into_iter().collect();
    assert_eq!(relays, ["a", "b", "r1"].map(NodeId::from));
}
