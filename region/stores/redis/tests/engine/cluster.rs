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
        Self::start_with(&[], |_| Vec::new())
    }

    /// With further arguments of the server on a port; `login` are those with which `redis-cli` comes in.
    pub(crate) fn start_with(login: &[&str], further: impl Fn(u16) -> Vec<String>) -> Self {
        let server = |_| {
            let (port, bus) = (free_port(), free_port().to_string());
            let further = further(port);
            let mut args = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
            args.extend(further.iter().map(String::as_str));
            Server::start_at(port, &args)
        };
        let servers: Vec<Server> = (0..3).map(server).collect();
        let addresses = servers.iter().map(|s| format!("127.0.0.1:{}", s.port));
        let mut create = Command::new("redis-cli");
        create.args(login).args(["--cluster", "create"]);
        create.args(addresses).arg("--cluster-yes");
        let made = create.output().expect("redis-cli");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        let cluster = Self { servers };
        until("all nodes of the cluster know it", || {
            let info = |s: &Server| s.command_with(login, &["cluster", "info"]);
            let ok = |s: &Server| info(s).contains("cluster_state:ok");
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
