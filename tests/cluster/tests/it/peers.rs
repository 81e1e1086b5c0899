//! Mesh peers that do not belong: another authority, another role, another version. Each is refused
//! and told of, and the mesh goes on.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_mesh::{
    DialError, Endpoint, LocalNode, MeshTls, NodeIdentity, Timing, install_crypto,
};
use gb6_core_model::{Incarnation, NodeId, Role};
use gb6_core_wire::mesh::VERSION;
use gb6_tests_harness::process::{Mesh, MeshOptions, Metrics, PATIENCE};

use gb6_tests_cluster::load::{LONG, Load};

/// Runs `gb6 cert` in the mesh's directory.
fn cert(mesh: &Mesh, arguments: &[&str]) {
    let binary = gb6_tests_harness::process::gb6_binary().unwrap();
    let output = std::process::Command::new(binary)
        .arg("cert")
        .args(arguments)
        .current_dir(mesh.directory())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
}

/// Takes e2's certificate away, so that it can be given another one.
async fn without_certificate(mesh: &mut Mesh) {
    mesh.node("e2").kill().await.unwrap();
    for file in ["certs/e2.pem", "certs/e2.key"] {
        std::fs::remove_file(mesh.directory().join(file)).unwrap();
    }
}

/// Waits until a node has counted a refusal for this reason.
async fn counted(address: SocketAddr, reason: &str) {
    let label = format!("reason=\"{reason}\"");
    let start = Instant::now();
    loop {
        let metrics = Metrics::read(address).await.unwrap();
        let count = metrics.sum("gb6_mesh_accept_failures_total", &[&label]);
        if count.is_some_and(|n| n > 0.0) {
            return;
        }
        assert!(start.elapsed() < LONG, "no refusal for {reason} is counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_of_another_authority_stays_outside() {
    let mut mesh = Mesh::start(MeshOptions::new("peers")).await.unwrap();
    let load = Load::start(&mesh, "peers", 1, (2, 1), Duration::from_millis(2)).await;
    without_certificate(&mut mesh).await;
    cert(&mesh, &["ca", "others"]);
    cert(
        &mesh,
        &[
            "node", "--ca", "others", "--role", "edge", "--name", "e2", "--out", "certs",
        ],
    );
    // What it kept of the placement would let it serve old instances; it must not even reach them.
    std::fs::remove_dir_all(mesh.directory().join("e2")).unwrap();
    let geo = mesh.node("g1").http();
    mesh.node("e2").start().unwrap();
    counted(geo, "certificate").await;
    let ready = mesh.node("e2").ready(Duration::from_secs(1)).await;
    assert!(ready.is_err(), "it got in");
    let log = std::fs::read_to_string(mesh.directory().join("e2.log")).unwrap();
    assert!(
        log.contains("do not accept each other's certificates"),
        "{log}"
    );
    load.progress(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_with_the_certificate_of_a_region_does_not_start() {
    let mut mesh = Mesh::start(MeshOptions::new("peers")).await.unwrap();
    without_certificate(&mut mesh).await;
    cert(
        &mesh,
        &["node", "--ca", "certs", "--role", "region", "--name", "e2"],
    );
    mesh.node("e2").start().unwrap();
    let status = mesh.node("e2").running().wait(PATIENCE).await.unwrap();
    assert!(!status.success(), "{status}");
    let log = std::fs::read_to_string(mesh.directory().join("e2.log")).unwrap();
    assert!(log.contains("does not carry the role edge"), "{log}");
}

/// An endpoint with a certificate from the mesh's directory, that speaks `version`.
fn endpoint(certs: &Path, name: &str, role: Role, version: u32) -> Endpoint {
    install_crypto();
    let file = |end: &str| certs.join(format!("{name}.{end}"));
    let tls = MeshTls::load(&certs.join("ca.pem"), &file("pem"), &file("key")).unwrap();
    let identity = NodeIdentity::new(name, [role]).unwrap();
    let mut local = LocalNode::new(identity, Incarnation(7));
    local.version_min = version;
    local.version_max = version;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Endpoint::dial_only(any, &tls, local, Timing::default()).unwrap()
}

/// Where the region listens for the mesh.
fn mesh_address(mesh: &Mesh) -> String {
    let text = std::fs::read_to_string(mesh.directory().join("r1.toml")).unwrap();
    let config: toml::Table = toml::from_str(&text).unwrap();
    config["mesh"]["listen"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_is_refused_by_name() {
    let mut mesh = Mesh::start(MeshOptions::new("peers")).await.unwrap();
    let load = Load::start(&mesh, "versions", 1, (2, 1), Duration::from_millis(2)).await;
    let region = NodeId::from("r1");
    let address = mesh_address(&mesh);
    cert(
        &mesh,
        &["node", "--ca", "certs", "--role", "edge", "--name", "e9"],
    );
    let certs = mesh.directory().join("certs");
    let newer = endpoint(&certs, "e9", Role::Edge, VERSION + 1);
    let error = newer.dial(&region, Some(&address)).await.unwrap_err();
    assert_eq!(error.reason().as_str(), "version", "{error}");
    let http = mesh.node("r1").http();
    counted(http, "version").await;
    // The same node in this version is let in, so that it was the version.
    let same = endpoint(&certs, "e9", Role::Edge, VERSION);
    same.dial(&region, Some(&address)).await.unwrap();
    load.progress(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_the_mesh_listener_disturbs_nobody() {
    let mut mesh = Mesh::start(MeshOptions::new("peers")).await.unwrap();
    let load = Load::start(&mesh, "garbage", 1, (2, 1), Duration::from_millis(2)).await;
    let address = mesh_address(&mesh);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..5_000u32 {
        let datagram: Bytes = n.to_le_bytes().repeat(1 + n as usize % 300).into();
        // A full buffer of the kernel drops one, which is as good.
        let _ = socket.send_to(&datagram, &address);
    }
    load.progress(20).await;
    assert!(mesh.node("r1").running().is_running());
    // Another name than the certificate of who answers.
    let certs = mesh.directory().join("certs");
    let edge = endpoint(&certs, "e1", Role::Edge, VERSION);
    let error = edge
        .dial(&NodeId::from("r2"), Some(&address))
        .await
        .unwrap_err();
    assert!(!matches!(error, DialError::Timeout { .. }), "{error}");
}
