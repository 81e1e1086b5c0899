//! Frames: masked ones out (RFC 6455 section 5.3), unmasked ones in.

use super::WsError;

/// The largest frame that is read, in bytes.
pub(crate) const FRAME_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Text frame.
pub(crate) const TEXT: u8 = 0x1;
/// Binary frame.
pub(crate) const BINARY: u8 = 0x2;
/// Close frame.
pub(crate) const CLOSE: u8 = 0x8;
/// Ping frame.
pub(crate) const PING: u8 = 0x9;
/// Pong frame.
pub(crate) const PONG: u8 = 0xa;

/// Appends a final, masked frame.
pub(crate) fn write(opcode: u8, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    out.reserve(payload.len() + 14);
    out.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], mask);
}

/// Masks or unmasks in place.
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// One frame at the start of the bytes read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame<'a> {
    /// Whether the message ends here.
    pub(crate) last: bool,
    /// The opcode; 0 continues a message.
    pub(crate) opcode: u8,
    /// The payload.
    pub(crate) payload: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) length: usize,
}

/// The header of a frame of either side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Whether the message ends with this frame.
    pub(crate) last: bool,
    /// The opcode.
    pub(crate) opcode: u8,
    /// The mask of a client's frame.
    pub(crate) mask: Option<[u8; 4]>,
    /// Bytes of the header.
    pub(crate) length: usize,
    /// Bytes of the payload.
    pub(crate) payload: usize,
}

/// The header at the start of `bytes`; `None` if it is not complete.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<Header>, WsError> {
    let &[first, second, ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(WsError::Reserved);
    }
    let opcode = first & 0x0f;
    if !matches!(opcode, 0 | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(WsError::Opcode(opcode));
    }
    let (at, payload) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|b| <[u8; 8]>::try_from(b).ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if payload > FRAME_BYTES_MAX {
        return Err(WsError::TooLarge(payload));
    }
    let (mask, length) = if second & 0x80 == 0 {
        (None, at)
    } else {
        match bytes.get(at..at + 4) {
            Some(&[a, b, c, d]) => (Some([a, b, c, d]), at + 4),
            _ => return Ok(None),
        }
    };
    Ok(Some(Header {
        last: first & 0x80 != 0,
        opcode,
        mask,
        length,
        payload: payload as usize,
    }))
}

/// The server's frame at the start of `bytes`; `None` if it is not complete.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Frame<'_>>, WsError> {
    let Some(header) = header(bytes)? else {
        return Ok(None);
    };
    if header.mask.is_some() {
        return Err(WsError::Masked);
    }
    let length = header.length + header.payload;
    Ok(bytes.get(header.length..length).map(|payload| Frame {
        last: header.last,
        opcode: header.opcode,
        payload,
        length,
    }))
}

/// Code and reason of a close frame's payload (RFC 6455 section 5.5.1); 1005 without a code.
pub(crate) fn close_reason(payload: &[u8]) -> (u16, String) {
    match payload {
        &[a, b, ref reason @ ..] => (
            u16::from_be_bytes([a, b]),
            String::from_utf8_lossy(reason).into_owned(),
        ),
        _ => (1005, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_masked_frame_as_in_rfc_6455_section_5_7() {
        let mut out = Vec::new();
        write(TEXT, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
        assert_eq!(
            out,
            [
                0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58
            ]
        );
    }

    #[test]
    fn what_no_server_may_send_is_refused() {
        assert_eq!(read(&[0x82, 0x80, 1, 2, 3, 4]), Err(WsError::Masked));
        assert_eq!(read(&[0xc2, 0]), Err(WsError::Reserved));
        assert_eq!(read(&[0x83, 0]), Err(WsError::Opcode(3)));
        let huge = [0x82, 127, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read(&huge), Err(WsError::TooLarge(1 << 56)));
    }

    #[test]
    fn close_frames_tell_why() {
        assert_eq!(close_reason(b"\x0b\xb9shutdown"), (3001, "shutdown".into()));
        assert_eq!(close_reason(b""), (1005, String::new()));
    }

    proptest! {
        #[test]
        fn a_frame_of_the_server_is_read_only_when_it_is_complete(size in 0usize..70_000, rest in 0usize..5) {
            let payload = vec![7u8; size];
            let dialect = gb6_core_wire::client::Dialect::Protobuf;
            let mut bytes = gb6_core_wire::client::websocket_frame(dialect, &payload).to_vec();
            let length = bytes.len();
            bytes.extend_from_slice(&vec![0x82; rest]);
            let frame = read(&bytes).unwrap().unwrap();
            prop_assert_eq!(frame.payload, &payload[..]);
            prop_assert_eq!((frame.length, frame.last, frame.opcode), (length, true, BINARY));
            for cut in [0, 1, 2, 3, length / 2, length - 1] {
                prop_assert_eq!(read(&bytes[..cut.min(length - 1)]).unwrap(), None);
            }
        }

        #[test]
        fn a_masked_frame_can_be_unmasked(payload: Vec<u8>, mask: [u8; 4]) {
            let mut out = Vec::new();
            write(BINARY, &payload, mask, &mut out);
            let header = header(&out).unwrap().unwrap();
            prop_assert_eq!(header.payload, payload.len());
            let mut body = out.split_off(header.length);
            unmask(&mut body, header.mask.unwrap());
            prop_assert_eq!(body, payload);
        }

        #[test]
        fn nothing_that_is_read_panics(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
