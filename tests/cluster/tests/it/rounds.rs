//! Edges and regions are killed and paused at random moments, under publishers with ids and
//! retries and subscribers on both edges.

use std::time::Duration;

use gb6_tests_cluster::Rounds;
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE};
use rand::RngExt;

use crate::load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_paused_at_random_moments() {
    let mut rounds = Rounds::new("killed_and_paused", 20);
    let mut mesh = Mesh::start(MeshOptions::new("rounds")).await.unwrap();
    let pause = Duration::from_millis(2);
    let load = Load::start(&mesh, "rounds", rounds.seed, (6, 4), pause).await;
    for round in 1..=rounds.count {
        load.progress(20).await;
        let moment = Duration::from_millis(rounds.random.random_range(0..500));
        tokio::time::sleep(moment).await;
        // Every second round meets the region, which there is only one of.
        let victim = ["r1", "e1", "r1", "e2"][rounds.random.random_range(0..4)];
        if rounds.random.random_bool(0.5) {
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
