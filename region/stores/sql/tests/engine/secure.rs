//! A PostgreSQL of its own that speaks TLS and asks for a password.

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::StoreError;
use gb6_core_ports::contract::map as contract;
use gb6_region_stores_sql::{Config, Holds, SqlMap, check};
use tokio::runtime::Runtime;

use crate::map::open;
use crate::server::{Server, directory};

/// Of `scripts/engine.sh`: the user, its password, and its database.
const USER: &str = "guarded";
const PASSWORD: &str = "open sesame";

#[test]
fn certificates_and_passwords_are_what_sslmode_asks_for() {
    let (runtime, dir) = (Runtime::new().unwrap(), directory());
    let server = Server::start(&runtime, dir.path(), &["--tls"]);
    let address = server.addresses().remove(0);
    let (_, port) = address.rsplit_once(':').unwrap();
    let pem = |name: &str| dir.path().join("tls").join(name).display().to_string();
    let (ca, other) = (pem("ca.pem"), pem("other-ca.pem"));
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let uri = |host: &str, login: &str, options: &str| {
        format!("postgres://{login}@{host}:{port}/{USER}?{options}")
    };
    let given = format!("{USER}:{}", PASSWORD.replace(' ', "%20"));
    let by_file = format!("password_file={}", file.display());
    let full = |ca: &str| format!("sslmode=verify-full&sslrootcert={ca}&timeout_ms=20000");

    let good = uri("127.0.0.1", USER, &format!("{by_file}&{}", full(&ca)));
    contract::all(&|| Box::new(open(&runtime, &good)));
    let config = Config::parse(&good).unwrap();
    let checks = check(&config, Holds::Map, runtime.handle().clone());
    let encrypted = checks.iter().find(|c| c.what.ends_with("encryption"));
    assert_eq!(encrypted.unwrap().found.as_deref(), Ok("TLS"), "{checks:?}");
    assert!(checks.iter().all(|c| c.is_good()), "{checks:?}");
    // Its name, and a mode that does not ask for the name: the certificate does not have 127.0.0.2.
    let by_authority = format!("sslmode=verify-ca&sslrootcert={ca}");
    for uri in [
        uri("localhost", &given, &full(&ca)),
        uri("127.0.0.2", &given, &by_authority),
        uri("127.0.0.1", &given, "sslmode=require"),
    ] {
        open(&runtime, &uri);
    }

    for (uri, says) in [
        (uri("127.0.0.2", &given, &full(&ca)), "certificate"),
        (uri("127.0.0.1", &given, &full(&other)), "certificate"),
        // Without an authority of one's own it is the public ones that count.
        (
            uri("127.0.0.1", &given, "sslmode=verify-full"),
            "certificate",
        ),
        (uri("127.0.0.1", "guarded:hush", &full(&ca)), "password"),
        (uri("127.0.0.1", USER, &full(&ca)), "password"),
    ] {
        let config = Config::parse(&uri).unwrap();
        let opened = SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare());
        let error = opened.err().unwrap_or_else(|| panic!("{uri} is let in"));
        let StoreError::Unavailable { cause } = &error else {
            panic!("{uri}: {error}");
        };
        assert!(cause.contains(says), "{uri}: {cause}");
        let found = check(&config, Holds::Map, runtime.handle().clone()).remove(0);
        let said = found.found.expect_err("a check that fails");
        assert!(said.contains(says), "{said}");
        for text in [&said, cause] {
            assert!(!text.contains("hush") && !text.contains("sesame"), "{text}");
        }
    }

    // A server without TLS is not taken by who asks for it.
    let plain_dir = directory();
    let plain = Server::start(&runtime, plain_dir.path(), &[]);
    let plain = plain.addresses().remove(0);
    let config = Config::parse(&format!("postgres://gb6@{plain}/gb6?{}", full(&ca))).unwrap();
    let opened = SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare());
    let error = opened.expect_err("no TLS, and it is let in").to_string();
    assert!(error.contains("TLS"), "{error}");
}
