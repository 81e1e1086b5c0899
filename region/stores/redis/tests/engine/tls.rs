//! TLS: the contracts over it with certificates on both sides, and servers that are not who they should
//! be.

use std::path::Path;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{LimitKey, RateLimiter, Want};
use gb6_region_stores_redis::{Config, RedisLimiter};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::cluster::Cluster;
use crate::contract::{hold, with};
use crate::server::{Server, free_port, metric, region, runtime, until};

/// Writes an authority, and a certificate of it for 127.0.0.1, as `NAME-ca.pem`, `NAME.pem`, `NAME.key`.
fn certificates(dir: &Path, name: &str) {
    let write = |file: String, pem: String| std::fs::write(dir.join(file), pem).expect("written");
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    // OpenSSL takes a certificate of one name, subject and issuer, for one that signed itself.
    authority.distinguished_name.push(DnType::CommonName, name);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = authority.self_signed(&key).expect("an authority");
    write(format!("{name}-ca.pem"), made.pem());
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    write(format!("{name}.pem"), leaf.pem());
    write(format!("{name}.key"), key.serialize_pem());
}

/// The arguments of a server that speaks nothing but TLS, on `port`.
fn guarded(dir: &Path, port: u16) -> Vec<String> {
    let path = |file: &str| dir.join(file).display().to_string();
    [
        "--port",
        "0",
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("a.pem"),
        "--tls-key-file",
        &path("a.key"),
        "--tls-ca-cert-file",
        &path("a-ca.pem"),
        "--tls-auth-clients",
        "yes",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn server(dir: &Path) -> Server {
    let port = free_port();
    let args = guarded(dir, port);
    Server::start_at(port, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn the_contracts_hold_over_tls_with_certificates_on_both_sides() {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path(), "a");
    let server = server(dir.path());
    let path = |file: &str| dir.path().join(file).display().to_string();
    let (ca, cert, key) = (path("a-ca.pem"), path("a.pem"), path("a.key"));
    let options = format!("ca_file={ca}&cert_file={cert}&key_file={key}&lease_ms=2000");
    hold(&with(
        &format!("rediss://127.0.0.1:{}", server.port),
        &options,
    ));
}

/// What docs/operations.md shows: all that the masters tell of each other is over TLS too.
#[test]
fn the_contracts_hold_on_a_cluster_over_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path(), "a");
    let path = |file: &str| dir.path().join(file).display().to_string();
    let (ca, cert, key) = (path("a-ca.pem"), path("a.pem"), path("a.key"));
    let login = ["--tls", "--cacert", &ca, "--cert", &cert, "--key", &key];
    let cluster = Cluster::start_with(&login, |port| {
        let mut args = guarded(dir.path(), port);
        for arg in ["--tls-cluster", "yes", "--tls-replication", "yes"] {
            args.push(arg.to_owned());
        }
        args
    });
    let uri = cluster.uri().replace("redis+", "rediss+");
    let options = format!("ca_file={ca}&cert_file={cert}&key_file={key}&lease_ms=2000");
    hold(&with(&uri, &options));
    for server in &cluster.servers {
        let stats = server.command_with(&login, &["info", "commandstats"]);
        assert!(stats.contains("cmdstat_spublish"), "{stats}");
    }
}

fn want() -> Want {
    Want {
        key: LimitKey {
            instance: "demo".into(),
            user: None,
        },
        demand: 1,
    }
}

#[test]
fn a_server_of_another_authority_and_one_without_tls_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path(), "a");
    certificates(dir.path(), "b");
    let (tls, plain) = (server(dir.path()), Server::start(&[]));
    let other = dir.path().join("b-ca.pem").display().to_string();
    for (server, options) in [(&tls, format!("?ca_file={other}")), (&plain, String::new())] {
        let uri = format!("rediss://127.0.0.1:{}{options}", server.port);
        let config = Config::parse(&uri).expect("a URI");
        let (runtime, metrics) = (runtime(), Metrics::bare());
        let limits = RedisLimiter::open(&config, &region(), runtime.handle(), &metrics);
        let refused = || {
            let error = limits
                .lease("e1", &[want()], 0)
                .expect_err("it must not connect")
                .to_string();
            !error.contains("not connected yet")
        };
        until("the reason is known", refused);
        assert!(!limits.is_connected());
        assert_eq!(metric(&metrics, "gb6_redis_up", "limits"), 0.0);
    }
}
