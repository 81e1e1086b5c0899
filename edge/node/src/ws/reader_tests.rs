//! The frame reader against hand-made frames, and against tungstenite.

use super::*;
use bytes::Bytes;
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
        // Ours refuses a frame as soon as its header shows it; tungstenite may wait for more, so
        // an error of ours alone is right.
        prop_assert!(error.is_some() || !failed);
        prop_assert_eq!(got, want);
    }
}

#[test]
fn a_control_frames_length_has_one_form_however_it_arrives() {
    // A pong of 3 bytes whose length stands in two bytes more than it needs.
    let mut bytes = vec![0x8a, 0x80 | 126, 0, 3, 0, 0, 0, 0];
    bytes.extend_from_slice(b"abc");
    let error = Some(FrameError::Protocol("control frame is too long"));
    for cut in 0..bytes.len() {
        assert_eq!(ours(&bytes, &[cut]), (vec![], error), "{cut}");
    }
}
