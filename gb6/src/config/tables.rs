//! Tables that the files of several roles share.

use gb6_core_model::limits;
use gb6_core_obs::logs;
use gb6_geo_config_plan::{Bytes, Millis};
use serde::{Deserialize, Serialize};

use super::key::{Value, config};
use super::store_uri::{StoreUri, StoreUris};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// For machines.
    Json,
}

impl LogFormat {
    /// The format as the logs know it.
    pub(crate) fn format(self) -> logs::Format {
        match self {
            LogFormat::Human => logs::Format::Human,
            LogFormat::Json => logs::Format::Json,
        }
    }
}

impl Value for LogFormat {
    const KIND: &'static str = "human or json";

    fn to_toml(&self) -> toml::Value {
        let name = match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        };
        toml::Value::String(name.to_owned())
    }

    fn from_text(text: &str) -> Result<toml::Value, String> {
        match text {
            "human" | "json" => Ok(toml::Value::String(text.to_owned())),
            other => Err(format!("`{other}` is no log format: write human or json")),
        }
    }
}

config! {
    /// What is logged, always to standard error.
    pub(crate) struct LogTable {
        /// How a line looks: "human" or "json".
        format: LogFormat = LogFormat::Human,
        /// What is logged: a level (error, warn, info, debug, trace), or target=level pairs joined
        /// by commas. The variable GB6_LOG goes before it.
        filter: String = "info".into(),
    }
}

config! {
    /// How a node that others dial takes part in the mesh.
    pub(crate) struct MeshTable {
        /// The address of the mesh listener (UDP). The snapshot tells it to the other nodes.
        listen: std::net::SocketAddr = std::net::SocketAddr::from(([127, 0, 0, 1], 7600)),
        /// name@host:port of the nodes that serve the snapshot. With one of them everything else
        /// is found; without any the node works by the last snapshot that it kept.
        geo: Vec<String> = vec!["g1@127.0.0.1:7700".into()],
        /// The certificate of the mesh's authority (PEM).
        ca: String = "mesh-data/certs/ca.pem".into(),
        /// The certificate of this node (PEM): made by `gb6 cert node`.
        cert: String = "mesh-data/certs/{name}.pem".into(),
        /// Its private key (PEM).
        key: String = "mesh-data/certs/{name}.key".into(),
    }
}

config! {
    /// How a node that only dials takes part in the mesh.
    pub(crate) struct DialTable {
        /// name@host:port of the nodes that serve the snapshot. With one of them everything else
        /// is found; without any the node works by the last snapshot that it kept.
        geo: Vec<String> = vec!["g1@127.0.0.1:7700".into()],
        /// The certificate of the mesh's authority (PEM).
        ca: String = "mesh-data/certs/ca.pem".into(),
        /// The certificate of this node (PEM): made by `gb6 cert node`.
        cert: String = "mesh-data/certs/{name}.pem".into(),
        /// Its private key (PEM).
        key: String = "mesh-data/certs/{name}.key".into(),
    }
}

config! {
    /// How geo takes part in the mesh.
    pub(crate) struct ListenTable {
        /// The address of the mesh listener (UDP): what the other nodes have as mesh.geo.
        listen: std::net::SocketAddr = std::net::SocketAddr::from(([127, 0, 0, 1], 7700)),
        /// The certificate of the mesh's authority (PEM).
        ca: String = "mesh-data/certs/ca.pem".into(),
        /// The certificate of this node (PEM): made by `gb6 cert node`.
        cert: String = "mesh-data/certs/{name}.pem".into(),
        /// Its private key (PEM).
        key: String = "mesh-data/certs/{name}.key".into(),
    }
}

config! {
    /// Bounds of what clients may take up.
    pub(crate) struct ClientsTable {
        /// Connections at most; 0: as many as the process may have files open.
        connections_max: u32 = 0,
        /// Connections of one IPv4 address or IPv6 /64; further ones are disconnected (3504).
        /// 0: any number, as behind a proxy, whose address all of them have.
        connections_per_address: u32 = 0,
        /// Sessions that may begin each second, and as many at once; 0: any number.
        connects_per_second: u32 = 5_000,
        /// How long one more may wait for its turn before it is told to come back later (503): at
        /// most 10s.
        connect_wait: Millis = Millis(2_000),
        /// Bytes that may wait for one client before it is disconnected as slow (3008): 1MiB to
        /// 64MiB.
        queue: Bytes = Bytes(limits::SESSION_QUEUE_BYTES_MAX as u64),
        /// From one ping to the next, in whole seconds; "0": none.
        ping: Millis = Millis(25_000),
        /// How long the answer to a ping may take before the client is disconnected (3012).
        pong: Millis = Millis(8_000),
        /// How long a client may take for its first command before it is disconnected (3502).
        connect: Millis = Millis(10_000),
        /// How long a client may take nothing at all of what waits for it before it is
        /// disconnected (3009).
        write: Millis = Millis(30_000),
        /// How long an instance stands still while its newest revocations can not be read, before
        /// its clients are served by those that are known; "0": for as long as it takes.
        revocations_wait: Millis = Millis(0),
    }
}

config! {
    /// Which servers of customers the node may reach: key sets, receivers of webhooks and the like.
    pub(crate) struct OutboundTable {
        /// Ranges of addresses, such as 10.0.0.0/8, that may be reached though they are not public.
        /// Plain HTTP is spoken only to these.
        allow: Vec<String> = Vec::new(),
        /// Certificates (PEM) of authorities that may vouch for such servers besides the public
        /// ones. "": none.
        ca: String = String::new(),
    }
}

config! {
    /// Which servers of customers the process may reach: key sets, receivers of webhooks and the like.
    pub(crate) struct DevOutboundTable {
        /// Ranges of addresses, such as 10.0.0.0/8, that may be reached though they are not public.
        /// Plain HTTP is spoken only to these.
        allow: Vec<String> = vec!["127.0.0.0/8".into(), "::1".into()],
        /// Certificates (PEM) of authorities that may vouch for such servers besides the public
        /// ones. "": none.
        ca: String = String::new(),
    }
}

/// What is wrong with ranges of addresses.
pub(super) fn ranges(allow: &[String]) -> impl Iterator<Item = (&'static str, String)> {
    allow
        .iter()
        .filter_map(|range| range.parse::<gb6_core_outbound::Range>().err())
        .map(|error| ("outbound.allow", error.to_string()))
}

config! {
    /// How the shards of a region behave.
    pub(crate) struct ShardsTable {
        /// How long the people of an edge stay present after the edge was last heard: 1s to 5m.
        edge_lease: Millis = Millis(limits::EDGE_LEASE_MS),
        /// Bytes of log, or twice the state's, after which a checkpoint is made: a start reads no more.
        checkpoint_bytes: Bytes = Bytes(64 * 1024 * 1024),
        /// A checkpoint is made after so long, if anything has changed.
        checkpoint_interval: Millis = Millis(60_000),
        /// Message ids that each shard remembers, about 100 bytes of memory each.
        dedupe_ids_max: u32 = limits::DEDUPE_IDS_MAX as u32,
        /// Shards that a node recovers at once, 1 to 1024: more at the same time need more memory. There
        /// are four times as many places for those whose standby had caught up.
        recoveries_max: u32 = 16,
        /// Standbys of a node that read their logs to the end at once, when they begin to follow, 1 to
        /// 1024. They wait while the node recovers shards of its own.
        catch_ups_max: u32 = 4,
        /// Where nodes decide who owns what: a node that was not heard for so long is taken for dead,
        /// and loses its shards: 500ms to 1m.
        node_lease: Millis = Millis(1_500),
        /// How often a node is heard: at most a third of node_lease.
        node_beat: Millis = Millis(300),
    }
}

config! {
    /// Which engine keeps what. docs/engines.md says what each needs and promises.
    pub(crate) struct StoresTable {
        /// The logs of the shards, which are the truth: "embedded" (in data_dir, of one node), or
        /// kafka://HOST:PORT,HOST:PORT/PREFIX, which also needs blobs.
        log: StoreUri = "embedded".into(),
        /// The index of rooms: "embedded" (in data_dir), or tikv://HOST:PORT,HOST:PORT of PD.
        rooms: StoreUri = "embedded".into(),
        /// What carries signals between the nodes of a region, and keeps statuses of users: "embedded"
        /// (of one node), or redis://HOST:PORT, rediss://… with TLS, redis+cluster://….
        signals: StoreUri = "embedded".into(),
        /// What shares out limits of instances among edges: "embedded" (of one node), or
        /// redis://… as above.
        limits: StoreUri = "embedded".into(),
        /// Where the region's nodes agree who owns which shard: "snapshot" (nodes do not: the
        /// snapshot's owners do), postgres://USER@HOST:PORT/DATABASE, or sqlite:PATH (of one node).
        map: StoreUri = "snapshot".into(),
        /// Where sealed segments of logs and checkpoints are archived: "none", file:DIRECTORY, or
        /// s3://BUCKET/PREFIX.
        blobs: StoreUri = "none".into(),
        /// Whether an embedded log on an empty disk goes on from an archive of another node, which
        /// must never come back.
        archive_take_over: bool = false,
        /// Where what is committed is published for consumers outside (docs/events.md): "none", or
        /// kafka://HOST:PORT/PREFIX.
        events: StoreUri = "none".into(),
        /// A file with the key that seals the region's record keys in map, 64 hexadecimal digits, the
        /// same on every node; earlier ones on lines behind it. Needed where map is a database.
        record_key_file: String = String::new(),
    }
}

config! {
    /// Where customers are kept. docs/directory.md says how.
    pub(crate) struct GeoStoresTable {
        /// The databases of customers, whose instances and keys are served beside those of the
        /// snapshot file: sqlite:PATH or postgres://USER@HOST:PORT/DATABASE, or a list of them (of
        /// which the first has the catalogue); as a flag separated by spaces. []: there are none.
        directory: StoreUris = StoreUris::default(),
        /// A file with the key that seals the secrets in directory, 64 hexadecimal digits; earlier
        /// ones on lines behind it. Needed where there is a directory.
        directory_key_file: String = String::new(),
    }
}

impl GeoStoresTable {
    /// The same without what is secret in it.
    pub(super) fn shown(&self) -> Self {
        Self {
            directory: self.directory.masked(),
            ..self.clone()
        }
    }
}

impl StoresTable {
    /// The same without what is secret in it.
    pub(super) fn shown(&self) -> Self {
        let mut shown = self.clone();
        for uri in [
            &mut shown.log,
            &mut shown.rooms,
            &mut shown.signals,
            &mut shown.limits,
            &mut shown.map,
            &mut shown.blobs,
            &mut shown.events,
        ] {
            *uri = uri.masked();
        }
        shown
    }
}
