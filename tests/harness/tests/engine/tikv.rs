//! PD and the double of TiKV: that PD leads to the store and its regions is what its start waits for.
//! What clients see of it is tested where the client is.

use gb6_tests_harness::engines::{Engine, Kind};

use super::{Dir, kill_and_restart, stop};

#[tokio::test]
async fn the_store_and_its_regions_are_the_same_after_a_kill() {
    let dir = Dir::new();
    let mut engine = Engine::start(Kind::Tikv, &dir.join("t"), &["--split", "6d"])
        .await
        .unwrap();
    assert_eq!(
        engine.pids().into_keys().collect::<Vec<_>>(),
        ["pd", "store"]
    );
    let identity = engine.directory().join("store-data/store.json");
    let before = std::fs::read_to_string(&identity).unwrap();
    assert_eq!(before.matches("\"peer\"").count(), 2);
    kill_and_restart(&mut engine).await;
    assert_eq!(std::fs::read_to_string(&identity).unwrap(), before);
    // PD alone: the store reports to the new one by itself.
    engine.kill_one("pd").await.unwrap();
    engine.restart().await.unwrap();
    stop(engine, Kind::Tikv).await;
}
