//! Edges and regions are killed and paused at random moments, and edges drained, under publishers
//! with ids and retries and subscribers on both edges: over WebSockets, HTTP streams and QUIC.

use std::time::Duration;

use gb6_core_mesh::identity::MESH_DNS_NAME;
use gb6_core_wire::client::Dialect;
use gb6_tests_cluster::Rounds;
use gb6_tests_harness::client::Target;
use gb6_tests_harness::process::{Mesh, MeshOptions, Metrics, PATIENCE, member};
use rand::RngExt;

use gb6_tests_cluster::load::{Amount, Load};

/// Of a publisher, after each acknowledgement.
const PAUSE: Duration = Duration::from_millis(2);
const AMOUNT: Amount = Amount {
    publishers: 6,
    rooms: 4,
    pause: PAUSE,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_paused_at_random_moments() {
    let rounds = Rounds::new("killed_and_paused_at_random_moments", 20);
    let mesh = Mesh::start(MeshOptions::new("rounds")).await.unwrap();
    let load = Load::start(&mesh, "rounds", rounds.seed, (6, 4), PAUSE).await;
    run(mesh, rounds, load).await;
}

/// Over event streams and HTTP streaming, in both encodings. Every second client says what it has to
/// say to the other edge than the one that its stream is of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_paused_under_http_streams() {
    let rounds = Rounds::new("killed_and_paused_under_http_streams", 8);
    let mesh = Mesh::start(MeshOptions::new("streams")).await.unwrap();
    let edges = ["e1", "e2"].map(|edge| mesh.clients(edge));
    let by = |edge: usize, n: usize, user: &str| {
        let (path, dialect) = [
            ("sse", Dialect::Json),
            ("http_stream", Dialect::Protobuf),
            ("http_stream", Dialect::Json),
        ][n % 3];
        let url = format!("http://{}/connection/{path}", edges[edge]);
        let back = edges[(edge + n) % 2].clone();
        Target {
            back: Some(back),
            ..Target::new(&url, &mesh.token(&member(user)), dialect)
        }
    };
    let load = Load::start_with("streams", rounds.seed, AMOUNT, by).await;
    load.progress(1).await;
    for transport in ["sse", "http_stream"] {
        assert!(sessions(&mesh, transport).await > 0.0, "{transport}");
    }
    let relayed = of_edges(&mesh, "gb6_edge_relay_questions_total", &[]).await;
    assert!(relayed > 0.0, "nothing was said to another edge");
    run(mesh, rounds, load).await;
}

/// Over raw QUIC, in Protobuf.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_paused_under_quic() {
    let rounds = Rounds::new("killed_and_paused_under_quic", 8);
    let mesh = Mesh::start(MeshOptions::quic("quic")).await.unwrap();
    let edges = ["e1", "e2"];
    let by = |edge: usize, _: usize, user: &str| {
        let (name, address) = (edges[edge], mesh.clients(edges[edge]));
        let url = format!("quic://{name}.{MESH_DNS_NAME}@{address}");
        Target {
            ca: Some(mesh.ca()),
            ..Target::new(&url, &mesh.token(&member(user)), Dialect::Protobuf)
        }
    };
    let load = Load::start_with("quic", rounds.seed, AMOUNT, by).await;
    let all = (AMOUNT.publishers + 2) as f64;
    load.progress(1).await;
    assert!(sessions(&mesh, "quic").await >= all);
    run(mesh, rounds, load).await;
}

/// Sessions of this transport at both edges.
async fn sessions(mesh: &Mesh, transport: &str) -> f64 {
    let label = format!("transport=\"{transport}\"");
    of_edges(mesh, "gb6_edge_sessions", &[&label]).await
}

/// The sum of a metric of the edges.
async fn of_edges(mesh: &Mesh, name: &str, labels: &[&str]) -> f64 {
    let mut sum = 0.0;
    for (_, address) in mesh.addresses().filter(|(node, _)| node.starts_with('e')) {
        let metrics = Metrics::read(address).await.unwrap();
        sum += metrics.sum(name, labels).unwrap_or(0.0);
    }
    sum
}

/// Runs the rounds, and checks what everybody saw.
async fn run(mut mesh: Mesh, mut rounds: Rounds, load: Load) {
    for round in 1..=rounds.count {
        load.progress(20).await;
        let moment = Duration::from_millis(rounds.random.random_range(0..500));
        tokio::time::sleep(moment).await;
        // Every second round meets the region, which there is only one of.
        let victim = ["r1", "e1", "r1", "e2"][rounds.random.random_range(0..4)];
        let drains = victim != "r1" && rounds.random.random_bool(0.3);
        if drains {
            println!("round {round}: {victim} drains");
            let process = mesh.node(victim).running();
            process.terminate();
            let ended = process.wait(PATIENCE).await.unwrap();
            assert!(ended.success(), "{victim} ended with {ended}");
            mesh.node(victim).start().unwrap();
            mesh.node(victim).ready(PATIENCE).await.unwrap();
        } else if rounds.random.random_bool(0.5) {
            let away = Duration::from_millis(rounds.random.random_range(0..2_000));
            println!("round {round}: {victim} is killed, and comes back after {away:?}");
            mesh.node(victim).kill().await.unwrap();
            tokio::time::sleep(away).await;
            mesh.node(victim).start().unwrap();
            mesh.node(victim).ready(PATIENCE).await.unwrap();
        } else {
            let stopped = Duration::from_millis(rounds.random.random_range(3_000..12_000));
            println!("round {round}: {victim} is paused for {stopped:?}");
            mesh.node(victim).running().pause();
            tokio::time::sleep(stopped).await;
            mesh.node(victim).running().resume();
        }
    }
    load.progress(20).await;
    let summary = load.finish(&mesh).await;
    // Whether anybody noticed is chance: edges hide a region that is away for a moment.
    assert!(summary.acknowledged >= u64::from(rounds.count) * 6 * 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_edges_at_once_and_then_geo() {
    let mut mesh = Mesh::start(MeshOptions::new("edges")).await.unwrap();
    let load = Load::start(&mesh, "edges", 1, (4, 3), Duration::from_millis(2)).await;
    load.progress(20).await;
    for edge in ["e1", "e2"] {
        mesh.node(edge).kill().await.unwrap();
    }
    for edge in ["e1", "e2"] {
        mesh.node(edge).start().unwrap();
        mesh.node(edge).ready(PATIENCE).await.unwrap();
    }
    load.progress(20).await;
    // Without the control plane nothing changes, and nodes start from what they kept.
    mesh.node("g1").kill().await.unwrap();
    load.progress(20).await;
    for node in ["r1", "e1"] {
        mesh.node(node).kill().await.unwrap();
        mesh.node(node).start().unwrap();
        mesh.node(node).ready(PATIENCE).await.unwrap();
    }
    load.progress(20).await;
    load.finish(&mesh).await;
}
