//! Logs that are copied into an archive, and begin from there again when their disk is lost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_obs::Metrics;
use gb6_core_ports::contract::log::{
    LogFixture, acquire, append, everything, fence, message, messages,
};
use gb6_core_ports::contract::{Random, log, log_model};
use gb6_core_ports::memory::MemoryBlobs;
use gb6_core_ports::{
    BlobKey, BlobMeta, BlobStore, BlobWriter, Fence, Presigned, PutIf, Retain, ShardLog, StoreError,
};
use gb6_core_wire::record::{Kind, Record};
use gb6_region_archive::{ArchiveConfig, Archives};
use gb6_region_stores_embedded::log::format::{FIRST_UNKNOWN, SegmentHeader};
use gb6_region_stores_embedded::sim_disk::{SimDisk, SimVfs};
use gb6_region_stores_embedded::{ArchivedShardLog, Archiving, DataDir, Vfs, VfsFile};

use crate::disk::small;

/// Objects in memory that can be out of reach, at once or after some more calls.
#[derive(Clone)]
pub(crate) struct Reach {
    objects: MemoryBlobs,
    /// Calls that are still answered. Of the last one nothing is heard.
    calls: Arc<AtomicU64>,
    /// While set, calls panic, as where the store's client has a defect.
    pub(crate) panics: Arc<AtomicBool>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            objects: MemoryBlobs::new(),
            calls: Arc::new(AtomicU64::new(u64::MAX)),
            panics: Arc::default(),
        }
    }
}

impl Reach {
    /// The same objects, reached on another way.
    pub(crate) fn apart(&self) -> Self {
        Self {
            objects: self.objects.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn set(&self, reachable: bool) {
        self.answers(if reachable { u64::MAX } else { 0 });
    }

    /// Answers so many calls more.
    fn answers(&self, calls: u64) {
        self.calls.store(calls, Ordering::SeqCst);
    }

    fn objects(&self) -> Result<&MemoryBlobs, StoreError> {
        assert!(!self.panics.load(Ordering::SeqCst), "a defect");
        let fewer = |calls: u64| match calls {
            u64::MAX => Some(calls),
            calls => calls.checked_sub(1),
        };
        match self
            .calls
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer)
        {
            Ok(_) => Ok(&self.objects),
            Err(_) => Err(StoreError::Unavailable {
                cause: "the store of objects is out of reach".into(),
            }),
        }
    }
}

impl BlobStore for Reach {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        let put = self.objects()?.put(key, body, when);
        match self.calls.load(Ordering::SeqCst) {
            0 => Err(StoreError::OutcomeUnknown {
                cause: "no answer".into(),
            }),
            _ => put,
        }
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        self.objects()?.writer(key)
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.objects()?.get(key, bytes_max)
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.objects()?.get_range(key, range)
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        self.objects()?.head(key)
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        self.objects()?.list(prefix, after, limit)
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.objects()?.delete(key)
    }

    fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError> {
        self.objects.presign(key, what, valid)
    }
}

/// How `node` archives, and asks nobody before it goes on from an archive.
pub(crate) fn archiving(node: &str) -> Archiving {
    Archiving {
        ask: Duration::ZERO,
        ..Archiving::new(node)
    }
}

/// A shard on a simulated disk with an archive.
pub(crate) struct Shard {
    disk: SimDisk,
    pub(crate) reach: Reach,
    pub(crate) metrics: Metrics,
    node: &'static str,
}

type Log = ArchivedShardLog<SimVfs>;

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            disk: SimDisk::new(1),
            reach: Reach::default(),
            metrics: Metrics::bare(),
            node: "r1",
        }
    }

    /// The same archive, and another disk without anything.
    pub(crate) fn on_another_disk(&self) -> Self {
        Self {
            disk: SimDisk::new(2),
            reach: self.reach.clone(),
            metrics: Metrics::bare(),
            node: self.node,
        }
    }

    fn archives(&self) -> Archives {
        let config = ArchiveConfig {
            index_every: 1024,
            ..ArchiveConfig::default()
        };
        let blobs = Arc::new(self.reach.clone());
        Archives::new(blobs, "test", self.node, config, &self.metrics)
    }

    pub(crate) fn start(&self, archiving: &Archiving) -> Result<Log, StoreError> {
        let archive = self.archives().unread(ShardId(3))?;
        let vfs = self.disk.dir("shard");
        ArchivedShardLog::start(vfs, small(), "test", archive, archiving)
    }

    fn open(&self) -> Log {
        self.start(&archiving(self.node)).expect("open")
    }

    fn objects(&self, folder: &str) -> Vec<Bytes> {
        let objects = &self.reach.objects;
        let prefix = format!("test/shards/3/{folder}");
        let keys = objects.list(&prefix, None, 10_000).unwrap();
        let read = |meta: &BlobMeta| objects.get(&meta.key, u64::MAX).unwrap();
        keys.iter().filter_map(read).collect()
    }
}

impl LogFixture for Shard {
    fn open(&self) -> Arc<dyn ShardLog> {
        Arc::new(Shard::open(self))
    }
}

fn seals(log: &Log, fence: &Fence, from: u64, count: u64) -> u64 {
    append(log, fence, messages(from, "room:a", count)).unwrap();
    log.seal_around(fence, from + count - 1).unwrap();
    from + count
}

fn is_there(shard: &Shard, body: &[u8]) -> bool {
    let objects = shard.objects("");
    objects
        .iter()
        .any(|o| o.windows(body.len()).any(|w| w == body))
}

#[test]
fn a_log_with_an_archive_keeps_the_contract() {
    log::all(Shard::new);
    for seed in 0..6 {
        log_model::matches_the_reference(&Shard::new(), seed, 120);
    }
}

#[test]
fn a_log_begins_from_its_archive_on_an_empty_disk() {
    let shard = Shard::new();
    let mut committed;
    {
        let log = shard.open();
        assert_eq!((log.restored(), log.archived_before()), (None, 0));
        acquire(&log, &fence(1)).unwrap();
        for n in 0..30 {
            append(&log, &fence(1), messages(1 + n * 10, "room:a", 10)).unwrap();
        }
        log.save_checkpoint(200, b"older").unwrap();
        log.save_checkpoint(290, b"newer").unwrap();
        log.register_consumer("search", 120).unwrap();
        log.register_consumer("quick", 301).unwrap();
        let range = log.archive_now(&fence(1)).unwrap();
        assert_eq!((range.first, range.next), (0, 301));
        assert_eq!(log.archived_before(), 0, "the disk has it too");
        // Not archived: lost with the disk.
        append(&log, &fence(1), messages(301, "room:a", 5)).unwrap();
        log.set_consumer("quick", 305).unwrap();
        log.archive()
            .copy_consumers(&fence(1), &Default::default())
            .unwrap();
        committed = everything(&log);
    }
    committed.truncate(301);
    let other = shard.on_another_disk();
    {
        let log = other.open();
        assert_eq!((log.restored(), log.archived_before()), (Some(301), 301));
        let range = log.range().unwrap();
        assert_eq!((range.first, range.next), (0, 301));
        assert_eq!(everything(&log), committed);
        assert_eq!(
            log.load_checkpoint().unwrap(),
            Some((290, b"newer".to_vec()))
        );
        assert_eq!(
            log.load_checkpoint_before(290).unwrap(),
            Some((200, b"older".to_vec()))
        );
        // It is owned under a higher epoch only.
        let error = acquire(&log, &fence(1)).unwrap_err();
        assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
        let acquired = acquire(&log, &fence(2)).unwrap();
        assert_eq!(acquired.record.position, 301);
        append(&log, &fence(2), messages(302, "room:b", 8)).unwrap();
        committed = everything(&log);
        assert_eq!(log.read_at(&[5, 305]).unwrap().iter().flatten().count(), 2);
    }
    // The older part stays where it is when the process starts again.
    let log = other.open();
    assert_eq!((log.restored(), log.archived_before()), (None, 301));
    acquire(&log, &fence(3)).unwrap();
    let now = everything(&log);
    assert_eq!(now[..committed.len()], committed[..]);
    log.archive_now(&fence(3)).unwrap();
    drop(log);
    let third = other.on_another_disk();
    assert_eq!(everything(&third.open()), now);
}

#[test]
fn consumers_come_back_and_none_is_ahead() {
    let shard = Shard::new();
    {
        let log = shard.open();
        acquire(&log, &fence(1)).unwrap();
        append(&log, &fence(1), messages(1, "room:a", 20)).unwrap();
        log.register_consumer("search", 12).unwrap();
        log.register_consumer("quick", 5000).unwrap();
        log.archive_now(&fence(1)).unwrap();
    }
    let found = shard.on_another_disk().open().consumers().unwrap();
    let found: Vec<(&str, u64)> = found
        .iter()
        .map(|c| (c.name.as_str(), c.position))
        .collect();
    assert_eq!(found, [("quick", 21), ("search", 12)]);
}

#[test]
fn rewrites_and_trims_are_followed() {
    let shard = Shard::new();
    let log = shard.open();
    acquire(&log, &fence(1)).unwrap();
    let mut next = 1;
    for _ in 0..5 {
        next = seals(&log, &fence(1), next, 10);
    }
    let mut secret = message(next, "room:a", next, 0);
    secret.body = Bytes::from_static(b"<what is to be erased>");
    append(&log, &fence(1), vec![secret]).unwrap();
    log.archive_now(&fence(1)).unwrap();
    assert!(is_there(&shard, b"<what is to be erased>"));
    let segment = log.seal_around(&fence(1), next).unwrap().unwrap();
    let erase = |r: &Record| {
        if r.position == next {
            Retain::Erase
        } else {
            Retain::Keep
        }
    };
    log.rewrite(&fence(1), segment, &mut { erase }).unwrap();
    log.archive_now(&fence(1)).unwrap();
    assert!(!is_there(&shard, b"<what is to be erased>"));
    // Without two checkpoints nothing that is gone from the log goes from the archive.
    assert_eq!(log.trim(&fence(1), 22).unwrap(), 21);
    let dropped = log.seal_around(&fence(1), 25).unwrap().unwrap();
    log.rewrite(&fence(1), dropped, &mut |_| Retain::Drop)
        .unwrap();
    log.archive_now(&fence(1)).unwrap();
    assert_eq!(log.archive().range().first, 0);
    // And what has to wait is not copied again and again until then.
    let written = || {
        let text = shard.metrics.text();
        let line = text
            .lines()
            .find(|l| l.starts_with("gb6_archive_written_bytes_total "));
        line.unwrap().to_owned()
    };
    let before = written();
    log.archive_now(&fence(1)).unwrap();
    assert_eq!(written(), before);
    log.save_checkpoint(45, b"older").unwrap();
    log.save_checkpoint(50, b"newer").unwrap();
    log.archive_now(&fence(1)).unwrap();
    assert_eq!(log.archive().range().first, 21);
    let whole = everything(&log);
    drop(log);
    let other = shard.on_another_disk();
    let log = other.open();
    assert_eq!(everything(&log), whole);
    assert_eq!(whole[0].position, 31);
    // What lies in the archive only is rewritten and trimmed as what is on the disk.
    acquire(&log, &fence(2)).unwrap();
    let segment = log.seal_around(&fence(2), 35).unwrap().unwrap();
    let keep_one = |r: &Record| {
        if r.position == 35 {
            Retain::Keep
        } else {
            Retain::Drop
        }
    };
    assert!(log.rewrite(&fence(2), segment, &mut { keep_one }).unwrap() > 0);
    let plan = log.plan_retention(&|_, _| 0, u64::MAX).unwrap();
    assert_eq!(plan.trim_to, 31);
    assert_eq!(log.trim(&fence(2), 31).unwrap(), 31);
    log.archive_now(&fence(2)).unwrap();
    assert_eq!(log.archive().range().first, 31);
    let whole = everything(&log);
    assert_eq!(whole[0].position, 35);
    drop(log);
    assert_eq!(everything(&other.open()), whole);
    assert_eq!(everything(&other.on_another_disk().open()), whole);
}

#[test]
fn the_thread_archives_by_itself_and_shows_how_far_behind_it_is() {
    let shard = Shard::new();
    let log = shard.open();
    acquire(&log, &fence(1)).unwrap();
    let value = |name: &str| -> f64 {
        let text = shard.metrics.text();
        let line = text
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_owned();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut next = seals(&log, &fence(1), 1, 10);
    until("archived", &|| log.archive().range().next == next);
    shard.reach.set(false);
    next = seals(&log, &fence(1), next, 10);
    until("behind", &|| value("gb6_archive_behind_records{") == 10.0);
    next = seals(&log, &fence(1), next, 10);
    until("seen", &|| {
        value("gb6_archive_failures_total{") > 0.0 || next == 0
    });
    shard.reach.set(true);
    until("archived again", &|| log.archive().range().next == next);
    until("nothing behind", &|| {
        value("gb6_archive_behind_records{") == 0.0
    });
}

#[test]
fn who_was_replaced_is_fenced_and_does_not_start_again() {
    let shard = Shard::new();
    let old = shard.open();
    acquire(&old, &fence(1)).unwrap();
    append(&old, &fence(1), messages(1, "room:a", 10)).unwrap();
    old.archive_now(&fence(1)).unwrap();
    let other = shard.on_another_disk();
    let new = other.open();
    acquire(&new, &fence(2)).unwrap();
    append(&new, &fence(2), messages(12, "room:new", 3)).unwrap();
    // It learns of it when it looks at the archive next.
    let error = old.archive_now(&fence(1)).unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    for answer in [
        append(&old, &fence(1), messages(11, "room:a", 1)).map(|_| ()),
        old.confirm(&fence(1)),
        acquire(&old, &fence(9)).map(|_| ()),
    ] {
        let error = answer.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    }
    drop(old);
    let error = shard.start(&archiving("r1")).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("gone on from the archive"),
        "{error}"
    );
    new.archive_now(&fence(2)).unwrap();
    let third = other.on_another_disk();
    assert_eq!(everything(&third.open()), everything(&new));
    // A directory that never was archived does not take the place of what is.
    let stranger = Shard {
        reach: Reach::default(),
        ..Shard::new()
    };
    {
        let log = stranger.open();
        acquire(&log, &fence(7)).unwrap();
    }
    let mixed = Shard {
        reach: shard.reach.clone(),
        ..stranger
    };
    let error = mixed.start(&archiving("r1")).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

#[test]
fn of_two_that_begin_from_one_archive_one_does() {
    let shard = Shard::new();
    {
        let log = shard.open();
        acquire(&log, &fence(1)).unwrap();
        log.archive_now(&fence(1)).unwrap();
    }
    let (a, b) = (shard.on_another_disk(), shard.on_another_disk());
    let (a, b) = (a.open(), b.open());
    let other = Fence {
        owner_incarnation: Incarnation(77),
        ..fence(2)
    };
    acquire(&a, &fence(2)).unwrap();
    for epoch in [2, 3, 4] {
        let wanted = Fence {
            shard_epoch: ShardEpoch(epoch),
            ..other.clone()
        };
        let error = acquire(&b, &wanted).unwrap_err();
        assert!(matches!(error, StoreError::Fenced { .. }), "{error}");
    }
    append(&a, &fence(2), messages(2, "room:a", 1)).unwrap();
}

#[test]
fn another_nodes_archive_is_taken_over_only_when_that_is_asked_for() {
    let shard = Shard::new();
    {
        let log = shard.open();
        acquire(&log, &fence(1)).unwrap();
        append(&log, &fence(1), messages(1, "room:a", 10)).unwrap();
        log.archive_now(&fence(1)).unwrap();
    }
    let other = Shard {
        node: "r2",
        ..shard.on_another_disk()
    };
    let mut archiving = archiving("r2");
    let error = other.start(&archiving).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("of node r1"), "{error}");
    archiving.take_over = true;
    let log = other.start(&archiving).unwrap();
    assert_eq!(everything(&log).len(), 11);
    acquire(&log, &fence(2)).unwrap();
}

#[test]
fn without_the_store_a_whole_log_is_served_and_no_other() {
    let shard = Shard::new();
    {
        let log = shard.open();
        acquire(&log, &fence(1)).unwrap();
        append(&log, &fence(1), messages(1, "room:a", 10)).unwrap();
        log.archive_now(&fence(1)).unwrap();
    }
    shard.reach.set(false);
    let log = shard.open();
    acquire(&log, &fence(2)).unwrap();
    append(&log, &fence(2), messages(12, "room:a", 10)).unwrap();
    assert!(log.archive_now(&fence(2)).is_err());
    let whole = everything(&log);
    let other = shard.on_another_disk();
    let unavailable = |shard: &Shard| {
        let error = shard.start(&archiving("r1")).map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    };
    unavailable(&other);
    shard.reach.set(true);
    log.archive_now(&fence(2)).unwrap();
    drop(log);
    {
        let log = other.open();
        acquire(&log, &fence(3)).unwrap();
    }
    shard.reach.set(false);
    unavailable(&other);
    shard.reach.set(true);
    assert_eq!(everything(&other.open())[..whole.len()], whole[..]);
}

#[test]
fn owners_that_wrote_nothing_leave_no_hole() {
    let shard = Shard::new();
    for epoch in [1, 3] {
        let log = shard.open();
        acquire(&log, &fence(epoch)).unwrap();
        let next = log.range().unwrap().next;
        append(&log, &fence(epoch), messages(next, "room:a", 5)).unwrap();
        drop(log);
        // The next owner took its name and died.
        let vfs = shard.disk.dir("shard");
        let names = vfs.list().unwrap();
        let segments = names.iter().filter(|n| n.ends_with(".seg"));
        let seq = segments.count() as u64;
        let header = SegmentHeader {
            seq,
            shard_epoch: ShardEpoch(epoch + 1),
            owner_incarnation: Incarnation(5),
            first: FIRST_UNKNOWN,
            shard: ShardId(3),
            generation: 0,
            region: "test".into(),
        };
        let file = vfs.create(&format!("{seq:016}.seg")).unwrap();
        file.write_at(0, &header.encode()).unwrap();
        file.sync().unwrap();
        vfs.sync_dir().unwrap();
    }
    let log = shard.open();
    acquire(&log, &fence(5)).unwrap();
    log.archive_now(&fence(5)).unwrap();
    let other = shard.on_another_disk();
    assert_eq!(everything(&other.open()), everything(&log));
    let log = other.open();
    acquire(&log, &fence(6)).unwrap();
}

#[test]
fn a_real_directory_begins_from_objects_on_another_disk() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let objects = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let open = |path: &std::path::Path| {
        let uri = format!("file:{}", objects.path().join("objects").display());
        let config = gb6_region_stores_s3::Config::parse(&uri).unwrap();
        let metrics = Metrics::bare();
        let blobs = gb6_region_stores_s3::open(&config, runtime.handle().clone(), &metrics);
        let archives = ArchiveConfig::default();
        let archives = Archives::new(blobs.unwrap(), "test", "r1", archives, &metrics);
        let dir = DataDir::open(path).unwrap();
        dir.archived_shard_log(ShardId(3), small(), &archives, &archiving("r1"))
            .unwrap()
    };
    let whole = {
        let log = open(first.path());
        acquire(&log, &fence(1)).unwrap();
        for n in 0..40 {
            append(&log, &fence(1), messages(1 + n * 10, "room:a", 10)).unwrap();
        }
        log.save_checkpoint(300, b"state").unwrap();
        log.archive_now(&fence(1)).unwrap();
        everything(&log)
    };
    for epoch in [2, 3] {
        let log = open(second.path());
        assert_eq!(everything(&log)[..whole.len()], whole[..]);
        assert_eq!(
            log.load_checkpoint().unwrap(),
            Some((300, b"state".to_vec()))
        );
        acquire(&log, &fence(epoch)).unwrap();
        log.archive_now(&fence(epoch)).unwrap();
    }
}

/// What is lost with a disk is what was committed after the last whole copy, and nothing else, whatever
/// was rewritten, trimmed or interrupted before.
#[test]
fn nothing_that_was_copied_is_lost_with_the_disk() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut shard = Shard::new();
        let mut log = Some(shard.open());
        let mut truth: BTreeMap<u64, Record> = BTreeMap::new();
        let mut held = None;
        let (mut epoch, mut copied, mut losses) = (0, 0, 0);
        for step in 0..80 {
            let context = format!("seed {seed}, step {step}");
            let open = log.get_or_insert_with(|| shard.open());
            let Some(fence) = held.clone() else {
                epoch += 1;
                acquire(open, &fence(epoch)).expect(&context);
                held = Some(fence(epoch));
                continue;
            };
            let range = open.range().unwrap();
            match random.below(14) {
                0..=4 => {
                    let count = 1 + random.below(25);
                    let batch = messages(range.next, "room:a", count);
                    append(open, &fence, batch.clone()).expect(&context);
                    truth.extend(batch.into_iter().map(|r| (r.position, r)));
                }
                5 => {
                    let position = range.first + random.below(range.next - range.first);
                    let segment = open.seal_around(&fence, position).unwrap();
                    if let Some(segment) = segment {
                        let modulus = 2 + random.below(4);
                        let erased = |r: &Record| r.position.is_multiple_of(modulus);
                        open.rewrite(&fence, segment, &mut |r| match erased(r) {
                            true => Retain::Erase,
                            false => Retain::Keep,
                        })
                        .expect(&context);
                    }
                }
                6 => {
                    // As a region does: a checkpoint covers what goes.
                    for position in [range.next - 1, range.next] {
                        let state = format!("state at {position}");
                        open.save_checkpoint(position, state.as_bytes()).unwrap();
                    }
                    let to = range.first + random.below(range.next - range.first);
                    open.trim(&fence, to).expect(&context);
                }
                7..=9 => {
                    open.archive_now(&fence).expect(&context);
                    copied = open.range().unwrap().next;
                }
                10 => {
                    log = None;
                    held = None;
                }
                11 | 12 => {
                    // Whatever was done of it: what is copied stays whole.
                    shard.reach.answers(random.below(30));
                    let _ = open.archive_now(&fence);
                    shard.reach.set(true);
                }
                _ => {
                    // The disk is lost.
                    log = None;
                    held = None;
                    losses += 1;
                    shard = shard.on_another_disk();
                    let open = log.insert(shard.open());
                    let range = open.range().unwrap();
                    assert!(range.next >= copied, "{context}: {range:?}, {copied}");
                    truth.retain(|position, _| *position < range.next);
                    copied = range.next;
                }
            }
            let Some(open) = &log else { continue };
            let range = open.range().unwrap();
            let found: BTreeMap<u64, Record> = everything(open)
                .into_iter()
                .filter(|r| r.kind() == Kind::Message)
                .map(|r| (r.position, r))
                .collect();
            for (position, record) in truth.range(range.first..) {
                let found = found.get(position);
                let erased = |r: &Record| r.body.is_empty() && r.offset == record.offset;
                assert!(
                    found.is_some_and(|r| r == record || erased(r)),
                    "{context}: {position} is {found:?}"
                );
            }
            assert_eq!(found.len(), truth.range(range.first..).count(), "{context}");
            if let Some((position, state)) = open.load_checkpoint().unwrap() {
                assert_eq!(state, format!("state at {position}").into_bytes());
                assert!(position >= range.first, "{context}");
            } else {
                assert_eq!(range.first, 0, "{context}");
            }
        }
        assert!(losses > 0, "seed {seed} lost no disk");
    }
}
