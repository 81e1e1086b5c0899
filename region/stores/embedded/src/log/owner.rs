//! One ownership of a log: the open segment, the open batch, and the checks that keep a fenced
//! owner from acknowledging anything.

use std::io;
use std::sync::Arc;

use gb6_core_model::{Position, ShardEpoch};
use gb6_core_ports::{Acquire, Acquired, Commit, Fence, LogRange, StoreError};
use gb6_core_wire::record::{Kind, RECORD_VERSION, Record};
use gb6_region_archive::ReadAt;
use gb6_region_archive::format::{
    FOOTER_BYTES, FRAME_BYTES_MAX, FrameBuilder, HEADER_BYTES, SegmentHeader,
};
use gb6_region_archive::summary::Summary;

use super::claim::{
    check_claim, claim, header, is_next, make_durable, make_readable, newest_header,
    remove_leftovers, settle_tail, take_name_back,
};
use super::jobs::{Done, Job, JobDone, Prepared, prepare};
use super::load::{LoadNote, load};
use super::reader::Shared;
use super::segment::{Segment, SegmentState, segment_name};
use crate::vfs::{Vfs, VfsFile, io_error, is_full};

/// Commits to wait before the next segment is prepared again after a failure.
const PREPARE_AGAIN_AFTER: u32 = 256;

pub(crate) struct Owner<V: Vfs> {
    shared: Arc<Shared<V>>,
    fence: Fence,
    segment: Arc<Segment<V::File>>,
    file: Arc<V::File>,
    /// Where the committed batches of the open segment end, in bytes.
    offset: u64,
    /// Up to where a failed write may have left bytes.
    dirty_end: u64,
    /// Bytes of the open segment before the next one begins.
    target: u64,
    /// Of what the open segment holds.
    summary: Summary,
    batch: FrameBuilder,
    /// The records of the open batch and their bytes in it. They are counted once it is known which
    /// segment they are written to.
    staged: Vec<(Record, u64)>,
    written: bool,
    prepared: Option<Prepared<V::File>>,
    preparing: bool,
    prepare_pause: u32,
    jobs: Vec<Job<V>>,
    dead: Option<StoreError>,
}

impl<V: Vfs> Owner<V> {
    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    pub(crate) fn acquire(
        shared: &Arc<Shared<V>>,
        fence: &Fence,
        acquire: Acquire,
    ) -> Result<(Self, Vec<LoadNote>, Acquired), StoreError> {
        let vfs = &shared.vfs;
        let prepared = match claim(shared, fence) {
            Err(full @ StoreError::StorageFull { .. }) => {
                make_readable(shared)?;
                return Err(full);
            }
            claimed => claimed?,
        };
        // Read after the name was taken: what an older owner has acknowledged is seen here, and
        // what it writes from now on it can not acknowledge.
        let mut loaded = load(vfs, &shared.config)?;
        check_claim(&loaded, fence, prepared.header.seq)?;
        if let Some(tail) = &loaded.tail {
            make_durable(vfs, tail)?;
        }
        let next = loaded.segments.last().map_or(0, |s| s.state.read().end);
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Acquire as i32,
            position: next,
            shard_epoch: fence.shard_epoch.0,
            owner_incarnation: fence.owner_incarnation.0,
            time: acquire.time,
            served_ms: acquire.served_ms.max(loaded.served_ms),
            ..Record::default()
        };
        let state = SegmentState {
            first: next,
            end: next,
            frames_end: HEADER_BYTES as u64,
            points: Some(Vec::new()),
            ..SegmentState::default()
        };
        let segment = Arc::new(Segment::new(
            prepared.header,
            state,
            Some(prepared.file.clone()),
        ));
        loaded.segments.pop();
        loaded.segments.push(segment.clone());
        let mut owner = Self {
            shared: shared.clone(),
            fence: fence.clone(),
            segment,
            file: prepared.file,
            offset: HEADER_BYTES as u64,
            dirty_end: 0,
            target: prepared.bytes,
            summary: Summary::default(),
            batch: FrameBuilder::new(),
            staged: Vec::new(),
            written: false,
            prepared: None,
            preparing: false,
            prepare_pause: 0,
            jobs: Vec::new(),
            dead: None,
        };
        owner.stage(vec![record.clone()])?;
        owner.write()?;
        *shared.segments.write() = Arc::new(loaded.segments);
        owner.sync()?;
        if let Some(tail) = loaded.tail {
            settle_tail(vfs, &tail);
        }
        remove_leftovers(vfs, shared.segments().first().map_or(0, |s| s.header.seq));
        super::checkpoint::remove_ahead(vfs, next);
        let range: LogRange = shared.range();
        Ok((owner, loaded.notes, Acquired { record, range }))
    }

    fn alive(&self) -> Result<(), StoreError> {
        match &self.dead {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Ends this ownership: only another acquisition goes on.
    fn die(&mut self, operation: &str, cause: impl std::fmt::Display) -> StoreError {
        let error = StoreError::OutcomeUnknown {
            cause: format!("{operation}: {cause}; the shard must be acquired again"),
        };
        self.dead = Some(error.clone());
        error
    }

    fn fenced(&mut self) -> StoreError {
        let error = StoreError::Fenced {
            held: self.fence.shard_epoch,
            current: self.epoch_behind(),
        };
        self.dead = Some(error.clone());
        error
    }

    /// The epoch of whoever owns the shard now.
    fn epoch_behind(&self) -> ShardEpoch {
        let newest = newest_header(&self.shared.vfs, self.segment.header.seq);
        // Not readable: at least one above ours.
        let above = ShardEpoch(self.fence.shard_epoch.0 + 1);
        newest.map_or(above, |header| header.shard_epoch.max(above))
    }

    pub(crate) fn staged_end(&self) -> Position {
        match self.batch.count() {
            0 => self.segment.state.read().end,
            _ => self.batch.end(),
        }
    }

    pub(crate) fn stage(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        self.alive()?;
        if self.written {
            return Err(StoreError::Conflict {
                what: "the open batch is written and not yet synced".into(),
            });
        }
        let (count, bytes) = (self.batch.count(), self.batch.bytes());
        let joined = self.join(records);
        if joined.is_err() {
            self.batch.truncate(count, bytes);
            self.staged.truncate(count as usize);
        }
        joined
    }

    fn join(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let config = &self.shared.config;
        for (position, mut record) in (self.staged_end()..).zip(records) {
            if record.position != position {
                return Err(StoreError::Conflict {
                    what: format!(
                        "a record has position {}, the log goes on at {position}",
                        record.position
                    ),
                });
            }
            record.shard_epoch = self.fence.shard_epoch.0;
            record.owner_incarnation = self.fence.owner_incarnation.0;
            let before = self.batch.bytes();
            self.batch.push(&record);
            let (bytes, count) = (self.batch.bytes(), self.batch.count() as usize);
            let limit = match count {
                1 => FRAME_BYTES_MAX,
                _ => config.batch_bytes_max,
            };
            if bytes > limit {
                return Err(StoreError::TooLarge {
                    size: bytes as u64,
                    limit: limit as u64,
                });
            }
            if count > config.batch_records_max {
                return Err(StoreError::TooLarge {
                    size: count as u64,
                    limit: config.batch_records_max as u64,
                });
            }
            self.staged.push((record, (bytes - before) as u64));
        }
        Ok(())
    }

    pub(crate) fn write(&mut self) -> Result<(), StoreError> {
        self.alive()?;
        if self.written || self.batch.count() == 0 {
            return Ok(());
        }
        let result = self.write_batch();
        match &result {
            Ok(()) => {
                self.written = true;
                self.count_staged();
            }
            Err(_) => {
                self.batch.clear();
                self.staged.clear();
            }
        }
        result
    }

    /// Counts the written batch into the summary of the segment that it was written to.
    fn count_staged(&mut self) {
        for (record, bytes) in self.staged.drain(..) {
            self.summary.add(&record, bytes);
        }
    }

    fn write_batch(&mut self) -> Result<(), StoreError> {
        let needed = self.offset + (self.batch.bytes() + FOOTER_BYTES) as u64;
        if needed > self.target && self.offset > HEADER_BYTES as u64 {
            self.roll()?;
        }
        let frame = self
            .batch
            .seal(self.fence.shard_epoch, self.fence.owner_incarnation);
        let end = self.offset + frame.len() as u64;
        let mut written = self.file.write_at(self.offset, frame);
        if written.is_ok() && self.dirty_end > end {
            // What a failed write left behind this batch must not look like anything.
            let rest = vec![0; (self.dirty_end - end) as usize];
            written = self.file.write_at(end, &rest);
        }
        match written {
            Ok(()) => {
                self.dirty_end = 0;
                Ok(())
            }
            Err(e) => {
                self.dirty_end = self.dirty_end.max(end);
                let path = self.shared.vfs.path(&self.segment.name());
                if is_full(&e) {
                    return self.take_back(&e);
                }
                Err(self.die("write", io_error("write", path, &e)))
            }
        }
    }

    /// Takes back what a write on a full disk may have left: the file ends where it did before, or
    /// reads as zeros there.
    fn take_back(&mut self, full: &io::Error) -> Result<(), StoreError> {
        let path = self.shared.vfs.path(&self.segment.name());
        let allocated = self.target.max(self.offset);
        let undone = self.file.len().and_then(|len| {
            if len > allocated {
                self.file.set_len(allocated)?;
            }
            let end = self.dirty_end.min(len.min(allocated));
            if end > self.offset {
                let zeros = vec![0; (end - self.offset) as usize];
                self.file.write_at(self.offset, &zeros)?;
            }
            Ok(())
        });
        match undone {
            Ok(()) => {
                self.dirty_end = 0;
                Err(io_error("write", path, full))
            }
            // The bytes stay, as no whole batch, and the next batch is written over them.
            Err(e) if is_full(&e) => Err(io_error("write", path, full)),
            Err(e) => Err(self.die("undo a write", io_error("write", path, &e))),
        }
    }

    pub(crate) fn sync(&mut self) -> Result<Commit, StoreError> {
        self.alive()?;
        if !self.written {
            self.check_ownership()?;
            let next = self.segment.state.read().end;
            return Ok(Commit {
                first: next,
                next,
                ..Commit::default()
            });
        }
        if let Err(e) = self.file.sync() {
            let path = self.shared.vfs.path(&self.segment.name());
            return Err(self.die("sync", io_error("sync", path, &e)));
        }
        self.check_ownership()?;
        let commit = Commit {
            first: self.batch.first(),
            next: self.batch.end(),
            shared: self.batch.count(),
            bytes: self.batch.bytes() as u64,
            ..Commit::default()
        };
        let at = self.offset;
        self.offset += self.batch.bytes() as u64;
        {
            let mut state = self.segment.state.write();
            let points = state.points.get_or_insert_default();
            let every = self.shared.config.index_every;
            if points.last().is_none_or(|(_, byte)| at - byte >= every) {
                points.push((commit.first, at));
            }
            state.frames_end = self.offset;
            state.end = commit.next;
            state.records += u64::from(commit.shared);
        }
        self.batch.clear();
        self.written = false;
        self.prepare_pause = self.prepare_pause.saturating_sub(1);
        Ok(commit)
    }

    /// Whether the shard is still ours: nobody took the next segment's name. An owner that slept
    /// through the removal of that segment too no longer finds its own, which goes before it.
    pub(crate) fn check_ownership(&mut self) -> Result<(), StoreError> {
        let vfs = &self.shared.vfs;
        let seq = self.segment.header.seq;
        let looked = vfs
            .exists(&segment_name(seq + 1))
            .and_then(|taken| Ok(!taken && vfs.exists(&segment_name(seq))?));
        match looked {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fenced()),
            Err(e) => Err(self.die("look for a newer owner", e)),
        }
    }

    /// As [`Owner::check_ownership`], for an ownership that has not ended.
    pub(crate) fn confirm(&mut self) -> Result<(), StoreError> {
        self.alive()?;
        self.check_ownership()
    }

    /// Goes on in the next segment.
    fn roll(&mut self) -> Result<(), StoreError> {
        let (seq, bytes) = self.next_segment();
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            // Nobody has prepared one in time: one that grows as it is written.
            None => prepare(&self.shared.vfs, self.next_header(seq), HEADER_BYTES as u64)?,
        };
        let vfs = self.shared.vfs.clone();
        let name = segment_name(seq);
        match vfs.publish(&prepared.name, &name) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(self.fenced()),
            Err(e) => {
                self.check_ownership()?;
                return Err(self.die("begin a segment", io_error("rename", vfs.path(&name), &e)));
            }
        }
        match is_next(&vfs, Some(seq - 1), seq) {
            Ok(true) => {}
            Ok(false) => {
                take_name_back(&vfs, &name);
                return Err(self.fenced());
            }
            Err(e) => return Err(self.die("look for a newer owner", e)),
        }
        if let Err(e) = vfs.sync_dir() {
            return Err(self.die("begin a segment", io_error("sync directory of", name, &e)));
        }
        let next = self.segment.state.read().end;
        let state = SegmentState {
            first: next,
            end: next,
            frames_end: HEADER_BYTES as u64,
            points: Some(Vec::new()),
            ..SegmentState::default()
        };
        let segment = Arc::new(Segment::new(
            prepared.header,
            state,
            Some(prepared.file.clone()),
        ));
        let before = std::mem::replace(&mut self.segment, segment.clone());
        before.state.write().sealed = true;
        let before_file = std::mem::replace(&mut self.file, prepared.file);
        let summary = std::mem::take(&mut self.summary);
        self.shared.adopt(&before);
        self.jobs.push(Job::seal(vfs, before, before_file, summary));
        {
            let mut segments = self.shared.segments.write();
            let mut all = Vec::with_capacity(segments.len() + 1);
            all.extend(segments.iter().cloned());
            all.push(segment);
            *segments = Arc::new(all);
        }
        self.offset = HEADER_BYTES as u64;
        self.dirty_end = 0;
        self.target = bytes;
        Ok(())
    }

    /// Seals the open segment, when it has records, and goes on in the next one.
    ///
    /// Errors: `Conflict` while a batch is staged; otherwise as for a write.
    pub(crate) fn seal_open(&mut self) -> Result<(), StoreError> {
        self.alive()?;
        if self.batch.count() > 0 {
            return Err(StoreError::Conflict {
                what: "a batch is staged: commit it first".into(),
            });
        }
        self.check_ownership()?;
        if self.offset > HEADER_BYTES as u64 {
            self.roll()?;
        }
        Ok(())
    }

    /// The next segment's number and size in bytes.
    fn next_segment(&self) -> (u64, u64) {
        let config = &self.shared.config;
        let bytes = (self.target * 2).min(config.segment_bytes_max);
        (self.segment.header.seq + 1, bytes)
    }

    fn next_header(&self, seq: u64) -> SegmentHeader {
        header(seq, &self.fence)
    }

    pub(crate) fn take_job(&mut self) -> Option<Job<V>> {
        if let Some(job) = self.jobs.pop() {
            return Some(job);
        }
        let wanted = self.dead.is_none()
            && self.prepared.is_none()
            && !self.preparing
            && self.prepare_pause == 0
            && self.offset >= self.target / 2;
        if !wanted {
            return None;
        }
        self.preparing = true;
        let (seq, bytes) = self.next_segment();
        Some(Job::prepare(
            self.shared.vfs.clone(),
            self.next_header(seq),
            bytes,
        ))
    }

    pub(crate) fn finish(&mut self, done: JobDone<V>) -> Result<(), StoreError> {
        let Done::Prepared(header, result) = &done.result else {
            return done.discard();
        };
        if header.shard_epoch != self.fence.shard_epoch
            || header.owner_incarnation != self.fence.owner_incarnation
        {
            // Asked for by an ownership that ended: this one's own is still being prepared.
            return done.discard();
        }
        self.preparing = false;
        if result.is_err() {
            self.prepare_pause = PREPARE_AGAIN_AFTER;
            return done.discard();
        }
        if header.seq != self.segment.header.seq + 1 {
            // The segment was needed before it was ready.
            return done.discard();
        }
        if let Done::Prepared(_, Ok(prepared)) = done.result {
            self.prepared = Some(*prepared);
        }
        Ok(())
    }
}
