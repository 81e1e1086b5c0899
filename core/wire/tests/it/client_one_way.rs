//! Transports of one direction: the connect request, and bare pushes.

use bytes::Bytes;
use gb6_core_wire::client::*;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use crate::client_strategies::*;

fn command_of(dialect: Dialect, request: &[u8]) -> Command {
    let frame = connect_command(dialect, request).unwrap();
    let mut commands = decode_frame(dialect, frame).unwrap();
    assert_eq!(commands.len(), 1);
    commands.remove(0)
}

#[test]
fn a_connect_request_becomes_a_command() {
    let pretty = b"{\n  \"token\": \"T\",\r\n  \"subs\": {\"room:1\": {\"recover\": true}}\n}\n";
    let command = command_of(Dialect::Json, pretty);
    let connect = command.connect.as_deref().unwrap();
    assert_eq!((command.id, connect.token.as_str()), (1, "T"));
    assert!(connect.subs["room:1"].recover);
    assert_eq!(
        command_of(Dialect::Json, b" {} ").connect.unwrap().token,
        ""
    );
    let again = command_of(Dialect::Protobuf, &connect.encode_to_vec());
    assert_eq!(again, command);
    assert!(command_of(Dialect::Protobuf, b"").connect.is_some());
}

#[test]
fn what_is_no_single_object_is_refused() {
    for request in [
        &b""[..],
        b"null",
        b"[]",
        b"\"a\"",
        b"{",
        b"{}}",
        b"{},\"publish\":{\"channel\":\"room:1\",\"data\":1}",
        b"{\"token\":\"\xff\"}",
    ] {
        assert!(
            connect_command(Dialect::Json, request).is_err(),
            "{}",
            String::from_utf8_lossy(request)
        );
    }
    let deep = "[".repeat(100_000);
    assert!(connect_command(Dialect::Json, deep.as_bytes()).is_err());
}

#[test]
fn golden_bare_pushes() {
    let bare = |dialect, reply: &[u8]| {
        let told = bare_push(dialect, &Bytes::copy_from_slice(reply));
        told.map(|b| String::from_utf8_lossy(&b).into_owned())
    };
    let json = |reply: &str| bare(Dialect::Json, reply.as_bytes());
    let push = r#"{"push":{"channel":"room:1","pub":{"data":{"a":"}"},"offset":6}}}"#;
    assert_eq!(
        json(push).as_deref(),
        Some(r#"{"channel":"room:1","pub":{"data":{"a":"}"},"offset":6}}"#)
    );
    assert_eq!(json("{}").as_deref(), Some("{}"));
    assert_eq!(
        json(r#"{"id":1,"connect":{"client":"c1","ping":25}}"#).as_deref(),
        Some(r#"{"connect":{"client":"c1","ping":25}}"#)
    );
    assert_eq!(json(r#"{"id":1,"error":{"code":109,"message":"x"}}"#), None);
    assert_eq!(json(r#"{"id":4,"publish":{}}"#), None);
    // `push pub room:1 offset 6 …` of the protocol's golden bytes, and the ping.
    let push = b"\x0e\x22\x0c\x12\x01r\x22\x07\x22\x05\"abc\"";
    let told = bare_push(Dialect::Protobuf, &Bytes::from_static(push));
    assert_eq!(told.as_deref(), Some(&push[2..]));
    let ping = bare_push(Dialect::Protobuf, &Bytes::from_static(b"\x00"));
    assert_eq!(ping.as_deref(), Some(&b"\x00"[..]));
}

proptest! {
    /// Every push loses its reply and nothing else, and is not copied.
    #[test]
    fn a_bare_push_says_what_the_reply_said(pushes in vec(push(), 1..4)) {
        for dialect in Dialect::ALL {
            let replies: Vec<Vec<u8>> = pushes.iter().map(|push| {
                let mut out = Vec::new();
                encode_push(dialect, push, &mut out);
                out
            }).collect();
            let mut payload = Vec::new();
            join_replies(dialect, replies.iter().map(Vec::as_slice), &mut payload);
            let payload = Bytes::from(payload);
            let mut told = Vec::new();
            each_reply(dialect, &payload, |reply| told.push(bare_push(dialect, &reply).unwrap()));
            prop_assert_eq!(told.len(), pushes.len());
            for (bare, push) in told.iter().zip(&pushes) {
                prop_assert!(payload.as_ptr_range().contains(&bare.as_ptr()), "copied");
                let again = match dialect {
                    Dialect::Json => {
                        let reply = [&b"{\"push\":"[..], bare, b"}"].concat();
                        let reply = decode_replies(dialect, reply.into()).unwrap().remove(0);
                        *reply.push.unwrap()
                    }
                    Dialect::Protobuf => Push::decode_length_delimited(&bare[..]).unwrap(),
                };
                prop_assert_eq!(&again, push);
            }
        }
    }

    #[test]
    fn garbage_is_passed_over(bytes in vec(any::<u8>(), 0..200)) {
        gb6_core_wire::fuzz::one_way(&bytes);
    }

    /// What a frame holds is given whole, in order, and nothing else.
    #[test]
    fn replies_are_cut_where_they_end(replies in vec(reply(), 0..5)) {
        for dialect in Dialect::ALL {
            let mut payload = Vec::new();
            encode_replies(dialect, &replies, &mut payload);
            let mut cut = Vec::new();
            each_reply(dialect, &payload.into(), |one| {
                cut.extend(decode_replies(dialect, one).unwrap());
            });
            prop_assert_eq!(&cut, &replies);
        }
    }
}
