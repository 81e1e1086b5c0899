//! An engine's disk that is full: how it becomes so, such that what nodes ask the engine to write is refused.

use std::process::Stdio;
use std::time::{Duration, Instant};

use gb6_tests_cluster::load::LONG;
use gb6_tests_harness::engines::Kind;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::faults::Fault;
use crate::world::World;

/// Less than what the double of TiKV keeps for what has begun, and enough for that.
const RESERVED: u64 = 24 << 20;
/// How often it is looked whether something is refused.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long PostgreSQL may take for a statement; one that has ended may not say so.
const ANSWER: Duration = Duration::from_secs(10);
/// So many refusals are waited for: one may be of what was under way.
const REFUSALS: f64 = 3.0;

/// An engine that refuses what it has no space for.
pub(crate) struct Refusing {
    /// How often nodes were told so when the fault began.
    refusals: f64,
    /// Of somebody else, in PostgreSQL: no version of a row that it might see is thrown away, so that each
    /// change of a record takes more space.
    _transaction: Option<Session>,
}

/// Fills the disk, and waits until nodes are refused something, or until the engine has ended.
pub(crate) async fn begin(world: &mut World, kind: Kind, fault: Fault) {
    let begun = Instant::now();
    match fault {
        Fault::FullWal(_) => {
            let mut session = Session::open(world).await;
            while !world.part(kind).engine.pids().is_empty() {
                fill(world, kind);
                // The first writes something by itself: a switch behind nothing new is none. Either has no
                // answer when it ends the server.
                session
                    .ask("select pg_logical_emit_message(true, 'full', '')")
                    .await;
                session.ask("select pg_switch_wal()").await;
                let log = world.part(kind).engine.log_tail("primary");
                pause(begun, &format!("PostgreSQL goes on without WAL:\n{log}")).await;
            }
        }
        _ => {
            let mut transaction = None;
            if kind == Kind::Postgres {
                let mut session = Session::open(world).await;
                let begin =
                    "begin isolation level repeatable read; select count(*) from map_entries";
                session.ask(begin).await.expect("a transaction");
                transaction = Some(session);
            }
            if kind == Kind::Redis {
                // It refuses writes once it could not write them down; by itself it does not try here.
                redis(world, &["config", "set", "save", "1 1"]).await;
            }
            let before = refusals(world, kind).await;
            let mut now = before;
            while now < before + REFUSALS {
                fill(world, kind);
                pause(begun, "the engine goes on without space").await;
                now = refusals(world, kind).await;
            }
            world.refusing = Some(Refusing {
                refusals: now,
                _transaction: transaction,
            });
        }
    }
    println!(
        "matrix: {} {fault} after {:?}",
        kind.name(),
        begun.elapsed()
    );
}

/// Makes room again, and starts what has ended.
pub(crate) async fn end(world: &mut World, kind: Kind) {
    if let Some(refusing) = world.refusing.take() {
        let now = refusals(world, kind).await;
        assert!(now > refusing.refusals, "{} has found space", kind.name());
    }
    let part = world.part(kind);
    part.disk.as_ref().unwrap().make_room().unwrap();
    part.engine.restart().await.unwrap();
    if kind == Kind::Redis {
        let begun = Instant::now();
        let persistence = async |world: &mut World| redis(world, &["info", "persistence"]).await;
        while !persistence(world)
            .await
            .contains("rdb_last_bgsave_status:ok")
        {
            pause(begun, "Redis finds no space").await;
        }
        redis(world, &["config", "set", "save", ""]).await;
    }
}

fn fill(world: &mut World, kind: Kind) {
    let free = match kind {
        Kind::Tikv => RESERVED,
        _ => 0,
    };
    let disk = world.part(kind).disk.as_ref().unwrap();
    disk.fill(free).unwrap();
}

/// How often nodes were told that there is no space.
async fn refusals(world: &mut World, kind: Kind) -> f64 {
    let (name, labels): (_, &[&str]) = match kind {
        Kind::Postgres => (
            "gb6_sql_statements_total",
            &["port=\"map\"", "outcome=\"full\""],
        ),
        Kind::Tikv => ("gb6_tikv_failures_total", &["kind=\"full\""]),
        Kind::S3 => ("gb6_blob_operations_total", &["outcome=\"full\""]),
        Kind::Redis => ("gb6_redis_calls_total", &["outcome=\"refused\""]),
        Kind::Kafka => unreachable!("no cell has it"),
    };
    world.counted(name, labels).await
}

async fn pause(begun: Instant, late: &str) {
    assert!(begun.elapsed() < LONG, "{late}");
    tokio::time::sleep(LOOK_EVERY).await;
}

/// What Redis answers.
async fn redis(world: &mut World, arguments: &[&str]) -> String {
    let port = world.part(Kind::Redis).engine.sockets()[0]
        .port()
        .to_string();
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "redis-cli {arguments:?}: {said}");
    said
}

/// A session of PostgreSQL, past the engine's front: what is asked here is nothing that a node does. It is
/// opened before the disk is full: without space the server may refuse new ones, whose first files it can
/// not write.
pub(crate) struct Session {
    // It ends with its input.
    _psql: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Session {
    async fn open(world: &mut World) -> Self {
        let port = world.part(Kind::Postgres).engine.sockets()[0].port();
        let mut psql = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1"])
            .args(["-U", "gb6", "-d", "gb6", "-p", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut session = Self {
            input: psql.stdin.take().unwrap(),
            answers: BufReader::new(psql.stdout.take().unwrap()).lines(),
            _psql: psql,
        };
        let answer = session.ask("select 'open'").await;
        assert_eq!(answer.as_deref(), Some("open"));
        session
    }

    /// The one row that it answers; `None` where it does not, or is closed.
    async fn ask(&mut self, statements: &str) -> Option<String> {
        let statements = format!("{statements};\n");
        // Whether it is open is seen by its answer.
        let _ = self.input.write_all(statements.as_bytes()).await;
        let answer = tokio::time::timeout(ANSWER, self.answers.next_line()).await;
        answer.ok()?.ok()?
    }
}
