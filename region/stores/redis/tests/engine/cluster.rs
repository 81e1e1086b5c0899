//! A cluster of three masters.

use std::process::Command;

use gb6_region_stores_redis::Config;

use crate::contract::{hold, with};
use crate::server::{Server, free_port, until};

/// The servers of a cluster.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let server = |_| {
            let bus = free_port().to_string();
            Server::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
        };
        let servers: Vec<Server> = (0..3).map(server).collect();
        let addresses = servers.iter().map(|s| format!("127.0.0.1:{}", s.port));
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(addresses);
        let made = create.arg("--cluster-yes").output().expect("redis-cli");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        let cluster = Self { servers };
        until("all nodes of the cluster know it", || {
            let ok = |s: &Server| s.command(&["cluster", "info"]).contains("cluster_state:ok");
            cluster.servers.iter().all(ok)
        });
        cluster
    }

    pub(crate) fn uri(&self) -> String {
        let ports = self.servers.iter().map(|s| format!("127.0.0.1:{}", s.port));
        format!("redis+cluster://{}", ports.collect::<Vec<_>>().join(","))
    }

    pub(crate) fn config(&self, options: &str) -> Config {
        with(&self.uri(), options)
    }
}

#[test]
fn the_contracts_hold_on_a_cluster() {
    let cluster = Cluster::start();
    hold(&cluster.config("lease_ms=2000"));
    // All masters had a part of it.
    for server in &cluster.servers {
        let stats = server.command(&["info", "commandstats"]);
        assert!(stats.contains("cmdstat_ssubscribe"), "{stats}");
        assert!(stats.contains("cmdstat_spublish"), "{stats}");
        assert!(!stats.contains("cmdstat_publish"), "{stats}");
    }
}
