//! Customers in a directory on PostgreSQL: `gb6 ctl` changes them, geo serves them, clients feel it. Losing it
//! stops changes and nothing else, and so does its full disk.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_cluster::{Disk, Volume};
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
    tried(directory, args).unwrap_or_else(|said| panic!("{args:?}: {said}"))
}

/// The same; or what it says when it fails.
fn tried(directory: &[(&str, String)], args: &[&str]) -> Result<Json, String> {
    let mut command = std::process::Command::new(gb6_binary().unwrap());
    command.arg("ctl").args(args).arg("--json");
    command.envs(directory.iter().map(|(name, value)| (*name, value)));
    let output = command.output().unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What a statement answers, asked as the superuser.
async fn psql(address: &str, sql: &str) -> String {
    let mut command = tokio::process::Command::new("psql");
    let arguments = [
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        address,
        "-c",
        sql,
    ];
    let output = command.args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap();
    let output = output.expect("psql, which comes with PostgreSQL");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
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
    let disk = match Disk::new(Volume::Tmpfs { mib: 128 }, dir) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    };
    let data = disk.path().join("postgres");
    let started = Engine::start_behind(Kind::Postgres, &data, &[]).await;
    let (engine, front) = started.unwrap();
    // A vacuum of its catalogs may remove a file that the next connection writes again, or is refused.
    psql(engine.address(), "ALTER SYSTEM SET autovacuum = off").await;
    psql(engine.address(), "SELECT pg_reload_conf()").await;
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

    // Full: a change is refused as a whole, and what to do is said. Reading goes on.
    disk.fill(0).unwrap();
    let mut added = 0;
    let refused = loop {
        let name = format!("Customer {added} {}", "of many ".repeat(12).trim_end());
        match tried(&place, &["org", "add", &name]) {
            Ok(_) => added += 1,
            Err(said) => break said,
        }
        assert!(added < 200, "PostgreSQL goes on without space");
    };
    println!("directory full: refused after {added} changes: {refused}");
    assert!(refused.contains("storage full"), "{refused}");
    assert!(refused.contains("free some space"), "{refused}");
    assert!(works(&mesh, &two).await);
    assert_eq!(ctl(&place, &["audit", "verify", org])["entries"], 5);
    disk.make_room().unwrap();
    ctl(&place, &["org", "add", "The next"]);
    let orgs = ctl(&place, &["org", "list"]);
    let orgs = orgs.as_array().map_or(0, Vec::len);
    assert_eq!(orgs, 1 + added + 1, "what was refused is not there");
    up(&mut mesh, 1.0).await;

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

    // A month that is taken away, and the ones that stay.
    let detach = ["audit", "detach", "--before", "2020-02"];
    assert_eq!(ctl(&place, &detach), serde_json::json!([]));
    let january = "CREATE TABLE audit_entries_2020_01 (LIKE audit_entries INCLUDING ALL); \
         ALTER TABLE audit_entries_2020_01 OWNER TO node; \
         ALTER TABLE audit_entries ATTACH PARTITION audit_entries_2020_01 \
         FOR VALUES FROM (1577836800000) TO (1580515200000)";
    psql(engine.address(), january).await;
    let away = serde_json::json!([
        { "database": "main", "table": "audit_entries_2020_01_detached" }
    ]);
    assert_eq!(ctl(&place, &detach), away);
    assert_eq!(ctl(&place, &detach), away, "again");
    psql(
        engine.address(),
        "DROP TABLE audit_entries_2020_01_detached",
    )
    .await;
    assert_eq!(ctl(&place, &detach), serde_json::json!([]));
    assert_eq!(ctl(&place, &["audit", "verify", org]), audit);
}

/// How often the tables of customers were read on this server.
async fn reads(address: &str) -> u64 {
    let sql = "SELECT sum(seq_scan + coalesce(idx_scan, 0))::bigint FROM pg_stat_user_tables \
               WHERE relname IN ('organizations', 'instances', 'keys') OR relname LIKE 'audit_entries_%'";
    psql(address, sql).await.parse().unwrap()
}

/// What may be stale is read from a standby, and is the same; what must be true now, and everything once the standby
/// is silent, is read from the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_read_from_a_standby_that_is_near_enough() {
    let directory = tempfile::Builder::new()
        .prefix("gb6-standby-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let dir = directory.path();
    let started = Engine::start(Kind::Postgres, &dir.join("postgres"), &["--replica"]).await;
    let engine = started.unwrap();
    let [primary, standby] = engine.addresses() else {
        panic!("two servers: {:?}", engine.addresses());
    };
    let key_file = dir.join("directory.key").display().to_string();
    std::fs::write(&key_file, "7".repeat(64)).unwrap();
    let reader = engine.sockets()[1];
    let uri = primary.replace("//gb6@", "//node@");
    let place = [
        ("GB6_DIRECTORY", format!("{uri}?reads={reader}")),
        ("GB6_DIRECTORY_KEY_FILE", key_file),
    ];
    let org = ctl(&place, &["org", "add", "Acme"]);
    let org = text(&org, "id");
    ctl(
        &place,
        &["instance", "add", "acme", "--org", org, "--region", "eu"],
    );
    ctl(&place, &["key", "add", "acme"]);
    let began = Instant::now();
    // Of a table that is not there yet nothing can be asked.
    let there = "SELECT to_regclass('outbox') IS NOT NULL";
    while psql(standby, there).await != "t"
        || psql(standby, "SELECT count(*) FROM outbox").await != "3"
    {
        assert!(began.elapsed() < PATIENCE, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lists = [
        &["org", "list"][..],
        &["instance", "list"],
        &["key", "list", "acme"],
        &["audit", "list", org],
        &["audit", "verify", org],
    ];
    let before = reads(standby).await;
    let now: Vec<Json> = lists.iter().map(|list| ctl(&place, list)).collect();
    assert_eq!(reads(standby).await, before);
    for (list, now) in lists.iter().zip(&now) {
        let stale = [list, &["--stale", "1m"][..]].concat();
        let (before, began) = (reads(standby).await, Instant::now());
        // A standby that is a moment behind when it is looked at is passed over.
        loop {
            assert_eq!(ctl(&place, &stale), *now, "{list:?}");
            if reads(standby).await > before {
                break;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{list:?}: the standby is not asked"
            );
        }
    }
    engine.pause_one("replica").unwrap();
    for (list, now) in lists.iter().zip(&now) {
        let stale = [list, &["--stale", "1m"][..]].concat();
        assert_eq!(ctl(&place, &stale), *now, "{list:?}");
    }
    engine.resume_one("replica").unwrap();
}
