//! Rewriting a segment that a newer version has written into.

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_ports::Retain;
use gb6_core_ports::contract::log::messages;
use gb6_core_wire::record::{Kind, Record, flags};
use gb6_region_stores_embedded::log::format::{
    FRAME_HEADER_BYTES, FrameBuilder, FrameHeader, SegmentHeader,
};
use gb6_region_stores_embedded::{ReadAt, Vfs, VfsFile};
use prost::Message;

use crate::disk::{SimShard, messages_of, owned};

const NAME: &str = "0000000000000000.seg";
const HEADER_BYTES: usize = 128;

/// A field that this version does not know: number 2000, length-delimited.
fn unknown(n: u64) -> Vec<u8> {
    let text = format!("later {n}");
    [&[0x82, 0x7d, text.len() as u8][..], text.as_bytes()].concat()
}

/// Encoded records, every one with a field that is not known here, one of a kind that is not.
fn written() -> Vec<Vec<u8>> {
    let mut records = messages(0, "room:a", 6);
    records[2].kind = 99;
    for record in &mut records {
        record.tags.insert("mood".into(), "secret".into());
    }
    let encoded = records.iter().map(Message::encode_to_vec).zip(0..);
    // In front, where no writer of this version would put it, and behind.
    encoded
        .map(|(record, n)| [&unknown(n)[..], &record, &unknown(n)[..]].concat())
        .collect()
}

/// The encoded records that the first segment holds.
fn stored(shard: &SimShard) -> Vec<Vec<u8>> {
    let file = shard.vfs().open(NAME).unwrap();
    let mut data = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut data).unwrap();
    let mut found = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(frame) = FrameHeader::decode(&data[at..]).filter(|f| at + f.bytes < data.len()) {
        let mut rest = &data[at + FRAME_HEADER_BYTES..at + frame.bytes];
        for _ in 0..frame.count {
            let len = prost::decode_length_delimiter(&mut rest).unwrap();
            found.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
        at += frame.bytes;
    }
    found
}

#[test]
fn what_a_newer_version_wrote_stays_to_the_byte() {
    let shard = SimShard::new(1);
    let (epoch, incarnation) = (ShardEpoch(1), Incarnation(7));
    let header = SegmentHeader {
        seq: 0,
        shard_epoch: epoch,
        owner_incarnation: incarnation,
        first: u64::MAX,
        shard: ShardId(0),
        generation: 0,
        region: "eu".into(),
    };
    let mut frame = FrameBuilder::new();
    for (position, record) in (0..).zip(written()) {
        frame.push_encoded(position, &record);
    }
    let file = shard.vfs().create(NAME).unwrap();
    file.write_at(0, &header.encode()).unwrap();
    file.write_at(HEADER_BYTES as u64, frame.seal(epoch, incarnation))
        .unwrap();
    let (mut log, _) = owned(shard.vfs(), 8);
    let mut retain = |record: &Record| match record.position {
        1 => Retain::Drop,
        4 => Retain::Erase,
        _ => Retain::Keep,
    };
    // Twice: a generation is rewritten as the first was.
    for _ in 0..2 {
        let new = log.reader().prepare_rewrite(0, &mut retain).unwrap();
        log.install(new).unwrap();
        let (before, after) = (written(), stored(&shard));
        assert_eq!(after.len(), 5);
        for (n, kept) in [(0, 0), (2, 1), (3, 2), (5, 4)] {
            assert_eq!(after[kept], before[n], "record {n}");
        }
        let erased = Record::decode(&*after[3]).unwrap();
        let original = Record::decode(&*before[4]).unwrap();
        let expected = Record {
            body: Default::default(),
            tags: Default::default(),
            flags: flags::ERASED,
            ..original
        };
        assert_eq!(erased, expected);
        let unknown = unknown(4);
        let times = after[3].windows(unknown.len()).filter(|w| *w == unknown);
        assert_eq!(times.count(), 2);
        assert!(!after[3].windows(6).any(|w| w == b"secret"));
    }
    let kinds: Vec<i32> = log.reader().read(0, 10, 1 << 20).unwrap().records[..5]
        .iter()
        .map(|r| r.kind)
        .collect();
    let message = Kind::Message as i32;
    assert_eq!(kinds, [message, 99, message, message, message]);
    assert_eq!(messages_of(&log).len(), 4);
}
