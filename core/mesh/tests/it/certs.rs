//! The authority's files and the identity in a certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use gb6_core_mesh::certs::{self, CertError};
use gb6_core_mesh::identity::IdentityError;
use gb6_core_mesh::{MeshTls, NodeIdentity, TlsError, install_crypto};
use gb6_core_model::{NodeId, Role};

use crate::world::identity;

#[test]
fn an_authority_and_a_node_are_made_once() {
    install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let (ca_dir, out) = (dir.path().join("mesh/ca"), dir.path().join("nodes"));
    let now = SystemTime::now();
    let ca = certs::create_ca(&ca_dir, now).unwrap();
    assert_eq!(ca.certificate, ca_dir.join("ca.pem"));
    assert_eq!(ca.key, ca_dir.join("ca.key"));
    let e1 = identity("e1", &[Role::Region, Role::Edge]);
    let node = certs::create_node(&ca_dir, &out, &e1, now).unwrap();
    assert_eq!(node.certificate, out.join("e1.pem"));
    for key in [&ca.key, &node.key] {
        let mode = fs::metadata(key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key:?}");
    }
    let tls = MeshTls::load(&ca.certificate, &node.certificate, &node.key).unwrap();
    assert_eq!(tls.identity(), &e1);
    assert_eq!(e1.roles, [Role::Edge, Role::Region]);

    let before = fs::read(&ca.key).unwrap();
    assert!(matches!(
        certs::create_ca(&ca_dir, now),
        Err(CertError::Exists(path)) if path == ca.key
    ));
    assert!(matches!(
        certs::create_node(&ca_dir, &out, &e1, now),
        Err(CertError::Exists(path)) if path == node.key
    ));
    assert_eq!(fs::read(&ca.key).unwrap(), before);

    // Half of a pair is not completed, and nothing is left behind.
    fs::remove_file(&node.key).unwrap();
    assert!(matches!(
        certs::create_node(&ca_dir, &out, &e1, now),
        Err(CertError::Exists(path)) if path == node.certificate
    ));
    assert!(!node.key.exists());
}

#[test]
fn bad_files_are_named() {
    install_crypto();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let now = SystemTime::now();
    let e1 = identity("e1", &[Role::Edge]);
    let error = certs::create_node(dir.path(), dir.path(), &e1, now).unwrap_err();
    assert!(matches!(error, CertError::Read { .. }), "{error}");
    assert!(error.to_string().contains("gb6 cert ca"), "{error}");

    let ca = certs::create_ca(dir.path(), now).unwrap();
    let node = certs::create_node(dir.path(), dir.path(), &e1, now).unwrap();
    let error = MeshTls::load(&at("none.pem"), &node.certificate, &node.key).unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
    // A key where a certificate belongs, another's key, and an authority as a node.
    assert!(MeshTls::load(&node.key, &node.certificate, &node.key).is_err());
    let error = MeshTls::load(&ca.certificate, &node.certificate, &ca.key).unwrap_err();
    assert!(matches!(error, TlsError::Unusable(_)), "{error}");
    let error = MeshTls::load(&ca.certificate, &ca.certificate, &ca.key).unwrap_err();
    assert!(
        matches!(error, TlsError::Identity(IdentityError::NoNode)),
        "{error}"
    );

    fs::write(&ca.key, "nonsense").unwrap();
    let e2 = identity("e2", &[Role::Edge]);
    let error = certs::create_node(dir.path(), dir.path(), &e2, now).unwrap_err();
    assert!(matches!(error, CertError::BadAuthority { .. }), "{error}");
}

#[test]
fn identities_have_a_name_and_a_role() {
    let node = NodeId::from("e1");
    assert_eq!(
        NodeIdentity::new("e1", []),
        Err(IdentityError::NoRole(node))
    );
    for bad in ["", "E1", "e 1", "e1.x", "1e"] {
        assert_eq!(
            NodeIdentity::new(bad, [Role::Edge]),
            Err(IdentityError::Name(bad.into()))
        );
    }
    let uris = identity("e1", &[Role::Geo, Role::Edge, Role::Geo]).to_uris();
    assert_eq!(uris, ["gb6:node:e1", "gb6:role:edge", "gb6:role:geo"]);
}

#[test]
fn garbage_is_no_certificate() {
    for der in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0; 500]] {
        let error = NodeIdentity::from_certificate(&der.into()).unwrap_err();
        assert!(matches!(error, IdentityError::Unreadable(_)), "{error}");
    }
}
