//! What ends a handshake between two honest implementations: certificates, names, roles, versions,
//! addresses, and a process that dies.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use gb6_core_mesh::certs::{Authority, NODE_VALIDITY};
use gb6_core_mesh::{
    BindError, CloseCode, Closed, DialError, Endpoint, FailureReason, HelloError, Link, LocalNode,
    MemoryNetwork, MeshTls, Timing, install_crypto,
};
use gb6_core_model::{NodeId, Role};

use crate::proxy::Proxy;
use crate::world::{authority, identity, local, localhost, soon, timing, tls, tls_from};

fn listen(tls: &MeshTls, local: LocalNode) -> (Endpoint, String) {
    let endpoint = Endpoint::listen(localhost(), tls, local, timing()).unwrap();
    let address = endpoint.local_addr().unwrap().to_string();
    (endpoint, address)
}

fn region(authority: &Authority) -> (Endpoint, String) {
    let tls = tls(authority, "r1", &[Role::Region]);
    listen(&tls, local("r1", &[Role::Region]))
}

fn edge_with(tls: &MeshTls, local: LocalNode) -> Endpoint {
    Endpoint::dial_only(localhost(), tls, local, timing()).unwrap()
}

fn edge(authority: &Authority) -> Endpoint {
    edge_with(
        &tls(authority, "e1", &[Role::Edge]),
        local("e1", &[Role::Edge]),
    )
}

async fn refused(edge: &Endpoint, node: &str, address: &str) -> DialError {
    let error = soon(edge.dial(&NodeId::from(node), Some(address)))
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(edge.stats().dial_failures(error.reason()), 1, "{error}");
    assert_eq!(edge.stats().links_up.get(), 0);
    error
}

/// The region counts the failure, and goes on serving an honest edge.
async fn counted(region: &Endpoint, address: &str, reason: FailureReason, authority: &Authority) {
    soon(async {
        while region.stats().accept_failures(reason) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let honest = edge(authority);
    let node = NodeId::from("r1");
    let (there, here) =
        soon(async { tokio::join!(honest.dial(&node, Some(address)), region.accept()) }).await;
    there.unwrap();
    assert_eq!(here.unwrap().peer().node, NodeId::from("e1"));
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let (region, address) = region(&ours);
    let error = refused(&edge(&theirs), "r1", &address).await;
    assert!(matches!(error, DialError::Certificate { .. }), "{error}");
    counted(&region, &address, FailureReason::Certificate, &ours).await;
}

/// The dialler trusts the listener, but not the other way round.
#[tokio::test]
async fn a_dialler_of_another_authority_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let (region, address) = region(&ours);
    let issued = theirs
        .issue(
            &identity("e1", &[Role::Edge]),
            SystemTime::now(),
            NODE_VALIDITY,
        )
        .unwrap();
    let tls = MeshTls::from_pem(
        ours.certificate_pem(),
        &issued.certificate_pem,
        &issued.key_pem,
    )
    .unwrap();
    let edge = edge_with(&tls, local("e1", &[Role::Edge]));
    let error = refused(&edge, "r1", &address).await;
    assert!(matches!(error, DialError::Certificate { .. }), "{error}");
    counted(&region, &address, FailureReason::Certificate, &ours).await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_both_ways() {
    let authority = authority();
    let past = SystemTime::now() - NODE_VALIDITY - Duration::from_secs(7200);

    let (region, address) = region(&authority);
    let expired = tls_from(&authority, "e1", &[Role::Edge], past);
    let edge = edge_with(&expired, local("e1", &[Role::Edge]));
    let error = refused(&edge, "r1", &address).await;
    assert!(matches!(error, DialError::Certificate { .. }), "{error}");
    counted(&region, &address, FailureReason::Certificate, &authority).await;

    let expired = tls_from(&authority, "r2", &[Role::Region], past);
    let (_region, address) = listen(&expired, local("r2", &[Role::Region]));
    let edge = self::edge(&authority);
    let error = refused(&edge, "r2", &address).await;
    assert!(matches!(error, DialError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn another_node_than_the_dialled_one_is_refused() {
    let authority = authority();
    let (region, address) = region(&authority);
    let error = refused(&edge(&authority), "r2", &address).await;
    assert_eq!(
        error,
        DialError::Hello {
            node: "r2".into(),
            source: HelloError::Unexpected {
                expected: "r2".into(),
                found: "r1".into(),
            },
        }
    );
    counted(&region, &address, FailureReason::Refused, &authority).await;
}

#[tokio::test]
async fn no_common_version_is_refused() {
    let authority = authority();
    let (region, address) = region(&authority);
    let mut newer = local("e1", &[Role::Edge]);
    (newer.version_min, newer.version_max) = (2, 3);
    let edge = edge_with(&tls(&authority, "e1", &[Role::Edge]), newer);
    let error = refused(&edge, "r1", &address).await;
    let DialError::Refused { code, text, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*code, CloseCode::Version);
    assert!(text.contains("speaks 1..=1, the peer 2..=3"), "{text}");
    assert_eq!(error.reason(), FailureReason::Version);
    counted(&region, &address, FailureReason::Version, &authority).await;
}

#[tokio::test]
async fn the_highest_common_version_and_common_features_are_used() {
    let authority = authority();
    let mut newer = local("r1", &[Role::Region]);
    newer.version_max = 4;
    newer.features = vec!["a".into(), "b".into()];
    let (region, address) = listen(&tls(&authority, "r1", &[Role::Region]), newer);
    let mut older = local("e1", &[Role::Edge]);
    older.version_max = 3;
    older.features = vec!["b".into(), "c".into()];
    let edge = edge_with(&tls(&authority, "e1", &[Role::Edge]), older);
    let node = NodeId::from("r1");
    let (there, here) =
        soon(async { tokio::join!(edge.dial(&node, Some(&address)), region.accept()) }).await;
    for link in [there.unwrap(), here.unwrap()] {
        assert_eq!(link.peer().version, 3);
        assert_eq!(link.peer().features, ["b"]);
    }
}

#[tokio::test]
async fn a_node_may_act_in_fewer_roles_than_its_certificate_has_but_not_in_more() {
    let authority = authority();
    let both = tls(&authority, "n1", &[Role::Edge, Role::Region]);
    let (region, address) = listen(&both, local("n1", &[Role::Region]));
    let edge = edge(&authority);
    let node = NodeId::from("n1");
    let (there, _here) =
        soon(async { tokio::join!(edge.dial(&node, Some(&address)), region.accept()) }).await;
    assert_eq!(there.unwrap().peer().roles, [Role::Region]);

    let claims = [
        local("e1", &[Role::Edge, Role::Region]),
        local("e2", &[Role::Edge]),
    ];
    for claim in claims {
        let tls = tls(&authority, "e1", &[Role::Edge]);
        let error = Endpoint::dial_only(localhost(), &tls, claim, timing()).unwrap_err();
        assert!(matches!(error, BindError::Identity { .. }), "{error}");
    }
}

#[tokio::test]
async fn bad_addresses_are_told_apart() {
    let authority = authority();
    let edge = edge(&authority);
    let node = NodeId::from("r1");
    let dial = async |address| {
        soon(edge.dial(&node, address))
            .await
            .map(|_| ())
            .unwrap_err()
    };
    assert_eq!(dial(None).await, DialError::NoAddress("r1".into()));
    for bad in ["", "no-port", "127.0.0.1:notaport"] {
        let error = dial(Some(bad)).await;
        assert!(matches!(error, DialError::Resolve { .. }), "{bad}: {error}");
    }
    // A socket that never answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let error = dial(Some(&address)).await;
    assert!(
        matches!(
            error,
            DialError::Timeout { .. } | DialError::Unreachable { .. }
        ),
        "{error}"
    );
    assert_eq!(edge.stats().dial_failures(FailureReason::Address), 4);
}

/// The peer's process dies: nothing is said, its socket is gone.
#[test]
fn a_dead_process_is_noticed_within_the_idle_timeout() {
    install_crypto();
    let authority = authority();
    let peer = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let here = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (endpoint, address) = peer.block_on(async { region(&authority) });
    let accepting = peer.spawn({
        let endpoint = endpoint.clone();
        async move { endpoint.accept().await.unwrap() }
    });
    let (_edge, link): (Endpoint, Link) = here.block_on(soon(async {
        let edge = edge(&authority);
        let link = edge.dial(&"r1".into(), Some(&address)).await.unwrap();
        (edge, link)
    }));
    let accepted = peer.block_on(accepting).unwrap();
    // Nothing of it runs any more, so that no destructor can say goodbye.
    std::mem::forget((endpoint, accepted));
    peer.shutdown_background();

    let died = std::time::Instant::now();
    let reason = here.block_on(soon(link.closed()));
    assert!(
        matches!(reason, Closed::TimedOut | Closed::Lost(_)),
        "{reason}"
    );
    // The idle timeout, and as much again for a busy machine.
    assert!(
        died.elapsed() < 2 * timing().idle + Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
}

/// A region was killed and its next process has its address: the edge is told at its next packet
/// that the link is gone, long before the idle timeout.
#[tokio::test]
async fn a_restarted_node_resets_links_of_its_last_process() {
    let authority = authority();
    let patient = Timing {
        idle: Duration::from_secs(600),
        ..timing()
    };
    let certificate = tls(&authority, "r1", &[Role::Region]);
    let start = || {
        let local = local("r1", &[Role::Region]);
        Endpoint::listen(localhost(), &certificate, local, patient).unwrap()
    };
    let (killed, restarted) = (start(), start());
    let edge = Endpoint::dial_only(
        localhost(),
        &tls(&authority, "e1", &[Role::Edge]),
        local("e1", &[Role::Edge]),
        patient,
    )
    .unwrap();
    let proxy = Proxy::start(killed.local_addr().unwrap()).await;
    let (node, address) = (NodeId::from("r1"), proxy.addr().to_string());
    let (link, _other) =
        soon(async { tokio::join!(edge.dial(&node, Some(&address)), killed.accept()) }).await;
    let link = link.unwrap();
    proxy.redirect(restarted.local_addr().unwrap());
    let reason = soon(link.closed()).await;
    assert!(matches!(reason, Closed::Lost(_)), "{reason}");
    let (again, _other) =
        soon(async { tokio::join!(edge.dial(&node, Some(&address)), restarted.accept()) }).await;
    assert_eq!(again.unwrap().close_reason(), None);
}

#[tokio::test]
async fn the_port_in_use_is_named() {
    let authority = authority();
    let (_region, address) = region(&authority);
    let addr: SocketAddr = address.parse().unwrap();
    let tls = tls(&authority, "r2", &[Role::Region]);
    let error = Endpoint::listen(addr, &tls, local("r2", &[Role::Region]), timing()).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn the_same_checks_hold_in_memory() {
    let network = MemoryNetwork::new();
    let region = network
        .bind(local("r1", &[Role::Region]), timing())
        .unwrap();
    let mut newer = local("e1", &[Role::Edge]);
    newer.version_min = 2;
    newer.version_max = 2;
    let edge = network.bind(newer, timing()).unwrap();
    let error = edge.dial(&"r1".into(), None).await.map(|_| ()).unwrap_err();
    assert_eq!(error.reason(), FailureReason::Version);
    assert_eq!(region.stats().accept_failures(FailureReason::Version), 1);
    assert_eq!(edge.stats().dial_failures(FailureReason::Version), 1);
}
