//! Reading and writing the Protobuf dialect: messages, each behind its length as a varint. A length
//! of zero is the ping (reply) or the answer to it (command).

use bytes::{Buf as _, Bytes};
use gb6_core_model::limits::COMMAND_BYTES_MAX;
use prost::Message as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{
    CONNECT_HEADERS_MAX, CONNECT_SUBS_MAX, CodecError, Command, EmulationRequest, FilterNode, Push,
    Reply,
};

/// Field numbers of the schema that are needed outside the derived code.
const COMMAND_CONNECT: u32 = 4;
const CONNECT_SUBS: u32 = 3;
const CONNECT_HEADERS: u32 = 6;
const REPLY_PUSH: u32 = 4;

/// The next message of a frame. See [`super::Commands`].
pub(super) fn decode_command(index: usize, frame: &mut Bytes) -> Result<Command, CodecError> {
    let message = split_message(index, frame)?;
    check_size(index, &message)?;
    Command::decode(message).map_err(|source| CodecError::Protobuf { index, source })
}

/// See [`super::decode_filter`].
pub(super) fn decode_filter(tf: Bytes) -> Result<FilterNode, CodecError> {
    FilterNode::decode(tf).map_err(|source| CodecError::Protobuf { index: 0, source })
}

/// See [`super::decode_emulation`].
pub(super) fn decode_emulation(body: Bytes) -> Result<EmulationRequest, CodecError> {
    EmulationRequest::decode(body).map_err(|source| CodecError::Protobuf { index: 0, source })
}

/// See [`super::decode_replies`].
pub(super) fn decode_replies(mut frame: Bytes) -> Result<Vec<Reply>, CodecError> {
    let mut replies = Vec::new();
    while !frame.is_empty() {
        let index = replies.len();
        let message = split_message(index, &mut frame)?;
        let reply =
            Reply::decode(message).map_err(|source| CodecError::Protobuf { index, source })?;
        replies.push(reply);
    }
    Ok(replies)
}

fn split_message(index: usize, frame: &mut Bytes) -> Result<Bytes, CodecError> {
    let claimed = decode_varint(frame).map_err(|source| CodecError::Protobuf { index, source })?;
    match usize::try_from(claimed) {
        Ok(length) if length <= frame.len() => Ok(frame.split_to(length)),
        _ => Err(CodecError::Truncated {
            index,
            claimed,
            left: frame.len(),
        }),
    }
}

/// Bounds what decoding may cost before it begins: a two-byte map entry becomes two hundred bytes
/// in memory. Only a `connect` may be as large as the frame, and its maps are counted.
fn check_size(index: usize, message: &Bytes) -> Result<(), CodecError> {
    let mut connect = false;
    let (mut subs, mut headers) = (0, 0);
    each_field(index, message.clone(), |number, content| {
        if number != COMMAND_CONNECT {
            return Ok(());
        }
        connect = true;
        each_field(index, content, |number, _| {
            subs += usize::from(number == CONNECT_SUBS);
            headers += usize::from(number == CONNECT_HEADERS);
            Ok(())
        })
    })?;
    if !connect && message.len() > COMMAND_BYTES_MAX {
        return Err(CodecError::CommandTooLarge {
            index,
            bytes: message.len(),
            max: COMMAND_BYTES_MAX,
        });
    }
    for (count, what, max) in [
        (subs, "subscriptions", CONNECT_SUBS_MAX),
        (headers, "headers", CONNECT_HEADERS_MAX),
    ] {
        if count > max {
            return Err(CodecError::TooManyEntries { index, what, max });
        }
    }
    Ok(())
}

/// Calls `see` with the number and content of every length-delimited field of a message, with the
/// same parser that decodes it afterwards, so that both see the same fields.
fn each_field(
    index: usize,
    mut message: Bytes,
    mut see: impl FnMut(u32, Bytes) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let wrong = |source| CodecError::Protobuf { index, source };
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message).map_err(wrong)?;
        if wire_type == WireType::LengthDelimited {
            let content = split_message(index, &mut message)?;
            see(number, content)?;
        } else {
            skip_field(wire_type, number, &mut message, DecodeContext::default()).map_err(wrong)?;
        }
    }
    debug_assert!(!message.has_remaining());
    Ok(())
}

/// See [`super::encode_reply`].
pub(super) fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    // Writing to a Vec can not run out of space, the only error that there is.
    let _ = reply.encode_length_delimited(out);
}

/// See [`super::encode_push`].
pub(super) fn encode_push(push: &Push, out: &mut Vec<u8>) {
    let length = prost::encoding::message::encoded_len(REPLY_PUSH, push);
    prost::encoding::encode_varint(length as u64, out);
    prost::encoding::message::encode(REPLY_PUSH, push, out);
}
