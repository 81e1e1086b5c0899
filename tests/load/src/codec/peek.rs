//! A look into a Protobuf reply that takes nothing apart: at a million deliveries a second the
//! load generator shares the machine with what it measures. Whatever is not on the hot path is
//! decoded by `gb6_core_wire`.

/// How a push names its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room<'a> {
    /// By the number that the subscription was given.
    Id(i64),
    /// By its name, in UTF-8.
    Name(&'a [u8]),
}

/// What a reply is, as far as the hot path asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Peeked<'a> {
    /// A push of a publication.
    Publication {
        /// Where it was published.
        room: Room<'a>,
        /// Its offset.
        offset: u64,
        /// Its data.
        data: &'a [u8],
    },
    /// A publish was acknowledged.
    Published {
        /// The command's number.
        id: u32,
    },
    /// Something else: decode it.
    Other,
}

/// Numbers of the public schema.
const REPLY_ID: u64 = 1;
const REPLY_PUSH: u64 = 4;
const REPLY_PUBLISH: u64 = 8;
const PUSH_CHANNEL: u64 = 2;
const PUSH_PUB: u64 = 4;
const PUSH_ID: u64 = 1;
const PUB_DATA: u64 = 4;
const PUB_OFFSET: u64 = 6;

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Skipped,
}

/// A varint and what stands behind it.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (n, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[n + 1..]));
        }
    }
    None
}

/// The next field of a message.
fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let (key, rest) = varint(bytes)?;
    let (value, rest) = match key & 7 {
        0 => {
            let (value, rest) = varint(rest)?;
            (Value::Number(value), rest)
        }
        1 => (Value::Skipped, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(content), rest)
        }
        5 => (Value::Skipped, rest.get(4..)?),
        _ => return None,
    };
    *bytes = rest;
    Some((key >> 3, value))
}

/// What the bytes of one reply (without its length) are.
pub(super) fn peek(mut reply: &[u8]) -> Peeked<'_> {
    let mut id = 0;
    let mut published = false;
    let mut publication = None;
    while !reply.is_empty() {
        match field(&mut reply) {
            Some((REPLY_ID, Value::Number(n))) => id = n as u32,
            Some((REPLY_PUBLISH, Value::Bytes(_))) => published = true,
            Some((REPLY_PUSH, Value::Bytes(push))) => match peek_push(push) {
                Some(found) => publication = Some(found),
                None => return Peeked::Other,
            },
            _ => return Peeked::Other,
        }
    }
    match (publication, published) {
        (Some((room, offset, data)), false) => Peeked::Publication { room, offset, data },
        (None, true) => Peeked::Published { id },
        _ => Peeked::Other,
    }
}

fn peek_push(mut push: &[u8]) -> Option<(Room<'_>, u64, &[u8])> {
    let mut content = None;
    let mut room = Room::Name(b"");
    while !push.is_empty() {
        match field(&mut push)? {
            (PUSH_PUB, Value::Bytes(found)) => content = Some(found),
            (PUSH_ID, Value::Number(id)) => room = Room::Id(id as i64),
            (PUSH_CHANNEL, Value::Bytes(name)) => room = Room::Name(name),
            _ => (),
        }
    }
    let mut content = content?;
    let (mut offset, mut data) = (0, &[][..]);
    while !content.is_empty() {
        match field(&mut content)? {
            (PUB_DATA, Value::Bytes(found)) => data = found,
            (PUB_OFFSET, Value::Number(found)) => offset = found,
            _ => (),
        }
    }
    Some((room, offset, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gb6_core_wire::client::{
        ChannelRef, ClientInfo, Dialect, Publication, Push, Reply, Unsubscribe,
        encode_publication_push, frame::frame_payload,
    };
    use gb6_core_wire::mesh;
    use proptest::prelude::*;
    use prost::Message as _;

    proptest! {
        #[test]
        fn a_publication_is_what_the_codec_wrote(
            data: Vec<u8>, offset: u64, time: i64, id: i64, user: Option<String>, channel in "[a-z:]{0,20}"
        ) {
            let room = match id {
                0 => Room::Name(channel.as_bytes()),
                id => Room::Id(id),
            };
            let reply = Reply::push(Push {
                id,
                channel: if id == 0 { channel.clone() } else { String::new() },
                publication: Some(Publication {
                    data: Bytes::from(data.clone()),
                    offset,
                    time,
                    info: user.map(|user| ClientInfo { user, ..ClientInfo::default() }),
                    ..Publication::default()
                }),
                ..Push::default()
            });
            let bytes = reply.encode_to_vec();
            prop_assert_eq!(peek(&bytes), Peeked::Publication { room, offset, data: &data });
        }

        #[test]
        fn nothing_panics_and_nothing_is_invented(bytes: Vec<u8>) {
            if let Peeked::Publication { offset, data, .. } = peek(&bytes)
                && let Ok(reply) = Reply::decode(&bytes[..])
            {
                let publication = reply.push.and_then(|p| p.publication);
                // Fields that stand twice are merged by the codec; here the last one counts.
                prop_assert!(publication.is_some());
                let _ = (offset, data);
            }
        }
    }

    #[test]
    fn the_hot_path_of_the_server_is_the_hot_path_here() {
        let publication = mesh::Publication {
            offset: 7,
            data: Bytes::from_static(b"{}"),
            ..mesh::Publication::default()
        };
        for (channel, room) in [
            (ChannelRef::Name("room:1"), Room::Name(b"room:1")),
            (ChannelRef::Id(3), Room::Id(3)),
        ] {
            let frame = encode_publication_push(Dialect::Protobuf, channel, &publication);
            let payload = frame_payload(&frame);
            let (length, reply) = varint(&payload).unwrap();
            assert_eq!(length as usize, reply.len());
            assert_eq!(
                peek(reply),
                Peeked::Publication {
                    room,
                    offset: 7,
                    data: b"{}"
                }
            );
        }
    }

    #[test]
    fn everything_else_is_left_to_the_codec() {
        let unsubscribe = Reply::push(Push {
            channel: "room:1".into(),
            unsubscribe: Some(Unsubscribe::default()),
            ..Push::default()
        });
        assert_eq!(peek(&unsubscribe.encode_to_vec()), Peeked::Other);
        let refused = Reply::error(4, gb6_core_model::codes::ErrorCode::PermissionDenied);
        assert_eq!(peek(&refused.encode_to_vec()), Peeked::Other);
        assert_eq!(peek(b""), Peeked::Other);
        // The golden reply to a publish with id 4.
        assert_eq!(peek(&[0x08, 4, 0x42, 0]), Peeked::Published { id: 4 });
    }
}
