//! Power cuts of a real file system: what was acknowledged was synced, and is there afterwards.

use std::time::Duration;

use gb6_tests_cluster::{Disk, Rounds, Volume};
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE, target_dir};
use rand::RngExt;

use gb6_tests_cluster::load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_lose_nothing_acknowledged() {
    let mut rounds = Rounds::new("power_cuts", 4);
    let disk = match Disk::new(Volume::Xfs { mib: 512 }, &target_dir().join("test-data")) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    };
    let mut options = MeshOptions::new("power");
    options.region_data = Some(disk.path().join("r1"));
    let mut mesh = Mesh::start(options).await.unwrap();
    let load = Load::start(
        &mesh,
        "power",
        rounds.seed,
        (6, 4),
        Duration::from_millis(1),
    )
    .await;
    for round in 1..=rounds.count {
        load.progress(20).await;
        let moment = Duration::from_millis(rounds.random.random_range(0..300));
        tokio::time::sleep(moment).await;
        println!("round {round}: the power is cut");
        disk.cut_power().unwrap_or_else(|e| panic!("{e}"));
        // The process sees a disk that fails; on a real machine it would be gone.
        mesh.node("r1").kill().await.unwrap();
        disk.unmount().unwrap_or_else(|e| panic!("{e}"));
        disk.mount().unwrap_or_else(|e| panic!("{e}"));
        mesh.node("r1").start().unwrap();
        mesh.node("r1").ready(PATIENCE).await.unwrap();
    }
    load.progress(20).await;
    load.finish(&mesh).await;
    drop(mesh);
}
