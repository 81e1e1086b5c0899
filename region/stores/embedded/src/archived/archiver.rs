//! Copying a log into its archive, beside its writer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::{Position, ShardEpoch};
use gb6_core_ports::{Fence, StoreError};
use gb6_region_archive::checkpoint::{CHECKPOINT_BYTES_MAX, damage, state_of};
use gb6_region_archive::{Archive, CopiedCheckpoint, CopiedSegment, Copies, Copy};
use parking_lot::{Condvar, Mutex};

use super::marker::MarkerFile;
use super::overlay::{Overlay, OverlayFile};
use crate::log::{
    LogReader, Segment, SegmentError, checkpoint_name, read_index, stored_checkpoints,
};
use crate::vfs::{Named, Vfs, read_file};

/// How often a log is looked at for segments that were sealed or rewritten.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Segments that are copied before the manifest is written: what was copied of a long log is not copied
/// again when a later part fails.
const COPIES_MAX: usize = 8;

/// What an archiver and its log share.
pub(crate) struct Archiver<V: Vfs> {
    reader: LogReader<Overlay<V>>,
    pub(super) marker: Arc<MarkerFile<V>>,
    /// Held while an ownership begins.
    beginning: Mutex<()>,
    pub(super) archive: Arc<Archive>,
    interval: Duration,
    /// How often it is looked who owns the archive.
    pub(super) look: Duration,
    pub(super) state: Mutex<State>,
    pub(super) wake: Condvar,
    /// Held while copies are made.
    copying: Mutex<()>,
}

#[derive(Default)]
pub(super) struct State {
    fence: Option<Fence>,
    /// Why this log must not be written any more: somebody else has gone on from its archive.
    pub(super) superseded: Option<ShardEpoch>,
    pub(super) stop: bool,
}

impl<V: Vfs> Archiver<V> {
    pub(crate) fn new(
        reader: LogReader<Overlay<V>>,
        marker: Arc<MarkerFile<V>>,
        archive: Arc<Archive>,
        (interval, look): (Duration, Duration),
    ) -> Self {
        Self {
            reader,
            marker,
            beginning: Mutex::new(()),
            archive,
            interval,
            look,
            state: Mutex::default(),
            wake: Condvar::new(),
            copying: Mutex::new(()),
        }
    }

    /// The log is owned under `fence` now.
    pub(crate) fn owns(&self, fence: Fence) {
        self.state.lock().fence = Some(fence);
        self.wake.notify_all();
    }

    /// Ends the thread after what it does now.
    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_all();
    }

    /// `Fenced` once somebody else has gone on from the archive.
    pub(crate) fn check(&self, held: ShardEpoch) -> Result<(), StoreError> {
        match self.state.lock().superseded {
            Some(current) => Err(StoreError::Fenced { held, current }),
            None => Ok(()),
        }
    }

    /// Begins an ownership in the archive, from what this directory knows of it.
    pub(crate) fn begin(&self, fence: &Fence) -> Result<(), StoreError> {
        let _alone = self.beginning.lock();
        self.archive.refresh()?;
        let ours = (fence.shard_epoch, fence.owner_incarnation);
        let last = self.archive.owner();
        if last == ours {
            return Ok(());
        }
        let marker = self.marker.load()?;
        if last.0 >= fence.shard_epoch || !marker.knows(last) {
            return Err(StoreError::Fenced {
                held: fence.shard_epoch,
                current: last.0,
            });
        }
        let next = self.marker.change(|marker| marker.about_to(last, ours))?;
        self.archive.begin_from(fence, |owner| next.knows(owner))
    }

    /// Before an ownership: whether somebody else has gone on from the archive is looked at again, where
    /// it was so.
    pub(crate) fn look_again(&self, fence: &Fence) -> Result<(), StoreError> {
        if self.state.lock().superseded.is_none() {
            return Ok(());
        }
        self.begin(fence)?;
        self.state.lock().superseded = None;
        Ok(())
    }

    /// Copies until it is stopped.
    pub(crate) fn run(&self) {
        let mut whole_at: Option<Instant> = None;
        let mut lacking_since: Option<Instant> = None;
        let (mut pause, mut failing) = (LOOK_EVERY, false);
        while let Some(fence) = self.wait(pause) {
            let due = whole_at.is_none_or(|at| at.elapsed() >= self.interval);
            let copied = if due || self.is_sealed_ahead() {
                self.caught("copy", || self.copy(&fence, due).map(|()| true))
            } else {
                Ok(false)
            };
            match copied {
                Ok(copied) => {
                    if copied && due {
                        whole_at = Some(Instant::now());
                    }
                    if copied && failing {
                        tracing::info!(fence = %fence, "the log is archived again");
                    }
                    (pause, failing) = (LOOK_EVERY, failing && !copied);
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(fence = %fence, %error, "the log can not be archived; it is tried again");
                    }
                    (pause, failing) = ((pause * 2).min(RETRY_MAX), true);
                }
            }
            let lacking = self.lacking();
            lacking_since = match lacking {
                0 => None,
                _ => lacking_since.or_else(|| Some(Instant::now())),
            };
            let since = lacking_since.map_or(Duration::ZERO, |since| since.elapsed());
            self.archive.show_behind(lacking, since);
        }
    }

    /// Does a piece of work of a thread that has to go on. A panic is a defect of ours, or of the store's
    /// client, which the panic itself reported: it counts as a failure, and is tried again like one.
    pub(super) fn caught<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            self.archive.count_failure(operation);
            let cause = format!("the archive's {operation} panicked");
            Err(StoreError::Unavailable { cause })
        })
    }

    /// Waits for `pause`, or for an ownership; `None`: it is to end.
    fn wait(&self, pause: Duration) -> Option<Fence> {
        let mut state = self.state.lock();
        let until = Instant::now() + pause;
        loop {
            if state.stop {
                return None;
            }
            let over = self.wake.wait_until(&mut state, until).timed_out();
            if let (true, Some(fence), None) = (over, &state.fence, state.superseded)
                && !state.stop
            {
                return Some(fence.clone());
            }
            if over && !state.stop {
                // Nobody owns the log, or nobody may: only an ownership or the end wakes it.
                self.wake.wait(&mut state);
            }
        }
    }

    /// Records of the log that are not archived.
    fn lacking(&self) -> u64 {
        let end = self.reader.range().next;
        end.saturating_sub(self.archive.range().next)
    }

    /// Whether a sealed segment is to be copied, as far as the archived checkpoints allow it.
    fn is_sealed_ahead(&self) -> bool {
        let segments = self.reader.shared.segments();
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let settled = self.archive.settled();
        sealed.iter().any(|segment| {
            let copy = self.would_be(segment, settled);
            matches!(copy, Copy::New | Copy::Rewritten)
        })
    }

    /// What a copy of a segment would be.
    fn would_be(&self, segment: &Segment<OverlayFile<V::File>>, settled: Position) -> Copy {
        let bounds = segment.state.read().bounds();
        if bounds.end == bounds.first {
            // Of an owner that wrote nothing: the archive has none for it.
            return Copy::Known;
        }
        let (seq, generation) = (segment.header.seq, segment.header.generation);
        self.archive.would_be(seq, generation, &bounds, settled)
    }

    /// Copies what the archive lacks, under `fence`. With `whole` the open segment too, as far as it is
    /// committed, and checkpoints and consumers.
    pub(crate) fn copy(&self, fence: &Fence, whole: bool) -> Result<(), StoreError> {
        let _alone = self.copying.lock();
        let copied = self.try_copy(fence, whole);
        if copied.is_err() {
            self.archive.count_failure("copy");
        }
        if let Err(StoreError::Fenced { current, .. }) = &copied {
            let mut state = self.state.lock();
            // Not by ourselves: this may be the pass of an ownership before the present one.
            if state.fence.as_ref() == Some(fence) {
                tracing::error!(
                    fence = %fence,
                    current = current.0,
                    "another start has gone on from this log's archive: this one is not written any more"
                );
                state.superseded = Some(*current);
            }
        }
        copied
    }

    fn try_copy(&self, fence: &Fence, whole: bool) -> Result<(), StoreError> {
        let (archive, shared) = (&self.archive, &self.reader.shared);
        self.begin(fence)?;
        // The segments before the checkpoints: what retention had removed by then is covered by the two
        // that are read afterwards.
        let segments = shared.segments();
        let first = self.reader.range().first;
        let candidates = match whole {
            true => &segments[..],
            false => &segments[..segments.len().saturating_sub(1)],
        };
        let mut copies = Copies {
            first,
            ..Copies::default()
        };
        // What is new goes first and in order: no checkpoint is to be ahead of the archive's end.
        let mut end = archive.range().next;
        for segment in candidates {
            if self.would_be(segment, 0) == Copy::New {
                let copied = self.copy_segment(fence, segment)?;
                end = end.max(copied.end());
                copies.segments.push(copied);
            }
            if copies.segments.len() == COPIES_MAX {
                archive.mirror(fence, &copies)?;
                copies.segments.clear();
            }
        }
        let mut settled = archive.settled();
        if whole {
            let (copied, older) = self.copy_checkpoints(fence, end)?;
            copies.checkpoints = copied;
            settled = settled.max(older);
        }
        for segment in candidates {
            if self.would_be(segment, settled) == Copy::Rewritten {
                copies.segments.push(self.copy_segment(fence, segment)?);
            }
        }
        archive.mirror(fence, &copies)?;
        if whole {
            let consumers = shared.consumers.lock().list().clone();
            archive.copy_consumers(fence, &consumers)?;
        }
        Ok(())
    }

    fn copy_segment(
        &self,
        fence: &Fence,
        segment: &Arc<Segment<OverlayFile<V::File>>>,
    ) -> Result<CopiedSegment, StoreError> {
        let shared = &self.reader.shared;
        let bounds = segment.state.read().bounds();
        let file = shared.file(segment).map_err(|e| match e {
            SegmentError::Store(e) => e,
            SegmentError::Moved => StoreError::Unavailable {
                cause: format!("{} was replaced meanwhile", segment.name()),
            },
        })?;
        let index = read_index(&shared.vfs, &segment.header);
        let summary = index
            .filter(|index| index.bounds == bounds)
            .and_then(|index| index.summary);
        let path = shared.vfs.path(&segment.name());
        self.archive
            .copy_segment(fence, &segment.header, bounds, &*file, &path, summary)
    }

    /// Copies those of the newest two whole checkpoints not ahead of `end`, where the archive will end, that
    /// it lacks. Answers them, and the position of the older of the two; 0 where there are not two.
    fn copy_checkpoints(
        &self,
        fence: &Fence,
        end: Position,
    ) -> Result<(Vec<CopiedCheckpoint>, Position), StoreError> {
        let vfs = &self.reader.shared.vfs;
        let known = self.archive.checkpoints();
        let (mut copied, mut whole) = (Vec::new(), Vec::new());
        for position in stored_checkpoints(vfs)?.into_iter().rev() {
            if position > end || whole.len() == 2 {
                continue;
            }
            if known.contains(&position) {
                whole.push(position);
                continue;
            }
            let name = checkpoint_name(position);
            let data = match read_file(vfs, &name, CHECKPOINT_BYTES_MAX) {
                Ok(data) => data,
                // Replaced by a newer one meanwhile.
                Err(_) if !vfs.exists(&name).named(vfs, "look for", &name)? => continue,
                Err(e) => return Err(e),
            };
            if damage(&data, position).is_none() {
                whole.push(position);
                let state = state_of(data);
                copied.push(self.archive.copy_checkpoint(fence, position, &state)?);
            }
        }
        let older = whole.get(1).copied().unwrap_or(0);
        Ok((copied, older))
    }
}
