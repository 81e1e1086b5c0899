//! What TiKV says about itself before anything is started.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Check;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tikv_client::TimestampExt;

use crate::commit::{commit, fill};
use crate::config::{Config, Tls};
use crate::error::Failure;
use crate::keys::Keys;
use crate::link::{Link, Session};
use crate::metrics::TikvMetrics;
use crate::rooms::{options, snapshot};

/// The oldest major version whose transactions the client knows.
const MAJOR_MIN: u32 = 5;
/// How often a connection is waited for, each time for the configured timeout.
const CONNECT_WAITS: usize = 9;
/// Bytes of an answer of PD that are read.
const ANSWER_MAX: u64 = 1024 * 1024;

/// Connects to the cluster, looks at the versions of PD and of the stores, and writes, reads and
/// removes a key of `region`. Blocks the calling thread, at most a few times the configured timeout.
pub fn check(config: &Config, region: &str) -> Vec<Check> {
    let place = config.place();
    let keys = Keys::new(&config.prefix, region);
    let metrics = TikvMetrics::new(&Metrics::bare());
    let link = Link::new(config.clone(), keys.collected(), metrics);
    let mut checks = Vec::new();
    let what = format!("TiKV at {place}: connection");
    // Connecting may take longer than one wait for it.
    let connected = (0..CONNECT_WAITS).find_map(|_| match link.session() {
        Err(Failure::Unreachable(_)) if link.is_connecting() => None,
        done => Some(done),
    });
    let session = match connected.unwrap_or(Err(Failure::Deadline)) {
        Ok(session) => session,
        Err(failure) => {
            let advice = "start PD and TiKV, or correct the addresses and certificates in the URI";
            checks.push(Check::bad(what, said(&failure, &place, advice)));
            return checks;
        }
    };
    checks.push(Check::good(what, "connected to PD and to a store"));
    checks.push(versions(config));
    checks.push(probe(&session, &keys, &place));
    checks
}

fn said(failure: &Failure, place: &str, advice: &str) -> String {
    format!("{}: {advice}", failure.text(place))
}

/// Writes, reads and removes a key.
fn probe(session: &Session, keys: &Keys, place: &str) -> Check {
    let what = format!("TiKV at {place}: writing, reading and removing a key");
    let tried = probe_key(session, keys);
    match tried {
        Ok(true) => Check::good(what, "works"),
        Ok(false) => Check::bad(
            what,
            "a key that was written was not there when it was read: this is not one cluster",
        ),
        Err(failure) => {
            let advice =
                "see that the stores are up, have a leader for every region and have space";
            Check::bad(what, said(&failure, place, advice))
        }
    }
}

fn probe_key(session: &Session, keys: &Keys) -> Result<bool, Failure> {
    let (key, value) = session.commit("probe", async |client| {
        let mut transaction = client.begin_with_options(options()).await?;
        let writer = transaction.start_timestamp().version();
        let (key, value) = (keys.probe(writer), writer.to_be_bytes().to_vec());
        let writes = vec![(key.clone(), Some(value.clone()))];
        fill(&mut transaction, &writes).await?;
        commit(client, &mut transaction, &writes).await?;
        Ok((key, value))
    })?;
    let found = session.read("probe", async |client| {
        let (mut snapshot, _) = snapshot(client).await?;
        Ok(snapshot.get(key.clone()).await?)
    })?;
    session.commit("probe", async |client| {
        let mut transaction = client.begin_with_options(options()).await?;
        let writes = vec![(key.clone(), None)];
        fill(&mut transaction, &writes).await?;
        commit(client, &mut transaction, &writes).await
    })?;
    Ok(found == Some(value))
}

/// The versions of PD and of the stores, as PD's HTTP interface tells them.
fn versions(config: &Config) -> Check {
    let what = format!("TiKV at {}: versions", config.place());
    let mut why = String::new();
    for endpoint in &config.endpoints {
        match versions_at(config, endpoint) {
            Ok((pd, stores)) => return judge(what, &pd, &stores),
            Err(error) => why = format!("{endpoint}: {error}"),
        }
    }
    Check::bad(
        what,
        format!(
            "PD does not tell them over HTTP ({why}): see that the endpoints are PD's client URLs"
        ),
    )
}

/// A store's address, version and state.
type Store = (String, String, String);

fn versions_at(config: &Config, endpoint: &str) -> Result<(String, Vec<Store>), String> {
    let pd = get(config, endpoint, "/pd/api/v1/version")?;
    let stores = get(config, endpoint, "/pd/api/v1/stores")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let stores = stores["stores"].as_array().cloned().unwrap_or_default();
    let stores = stores.iter().map(|s| {
        let store = &s["store"];
        (
            text(&store["address"]),
            text(&store["version"]),
            text(&store["state_name"]),
        )
    });
    Ok((text(&pd["version"]), stores.collect()))
}

fn judge(what: String, pd: &str, stores: &[Store]) -> Check {
    let up: Vec<&Store> = stores.iter().filter(|(.., state)| state == "Up").collect();
    if up.is_empty() {
        return Check::bad(what, "no store is up: start TiKV");
    }
    let old = |version: &str| major(version).is_some_and(|major| major < MAJOR_MIN);
    if old(pd) {
        return Check::bad(what, format!("PD is {pd}: use {MAJOR_MIN}.0 or newer"));
    }
    if let Some((address, version, _)) = up.iter().find(|(_, version, _)| old(version)) {
        return Check::bad(
            what,
            format!("the store at {address} is {version}: use {MAJOR_MIN}.0 or newer"),
        );
    }
    let mut versions: Vec<&str> = up.iter().map(|(_, version, _)| shown(version)).collect();
    versions.sort_unstable();
    versions.dedup();
    let (count, down) = (up.len(), stores.len() - up.len());
    let found = format!(
        "PD {}, {count} stores up ({}), {down} not",
        shown(pd),
        versions.join(", ")
    );
    Check::good(what, found)
}

fn shown(version: &str) -> &str {
    match major(version) {
        Some(_) => version,
        None => "of an unnumbered build",
    }
}

fn major(version: &str) -> Option<u32> {
    let number = version.strip_prefix('v').unwrap_or(version);
    number.split('.').next()?.parse().ok()
}

/// One request to PD.
fn get(config: &Config, endpoint: &str, path: &str) -> Result<serde_json::Value, String> {
    let stream = connect(endpoint, config.timeout)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    let answer = match &config.tls {
        None => exchange(stream, &request)?,
        Some(tls) => {
            let connection = encrypted(tls, endpoint)?;
            exchange(StreamOwned::new(connection, stream), &request)?
        }
    };
    body(&answer)
}

fn connect(endpoint: &str, timeout: Duration) -> Result<TcpStream, String> {
    let addresses = endpoint.to_socket_addrs().map_err(|e| e.to_string())?;
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                let set = stream
                    .set_read_timeout(Some(timeout))
                    .and_then(|()| stream.set_write_timeout(Some(timeout)));
                return set.map(|()| stream).map_err(|e| e.to_string());
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Result<Vec<u8>, String> {
    let mut answer = Vec::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.take(ANSWER_MAX).read_to_end(&mut answer))
        .map_err(|e| e.to_string())?;
    Ok(answer)
}

fn encrypted(tls: &Tls, endpoint: &str) -> Result<ClientConnection, String> {
    let read = |e: rustls::pki_types::pem::Error| e.to_string();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&tls.ca).map_err(read)? {
        roots.add(root.map_err(read)?).map_err(|e| e.to_string())?;
    }
    let chain = CertificateDer::pem_file_iter(&tls.cert).map_err(read)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(read)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(read)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| e.to_string())?;
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())
}

/// The JSON of an HTTP answer.
fn body(answer: &[u8]) -> Result<serde_json::Value, String> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(end) = end else {
        return Err("the answer is not HTTP".into());
    };
    let (head, body) = answer.split_at(end);
    let status = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let status = String::from_utf8_lossy(status);
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!(
            "the answer is {:?}",
            status.chars().take(60).collect::<String>()
        ));
    }
    serde_json::from_slice(body).map_err(|_| "the answer is not JSON".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(address: &str, version: &str, state: &str) -> Store {
        (address.into(), version.into(), state.into())
    }

    #[test]
    fn versions_are_judged() {
        let good = judge(
            "x".into(),
            "v8.5.1",
            &[store("a:1", "8.5.0", "Up"), store("b:1", "8.5.0", "Down")],
        );
        assert_eq!(
            good.found,
            Ok("PD v8.5.1, 1 stores up (8.5.0), 1 not".into())
        );
        let unnumbered = judge("x".into(), "None", &[store("a:1", "", "Up")]);
        assert!(unnumbered.is_good(), "{unnumbered:?}");
        for (pd, stores, part) in [
            ("v8.5.1", vec![], "no store is up"),
            (
                "v8.5.1",
                vec![store("a:1", "8.5.0", "Down")],
                "no store is up",
            ),
            ("v4.0.1", vec![store("a:1", "8.5.0", "Up")], "PD is v4.0.1"),
            ("v8.5.1", vec![store("a:1", "4.0.9", "Up")], "a:1 is 4.0.9"),
        ] {
            let found = judge("x".into(), pd, &stores).found.expect_err(part);
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn answers_are_read() {
        let good = body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"version\":\"v1\"}").expect("good");
        assert_eq!(good["version"], "v1");
        for bad in [
            &b""[..],
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.0 503 No\r\n\r\n{}",
            b"HTTP/1.0 200 OK\r\n\r\n<html>",
            b"\r\n\r\n",
            b"\xff\xff \r\n\r\n",
        ] {
            assert!(body(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nobody_there_is_said_with_what_to_do() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let config = Config::parse(&format!("tikv://{address}?timeout=2s")).expect("a URI");
        let checks = check(&config, "eu");
        assert_eq!(checks.len(), 1);
        let found = checks[0].found.as_ref().expect_err("nobody is there");
        assert!(found.contains("start PD and TiKV"), "{found}");
    }

    #[test]
    fn files_of_certificates_that_are_not_there_are_named_in_time() {
        let uri = "tikv://127.0.0.1:1?timeout=1s&ca=/nowhere/ca&cert=/nowhere/c&key=/nowhere/k";
        let checks = check(&Config::parse(uri).expect("a URI"), "eu");
        let found = checks[0].found.as_ref().expect_err("no files");
        assert!(found.contains("/nowhere/"), "{found}");
    }
}
