//! Cuts a client's bytes into WebSocket messages (RFC 6455 section 5), keeping nothing between two
//! complete frames: an idle connection has no read buffer, and a frame that was announced large
//! costs only the bytes of it that have come.

use bytes::BytesMut;

use crate::connection::framing::Incoming;

/// Why a client's bytes are no WebSocket messages, or not acceptable ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// Breaks RFC 6455; the text names the rule.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message or close reason is not UTF-8.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// A message is longer than allowed.
    #[error("message of at least {0} bytes is longer than allowed")]
    TooLarge(u64),
}

impl FrameError {
    /// The close code for it (RFC 6455 section 7.4.1).
    pub(crate) fn close_code(self) -> u16 {
        match self {
            FrameError::Protocol(_) => 1002,
            FrameError::NotUtf8 => 1007,
            FrameError::TooLarge(_) => 1009,
        }
    }

    /// The words that go with the close code.
    pub(crate) fn close_reason(self) -> &'static str {
        match self {
            FrameError::Protocol(what) => what,
            FrameError::NotUtf8 => "text is not utf-8",
            FrameError::TooLarge(_) => "message too large",
        }
    }
}

/// The state between two reads: at most one incomplete frame and one incomplete message, together
/// at most `max` bytes of payload.
#[derive(Debug)]
pub(crate) struct FrameReader {
    /// Bytes of a frame that is not complete; empty otherwise.
    partial: Vec<u8>,
    /// A fragmented message that is not complete.
    message: Option<Box<Fragments>>,
    max: usize,
}

#[derive(Debug)]
struct Fragments {
    text: bool,
    data: BytesMut,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    /// Bytes of the header itself.
    len: usize,
    payload: u64,
}

impl FrameReader {
    /// A reader of messages up to `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            partial: Vec::new(),
            message: None,
            max,
        }
    }

    /// The next message in what came before and `input`, which is advanced past what was used.
    /// `None`: everything is used and no further message is complete. After an error the
    /// connection is to be closed.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, FrameError> {
        loop {
            if self.partial.is_empty() {
                let Some(header) = parse_header(input, self.room())? else {
                    return self.keep(input);
                };
                // The header's limit check makes the sum safe.
                let end = header.len + header.payload as usize;
                if input.len() < end {
                    return self.keep(input);
                }
                let frame = &input[header.len..end];
                let payload = unmasked(frame, header.mask);
                *input = &input[end..];
                if let Some(message) = self.frame(&header, payload)? {
                    return Ok(Some(message));
                }
                continue;
            }
            let wanted = match parse_header(&self.partial, self.room())? {
                None => header_len(&self.partial).unwrap_or(2),
                Some(header) => {
                    let end = header.len + header.payload as usize;
                    if self.partial.len() == end {
                        let payload = unmasked(&self.partial[header.len..], header.mask);
                        self.partial = Vec::new();
                        if let Some(message) = self.frame(&header, payload)? {
                            return Ok(Some(message));
                        }
                        continue;
                    }
                    end
                }
            };
            if input.is_empty() {
                return Ok(None);
            }
            let take = (wanted - self.partial.len()).min(input.len());
            self.partial.extend_from_slice(&input[..take]);
            *input = &input[take..];
        }
    }

    /// Payload bytes that the message in progress may still take.
    fn room(&self) -> usize {
        self.max - self.message.as_ref().map_or(0, |m| m.data.len())
    }

    fn keep(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, FrameError> {
        self.partial.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// Takes one complete frame; the message, if it completes one.
    fn frame(
        &mut self,
        header: &Header,
        payload: BytesMut,
    ) -> Result<Option<Incoming>, FrameError> {
        let message = match (header.opcode, self.message.as_mut()) {
            (0x0, None) => {
                return Err(FrameError::Protocol("continuation without a message"));
            }
            (0x0, Some(message)) => {
                message.data.extend_from_slice(&payload);
                if !header.fin {
                    return Ok(None);
                }
                match self.message.take() {
                    Some(done) => whole(done.text, done.data)?,
                    None => return Ok(None),
                }
            }
            (0x1 | 0x2, Some(_)) => {
                return Err(FrameError::Protocol("message inside a message"));
            }
            (opcode @ (0x1 | 0x2), None) => {
                let text = opcode == 0x1;
                if !header.fin {
                    self.message = Some(Box::new(Fragments {
                        text,
                        data: payload,
                    }));
                    return Ok(None);
                }
                whole(text, payload)?
            }
            (0x8, _) => close(&payload)?,
            (0x9, _) => Incoming::Ping(payload.freeze()),
            _ => Incoming::Pong,
        };
        Ok(Some(message))
    }
}

fn whole(text: bool, data: BytesMut) -> Result<Incoming, FrameError> {
    if !text {
        return Ok(Incoming::Binary(data.freeze()));
    }
    match std::str::from_utf8(&data) {
        Ok(_) => Ok(Incoming::Text(data.freeze())),
        Err(_) => Err(FrameError::NotUtf8),
    }
}

fn close(payload: &[u8]) -> Result<Incoming, FrameError> {
    match payload {
        [] => Ok(Incoming::Close(None)),
        [_] => Err(FrameError::Protocol("close frame of one byte")),
        [a, b, reason @ ..] => {
            if std::str::from_utf8(reason).is_err() {
                return Err(FrameError::NotUtf8);
            }
            match u16::from_be_bytes([*a, *b]) {
                code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Incoming::Close(Some(code))),
                _ => Err(FrameError::Protocol("close code is not allowed")),
            }
        }
    }
}

/// Length of the header that begins `bytes`; `None` when there are fewer than two.
fn header_len(bytes: &[u8]) -> Option<usize> {
    let [_, second, ..] = bytes else { return None };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    // A client's frame always has a mask; one without is refused before this matters.
    Some(2 + extended + 4)
}

/// The header that begins `bytes`; `None` when it is not complete. What can be refused is refused
/// as early as its bytes are there.
fn parse_header(bytes: &[u8], room: usize) -> Result<Option<Header>, FrameError> {
    let [first, second, rest @ ..] = bytes else {
        return match bytes {
            [first] => check_first(*first).map(|()| None),
            _ => Ok(None),
        };
    };
    check_first(*first)?;
    if second & 0x80 == 0 {
        return Err(FrameError::Protocol("frame is not masked"));
    }
    let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
    // Whatever the longer forms would say: a short length has one form (section 5.2).
    if opcode >= 0x8 && second & 0x7f > 125 {
        return Err(FrameError::Protocol("control frame is too long"));
    }
    let (payload, rest, len) = match (second & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest, 8),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => (
            u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            rest,
            14,
        ),
        (126 | 127, _) => return Ok(None),
        (n, rest) => (u64::from(n), rest, 6),
    };
    if opcode < 0x8 && payload > room as u64 {
        return Err(FrameError::TooLarge(payload));
    }
    let [a, b, c, d, ..] = rest else {
        return Ok(None);
    };
    Ok(Some(Header {
        fin,
        opcode,
        mask: [*a, *b, *c, *d],
        len,
        payload,
    }))
}

fn check_first(first: u8) -> Result<(), FrameError> {
    if first & 0x70 != 0 {
        return Err(FrameError::Protocol("reserved bits are set"));
    }
    match first & 0x0f {
        0x0..=0x2 => Ok(()),
        0x8..=0xA if first & 0x80 != 0 => Ok(()),
        0x8..=0xA => Err(FrameError::Protocol("control frame is fragmented")),
        _ => Err(FrameError::Protocol("opcode is unknown")),
    }
}

/// A copy of `bytes` without the mask (RFC 6455 section 5.3), eight bytes at a time.
fn unmasked(bytes: &[u8], mask: [u8; 4]) -> BytesMut {
    let mut out = BytesMut::from(bytes);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = out.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    for (byte, m) in chunks
        .into_remainder()
        .iter_mut()
        .zip([a, b, c, d, a, b, c])
    {
        *byte ^= m;
    }
    out
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
