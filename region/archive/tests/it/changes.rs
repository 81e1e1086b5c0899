//! What single changes leave behind, and what readers on other nodes see of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::ShardId;
use gb6_core_obs::Metrics;
use gb6_core_ports::contract::log::{fence, message};
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{BlobKey, BlobStore, Fence, Retain, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_archive::{Archive, ArchiveConfig, Archives, Live};

use crate::tail_log::{archive, small};

/// Objects in memory, and an archive in them that epoch 1 owns.
fn begun() -> (MemoryBlobs, Archive, Fence) {
    let objects = MemoryBlobs::new();
    let archive = archive(Arc::new(objects.clone())).unwrap();
    archive.begin(&fence(1)).unwrap();
    (objects, archive, fence(1))
}

fn record(position: u64, fence: &Fence) -> Record {
    let mut record = message(position, &format!("room:{}", position % 2), position, 40);
    record.body = format!("<body of {position:08}>").into();
    record.shard_epoch = fence.shard_epoch.0;
    record.owner_incarnation = fence.owner_incarnation.0;
    record
}

fn seal(archive: &Archive, fence: &Fence, count: u64, about_bytes: u64) {
    let mut sealer = archive.sealer(fence, about_bytes).unwrap();
    for _ in 0..count {
        sealer.push(&record(sealer.next(), fence)).unwrap();
    }
    sealer.finish(Bytes::from_static(b"behind")).unwrap();
}

fn all(archive: &Archive) -> Result<Vec<Record>, StoreError> {
    let range = archive.range();
    let mut records = Vec::new();
    let mut from = range.first;
    while from < range.next {
        let page = archive.read(from, 7, 1 << 20)?;
        from = page.next;
        records.extend(page.records);
    }
    Ok(records)
}

fn keys(objects: &MemoryBlobs, folder: &str) -> Vec<BlobKey> {
    let found = objects.list(&format!("test/shards/3/{folder}"), None, 10_000);
    found.unwrap().into_iter().map(|meta| meta.key).collect()
}

/// The number of a list of consumers.
fn number_of(list: &BlobKey) -> u64 {
    let (_, number) = list.as_str().rsplit_once('-').unwrap();
    number.parse().unwrap()
}

/// The newest manifest, as people would look at it.
fn newest_manifest(objects: &MemoryBlobs) -> (BlobKey, String) {
    let key = keys(objects, "manifest/").pop().unwrap();
    let bytes = objects.get(&key, u64::MAX).unwrap().unwrap();
    (key, String::from_utf8(bytes.into()).unwrap())
}

#[test]
fn an_erased_body_is_gone_when_the_rewrite_returns() {
    let (objects, archive, fence) = begun();
    seal(&archive, &fence, 20, 0);
    let wanted = record(7, &fence).body;
    let there = |body: &Bytes| {
        keys(&objects, "").iter().any(|key| {
            let object = objects.get(key, u64::MAX).unwrap().unwrap();
            object.windows(body.len()).any(|w| w == body)
        })
    };
    assert!(there(&wanted));
    let segment = archive.segment_of(7).unwrap();
    archive
        .rewrite(&fence, segment, &mut |r| match r.position {
            7 => Retain::Erase,
            _ => Retain::Keep,
        })
        .unwrap();
    assert!(!there(&wanted));
    assert!(there(&record(8, &fence).body));
    assert_eq!(all(&archive).unwrap().len(), 20);
}

#[test]
fn sealing_small_ranges_often_leaves_few_segments() {
    let (_, archive, fence) = begun();
    let newer = self::fence(2);
    for _ in 0..400 {
        seal(&archive, &fence, 3, 3 * 120);
    }
    let segments: BTreeSet<u64> = (0..1200).filter_map(|p| archive.segment_of(p)).collect();
    // About 150 KiB in segments of at most 8 KiB.
    assert!(segments.len() < 60, "{} segments", segments.len());
    assert!(archive.bytes() > 20 * small().segment_bytes_max / 2);
    let expected: Vec<Record> = (0..1200).map(|p| record(p, &fence)).collect();
    assert_eq!(all(&archive).unwrap(), expected);
    // Records of another owner are a segment of their own.
    let before = archive.segment_of(1199);
    seal(&archive, &newer, 1, 1 << 20);
    assert_ne!(archive.segment_of(1200), before);
    assert_eq!(archive.segment_of(1199), before);
}

#[test]
fn a_reader_elsewhere_follows_without_being_told() {
    let (objects, archive, fence) = begun();
    for _ in 0..6 {
        seal(&archive, &fence, 5, 0);
    }
    let elsewhere = crate::tail_log::archive(Arc::new(objects.clone())).unwrap();
    let segment = archive.segment_of(12).unwrap();
    archive
        .rewrite(&fence, segment, &mut |r| match r.position {
            12 => Retain::Drop,
            _ => Retain::Keep,
        })
        .unwrap();
    let found = elsewhere.read_at(&[11, 12, 13]).unwrap();
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true]);
    assert_eq!(archive.trim(&fence, 23, Live::default()), Ok(20));
    let trimmed = elsewhere.read(0, 10, 1000).unwrap_err();
    assert_eq!(trimmed, StoreError::Trimmed { first: 20 });
    assert_eq!(elsewhere.read_at(&[3, 25]).unwrap()[0], None);
    seal(&archive, &fence, 5, 0);
    assert_eq!(elsewhere.range().next, 30);
    assert_eq!(elsewhere.refresh(), Ok(true));
    assert_eq!(elsewhere.range(), archive.range());
    assert_eq!(elsewhere.refresh(), Ok(false));
    assert_eq!(all(&elsewhere).unwrap(), all(&archive).unwrap());
    assert_eq!(elsewhere.resume(), b"behind"[..]);
    let end = (elsewhere.range(), elsewhere.resume());
    assert_eq!(elsewhere.end(), end);
}

#[test]
fn who_slept_while_manifests_were_removed_is_fenced() {
    let (objects, sleeper, old) = begun();
    let awake = archive(Arc::new(objects.clone())).unwrap();
    awake.begin(&fence(2)).unwrap();
    for _ in 0..12 {
        seal(&awake, &fence(2), 1, 0);
    }
    // The name that the sleeper takes is free again.
    let mut sealer = sleeper.sealer(&old, 0).unwrap();
    sealer.push(&record(0, &old)).unwrap();
    let error = sealer.finish(Bytes::new()).unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let later = archive(Arc::new(objects)).unwrap();
    assert_eq!(later.range().next, 12);
    assert_eq!(all(&later).unwrap()[0], record(0, &fence(2)));
    let error = sleeper.save_checkpoint(&old, 3, b"state").unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    let other = Fence {
        owner_incarnation: gb6_core_model::Incarnation(9),
        ..fence(2)
    };
    let error = later.begin(&other).unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
}

#[test]
fn damage_is_named_and_never_skipped() {
    let (objects, archive, fence) = begun();
    seal(&archive, &fence, 30, 0);
    let right = all(&archive).unwrap();
    let segments = keys(&objects, "seg/");
    let segment = segments.iter().find(|k| k.as_str().ends_with(".seg"));
    let index = segments.iter().find(|k| k.as_str().ends_with(".idx"));
    let open = || crate::tail_log::archive(Arc::new(objects.clone())).unwrap();
    let size = objects.head(segment.unwrap()).unwrap().unwrap().size;
    for byte in (128..size - 64).step_by(37) {
        assert!(objects.damage(segment.unwrap(), byte, 0x10));
        match all(&open()) {
            Err(StoreError::Corrupt { segment: named, .. }) => {
                assert_eq!(named, segment.unwrap().as_str());
            }
            other => panic!("byte {byte}: {other:?}"),
        }
        for at in [0, 15, 29] {
            match open().read_at(&[at]) {
                Ok(found) => assert_eq!(found[0].as_ref(), Some(&right[at as usize])),
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error}"),
            }
        }
        assert!(objects.damage(segment.unwrap(), byte, 0x10));
    }
    // The index is made again from the segment.
    assert!(objects.damage(index.unwrap(), 90, 1));
    assert_eq!(all(&open()).unwrap(), right);
    open().plan_retention(&|_, _| 5, u64::MAX).unwrap();
    objects.delete(index.unwrap()).unwrap();
    assert_eq!(all(&open()).unwrap(), right);
    // A damaged checkpoint is passed over, and the one before is used.
    for position in [10, 20] {
        archive.save_checkpoint(&fence, position, b"state").unwrap();
    }
    let newest = keys(&objects, "ckpt/").pop().unwrap();
    assert!(objects.damage(&newest, 33, 1));
    let found = open().load_checkpoint_before(30, u64::MAX).unwrap();
    assert_eq!(found, Some((10, b"state".to_vec())));
    archive.save_checkpoint(&fence, 25, b"newer").unwrap();
    let found = open().load_checkpoint_before(30, 25).unwrap();
    assert_eq!(found.map(|(p, _)| p), Some(10), "the whole one is kept");
    assert_eq!(
        open()
            .load_checkpoint_before(24, u64::MAX)
            .unwrap()
            .unwrap()
            .0,
        10
    );
    // An object that is named and gone is damage too.
    objects.delete(segment.unwrap()).unwrap();
    let error = all(&open()).unwrap_err();
    assert!(error.to_string().contains("not there"), "{error}");
    let (manifest, _) = newest_manifest(&objects);
    assert!(objects.damage(&manifest, 9, 1));
    let opened = crate::tail_log::archive(Arc::new(objects.clone())).map(|_| ());
    assert!(
        matches!(opened, Err(StoreError::Corrupt { .. })),
        "{opened:?}"
    );
}

#[test]
fn a_manifest_of_a_newer_version_is_refused_by_name() {
    let (objects, _, _) = begun();
    let (key, text) = newest_manifest(&objects);
    let json = text
        .lines()
        .next()
        .unwrap()
        .replace("\"format\":1", "\"format\":2");
    let text = format!("{json}\ncrc {:08x}\n", crc32c::crc32c(json.as_bytes()));
    objects
        .put(&key, text.into(), gb6_core_ports::PutIf::Always)
        .unwrap();
    match archive(Arc::new(objects)).map(|_| ()) {
        Err(StoreError::Format {
            path,
            found: 2,
            supported: 1,
        }) => assert_eq!(path, key.as_str()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn shards_and_regions_do_not_mix() {
    let objects = MemoryBlobs::new();
    let open = |region: &str, shard| {
        let blobs = Arc::new(objects.clone());
        let config = ArchiveConfig::default();
        Archives::new(blobs, region, "r1", config, &Metrics::bare()).open(ShardId(shard))
    };
    let places = [("eu", 1), ("eu", 11), ("eu", 0), ("eu-1", 1), ("e", 1)];
    for (n, (region, shard)) in places.iter().enumerate() {
        let fence = Fence {
            region: (*region).into(),
            shard: ShardId(*shard),
            ..fence(n as u64 + 1)
        };
        let archive = open(region, *shard).unwrap();
        assert_eq!(archive.range().next, 0);
        archive.begin(&fence).unwrap();
        seal(&archive, &fence, n as u64 + 1, 0);
        archive.register_consumer(&fence, region, 1).unwrap();
        archive
            .save_checkpoint(&fence, 1, region.as_bytes())
            .unwrap();
    }
    for (n, (region, shard)) in places.iter().enumerate() {
        let archive = open(region, *shard).unwrap();
        assert_eq!(archive.range().next, n as u64 + 1);
        assert_eq!(archive.consumers(Live::default()).unwrap()[0].name, *region);
        let (_, state) = archive.load_checkpoint_before(9, 9).unwrap().unwrap();
        assert_eq!(state, region.as_bytes());
    }
    assert!(open("eu/../x", 1).is_err());
}

#[test]
fn who_lags_too_far_behind_lapses() {
    let objects = MemoryBlobs::new();
    let config = ArchiveConfig {
        consumer_lag_bytes_max: 5000,
        ..small()
    };
    let blobs = Arc::new(objects.clone());
    let archives = Archives::new(blobs, "test", "r1", config, &Metrics::bare());
    let archive = archives.open(ShardId(3)).unwrap();
    let fence = fence(1);
    archive.begin(&fence).unwrap();
    archive.register_consumer(&fence, "slow", 0).unwrap();
    archive.register_consumer(&fence, "quick", 60).unwrap();
    for _ in 0..8 {
        seal(&archive, &fence, 10, 0);
    }
    let live = Live {
        next: 90,
        bytes: 900,
    };
    let shown = archive.consumers(live).unwrap();
    assert_eq!(
        shown.iter().map(|c| c.lapsed).collect::<Vec<_>>(),
        [false, true]
    );
    assert_eq!(archive.trim(&fence, 80, live), Ok(60));
    let error = archive.set_consumer(&fence, "slow", 70).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
    let again = archive.register_consumer(&fence, "slow", 80).unwrap();
    assert_eq!((again.position, again.lapsed), (80, false));
    // Several at once are one list.
    let first = keys(&objects, "consumers/").pop().unwrap();
    let both = [("slow".to_owned(), 82), ("quick".to_owned(), 83)];
    assert!(archive.set_consumers(&fence, &both).unwrap().is_empty());
    assert!(archive.set_consumers(&fence, &both).unwrap().is_empty());
    let second = keys(&objects, "consumers/");
    assert_eq!(second.len(), 1, "{second:?}");
    assert_eq!(number_of(&second[0]), number_of(&first) + 1);
    // Behind the archive's end it waits for nothing here.
    archive.set_consumer(&fence, "quick", 85).unwrap();
    assert_eq!(archive.trim(&fence, 85, live), Ok(80));
    archive.remove_consumer(&fence, "slow").unwrap();
    // Each list took the place of the one before, under another owner too.
    let next = archives.open(ShardId(3)).unwrap();
    let newer = self::fence(2);
    next.begin(&newer).unwrap();
    next.set_consumer(&newer, "quick", 88).unwrap();
    archive.set_consumer(&fence, "quick", 89).unwrap();
    let seen = archives.open(ShardId(3)).unwrap().consumers(live).unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].position, 88, "who lost the shard is not heard");
}

#[test]
fn memory_for_what_is_read_is_bounded() {
    let objects = MemoryBlobs::new();
    let config = ArchiveConfig {
        cache_bytes_max: 600 * 1024,
        ..ArchiveConfig::default()
    };
    let metrics = Metrics::bare();
    let archives = Archives::new(Arc::new(objects), "test", "r1", config, &metrics);
    let archive = archives.open(ShardId(3)).unwrap();
    let fence = fence(1);
    archive.begin(&fence).unwrap();
    let mut sealer = archive.sealer(&fence, 0).unwrap();
    for position in 0..300 {
        let mut record = record(position, &fence);
        record.body = vec![position as u8; 10_000].into();
        sealer.push(&record).unwrap();
    }
    sealer.finish(Bytes::new()).unwrap();
    let value = |name: &str| -> f64 {
        let text = metrics.text();
        let line = text
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_owned();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    for _ in 0..2 {
        for at in (0..300).step_by(10) {
            let found = archive.read_at(&[at]).unwrap();
            assert_eq!(found[0].as_ref().unwrap().body, vec![at as u8; 10_000]);
            assert!(value("gb6_archive_cache_bytes ") <= 450_000.0);
        }
    }
    assert!(value("gb6_archive_cache_hits_total ") > 30.0);
    assert!(value("gb6_archive_bytes{") > 3_000_000.0);
    assert_eq!(value("gb6_archive_next_position{"), 300.0);
}
