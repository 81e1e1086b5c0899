//! Two edges and a region as processes: a session at one is reached through the other.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::{Node, PATIENCE, eventually, get, printed};

/// An event stream that connects with this token.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(addr: SocketAddr, token: &str) -> Self {
        let mut tcp = TcpStream::connect(addr).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        // A token has only characters that stand for themselves in a query.
        let connect =
            format!("%7B%22id%22%3A1%2C%22connect%22%3A%7B%22token%22%3A%22{token}%22%7D%7D");
        write!(
            tcp,
            "GET /connection/sse?cf_connect={connect} HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        .unwrap();
        let mut events = Self(BufReader::new(tcp));
        assert_eq!(events.line(), "HTTP/1.1 200 OK");
        while !events.line().is_empty() {}
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn next(&mut self) -> Value {
        let line = self.line();
        let data = line
            .strip_prefix("data: ")
            .unwrap_or_else(|| panic!("{line:?}"));
        assert_eq!(self.line(), "");
        serde_json::from_str(data).unwrap()
    }
}

/// The status of the answer to commands for a session.
fn emulate(addr: SocketAddr, connect: &Value, command: &Value) -> u16 {
    let body = json!({
        "session": connect["session"], "node": connect["node"], "data": command.to_string()
    })
    .to_string();
    let mut tcp = TcpStream::connect(addr).unwrap();
    write!(
        tcp,
        "POST /emulation HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(tcp).read_line(&mut line).unwrap();
    line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap()
}

#[test]
fn a_session_is_reached_by_any_edge_and_its_token_is_never_in_a_log() {
    let mesh = Mesh::new();
    let certificate = [
        "cert",
        "node",
        "--ca",
        "mesh-data/certs",
        "--role",
        "edge",
        "--name",
        "e2",
    ];
    printed(mesh.path(), &certificate);
    let _geo = Node::start(mesh.command("geo"));
    let region = Node::start(mesh.command("region"));
    let edge = |name: &str| Node::start(mesh.talkative_edge(name));
    let (one, two) = (edge("e1"), edge("e2"));
    let create = [
        "token",
        "create",
        "--data-dir",
        "mesh-data/e1",
        "--user",
        "alice",
    ];
    let token = printed(mesh.path(), &create).trim().to_owned();
    let reached = |node: &Node| {
        get(node.metrics(), "/metrics")
            .1
            .contains("\ngb6_edge_relay_edges 2\n")
    };
    eventually("both edges are reached", || reached(&one) && reached(&two));

    let mut events = Events::open(two.http(), &token);
    let connect = events.next()["connect"].clone();
    assert_eq!(connect["node"], "e2");
    let subscribe = json!({"id": 2, "subscribe": {"channel": "room:1"}});
    assert_eq!(emulate(one.http(), &connect, &subscribe), 204);
    assert_eq!(events.next()["id"], 2);
    let publish = json!({"id": 3, "publish": {"channel": "room:1", "data": {"n": 1}}});
    assert_eq!(emulate(one.http(), &connect, &publish), 204);
    let (mut answered, mut delivered) = (false, false);
    while !(answered && delivered) {
        let event = events.next();
        answered |= event["id"] == 3;
        delivered |= event["push"]["pub"]["data"]["n"] == 1;
    }
    let metrics = get(region.metrics(), "/metrics").1;
    let passed = "gb6_region_relay_frames_total{outcome=\"answered\"} 2";
    assert!(metrics.contains(passed), "{metrics}");

    // The other one is killed and forgotten: SDKs connect again on 404.
    drop(two);
    eventually("the edge is no longer reached", || {
        emulate(one.http(), &connect, &publish) == 404
    });
    let (status, _, said) = one.stop();
    assert!(status.success(), "{said}");
    let secret = connect["session"].as_str().unwrap();
    for hidden in [token.rsplit('.').next().unwrap(), secret] {
        assert!(!said.contains(hidden), "{hidden} stands in the log");
    }
}

/// The edge that a client connects to by a query with a token in it says nothing of it.
#[test]
fn a_token_in_a_query_is_in_no_log() {
    let mesh = Mesh::new();
    let _geo = Node::start(mesh.command("geo"));
    let _region = Node::start(mesh.command("region"));
    let edge = Node::start(mesh.talkative_edge("e1"));
    let create = [
        "token",
        "create",
        "--data-dir",
        "mesh-data/e1",
        "--user",
        "alice",
    ];
    let token = printed(mesh.path(), &create).trim().to_owned();
    let mut events = Events::open(edge.http(), &token);
    assert!(events.next()["connect"].is_object());
    // One that is refused, too.
    let mut refused = Events::open(edge.http(), &format!("{token}x"));
    assert_eq!(refused.next()["push"]["disconnect"]["code"], 3500);
    let (status, _, said) = edge.stop();
    assert!(status.success(), "{said}");
    assert!(said.contains("token refused"), "the log is there: {said}");
    let signature = token.rsplit('.').next().unwrap();
    assert!(!said.contains(signature) && !said.contains("cf_connect"));
}
