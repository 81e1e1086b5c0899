//! Everything of a client's bytes that this crate parses takes any bytes. The corpus of past
//! findings runs with every test, whole, cut short, and changed at random.

use gb6_edge_node::fuzz;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

type Entry = fn(&[u8]);

const ENTRIES: [(&str, Entry); 11] = [
    ("api_request", fuzz::api_request),
    ("websocket", fuzz::websocket),
    ("stream", fuzz::stream),
    ("webtransport", fuzz::webtransport),
    ("token", fuzz::token),
    ("claims", fuzz::claims),
    ("key_set", fuzz::key_set),
    ("public_key", fuzz::public_key),
    ("revocation", fuzz::revocation),
    ("proxy_answer", fuzz::proxy_answer),
    ("upgrade", fuzz::upgrade),
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(&directory).unwrap();
    let inputs: Vec<Vec<u8>> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert!(
        inputs.len() >= 10,
        "{directory} holds only {}",
        inputs.len()
    );
    inputs
}

#[test]
fn the_corpus_does_no_harm() {
    for (name, entry) in ENTRIES {
        for input in corpus(name) {
            entry(&input);
            let step = 1 + input.len() / 64;
            for end in (0..input.len()).step_by(step) {
                entry(&input[..end]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        for (_, entry) in ENTRIES {
            entry(&bytes);
        }
    }

    #[test]
    fn what_is_nearly_right_does_no_harm(
        which in any::<Index>(),
        changes in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        for (name, entry) in ENTRIES {
            let corpus = corpus(name);
            let mut input = corpus[which.index(corpus.len())].clone();
            if input.is_empty() {
                continue;
            }
            for (at, byte) in &changes {
                let at = at.index(input.len());
                input[at] = *byte;
            }
            entry(&input);
        }
    }
}
