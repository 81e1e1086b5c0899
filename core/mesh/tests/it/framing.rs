//! The frame reader takes any bytes: what was encoded comes out again however it was cut, and
//! anything else is an error, never a panic and never memory for what was only promised. The
//! corpus of past findings runs with every test.

use bytes::Bytes;
use gb6_core_mesh::{FrameError, FrameReader, encode_frame, fuzz};
use gb6_core_model::Role;
use gb6_core_wire::mesh::SnapshotPush;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use crate::world::{identity, local};

/// `bytes` in pieces of the given sizes: the frames' lengths and how it ended.
fn read_any<M: Message + Default>(
    bytes: &[u8],
    pieces: &[usize],
    limit: usize,
) -> (Vec<usize>, Result<(), FrameError>) {
    let mut reader = FrameReader::new(limit);
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied().cycle();
    loop {
        loop {
            match reader.next_frame::<M>() {
                Ok(Some(frame)) => frames.push(frame.encoded_len()),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        if rest.is_empty() {
            return (frames, reader.finish());
        }
        let space = reader.space();
        assert!(!space.is_empty());
        let n = pieces.next().unwrap_or(usize::MAX).max(1);
        let n = n.min(rest.len()).min(space.len());
        space[..n].copy_from_slice(&rest[..n]);
        reader.filled(n);
        rest = &rest[n..];
    }
}

fn replay(corpus: &str, entry: impl Fn(&[u8])) {
    let corpus = format!("{}/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for file in std::fs::read_dir(&corpus).unwrap() {
        entry(&std::fs::read(file.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 5, "{files} files in {corpus}");
}

fn fuzz_hello(bytes: &[u8]) {
    let certified = identity("e1", &[Role::Edge]);
    fuzz::hello(bytes, &local("r1", &[Role::Region]), &certified);
}

#[test]
fn the_corpus_does_no_harm() {
    replay("stream", fuzz::stream);
    replay("hello", fuzz_hello);
    replay("certificate", fuzz::certificate);
    replay("snapshot", fuzz::snapshot);
}

#[test]
fn broken_framing_is_told_apart() {
    let read = |bytes: &[u8], limit| read_any::<SnapshotPush>(bytes, &[usize::MAX], limit).1;
    assert_eq!(read(&[0xff; 5], 100), Err(FrameError::BadPrefix));
    assert_eq!(
        read(&[0xff, 0xff, 0xff, 0xff, 0x7f], 100),
        Err(FrameError::TooLarge {
            bytes: (1 << 35) - 1,
            limit: 100
        })
    );
    assert_eq!(
        read(&[101], 100),
        Err(FrameError::TooLarge {
            bytes: 101,
            limit: 100
        })
    );
    assert_eq!(read(&[100, 1, 2], 100), Err(FrameError::Truncated(3)));
    assert_eq!(read(&[0x80], 100), Err(FrameError::Truncated(1)));
    assert!(matches!(
        read(&[1, 0x07], 100),
        Err(FrameError::Malformed(_))
    ));
    // An empty frame is the message without fields; a longer prefix than needed is still one.
    assert_eq!(read(&[0, 0x80, 0], 100), Ok(()));
}

/// A promise of 4 MiB takes no 4 MiB.
#[test]
fn memory_follows_what_came() {
    let mut reader = FrameReader::default();
    let promise = [0x80, 0x80, 0x80, 0x02];
    reader.space()[..4].copy_from_slice(&promise);
    reader.filled(4);
    assert_eq!(reader.next_frame::<SnapshotPush>(), Ok(None));
    assert!(reader.space().len() < 64 * 1024);
}

/// After a large frame the buffer is small again.
#[test]
fn a_large_frame_leaves_no_large_buffer() {
    let frame = SnapshotPush {
        revision: 1,
        json: Bytes::from(vec![1; 3_000_000]),
    };
    let mut bytes = Vec::new();
    encode_frame(&frame, frame.encoded_len(), &mut bytes);
    let mut reader = FrameReader::default();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let space = reader.space();
        let n = space.len().min(rest.len());
        space[..n].copy_from_slice(&rest[..n]);
        reader.filled(n);
        rest = &rest[n..];
    }
    assert_eq!(reader.next_frame(), Ok(Some(frame)));
    assert_eq!(reader.buffered(), 0);
    assert!(reader.space().len() < 64 * 1024);
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        fuzz::stream(&bytes);
        fuzz_hello(&bytes);
        fuzz::certificate(&bytes);
        fuzz::snapshot(&bytes);
    }

    #[test]
    fn frames_come_out_as_they_went_in(
        sizes in vec(0usize..40_000, 0..12),
        pieces in vec(1usize..9_000, 1..5),
        lost in 0usize..3,
    ) {
        let mut bytes = Vec::new();
        let mut lengths = Vec::new();
        for size in sizes {
            let frame = SnapshotPush {
                revision: size as u64,
                json: Bytes::from(vec![3; size]),
            };
            lengths.push(frame.encoded_len());
            encode_frame(&frame, frame.encoded_len(), &mut bytes);
        }
        let whole = bytes.len();
        bytes.truncate(whole - lost.min(whole));
        let (frames, end) = read_any::<SnapshotPush>(&bytes, &pieces, 100_000);
        if bytes.len() == whole {
            prop_assert_eq!(&frames, &lengths);
            prop_assert_eq!(end, Ok(()));
        } else {
            prop_assert!(frames.len() < lengths.len());
            prop_assert_eq!(&frames[..], &lengths[..frames.len()]);
        }
    }
}
