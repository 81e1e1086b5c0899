//! What transports without messages of their own have in common: replies cut out of a stream of
//! bytes, and the end that a push has announced.

use bytes::{Bytes, BytesMut};
use gb6_core_wire::client::{CodecError, Dialect, decode_replies};

use super::Incoming;

/// The first whole length-delimited message, with its length, if all of it has come.
pub(super) fn take_delimited(read: &mut BytesMut) -> Option<Bytes> {
    let end = read.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let length = read[..=end]
        .iter()
        .rev()
        .fold(0_usize, |n, byte| n << 7 | usize::from(byte & 0x7f));
    let whole = end + 1 + length;
    (read.len() >= whole).then(|| read.split_to(whole).freeze())
}

/// The replies in these bytes; a Disconnect push is the end, with its code and words.
pub(super) fn replies_of(dialect: Dialect, bytes: Bytes) -> Result<Incoming, CodecError> {
    if bytes.is_empty() {
        return Ok(Incoming::Replies(Vec::new()));
    }
    let replies = decode_replies(dialect, bytes)?;
    let pushes = replies.iter().filter_map(|reply| reply.push.as_ref());
    let end = pushes.filter_map(|push| push.disconnect.as_ref()).next();
    Ok(match end {
        Some(end) => Incoming::Closed {
            code: u16::try_from(end.code).unwrap_or(u16::MAX),
            reason: end.reason.clone(),
        },
        None => Incoming::Replies(replies),
    })
}

/// An end without a word of the server.
pub(super) fn ended(reason: &str) -> Incoming {
    Incoming::Closed {
        code: 1006,
        reason: reason.to_owned(),
    }
}
