//! Customers in a directory on PostgreSQL: `gb6 ctl` changes them, geo serves them, clients feel it. Losing it
//! stops changes and nothing else.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{Session, Target};
use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::process::{
    Claims, Mesh, MeshOptions, Metrics, PATIENCE, gb6_binary, hs256, member,
};
use serde_json::Value as Json;
use toml::{Table, Value};

/// Within this a change is to be felt by clients, on a machine that has other things to do.
const CHANGE: Duration = Duration::from_secs(10);

/// What `gb6 ctl` prints as JSON.
fn ctl(directory: &[(&str, String)], args: &[&str]) -> Json {
    let mut command = std::process::Command::new(gb6_binary().unwrap());
    command.arg("ctl").args(args).arg("--json");
    command.envs(directory.iter().map(|(name, value)| (*name, value)));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Json, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

fn target(mesh: &Mesh, key: &Json) -> Target {
    let claims: Claims = member("alice");
    let token = hs256(text(key, "secret").as_bytes(), text(key, "key"), &claims);
    Target::new(&mesh.ws("e1"), &token, Dialect::Json)
}

/// Whether a client is let in with a token of this key, and can publish.
async fn works(mesh: &Mesh, key: &Json) -> bool {
    match Session::connect(&target(mesh, key)).await {
        Ok((session, _pushes)) => session.room_publish("room:one", None, "{}").await.is_ok(),
        Err(_) => false,
    }
}

async fn until(what: &str, mesh: &Mesh, key: &Json, wanted: bool) {
    let began = Instant::now();
    while works(mesh, key).await != wanted {
        assert!(began.elapsed() < CHANGE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn up(mesh: &mut Mesh, wanted: f64) {
    let geo = mesh.node("g1").metrics();
    let began = Instant::now();
    loop {
        let metrics = Metrics::read(geo).await.unwrap();
        if metrics.sum("gb6_geo_directory_up", &[]) == Some(wanted) {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "gb6_geo_directory_up is not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_serves_customers_of_a_directory_and_outlives_its_loss() {
    // PostgreSQL runs as a user of its own, who has to come through.
    let directory = tempfile::Builder::new()
        .prefix("gb6-directory-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let dir = directory.path();
    let data = dir.join("postgres");
    let started = Engine::start_behind(Kind::Postgres, &data, &[]).await;
    let (engine, front) = started.unwrap();
    let key_file = dir.join("directory.key").display().to_string();
    std::fs::write(&key_file, "7".repeat(64)).unwrap();
    // Not the superuser, whom row-level security does not bind.
    let uri = engine.address().replace("//gb6@", "//node@");
    let place = [
        ("GB6_DIRECTORY", uri.clone()),
        ("GB6_DIRECTORY_KEY_FILE", key_file.clone()),
    ];
    let org = ctl(&place, &["org", "add", "Acme"]);
    let settings = dir.join("acme.toml");
    std::fs::write(&settings, "[namespaces.room]\npresence = true\n").unwrap();
    let settings = settings.display().to_string();
    let org = text(&org, "id");
    ctl(
        &place,
        &[
            "instance",
            "add",
            "acme",
            "--org",
            org,
            "--region",
            "eu",
            "--settings",
            &settings,
        ],
    );
    let (one, two) = (
        ctl(&place, &["key", "add", "acme"]),
        ctl(&place, &["key", "add", "acme"]),
    );
    let mut mesh = Mesh::start(MeshOptions {
        edges: 1,
        node: Box::new(move |name, config| {
            if name == "g1" {
                let mut stores = Table::new();
                stores.insert("directory".into(), Value::String(uri.clone()));
                stores.insert("directory_key_file".into(), Value::String(key_file.clone()));
                config.insert("stores".into(), Value::Table(stores));
            }
        }),
        ..MeshOptions::new("directory")
    })
    .await
    .unwrap();
    until("a client of the directory", &mesh, &one, true).await;
    ctl(&place, &["key", "revoke", "acme", text(&one, "key")]);
    until("the end of a revoked key", &mesh, &one, false).await;
    assert!(works(&mesh, &two).await);

    // Lost: who is there goes on, who comes is let in, and geo starts by what it kept.
    let (session, _pushes) = Session::connect(&target(&mesh, &two)).await.unwrap();
    front.cut();
    up(&mut mesh, 0.0).await;
    session.room_publish("room:one", None, "{}").await.unwrap();
    assert!(works(&mesh, &two).await);
    let geo = mesh.node("g1");
    geo.kill().await.unwrap();
    geo.start().unwrap();
    geo.ready(PATIENCE).await.unwrap();
    up(&mut mesh, 0.0).await;
    session.room_publish("room:one", None, "{}").await.unwrap();
    assert!(works(&mesh, &two).await);

    // Back: changes are taken over.
    front.heal();
    up(&mut mesh, 1.0).await;
    ctl(&place, &["key", "revoke", "acme", text(&two, "key")]);
    until("the end of the other key", &mesh, &two, false).await;
    let audit = ctl(&place, &["audit", "verify", org]);
    assert_eq!(audit["entries"], 6);
}
