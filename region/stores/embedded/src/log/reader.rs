//! Reading a log from any thread while its writer goes on.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::{ConsumerState, LogRange, Page, Retain, RetentionPlan, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_archive::read::SegmentView;
use gb6_region_archive::walk::WalkError;
use parking_lot::{Mutex, RwLock};

use super::LogConfig;
use super::checkpoint;
use super::consumers::Consumers;
use super::rewrite::Rewritten;
use super::segment::{Segment, SegmentError};
use crate::vfs::Vfs;

/// Segment files that one log keeps open; the one opened first is closed beyond it.
const OPEN_FILES_MAX: usize = 64;
/// How often a read starts again because a segment was replaced under it.
const RETRIES: usize = 16;
/// Bytes read at a time for single records.
const POINT_CHUNK: usize = 64 * 1024;
/// Bytes read at a time for pages.
const PAGE_CHUNK: usize = 256 * 1024;

type Segments<F> = Vec<Arc<Segment<F>>>;

/// What the writer and all readers of a log share.
pub(crate) struct Shared<V: Vfs> {
    pub(crate) vfs: V,
    pub(crate) config: LogConfig,
    /// Ascending by position; empty segments among them have equal bounds.
    pub(crate) segments: RwLock<Arc<Segments<V::File>>>,
    opened: Mutex<VecDeque<Arc<Segment<V::File>>>>,
    pub(crate) consumers: Mutex<Consumers>,
}

/// Reads a log: cheap to clone, for any thread. Sees committed records only.
pub struct LogReader<V: Vfs> {
    pub(crate) shared: Arc<Shared<V>>,
}

impl<V: Vfs> Clone for LogReader<V> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<V: Vfs> Shared<V> {
    pub(crate) fn new(
        vfs: V,
        config: LogConfig,
        segments: Segments<V::File>,
        consumers: Consumers,
    ) -> Self {
        Self {
            vfs,
            config,
            segments: RwLock::new(Arc::new(segments)),
            opened: Mutex::new(VecDeque::new()),
            consumers: Mutex::new(consumers),
        }
    }

    pub(crate) fn segments(&self) -> Arc<Segments<V::File>> {
        self.segments.read().clone()
    }

    pub(crate) fn range(&self) -> LogRange {
        let segments = self.segments();
        LogRange {
            first: segments.first().map_or(0, |s| s.state.read().first),
            next: segments.last().map_or(0, |s| s.state.read().end),
        }
    }

    /// The segment's file.
    pub(crate) fn file(
        &self,
        segment: &Arc<Segment<V::File>>,
    ) -> Result<Arc<V::File>, SegmentError> {
        let (file, opened) = segment.file(&self.vfs)?;
        if opened {
            self.adopt(segment);
        }
        Ok(file)
    }

    /// Counts a sealed segment whose file is open; the one that has been open longest is closed
    /// when there are too many.
    pub(crate) fn adopt(&self, segment: &Arc<Segment<V::File>>) {
        let mut all = self.opened.lock();
        all.push_back(segment.clone());
        if all.len() > OPEN_FILES_MAX
            && let Some(oldest) = all.pop_front()
        {
            oldest.close();
        }
    }

    /// Hands the records of one segment from `from` on to `each`, decoded and as they lie there,
    /// until it answers false. Answers whether it always answered true.
    pub(crate) fn read_segment(
        &self,
        segment: &Arc<Segment<V::File>>,
        from: Position,
        chunk: usize,
        each: &mut dyn FnMut(Record, &[u8]) -> bool,
    ) -> Result<bool, SegmentError> {
        let file = self.file(segment)?;
        segment.load_points(&self.vfs, &file, self.config.index_every)?;
        let (bounds, points) = segment.indexed();
        let view = SegmentView {
            file: &*file,
            header: &segment.header,
            bounds,
            points: &points,
        };
        view.read(from, chunk, each)
            .map_err(|e| self.read_error(segment, e))
    }

    fn read_error(&self, segment: &Segment<V::File>, error: WalkError) -> SegmentError {
        match error {
            // An open file never ends so; what is read from elsewhere does when it was replaced there.
            WalkError::Io(e) if e.kind() == io::ErrorKind::NotFound => SegmentError::Moved,
            other => other.of(&self.vfs.path(&segment.name())).into(),
        }
    }
}

impl<V: Vfs> LogReader<V> {
    /// What the log holds.
    pub fn range(&self) -> LogRange {
        self.shared.range()
    }

    /// As [`gb6_core_ports::ShardLog::read`].
    pub fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        let mut page = Page {
            next: from,
            ..Page::default()
        };
        let mut bytes = 0;
        for _ in 0..RETRIES {
            match self.fill(&mut page, &mut bytes, max_records, max_bytes) {
                Ok(()) => return Ok(page),
                Err(SegmentError::Moved) => {}
                Err(SegmentError::Store(e)) => return Err(e),
            }
        }
        Err(self.busy())
    }

    /// Writes the next generation of a sealed segment under a temporary name, with `retain`
    /// deciding for each record; [`super::SegmentedLog::install`] lets it take the segment's
    /// place. Blocks; the log goes on meanwhile.
    pub fn prepare_rewrite(
        &self,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<Rewritten<V>, StoreError> {
        self.shared.prepare_rewrite(segment, retain)
    }

    /// As [`gb6_core_ports::ShardLog::plan_retention`].
    pub fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        self.shared.plan_retention(first_kept, settled)
    }

    /// As [`gb6_core_ports::ShardLog::register_consumer`].
    pub fn register_consumer(
        &self,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        let shared = &self.shared;
        shared
            .consumers
            .lock()
            .register(&shared.vfs, name, position)
    }

    /// As [`gb6_core_ports::ShardLog::set_consumer`].
    pub fn set_consumer(&self, name: &str, position: Position) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.consumers.lock().set(&shared.vfs, name, position)
    }

    /// As [`gb6_core_ports::ShardLog::set_consumers`].
    pub fn set_consumers(
        &self,
        positions: &[(String, Position)],
    ) -> Result<Vec<String>, StoreError> {
        let shared = &self.shared;
        shared.consumers.lock().set_all(&shared.vfs, positions)
    }

    /// As [`gb6_core_ports::ShardLog::remove_consumer`].
    pub fn remove_consumer(&self, name: &str) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.consumers.lock().remove(&shared.vfs, name)
    }

    /// As [`gb6_core_ports::ShardLog::consumers`].
    pub fn consumers(&self) -> Result<Vec<ConsumerState>, StoreError> {
        self.shared.trim_bound(0)?;
        Ok(self.shared.consumers.lock().all())
    }

    /// As [`gb6_core_ports::ShardLog::save_checkpoint`].
    pub fn save_checkpoint(&self, position: Position, state: &[u8]) -> Result<(), StoreError> {
        checkpoint::save(&self.shared.vfs, position, state)
    }

    /// As [`gb6_core_ports::ShardLog::load_checkpoint`].
    pub fn load_checkpoint(&self) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        self.load_checkpoint_before(Position::MAX)
    }

    /// As [`gb6_core_ports::ShardLog::load_checkpoint_before`].
    pub fn load_checkpoint_before(
        &self,
        before: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
        checkpoint::load(&self.shared.vfs, self.range().next, before)
    }

    fn busy(&self) -> StoreError {
        StoreError::Unavailable {
            cause: "segments were rewritten faster than they could be read".into(),
        }
    }

    fn fill(
        &self,
        page: &mut Page,
        bytes: &mut usize,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<(), SegmentError> {
        let segments = self.shared.segments();
        let first = segments.first().map_or(0, |s| s.state.read().first);
        page.end = segments.last().map_or(0, |s| s.state.read().end);
        if page.next < first {
            return Err(StoreError::Trimmed { first }.into());
        }
        let begin = segments.partition_point(|s| s.state.read().end <= page.next);
        for segment in &segments[begin..] {
            // Read before the records: what is committed meanwhile is left for the next page.
            let end = segment.state.read().end;
            if end <= page.next {
                continue;
            }
            let more = self.shared.read_segment(
                segment,
                page.next,
                PAGE_CHUNK,
                &mut |record, encoded| {
                    let size = encoded.len();
                    let full = page.records.len() >= max_records || *bytes + size > max_bytes;
                    if full && !page.records.is_empty() {
                        return false;
                    }
                    *bytes += size;
                    page.next = record.position + 1;
                    page.records.push(record);
                    true
                },
            )?;
            if !more {
                return Ok(());
            }
            // A segment's last records may have been dropped: read on behind the hole.
            page.next = page.next.max(end);
        }
        page.end = page.end.max(page.next);
        Ok(())
    }

    /// As [`gb6_core_ports::ShardLog::read_at`].
    pub fn read_at(&self, positions: &[Position]) -> Result<Vec<Option<Record>>, StoreError> {
        let mut order: Vec<usize> = (0..positions.len()).collect();
        order.sort_unstable_by_key(|i| positions[*i]);
        let mut found = vec![None; positions.len()];
        let mut done = 0;
        for _ in 0..RETRIES {
            match self.find(positions, &order, &mut done, &mut found) {
                Ok(()) => return Ok(found),
                Err(SegmentError::Moved) => {}
                Err(SegmentError::Store(e)) => return Err(e),
            }
        }
        Err(self.busy())
    }

    /// Finds the records of `positions` in the ascending `order`, from the `done`-th on.
    fn find(
        &self,
        positions: &[Position],
        order: &[usize],
        done: &mut usize,
        found: &mut [Option<Record>],
    ) -> Result<(), SegmentError> {
        let segments = self.shared.segments();
        while let Some(wanted) = order.get(*done).map(|i| positions[*i]) {
            let index = segments.partition_point(|s| s.state.read().end <= wanted);
            let Some(segment) = segments.get(index) else {
                return Ok(());
            };
            if wanted < segment.state.read().first {
                *done += 1;
                continue;
            }
            self.find_in(segment, positions, order, done, found)?;
        }
        Ok(())
    }

    fn find_in(
        &self,
        segment: &Arc<Segment<V::File>>,
        positions: &[Position],
        order: &[usize],
        done: &mut usize,
        found: &mut [Option<Record>],
    ) -> Result<(), SegmentError> {
        let shared = &self.shared;
        let file = shared.file(segment)?;
        segment.load_points(&shared.vfs, &file, shared.config.index_every)?;
        // With the part of the sparse index from here on, so that its lock is not held while
        // reading.
        let (bounds, points) = {
            let state = segment.state.read();
            let points = state.points.as_deref().unwrap_or_default();
            let first = points.partition_point(|(p, _)| *p <= positions[order[*done]]);
            let points = points[first.saturating_sub(1)..].to_vec();
            (state.bounds(), points)
        };
        let view = SegmentView {
            file: &*file,
            header: &segment.header,
            bounds,
            points: &points,
        };
        view.find(positions, order, POINT_CHUNK, done, found)
            .map_err(|e| shared.read_error(segment, e))
    }
}
