//! The JSON dialect's rules: what is tolerated, what is refused, and how data shows.

use bytes::Bytes;
use gb6_core_model::limits::{COMMAND_BYTES_MAX, JSON_DEPTH_MAX};
use gb6_core_wire::client::*;
use gb6_core_wire::mesh;
use gb6_core_wire::record::ContentType;

fn decode(frame: impl Into<Vec<u8>>) -> Result<Vec<Command>, CodecError> {
    decode_frame(Dialect::Json, frame.into().into())
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[test]
fn unknown_fields_nulls_and_white_space_are_tolerated() {
    let got = decode(
        "  {\"id\" : 1 ,\"new\":{\"deep\":[[[{}]]]}, \"connect\":{\"token\":null,\
         \"subs\":null,\"headers\":null,\"data\":null,\"x\":1}, \"publish\":null}\r\n\n \n",
    )
    .unwrap();
    assert_eq!(got.len(), 1);
    let Method::Connect(connect) = got[0].method() else {
        panic!("{got:?}");
    };
    assert_eq!(
        (connect.token.as_str(), &connect.data[..]),
        ("", &b"null"[..])
    );
}

#[test]
fn an_empty_object_is_the_answer_to_a_ping() {
    assert!(decode("{}").unwrap()[0].is_pong());
    let got = decode("{\"id\":1}").unwrap();
    assert!(!got[0].is_pong());
    assert_eq!(got[0].method(), Method::None);
}

#[test]
fn two_methods_are_seen() {
    let got = decode(r#"{"id":1,"publish":{},"rpc":{}}"#).unwrap();
    assert_eq!(got[0].method(), Method::Many);
    assert_eq!(got[0].method().name(), "many");
}

#[test]
fn every_method_is_found() {
    for name in [
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "ping",
        "send",
        "rpc",
        "refresh",
        "sub_refresh",
    ] {
        let got = decode(format!(r#"{{"id":1,"{name}":{{}}}}"#)).unwrap();
        assert_eq!(got[0].method().name(), name);
    }
}

#[test]
fn a_filter_that_is_null_is_none() {
    let tf = |value: &str| {
        let got = decode(format!(
            r#"{{"id":1,"subscribe":{{"channel":"c","tf":{value},"data":null}}}}"#
        ));
        *got.unwrap().remove(0).subscribe.unwrap()
    };
    assert!(tf("null").tf.is_empty());
    assert_eq!(tf("{}").tf, "{}");
    assert_eq!(tf(" null ").data, "null", "data may be null");
}

#[test]
fn empty_frames_and_blank_lines_are_refused() {
    assert_eq!(decode(""), Err(CodecError::EmptyFrame));
    assert_eq!(decode("\n"), Err(CodecError::EmptyFrame));
    assert_eq!(decode("{}\n\n{}"), Err(CodecError::BlankLine { index: 1 }));
    let binary = decode_frame(Dialect::Protobuf, Bytes::new());
    assert_eq!(binary, Err(CodecError::EmptyFrame));
}

#[test]
fn errors_say_which_command_and_show_nothing_of_it() {
    let error = decode("{}\n{\"connect\":{\"token\":17}}").unwrap_err();
    assert_eq!(
        error,
        CodecError::Json {
            index: 1,
            column: 22,
            problem: JsonProblem::Field
        }
    );
    assert!(!error.to_string().contains("17"), "{error}");
    let problem = |text: &str| match decode(text) {
        Err(CodecError::Json { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem("{\"id\":1"), JsonProblem::Eof);
    assert_eq!(problem("{\"id\":1}}"), JsonProblem::Syntax);
    assert_eq!(problem("nonsense"), JsonProblem::Syntax);
    assert_eq!(problem("{\"id\":-1}"), JsonProblem::Field);
    assert_eq!(problem("{\"id\":1,\"id\":2}"), JsonProblem::Field);
    assert_eq!(
        decode(b"{\"id\":1,\"x\":\"\xff\"}".to_vec()),
        Err(CodecError::NotUtf8 { index: 0 })
    );
}

#[test]
fn deep_data_is_refused_without_recursion() {
    let publish = |depth| format!(r#"{{"id":1,"publish":{{"data":{}}}}}"#, nested(depth));
    assert!(decode(publish(JSON_DEPTH_MAX)).is_ok());
    let too_deep = CodecError::TooDeep {
        index: 0,
        max: JSON_DEPTH_MAX,
    };
    for depth in [JSON_DEPTH_MAX + 1, 30_000] {
        assert_eq!(decode(publish(depth)).unwrap_err(), too_deep);
    }
    for method in ["rpc", "send", "subscribe", "connect"] {
        let data = nested(JSON_DEPTH_MAX + 1);
        let got = decode(format!(r#"{{"id":1,"{method}":{{"data":{data}}}}}"#));
        assert_eq!(got.unwrap_err(), too_deep, "{method}");
    }
    let subs = format!(
        r#"{{"id":1,"connect":{{"subs":{{"a":{{"data":{}}}}}}}}}"#,
        nested(JSON_DEPTH_MAX + 1)
    );
    assert_eq!(decode(subs).unwrap_err(), too_deep);
    // In a field that nobody knows, depth costs nothing and is passed over.
    let unknown = format!(r#"{{"id":1,"x":{}}}"#, nested(30_000));
    assert!(decode(unknown).is_ok());
    // Braces inside strings are no nesting.
    let text = format!(
        r#"{{"id":1,"publish":{{"data":"\"{}"}}}}"#,
        "[".repeat(5_000)
    );
    assert!(decode(text).is_ok());
}

#[test]
fn only_a_connect_may_be_larger_than_one_command() {
    let fill = "x".repeat(COMMAND_BYTES_MAX);
    let large = |method: &str| decode(format!(r#"{{"{method}":{{"data":"{fill}"}},"id":1}}"#));
    assert!(large("connect").is_ok());
    for method in ["publish", "rpc", "send", "subscribe", "nothing"] {
        assert!(
            matches!(large(method), Err(CodecError::CommandTooLarge { index: 0, bytes, .. })
                if bytes > COMMAND_BYTES_MAX),
            "{method}"
        );
    }
    let spaces = format!("{}{{}}", " ".repeat(COMMAND_BYTES_MAX));
    assert!(matches!(
        decode(spaces),
        Err(CodecError::CommandTooLarge { .. })
    ));
}

#[test]
fn commands_and_map_entries_are_counted() {
    let frame = |n: usize| vec!["{}"; n].join("\n");
    assert_eq!(decode(frame(100_000)).unwrap().len(), 100_000);
    let subs = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| format!("\"{i}\":{{}}")).collect();
        decode(format!(
            r#"{{"connect":{{"subs":{{{}}}}}}}"#,
            entries.join(",")
        ))
    };
    assert!(subs(CONNECT_SUBS_MAX).is_ok());
    assert!(subs(CONNECT_SUBS_MAX + 1).is_err());
    let headers = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| format!("\"{i}\":\"\"")).collect();
        decode(format!(
            r#"{{"connect":{{"headers":{{{}}}}}}}"#,
            entries.join(",")
        ))
    };
    assert!(headers(CONNECT_HEADERS_MAX).is_ok());
    assert!(headers(CONNECT_HEADERS_MAX + 1).is_err());
}

#[test]
fn filters_are_parsed_on_demand_in_both_dialects() {
    let node = FilterNode {
        op: "and".into(),
        nodes: vec![FilterNode {
            key: "lang".into(),
            cmp: "in".into(),
            vals: vec!["en".into(), "de".into()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let json = r#"{"op":"and","nodes":[{"key":"lang","cmp":"in","vals":["en","de"]}]}"#;
    let got = decode(format!(r#"{{"id":1,"subscribe":{{"tf":{json}}}}}"#)).unwrap();
    let tf = &got[0].subscribe.as_ref().unwrap().tf;
    assert_eq!(decode_filter(Dialect::Json, tf), Ok(Some(node.clone())));
    let tf = Bytes::from(prost::Message::encode_to_vec(&node));
    assert_eq!(
        decode_filter(Dialect::Protobuf, &tf),
        Ok(Some(node.clone()))
    );
    // Fields that are `null` count as absent, as they do in commands.
    let nulls = r#"{"op":"and","key":null,"cmp":null,"val":null,"vals":null,"nodes":[
        {"op":null,"key":"lang","cmp":"in","val":null,"vals":["en","de"],"nodes":null}]}"#;
    let nulls = Bytes::from(nulls);
    assert_eq!(decode_filter(Dialect::Json, &nulls), Ok(Some(node)));
    assert_eq!(decode_filter(Dialect::Json, &Bytes::new()), Ok(None));
    let null = Bytes::from_static(b"null");
    assert_eq!(decode_filter(Dialect::Json, &null), Ok(None));
    let large = Bytes::from(vec![b' '; FILTER_BYTES_MAX + 1]);
    assert!(decode_filter(Dialect::Json, &large).is_err());
    let deep = Bytes::from(r#"{"nodes":["#.repeat(1_000));
    assert!(decode_filter(Dialect::Json, &deep).is_err());
}

#[test]
fn data_that_is_json_shows_as_it_is() {
    let show = |data: &[u8], kind| String::from_utf8(json_value_of(data, kind).into()).unwrap();
    let auto = |data: &[u8]| show(data, ContentType::Unspecified);
    for json in [
        "1",
        "null",
        "\"a\\u0000\"",
        "{ \"a\" : [1, 2] }",
        "\"\\ud800\"",
    ] {
        assert_eq!(auto(json.as_bytes()), json);
    }
    assert_eq!(auto(b"{\r\n  \"a\": \"x\\n\"\n}"), r#"{  "a": "x\n"}"#);
    let json = show(b"[\n1]", ContentType::Json);
    assert_eq!(json, "[1]", "trusted JSON still stays in its line");
}

#[test]
fn other_data_shows_in_base_64() {
    let show =
        |data: &[u8]| String::from_utf8(json_value_of(data, ContentType::Bytes).into()).unwrap();
    assert_eq!(show(b"\x00\xff"), r#"{"b64":"AP8="}"#);
    assert_eq!(show(b"hello"), r#"{"b64":"aGVsbG8="}"#);
    assert_eq!(show(b""), r#"{"b64":""}"#);
    assert_eq!(show(b"{} {}"), r#"{"b64":"e30ge30="}"#);
    assert_eq!(
        show(b"\"a\nb\""),
        r#"{"b64":"ImEKYiI="}"#,
        "a bare line break in a string"
    );
    assert_eq!(show(b"\"\xff\""), r#"{"b64":"Iv8i"}"#);
    let deep = nested(JSON_DEPTH_MAX + 1);
    assert!(show(deep.as_bytes()).starts_with("{\"b64\""));
    assert!(show(nested(100_000).as_bytes()).starts_with("{\"b64\""));
    assert_eq!(
        json_data_kind(nested(JSON_DEPTH_MAX).as_bytes(), ContentType::Unspecified),
        JsonData::Raw
    );
}

#[test]
fn a_binary_publication_reaches_a_json_client_and_a_protobuf_client() {
    let publication = mesh::Publication {
        offset: 1,
        time: 1_700_000_000_000,
        data: Bytes::from_static(b"\x00\x01"),
        content_type: ContentType::Bytes.into(),
        ..Default::default()
    };
    let frame = encode_publication_push(Dialect::Json, "room:1", &publication);
    assert_eq!(
        &frame[2..],
        br#"{"push":{"channel":"room:1","pub":{"data":{"b64":"AAE="},"offset":1,"time":1700000000000}}}"#
    );
    let frame = encode_publication_push(Dialect::Protobuf, "room:1", &publication);
    let replies = decode_replies(Dialect::Protobuf, frame::frame_payload(&frame)).unwrap();
    let push = replies[0].push.as_ref().unwrap();
    assert_eq!(&push.publication.as_ref().unwrap().data[..], b"\x00\x01");
}

#[test]
fn an_erased_publication_has_no_data() {
    let publication = mesh::Publication {
        offset: 3,
        ..Default::default()
    };
    let frame = encode_publication_push(Dialect::Json, "room:1", &publication);
    assert_eq!(
        &frame[2..],
        br#"{"push":{"channel":"room:1","pub":{"offset":3}}}"#
    );
}

#[test]
fn strings_are_escaped() {
    let reply = Reply::push(Push {
        channel: "a\"\\\n\r\t\u{1}ä\u{2028}/".into(),
        ..Default::default()
    });
    let mut out = Vec::new();
    encode_reply(Dialect::Json, &reply, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"push\":{\"channel\":\"a\\\"\\\\\\n\\r\\t\\u0001ä\u{2028}/\"}}"
    );
}

#[test]
fn replies_of_one_frame_are_joined() {
    let replies = [
        Reply::ping(),
        Reply::answer(4, PublishResult {}),
        Reply::answer(5, PresenceStatsResult::default()),
    ];
    let mut out = Vec::new();
    encode_replies(Dialect::Json, &replies, &mut out);
    assert_eq!(
        String::from_utf8(out.clone()).unwrap(),
        "{}\n{\"id\":4,\"publish\":{}}\n\
         {\"id\":5,\"presence_stats\":{\"num_clients\":0,\"num_users\":0}}"
    );
    for dialect in Dialect::ALL {
        let pieces: Vec<Vec<u8>> = replies
            .iter()
            .map(|reply| {
                let mut piece = Vec::new();
                encode_reply(dialect, reply, &mut piece);
                piece
            })
            .collect();
        let (mut joined, mut at_once) = (Vec::new(), Vec::new());
        join_replies(dialect, pieces.iter().map(Vec::as_slice), &mut joined);
        encode_replies(dialect, &replies, &mut at_once);
        assert_eq!(joined, at_once);
        assert_eq!(decode_replies(dialect, joined.into()).unwrap(), replies);
        let frame = reply_frame(dialect, &replies[1]);
        assert_eq!(frame, websocket_frame(dialect, &pieces[1]));
    }
}

#[test]
fn tokens_stay_out_of_debug_output() {
    let frame = r#"{"id":1,"connect":{"token":"s3cret","subs":{"a":{"token":"s3cret"}}}}"#;
    let connect = format!("{:?}", decode(frame).unwrap());
    let frame = r#"{"id":1,"refresh":{"token":"s3cret"}}
        {"id":2,"sub_refresh":{"token":"s3cret"}}"#;
    let frame = frame.replace("\n        ", "\n");
    let refresh = format!("{:?}", decode(frame).unwrap());
    for text in [connect, refresh] {
        assert!(text.contains("given") || text.contains("subs: 1"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}
