//! Redis, with redis-cli.

use gb6_tests_harness::engines::{Engine, Kind};

use super::{Dir, client, kill_and_restart, stop};

async fn cli(arguments: &[&str]) -> Result<String, String> {
    let mut all = vec!["redis-cli", "-e"];
    all.extend(arguments);
    client(&all, "").await
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').unwrap().1
}

#[tokio::test]
async fn it_comes_back_empty() {
    let dir = Dir::new();
    let mut engine = Engine::start(Kind::Redis, &dir.join("r"), &[])
        .await
        .unwrap();
    let port = port(engine.address()).to_owned();
    assert_eq!(cli(&["-p", &port, "set", "k", "v"]).await.unwrap(), "OK");
    assert_eq!(cli(&["-p", &port, "get", "k"]).await.unwrap(), "v");
    kill_and_restart(&mut engine).await;
    // It is a cache, and is tested as one.
    assert_eq!(cli(&["-p", &port, "get", "k"]).await.unwrap(), "");
    stop(engine, Kind::Redis).await;
}

#[tokio::test]
async fn a_cluster_spreads_its_keys() {
    let dir = Dir::new();
    let engine = Engine::start(Kind::Redis, &dir.join("r"), &["--cluster", "3"])
        .await
        .unwrap();
    let address = engine
        .address()
        .trim_start_matches("redis+cluster://")
        .to_owned();
    assert_eq!(address.split(',').count(), 3);
    let first = port(address.split(',').next().unwrap());
    for key in ["a", "b", "c", "d", "e", "f"] {
        let set = cli(&["-c", "-p", first, "set", key, key]).await.unwrap();
        assert_eq!(set, "OK", "{key}");
    }
    let mut sizes = Vec::new();
    for node in address.split(',') {
        sizes.push(cli(&["-p", port(node), "dbsize"]).await.unwrap());
    }
    let sizes: Vec<u32> = sizes.iter().map(|s| s.parse().unwrap()).collect();
    assert_eq!(sizes.iter().sum::<u32>(), 6);
    assert!(sizes.iter().all(|n| *n < 6), "{sizes:?}");
}

#[tokio::test]
async fn tls_has_a_port_of_its_own() {
    let dir = Dir::new();
    let engine = Engine::start(Kind::Redis, &dir.join("r"), &["--tls"])
        .await
        .unwrap();
    let [plain, tls] = engine.addresses() else {
        panic!("{:?}", engine.addresses());
    };
    let ca = engine.directory().join("tls/ca.pem").display().to_string();
    let over_tls = ["--tls", "--cacert", &ca, "-p", port(tls), "ping"];
    assert_eq!(cli(&over_tls).await.unwrap(), "PONG");
    assert_eq!(cli(&["-p", port(plain), "ping"]).await.unwrap(), "PONG");
    cli(&["-p", port(tls), "ping"]).await.unwrap_err();
}
