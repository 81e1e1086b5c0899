//! Transports of one direction: the request that begins a session in place of a command, and pushes
//! without the reply around them.
//!
//! Nothing is encoded twice for them. A push that was encoded once for everybody holds its bare form
//! within: behind `{"push":`, or behind the length of the reply and its one field's key.

use bytes::{Buf as _, Bytes};
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use serde::de::IgnoredAny;

use super::{
    CodecError, Dialect, JsonProblem, Push, decode_replies, encode_push, json::parse as parse_json,
};

/// What stands before a push in its reply, in JSON.
const PUSH_JSON: &[u8] = b"{\"push\":";
/// The key of a reply's push, in Protobuf: field 4 with a length.
const PUSH_KEY: u8 = 4 << 3 | 2;
/// What stands before a connect request in its command, in Protobuf: the id 1, then field 4 with a
/// length.
const CONNECT_KEYS: [u8; 3] = [1 << 3, 1, 4 << 3 | 2];

/// The command, with the id 1, that a `ConnectRequest` stands for. Its fields are not looked at.
///
/// # Errors
/// In JSON: it is no JSON object.
pub fn connect_command(dialect: Dialect, request: &[u8]) -> Result<Bytes, CodecError> {
    let mut out = Vec::with_capacity(request.len() + 32);
    match dialect {
        Dialect::Json => {
            let text =
                std::str::from_utf8(request).map_err(|_| CodecError::NotUtf8 { index: 0 })?;
            // Nothing but one value, or what stands behind it would be read as another field of
            // the command.
            parse_json::<IgnoredAny>(0, text)?;
            if !text.trim_ascii_start().starts_with('{') {
                return Err(CodecError::Json {
                    index: 0,
                    column: 1,
                    problem: JsonProblem::Field,
                });
            }
            out.extend_from_slice(b"{\"id\":1,\"connect\":");
            // A string has no bare line break, so that one is never part of what is said.
            let one_line = request.iter().map(|b| match b {
                b'\n' | b'\r' => b' ',
                other => *other,
            });
            out.extend(one_line);
            out.push(b'}');
        }
        Dialect::Protobuf => {
            let length = request.len() as u64;
            let whole = CONNECT_KEYS.len() + encoded_len_varint(length) + request.len();
            encode_varint(whole as u64, &mut out);
            out.extend_from_slice(&CONNECT_KEYS);
            encode_varint(length, &mut out);
            out.extend_from_slice(request);
        }
    }
    Ok(out.into())
}

/// Gives each reply of a frame's payload to `each`, as it stands there: without its newline, with
/// its length. What is encoded wrongly is passed over.
pub fn each_reply(dialect: Dialect, payload: &Bytes, mut each: impl FnMut(Bytes)) {
    let mut rest = payload.clone();
    while !rest.is_empty() {
        let end = match dialect {
            Dialect::Json => rest.iter().position(|b| *b == b'\n'),
            Dialect::Protobuf => {
                let mut after = &rest[..];
                let length = decode_varint(&mut after).map(usize::try_from);
                match length {
                    Ok(Ok(length)) if length <= after.len() => {
                        Some(rest.len() - after.len() + length)
                    }
                    _ => return,
                }
            }
        };
        let reply = rest.split_to(end.unwrap_or(rest.len()));
        if dialect == Dialect::Json && end.is_some() {
            rest.advance(1);
        }
        if !reply.is_empty() {
            each(reply);
        }
    }
}

/// The bare push of a reply from [`each_reply`], framed as that is: of one with a push the push
/// itself, of a ping an empty push, of the answer to a connect the push that says the same. `None`:
/// any other, which nobody who only listens is sent.
pub fn bare_push(dialect: Dialect, reply: &Bytes) -> Option<Bytes> {
    if let Some(push) = pushed(dialect, reply) {
        return Some(push);
    }
    let told = decode_replies(dialect, reply.clone()).ok()?.pop()?;
    if told.is_ping() {
        return Some(reply.clone());
    }
    let push = Push {
        connect: Some(told.connect?),
        ..Push::default()
    };
    let mut out = Vec::new();
    encode_push(dialect, &push, &mut out);
    pushed(dialect, &Bytes::from(out))
}

/// The push within a reply, not copied; `None`: there is none.
fn pushed(dialect: Dialect, reply: &Bytes) -> Option<Bytes> {
    match dialect {
        Dialect::Json => {
            let push = reply.strip_prefix(PUSH_JSON)?.strip_suffix(b"}")?;
            Some(reply.slice_ref(push))
        }
        Dialect::Protobuf => {
            let mut rest = &reply[..];
            decode_varint(&mut rest).ok()?;
            let push = rest.strip_prefix(&[PUSH_KEY])?;
            // It is the only field: its length is that of the rest.
            let mut within = push;
            let length = decode_varint(&mut within).ok()?;
            (length == within.len() as u64).then(|| reply.slice_ref(push))
        }
    }
}
