//! Bytes from outside: whatever a segment, an index or a checkpoint holds, reading it answers,
//! and never with a panic. The corpus is replayed, and changed at random.

use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::messages;
use gb6_region_stores_embedded::inspect::verify_in;
use gb6_region_stores_embedded::log::format::{FrameHeader, SegmentHeader, records_of};
use gb6_region_stores_embedded::{SegmentedLog, Vfs, VfsFile};
use proptest::prelude::*;

use crate::disk::{SimShard, owned, small};

/// What a fuzzer calls: any bytes as a directory's only segment and its index.
fn read_anything(segment: &[u8], index: &[u8]) {
    let shard = SimShard::new(1);
    for (name, bytes) in [
        ("0000000000000000.seg", segment),
        ("0000000000000000.idx", index),
        ("00000000000000000003.ckpt", index),
        ("consumers", index),
    ] {
        let file = shard.vfs().create(name).unwrap();
        file.write_at(0, bytes).unwrap();
    }
    // Any answer will do.
    let _ = verify_in(shard.vfs());
    if let Ok(log) = SegmentedLog::open(shard.vfs(), small()) {
        let range = log.range();
        let _ = log.reader().read(range.first, 1000, 1 << 20);
        let _ = log
            .reader()
            .read_at(&[0, 1, range.next.wrapping_sub(1), u64::MAX]);
        let _ = log.reader().plan_retention(&|_, _| 5, u64::MAX);
        let _ = log.reader().load_checkpoint();
    }
    let _ = SegmentHeader::decode(segment);
    if let Some(header) = FrameHeader::decode(segment) {
        let _ = records_of(&header, segment, 0, |_, _| true);
    }
}

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
        read_anything(&bytes, &[]);
        read_anything(&bytes, &bytes);
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
        read_anything(&segment, &index);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_read_without_a_panic(segment: Vec<u8>, index: Vec<u8>) {
        read_anything(&segment, &index);
    }
}
