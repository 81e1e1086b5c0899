//! Bytes from outside: whatever a manifest or a list of consumers holds, reading it answers, and never
//! with a panic. The corpus is replayed, and changed at random.

use gb6_core_ports::contract::Random;
use gb6_region_archive::fuzz::{consumers, manifest};
use proptest::prelude::*;

/// The corpus of a parser.
fn corpus(of: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/tests/corpus/{of}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(folder).unwrap();
    let all: Vec<_> = entries
        .map(|e| std::fs::read(e.unwrap().path()).unwrap())
        .collect();
    assert!(all.len() >= 3, "the corpus is missing");
    all
}

/// The same text under a checksum that holds: parsers behind it see changed bytes too.
fn summed(text: &[u8]) -> Vec<u8> {
    let end = text.iter().rposition(|b| *b == b'c').unwrap_or(text.len());
    let body = &text[..end.saturating_sub(1)];
    let mut whole = body.to_vec();
    whole.extend_from_slice(format!("\ncrc {:08x}\n", crc32c::crc32c(body)).as_bytes());
    whole
}

#[test]
fn the_corpus_is_read_without_a_panic_and_changed_too() {
    let mut random = Random::new(7);
    for (of, parse) in [
        ("manifest", manifest as fn(&[u8])),
        ("consumers", consumers as fn(&[u8])),
    ] {
        for seed in corpus(of) {
            parse(&seed);
            for _ in 0..2000 {
                let mut data = seed.clone();
                for _ in 0..=random.below(3) {
                    let at = random.below(data.len().max(1) as u64) as usize;
                    match random.below(5) {
                        0 if at < data.len() => data[at] = random.below(256) as u8,
                        1 => data.truncate(at),
                        2 => data.insert(
                            at.min(data.len()),
                            b"0129f\",:[]{}-"[random.below(13) as usize],
                        ),
                        // Numbers at their extremes.
                        3 if at < data.len() && data[at].is_ascii_digit() => {
                            data.splice(at..=at, *b"18446744073709551615");
                        }
                        _ if at < data.len() => {
                            data.remove(at);
                        }
                        _ => {}
                    }
                }
                parse(&data);
                parse(&summed(&data));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_read_without_a_panic(bytes: Vec<u8>, text: String) {
        for parse in [manifest, consumers] {
            parse(&bytes);
            parse(&summed(text.as_bytes()));
        }
    }
}
