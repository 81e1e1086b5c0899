//! Cuts a client's bytes into WebSocket messages (RFC 6455 section 5), keeping nothing between two
//! complete frames: an idle connection has no read buffer, and a frame that was announced large
//! costs only the bytes of it that have come.

use bytes::{Bytes, BytesMut};

/// A message or control frame from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Incoming {
    /// A whole text message; valid UTF-8.
    Text(Bytes),
    /// A whole binary message.
    Binary(Bytes),
    /// A ping: to be answered with the same bytes.
    Ping(Bytes),
    /// A pong, asked for or not.
    Pong,
    /// The client closes, with its code.
    Close(Option<u16>),
}

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
    let (payload, rest, len) = match (second & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest, 8),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => (
            u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            rest,
            14,
        ),
        (126 | 127, _) if opcode < 0x8 => return Ok(None),
        (n, rest) => (u64::from(n), rest, 6),
    };
    if opcode >= 0x8 {
        if payload > 125 {
            return Err(FrameError::Protocol("control frame is too long"));
        }
    } else if payload > room as u64 {
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{self, Read, Write};
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
    use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

    const MAX: usize = 4096;

    fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0xfe, 0x00, 0x7a];
        let mut out = vec![(u8::from(fin) << 7) | opcode];
        match payload.len() {
            n @ 0..=125 => out.push(0x80 | n as u8),
            n @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        out
    }

    /// All messages of `bytes`, fed in pieces that end at `cuts`, until the first close or error.
    fn ours(bytes: &[u8], cuts: &[usize]) -> (Vec<Incoming>, Option<FrameError>) {
        let mut reader = FrameReader::new(MAX);
        let (mut out, mut from) = (Vec::new(), 0);
        let ends = cuts.iter().copied().chain([bytes.len()]);
        for end in ends {
            let mut input = &bytes[from.min(end)..end.max(from)];
            from = from.max(end);
            loop {
                match reader.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(Incoming::Pong)) => {}
                    Ok(Some(m)) => {
                        out.push(m);
                        if matches!(out.last(), Some(Incoming::Close(_))) {
                            return (out, None);
                        }
                    }
                    Err(e) => return (out, Some(e)),
                }
            }
        }
        (out, None)
    }

    /// A socket whose peer has sent `0` and stays silent.
    struct Canned<'a>(&'a [u8]);
    impl Read for Canned<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.read(buf)
        }
    }
    impl Write for Canned<'_> {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What tungstenite makes of the same bytes.
    fn theirs(bytes: &[u8]) -> (Vec<Incoming>, Option<Error>) {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX))
            .max_frame_size(Some(MAX));
        let mut ws = WebSocket::from_raw_socket(Canned(bytes), Role::Server, Some(config));
        let mut out = Vec::new();
        loop {
            match ws.read() {
                Ok(Message::Text(t)) => out.push(Incoming::Text(Bytes::from(t))),
                Ok(Message::Binary(b)) => out.push(Incoming::Binary(b)),
                Ok(Message::Ping(b)) => out.push(Incoming::Ping(b)),
                Ok(Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(c)) => {
                    out.push(Incoming::Close(c.map(|c| c.code.into())));
                    return (out, None);
                }
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return (out, None),
                Err(e) => return (out, Some(e)),
            }
        }
    }

    #[test]
    fn one_frame_at_every_cut() {
        let bytes = masked(true, 1, "{\"id\":1,\"ä\":2}".as_bytes());
        for cut in 0..=bytes.len() {
            let (got, error) = ours(&bytes, &[cut]);
            assert_eq!(error, None);
            assert_eq!(
                got,
                [Incoming::Text(Bytes::from("{\"id\":1,\"ä\":2}"))],
                "{cut}"
            );
        }
    }

    #[test]
    fn fragments_with_a_ping_between() {
        let mut bytes = masked(false, 1, b"ab");
        bytes.extend(masked(true, 9, b"hi"));
        bytes.extend(masked(false, 0, b"cd"));
        bytes.extend(masked(true, 0, b""));
        bytes.extend(masked(true, 2, &[0xff; 300]));
        let (got, error) = ours(&bytes, &[3, 9, 20]);
        assert_eq!(error, None);
        assert_eq!(
            got,
            [
                Incoming::Ping(Bytes::from("hi")),
                Incoming::Text(Bytes::from("abcd")),
                Incoming::Binary(Bytes::from(vec![0xff; 300])),
            ]
        );
    }

    #[test]
    fn refusals_come_with_the_first_bytes_that_show_them() {
        let big = masked(true, 2, &vec![0; MAX + 1]);
        for (bytes, want) in [
            (&big[..8], FrameError::TooLarge(MAX as u64 + 1)),
            (
                &[0x81, 0x02, b'h', b'i'],
                FrameError::Protocol("frame is not masked"),
            ),
            (&[0xC1], FrameError::Protocol("reserved bits are set")),
            (&[0x83], FrameError::Protocol("opcode is unknown")),
            (&[0x09], FrameError::Protocol("control frame is fragmented")),
            (
                &[0x89, 0xFE],
                FrameError::Protocol("control frame is too long"),
            ),
            (
                &masked(true, 0, b"x"),
                FrameError::Protocol("continuation without a message"),
            ),
            (
                &masked(true, 8, b"x"),
                FrameError::Protocol("close frame of one byte"),
            ),
            (
                &masked(true, 8, &1005u16.to_be_bytes()),
                FrameError::Protocol("close code is not allowed"),
            ),
            (&masked(true, 1, &[0xff]), FrameError::NotUtf8),
        ] {
            assert_eq!(ours(bytes, &[]), (Vec::new(), Some(want)), "{bytes:02x?}");
        }
        // Many fragments together are bounded as one frame is.
        let mut bytes = masked(false, 2, &vec![0; MAX - 1]);
        bytes.extend(masked(false, 0, b"xx"));
        assert_eq!(ours(&bytes, &[]).1, Some(FrameError::TooLarge(2)));
    }

    #[test]
    fn keeps_nothing_between_frames() {
        let mut reader = FrameReader::new(1 << 20);
        let bytes = masked(true, 2, &vec![1; 1 << 20]);
        let mut first = &bytes[..1000];
        assert_eq!(reader.next(&mut first), Ok(None));
        // Announced 1 MiB, sent 1,000 bytes: costs what was sent.
        assert!(reader.partial.capacity() < 4096);
        let mut rest = &bytes[1000..];
        assert!(matches!(
            reader.next(&mut rest),
            Ok(Some(Incoming::Binary(_)))
        ));
        assert_eq!(reader.partial.capacity(), 0);
    }

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let frame = (
            prop_oneof![4 => Just(true), 1 => Just(false)],
            prop_oneof![
                4 => Just(1u8),
                4 => Just(2u8),
                3 => Just(0u8),
                2 => Just(9u8),
                1 => Just(10u8),
                1 => Just(8u8),
                1 => 0u8..16
            ],
            prop_oneof![
                proptest::collection::vec(32u8..127, 0..300),
                proptest::collection::vec(any::<u8>(), 0..140),
                Just(vec![b'x'; MAX]),
                Just(vec![b'x'; MAX + 1]),
            ],
        )
            .prop_map(|(fin, opcode, payload)| masked(fin, opcode, &payload));
        proptest::collection::vec(
            prop_oneof![12 => frame, 1 => proptest::collection::vec(any::<u8>(), 0..20)],
            0..8,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        /// Whatever comes, however it is cut: the same messages as tungstenite reads, and an
        /// error where it has one.
        #[test]
        fn reads_what_tungstenite_reads(
            bytes in frames(),
            cuts in proptest::collection::vec(0usize..2000, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let (got, error) = ours(&bytes, &cuts);
            let (mut want, failure) = theirs(&bytes);
            let mut failed = failure.is_some();
            // A close code that nobody may send is an error to us; tungstenite shows it as 1002.
            if error.is_some() && want.last() == Some(&Incoming::Close(Some(1002))) {
                want.pop();
                failed = true;
            }
            // It checks the text of every fragment, ours that of the whole message.
            if matches!(failure, Some(Error::Utf8(_))) {
                prop_assert!(got.starts_with(&want));
                return Ok(());
            }
            // Ours refuses a frame as soon as its header shows it; tungstenite may wait for more.
            if !(error.is_some() && !failed) {
                prop_assert_eq!(error.is_some(), failed, "{:?}", error);
            }
            prop_assert_eq!(got, want);
        }
    }
}
