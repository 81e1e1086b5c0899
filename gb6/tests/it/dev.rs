//! `gb6 dev`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::{Node, gb6, get, printed, refused, run};

/// `gb6 dev` on a free port, with its data in `dir`/data.
pub(crate) fn dev(dir: &Path) -> Command {
    let mut command = gb6(dir);
    command.args(["dev", "--data-dir", "data", "--http", "127.0.0.1:0"]);
    command
}

/// Bytes on disk, which a preallocated file takes too.
fn disk_use(dir: &Path) -> u64 {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let below = if meta.is_dir() {
                disk_use(&entry.path())
            } else {
                0
            };
            meta.blocks() * 512 + below
        })
        .sum()
}

/// What a token says.
fn claims(token: &str) -> serde_json::Value {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "{token}");
    let json = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn says_what_programs_and_people_need() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dev(dir.path()));
    let keys: Vec<&str> = node
        .ready
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for key in [
        "ready",
        "version",
        "pid",
        "instance",
        "http",
        "ws",
        "quic",
        "quic_cert_sha256",
        "hmac_secret",
        "api_key",
        "tokens",
        "data_dir",
    ] {
        assert!(keys.contains(&key), "{key} is not in {keys:?}");
    }
    assert_eq!(node.ready["ready"], true);
    assert_eq!(node.ready["pid"], node.pid());
    assert_eq!(node.text("instance"), "demo");
    assert_eq!(
        node.text("ws"),
        format!("ws://{}/connection/websocket", node.http())
    );
    let quic: SocketAddr = node.text("quic").parse().unwrap();
    assert!(quic.ip().is_loopback() && quic.port() != 0, "{quic}");
    // It is held by the process.
    assert!(UdpSocket::bind(quic).is_err(), "{quic}");
    let digest = node.text("quic_cert_sha256");
    assert!(
        digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()),
        "{digest}"
    );
    let tokens = node.ready["tokens"].as_object().unwrap();
    let users: Vec<&str> = tokens.keys().map(String::as_str).collect();
    assert_eq!(users, ["alice", "bob"]);
    for (user, token) in tokens {
        let claims = claims(token.as_str().unwrap());
        assert_eq!(claims["sub"], **user);
        let time = |claim: &str| claims[claim].as_i64().unwrap();
        assert_eq!(time("exp") - time("iat"), 3600, "{claims}");
        let age = UNIX_EPOCH.elapsed().unwrap().as_secs() as i64 - time("iat");
        assert!((0..60).contains(&age), "made {age} s ago");
    }

    assert_eq!(get(node.http(), "/readyz").0, 200);
    assert_eq!(get(node.http(), "/healthz").0, 200);
    assert!(get(node.http(), "/").1.contains("<!doctype html>"));
    let metrics = get(node.http(), "/metrics").1;
    for metric in ["gb6_mesh_links{", "gb6_log_syncs_total{"] {
        assert!(metrics.contains(metric), "{metric}");
    }
    // A fresh directory stays small, although the next segments are there already.
    assert!(disk_use(&dir.path().join("data")) < 32 * 1024 * 1024);

    let address = node.text("http").to_owned();
    let (status, more, said) = node.stop();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(more.is_empty(), "more lines on standard output: {more:?}");
    for words in [address.as_str(), "no rate limit", "gb6 token create"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

#[test]
fn keys_survive_and_are_for_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dev(dir.path()));
    let secret = node.text("hmac_secret").to_owned();
    let api_key = node.text("api_key").to_owned();
    assert!(api_key.starts_with("gb6_demo_"), "{api_key}");
    drop(node);
    let node = Node::start(dev(dir.path()));
    assert_eq!(node.text("hmac_secret"), secret);
    assert_eq!(node.text("api_key"), api_key);
    for file in ["keys.json", "record-keys.json"] {
        let mode = fs::metadata(dir.path().join("data").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let token = printed(
        dir.path(),
        &["token", "create", "--data-dir", "data", "--user", "carol"],
    );
    assert_eq!(token.trim_end().split('.').count(), 3);
    assert_eq!(token.lines().count(), 1);
    let (_, _, said) = node.stop();
    for secret in [&secret, &api_key] {
        assert!(!said.contains(secret), "a secret is told to people");
    }
}

#[test]
fn a_directory_or_port_that_is_in_use_names_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dev(dir.path()));
    let holder = format!("process {}", node.pid());
    let said = refused(
        dir.path(),
        &["dev", "--data-dir", "data", "--http", "127.0.0.1:0"],
        1,
    );
    assert!(said.contains(&holder), "{said}");

    let addr = node.http().to_string();
    let said = refused(
        dir.path(),
        &["dev", "--data-dir", "other", "--http", &addr],
        1,
    );
    assert!(said.contains(&holder) && said.contains("--http"), "{said}");
}

#[test]
fn the_doctor_knows_a_gb6_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dev(dir.path()));
    let addr = node.http().to_string();
    let output = run(dir.path(), &["doctor", "--http", &addr]);
    let found = String::from_utf8(output.stdout).unwrap();
    let line = format!(
        "ok    tcp    {addr} is in use by a gb6 that runs, process {} (gb6)",
        node.pid()
    );
    assert!(found.lines().any(|l| l == line), "{found}");
}

#[test]
fn messages_without_their_keys_are_not_given_up_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let (status, ..) = Node::start(dev(dir.path())).stop();
    assert!(status.success());
    fs::remove_file(dir.path().join("data/record-keys.json")).unwrap();
    let said = refused(
        dir.path(),
        &["dev", "--data-dir", "data", "--http", "127.0.0.1:0"],
        1,
    );
    assert!(said.contains("record-keys.json is gone"), "{said}");
}

#[test]
fn a_second_signal_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dev(dir.path()));
    // Somebody who does not answer the close frame keeps the drain from ending by itself.
    let mut client = TcpStream::connect(node.http()).unwrap();
    write!(
        client,
        "GET /connection/websocket HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        node.http()
    )
    .unwrap();
    // The answer to a ping shows that the session has begun.
    client.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(&[0x8a, 0]) {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{answer:?}");
    // Two at once are one request; one that comes later is a second.
    node.signal("-TERM");
    node.signal("-TERM");
    // What the session is told shows that the request was heard.
    client.read_exact(&mut [0]).unwrap();
    std::thread::sleep(Duration::from_millis(400));
    node.signal("-INT");
    let (status, _, said) = node.wait_end();
    assert_eq!(status.code(), Some(130), "{said}");
}

#[test]
fn logs_can_be_looked_at_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let (status, ..) = Node::start(dev(dir.path())).stop();
        assert!(status.success());
    }
    let shown = printed(dir.path(), &["log", "inspect", "data"]);
    assert_eq!(shown.matches("shard epoch 2").count(), 4, "{shown}");
    assert!(
        shown.contains("segment ") && shown.contains("local/0"),
        "{shown}"
    );
    let whole = printed(dir.path(), &["log", "verify", "data"]);
    assert_eq!(whole.matches(": whole;").count(), 4, "{whole}");

    // A damaged checkpoint is told apart from a damaged log.
    let files = fs::read_dir(dir.path().join("data/shards/3")).unwrap();
    let checkpoint = files
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "ckpt"));
    let checkpoint = checkpoint.unwrap();
    let sound = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, &sound[..sound.len() - 1]).unwrap();
    let output = run(dir.path(), &["log", "verify", "data"]);
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{found}");
    assert!(
        found.contains(".ckpt") && found.contains("harmless"),
        "{found}"
    );
    fs::write(&checkpoint, sound).unwrap();

    let segments = fs::read_dir(dir.path().join("data/shards/0")).unwrap();
    let mut segments: Vec<_> = segments
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    segments.sort();
    let mut bytes = fs::read(&segments[0]).unwrap();
    let middle = bytes.iter().rposition(|b| *b != 0).unwrap() / 2;
    bytes[middle] ^= 1;
    fs::write(&segments[0], bytes).unwrap();
    let output = run(dir.path(), &["log", "verify", "data"]);
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{found}");
    assert_eq!(found.matches(": whole;").count(), 3, "{found}");
    let said = refused(dir.path(), &["log", "inspect", "nothing/here"], 1);
    assert!(said.contains("nothing/here"), "{said}");
}

#[test]
fn a_taken_udp_port_is_told_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let quic = held.local_addr().unwrap().to_string();
    let args = [
        "dev",
        "--data-dir",
        "data",
        "--http",
        "127.0.0.1:0",
        "--quic",
        &quic,
    ];
    let said = refused(dir.path(), &args, 1);
    assert!(
        said.contains(&format!("process {}", std::process::id())),
        "{said}"
    );
    assert!(said.contains("--quic 127.0.0.1:0"), "{said}");
}

#[test]
fn speaks_tls_where_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = dev(dir.path());
    command.arg("--tls");
    let node = Node::start(command);
    let address = node.text("http").strip_prefix("https://").unwrap();
    let wss = format!("wss://{address}/connection/websocket");
    assert_eq!(node.text("ws"), wss);
    let (status, body) = get(address.parse().unwrap(), "/healthz");
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("TLS"), "{body}");

    // Files that are none are told by name.
    let args = ["dev", "--data-dir", "other", "--http", "127.0.0.1:0"];
    let files = ["--tls-cert", "no.pem", "--tls-key", "no.key"];
    let said = refused(dir.path(), &[&args[..], &files].concat(), 1);
    assert!(said.contains("no.pem"), "{said}");
    refused(dir.path(), &[&args[..], &files[..2]].concat(), 2);
}
