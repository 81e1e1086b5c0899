//! Mesh peers that do not belong: another authority, another role, another version. Each is refused
//! and told of, and the mesh goes on.

use std::time::{Duration, Instant};

use gb6_tests_harness::process::{Mesh, MeshOptions};

use crate::load::{LONG, Load};

/// Runs `gb6 cert` in the mesh's directory.
fn cert(mesh: &Mesh, arguments: &[&str]) {
    let binary = gb6_tests_harness::process::gb6_binary().unwrap();
    let output = std::process::Command::new(binary)
        .arg("cert")
        .args(arguments)
        .current_dir(mesh.directory())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Gives e2 another certificate, starts it again, and waits until `peer` tells of it.
async fn refused(certificate: impl FnOnce(&Mesh), said: &[&str]) {
    let mut mesh = Mesh::start(MeshOptions::new("peers")).await.unwrap();
    let load = Load::start(&mesh, "peers", 1, (2, 1), Duration::from_millis(2)).await;
    load.progress(5).await;
    mesh.node("e2").kill().await.unwrap();
    std::fs::remove_file(mesh.directory().join("e2/snapshot.json")).ok();
    for file in ["certs/e2.pem", "certs/e2.key"] {
        std::fs::remove_file(mesh.directory().join(file)).unwrap();
    }
    certificate(&mesh);
    mesh.node("e2").start().unwrap();
    let logs = ["e2.log", "r1.log", "g1.log"].map(|log| mesh.directory().join(log));
    let start = Instant::now();
    let told = || {
        let text: String = logs
            .iter()
            .map(|log| std::fs::read_to_string(log).unwrap())
            .collect();
        said.iter().any(|words| text.contains(words))
    };
    while !told() {
        assert!(start.elapsed() < LONG, "nobody says any of {said:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        mesh.node("e2").ready(Duration::from_secs(1)).await.is_err(),
        "it got in"
    );
    for log in &logs {
        println!(
            "{}\n{}",
            log.display(),
            std::fs::read_to_string(log).unwrap()
        );
    }
    // The others do not mind.
    load.progress(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority() {
    let certificate = |mesh: &Mesh| {
        cert(mesh, &["ca", "others"]);
        cert(
            mesh,
            &[
                "node", "--ca", "others", "--role", "edge", "--name", "e2", "--out", "certs",
            ],
        );
    };
    refused(certificate, &["certificate", "UnknownIssuer", "unknown"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_role() {
    let certificate = |mesh: &Mesh| {
        cert(
            mesh,
            &["node", "--ca", "certs", "--role", "region", "--name", "e2"],
        );
    };
    refused(certificate, &["role"]).await;
}
