//! Nodes and edges are killed, paused and drained at random moments, on the distributed engines.

use std::time::Duration;

use gb6_tests_cluster::Rounds;
use gb6_tests_harness::process::PATIENCE;
use rand::RngExt;

use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_edges_at_random_moments() {
    let mut rounds = Rounds::on_engines("nodes_and_edges_at_random_moments", 6);
    let mut world = World::start("engine-rounds").await;
    let load = world.load("engine-rounds", rounds.seed).await;
    for round in 1..=rounds.count {
        load.progress(20).await;
        let moment = Duration::from_millis(rounds.random.random_range(0..500));
        tokio::time::sleep(moment).await;
        let victim = ["r1", "r2", "r3", "e1", "e2"][rounds.random.random_range(0..5)];
        match rounds.random.random_range(0..3) {
            0 => {
                println!("round {round}: {victim} drains");
                let process = world.mesh.node(victim).running();
                process.terminate();
                let ended = process.wait(PATIENCE).await.unwrap();
                assert!(ended.success(), "{victim} ended with {ended}");
                world.node_back(victim).await;
            }
            1 => {
                let away = Duration::from_millis(rounds.random.random_range(0..4_000));
                println!("round {round}: {victim} is killed, and comes back after {away:?}");
                world.mesh.node(victim).kill().await.unwrap();
                tokio::time::sleep(away).await;
                world.node_back(victim).await;
            }
            _ => {
                let stopped = Duration::from_millis(rounds.random.random_range(2_000..8_000));
                println!("round {round}: {victim} is paused for {stopped:?}");
                world.mesh.node(victim).running().pause();
                tokio::time::sleep(stopped).await;
                world.mesh.node(victim).running().resume();
            }
        }
    }
    load.progress(20).await;
    let summary = load.finish(&world.mesh).await;
    assert!(summary.acknowledged >= u64::from(rounds.count) * 6 * 20);
}
