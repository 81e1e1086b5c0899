//! Live pushes in every form: what the hot path writes is what the schema's own types write.

use gb6_core_wire::client::*;
use gb6_core_wire::mesh;
use gb6_core_wire::record::ContentType;
use proptest::prelude::*;

use crate::client_golden::{hex, to_hex};

fn person() -> mesh::Person {
    mesh::Person {
        user: "u".into(),
        client: "c1".into(),
        ..Default::default()
    }
}

fn publication(data: &'static str) -> mesh::Publication {
    mesh::Publication {
        offset: 6,
        from: Some(person()),
        data: data.into(),
        content_type: ContentType::Json.into(),
        tags: [("k".to_owned(), "v".to_owned())].into(),
        time: 1_800_000_000_123,
        ..Default::default()
    }
}

fn payload(dialect: Dialect, channel: ChannelRef<'_>, event: Event<'_>) -> Vec<u8> {
    frame::frame_payload(&encode_live(dialect, channel, event)).to_vec()
}

/// The push of a frame, read by the schema's types.
fn read(dialect: Dialect, payload: &[u8]) -> Push {
    let replies = decode_replies(dialect, payload.to_vec().into()).unwrap();
    assert_eq!(replies.len(), 1);
    *replies.into_iter().next().unwrap().push.unwrap()
}

#[test]
fn golden_compacted_push() {
    let publication = mesh::Publication {
        offset: 6,
        data: r#"{"a":1}"#.into(),
        ..Default::default()
    };
    let event = Event::Publication(&publication, PublicationData::Plain);
    let got = payload(Dialect::Protobuf, ChannelRef::Id(7), event);
    assert_eq!(
        to_hex(&got),
        to_hex(&hex("11220f0807220b22077b2261223a317d3006"))
    );
    let got = payload(Dialect::Json, ChannelRef::Id(7), event);
    let text = String::from_utf8(got).unwrap();
    assert_eq!(
        text,
        r#"{"push":{"id":7,"pub":{"data":{"a":1},"offset":6}}}"#
    );
}

#[test]
fn every_form_says_the_same() {
    let whole = publication("{\"t\":\"\\\"ä\\\\\"}");
    let delta = "3\n1@0,2:ä;".as_bytes();
    let text = json_text_of(&whole.data, whole.content_type());
    for dialect in Dialect::ALL {
        for channel in [ChannelRef::Name("room:1"), ChannelRef::Id(300)] {
            let json = dialect == Dialect::Json;
            for (data, shown) in [
                (PublicationData::Plain, whole.data.to_vec()),
                (
                    PublicationData::Whole(&text),
                    match json {
                        true => serde_json::to_vec(&*text).unwrap(),
                        false => whole.data.to_vec(),
                    },
                ),
                (
                    PublicationData::Delta(delta),
                    match json {
                        true => serde_json::to_vec(std::str::from_utf8(delta).unwrap()).unwrap(),
                        false => delta.to_vec(),
                    },
                ),
            ] {
                let got = payload(dialect, channel, Event::Publication(&whole, data));
                let want = Push {
                    id: if let ChannelRef::Id(id) = channel {
                        id
                    } else {
                        0
                    },
                    channel: if let ChannelRef::Name(n) = channel {
                        n.into()
                    } else {
                        String::new()
                    },
                    publication: Some(Publication {
                        data: shown.into(),
                        delta: matches!(data, PublicationData::Delta(_)),
                        ..Publication::from(&whole)
                    }),
                    ..Push::default()
                };
                assert_eq!(read(dialect, &got), want, "{dialect:?} {data:?}");
            }
            let person = person();
            let joined = read(dialect, &payload(dialect, channel, Event::Join(&person)));
            let left = read(dialect, &payload(dialect, channel, Event::Leave(&person)));
            let info = Some(ClientInfo::from(&person));
            assert_eq!(joined.join.map(|j| j.info), Some(info.clone()));
            assert_eq!(left.leave.map(|l| l.info), Some(info));
        }
    }
}

#[test]
fn a_publication_of_a_prefix_names_its_channel_and_the_subscriptions() {
    let publication = publication("{\"a\":1}");
    for dialect in Dialect::ALL {
        let event = Event::OfPrefix(&publication, "room:lobby.1");
        let got = payload(dialect, ChannelRef::Name("room:lobby.*"), event);
        let want = Push {
            channel: "room:lobby.*".to_owned(),
            publication: Some(Publication {
                channel: "room:lobby.1".to_owned(),
                ..Publication::from(&publication)
            }),
            ..Push::default()
        };
        assert_eq!(read(dialect, &got), want, "{dialect:?}");
    }
}

proptest! {
    #[test]
    fn what_is_made_for_another_channel_is_what_would_be_encoded_for_it(
        first in "[ -~]{1,300}",
        other in "[ -~]{1,300}",
        bytes in prop_oneof![0..200usize, 60_000..70_000usize],
        is_text in any::<bool>(),
    ) {
        let mut publication = publication("");
        publication.data = match is_text {
            true => format!("\"{}\"", "x".repeat(bytes)).into(),
            false => vec![0xff; bytes].into(),
        };
        if !is_text {
            publication.content_type = ContentType::Unspecified.into();
        }
        let person = person();
        for dialect in Dialect::ALL {
            for event in [
                Event::OfPrefix(&publication, "room:lobby.1"),
                Event::Publication(&publication, PublicationData::Plain),
                Event::Join(&person),
            ] {
                let made = LiveFrame::new(dialect, &first, event);
                for channel in [&first, &other] {
                    let want = encode_live(dialect, ChannelRef::Name(channel), event);
                    prop_assert_eq!(made.in_channel(channel), want);
                }
                prop_assert_eq!(made.frame(), made.in_channel(&first));
            }
        }
    }
}

#[test]
fn there_is_always_a_text_to_go_on_from() {
    for (data, content_type, text) in [
        (&b""[..], ContentType::Json, "null"),
        (b"{\n \"a\": 1\r\n}", ContentType::Json, "{ \"a\": 1}"),
        (b"\x00\xff", ContentType::Unspecified, r#"{"b64":"AP8="}"#),
        (b"[1]", ContentType::Unspecified, "[1]"),
        (b"\xff", ContentType::Json, "\u{fffd}"),
    ] {
        assert_eq!(json_text_of(data, content_type), text);
    }
}
