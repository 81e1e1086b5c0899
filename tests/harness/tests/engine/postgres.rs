//! PostgreSQL, with psql.

use gb6_tests_harness::engines::{Engine, Kind};

use super::{Dir, client, kill_and_restart, stop};

async fn psql(address: &str, sql: &str) -> Result<String, String> {
    client(
        &[
            "psql",
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            address,
            "-c",
            sql,
        ],
        "",
    )
    .await
}

#[tokio::test]
async fn what_was_committed_outlives_a_kill() {
    let dir = Dir::new();
    let mut engine = Engine::start(Kind::Postgres, &dir.join("p"), &[])
        .await
        .unwrap();
    let address = engine.address().to_owned();
    assert_eq!(psql(&address, "show fsync").await.unwrap(), "on");
    psql(&address, "create table t as select 7 as n")
        .await
        .unwrap();
    kill_and_restart(&mut engine).await;
    assert_eq!(psql(&address, "select n from t").await.unwrap(), "7");
    stop(engine, Kind::Postgres).await;
}

#[tokio::test]
async fn a_synchronous_replica_has_what_was_committed() {
    let dir = Dir::new();
    let options = ["--replica", "--synchronous"];
    let engine = Engine::start(Kind::Postgres, &dir.join("p"), &options)
        .await
        .unwrap();
    let [primary, replica] = engine.addresses() else {
        panic!("{:?}", engine.addresses());
    };
    psql(
        primary,
        "set synchronous_commit = remote_apply; create table t as select 7 as n",
    )
    .await
    .unwrap();
    assert_eq!(psql(replica, "select n from t").await.unwrap(), "7");
    let refused = psql(replica, "insert into t values (8)").await.unwrap_err();
    assert!(refused.contains("read-only transaction"), "{refused}");
}

#[tokio::test]
async fn a_replica_takes_the_place_of_a_primary_that_is_gone() {
    let dir = Dir::new();
    let options = ["--replica", "--synchronous"];
    let engine = Engine::start(Kind::Postgres, &dir.join("p"), &options)
        .await
        .unwrap();
    let [primary, replica] = engine.addresses() else {
        panic!("{:?}", engine.addresses());
    };
    psql(primary, "create table t as select 7 as n")
        .await
        .unwrap();
    // Two that take writes could not be told apart.
    let refused = engine.promote().await.unwrap_err().to_string();
    assert!(refused.contains("still runs; stop it first"), "{refused}");
    engine.kill_one("primary").await.unwrap();
    engine.promote().await.unwrap();
    // It waits for no standby, for it has none.
    psql(replica, "insert into t values (8)").await.unwrap();
    assert_eq!(psql(replica, "select sum(n) from t").await.unwrap(), "15");
}
