//! Round trips and hostile bytes, over generated input.

use bytes::Bytes;
use gb6_core_model::limits::COMMAND_BYTES_MAX;
use gb6_core_wire::client::*;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use crate::client_strategies::*;

fn encoded(dialect: Dialect, reply: &Reply) -> Vec<u8> {
    let mut out = Vec::new();
    encode_reply(dialect, reply, &mut out);
    out
}

proptest! {
    #[test]
    fn replies_round_trip(replies in vec(reply(), 1..4)) {
        for dialect in Dialect::ALL {
            let mut frame = Vec::new();
            encode_replies(dialect, &replies, &mut frame);
            prop_assert_eq!(&decode_replies(dialect, frame.into()).unwrap(), &replies);
        }
    }

    #[test]
    fn a_json_reply_is_one_line_of_json_whatever_the_data(
        reply in reply(),
        data in data(),
        person in person(),
    ) {
        let mut wild = reply;
        let info = Some(ClientInfo::from(&person));
        wild.rpc = Some(RpcResult { data: data.clone() });
        wild.history = Some(HistoryResult {
            publications: vec![Publication { data, info, ..Default::default() }],
            ..Default::default()
        });
        let line = encoded(Dialect::Json, &wild);
        prop_assert!(!line.contains(&b'\n'));
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn commands_round_trip(commands in vec(command(), 1..4)) {
        let mut frame = Vec::new();
        for command in &commands {
            command.encode_length_delimited(&mut frame).unwrap();
        }
        prop_assert_eq!(decode_frame(Dialect::Protobuf, frame.into()).unwrap(), commands);
    }

    #[test]
    fn json_publishes_keep_their_data_verbatim(id in any::<u32>(), channel in text(), data in json()) {
        let name = serde_json::to_string(&channel).unwrap();
        let text = std::str::from_utf8(&data).unwrap();
        let line = format!(r#"{{"publish":{{"channel":{name},"data":{text}}},"id":{id}}}"#);
        let got = decode_frame(Dialect::Json, line.into()).unwrap();
        let want = PublishRequest { channel, data, ..Default::default() };
        prop_assert_eq!((got[0].id, got[0].method()), (id, Method::Publish(&want)));
    }

    #[test]
    fn live_frames_are_those_of_the_types(
        publication in mesh_publication(),
        person in person(),
        channel in text(),
        id in 1i64..,
    ) {
        for dialect in Dialect::ALL {
            let named = Push { channel: channel.clone(), ..Default::default() };
            let numbered = Push { id, ..Default::default() };
            for (target, push) in [
                (ChannelRef::Name(&channel), named),
                (ChannelRef::Id(id), numbered),
            ] {
                let check = |frame: Bytes, push: Push| {
                    let mut payload = Vec::new();
                    encode_push(dialect, &push, &mut payload);
                    prop_assert_eq!(frame, websocket_frame(dialect, &payload));
                    prop_assert_eq!(payload, encoded(dialect, &Reply::push(push)));
                    Ok(())
                };
                check(
                    encode_publication_push(dialect, target, &publication),
                    Push { publication: Some((&publication).into()), ..push.clone() },
                )?;
                let info = Some(ClientInfo::from(&person));
                check(
                    encode_join_push(dialect, target, &person),
                    Push { join: Some(Join { info: info.clone() }), ..push.clone() },
                )?;
                check(
                    encode_leave_push(dialect, target, &person),
                    Push { leave: Some(Leave { info }), ..push.clone() },
                )?;
            }
        }
    }

    #[test]
    fn garbage_is_an_error_or_commands(bytes in vec(any::<u8>(), 0..400)) {
        gb6_core_wire::fuzz::client_frame(&bytes);
    }

    #[test]
    fn damaged_frames_are_errors_or_commands(
        commands in vec(command(), 1..3),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut frame = Vec::new();
        for command in &commands {
            command.encode_length_delimited(&mut frame).unwrap();
        }
        let whole = frame.clone();
        let short = &whole[..cut.index(whole.len())];
        if let Ok(some) = decode_frame(Dialect::Protobuf, Bytes::copy_from_slice(short)) {
            prop_assert!(commands.starts_with(&some), "a cut falls between commands or is seen");
        }
        let damaged = at.index(frame.len());
        frame[damaged] = byte;
        gb6_core_wire::fuzz::client_frame(&frame);
    }

    #[test]
    fn text_close_to_json_is_an_error_or_commands(
        text in r#"[{}\[\]",:\\n0-9a-z idpublsh]{0,60}"#,
    ) {
        gb6_core_wire::fuzz::client_frame(text.as_bytes());
    }
}

#[test]
fn protobuf_bounds_come_before_decoding() {
    let one = |command: Command| {
        let frame = Bytes::from(command.encode_length_delimited_to_vec());
        decode_frame(Dialect::Protobuf, frame)
    };
    let large = Bytes::from(vec![b'x'; COMMAND_BYTES_MAX]);
    let publish = PublishRequest {
        data: large.clone(),
        ..Default::default()
    };
    let got = one(Command {
        publish: Some(publish),
        ..Default::default()
    });
    assert!(matches!(got, Err(CodecError::CommandTooLarge { .. })));
    let connect = ConnectRequest {
        data: large,
        ..Default::default()
    };
    let got = one(Command {
        connect: Some(Box::new(connect)),
        ..Default::default()
    });
    assert!(got.is_ok());

    // The same empty entry again and again: one entry for the map, but each has to be decoded.
    let entries = |field: u8, count: usize| {
        let mut body = Vec::new();
        body.extend_from_slice(&[0x22]);
        prost::encoding::encode_varint(2 * count as u64, &mut body);
        body.extend([field << 3 | 2, 0].repeat(count));
        let mut frame = Vec::new();
        prost::encoding::encode_varint(body.len() as u64, &mut frame);
        frame.extend(body);
        decode_frame(Dialect::Protobuf, frame.into())
    };
    assert!(entries(3, CONNECT_SUBS_MAX).is_ok());
    let error = entries(3, CONNECT_SUBS_MAX + 1).unwrap_err();
    assert!(matches!(
        error,
        CodecError::TooManyEntries {
            what: "subscriptions",
            ..
        }
    ));
    let error = entries(6, CONNECT_HEADERS_MAX + 1).unwrap_err();
    assert!(matches!(
        error,
        CodecError::TooManyEntries {
            what: "headers",
            ..
        }
    ));
}

#[test]
fn as_many_commands_as_the_frame_holds_are_read_one_by_one() {
    let frame = Bytes::from(vec![0; 1 << 20]);
    let mut pongs = Commands::new(Dialect::Protobuf, frame);
    assert!(pongs.next().unwrap().unwrap().is_pong());
    assert_eq!(pongs.bytes_left(), (1 << 20) - 1);
    assert_eq!(
        pongs.filter(|c| matches!(c, Ok(c) if c.is_pong())).count(),
        (1 << 20) - 1
    );
    // Behind an error nothing is read.
    let mut damaged = Commands::new(Dialect::Protobuf, Bytes::from_static(&[0, 5, 0, 0]));
    assert!(damaged.next().unwrap().is_ok());
    assert!(damaged.next().unwrap().is_err());
    assert!(damaged.next().is_none());
}

#[test]
fn a_length_beyond_the_frame_is_named() {
    let frame = Bytes::from_static(b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x08");
    assert_eq!(
        decode_frame(Dialect::Protobuf, frame),
        Err(CodecError::Truncated {
            index: 1,
            claimed: u64::MAX,
            left: 1
        })
    );
}

#[test]
fn protobuf_data_shares_the_frame() {
    let command = Command {
        publish: Some(PublishRequest {
            data: Bytes::from(vec![7; 1000]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let frame = Bytes::from(command.encode_length_delimited_to_vec());
    let got = decode_frame(Dialect::Protobuf, frame.clone()).unwrap();
    let data = &got[0].publish.as_ref().unwrap().data;
    let range = frame.as_ptr_range();
    assert!(range.contains(&data.as_ptr()));
}
