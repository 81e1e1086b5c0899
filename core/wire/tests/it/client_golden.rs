//! Golden frames of the Centrifuge client protocol, recorded from its published SDKs (JavaScript
//! 5.8.0; Protobuf unless a test says otherwise).

use bytes::Bytes;
use gb6_core_wire::client::*;
use gb6_core_wire::mesh;

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let digit = |d: u8| (d as char).to_digit(16).unwrap() as u8;
    assert_eq!(digits.len() % 2, 0);
    let pairs = digits.chunks(2);
    pairs.map(|p| digit(p[0]) << 4 | digit(p[1])).collect()
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn commands(text: &str) -> Vec<Command> {
    decode_frame(Dialect::Protobuf, hex(text).into()).unwrap()
}

fn command(text: &str) -> Command {
    let mut all = commands(text);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// What the client wrote is what our schema writes.
#[track_caller]
fn same_bytes(text: &str, commands: &[Command]) {
    let mut out = Vec::new();
    for command in commands {
        prost::Message::encode_length_delimited(command, &mut out).unwrap();
    }
    assert_eq!(to_hex(&out), to_hex(&hex(text)));
}

#[test]
fn connect_and_two_subscribes_in_one_frame() {
    let text = "0f0801220b0a015412027b7d22026a73 \
        2308022a1f0a06726f6f6d3a31180132014538044801500158016206666f7373696c7001 \
        0e08032a0a0a06726f6f6d3a327001";
    let all = commands(text);
    assert_eq!(all.len(), 3);
    let connect = ConnectRequest {
        token: "T".into(),
        data: Bytes::from_static(b"{}"),
        name: "js".into(),
        ..Default::default()
    };
    assert_eq!((all[0].id, all[0].method()), (1, Method::Connect(&connect)));
    let first = SubscribeRequest {
        channel: "room:1".into(),
        recover: true,
        offset: 4,
        epoch: "E".into(),
        positioned: true,
        recoverable: true,
        join_leave: true,
        delta: "fossil".into(),
        flag: 1,
        ..Default::default()
    };
    assert_eq!((all[1].id, all[1].method()), (2, Method::Subscribe(&first)));
    let second = SubscribeRequest {
        channel: "room:2".into(),
        flag: subscribe_flags::COMPACTION,
        ..Default::default()
    };
    assert_eq!(
        (all[2].id, all[2].method()),
        (3, Method::Subscribe(&second))
    );
    same_bytes(text, &all);
}

#[test]
fn publish() {
    let text = "1908043a150a06726f6f6d3a31120b7b226964223a226d31227d";
    let got = command(text);
    let Method::Publish(publish) = got.method() else {
        panic!("{got:?}");
    };
    assert_eq!((got.id, publish.channel.as_str()), (4, "room:1"));
    assert_eq!(&publish.data[..], br#"{"id":"m1"}"#);
    same_bytes(text, &[got]);
}

#[test]
fn rpc() {
    let text = "1b08056a170a077b2261223a317d120c726f6f6d2e7075626c697368";
    let got = command(text);
    let Method::Rpc(rpc) = got.method() else {
        panic!("{got:?}");
    };
    assert_eq!((got.id, rpc.method.as_str()), (5, "room.publish"));
    assert_eq!(&rpc.data[..], br#"{"a":1}"#);
    same_bytes(text, &[got]);
}

#[test]
fn history() {
    let text = "17080652130a06726f6f6d3a313802420508011201454801";
    let got = command(text);
    let want = HistoryRequest {
        channel: "room:1".into(),
        limit: 2,
        since: Some(StreamPosition {
            offset: 1,
            epoch: "E".into(),
        }),
        reverse: true,
    };
    assert_eq!((got.id, got.method()), (6, Method::History(&want)));
    same_bytes(text, &[got]);
}

#[test]
fn presence() {
    let text = "0c080742080a06726f6f6d3a31";
    let got = command(text);
    let want = PresenceRequest {
        channel: "room:1".into(),
    };
    assert_eq!((got.id, got.method()), (7, Method::Presence(&want)));
    same_bytes(text, &[got]);
}

#[test]
fn send_has_no_id() {
    let text = "0b62090a077b2278223a317d";
    let got = command(text);
    let want = SendRequest {
        data: Bytes::from_static(br#"{"x":1}"#),
    };
    assert_eq!((got.id, got.method()), (0, Method::Send(&want)));
    same_bytes(text, &[got]);
}

#[test]
fn pong_is_an_empty_command() {
    let got = command("00");
    assert!(got.is_pong());
    assert_eq!(got.method(), Method::None);
    same_bytes("00", &[got]);
}

/// Both directions of a server's frame, in both dialects.
#[track_caller]
fn reply(reply: Reply, protobuf: &str, json: &str) {
    let mut out = Vec::new();
    encode_reply(Dialect::Protobuf, &reply, &mut out);
    assert_eq!(to_hex(&out), protobuf);
    let read = decode_replies(Dialect::Protobuf, out.into()).unwrap();
    assert_eq!(read, std::slice::from_ref(&reply));
    let mut out = Vec::new();
    encode_reply(Dialect::Json, &reply, &mut out);
    assert_eq!(String::from_utf8(out.clone()).unwrap(), json);
    assert_eq!(decode_replies(Dialect::Json, out.into()).unwrap(), [reply]);
}

#[test]
fn connect_reply() {
    reply(
        Reply::answer(
            1,
            ConnectResult {
                client: "c1".into(),
                version: "0".into(),
                ping: 25,
                pong: true,
                ..Default::default()
            },
        ),
        "0f08012a0b0a02633112013038194001",
        r#"{"id":1,"connect":{"client":"c1","version":"0","ping":25,"pong":true}}"#,
    );
}

#[test]
fn subscribe_reply() {
    reply(
        Reply::answer(
            2,
            SubscribeResult {
                recoverable: true,
                epoch: "E".into(),
                publications: vec![Publication {
                    offset: 5,
                    data: Bytes::from_static(br#"{"a":1}"#),
                    ..Default::default()
                }],
                recovered: true,
                offset: 4,
                positioned: true,
                was_recovering: true,
                ..Default::default()
            },
        ),
        "1e0802321a18013201453a0b22077b2261223a317d30054001480450016001",
        concat!(
            r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"E","#,
            r#""publications":[{"data":{"a":1},"offset":5}],"recovered":true,"offset":4,"#,
            r#""positioned":true,"was_recovering":true}}"#
        ),
    );
}

fn golden_publication() -> mesh::Publication {
    mesh::Publication {
        offset: 6,
        from: Some(mesh::Person {
            user: "u".into(),
            client: "c1".into(),
            ..Default::default()
        }),
        data: Bytes::from_static(br#"{"a":1}"#),
        tags: [("k".to_owned(), "v".to_owned())].into(),
        ..Default::default()
    }
}

const PUBLICATION: &str =
    "2822261206726f6f6d3a31221c22077b2261223a317d2a070a01751202633130063a060a016b120176";
const PUBLICATION_JSON: &str = concat!(
    r#"{"push":{"channel":"room:1","pub":{"data":{"a":1},"#,
    r#""info":{"user":"u","client":"c1"},"offset":6,"tags":{"k":"v"}}}}"#
);

#[test]
fn publication_push() {
    let push = Push {
        channel: "room:1".into(),
        publication: Some(Publication::from(&golden_publication())),
        ..Default::default()
    };
    for (dialect, want) in [
        (Dialect::Protobuf, hex(PUBLICATION)),
        (Dialect::Json, PUBLICATION_JSON.into()),
    ] {
        let mut out = Vec::new();
        encode_push(dialect, &push, &mut out);
        assert_eq!(to_hex(&out), to_hex(&want));
        let live = encode_publication_push(dialect, "room:1", &golden_publication());
        assert_eq!(live, websocket_frame(dialect, &want));
    }
    reply(Reply::push(push), PUBLICATION, PUBLICATION_JSON);
}

#[test]
fn compacted_publication_push() {
    let publication = mesh::Publication {
        offset: 6,
        data: Bytes::from_static(br#"{"a":1}"#),
        ..Default::default()
    };
    let protobuf = "11220f0807220b22077b2261223a317d3006";
    let json = r#"{"push":{"id":7,"pub":{"data":{"a":1},"offset":6}}}"#;
    let id = ChannelRef::Id(7);
    let live = encode_publication_push(Dialect::Protobuf, id, &publication);
    assert_eq!(live, websocket_frame(Dialect::Protobuf, &hex(protobuf)));
    let live = encode_publication_push(Dialect::Json, id, &publication);
    assert_eq!(live, websocket_frame(Dialect::Json, json.as_bytes()));
    let push = Push {
        id: 7,
        publication: Some(Publication::from(&publication)),
        ..Default::default()
    };
    reply(Reply::push(push), protobuf, json);
}

#[test]
fn error_reply() {
    reply(
        Reply::error(3, gb6_core_model::codes::ErrorCode::PermissionDenied),
        "1908031215086712117065726d697373696f6e2064656e696564",
        r#"{"id":3,"error":{"code":103,"message":"permission denied"}}"#,
    );
}

#[test]
fn an_empty_result_is_there() {
    reply(
        Reply::answer(4, PublishResult {}),
        "0408044200",
        r#"{"id":4,"publish":{}}"#,
    );
}

#[test]
fn unsubscribe_push() {
    reply(
        Reply::push(Push {
            channel: "room:1".into(),
            unsubscribe: Some(gb6_core_model::codes::Unsubscribed::InsufficientState.into()),
            ..Default::default()
        }),
        "2322211206726f6f6d3a313a1710c4131a12696e73756666696369656e74207374617465",
        r#"{"push":{"channel":"room:1","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
    );
}

#[test]
fn rpc_reply() {
    reply(
        Reply::answer(
            5,
            RpcResult {
                data: Bytes::from_static(b"{}"),
            },
        ),
        "0808056a040a027b7d",
        r#"{"id":5,"rpc":{"data":{}}}"#,
    );
}

#[test]
fn ping() {
    assert!(Reply::ping().is_ping());
    reply(Reply::ping(), "00", "{}");
}

#[test]
fn json_of_the_javascript_sdk() {
    let frame = concat!(
        r#"{"connect":{"token":"T","data":{"d":1},"name":"js"},"id":1}"#,
        "\n",
        r#"{"subscribe":{"channel":"room:1","positioned":true,"recoverable":true,"#,
        r#""join_leave":true,"flag":1,"recover":true,"offset":4,"epoch":"E","#,
        r#""delta":"fossil"},"id":2}"#
    );
    let all = decode_frame(Dialect::Json, Bytes::from_static(frame.as_bytes())).unwrap();
    let connect = ConnectRequest {
        token: "T".into(),
        data: Bytes::from_static(br#"{"d":1}"#),
        name: "js".into(),
        ..Default::default()
    };
    assert_eq!((all[0].id, all[0].method()), (1, Method::Connect(&connect)));
    // The same subscribe as in the Protobuf frame.
    let text = "2308022a1f0a06726f6f6d3a31180132014538044801500158016206666f7373696c7001";
    assert_eq!(all[1], command(text));
}

#[test]
fn json_of_the_python_sdk_has_spaces_and_the_id_first() {
    let frame = r#"{"id": 1, "connect": {"token": "T", "data": {"d": 1}, "name": "python"}}"#;
    let all = decode_frame(Dialect::Json, Bytes::from_static(frame.as_bytes())).unwrap();
    let Method::Connect(connect) = all[0].method() else {
        panic!("{all:?}");
    };
    assert_eq!((all[0].id, connect.name.as_str()), (1, "python"));
    assert_eq!(&connect.data[..], br#"{"d": 1}"#, "kept as it was written");
}
