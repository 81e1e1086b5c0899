//! The tools: they see what is there, and what is wrong.

use gb6_core_ports::contract::Random;
use gb6_core_ports::contract::log::messages;
use gb6_core_ports::{Retain, StoreError};
use gb6_region_stores_embedded::inspect::{inspect, inspect_in, logs_at, verify, verify_in};
use gb6_region_stores_embedded::{ReadAt, RealVfs, Vfs};

use crate::disk::{SimShard, owned};

fn filled(shard: &SimShard) -> u64 {
    let mut next = 0;
    for life in 1..4 {
        let (mut log, _) = owned(shard.vfs(), life);
        next = log.range().next;
        for _ in 0..25 {
            next = log.commit(messages(next, "room:a", 7)).unwrap().next;
            log.run_jobs().unwrap();
        }
    }
    next
}

#[test]
fn a_whole_log_verifies_and_is_described() {
    let shard = SimShard::new(1);
    let end = filled(&shard);
    let (mut log, _) = owned(shard.vfs(), 9);
    let keep_odd = &mut |r: &gb6_core_wire::record::Record| match r.position % 2 {
        0 => Retain::Drop,
        _ => Retain::Keep,
    };
    let rewritten = log.reader().prepare_rewrite(1, keep_odd).unwrap();
    log.install(rewritten).unwrap();
    log.reader().register_consumer("search", 3).unwrap();
    log.reader().save_checkpoint(7, b"state").unwrap();
    let found = verify_in(shard.vfs());
    assert_eq!(found.problems, []);
    assert_eq!((found.range.next, found.rooms), (end + 1, 1));
    assert_eq!(found.checkpoints, 1);
    let info = inspect_in(shard.vfs()).unwrap();
    let records: u64 = info.segments.iter().map(|s| s.records).sum();
    assert_eq!(records, found.records);
    assert!(found.records < end + 1);
    assert_eq!(info.segments[1].generation, 1);
    assert_eq!((info.epoch.0, info.checkpoint), (4, Some(7)));
    assert_eq!(info.consumers[0].name, "search");
    let last = info.segments.last().unwrap();
    assert_eq!(
        (last.shard, last.region.as_str(), last.sealed),
        (3, "test", false)
    );
}

#[test]
fn verify_names_every_damaged_byte() {
    let mut random = Random::new(3);
    let sound = SimShard::new(1);
    filled(&sound);
    let mut names = sound.vfs().list().unwrap();
    names.retain(|n| n.ends_with(".seg"));
    for _ in 0..60 {
        let shard = SimShard::new(1);
        filled(&shard);
        let name = &names[random.below(names.len() as u64 - 1) as usize];
        let len = shard.vfs().open(name).unwrap().len().unwrap();
        assert!(shard.0.damage("shard", name, random.below(len - 64), 2));
        let found = verify_in(shard.vfs());
        let named = found.problems.iter().any(|p| {
            matches!(p, StoreError::Corrupt { segment, .. } if segment.ends_with(name.as_str()))
        });
        assert!(named, "{name}: {:?}", found.problems);
    }
}

/// What `verify` says of the checkpoints, which are the only thing wrong.
fn said_of_checkpoints(shard: &SimShard) -> Vec<String> {
    let found = verify_in(shard.vfs());
    found
        .problems
        .iter()
        .map(|problem| {
            let text = problem.to_string();
            assert!(text.contains(".ckpt"), "{text}");
            text
        })
        .collect()
}

fn damage(shard: &SimShard, position: u64) {
    let name = format!("{position:020}.ckpt");
    let len = shard.vfs().open(&name).unwrap().len().unwrap();
    assert!(shard.0.damage("shard", &name, len - 2, 1));
}

#[test]
fn verify_names_a_damaged_checkpoint_and_says_what_it_means() {
    let shard = SimShard::new(1);
    let end = filled(&shard);
    let (log, _) = owned(shard.vfs(), 9);
    log.reader().save_checkpoint(7, b"state").unwrap();
    log.reader().save_checkpoint(9, b"state").unwrap();
    drop(log);
    assert!(said_of_checkpoints(&shard).is_empty());
    damage(&shard, 9);
    let said = said_of_checkpoints(&shard);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("its checksum does not fit (harmless"),
        "{said:?}"
    );
    // Nothing was removed: without any checkpoint all of it is replayed.
    damage(&shard, 7);
    let said = said_of_checkpoints(&shard);
    assert!(
        said.len() == 2 && said.iter().all(|s| s.contains("harmless")),
        "{said:?}"
    );

    let (mut log, _) = owned(shard.vfs(), 10);
    let drop_all = &mut |_: &gb6_core_wire::record::Record| Retain::Drop;
    let rewritten = log.reader().prepare_rewrite(1, drop_all).unwrap();
    log.install(rewritten).unwrap();
    let said = said_of_checkpoints(&shard);
    assert!(said.iter().all(|s| s.contains("begin anew")), "{said:?}");
    // A whole one again: the damaged ones cover nothing that it does not.
    log.reader().save_checkpoint(end, b"state").unwrap();
    let said = said_of_checkpoints(&shard);
    assert!(said.iter().all(|s| s.contains("harmless")), "{said:?}");
    log.reader().save_checkpoint(end + 100, b"state").unwrap();
    let said = said_of_checkpoints(&shard);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("ahead of the log's end"), "{said:?}");
}

#[test]
fn logs_are_found_in_a_data_directory_and_in_a_shard_folder() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(logs_at(dir.path()), Err(StoreError::Io { .. })));
    let shard = dir.path().join("shards").join("2");
    let (mut log, _) = owned(RealVfs::create(&shard).unwrap(), 1);
    log.commit(messages(1, "room:a", 5)).unwrap();
    assert_eq!(logs_at(dir.path()).unwrap(), std::slice::from_ref(&shard));
    assert_eq!(logs_at(&shard).unwrap(), std::slice::from_ref(&shard));
    // While the log is open.
    assert_eq!(verify(&shard).records, 6);
    assert_eq!(inspect(&shard).unwrap().range.next, 6);
}
