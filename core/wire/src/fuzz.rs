//! Entry points for fuzzers: every parser of outside bytes, fed with anything. Each must return.
//! What a fuzzer finds becomes a file in `corpus/`, which the tests replay.

use bytes::Bytes;
use prost::Message as _;

use crate::client::{self, Dialect};
use crate::{fossil, mesh, record};

/// A frame of a client, read in both dialects; what decodes is decoded again from what it encodes
/// to.
pub fn client_frame(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    for dialect in Dialect::ALL {
        match client::decode_frame(dialect, frame.clone()) {
            Ok(commands) => commands.iter().for_each(|c| check_command(dialect, c)),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if let Ok(replies) = client::decode_replies(dialect, frame.clone()) {
            check_replies(&replies);
        }
    }
    let _ = client::frame::frame_payload(&frame);
}

fn check_command(dialect: Dialect, command: &client::Command) {
    let _ = (command.method().name(), command.is_pong());
    if let Some(subscribe) = &command.subscribe {
        let _ = client::decode_filter(dialect, &subscribe.tf);
    }
    let again = client::Command::decode(command.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(command));
}

fn check_replies(replies: &[client::Reply]) {
    let mut json = Vec::new();
    client::encode_replies(Dialect::Json, replies, &mut json);
    for line in json.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let valid = serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok();
        assert!(valid, "a reply is one line of JSON");
    }
    let mut protobuf = Vec::new();
    client::encode_replies(Dialect::Protobuf, replies, &mut protobuf);
    let again = client::decode_replies(Dialect::Protobuf, protobuf.into());
    assert_eq!(again.as_deref(), Ok(replies));
}

/// A connect request without its command, a request to `/emulation`, and a payload of replies that is
/// cut for a transport of one direction.
pub fn one_way(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for dialect in Dialect::ALL {
        if let Ok(frame) = client::connect_command(dialect, data) {
            let commands: Vec<_> = client::Commands::new(dialect, frame).collect();
            assert_eq!(commands.len(), 1, "a request is one command");
            if let Ok(command) = &commands[0] {
                assert!(command.connect.is_some() && command.publish.is_none());
            }
        }
        if let Ok(request) = client::decode_emulation(dialect, bytes.clone()) {
            assert!(request.data.len() <= data.len());
        }
        client::each_reply(dialect, &bytes, |reply| {
            let bare = client::bare_push(dialect, &reply);
            let listed =
                dialect == Dialect::Protobuf || bare.is_none_or(|bare| !bare.contains(&b'\n'));
            assert!(listed, "a push is one line");
        });
    }
}

/// A frame of the mesh, read as every message that begins a frame.
pub fn mesh_frame(data: &[u8]) {
    if let Ok(frame) = mesh::ToEdge::decode(data) {
        let _ = frame.class();
        if let Some(mesh::EdgeFrame::Deliver(deliver)) = &frame.frame {
            for dialect in Dialect::ALL {
                let channel = deliver.room.channel.as_str();
                let _ = client::encode_publication_push(dialect, channel, &deliver.publication);
            }
        }
        assert_eq!(
            mesh::ToEdge::decode(frame.encode_to_vec().as_slice()),
            Ok(frame)
        );
    }
    if let Ok(frame) = mesh::ToOwner::decode(data) {
        assert_eq!(
            mesh::ToOwner::decode(frame.encode_to_vec().as_slice()),
            Ok(frame)
        );
    }
    relay_frame(data);
    let _ = mesh::Hello::decode(data);
    let _ = mesh::StreamOpen::decode(data);
    let _ = mesh::LimitsWanted::decode(data);
    let _ = mesh::LimitsShared::decode(data);
    let _ = mesh::OwnersNow::decode(data);
    let _ = mesh::HistoryRequest::decode(data);
    let _ = mesh::HistoryPage::decode(data);
    let _ = mesh::SnapshotPush::decode(data);
}

/// A frame of a relay stream, each way, and the question or answer in it.
fn relay_frame(data: &[u8]) {
    let question = |bytes: &[u8]| {
        if let Ok(question) = mesh::EdgeQuestion::decode(bytes) {
            let again = mesh::EdgeQuestion::decode(question.encode_to_vec().as_slice());
            assert_eq!(again, Ok(question));
        }
    };
    let answer = |bytes: &[u8]| {
        if let Ok(answer) = mesh::EdgeAnswer::decode(bytes) {
            let again = mesh::EdgeAnswer::decode(answer.encode_to_vec().as_slice());
            assert_eq!(again, Ok(answer));
        }
    };
    if let Ok(frame) = mesh::ToRelay::decode(data) {
        let _ = frame.class();
        match &frame.frame {
            Some(mesh::RelayRequest::Ask(ask)) => question(&ask.question),
            Some(mesh::RelayRequest::Answer(given)) => answer(&given.answer),
            None => {}
        }
        let again = mesh::ToRelay::decode(frame.encode_to_vec().as_slice());
        assert_eq!(again, Ok(frame));
    }
    if let Ok(frame) = mesh::FromRelay::decode(data) {
        let _ = frame.class();
        match &frame.frame {
            Some(mesh::RelayFrame::Asked(asked)) => question(&asked.question),
            Some(mesh::RelayFrame::Answered(answered)) => answer(&answered.answer),
            Some(mesh::RelayFrame::Edges(_)) | None => {}
        }
        let again = mesh::FromRelay::decode(frame.encode_to_vec().as_slice());
        assert_eq!(again, Ok(frame));
    }
    question(data);
    answer(data);
}

/// A delta and what it is for, a zero byte between them: applied as it is, and made of both.
pub fn fossil_delta(data: &[u8]) {
    let cut = data.iter().position(|b| *b == 0);
    let (delta, base) = data.split_at(cut.unwrap_or(data.len()));
    match fossil::apply(base, delta, 1 << 16) {
        Ok(made) => assert!(made.len() <= 1 << 16),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for (base, target) in [(base, delta), (delta, base)] {
        if let Some(made) = fossil::make(base, target) {
            assert!(made.len() < target.len());
            assert_eq!(
                fossil::apply(base, &made, target.len()).as_deref(),
                Ok(target)
            );
        }
    }
}

/// A tags filter in both dialects: what decodes and is accepted is evaluated.
pub fn tags_filter(data: &[u8]) {
    let tf = Bytes::copy_from_slice(data);
    let tags = [("id".to_owned(), "1.5".to_owned())].into();
    for dialect in Dialect::ALL {
        match client::decode_filter(dialect, &tf) {
            Ok(Some(node)) => {
                if let Ok(filter) = client::TagsFilter::new(&node) {
                    let _ = (filter.passes(&tags), filter.passes(&Default::default()));
                }
            }
            Ok(None) => assert!(data.is_empty() || data.trim_ascii() == b"null"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// A record of a log, and its body; and a body that tells of a session.
pub fn record(data: &[u8]) {
    session_body(data);
    if let Ok(record) = record::Record::decode(data) {
        let _ = (record.takes_offset(), record.kind());
        let _ = record::body(&record);
        let _ = record::body_with_keys(&record, &OneKey);
        let again = record::Record::decode(record.encode_to_vec().as_slice());
        assert_eq!(again.as_ref(), Ok(&record));
        let erased = record::erase_encoded(data).map(|data| record::Record::decode(&*data));
        assert!(matches!(erased, Ok(Ok(r)) if r.body.is_empty() && r.tags.is_empty()));
    }
}

/// A body that tells of a session: what is read is bounded, reads back, and has an id where its
/// record says whose session it was.
fn session_body(data: &[u8]) {
    match record::SessionBody::parse(data) {
        Ok(body) => {
            assert!(data.len() <= record::SESSION_BODY_BYTES_MAX);
            let again = record::SessionBody::parse(&body.encode_to_vec());
            assert_eq!(again.as_ref(), Ok(&body));
            let record = record::Record {
                kind: record::Kind::Session.into(),
                origin: Some(record::Origin {
                    edge_incarnation: 1,
                    ..record::Origin::default()
                }),
                ..record::Record::default()
            };
            let known = body.event() != record::SessionEvent::Unspecified;
            assert_eq!(body.event_id(&record).is_some(), known);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Every instance has the same key.
struct OneKey;

impl record::KeyRing for OneKey {
    fn key(&self, _instance: &str, _key_id: u32) -> Option<[u8; 32]> {
        Some([7; 32])
    }
}
