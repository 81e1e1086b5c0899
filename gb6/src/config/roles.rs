//! The configuration file of each role, and what is wrong with values together.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use gb6_core_mesh::snapshot::GeoAddress;
use gb6_geo_config_plan::{Bytes, Millis};

use super::address::MaybeAddress;
use super::key::{Keys, config};
use super::tables::{
    ClientsTable, DialTable, GeoStoresTable, ListenTable, LogTable, MeshTable, OutboundTable,
    ShardsTable, StoresTable, ranges,
};
use crate::assemble::{Databases, Engines};

/// The file of one role.
pub(crate) trait RoleFile:
    Keys + Clone + Default + PartialEq + serde::Serialize + serde::de::DeserializeOwned
{
    /// The subcommand that takes it: `gb6 edge`.
    const COMMAND: &'static str;
    /// Tables at the top of the file that are read by somebody else.
    const OTHER_TABLES: &'static [&'static str] = &[];
    /// What stands at the top of its example.
    const ABOUT: &'static str;
    /// The same without its secrets, to be shown.
    fn shown(&self) -> Self {
        self.clone()
    }
    /// What is wrong with the values together: key and words.
    fn problems(&self) -> Vec<(&'static str, String)>;
}

/// The longest time that clients may be spread over, in ms: supervisors give up after minutes.
pub(super) const DRAIN_MAX_MS: u64 = 10 * 60 * 1000;

/// The least that may wait for a client: the largest frame must fit.
const QUEUE_MIN: Bytes = Bytes(1 << 20);
/// The most: a slow client costs so much memory before it is disconnected.
const QUEUE_MAX: Bytes = Bytes(64 << 20);

config! {
    /// The file of `gb6 edge`.
    pub(crate) struct EdgeFile {
        /// The node's name, as its certificate and the snapshot have it. In every text of this
        /// file {name} stands for it.
        name: String = "e1".into(),
        /// The directory for what the node keeps: the last snapshot, and fetched key sets.
        data_dir: String = "mesh-data/{name}".into(),
        /// The address for clients, console and health (TCP). Port 0: any free one.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        /// The address for the server API, metrics and health (TCP), which no client needs to
        /// reach; it speaks no TLS. Port 0: any free one.
        admin: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7801)),
        /// The certificate that is shown to clients (PEM), and behind it those that lead to its
        /// authority. With it the address for clients speaks TLS 1.3 and nothing else. It is read
        /// again when it changes, and used if it is good.
        tls_cert: String = String::new(),
        /// Its private key (PEM).
        tls_key: String = String::new(),
        /// The address for clients over QUIC (UDP), with the same certificate; empty: there is
        /// none. Port 0: any free one.
        quic: MaybeAddress = MaybeAddress(None),
        /// The instance of a connection whose token and host name name none.
        default_instance: String = "demo".into(),
        /// Whether the console may make tokens for any name (POST /dev/token). Refused on an
        /// address that is not loopback.
        dev_tokens: bool = false,
        /// Over how long clients are told to reconnect when the node stops.
        drain: Millis = Millis(10_000),
        @tables
        /// How the node takes part in the mesh.
        mesh: DialTable,
        /// Bounds of what clients may take up.
        clients: ClientsTable,
        /// Which servers of customers the node may reach: key sets and the like.
        outbound: OutboundTable,
        /// What is logged, always to standard error.
        log: LogTable,
    }
}

config! {
    /// The file of `gb6 region`.
    pub(crate) struct RegionFile {
        /// The node's name, as its certificate and the snapshot have it. In every text of this
        /// file {name} stands for it.
        name: String = "r1".into(),
        /// The directory of the logs, of the store, and of the keys that records are encrypted
        /// with. One process at a time.
        data_dir: String = "mesh-data/{name}".into(),
        /// The address for health and metrics (TCP). Port 0: any free one.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7601)),
        /// How long publishes in flight may take when the node stops.
        drain: Millis = Millis(10_000),
        @tables
        /// How the node takes part in the mesh.
        mesh: MeshTable,
        /// Which engine keeps what.
        stores: StoresTable,
        /// How the shards behave.
        shards: ShardsTable,
        /// Which servers of customers the node may reach: receivers of webhooks.
        outbound: OutboundTable,
        /// What is logged, always to standard error.
        log: LogTable,
    }
}

config! {
    /// The file of `gb6 geo`.
    pub(crate) struct GeoFile {
        /// The node's name, as its certificate has it. In every text of this file {name} stands
        /// for it.
        name: String = "g1".into(),
        /// The directory for what the node keeps: the revision and the last good snapshot.
        data_dir: String = "mesh-data/{name}".into(),
        /// The address for health and metrics (TCP). Port 0: any free one.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7701)),
        /// The snapshot file: instances, regions and nodes. `gb6 config example snapshot` prints
        /// one. It is read again when it changes.
        snapshot: String = "mesh-data/snapshot.toml".into(),
        @tables
        /// How the node takes part in the mesh.
        mesh: ListenTable,
        /// Where customers are kept, whose instances do not stand in the snapshot file.
        stores: GeoStoresTable,
        /// What is logged, always to standard error.
        log: LogTable,
    }
}

fn common(name: &str, drain: Option<Millis>) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if !gb6_core_model::NodeId::is_valid(name) {
        problems.push((
            "name",
            format!(
                "`{name}` is no name of a node: use a-z, 0-9 and -, a letter first, at most 63"
            ),
        ));
    }
    if let Some(drain) = drain.filter(|d| d.0 > DRAIN_MAX_MS) {
        problems.push((
            "drain",
            format!("{drain} is longer than {}", Millis(DRAIN_MAX_MS)),
        ));
    }
    problems
}

/// What lies outside its bounds.
pub(super) fn outside<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: &T,
    bounds: RangeInclusive<T>,
) -> Option<(&'static str, String)> {
    let (min, max) = (bounds.start(), bounds.end());
    (!bounds.contains(value)).then(|| (key, format!("{value} is out of range: {min} to {max}")))
}

fn geo_addresses(geo: &[String]) -> Option<(&'static str, String)> {
    let why = geo
        .iter()
        .find_map(|text| text.parse::<GeoAddress>().err())?;
    Some(("mesh.geo", why))
}

/// What is wrong with the bounds of clients.
pub(super) fn client_bounds(clients: &ClientsTable) -> Vec<(&'static str, String)> {
    let (second, day) = (Millis(1_000), Millis(86_400_000));
    let mut problems: Vec<_> = [
        outside("clients.queue", &clients.queue, QUEUE_MIN..=QUEUE_MAX),
        outside(
            "clients.connects_per_second",
            &clients.connects_per_second,
            0..=1_000_000,
        ),
        outside(
            "clients.connect_wait",
            &clients.connect_wait,
            Millis(0)..=Millis(10_000),
        ),
        outside("clients.ping", &clients.ping, Millis(0)..=day),
        outside("clients.pong", &clients.pong, second..=day),
        outside("clients.connect", &clients.connect, second..=day),
        outside("clients.write", &clients.write, second..=day),
        outside(
            "clients.revocations_wait",
            &clients.revocations_wait,
            Millis(0)..=day,
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !clients.ping.0.is_multiple_of(1_000) {
        problems.push(("clients.ping", "clients are told whole seconds".to_owned()));
    }
    problems
}

impl RoleFile for EdgeFile {
    const COMMAND: &'static str = "edge";
    const ABOUT: &'static str = "An edge: terminates clients and forwards to regions.";

    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = common(&self.name, Some(self.drain));
        problems.extend(geo_addresses(&self.mesh.geo));
        if self.dev_tokens && !self.http.ip().is_loopback() {
            problems.push((
                "dev_tokens",
                format!(
                    "tokens for any name on {} would let everybody in: use a loopback address, or \
                     take dev_tokens out",
                    self.http
                ),
            ));
        }
        problems.extend(half_of_two(&self.tls_cert, &self.tls_key));
        if self.quic.0.is_some() && self.tls_cert.is_empty() {
            let words = "QUIC needs a certificate: name one with tls_cert and tls_key";
            problems.push(("quic", words.to_owned()));
        }
        let instance = &self.default_instance;
        if !gb6_core_model::InstanceId::is_valid(instance) {
            problems.push((
                "default_instance",
                format!("`{instance}` is no name of an instance"),
            ));
        }
        problems.extend(client_bounds(&self.clients));
        problems.extend(ranges(&self.outbound.allow));
        problems
    }
}

impl RoleFile for RegionFile {
    const COMMAND: &'static str = "region";
    const ABOUT: &'static str = "A region: owns shards and makes every message durable.";

    fn shown(&self) -> Self {
        Self {
            stores: self.stores.shown(),
            ..self.clone()
        }
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = common(&self.name, Some(self.drain));
        problems.extend(geo_addresses(&self.mesh.geo));
        let shards = &self.shards;
        let second = Millis(1_000);
        let (least, most) = (Bytes(1 << 20), Bytes(16 << 30));
        problems.extend(outside(
            "shards.edge_lease",
            &shards.edge_lease,
            second..=Millis(300_000),
        ));
        problems.extend(outside(
            "shards.checkpoint_bytes",
            &shards.checkpoint_bytes,
            least..=most,
        ));
        let (key, every) = ("shards.checkpoint_interval", &shards.checkpoint_interval);
        problems.extend(outside(key, every, second..=Millis(86_400_000)));
        problems.extend(outside(
            "shards.node_lease",
            &shards.node_lease,
            Millis(500)..=Millis(60_000),
        ));
        problems.extend(outside(
            "shards.node_beat",
            &shards.node_beat,
            Millis(50)..=Millis(shards.node_lease.0 / 3),
        ));
        problems.extend(outside(
            "shards.dedupe_ids_max",
            &shards.dedupe_ids_max,
            1..=100_000_000,
        ));
        problems.extend(outside(
            "shards.recoveries_max",
            &shards.recoveries_max,
            1..=1_024,
        ));
        problems.extend(outside(
            "shards.catch_ups_max",
            &shards.catch_ups_max,
            1..=1_024,
        ));
        problems.extend(ranges(&self.outbound.allow));
        problems.extend(Engines::parse(&self.stores).err().unwrap_or_default());
        problems
    }
}

impl RoleFile for GeoFile {
    const COMMAND: &'static str = "geo";
    const ABOUT: &'static str = "Geo: serves the snapshot to every node.";

    fn shown(&self) -> Self {
        Self {
            stores: self.stores.shown(),
            ..self.clone()
        }
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = common(&self.name, None);
        problems.extend(Databases::of(&self.stores).err().unwrap_or_default());
        problems
    }
}

/// What is wrong where a certificate has no key, or a key no certificate.
pub(super) fn half_of_two(tls_cert: &str, tls_key: &str) -> Option<(&'static str, String)> {
    let (key, other) = match (tls_cert.is_empty(), tls_key.is_empty()) {
        (false, true) => ("tls_key", "tls_cert"),
        (true, false) => ("tls_cert", "tls_key"),
        _ => return None,
    };
    Some((key, format!("{other} is of no use without it")))
}
