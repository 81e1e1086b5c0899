//! A Kafka of its own that speaks TLS and asks for logins: the contract over both, and everybody who is not
//! let in is told why.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gb6_core_model::ShardId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::contract;
use gb6_core_ports::contract::log::{acquire, append, everything, fence, messages};
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{ShardLog, StoreError};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_kafka::{Config, KafkaEvents, KafkaLogs, check};
use gb6_tests_harness::engines::{Engine, Kind};

use crate::cluster::{REGION, Region, SHARDS, Shard, runtime, unused_prefix};

/// Of `scripts/engine.sh`.
const USER: &str = "guarded";
const PASSWORD: &str = "open%20sesame";

/// One Kafka for all tests here. It ends with the process.
struct Secure {
    engine: Engine,
    _directory: tempfile::TempDir,
}

impl Secure {
    fn get() -> &'static Self {
        static ONE: OnceLock<Secure> = OnceLock::new();
        ONE.get_or_init(|| {
            let directory = tempfile::tempdir().expect("a directory");
            let place = directory.path().join("kafka");
            let started = runtime().block_on(Engine::start(Kind::Kafka, &place, &["--tls"]));
            Secure {
                engine: started.expect("Kafka with TLS"),
                _directory: directory,
            }
        })
    }

    fn file(&self, name: &str) -> String {
        let file = self.engine.directory().join("tls").join(name);
        file.display().to_string()
    }

    /// An unused prefix at the listener that wants a certificate, with these files.
    fn by_certificate(&self, ca: &str, client: Option<&str>) -> String {
        let (at, prefix) = (&self.engine.addresses()[1], unused_prefix());
        let ours = client.map_or(String::new(), |name| {
            let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
            format!(
                "&cert_file={}&key_file={}",
                self.file(&cert),
                self.file(&key)
            )
        });
        let ca = self.file(ca);
        format!("{at}/{prefix}?replication=1&min_insync=1&security=ssl&ca_file={ca}{ours}")
    }

    /// An unused prefix at the listener that wants a login.
    fn by_login(&self, user: &str, mechanism: &str, ca: &str) -> String {
        let (at, prefix, ca) = (&self.engine.addresses()[2], unused_prefix(), self.file(ca));
        format!(
            "{user}@{at}/{prefix}?replication=1&min_insync=1&security=sasl_ssl&mechanism={mechanism}&ca_file={ca}"
        )
    }
}

fn shard(uri: &str) -> Shard {
    Shard {
        logs: Region::at(uri).logs(),
    }
}

#[test]
fn the_contract_is_kept_with_certificates_on_both_sides() {
    let secure = Secure::get();
    contract::log::all(|| shard(&secure.by_certificate("ca.pem", Some("client"))));
}

#[test]
fn the_contract_is_kept_over_tls_with_a_password_from_a_file() {
    let secure = Secure::get();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "open sesame\n").expect("written");
    let uri = || {
        let uri = secure.by_login(USER, "scram-sha-512", "ca.pem");
        format!("{uri}&password_file={}", file.path().display())
    };
    contract::log::all(|| shard(&uri()));
}

#[test]
fn every_mechanism_lets_the_right_password_in() {
    let secure = Secure::get();
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let uri = secure.by_login(&format!("{USER}:{PASSWORD}"), mechanism, "ca.pem");
        let region = Region::at(&uri);
        let log = region.logs().open_shard(ShardId(3)).expect("opened");
        acquire(&log, &fence(1)).expect("acquired");
        append(&log, &fence(1), messages(1, "room:a", 3)).expect("appended");
        assert_eq!(
            everything(&log).len() as u64,
            log.range().expect("a range").next
        );
        let (config, metrics) = (&region.config, &region.metrics);
        KafkaEvents::open(config, REGION, SHARDS, runtime(), metrics).expect("events too");
        let checks = check(config, REGION, SHARDS, runtime());
        assert!(checks.iter().all(|check| check.is_good()), "{checks:?}");
    }
}

#[test]
fn who_is_not_let_in_is_told_why_and_in_time() {
    let secure = Secure::get();
    let right = format!("{USER}:{PASSWORD}");
    let login = |user: &str, mechanism: &str, ca: &str| secure.by_login(user, mechanism, ca);
    let clear = |user: &str, at: usize, security: &str| {
        let at = &secure.engine.addresses()[at];
        format!("{user}{at}/x?replication=1&min_insync=1&security={security}")
    };
    let wants = "user, password, mechanism or security=";
    let tls = "is the port one with TLS, and ca_file the authority";
    let listener = "are security=, cert_file and key_file what their listeners want";
    let all = [
        (login("guarded:hush", "plain", "ca.pem"), wants),
        (login("guarded:hush", "scram-sha-256", "ca.pem"), wants),
        (login("guarded:hush", "scram-sha-512", "ca.pem"), wants),
        (login("nobody:hush", "scram-sha-512", "ca.pem"), wants),
        (login(&right, "scram-sha-512", "other-ca.pem"), tls),
        (secure.by_certificate("other-ca.pem", Some("client")), tls),
        // In TLS 1.3 the broker looks at a client's certificate when the client holds itself for
        // connected: what it sees is a connection that ends.
        (secure.by_certificate("ca.pem", None), listener),
        (
            secure.by_certificate("ca.pem", Some("other-client")),
            listener,
        ),
        (clear("", 1, "plaintext"), listener),
        (clear(&format!("{right}@"), 2, "sasl_plaintext"), listener),
    ];
    // At once: each takes the time that brokers are given to answer.
    std::thread::scope(|scope| {
        for (uri, advice) in &all {
            scope.spawn(|| refused(uri, advice));
        }
    });
}

/// Panics unless the log and the check refuse `uri` with `advice`, and without its password.
fn refused(uri: &str, advice: &str) {
    let config = Config::parse(&format!("kafka://{uri}")).expect("a URI");
    let metrics = Metrics::bare();
    let blobs = Arc::new(MemoryBlobs::default());
    let archives = Archives::new(blobs, REGION, "node", ArchiveConfig::default(), &metrics);
    let began = Instant::now();
    let opened = KafkaLogs::open(&config, REGION, SHARDS, archives, runtime(), &metrics);
    let took = began.elapsed();
    let error = opened.err().unwrap_or_else(|| panic!("{uri} is let in"));
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(took < Duration::from_secs(20), "{uri}: {took:?}");
    let check = check(&config, REGION, SHARDS, runtime()).remove(0);
    let found = check.found.expect_err(uri);
    for said in [error.to_string(), found, check.what] {
        assert!(!said.contains("hush") && !said.contains("sesame"), "{said}");
    }
    assert!(error.to_string().contains(advice), "{uri}: {error}");
}
