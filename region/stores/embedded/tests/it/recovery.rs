//! What opening a log finds: torn tails, damage, lost indexes, newer formats, large logs.

use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::messages;
use gb6_core_ports::{Acquire, StoreError};
use gb6_region_stores_embedded::{ReadAt, RealVfs, SegmentedLog, TailNote, Vfs, VfsFile};

use crate::disk::{RealShard, SimShard, messages_of, owned, small};

/// A log with several segments, and the number of its messages.
fn filled(shard: &SimShard) -> u64 {
    let (mut log, _) = owned(shard.vfs(), 1);
    let mut next = 1;
    for _ in 0..60 {
        next = log.commit(messages(next, "room:a", 7)).unwrap().next;
        log.run_jobs().unwrap();
    }
    next - 1
}

fn names(shard: &SimShard, ending: &str) -> Vec<String> {
    let mut all = shard.vfs().list().unwrap();
    all.retain(|n| n.ends_with(ending));
    all
}

#[test]
fn lost_and_damaged_indexes_are_made_again() {
    let shard = SimShard::new(1);
    let count = filled(&shard);
    let indexes = names(&shard, ".idx");
    assert!(indexes.len() > 2, "{indexes:?}");
    for (n, name) in indexes.iter().enumerate() {
        match n % 3 {
            0 => shard.vfs().remove(name).unwrap(),
            1 => assert!(shard.0.damage("shard", name, 20 + n as u64, 1)),
            _ => shard.vfs().open(name).unwrap().set_len(90).unwrap(),
        }
    }
    let log = SegmentedLog::open(shard.vfs(), small()).unwrap();
    assert_eq!(messages_of(&log).len() as u64, count);
    let wanted: Vec<u64> = (1..=count).rev().collect();
    let found = log.reader().read_at(&wanted).unwrap();
    assert!(
        found
            .iter()
            .zip(wanted)
            .all(|(r, p)| r.as_ref().unwrap().position == p)
    );
}

#[test]
fn damage_in_the_middle_is_reported_with_its_place_and_never_passed_over() {
    let reference = SimShard::new(1);
    let count = filled(&reference);
    let segments = names(&reference, ".seg");
    let mut random = Random::new(9);
    let mut reported = 0;
    for case in 0..150 {
        let shard = SimShard::new(1);
        filled(&shard);
        // Any byte of any sealed segment, its footer apart.
        let name = &segments[random.below(segments.len() as u64 - 1) as usize];
        let len = shard.vfs().open(name).unwrap().len().unwrap();
        let at = random.below(len - 64);
        assert!(shard.0.damage("shard", name, at, 1 << random.below(8)));
        let read = SegmentedLog::open(shard.vfs(), small()).and_then(|log| {
            let mut from = 0;
            let mut seen = 0;
            while from < log.range().next {
                let page = log.reader().read(from, 50, 1 << 20)?;
                seen += page.records.len() as u64;
                from = page.next;
            }
            Ok(seen)
        });
        match read {
            Err(StoreError::Corrupt {
                segment,
                byte,
                position,
                ..
            }) => {
                reported += 1;
                assert!(segment.ends_with(name.as_str()), "case {case}");
                assert!(
                    byte <= at && position <= count,
                    "case {case}: {byte} {position}"
                );
            }
            Err(error) => panic!("case {case}: {error}"),
            Ok(seen) => panic!("case {case}: byte {at} of {name}: {seen} of {count} read"),
        }
    }
    assert_eq!(reported, 150);
}

#[test]
fn damage_before_the_last_batches_of_the_open_segment_is_reported_too() {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    for n in 0..3 {
        log.commit(messages(1 + n * 5, "room:a", 5)).unwrap();
    }
    drop(log);
    // In the second of four batches.
    assert!(shard.0.damage("shard", "0000000000000000.seg", 400, 4));
    match SegmentedLog::open(shard.vfs(), small()).map(|log| log.range()) {
        Err(StoreError::Corrupt {
            byte,
            position,
            detail,
            ..
        }) => {
            assert!(byte < 400, "{byte}");
            assert_eq!(position, 1);
            assert!(detail.contains("position 6"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_torn_last_write_is_cut_at_any_byte() {
    // Cut the last batch at every byte, with zeros or with garbage behind.
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.commit(messages(1, "room:a", 2)).unwrap();
    let name = "0000000000000000.seg";
    let before = content(&shard, name);
    log.commit(messages(3, "room:a", 2)).unwrap();
    let after = content(&shard, name);
    let begin = before.iter().zip(&after).position(|(a, b)| a != b).unwrap();
    let end = after.iter().rposition(|b| *b != 0).unwrap() + 1;
    for cut in begin..end {
        for fill in [0, 0xee] {
            let torn = SimShard::new(1);
            let mut data = after.clone();
            data[cut..end].fill(fill);
            if data == after {
                continue;
            }
            let file = torn.vfs().create(name).unwrap();
            file.write_at(0, &data).unwrap();
            let (log, _) = owned(torn.vfs(), 2);
            assert_eq!(messages_of(&log).len(), 2, "cut at {cut}");
            let noted = log.notes().first().map(|n| (n.what, n.byte, n.position));
            let nothing_left = data[begin..end].iter().all(|b| *b == 0);
            let expected = (TailNote::TornWrite, begin as u64, 3);
            assert_eq!(noted, (!nothing_left).then_some(expected), "cut at {cut}");
        }
    }
}

fn content(shard: &SimShard, name: &str) -> Vec<u8> {
    let file = shard.vfs().open(name).unwrap();
    let mut data = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut data).unwrap();
    data
}

#[test]
fn a_message_that_looks_like_a_batch_is_not_taken_for_one() {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.commit(messages(1, "room:a", 3)).unwrap();
    let frame = content(&shard, "0000000000000000.seg")[128..600].to_vec();
    // The body holds whole batches of an owner with another life, and the write is torn.
    let mut forged = messages(4, "room:a", 1);
    forged[0].body = frame.into();
    let (mut log, _) = owned(shard.vfs(), 2);
    let next = log.range().next;
    forged[0].position = next;
    log.stage(forged).unwrap();
    log.write().unwrap();
    drop(log);
    let name = names(&shard, ".seg").pop().unwrap();
    let len = content(&shard, &name)
        .iter()
        .rposition(|b| *b != 0)
        .unwrap();
    assert!(shard.0.damage("shard", &name, len as u64, 1));
    let (log, _) = owned(shard.vfs(), 3);
    assert_eq!(messages_of(&log).len(), 3);
}

#[test]
fn a_missing_segment_and_a_newer_format_are_refused() {
    let shard = SimShard::new(1);
    filled(&shard);
    let segments = names(&shard, ".seg");
    let newer = SimShard::new(1);
    filled(&newer);
    let mut header = content(&newer, &segments[1])[..128].to_vec();
    header[8] = 9;
    let crc = crc32c::crc32c(&header[..124]);
    header[124..].copy_from_slice(&crc.to_le_bytes());
    let file = newer.vfs().open(&segments[1]).unwrap();
    file.write_at(0, &header).unwrap();
    match SegmentedLog::open(newer.vfs(), small()).map(|log| log.range()) {
        Err(StoreError::Format { path, found: 9, .. }) => assert!(path.ends_with(&segments[1])),
        other => panic!("{other:?}"),
    }
    shard.vfs().remove(&segments[2]).unwrap();
    match SegmentedLog::open(shard.vfs(), small()).map(|log| log.range()) {
        Err(StoreError::Corrupt { segment, .. }) => assert!(segment.ends_with(&segments[2])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_checkpoints_are_passed_over() {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.commit(messages(1, "room:a", 20)).unwrap();
    let reader = log.reader();
    for position in [4, 9, 14] {
        reader
            .save_checkpoint(position, &[position as u8; 5000])
            .unwrap();
    }
    let files = names(&shard, ".ckpt");
    assert_eq!(files.len(), 2, "the last two are kept: {files:?}");
    assert!(shard.0.damage("shard", &files[1], 3000, 1));
    assert_eq!(
        reader.load_checkpoint().unwrap().unwrap(),
        (9, vec![9; 5000])
    );
    assert_eq!(reader.load_checkpoint_before(9).unwrap(), None);
    // The next one takes the damaged one's place: the whole one is what it may have to stand in
    // for.
    reader.save_checkpoint(19, &[19; 300_000]).unwrap();
    let files = names(&shard, ".ckpt");
    assert_eq!(
        files,
        [format!("{:020}.ckpt", 9), format!("{:020}.ckpt", 19)]
    );
    assert!(shard.0.damage("shard", &files[1], 290_000, 1));
    reader.save_checkpoint(20, &[20; 300_000]).unwrap();
    let older = reader.load_checkpoint_before(20).unwrap();
    assert_eq!(older, Some((9, vec![9; 5000])));
    assert!(shard.0.damage("shard", &files[0], 3, 1));
    assert_eq!(reader.load_checkpoint_before(20).unwrap(), None);
}

#[test]
fn checkpoints_of_another_log_go_when_the_shard_is_acquired() {
    let shard = SimShard::new(1);
    let (mut log, _) = owned(shard.vfs(), 1);
    log.commit(messages(1, "room:a", 4)).unwrap();
    log.reader().save_checkpoint(5, b"of this log").unwrap();
    log.reader().save_checkpoint(9, b"of another").unwrap();
    let (mut log, _) = owned(shard.vfs(), 2);
    // When the log has got so far, there is nothing that could be taken for its own.
    log.commit(messages(6, "room:a", 9)).unwrap();
    let newest = log.reader().load_checkpoint().unwrap();
    assert_eq!(newest, Some((5, b"of this log".to_vec())));
}

#[test]
fn a_fresh_shard_is_small_and_restarts_do_not_add_up() {
    use std::os::unix::fs::MetadataExt;

    let shard = RealShard::new();
    let config = gb6_region_stores_embedded::LogConfig::default();
    let blocks = || -> u64 {
        let files = std::fs::read_dir(shard.0.path()).unwrap();
        files
            .map(|f| f.unwrap().metadata().unwrap().blocks() * 512)
            .sum()
    };
    for epoch in 1..8 {
        let vfs = RealVfs::existing(shard.0.path());
        let mut log = SegmentedLog::open(vfs, config).unwrap();
        let fence = gb6_core_ports::contract::log::fence(epoch);
        log.acquire(&fence, Acquire::default()).unwrap();
        log.run_jobs().unwrap();
        let used = blocks();
        assert!(used <= 3 * 1024 * 1024, "start {epoch}: {used} bytes");
    }
}
