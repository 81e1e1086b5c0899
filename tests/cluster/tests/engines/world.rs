//! The region: its engines, each behind proxies, its nodes, two edges and geo.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gb6_tests_cluster::load::{LONG, Load};
use gb6_tests_cluster::{Disk, Volume};
use gb6_tests_harness::engines::{Engine, Front, Kind};
use gb6_tests_harness::process::{Mesh, MeshOptions, Metrics, PATIENCE, ProcessError};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::full::Refusing;

/// Nodes of the region.
pub(crate) const NODES: [&str; 3] = ["r1", "r2", "r3"];
/// The topic of its log.
pub(crate) const LOG: &str = "gb6.eu.log";

/// Of a publisher, after each acknowledgement: what is broken shows with little work as well, and the machine
/// is left to the engines.
const PAUSE: Duration = Duration::from_millis(20);

/// An engine and the network before it.
pub(crate) struct Part {
    pub(crate) engine: Engine,
    pub(crate) front: Front,
    /// The disk that its data is on, if it has one of its own.
    pub(crate) disk: Option<Disk>,
}

/// What a world has beside the usual.
#[derive(Default)]
pub(crate) struct Extras {
    /// Engines with a small disk of their own, which needs root.
    pub(crate) disks: Vec<Kind>,
    /// The same for the node r1.
    pub(crate) node_disk: bool,
    /// Three brokers, which reach each other through the front too, and three copies of everything.
    pub(crate) brokers: bool,
    /// A standby of PostgreSQL that every commit waits for.
    pub(crate) standby: bool,
    /// Where the webhook of the instance is; with it, events are published too.
    pub(crate) webhook: Option<String>,
}

/// Everything.
pub(crate) struct World {
    // Before the engines: nodes end first.
    pub(crate) mesh: Mesh,
    pub(crate) parts: Vec<Part>,
    /// The disk of r1, if it has one of its own.
    pub(crate) node_disk: Option<Disk>,
    /// While an engine's disk is full.
    pub(crate) refusing: Option<Refusing>,
    _directory: TempDir,
}

impl World {
    /// Starts the engines, and the region on them.
    pub(crate) async fn start(name: &str) -> Self {
        Self::with(name, Extras::default()).await
    }

    /// As [`World::start`], on three brokers.
    pub(crate) async fn on_three_brokers(name: &str) -> Self {
        let extras = Extras {
            brokers: true,
            ..Extras::default()
        };
        Self::with(name, extras).await
    }

    /// As [`World::start`], with what is asked for.
    pub(crate) async fn with(name: &str, extras: Extras) -> Self {
        // PostgreSQL runs as a user of its own, who has to come through.
        let directory = tempfile::Builder::new()
            .prefix(&format!("gb6-{name}-"))
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let dir = directory.path();
        let mut parts = Vec::new();
        for kind in Kind::ALL {
            let (place, disk) = match extras.disks.contains(&kind) {
                true => on_a_disk(kind, dir),
                false => (dir.join(kind.name()), None),
            };
            let options: &[&str] = match kind {
                Kind::Kafka if extras.brokers => &["--brokers", "3", "--peers-advertised"],
                Kind::Postgres if extras.standby => &["--replica", "--synchronous"],
                _ => &[],
            };
            let started = Engine::start_behind(kind, &place, options).await;
            let (engine, front) = started.unwrap();
            parts.push(Part {
                engine,
                front,
                disk,
            });
        }
        let mut stores = stores(dir, &parts, extras.brokers);
        let webhook = extras.webhook;
        if webhook.is_some() {
            let log = stores["log"].as_str().unwrap();
            let (events, _) = log.split_once("&live_mib").unwrap();
            stores.insert("events".into(), Value::String(events.to_owned()));
        }
        let has_webhook = webhook.is_some();
        let node_disk = extras.node_disk.then(|| small_disk(8, dir));
        let node_data = node_disk.as_ref().map(|disk| disk.path().join("r1"));
        let mesh = Mesh::start(MeshOptions {
            regions: NODES.len(),
            snapshot: Box::new(move |snapshot| {
                let region = snapshot["regions"]["eu"].as_table_mut().unwrap();
                region.remove("owners");
                region.insert("assigned".into(), Value::String("region".into()));
                // Which nobody reaches, and of which edges have shares: Redis is asked for them.
                let rate = toml::toml! { per_second = 100000 burst = 100000 };
                let demo = snapshot["instances"]["demo"].as_table_mut().unwrap();
                demo.insert("instance_command_rate".into(), Value::Table(rate));
                if let Some(url) = &webhook {
                    let mut webhooks = Table::new();
                    webhooks.insert("url".into(), Value::String(url.clone()));
                    webhooks.insert("secret".into(), Value::String("7".repeat(32)));
                    demo.insert("webhooks".into(), Value::Table(webhooks));
                }
            }),
            node: Box::new(move |name, config| {
                if let ("r1", Some(data)) = (name, &node_data) {
                    let data = Value::String(data.display().to_string());
                    config.insert("data_dir".into(), data);
                }
                if name.starts_with('r') {
                    config.insert("stores".into(), Value::Table(stores.clone()));
                    let mut shards = Table::new();
                    // So that checkpoints and what depends on them happen within a test.
                    shards.insert("checkpoint_interval".into(), Value::String("2s".into()));
                    config.insert("shards".into(), Value::Table(shards));
                    if has_webhook {
                        let mut outbound = Table::new();
                        let here = Value::String("127.0.0.0/8".into());
                        outbound.insert("allow".into(), Value::Array(vec![here]));
                        config.insert("outbound".into(), Value::Table(outbound));
                    }
                }
            }),
            ..MeshOptions::new(name)
        })
        .await
        .unwrap();
        Self {
            mesh,
            parts,
            node_disk,
            refusing: None,
            _directory: directory,
        }
    }

    /// The engine of this kind.
    pub(crate) fn part(&mut self, kind: Kind) -> &mut Part {
        let mut parts = self.parts.iter_mut();
        parts.find(|part| part.engine.kind() == kind).unwrap()
    }

    /// Clients at work on it.
    pub(crate) async fn load(&self, name: &'static str, seed: u64) -> Load {
        Load::start(&self.mesh, name, seed, (6, 8), PAUSE).await
    }

    /// The sum of a counter over the nodes of the region; `labels` are written as `name="value"`.
    pub(crate) async fn counted(&mut self, name: &str, labels: &[&str]) -> f64 {
        let mut sum = 0.0;
        for node in NODES {
            sum += self.counted_by(node, name, labels).await;
        }
        sum
    }

    /// As [`World::counted`], of one node.
    async fn counted_by(&mut self, node: &str, name: &str, labels: &[&str]) -> f64 {
        let metrics = Metrics::read(self.mesh.node(node).metrics()).await;
        metrics.unwrap().sum(name, labels).unwrap_or_default()
    }

    /// Waits until every node writes to the region's map: publishers do not notice when it can not.
    pub(crate) async fn until_mapped(&mut self) {
        let statements = "gb6_sql_statements_total";
        let puts = ["port=\"map\"", "statement=\"map_put\"", "outcome=\"ok\""];
        let begun = Instant::now();
        for node in NODES {
            let before = self.counted_by(node, statements, &puts).await;
            // The first may have been made before this was called.
            while self.counted_by(node, statements, &puts).await < before + 2.0 {
                assert!(begun.elapsed() < LONG, "{node} does not write to the map");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// How many shards the nodes that answer own.
    pub(crate) async fn owned(&mut self) -> f64 {
        let mut sum = 0.0;
        for node in NODES {
            if let Ok(metrics) = Metrics::read(self.mesh.node(node).metrics()).await {
                sum += metrics
                    .sum("gb6_region_shards_owned", &[])
                    .unwrap_or_default();
            }
        }
        sum
    }

    /// Starts a node of the region again, and waits until it is ready. One that does not reach an engine in
    /// time ends, and is started again, as those who run it do.
    pub(crate) async fn node_back(&mut self, name: &str) {
        let begun = Instant::now();
        loop {
            let node = self.mesh.node(name);
            node.start().unwrap();
            match node.ready(PATIENCE).await {
                Ok(()) => return,
                Err(ProcessError::Ended { .. }) if begun.elapsed() < LONG => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until a node owns a shard, so that what happens to it happens to somebody.
    pub(crate) async fn until_owner(&mut self, name: &str) {
        let begun = Instant::now();
        while self.counted_by(name, "gb6_region_shards_owned", &[]).await < 1.0 {
            assert!(begun.elapsed() < LONG, "{name} is given no shard");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Of each partition of the log, an offset: the oldest that Kafka still has, or the newest.
    pub(crate) async fn offsets(&self, which: Offsets) -> Vec<u64> {
        let time = match which {
            Offsets::Oldest => "-2",
            Offsets::Newest => "-1",
        };
        let asked = ["--topic", LOG, "--time", time];
        let mut parts = self.parts.iter();
        let kafka = parts.find(|part| part.engine.kind() == Kind::Kafka);
        let kafka = &kafka.unwrap().engine;
        // It is not broken when this is asked; its tool gives up on a machine that is very busy.
        let begun = Instant::now();
        let said = loop {
            match kafka.tool("GetOffsetShell", &asked).await {
                Ok(said) => break said,
                Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
            }
        };
        let mut offsets: Vec<(u32, u64)> = said
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(LOG)?.strip_prefix(':')?;
                let (partition, offset) = rest.split_once(':')?;
                Some((partition.parse().ok()?, offset.parse().ok()?))
            })
            .collect();
        assert!(!offsets.is_empty(), "GetOffsetShell said: {said}");
        offsets.sort_unstable();
        offsets.into_iter().map(|(_, offset)| offset).collect()
    }

    /// Waits until everything that was committed is in the archive and gone from Kafka.
    pub(crate) async fn until_archived(&self) {
        let newest = self.offsets(Offsets::Newest).await;
        let begun = Instant::now();
        loop {
            let oldest = self.offsets(Offsets::Oldest).await;
            if oldest
                .iter()
                .zip(&newest)
                .all(|(oldest, newest)| oldest >= newest)
            {
                return;
            }
            assert!(
                begun.elapsed() < LONG,
                "Kafka holds {oldest:?} and later, what ends at {newest:?} is to be archived"
            );
        }
    }
}

fn small_disk(mib: u64, dir: &Path) -> Disk {
    match Disk::new(Volume::Tmpfs { mib }, dir) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    }
}

/// The directory of an engine whose data is on a disk of its own, and the disk.
fn on_a_disk(kind: Kind, dir: &Path) -> (PathBuf, Option<Disk>) {
    let mib = match kind {
        // The double's journal has everything that was ever written.
        Kind::S3 => 512,
        _ => 256,
    };
    let disk = small_disk(mib, dir);
    let place = match kind {
        // PD has another one.
        Kind::Tikv => {
            let (place, data) = (dir.join(kind.name()), disk.path().join("data"));
            std::fs::create_dir(&place).unwrap();
            std::fs::create_dir(&data).unwrap();
            std::os::unix::fs::symlink(data, place.join("store-data")).unwrap();
            place
        }
        _ => disk.path().join(kind.name()),
    };
    (place, Some(disk))
}

/// Which end of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offsets {
    Oldest,
    Newest,
}

/// The table `[stores]` of the region's nodes.
fn stores(dir: &Path, parts: &[Part], brokers: bool) -> Table {
    let of = |kind: Kind| {
        let mut parts = parts.iter();
        &parts
            .find(|part| part.engine.kind() == kind)
            .unwrap()
            .engine
    };
    std::fs::write(dir.join("record.key"), "7".repeat(64)).unwrap();
    std::fs::write(dir.join("s3.secret"), "of tests").unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let copies = match brokers {
        true => "replication=3&min_insync=2",
        // What is asked of one broker is that its process may die.
        false => "replication=1&min_insync=1",
    };
    // The primary, and the standby if there is one.
    let hosts = of(Kind::Postgres).addresses().iter().map(|address| {
        let rest = address.strip_prefix("postgres://gb6@");
        rest.and_then(|rest| rest.strip_suffix("/gb6")).unwrap()
    });
    let hosts: Vec<&str> = hosts.collect();
    let redis = of(Kind::Redis).address().to_owned();
    let mut stores = Table::new();
    for (key, value) in [
        (
            "log",
            format!(
                "kafka://{}/gb6?{copies}&live_mib=1&archive_after_s=2",
                of(Kind::Kafka).address()
            ),
        ),
        ("rooms", format!("tikv://{}", of(Kind::Tikv).address())),
        ("signals", redis.clone()),
        ("limits", redis),
        ("map", format!("postgres://node@{}/gb6", hosts.join(","))),
        (
            "blobs",
            format!(
                "s3://gb6/region?endpoint={}&allow_http=true&access_key=gb6&secret_file={}",
                of(Kind::S3).address(),
                file("s3.secret")
            ),
        ),
        ("record_key_file", file("record.key")),
    ] {
        stores.insert(key.to_owned(), Value::String(value));
    }
    stores
}
