//! `gb6 region --check`: what it says of engines that are as they should be, and of ones that are not.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use gb6_tests_harness::engines::{Engine, Kind};
use gb6_tests_harness::process::{Mesh, MeshOptions, gb6_binary, workspace};
use toml::{Table, Value};

/// The secret of every login that is wrong.
const WRONG: &str = "hush";
/// Nobody listens on the port of tcpmux.
const NOBODY: &str = "127.0.0.1:1";

/// One setting of `[stores]` that is wrong, and what must be said of it.
struct Wrong {
    key: &'static str,
    value: String,
    /// What stands in the lines that begin with `FAIL`: as many as there are texts here.
    says: &'static [&'static str],
}

/// What `gb6 region --check` said: the exit code, and its lines.
struct Said {
    code: Option<i32>,
    lines: Vec<String>,
    errors: String,
}

impl Said {
    fn failures(&self) -> Vec<&String> {
        let lines = self.lines.iter();
        lines.filter(|line| line.starts_with("FAIL  ")).collect()
    }
}

/// Runs it for r1, with one setting of its file replaced.
fn check(mesh: &Mesh, change: Option<&Wrong>) -> Said {
    let mut command = Command::new(gb6_binary().unwrap());
    command.current_dir(mesh.directory());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GB6_")) {
        command.env_remove(name);
    }
    if let Some(wrong) = change {
        command.env(format!("GB6_STORES_{}", wrong.key), &wrong.value);
    }
    let output = command
        .args(["region", "--config", "r1.toml", "--check"])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    Said {
        code: output.status.code(),
        lines: printed.lines().map(str::to_owned).collect(),
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a program to its end.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_engine_is_said_in_a_line_of_its_own() {
    // PostgreSQL runs as a user of its own, who has to come through.
    let directory = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let dir = directory.path();
    let start = async |kind: Kind, options: &[&str]| {
        let place = dir.join(kind.name());
        Engine::start(kind, &place, options).await.unwrap()
    };
    let kafka = start(Kind::Kafka, &["--tls", "--acl"]).await;
    let postgres = start(Kind::Postgres, &["--tls"]).await;
    let redis = start(Kind::Redis, &["--password", "right"]).await;
    let tikv = start(Kind::Tikv, &[]).await;
    let s3 = start(Kind::S3, &[]).await;

    let write = |name: &str, text: &str| {
        let file = dir.join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let (key, no_key) = (write("record.key", &"7".repeat(64)), write("no.key", "7"));
    let other_key = write("other.key", &"8".repeat(64));
    let secret = write("secret", "gb6");
    let one = "replication=1&min_insync=1";
    let redis_as = |login: &str| redis.address().replace("://", &format!("://{login}@"));
    let (_, database) = postgres.address().rsplit_once('@').unwrap();
    let postgres_as = |user: &str| format!("postgres://{user}@{database}");
    let s3_at = |bucket: &str, endpoint: &str| {
        format!(
            "s3://{bucket}/region?endpoint={endpoint}&allow_http=true&access_key=gb6&secret_file={secret}&deadline_ms=2000"
        )
    };
    let good = [
        ("log", format!("kafka://{}/gb6?{one}", kafka.address())),
        ("rooms", format!("tikv://{}", tikv.address())),
        ("signals", redis_as(":right")),
        ("limits", redis_as(":right")),
        ("map", postgres_as("node")),
        ("blobs", s3_at("gb6", s3.address())),
        ("events", format!("kafka://{}/gb6?{one}", kafka.address())),
        ("record_key_file", key),
    ];
    let stores: Table = good
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::String(value.clone())))
        .collect();
    let mut mesh = Mesh::start(MeshOptions {
        edges: 1,
        snapshot: Box::new(|snapshot| {
            let region = snapshot["regions"]["eu"].as_table_mut().unwrap();
            region.remove("owners");
            region.insert("assigned".into(), Value::String("region".into()));
        }),
        node: Box::new(move |name, config| {
            if name == "r1" {
                config.insert("stores".into(), Value::Table(stores.clone()));
            }
        }),
        ..MeshOptions::new("check")
    })
    .await
    .unwrap();
    // It has kept the snapshot, which says whose topics are looked at.
    mesh.node("r1").kill().await.unwrap();

    let said = check(&mesh, None);
    let shown = format!("{:?} {}", said.lines, said.errors);
    assert_eq!((said.code, said.failures().len()), (Some(0), 0), "{shown}");
    // The node said that it was ready: its topic is there.
    for engine in [
        "version",
        "permissions on topic gb6.eu.log",
        "topic gb6.eu.log: 4 partitions, 1 copies",
        "topic gb6.eu.events: 4 partitions, 1 copies",
        "TiKV at",
        "redis://",
        "postgres://",
        "s3://gb6",
        "record key",
    ] {
        let line = |line: &String| line.starts_with("ok    ") && line.contains(engine);
        assert!(said.lines.iter().any(line), "{engine}: {shown}");
    }
    assert!(shown.contains("it opens the record keys of "), "{shown}");
    assert!(!shown.contains("right"), "{shown}");

    // A topic that deletes, and forgets all but the last record of a key.
    let shards = std::fs::read_to_string(mesh.directory().join("snapshot.toml")).unwrap();
    let shards: Table = toml::from_str(&shards).unwrap();
    let shards = shards["regions"]["eu"]["shards"].to_string();
    let brokers = kafka.address();
    let weak = [
        "tool",
        "kafka",
        "TopicCommand",
        "--bootstrap-server",
        brokers,
        "--create",
        "--topic",
        "weak.eu.log",
        "--partitions",
        &shards,
        "--config",
        "retention.ms=604800000",
        "--config",
        "cleanup.policy=compact,delete",
        "--config",
        "max.message.bytes=8000000",
        "--config",
        "unclean.leader.election.enable=false",
        "--config",
        "compression.type=producer",
        "--config",
        "retention.bytes=-1",
    ];
    // One of events that does not take large ones.
    let small = [
        &weak[..7],
        &["small.eu.events", "--config", "max.message.bytes=1000"],
    ]
    .concat();
    let script = workspace().join("scripts/engine.sh");
    for arguments in [&weak[..], &small] {
        run(&script.display().to_string(), arguments);
    }
    // A role that may not make tables, and one that acknowledges what may be lost.
    let admin = postgres.address();
    for sql in [
        "create role poor login",
        "create role lax login",
        "grant create on schema public to lax",
        "grant select on all tables in schema public to lax",
        "alter role lax set synchronous_commit = off",
    ] {
        run("psql", &["-X", "-q", "-c", sql, admin]);
    }
    let ca = kafka.directory().join("tls/ca.pem").display().to_string();
    let logins = &kafka.addresses()[2];
    let wrong = |key, value: String, says| Wrong { key, value, says };
    let cases = [
        wrong(
            "LOG",
            format!("kafka://{NOBODY}/gb6?{one}"),
            &["are they running"],
        ),
        wrong(
            "LOG",
            format!("kafka://guarded:{WRONG}@{logins}/gb6?{one}&security=sasl_ssl&ca_file={ca}"),
            &["user, password, mechanism or security="],
        ),
        // Whom nobody has given anything.
        wrong(
            "LOG",
            format!(
                "kafka://guarded:open%20sesame@{logins}/gb6?{one}&security=sasl_ssl&ca_file={ca}"
            ),
            &["--operation Read --operation Write --operation Delete"],
        ),
        wrong(
            "LOG",
            format!("kafka://{brokers}/gb6"),
            &[
                "replication=1",
                "replication factor is 1, and must be 3",
                "min.insync.replicas is 1, and must be 2",
            ],
        ),
        wrong(
            "LOG",
            format!("kafka://{brokers}/weak?{one}"),
            &["cleanup.policy=delete", "retention.ms=-1"],
        ),
        wrong("ROOMS", format!("tikv://{NOBODY}"), &["start PD and TiKV"]),
        wrong(
            "SIGNALS",
            format!("redis://{NOBODY}"),
            &["see that it runs"],
        ),
        wrong(
            "SIGNALS",
            redis_as(&format!(":{WRONG}")),
            &["right user and password"],
        ),
        wrong(
            "LIMITS",
            redis_as(&format!(":{WRONG}")),
            &["right user and password"],
        ),
        wrong(
            "MAP",
            format!("postgres://node@{NOBODY}/gb6"),
            &["see that it runs, is reached from here"],
        ),
        wrong(
            "MAP",
            postgres_as(&format!("guarded:{WRONG}")),
            &["password authentication failed"],
        ),
        wrong(
            "MAP",
            postgres_as("poor"),
            &[
                "GRANT CREATE ON SCHEMA public",
                "permission denied for table",
            ],
        ),
        wrong("MAP", postgres_as("lax"), &["synchronous_commit=off"]),
        wrong(
            "MAP",
            format!("{}?timeout_ms=5000&connections=3", postgres_as("node")),
            &["set timeout_ms to 2250 or less"],
        ),
        wrong("BLOBS", s3_at("missing", s3.address()), &["missing"]),
        wrong(
            "BLOBS",
            s3_at("gb6", &format!("http://{NOBODY}")),
            &[NOBODY],
        ),
        wrong("BLOBS", "file:/proc/nowhere".to_owned(), &["/proc/nowhere"]),
        wrong(
            "EVENTS",
            format!("kafka://{NOBODY}/gb6?{one}"),
            &["are they running"],
        ),
        wrong(
            "EVENTS",
            format!("kafka://{brokers}/small?{one}"),
            &["--add-config max.message.bytes="],
        ),
        wrong("RECORD_KEY_FILE", no_key, &["no.key"]),
        wrong(
            "RECORD_KEY_FILE",
            other_key,
            &["was sealed with another key than this node's"],
        ),
    ];
    for case in &cases {
        let said = check(&mesh, Some(case));
        let (key, failures) = (case.key, said.failures());
        println!("{key}={}: {failures:#?}", case.value.replace(WRONG, "…"));
        assert_eq!(
            said.code,
            Some(1),
            "{key}: {:?} {}",
            said.lines,
            said.errors
        );
        assert_eq!(failures.len(), case.says.len(), "{key}: {failures:#?}");
        for (line, says) in failures.iter().zip(case.says) {
            assert!(line.contains(says), "{key}: {line} does not say {says}");
        }
        // The others are looked at all the same.
        let good = said.lines.iter().filter(|line| line.starts_with("ok    "));
        assert!(good.count() >= 8, "{key}: {:?}", said.lines);
        let counted = format!("{} of {} checks", failures.len(), said.lines.len());
        assert!(said.errors.contains(&counted), "{key}: {}", said.errors);
        let shown = format!("{:?} {}", said.lines, said.errors);
        assert!(
            !shown.contains(WRONG) && !shown.contains("right@"),
            "{key}: {shown}"
        );
    }
}
