//! Bytes from outside: whatever a topic holds or a URI says, reading it answers, and never with a panic.
//! The corpus is replayed, and changed at random.

use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::{fence, messages};
use gb6_core_wire::record::{Kind, Record};
use gb6_region_stores_kafka::frame::{FrameHeader, encode_acquire, encode_batch, records};
use gb6_region_stores_kafka::fuzz::{message, uri};
use gb6_region_stores_kafka::tail::Tail;

fn seeds() -> Vec<Vec<u8>> {
    let acquire = Record {
        kind: Kind::Acquire as i32,
        served_ms: 9,
        ..Record::default()
    };
    vec![
        encode_batch(&fence(1), 7, &messages(7, "room:a", 5)).to_vec(),
        encode_acquire(&fence(2), &acquire).to_vec(),
        Tail::default().encode(),
    ]
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/frame");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let bytes = std::fs::read(entry.expect("a file").path()).expect("read");
        message(&bytes);
        uri(&bytes);
        replayed += 1;
    }
    assert!(replayed >= 5, "the corpus is missing");
}

#[test]
fn changed_messages_are_read_without_a_panic() {
    let mut random = Random::new(3);
    let seeds = seeds();
    for _ in 0..20_000 {
        let mut bytes = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
        // Half of them with a checksum that fits, so that what lies behind it is reached.
        if bytes.len() > 8 && random.below(2) == 0 {
            let crc = crc32c::crc32c(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        message(&bytes);
    }
}

#[test]
fn changed_uris_are_read_without_a_panic() {
    let good = "kafka://u%40:p%3A@a:1,b:2/pre.fix?replication=3&min_insync=2&security=sasl_ssl";
    let mut random = Random::new(4);
    for _ in 0..20_000 {
        let mut bytes = good.as_bytes().to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(3) {
                0 => bytes[at] = b"%:@/?&=,a\xc3"[random.below(10) as usize],
                1 => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, b"%:@/?&=,a0"[random.below(10) as usize]),
            }
        }
        uri(&bytes);
    }
}

#[test]
fn what_is_written_is_read() {
    let batch = messages(7, "room:a", 5);
    let bytes = encode_batch(&fence(4), 7, &batch);
    let header = FrameHeader::decode(&bytes).expect("a batch");
    assert_eq!((header.first, header.count), (7, 5));
    assert_eq!(header.shard_epoch.0, 4);
    assert_eq!(records(&header, &bytes, 7, 0).expect("whole"), batch);
    assert!(records(&header, &bytes, 8, 0).is_err(), "not where it says");
}
