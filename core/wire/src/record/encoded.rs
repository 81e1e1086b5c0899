//! Editing a record as it is encoded, so that fields which a newer version has written stay.

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field, uint32};

use super::flags;

// The numbers of the fields in the record.
const TAGS: u32 = 16;
const KEY_ID: u32 = 18;
const FLAGS: u32 = 19;
const BODY: u32 = 23;
const COMPRESSION: u32 = 24;

/// The encoded record without its content: body, tags, and how they were written are gone, and
/// [`flags::ERASED`] is set. Everything else, known here or not, is as it was: a field whose content
/// must go with the message belongs into the body.
pub fn erase_encoded(record: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut erased = Vec::with_capacity(record.len());
    let mut set = 0;
    let mut rest = record;
    while !rest.is_empty() {
        let field = rest;
        let (tag, wire_type) = decode_key(&mut rest)?;
        if tag == FLAGS && wire_type == WireType::Varint {
            // As for any reader, the last one counts.
            set = decode_varint(&mut rest)? as u32;
            continue;
        }
        skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        if !matches!(tag, TAGS | KEY_ID | FLAGS | BODY | COMPRESSION) {
            erased.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    uint32::encode(FLAGS, &(set | flags::ERASED), &mut erased);
    Ok(erased)
}
