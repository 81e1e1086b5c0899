//! The region: its engines, each behind proxies, its nodes, two edges and geo.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use gb6_tests_cluster::load::Load;
use gb6_tests_harness::engines::{Engine, Front, Kind};
use gb6_tests_harness::process::{Mesh, MeshOptions, PATIENCE};
use tempfile::TempDir;
use toml::{Table, Value};

/// Nodes of the region.
pub(crate) const NODES: [&str; 3] = ["r1", "r2", "r3"];

/// An engine and the network before it.
pub(crate) struct Part {
    pub(crate) engine: Engine,
    pub(crate) front: Front,
}

/// Everything.
pub(crate) struct World {
    // Before the engines: nodes end first.
    pub(crate) mesh: Mesh,
    pub(crate) parts: Vec<Part>,
    _directory: TempDir,
}

impl World {
    /// Starts the engines, and the region on them.
    pub(crate) async fn start(name: &str) -> Self {
        Self::with_kafka_in(name, None).await
    }

    /// As [`World::start`], with Kafka's data elsewhere.
    pub(crate) async fn with_kafka_in(name: &str, kafka: Option<&Path>) -> Self {
        // PostgreSQL runs as a user of its own, who has to come through.
        let directory = tempfile::Builder::new()
            .prefix(&format!("gb6-{name}-"))
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let dir = directory.path();
        let part = async |kind: Kind| {
            let usual = dir.join(kind.name());
            let place = kafka.filter(|_| kind == Kind::Kafka).unwrap_or(&usual);
            let (engine, front) = Engine::start_behind(kind, place, &[]).await.unwrap();
            Part { engine, front }
        };
        let parts = vec![
            part(Kind::Kafka).await,
            part(Kind::Postgres).await,
            part(Kind::Redis).await,
            part(Kind::Tikv).await,
        ];
        let address = |n: usize| {
            let part: &Part = &parts[n];
            part.engine.address().to_owned()
        };
        std::fs::write(dir.join("record.key"), "7".repeat(64)).unwrap();
        let (kafka, postgres, redis, tikv) = (address(0), address(1), address(2), address(3));
        let mut stores = Table::new();
        for (key, uri) in [
            (
                "log",
                // One broker: what is asked of it is that its process may die.
                format!(
                    "kafka://{kafka}/gb6?replication=1&min_insync=1&live_mib=1&archive_after_s=2"
                ),
            ),
            ("rooms", format!("tikv://{tikv}")),
            ("signals", redis.clone()),
            ("limits", redis),
            ("map", postgres.replace("//gb6@", "//node@")),
            ("blobs", format!("file:{}", dir.join("blobs").display())),
            (
                "record_key_file",
                dir.join("record.key").display().to_string(),
            ),
        ] {
            stores.insert(key.to_owned(), Value::String(uri));
        }
        let mesh = Mesh::start(MeshOptions {
            regions: NODES.len(),
            snapshot: Box::new(|snapshot| {
                let region = snapshot["regions"]["eu"].as_table_mut().unwrap();
                region.remove("owners");
                region.insert("assigned".into(), Value::String("region".into()));
            }),
            node: Box::new(move |name, config| {
                if name.starts_with('r') {
                    config.insert("stores".into(), Value::Table(stores.clone()));
                    let mut shards = Table::new();
                    // So that checkpoints and what depends on them happen within a test.
                    shards.insert("checkpoint_interval".into(), Value::String("2s".into()));
                    config.insert("shards".into(), Value::Table(shards));
                }
            }),
            ..MeshOptions::new(name)
        })
        .await
        .unwrap();
        Self {
            mesh,
            parts,
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
        Load::start(&self.mesh, name, seed, (6, 8), Duration::from_millis(4)).await
    }

    /// Starts a node of the region again, and waits until it is ready.
    pub(crate) async fn node_back(&mut self, name: &str) {
        let node = self.mesh.node(name);
        node.start().unwrap();
        node.ready(PATIENCE).await.unwrap();
    }
}
