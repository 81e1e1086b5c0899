//! PD and the double of TiKV: that PD leads to the store and its regions is what its start waits for.
//! What clients see of it is tested where the client is.

use gb6_tests_harness::engines::{Engine, Kind};

use gb6_tests_harness::process::http_get;

use super::{Dir, PATIENCE, kill_and_restart, stop};

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

#[tokio::test]
async fn clients_are_told_the_front() {
    let dir = Dir::new();
    let (engine, front) = Engine::start_behind(Kind::Tikv, &dir.join("t"), &[])
        .await
        .unwrap();
    let [pd, store, _] = &front.addresses()[..] else {
        panic!("{:?}", front.addresses());
    };
    assert_eq!(engine.address(), pd);
    let own = engine.sockets()[0];
    let members = http_get(own, "/pd/api/v1/members", PATIENCE).await.unwrap();
    assert!(members.body.contains(pd.as_str()), "{}", members.body);
    let stores = http_get(own, "/pd/api/v1/stores", PATIENCE).await.unwrap();
    assert!(stores.body.contains(store.as_str()), "{}", stores.body);
}
