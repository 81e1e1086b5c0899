//! What a session asks a hub to deliver for a subscription, and what it tells the client of it.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::{ChannelKind, Namespace};
use gb6_core_model::{InstanceId, limits};
use gb6_core_wire::client::{
    Command, Dialect, FILTER_BYTES_MAX, FilterNode, SubscribeRequest, SubscribeResult,
};
use gb6_core_wire::mesh::Publication;
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{Answer, Recent, Request, SubscribeAnswer, SubscribeQuery};
use prost::Message as _;

use crate::session_rules::{Desk, claims};

/// A session of an instance that has the namespace `state` with all of it.
fn desk(dialect: Dialect) -> Desk {
    let mut desk = Desk::live_with(dialect, claims());
    let rules = Namespace {
        delta: true,
        tags_filter: true,
        ..Namespace::default()
    };
    let instance = desk.snapshot.instances.get_mut(&InstanceId::from("demo"));
    instance.unwrap().namespaces.insert("state".into(), rules);
    desk
}

fn query(desk: &mut Desk, fields: &str) -> (u64, SubscribeQuery) {
    desk.text(&format!(
        r#"{{"id":2,"subscribe":{{"channel":"state:1"{fields}}}}}"#
    ));
    let request = desk.requests().remove(0);
    match request.request {
        Request::Subscribe(query) => (request.token, *query),
        other => panic!("{other:?}"),
    }
}

fn publications(data: &[&[u8]]) -> Vec<Arc<Recent>> {
    let recent = |(at, data): (usize, &&[u8])| {
        let publication = Publication {
            offset: 5 + at as u64,
            data: Bytes::copy_from_slice(data),
            content_type: match serde_json::from_slice::<serde::de::IgnoredAny>(data) {
                Ok(_) => ContentType::Json.into(),
                Err(_) => ContentType::Unspecified.into(),
            },
            ..Publication::default()
        };
        Arc::new(Recent::new(publication))
    };
    data.iter().enumerate().map(recent).collect()
}

fn subscribed(number: i64, publications: Vec<Arc<Recent>>) -> Answer {
    Answer::Subscribed(Box::new(SubscribeAnswer {
        epoch: Arc::from("abc"),
        offset: 4,
        recovered: !publications.is_empty(),
        publications,
        number,
    }))
}

fn complete(desk: &mut Desk, token: u64, answer: Answer) -> SubscribeResult {
    desk.with(|s, cx, out| s.complete(cx, token, answer, out));
    *desk.replies().remove(0).subscribe.unwrap()
}

#[test]
fn what_is_granted_is_asked_for_and_told() {
    let mut desk = desk(Dialect::Json);
    let (token, asked) = query(&mut desk, r#","delta":"fossil","flag":1"#);
    assert!(asked.delivery.delta && asked.delivery.compact);
    assert!(asked.delivery.filter.is_none() && asked.delivery.without_own.is_none());
    let result = complete(&mut desk, token, subscribed(7, Vec::new()));
    assert!(result.delta && result.id == 7);
}

#[test]
fn what_is_not_granted_is_not_told() {
    let mut desk = desk(Dialect::Json);
    for (channel, delta) in [("state:1", "brotli"), ("room:1", "fossil"), ("state:2", "")] {
        let fields = format!(r#"{{"channel":"{channel}","delta":"{delta}","flag":2}}"#);
        desk.text(&format!(r#"{{"id":2,"subscribe":{fields}}}"#));
        let request = desk.requests().remove(0);
        let Request::Subscribe(asked) = request.request else {
            panic!("{channel}");
        };
        assert_eq!(asked.delivery, Default::default());
        let result = complete(&mut desk, request.token, subscribed(0, Vec::new()));
        assert!(!result.delta && result.id == 0);
    }
}

#[test]
fn what_is_recovered_with_deltas_is_text_in_json() {
    let data: [&[u8]; 4] = ["{\"a\":\"\\\"ä\"}".as_bytes(), b"[1,\n2]", b"\xff\x00", b""];
    for dialect in Dialect::ALL {
        let mut desk = desk(dialect);
        let subscribe = SubscribeRequest {
            channel: "state:1".into(),
            delta: "fossil".into(),
            recover: true,
            offset: 4,
            ..SubscribeRequest::default()
        };
        match dialect {
            Dialect::Json => drop(query(
                &mut desk,
                r#","delta":"fossil","recover":true,"offset":4"#,
            )),
            Dialect::Protobuf => {
                let command = Command {
                    id: 2,
                    subscribe: Some(Box::new(subscribe)),
                    ..Command::default()
                };
                desk.binary(&command.encode_length_delimited_to_vec());
                desk.requests();
            }
        }
        let result = complete(&mut desk, 1, subscribed(0, publications(&data)));
        let got: Vec<Bytes> = result.publications.iter().map(|p| p.data.clone()).collect();
        assert!(result.recovered && result.publications.iter().all(|p| !p.delta));
        match dialect {
            Dialect::Json => {
                let text = |b: &Bytes| serde_json::from_slice::<String>(b).unwrap();
                let texts: Vec<String> = got.iter().map(text).collect();
                assert_eq!(
                    texts,
                    [r#"{"a":"\"ä"}"#, "[1,2]", r#"{"b64":"/wA="}"#, "null"]
                );
            }
            Dialect::Protobuf => assert_eq!(got, data),
        }
    }
}

#[test]
fn recovered_text_counts_twice() {
    let mut desk = desk(Dialect::Json);
    let recover = r#","delta":"fossil","recover":true,"offset":4"#;
    let (token, asked) = query(&mut desk, recover);
    let most = asked.recover.unwrap().bytes_max;
    assert_eq!(most, limits::RECOVERY_BYTES_MAX / 2);
    // Meanwhile another room uses the budget up.
    desk.text(r#"{"id":3,"subscribe":{"channel":"room:1","recover":true,"offset":4}}"#);
    let other = desk.requests().remove(0).token;
    let large = format!("\"{}\"", "x".repeat(200_000)).into_bytes();
    let one = publications(&[&large]);
    let result = complete(&mut desk, other, subscribed(0, one.clone()));
    assert!(result.recovered);
    // The hub has a base that the client was not given: it must begin again, soon.
    desk.with(|s, cx, out| s.complete(cx, token, subscribed(0, one), out));
    assert_eq!(desk.errors(), [(2, 111)]);
    let left = desk.requests();
    assert!(matches!(left[0].request, Request::Unsubscribe));
    let (_, asked) = query(&mut desk, recover);
    assert!(asked.recover.unwrap().bytes_max < limits::RECOVERY_BYTES_MAX / 2 - 100_000);
}

#[test]
fn filters_are_checked_in_both_dialects() {
    let leaf = FilterNode {
        key: "t".into(),
        cmp: "in".into(),
        vals: vec!["a".into(), "b".into()],
        ..FilterNode::default()
    };
    let wrong = FilterNode {
        op: "not".into(),
        ..FilterNode::default()
    };
    let large = FilterNode {
        vals: vec!["x".repeat(1000); FILTER_BYTES_MAX / 1000 + 1],
        ..leaf.clone()
    };
    for (node, ok) in [(leaf.clone(), true), (wrong, false), (large.clone(), false)] {
        let mut desk = desk(Dialect::Protobuf);
        let command = Command {
            id: 2,
            subscribe: Some(Box::new(SubscribeRequest {
                channel: "state:1".into(),
                tf: node.encode_to_vec().into(),
                ..SubscribeRequest::default()
            })),
            ..Command::default()
        };
        desk.binary(&command.encode_length_delimited_to_vec());
        match ok {
            true => assert!(desk.requests().len() == 1 && desk.errors().is_empty()),
            false => assert_eq!(desk.errors(), [(2, 107)]),
        }
    }
    let mut desk = desk(Dialect::Json);
    let (_, asked) = query(
        &mut desk,
        r#","tf":{"key":"t","cmp":"in","vals":["a","b"]}"#,
    );
    let filter = asked.delivery.filter.unwrap();
    assert!(filter.passes(&[("t".to_owned(), "b".to_owned())].into()));
    desk.text(r#"{"id":3,"unsubscribe":{"channel":"state:1"}}"#);
    desk.requests();
    let (_, asked) = query(&mut desk, r#","tf":null"#);
    assert!(asked.delivery.filter.is_none());
    let long = "x".repeat(FILTER_BYTES_MAX);
    for (channel, fields) in [
        ("state:2", r#""tf":{"op":"and"}"#.to_owned()),
        ("state:2", r#""tf":{}"#.to_owned()),
        ("state:2", r#""tf":7"#.to_owned()),
        ("state:2", r#""tf":{"key":1}"#.to_owned()),
        (
            "state:2",
            format!(r#""tf":{{"key":"t","cmp":"eq","val":"{long}"}}"#),
        ),
        // SDKs refuse both together; so does the server.
        (
            "state:2",
            r#""tf":{"key":"t","cmp":"ex"},"delta":"fossil""#.to_owned(),
        ),
        ("room:2", r#""tf":{"key":"t","cmp":"ex"}"#.to_owned()),
    ] {
        desk.text(&format!(
            r#"{{"id":4,"subscribe":{{"channel":"{channel}",{fields}}}}}"#
        ));
        assert_eq!(desk.errors(), [(4, 107)], "{fields:.60}");
    }
}

#[test]
fn a_connection_may_ask_not_to_get_its_own() {
    for (data, own) in [(r#"{"gb6":{"exclude_own":true}}"#, true), ("{}", false)] {
        let mut desk = Desk::opening(Dialect::Json);
        desk.text(&format!(
            r#"{{"id":1,"connect":{{"token":"T","data":{data}}}}}"#
        ));
        desk.verified(0, Ok(claims()));
        desk.replies();
        desk.actions.clear();
        desk.text(r#"{"id":2,"subscribe":{"channel":"room:1"}}"#);
        let Request::Subscribe(asked) = desk.requests().remove(0).request else {
            panic!("a subscribe");
        };
        let client = asked.delivery.without_own.map(|own| own.client.clone());
        assert_eq!(client.as_deref(), own.then_some("client-7"));
    }
}

#[test]
fn a_channel_that_keeps_nothing_takes_signals_and_no_durable_publishes() {
    let mut desk = desk(Dialect::Json);
    let rules = Namespace {
        kind: ChannelKind::Signal,
        presence: true,
        ..Namespace::default()
    };
    let instance = desk.snapshot.instances.get_mut(&InstanceId::from("demo"));
    instance.unwrap().namespaces.insert("cursor".into(), rules);
    for (channel, signal) in [("cursor:1", true), ("state:1", false)] {
        desk.text(&format!(
            r#"{{"id":2,"publish":{{"channel":"{channel}","data":{{"x":1}}}}}}"#
        ));
        let request = desk.requests().remove(0);
        let Request::Publish(publish) = request.request else {
            panic!("a publish");
        };
        assert_eq!(publish.signal, signal);
        let published = Answer::Published(Default::default());
        desk.with(|s, cx, out| s.complete(cx, request.token, published, out));
        assert!(desk.replies().remove(0).publish.is_some());
    }
    desk.text(r#"{"id":3,"rpc":{"method":"room.publish","data":{"room":"cursor:1","data":1}}}"#);
    desk.text(r#"{"id":4,"history":{"channel":"cursor:1","limit":1}}"#);
    assert_eq!(desk.errors(), [(3, 108), (4, 108)]);
    // No position, whatever the client asks for.
    let fields = r#"{"channel":"cursor:1","recover":true,"recoverable":true,"positioned":true}"#;
    desk.text(&format!(r#"{{"id":5,"subscribe":{fields}}}"#));
    let request = desk.requests().remove(0);
    assert!(matches!(&request.request, Request::Subscribe(query) if query.recover.is_none()));
    let result = complete(&mut desk, request.token, subscribed(0, Vec::new()));
    assert!(!result.recoverable && !result.positioned && !result.was_recovering);
    assert_eq!((result.offset, result.epoch.as_str()), (0, ""));
}
