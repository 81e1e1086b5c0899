//! PostgreSQL's primary dies under a region, and its standby takes its place: the nodes find it by
//! themselves, and what they agreed on is there.

use std::time::{Duration, Instant};

use gb6_tests_harness::engines::Kind;

use crate::world::{Extras, NODES, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: GB6_MATRIX=all scripts/test-engines.sh crash runs it"]
async fn the_standby_takes_the_place_of_the_primary() {
    let extras = Extras {
        standby: true,
        ..Extras::default()
    };
    let mut world = World::with("promoted", extras).await;
    let load = world.load("promoted", 1).await;
    load.progress(20).await;

    let postgres = &world.part(Kind::Postgres).engine;
    postgres.kill_one("primary").await.unwrap();
    // Nobody agrees on anything now; owners ask the log.
    tokio::time::sleep(Duration::from_secs(4)).await;
    load.progress(20).await;
    let postgres = &world.part(Kind::Postgres).engine;
    postgres.promote().await.unwrap();
    let promoted = Instant::now();

    // A node dies: the others take its shards, which they agree on in the new primary.
    for name in NODES {
        world.until_owner(name).await;
    }
    world.mesh.node("r1").kill().await.unwrap();
    load.progress(20).await;
    println!(
        "promoted: all shards are served without r1 {:?} after the standby was promoted",
        promoted.elapsed()
    );
    // It comes back, reads the record keys there, and is given shards again.
    world.node_back("r1").await;
    world.until_owner("r1").await;
    load.progress(20).await;
    load.finish(&world.mesh).await;
}
