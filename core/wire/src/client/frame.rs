//! Server-side WebSocket frames (RFC 6455 section 5.2): final, unmasked, header and payload in one
//! buffer, so that a message is encoded once and its bytes are shared by every subscriber.

use bytes::Bytes;

use super::Dialect;

/// The longest header of a server's frame in bytes.
pub const FRAME_HEADER_BYTES_MAX: usize = 10;
/// Longest reason in a close frame in bytes: a control frame holds 125, two are the code (RFC 6455
/// section 5.5).
pub const CLOSE_REASON_BYTES_MAX: usize = 123;

/// The opcodes that a server sends (RFC 6455 section 11.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// UTF-8 text.
    Text = 0x1,
    /// Bytes.
    Binary = 0x2,
    /// The end of the connection.
    Close = 0x8,
    /// A ping, at most 125 bytes.
    Ping = 0x9,
    /// The answer to a ping, at most 125 bytes.
    Pong = 0xa,
}

impl Dialect {
    /// The opcode of this dialect's messages.
    pub fn opcode(self) -> Opcode {
        match self {
            Dialect::Json => Opcode::Text,
            Dialect::Protobuf => Opcode::Binary,
        }
    }
}

/// A frame's header: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameHeader {
    bytes: [u8; FRAME_HEADER_BYTES_MAX],
    length: usize,
}

impl FrameHeader {
    /// The header of a final, unmasked frame with `payload` bytes behind it.
    pub fn new(opcode: Opcode, payload: usize) -> Self {
        let mut bytes = [0; FRAME_HEADER_BYTES_MAX];
        bytes[0] = 0x80 | opcode as u8;
        let length = match payload {
            0..=125 => {
                bytes[1] = payload as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
                10
            }
        };
        FrameHeader { bytes, length }
    }

    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A complete frame with a copy of `payload`.
pub fn websocket_frame(dialect: Dialect, payload: &[u8]) -> Bytes {
    frame(dialect.opcode(), payload)
}

/// A complete frame whose payload `write` appends: header and payload are written into one buffer
/// of `capacity` bytes (an estimate of the payload; it grows if need be). `write` only appends.
pub fn websocket_frame_with(
    dialect: Dialect,
    capacity: usize,
    write: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let mut buffer = Vec::with_capacity(FRAME_HEADER_BYTES_MAX + capacity);
    // The payload begins behind the longest header; the real one is put right before it.
    buffer.resize(FRAME_HEADER_BYTES_MAX, 0);
    write(&mut buffer);
    let payload = buffer.len().saturating_sub(FRAME_HEADER_BYTES_MAX);
    buffer.resize(FRAME_HEADER_BYTES_MAX + payload, 0);
    let header = FrameHeader::new(dialect.opcode(), payload);
    let start = FRAME_HEADER_BYTES_MAX - header.length;
    buffer[start..FRAME_HEADER_BYTES_MAX].copy_from_slice(header.as_slice());
    let mut frame = Bytes::from(buffer);
    frame.split_off(start)
}

/// The payload of a frame that this module made: for one-way transports, which share the encoded
/// messages but frame them otherwise.
pub fn frame_payload(frame: &Bytes) -> Bytes {
    let header = match frame.get(1) {
        None => frame.len(),
        Some(127) => 10,
        Some(126) => 4,
        Some(_) => 2,
    };
    frame.slice(header.min(frame.len())..)
}

/// A close frame. A reason above [`CLOSE_REASON_BYTES_MAX`] is cut at a character's end.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(CLOSE_REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(Opcode::Close, &payload)
}

/// The answer to a ping. A payload that no valid ping has (above 125 bytes) is cut.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Pong, &payload[..payload.len().min(125)])
}

fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let header = FrameHeader::new(opcode, payload.len());
    let mut buffer = Vec::with_capacity(header.length + payload.len());
    buffer.extend_from_slice(header.as_slice());
    buffer.extend_from_slice(payload);
    Bytes::from(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_three_lengths() {
        let header = |n| FrameHeader::new(Opcode::Binary, n).as_slice().to_vec();
        assert_eq!(header(0), [0x82, 0]);
        assert_eq!(header(125), [0x82, 125]);
        assert_eq!(header(126), [0x82, 126, 0, 126]);
        assert_eq!(header(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(header(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn both_ways_of_building_a_frame_agree() {
        for size in [0, 1, 125, 126, 200, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; size];
            let frame = websocket_frame(Dialect::Json, &payload);
            let built =
                websocket_frame_with(Dialect::Json, 16, |out| out.extend_from_slice(&payload));
            assert_eq!(frame, built);
            assert_eq!(frame[0], 0x81);
            assert_eq!(frame_payload(&frame), payload);
        }
    }

    #[test]
    fn a_writer_that_cuts_the_buffer_does_no_harm() {
        let frame = websocket_frame_with(Dialect::Json, 4, |out| out.clear());
        assert_eq!(&frame[..], [0x81, 0]);
    }

    #[test]
    fn control_frames_keep_their_bounds() {
        assert_eq!(
            &close_frame(3001, "shutdown")[..],
            b"\x88\x0a\x0b\xb9shutdown"
        );
        let long = "ä".repeat(100);
        let frame = close_frame(3001, &long);
        assert_eq!(frame.len(), 2 + 2 + 122, "cut at a character's end");
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
        assert_eq!(&pong_frame(b"hi")[..], b"\x8a\x02hi");
        assert_eq!(pong_frame(&[0; 300]).len(), 127);
    }
}
