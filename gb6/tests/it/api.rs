//! The server API of a real process: what is durable stays so when it is killed.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::Node;
use crate::dev::dev;

/// The answer of a method.
fn call(node: &Node, method: &str, body: &Value) -> Value {
    let body = body.to_string();
    let mut tcp = TcpStream::connect(node.http()).unwrap();
    let (key, length) = (node.text("api_key"), body.len());
    write!(
        tcp,
        "POST /api/{method} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

fn offset(answer: &Value) -> u64 {
    let offset = answer["result"]["offset"].as_u64();
    offset.unwrap_or_else(|| panic!("no offset: {answer}"))
}

#[test]
fn ids_versions_and_removals_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dev(dir.path()));
    let publish = |n: u32, more: Value| {
        let mut body = json!({"channel": "room:api", "data": {"n": n}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let keyed = publish(1, json!({"idempotency_key": "order-17"}));
    assert_eq!(offset(&call(&node, "publish", &keyed)), 1);
    assert_eq!(offset(&call(&node, "publish", &keyed)), 1);
    let versioned = |version: u64| publish(2, json!({"version": version}));
    assert_eq!(offset(&call(&node, "publish", &versioned(7))), 2);
    assert_eq!(offset(&call(&node, "publish", &versioned(7))), 2);
    let page = json!({"channel": "room:api", "limit": -1});
    let before = call(&node, "history", &page);
    assert_eq!(before["result"]["publications"][1]["data"], json!({"n": 2}));
    assert_eq!(before["result"]["publications"][0]["tags"], Value::Null);
    let channel = json!({"channel": "room:api"});
    for round in 0..2 {
        // A stop writes a checkpoint, a kill does not.
        match round {
            0 => node.signal("-KILL"),
            _ => node.signal("-TERM"),
        }
        node.wait_end();
        drop(node);
        node = Node::start(dev(dir.path()));
        assert_eq!(offset(&call(&node, "publish", &keyed)), 1, "{round}");
        let top = offset(&call(&node, "history", &channel));
        assert_eq!(
            offset(&call(&node, "publish", &versioned(6))),
            top,
            "{round}"
        );
        let left = call(&node, "history", &page);
        let left = left["result"]["publications"].as_array().unwrap().len();
        assert_eq!(left, if round == 0 { 2 } else { 1 });
        if round == 0 {
            assert_eq!(
                call(&node, "history_remove", &channel),
                json!({"result": {}})
            );
            let after = call(&node, "history", &page);
            assert_eq!(after["result"]["publications"], json!([]));
            assert_eq!(after["result"]["epoch"], before["result"]["epoch"]);
            assert_eq!(offset(&call(&node, "publish", &publish(3, json!({})))), 3);
        }
    }
    let (_, _, said) = node.stop();
    assert!(!said.contains("panic"), "{said}");
}
