//! Bytes from outside: whatever a segment, an index or a checkpoint holds, reading it answers,
//! and never with a panic. The corpus is replayed, and changed at random.

use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::messages;
use gb6_region_stores_embedded::fuzz::{directory, directory_of};
use gb6_region_stores_embedded::{ReadAt, Vfs};
use proptest::prelude::*;

use crate::disk::{SimShard, owned};

/// Whole segments and indexes of a log, as seeds.
fn seeds() -> Vec<(Vec<u8>, Vec<u8>)> {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    for n in 0..30 {
        log.commit(messages(1 + n * 5, "room:a", 5)).unwrap();
        log.run_jobs().unwrap();
    }
    let content = |name: String| {
        let file = shard.vfs().open(&name).unwrap();
        let mut data = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut data).unwrap();
        data
    };
    (0..2)
        .map(|n| {
            (
                content(format!("{n:016}.seg")),
                content(format!("{n:016}.idx")),
            )
        })
        .collect()
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/segment");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        directory(&bytes, &[]);
        directory(&bytes, &bytes);
        directory(&[], &bytes);
        directory_of(&bytes);
        replayed += 1;
    }
    assert!(replayed >= 5, "the corpus is missing");
}

#[test]
fn changed_segments_and_indexes_are_read_without_a_panic() {
    let seeds = seeds();
    let mut random = Random::new(5);
    for _ in 0..1500 {
        let (mut segment, mut index) = seeds[random.below(2) as usize].clone();
        for data in [&mut segment, &mut index] {
            for _ in 0..random.below(4) {
                let at = random.below(data.len() as u64) as usize;
                match random.below(4) {
                    0 => data[at] = random.below(256) as u8,
                    1 => data.truncate(at.max(1)),
                    2 => {
                        // Lengths and counts at their extremes, under a checksum that holds.
                        let word = [u32::MAX, 0, 1, 1 << 31][random.below(4) as usize];
                        let end = (at + 4).min(data.len());
                        data[at..end].copy_from_slice(&word.to_le_bytes()[..end - at]);
                    }
                    _ => data.insert(at, 0xff),
                }
            }
        }
        // Parsers behind the checksums see changed bytes too.
        if index.len() > 80 {
            let body = crc32c::crc32c(&index[80..]).to_le_bytes();
            index[72..76].copy_from_slice(&body);
            let head = crc32c::crc32c(&index[..76]).to_le_bytes();
            index[76..80].copy_from_slice(&head);
        }
        if segment.len() > 200 {
            let len = u32::from_le_bytes(segment[128..132].try_into().unwrap()) as usize;
            if let Some(body) = segment.get(136..136 + len.saturating_sub(4)) {
                let crc = crc32c::crc32c_append(crc32c::crc32c(&segment[128..132]), body);
                segment[132..136].copy_from_slice(&crc.to_le_bytes());
            }
        }
        directory(&segment, &index);
    }
}

#[test]
fn changed_checkpoints_and_consumers_are_read_without_a_panic() {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.commit(messages(1, "room:a", 5)).unwrap();
    let reader = log.reader();
    reader
        .save_checkpoint(3, b"the state of a machine")
        .unwrap();
    reader.register_consumer("search", 2).unwrap();
    reader.register_consumer("billing", 0).unwrap();
    let names = shard.vfs().list().unwrap();
    let ours = |name: &&String| name.ends_with(".ckpt") || name.as_str() == "consumers";
    let mut changed = 0;
    for name in names.iter().filter(ours) {
        let file = shard.vfs().open(name).unwrap();
        let mut whole = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut whole).unwrap();
        for at in 0..whole.len() {
            for byte in [0, 0xff, whole[at] ^ 1] {
                let mut data = whole.clone();
                data[at] = byte;
                directory(&[], &data);
                directory(&[], &data[..at]);
                changed += 1;
            }
        }
    }
    assert!(changed > 100, "there are files of both kinds");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_read_without_a_panic(segment: Vec<u8>, index: Vec<u8>) {
        directory(&segment, &index);
    }
}
