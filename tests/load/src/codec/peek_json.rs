//! The same look into a JSON reply: one pass over its bytes, which copies nothing.

use super::peek::{Peeked, Room};

/// What one reply in JSON is. Whatever is not written as the server writes it is [`Peeked::Other`].
pub(super) fn peek_json(reply: &[u8]) -> Peeked<'_> {
    publication(reply).unwrap_or(Peeked::Other)
}

fn publication(reply: &[u8]) -> Option<Peeked<'_>> {
    let mut rest = reply.strip_prefix(b"{\"push\":{")?;
    let mut room = Room::Name(b"");
    loop {
        let key = key(&mut rest)?;
        if key == b"pub" {
            break;
        }
        let value = value(&mut rest)?;
        match key {
            b"id" => room = Room::Id(i64::try_from(number(value)?).ok()?),
            // A name with an escape in it is left to the codec.
            b"channel" if !value.contains(&b'\\') => {
                room = Room::Name(value.strip_prefix(b"\"")?.strip_suffix(b"\"")?);
            }
            _ => return None,
        }
        rest = rest.strip_prefix(b",")?;
    }
    rest = rest.strip_prefix(b"{")?;
    let (mut offset, mut data) = (0, None);
    loop {
        let key = key(&mut rest)?;
        let value = value(&mut rest)?;
        match key {
            b"data" => data = Some(value),
            b"offset" => offset = number(value)?,
            _ => {}
        }
        match rest.split_first()? {
            (b',', behind) => rest = behind,
            (b'}', behind) => {
                rest = behind;
                break;
            }
            _ => return None,
        }
    }
    let data = data?;
    (rest == b"}}").then_some(Peeked::Publication { room, offset, data })
}

/// A member's key; its value stands behind it.
fn key<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = rest.strip_prefix(b"\"")?;
    let end = text.iter().position(|b| *b == b'"')?;
    *rest = text[end + 1..].strip_prefix(b":")?;
    Some(&text[..end])
}

/// A whole value.
fn value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = *rest;
    let (mut at, mut depth) = (0, 0usize);
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
                continue;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' if depth > 0 => {
                at += 1;
                continue;
            }
            b',' | b':' | b'}' | b']' => return None,
            // A number or a word.
            _ => {
                let ends = |b: &u8| matches!(b, b',' | b'}' | b']');
                at += bytes[at..].iter().position(ends)?;
            }
        }
        if depth == 0 {
            let (value, behind) = bytes.split_at(at);
            *rest = behind;
            return Some(value);
        }
    }
}

/// Behind the end of a string whose text begins at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += bytes
            .get(at..)?
            .iter()
            .position(|b| matches!(b, b'"' | b'\\'))?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            _ => at += 2,
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::client::{ChannelRef, Dialect, encode_publication_push};
    use gb6_core_wire::client::{decode_replies, frame::frame_payload};
    use gb6_core_wire::mesh;
    use gb6_core_wire::record::ContentType;
    use proptest::prelude::*;

    fn written(channel: ChannelRef<'_>, publication: &mesh::Publication) -> Vec<u8> {
        let frame = encode_publication_push(Dialect::Json, channel, publication);
        frame_payload(&frame).to_vec()
    }

    proptest! {
        #[test]
        fn a_publication_is_what_the_server_wrote(
            text: String, offset in 1u64.., time: i64, id in 1i64.., user: Option<String>,
            named: bool
        ) {
            let data = serde_json::json!({"x": [text, 1.5, true, null, {}]}).to_string();
            let publication = mesh::Publication {
                offset,
                time,
                data: data.clone().into(),
                content_type: ContentType::Json.into(),
                from: user.map(|user| mesh::Person { user, ..mesh::Person::default() }),
                ..mesh::Publication::default()
            };
            let (channel, room) = match named {
                true => (ChannelRef::Name("room:1"), Room::Name(b"room:1")),
                false => (ChannelRef::Id(id), Room::Id(id)),
            };
            let reply = written(channel, &publication);
            let data = data.as_bytes();
            prop_assert_eq!(peek_json(&reply), Peeked::Publication { room, offset, data });
            // Every piece of it is something else.
            for end in 0..reply.len() {
                prop_assert_eq!(peek_json(&reply[..end]), Peeked::Other);
            }
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, text in "[{}\\[\\]\",:a-z0-9\\\\]{0,40}") {
            peek_json(&bytes);
            let _ = peek_json(format!("{{\"push\":{{\"pub\":{text}").as_bytes());
        }
    }

    #[test]
    fn everything_else_is_left_to_the_codec() {
        for reply in [
            r#"{"id":1,"publish":{}}"#,
            r#"{"push":{"channel":"a","join":{"info":{}}}}"#,
            r#"{"push":{"channel":"a\u0020b","pub":{"data":1}}}"#,
        ] {
            assert_eq!(peek_json(reply.as_bytes()), Peeked::Other, "{reply}");
            assert!(
                decode_replies(Dialect::Json, reply.into()).is_ok(),
                "{reply}"
            );
        }
    }
}
