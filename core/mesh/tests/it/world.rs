//! Two nodes with a link between them, of either kind, and a way to cut it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use gb6_core_mesh::certs::{Authority, NODE_VALIDITY};
use gb6_core_mesh::{
    Endpoint, Link, LocalNode, MemoryNetwork, MeshTls, NodeIdentity, Timing, install_crypto,
};
use gb6_core_model::{Incarnation, NodeId, Role};
use gb6_core_wire::mesh::{Purpose, ShardRef, StreamOpen};

use crate::proxy::Proxy;

/// Nothing in these tests takes so long; waiting for it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn timing() -> Timing {
    Timing {
        keep_alive: Duration::from_millis(100),
        idle: Duration::from_secs(2),
        handshake: Duration::from_millis(600),
        open: Duration::from_millis(400),
    }
}

pub(crate) fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn identity(node: &str, roles: &[Role]) -> NodeIdentity {
    NodeIdentity::new(node, roles.iter().copied()).unwrap()
}

pub(crate) fn local(node: &str, roles: &[Role]) -> LocalNode {
    LocalNode::new(identity(node, roles), Incarnation(7))
}

pub(crate) fn authority() -> Authority {
    install_crypto();
    Authority::create(SystemTime::now()).unwrap().0
}

pub(crate) fn tls(authority: &Authority, node: &str, roles: &[Role]) -> MeshTls {
    tls_from(authority, node, roles, SystemTime::now())
}

pub(crate) fn tls_from(
    authority: &Authority,
    node: &str,
    roles: &[Role],
    from: SystemTime,
) -> MeshTls {
    let issued = authority
        .issue(&identity(node, roles), from, NODE_VALIDITY)
        .unwrap();
    MeshTls::from_pem(
        authority.certificate_pem(),
        &issued.certificate_pem,
        &issued.key_pem,
    )
    .unwrap()
}

/// Waits for something that must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it did not happen in time")
}

pub(crate) fn shard(n: u32) -> StreamOpen {
    StreamOpen {
        purpose: Some(Purpose::Shard(ShardRef {
            region: "eu".into(),
            shard: n,
        })),
    }
}

enum Path {
    Udp(Proxy),
    Memory(MemoryNetwork),
}

/// Edge e1 dialled region r1.
pub(crate) struct World {
    pub(crate) edge: Endpoint,
    pub(crate) region: Endpoint,
    pub(crate) at_edge: Link,
    pub(crate) at_region: Link,
    path: Path,
}

impl World {
    pub(crate) async fn quic() -> Self {
        let authority = authority();
        let region = Endpoint::listen(
            localhost(),
            &tls(&authority, "r1", &[Role::Region]),
            local("r1", &[Role::Region]),
            timing(),
        )
        .unwrap();
        let edge = Endpoint::dial_only(
            localhost(),
            &tls(&authority, "e1", &[Role::Edge]),
            local("e1", &[Role::Edge]),
            timing(),
        )
        .unwrap();
        let proxy = Proxy::start(region.local_addr().unwrap()).await;
        let address = proxy.addr().to_string();
        Self::dialled(edge, region, Some(&address), Path::Udp(proxy)).await
    }

    pub(crate) async fn memory() -> Self {
        let network = MemoryNetwork::new();
        let region = network
            .bind(local("r1", &[Role::Region]), timing())
            .unwrap();
        let edge = network.bind(local("e1", &[Role::Edge]), timing()).unwrap();
        Self::dialled(edge, region, None, Path::Memory(network)).await
    }

    async fn dialled(edge: Endpoint, region: Endpoint, address: Option<&str>, path: Path) -> Self {
        let node = NodeId::from("r1");
        let (at_edge, at_region) =
            soon(async { tokio::join!(edge.dial(&node, address), region.accept()) }).await;
        Self {
            edge,
            region,
            at_edge: at_edge.unwrap(),
            at_region: at_region.unwrap(),
            path,
        }
    }

    /// Nothing passes between the two any more; neither is told.
    pub(crate) fn cut(&self) {
        match &self.path {
            Path::Udp(proxy) => proxy.cut(),
            Path::Memory(network) => network.cut(&"e1".into(), &"r1".into()),
        }
    }
}
