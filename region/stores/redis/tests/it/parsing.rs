//! Bytes from outside: whatever a channel carries, reading it answers. The corpus is replayed, and changed
//! at random.

use std::path::Path;

use gb6_region_stores_redis::fuzz::message;
use proptest::prelude::*;

fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/message");
    let files = std::fs::read_dir(dir).expect("the corpus");
    let read =
        |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file.expect("a file").path());
    let corpus: Vec<_> = files.map(|file| read(file).expect("its bytes")).collect();
    assert!(corpus.len() >= 10);
    corpus
}

#[test]
fn the_corpus_is_answered() {
    corpus().iter().for_each(|data| message(data));
}

proptest! {
    #[test]
    fn changed_at_random_it_is_answered(
        which: prop::sample::Index, at: prop::sample::Index, byte: u8, more in prop::collection::vec(any::<u8>(), 0..20)
    ) {
        let corpus = corpus();
        let mut data = corpus[which.index(corpus.len())].clone();
        data.extend(more);
        if !data.is_empty() {
            let at = at.index(data.len());
            data[at] = byte;
        }
        message(&data);
    }
}
