//! Damage inside sealed segments, bit by bit: what is read is right, or the damage is named.

use std::collections::BTreeMap;

use gb6_core_ports::contract::log::messages;
use gb6_core_ports::{Retain, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_stores_embedded::log::format::FrameHeader;
use gb6_region_stores_embedded::{LogReader, ReadAt, SegmentedLog, Vfs};

use crate::disk::{SimShard, owned, small};

const FIRST: &str = "0000000000000000.seg";
const HEADER_BYTES: u64 = 128;
const FRAME_HEADER_BYTES: u64 = 36;

/// A log whose first segments are sealed, and the position of its end.
fn sealed(rewritten: bool) -> (SimShard, u64) {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    let mut next = 1;
    for _ in 0..30 {
        next = log.commit(messages(next, "room:a", 5)).unwrap().next;
        log.run_jobs().unwrap();
    }
    if rewritten {
        // Holes at the beginning, between batches and at the end.
        let mut dropped = |r: &Record| match r.position % 7 {
            0..3 => Retain::Drop,
            _ => Retain::Keep,
        };
        let new = log.reader().prepare_rewrite(0, &mut dropped).unwrap();
        log.install(new).unwrap();
    }
    (shard, next)
}

/// Where the batches of the first segment begin.
fn frames(shard: &SimShard) -> Vec<u64> {
    let file = shard.vfs().open(FIRST).unwrap();
    let mut data = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut data).unwrap();
    let mut at = HEADER_BYTES as usize;
    let mut all = Vec::new();
    while let Some(frame) = FrameHeader::decode(&data[at..]).filter(|f| at + f.bytes < data.len()) {
        all.push(at as u64);
        at += frame.bytes;
    }
    all
}

fn read_all(reader: &LogReader<impl Vfs>, from: u64) -> Result<BTreeMap<u64, Record>, StoreError> {
    let mut all = BTreeMap::new();
    let mut from = from;
    while from < reader.range().next {
        let page = reader.read(from, 11, 1 << 20)?;
        from = page.next;
        all.extend(page.records.into_iter().map(|r| (r.position, r)));
    }
    Ok(all)
}

fn is_named(error: &StoreError, next: u64, case: &str) {
    match error {
        StoreError::Corrupt {
            segment, position, ..
        } => assert!(
            segment.ends_with(FIRST) && *position < next,
            "{case}: {error}"
        ),
        error => panic!("{case}: {error}"),
    }
}

/// Reads in every way: everything is as in `right`, or the damage is named.
fn look(reader: &LogReader<impl Vfs>, right: &BTreeMap<u64, Record>, next: u64, case: &str) {
    let error = read_all(reader, 0).expect_err(case);
    is_named(&error, next, case);
    for from in [1, 9, 17, 25] {
        match read_all(reader, from) {
            Ok(found) => assert!(found.iter().eq(right.range(from..)), "{case}"),
            Err(error) => is_named(&error, next, case),
        }
    }
    let positions: Vec<u64> = (0..next).collect();
    let together = reader.read_at(&positions).expect_err(case);
    is_named(&together, next, case);
    for position in &positions[..50] {
        match reader.read_at(&[*position]) {
            Ok(found) => assert_eq!(found[0].as_ref(), right.get(position), "{case}"),
            Err(error) => is_named(&error, next, case),
        }
    }
    match reader.prepare_rewrite(0, &mut |_| Retain::Keep) {
        Err(error) => is_named(&error, next, case),
        Ok(_) => panic!("{case}: rewritten without what is damaged"),
    }
}

/// Flips every bit of every batch header of the first segment, and reads in every way.
fn flip_every_bit(rewritten: bool) {
    let (shard, next) = sealed(rewritten);
    let whole = SegmentedLog::open(shard.vfs(), small()).unwrap();
    let right = read_all(&whole.reader(), 0).unwrap();
    assert!(right.len() > 100);
    let begins = frames(&shard);
    assert!(begins.len() > 4, "{begins:?}");
    for (n, begin) in begins.iter().enumerate() {
        for bit in 0..FRAME_HEADER_BYTES * 8 {
            let (byte, mask) = (begin + bit / 8, 1 << (bit % 8));
            let case = format!("rewritten {rewritten}, batch {n}, bit {bit}");
            assert!(shard.0.damage("shard", FIRST, byte, mask));
            look(&whole.reader(), &right, next, &case);
            // Opening reads the newest acquire record, which may be the damaged one.
            match SegmentedLog::open(shard.vfs(), small()) {
                Ok(log) => look(&log.reader(), &right, next, &case),
                Err(error) => is_named(&error, next, &case),
            }
            assert!(shard.0.damage("shard", FIRST, byte, mask));
        }
    }
    let mended = read_all(&whole.reader(), 0).unwrap();
    assert_eq!(mended, right);
}

#[test]
fn no_bit_of_a_batch_header_turns_into_a_hole() {
    flip_every_bit(false);
}

#[test]
fn no_bit_of_a_batch_header_of_a_rewritten_segment_turns_into_a_hole() {
    flip_every_bit(true);
}
