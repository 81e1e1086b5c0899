//! The command reader against commands cut by hand, however their bytes arrive.

use bytes::Bytes;
use gb6_core_model::limits::COMMAND_BYTES_MAX;
use gb6_core_wire::client::Dialect;
use proptest::prelude::*;

use super::reader::{CommandReader, StreamError};

const FIRST_MAX: usize = 1024 * 1024;

/// All bytes of the runs that come out of `bytes`, fed in pieces of `piece`, how many runs they
/// are, and the error.
fn read(dialect: Dialect, bytes: &[u8], piece: usize) -> (Vec<Bytes>, Option<StreamError>) {
    let mut reader = CommandReader::new(dialect, FIRST_MAX);
    let mut runs = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match reader.next(&mut input) {
                Ok(Some(run)) => runs.push(run),
                Ok(None) => break,
                Err(error) => return (runs, Some(error)),
            }
        }
        assert!(input.is_empty());
    }
    (runs, None)
}

fn delimited(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        prost::encoding::encode_varint(message.len() as u64, &mut out);
        out.extend_from_slice(message);
    }
    out
}

fn lines(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        out.extend(message.iter().map(|b| if *b == b'\n' { b' ' } else { *b }));
        out.push(b'\n');
    }
    out
}

proptest! {
    /// Every byte of complete commands comes out, in order, and each run ends where a command does.
    #[test]
    fn runs_are_whole_commands(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        piece in 1usize..2000,
        cut in 0usize..300,
    ) {
        for (dialect, bytes) in [
            (Dialect::Protobuf, delimited(&messages)),
            (Dialect::Json, lines(&messages)),
        ] {
            let (runs, error) = read(dialect, &bytes, piece);
            prop_assert_eq!(error, None);
            prop_assert_eq!(runs.concat(), &bytes[..]);
            for run in &runs {
                // A run alone is complete: nothing of it is kept.
                let (again, error) = read(dialect, run, run.len());
                prop_assert_eq!(error, None);
                prop_assert_eq!(again.concat(), &run[..]);
            }
            // Of a stream that is cut short only whole commands come out.
            let short = &bytes[..bytes.len().saturating_sub(cut)];
            if !short.is_empty() {
                let (runs, _) = read(dialect, short, piece);
                let got = runs.concat();
                prop_assert!(bytes.starts_with(&got));
                prop_assert_eq!(read(dialect, &got, piece).0.concat(), got);
            }
        }
    }
}

#[test]
fn commands_that_come_together_are_one_run() {
    let bytes = delimited(&[vec![1; 10], vec![], vec![2; 200]]);
    assert_eq!(read(Dialect::Protobuf, &bytes, bytes.len()).0, [bytes]);
    let bytes = b"{\"id\":1}\n{}\n{\"id\":2}\n";
    assert_eq!(read(Dialect::Json, bytes, bytes.len()).0, [&bytes[..]]);
}

#[test]
fn what_is_too_long_is_refused_before_it_is_kept() {
    let prefix = |n: usize| {
        let mut out = Vec::new();
        prost::encoding::encode_varint(n as u64, &mut out);
        out
    };
    let protobuf = Dialect::Protobuf;
    // The first may be as large as a frame, and from its length alone it is known not to be larger.
    assert_eq!(read(protobuf, &prefix(FIRST_MAX), 1), (vec![], None));
    assert_eq!(
        read(protobuf, &prefix(FIRST_MAX + 1), 1),
        (vec![], Some(StreamError::TooLarge(FIRST_MAX as u64 + 1)))
    );
    assert_eq!(
        read(protobuf, &prefix(usize::MAX), 3).1,
        Some(StreamError::TooLarge(u64::MAX))
    );
    assert_eq!(read(protobuf, &[0xff; 11], 1).1, Some(StreamError::Length));
    // The second may not.
    let mut second = delimited(&[vec![1; 4]]);
    second.extend(prefix(COMMAND_BYTES_MAX + 1));
    let (runs, error) = read(protobuf, &second, 1);
    assert_eq!(runs.concat().len(), 5);
    assert_eq!(
        error,
        Some(StreamError::TooLarge(COMMAND_BYTES_MAX as u64 + 1))
    );

    let json = Dialect::Json;
    for piece in [1000, 2 * FIRST_MAX] {
        let (runs, error) = read(json, &vec![b'x'; FIRST_MAX + 1], piece);
        assert!(runs.is_empty());
        assert!(matches!(error, Some(StreamError::TooLarge(_))), "{error:?}");
    }
    let mut second = b"{}\n".to_vec();
    second.resize(3 + COMMAND_BYTES_MAX + 1, b'x');
    second.push(b'\n');
    let (runs, error) = read(json, &second, 1000);
    assert_eq!(runs, [&b"{}\n"[..]]);
    assert!(matches!(error, Some(StreamError::TooLarge(_))), "{error:?}");
}
