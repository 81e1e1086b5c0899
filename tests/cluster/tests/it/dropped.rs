//! Networks that drop bytes without closing anything, at random moments: between clients and edges,
//! and between edges and the region. What clients saw goes through the same checker as everywhere.

use std::net::SocketAddr;
use std::time::Duration;

use gb6_tests_cluster::Rounds;
use gb6_tests_harness::process::{Mesh, MeshOptions, Metrics};
use gb6_tests_harness::proxy::{FaultProxy, Mode, UdpMode, UdpProxy};
use rand::RngExt;
use rand::rngs::StdRng;
use toml::{Table, Value};

use gb6_tests_cluster::load::{Amount, LONG, Load};

const AMOUNT: Amount = Amount {
    publishers: 6,
    rooms: 4,
    pause: Duration::from_millis(2),
};

/// Pings often: who is left in the dark notices by their absence.
fn ping_often(name: &str, config: &mut Table) {
    if name.starts_with('e') {
        let mut clients = Table::new();
        clients.insert("ping".into(), Value::String("1s".into()));
        clients.insert("pong".into(), Value::String("1s".into()));
        config.insert("clients".into(), Value::Table(clients));
    }
}

fn random_ms(random: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_between_clients_and_edges_are_dropped_at_random_moments() {
    let mut rounds = Rounds::new("clients_and_edges_are_dropped", 6);
    let options = MeshOptions {
        node: Box::new(ping_often),
        ..MeshOptions::new("dropped")
    };
    let mut mesh = Mesh::start(options).await.unwrap();
    let mut proxies = Vec::new();
    for edge in ["e1", "e2"] {
        let proxy = FaultProxy::start(mesh.node(edge).http()).await.unwrap();
        proxies.push(proxy);
    }
    let ws = |proxy: &FaultProxy| format!("ws://{}/connection/websocket", proxy.address());
    let urls = [ws(&proxies[0]), ws(&proxies[1])];
    let load = Load::start_by(&mesh, "dropped", rounds.seed, AMOUNT, urls).await;
    for round in 1..=rounds.count {
        load.progress(10).await;
        tokio::time::sleep(random_ms(&mut rounds.random, 0, 300)).await;
        // Both in turn, so that each is met; now and then both at once.
        let both = rounds.random.random_bool(0.25);
        let met = |n: usize| both || n == round as usize % 2;
        let mode = match rounds.random.random_range(0..4) {
            0 => Mode::Delay(Duration::from_millis(150)),
            _ => Mode::BlackHole,
        };
        let away = random_ms(&mut rounds.random, 200, 2_500);
        println!("round {round}: {mode:?} for {away:?}, both: {both}");
        for (n, proxy) in proxies.iter().enumerate() {
            if met(n) {
                proxy.set(mode);
            }
        }
        tokio::time::sleep(away).await;
        for proxy in &proxies {
            proxy.set(Mode::Pass);
        }
    }
    // Once more for both, whatever chance has chosen so far: in the middle of what is under way.
    for proxy in &proxies {
        proxy.set(Mode::BlackHole);
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Mode::Pass);
    }
    load.progress(10).await;
    let summary = load.finish(&mesh).await;
    for proxy in &proxies {
        assert!(proxy.stats().swallowed > 0, "nothing was dropped");
    }
    assert!(summary.lost > 0, "nobody noticed that bytes were dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_between_edges_and_region_are_dropped_at_random_moments() {
    let mut rounds = Rounds::new("edges_and_region_are_dropped", 6);
    let proxy = UdpProxy::start(rounds.seed).await.unwrap();
    let (between, set_target) = (proxy.address(), proxy.target_setter());
    let options = MeshOptions {
        // The region listens where it would; the snapshot tells edges to go through the proxy.
        snapshot: Box::new(move |snapshot| {
            let mesh = &mut snapshot["nodes"]["r1"]["mesh"];
            let real: SocketAddr = mesh.as_str().unwrap().parse().unwrap();
            set_target(real);
            *mesh = Value::String(between.to_string());
        }),
        ..MeshOptions::new("packets")
    };
    let mesh = Mesh::start(options).await.unwrap();
    let urls = [mesh.ws("e1"), mesh.ws("e2")];
    let load = Load::start_by(&mesh, "packets", rounds.seed, AMOUNT, urls).await;
    let detached = async || {
        let mut sum = 0.0;
        for (_, address) in mesh.addresses().filter(|(name, _)| name.starts_with('e')) {
            let metrics = Metrics::read(address).await.unwrap();
            sum += metrics.sum("gb6_edge_detached_total", &[]).unwrap_or(0.0);
        }
        sum
    };
    for round in 1..=rounds.count {
        load.progress(10).await;
        tokio::time::sleep(random_ms(&mut rounds.random, 0, 300)).await;
        let mode = match rounds.random.random_range(0..2) {
            0 => UdpMode::BlackHole,
            _ => UdpMode::Rough {
                loss: 0.1,
                double: 0.1,
                delay: Duration::from_millis(20),
            },
        };
        let away = random_ms(&mut rounds.random, 500, 5_000);
        println!("round {round}: {mode:?} for {away:?}");
        proxy.set(mode);
        tokio::time::sleep(away).await;
        proxy.set(UdpMode::Pass);
    }
    load.progress(10).await;
    // Once longer than any link endures, so that every edge attaches again.
    let before = detached().await;
    proxy.set(UdpMode::BlackHole);
    let start = std::time::Instant::now();
    while detached().await < before + 2.0 {
        assert!(
            start.elapsed() < LONG,
            "no edge notices that its link is dead"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    proxy.set(UdpMode::Pass);
    load.progress(10).await;
    load.finish(&mesh).await;
    assert!(proxy.stats().swallowed > 0);
}
