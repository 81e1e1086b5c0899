//! Copies of a log that lies elsewhere and stays the truth: its segments byte for byte under their own
//! numbers, its checkpoints, its beginning. And reading such a copy in place of what was lost.

use std::io;
use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::{BlobKey, Fence, LogRange, StoreError};

use crate::archive::Archive;
use crate::checkpoint::CHECKPOINT_BYTES_MAX;
use crate::format::{FIRST_UNKNOWN, FOOTER_BYTES, Footer, HEADER_BYTES, SegmentHeader};
use crate::index::{Bounds, INDEX_BYTES_MAX, IndexFile};
use crate::manifest::{CheckpointEntry, Manifest, Owner, SegmentEntry};
use crate::names::Names;
use crate::object::Object;
use crate::read_at::{ReadAt, carry};
use crate::reading::bounds_of;
use crate::seal::BlobSink;
use crate::summary::Summary;
use crate::walk::{Walk, WalkError};
use crate::write::Sink;

/// Bytes read at a time.
const READ_CHUNK: usize = 1024 * 1024;
/// Checkpoints that are kept.
const CHECKPOINTS_KEPT: usize = 2;

/// An archived segment, as who reads copies needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedSegment {
    /// Its header, as it was.
    pub header: SegmentHeader,
    /// Its bounds.
    pub bounds: Bounds,
    /// Bytes of the object.
    pub bytes: u64,
}

/// A segment that was copied, and counts once [`Archive::mirror`] has named it.
#[derive(Clone, Debug)]
pub struct CopiedSegment(SegmentEntry);

impl CopiedSegment {
    /// The position behind its last.
    pub fn end(&self) -> Position {
        self.0.next
    }
}

/// A checkpoint that was copied, and counts once [`Archive::mirror`] has named it.
#[derive(Clone, Debug)]
pub struct CopiedCheckpoint(CheckpointEntry);

/// What a segment of a log that is copied is to its archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copy {
    /// There as it is.
    Known,
    /// Not there, or not all of it.
    New,
    /// There as it was before it was rewritten.
    Rewritten,
    /// Likewise; and what was dropped from it is not in both archived checkpoints yet, so that it stays.
    TooEarly,
}

/// What a log that is copied has become.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    /// The first position that it keeps.
    pub first: Position,
    /// Segments that the archive lacks or has as they were before, ascending.
    pub segments: Vec<CopiedSegment>,
    /// Checkpoints that the archive lacks.
    pub checkpoints: Vec<CopiedCheckpoint>,
}

impl Archive {
    /// The segments of the archive, ascending.
    pub fn segments(&self) -> Vec<ArchivedSegment> {
        let manifest = self.current();
        let segments = manifest.segments.iter();
        segments.map(|s| archived(&manifest, s)).collect()
    }

    /// What a copy of the segment `seq`, which has this generation and these bounds, would be here, where the
    /// older checkpoint is at `settled`.
    pub fn would_be(&self, seq: u64, generation: u32, bounds: &Bounds, settled: Position) -> Copy {
        let manifest = self.current();
        let found = manifest.segments.binary_search_by_key(&seq, |s| s.seq);
        let Some(known) = found.ok().map(|at| &manifest.segments[at]) else {
            return Copy::New;
        };
        if known.generation >= generation && known.next >= bounds.end {
            Copy::Known
        } else if known.next < bounds.end {
            Copy::New
        } else if bounds.records == known.records || bounds.end <= settled {
            Copy::Rewritten
        } else {
            Copy::TooEarly
        }
    }

    /// The position of the older of the two archived checkpoints; 0 where there are not two.
    pub fn settled(&self) -> Position {
        settled(&self.current())
    }

    /// The positions of the archived checkpoints, ascending.
    pub fn checkpoints(&self) -> Vec<Position> {
        let manifest = self.current();
        manifest.checkpoints.iter().map(|c| c.position).collect()
    }

    /// The bytes of the checkpoint at `position`; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt`.
    pub fn checkpoint_bytes(&self, position: Position) -> Result<Option<Vec<u8>>, StoreError> {
        let manifest = self.current();
        let found = manifest.checkpoints.iter().find(|c| c.position == position);
        let Some(found) = found else { return Ok(None) };
        let key = self.names.checkpoint(&found.name)?;
        let bytes = self.blobs().get(&key, CHECKPOINT_BYTES_MAX)?;
        Ok(bytes.map(Vec::from))
    }

    /// The bytes of the index of a segment; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt`.
    pub fn index_bytes(&self, seq: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let manifest = self.current();
        let Some(found) = manifest.segments.iter().find(|s| s.seq == seq) else {
            return Ok(None);
        };
        let key = self.names.index(&found.name)?;
        let bytes = self.blobs().get(&key, INDEX_BYTES_MAX)?;
        Ok(bytes.map(Vec::from))
    }

    /// The segment with this number as a file; `None` where there is none.
    ///
    /// # Errors
    /// Its name is none of a segment: a programming error.
    pub fn segment_file(self: &Arc<Self>, seq: u64) -> Result<Option<ArchivedFile>, StoreError> {
        let manifest = self.current();
        let Some(found) = manifest.segments.iter().find(|s| s.seq == seq) else {
            return Ok(None);
        };
        let bounds = bounds_of(found);
        let footer = Footer {
            first: bounds.first,
            end: bounds.end,
            frames_end: bounds.frames_end,
            records: bounds.records,
            seq: found.seq,
            generation: found.generation,
        };
        Ok(Some(ArchivedFile {
            archive: self.clone(),
            name: found.name.clone(),
            object: self.object(found, true)?,
            header: archived(&manifest, found).header.encode(),
            footer: footer.encode(),
        }))
    }

    /// Copies a segment of a log from `file`, which messages call `path`: what lies before its `bounds`
    /// end, each batch checked, and a footer. It may be a segment that still grows.
    ///
    /// # Errors
    /// `Fenced`; `Corrupt` where `file` is damaged; what reading and the store answer.
    pub fn copy_segment<F: ReadAt>(
        &self,
        fence: &Fence,
        header: &SegmentHeader,
        bounds: Bounds,
        file: &F,
        path: &str,
        summary: Option<Summary>,
    ) -> Result<CopiedSegment, StoreError> {
        self.check(fence)?;
        let name = Names::new_segment(bounds.first, header.generation, fence);
        let key = self.names.segment(&name)?;
        let mut sink = BlobSink::begin(self.blobs().writer(&key)?);
        sink.put(0, &header.encode())?;
        let mut points: Vec<(Position, u64)> = Vec::new();
        if bounds.records > 0 {
            let mut walk = Walk::new(file, header, &bounds, READ_CHUNK);
            walk.begin();
            while let Some(frame) = walk.frame().map_err(|e| e.of(path))? {
                let (at, every) = (walk.at(), self.common.config.index_every);
                if points.last().is_none_or(|(_, byte)| at - byte >= every) {
                    points.push((frame.first, at));
                }
                let bytes = walk
                    .bytes(&frame)
                    .map_err(|e| WalkError::from(e).of(path))?;
                sink.put(at, bytes)?;
                walk.pass();
            }
        }
        let footer = Footer {
            first: bounds.first,
            end: bounds.end,
            frames_end: bounds.frames_end,
            records: bounds.records,
            seq: header.seq,
            generation: header.generation,
        };
        sink.put(bounds.frames_end, &footer.encode())?;
        sink.end()?;
        let index = IndexFile {
            seq: header.seq,
            generation: header.generation,
            bounds,
            points,
            summary,
        };
        self.put_index(&name, &index)?;
        let bytes = bounds.frames_end + FOOTER_BYTES as u64;
        self.common.metrics.written_bytes.inc_by(bytes);
        Ok(CopiedSegment(SegmentEntry {
            name,
            seq: header.seq,
            generation: header.generation,
            owner: Owner::new(header.shard_epoch, header.owner_incarnation),
            first: bounds.first,
            next: bounds.end,
            bytes,
            records: bounds.records,
        }))
    }

    /// Copies a checkpoint of a log.
    ///
    /// # Errors
    /// `Fenced`; what the store answers.
    pub fn copy_checkpoint(
        &self,
        fence: &Fence,
        position: Position,
        state: &[u8],
    ) -> Result<CopiedCheckpoint, StoreError> {
        self.check(fence)?;
        let entry = self.put_checkpoint(fence, position, state)?;
        Ok(CopiedCheckpoint(entry))
    }

    /// Names what was copied, and follows what the log has given up: segments before its beginning go, and
    /// checkpoints but the newest two. Nothing goes that the older of those two does not cover, so that
    /// each of them alone still leads to the whole state; it goes the next time.
    ///
    /// # Errors
    /// `Conflict`: the copies do not follow the archive's end. `Fenced`; `Unavailable`;
    /// `OutcomeUnknown`: copy again.
    pub fn mirror(&self, fence: &Fence, copies: &Copies) -> Result<LogRange, StoreError> {
        let mut before = Arc::new(Manifest::default());
        let after = self.change("mirror", fence, |manifest| {
            before = Arc::new(manifest.clone());
            follow(manifest, copies)?;
            Ok(*manifest != *before)
        })?;
        let mut gone: Vec<BlobKey> = Vec::new();
        let copied = copies.segments.iter().map(|s| &s.0);
        for segment in before.segments.iter().chain(copied) {
            if !after.segments.contains(segment) {
                gone.extend(self.keys_of(segment)?);
            }
        }
        let copied = copies.checkpoints.iter().map(|c| &c.0);
        for checkpoint in before.checkpoints.iter().chain(copied) {
            if !after.checkpoints.contains(checkpoint) {
                gone.push(self.names.checkpoint(&checkpoint.name)?);
            }
        }
        self.delete(gone)?;
        self.tidy(fence)?;
        Ok(after.range())
    }
}

fn archived(manifest: &Manifest, segment: &SegmentEntry) -> ArchivedSegment {
    let mut header = segment.header(manifest);
    if segment.generation == 0 {
        header.first = FIRST_UNKNOWN;
    }
    ArchivedSegment {
        header,
        bounds: bounds_of(segment),
        bytes: segment.bytes,
    }
}

fn settled(manifest: &Manifest) -> Position {
    match &manifest.checkpoints[..] {
        [.., older, _] => older.position,
        _ => 0,
    }
}

/// Makes a manifest that of the log as it is now.
fn follow(manifest: &mut Manifest, copies: &Copies) -> Result<(), StoreError> {
    for CopiedCheckpoint(copied) in &copies.checkpoints {
        manifest
            .checkpoints
            .retain(|c| c.position != copied.position);
        manifest.checkpoints.push(copied.clone());
    }
    manifest.checkpoints.sort_unstable_by_key(|c| c.position);
    let surplus = manifest.checkpoints.len().saturating_sub(CHECKPOINTS_KEPT);
    manifest.checkpoints.drain(..surplus);
    let settled = settled(manifest);
    if manifest.segments.is_empty() || copies.first > manifest.next {
        // The archive is empty, or the log gave up what had not been copied: it begins where that does.
        manifest.segments.clear();
        manifest.first = copies.first.max(manifest.next);
        manifest.next = manifest.first;
    } else {
        let bound = copies.first.min(settled);
        let dead = manifest.segments.iter().take_while(|s| s.next <= bound);
        let dead = dead.count();
        manifest.segments.drain(..dead);
        manifest.first = manifest.segments.first().map_or(manifest.next, |s| s.first);
    }
    for CopiedSegment(copied) in &copies.segments {
        place(manifest, copied, settled)?;
        manifest.next_seq = manifest.next_seq.max(copied.seq + 1);
    }
    Ok(())
}

/// Puts a copied segment into its place.
fn place(
    manifest: &mut Manifest,
    copied: &SegmentEntry,
    settled: Position,
) -> Result<(), StoreError> {
    let conflict = || StoreError::Conflict {
        what: format!(
            "segment {} with positions {} to {} does not fit an archive that ends at {}",
            copied.seq, copied.first, copied.next, manifest.next
        ),
    };
    let last = manifest.segments.len().saturating_sub(1);
    let known = manifest.segments.iter().position(|s| s.seq == copied.seq);
    let Some(index) = known else {
        if copied.next <= manifest.first {
            return Ok(());
        }
        if copied.first != manifest.next {
            return Err(conflict());
        }
        manifest.next = copied.next;
        manifest.segments.push(copied.clone());
        return Ok(());
    };
    let old = &manifest.segments[index];
    if old.name == copied.name {
        return Ok(());
    }
    let grown = index == last && copied.next > old.next;
    let rewritten = copied.generation > old.generation && copied.next == old.next;
    if copied.first != old.first || !(grown || rewritten) {
        return Err(conflict());
    }
    if rewritten && copied.records < old.records && copied.next > settled {
        // What was dropped is in no pair of archived checkpoints yet.
        return Ok(());
    }
    manifest.next = manifest.next.max(copied.next);
    manifest.segments[index] = copied.clone();
    Ok(())
}

/// An archived segment as a file that can be read. Its header and footer are known without reading.
pub struct ArchivedFile {
    archive: Arc<Archive>,
    name: String,
    object: Object,
    header: [u8; HEADER_BYTES],
    footer: [u8; FOOTER_BYTES],
}

impl ArchivedFile {
    /// The error of an object that is not there: it was replaced, or it is damage.
    fn missing(&self) -> io::Error {
        let named = || {
            let manifest = self.archive.current();
            manifest.segments.iter().any(|s| s.name == self.name)
        };
        if named() && self.archive.refresh().is_ok() && named() {
            return carry(StoreError::Corrupt {
                segment: self.object.key.to_string(),
                byte: 0,
                position: 0,
                detail: "the manifest names this object, and it is not there".into(),
            });
        }
        io::ErrorKind::NotFound.into()
    }
}

impl ReadAt for ArchivedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let frames_end = self.object.len - FOOTER_BYTES as u64;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = &mut buf[done..];
            let n = if at < HEADER_BYTES as u64 {
                copy_from(&self.header[at as usize..], rest)
            } else if at >= frames_end {
                let at = (at - frames_end).min(FOOTER_BYTES as u64);
                copy_from(&self.footer[at as usize..], rest)
            } else {
                let n = rest.len().min((frames_end - at) as usize);
                match self.object.read_at(at, &mut rest[..n]) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.missing()),
                    other => other?,
                }
            };
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.object.len)
    }
}

fn copy_from(bytes: &[u8], buf: &mut [u8]) -> usize {
    let n = bytes.len().min(buf.len());
    buf[..n].copy_from_slice(&bytes[..n]);
    n
}
