//! Finding out what a directory holds: which segments there are, where each one's records end,
//! and under which epoch the log was last owned. Reads only.

use std::sync::Arc;

use gb6_core_model::{Position, ShardEpoch};
use gb6_core_ports::StoreError;
use gb6_core_wire::record::{Kind, Record};
use gb6_region_archive::ReadAt;
use gb6_region_archive::format::{
    FOOTER_BYTES, Footer, FrameHeader, HEADER_BYTES, SegmentHeader, records_of,
};
use gb6_region_archive::index::{Bounds, INDEX_HEADER_BYTES, IndexFile, Point};
use gb6_region_archive::scan::{Scan, ScanOptions, Tail, Window, scan};

use super::LogConfig;
use super::segment::{Segment, SegmentState, index_name, read_header, segment_name, segment_seq};
use crate::vfs::{Named, Vfs, VfsFile, io_error, read_exact_at};

/// What a directory holds.
pub(crate) struct Loaded<F> {
    pub(crate) segments: Vec<Arc<Segment<F>>>,
    /// The highest epoch of any segment, 0 when there is none.
    pub(crate) epoch: ShardEpoch,
    /// The highest segment number.
    pub(crate) last_seq: Option<u64>,
    /// The segment with the log's last records, when its owner did not seal it: its last batch
    /// may be in the system's memory only.
    pub(crate) tail: Option<OpenTail<F>>,
    /// Served time of the newest acquire record.
    pub(crate) served_ms: u64,
    /// What recovery should tell an operator.
    pub(crate) notes: Vec<LoadNote>,
}

/// The unsealed end of a log.
pub(crate) struct OpenTail<F> {
    pub(crate) segment: Arc<Segment<F>>,
    /// The last batch: its byte offset and size.
    pub(crate) last: (u64, usize),
}

/// Something that recovery did and that is no error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadNote {
    /// The segment's number.
    pub segment: u64,
    /// The byte where its records end.
    pub byte: u64,
    /// The position there.
    pub position: Position,
    /// What was found behind.
    pub what: TailNote,
}

/// What stood behind a segment's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TailNote {
    /// A write that a crash cut short; it was never acknowledged.
    TornWrite,
    /// Batches of an owner that had lost the shard; they were never acknowledged.
    FencedOwner,
}

struct Found {
    bounds: Option<Bounds>,
    points: Option<Vec<Point>>,
    last: Option<(u64, usize)>,
    sealed: bool,
    tail: Tail,
}

impl From<Scan> for Found {
    fn from(scan: Scan) -> Self {
        Self {
            bounds: scan.bounds,
            points: Some(scan.points),
            last: scan.last,
            sealed: scan.tail == Tail::Sealed,
            tail: scan.tail,
        }
    }
}

/// Reads a directory.
pub(crate) fn load<V: Vfs>(vfs: &V, config: &LogConfig) -> Result<Loaded<V::File>, StoreError> {
    let names = vfs.list().named(vfs, "list", "")?;
    let mut headers = Vec::new();
    for seq in names.iter().filter_map(|n| segment_seq(n)) {
        let name = segment_name(seq);
        let file = vfs.open(&name).named(vfs, "open", &name)?;
        headers.push((read_header(vfs, &name, &file)?, file));
    }
    let headers = without_leftovers(vfs, config, headers)?;
    let epoch = headers.iter().map(|(h, _)| h.shard_epoch).max();
    let mut loaded = Loaded {
        segments: Vec::with_capacity(headers.len()),
        epoch: epoch.unwrap_or_default(),
        last_seq: headers.last().map(|(h, _)| h.seq),
        tail: None,
        served_ms: 0,
        notes: Vec::new(),
    };
    // From the newest to the oldest: where a segment begins is where the one before it ends,
    // whatever a fenced owner wrote behind.
    let mut limit = Position::MAX;
    let mut newest = true;
    for (header, file) in headers.into_iter().rev() {
        let found = examine(vfs, config, &header, &file, limit, newest)?;
        newest = false;
        let found = clip(vfs, config, &header, &file, found, limit)?;
        note(&mut loaded.notes, &header, &found, limit);
        let path = vfs.path(&segment_name(header.seq));
        let state = match found.bounds {
            Some(bounds) => {
                if limit != Position::MAX && bounds.end != limit {
                    return Err(StoreError::Corrupt {
                        segment: path,
                        byte: bounds.frames_end,
                        position: bounds.end,
                        detail: format!(
                            "positions {} to {limit} are missing at the end of this segment",
                            bounds.end
                        ),
                    });
                }
                SegmentState {
                    first: bounds.first,
                    end: bounds.end,
                    frames_end: bounds.frames_end,
                    records: bounds.records,
                    sealed: found.sealed,
                    points: found.points,
                }
            }
            None => SegmentState {
                // Empty: its place is where the next one begins; set below for the last ones.
                first: limit,
                end: limit,
                frames_end: HEADER_BYTES as u64,
                records: 0,
                sealed: found.sealed,
                points: Some(Vec::new()),
            },
        };
        let first_tail = limit == Position::MAX;
        if found.bounds.is_some() {
            limit = state.first;
        }
        let segment = Arc::new(Segment::new(header, state, None));
        if first_tail
            && !found.sealed
            && let (Some(_), Some(last)) = (found.bounds, found.last)
        {
            loaded.tail = Some(OpenTail {
                segment: segment.clone(),
                last,
            });
        }
        loaded.segments.push(segment);
    }
    loaded.segments.reverse();
    place_empty_tail(&loaded.segments);
    loaded.served_ms = last_served(vfs, &loaded.segments)?;
    Ok(loaded)
}

/// Takes off the segments of owners that slept while the log went on without them, found a name
/// free that retention had already removed, and died before they could give it back. Such a
/// segment holds nothing, is of an older epoch than what follows, and lies before everything that
/// is kept. Whatever else is missing between two segments is damage.
fn without_leftovers<V: Vfs>(
    vfs: &V,
    config: &LogConfig,
    mut headers: Vec<(SegmentHeader, V::File)>,
) -> Result<Vec<(SegmentHeader, V::File)>, StoreError> {
    let gap = headers
        .windows(2)
        .rposition(|pair| pair[1].0.seq != pair[0].0.seq + 1);
    let Some(gap) = gap else {
        return Ok(headers);
    };
    let kept = headers.split_off(gap + 1);
    let (before, after) = (headers[gap].0.seq, &kept[0].0);
    for (header, file) in headers.iter().rev() {
        let options = ScanOptions {
            path: vfs.path(&segment_name(header.seq)),
            limit: Position::MAX,
            index_every: config.index_every,
        };
        let leftover = header.shard_epoch < after.shard_epoch
            && scan(file, header, &options, |_, _, _| Ok(()))
                .is_ok_and(|found| found.bounds.is_none() && found.tail == Tail::Clean);
        if !leftover {
            return Err(StoreError::Corrupt {
                segment: vfs.path(&segment_name(before + 1)),
                byte: 0,
                position: 0,
                detail: format!(
                    "the segments between {before} and {} are missing",
                    after.seq
                ),
            });
        }
    }
    Ok(kept)
}

/// Empty segments at the end of the log stand at its end.
fn place_empty_tail<F>(segments: &[Arc<Segment<F>>]) {
    let next = segments
        .iter()
        .rev()
        .map(|s| s.state.read().end)
        .find(|end| *end != Position::MAX)
        .unwrap_or(0);
    for segment in segments {
        let mut state = segment.state.write();
        if state.end == Position::MAX {
            state.first = next;
            state.end = next;
        }
    }
}

fn note(notes: &mut Vec<LoadNote>, header: &SegmentHeader, found: &Found, limit: Position) {
    let what = match found.tail {
        Tail::Torn => TailNote::TornWrite,
        Tail::Stale => TailNote::FencedOwner,
        Tail::Clean | Tail::Sealed => return,
    };
    notes.push(LoadNote {
        segment: header.seq,
        byte: found.bounds.map_or(HEADER_BYTES as u64, |b| b.frames_end),
        position: found.bounds.map_or(limit, |b| b.end),
        what,
    });
}

fn examine<V: Vfs>(
    vfs: &V,
    config: &LogConfig,
    header: &SegmentHeader,
    file: &V::File,
    limit: Position,
    newest: bool,
) -> Result<Found, StoreError> {
    if let Some(bounds) = vfs.sealed_bounds(header) {
        return Ok(sealed(bounds));
    }
    if !newest {
        if let Some(bounds) = index_bounds(vfs, header) {
            return Ok(sealed(bounds));
        }
        if let Some(footer) = footer(vfs, header, file)? {
            return Ok(sealed(Bounds {
                first: footer.first,
                end: footer.end,
                frames_end: footer.frames_end,
                records: footer.records,
            }));
        }
    }
    let options = ScanOptions {
        path: vfs.path(&segment_name(header.seq)),
        limit,
        index_every: config.index_every,
    };
    let found: Found = scan(file, header, &options, |_, _, _| Ok(()))?.into();
    if header.generation > 0 && !found.sealed {
        return Err(StoreError::Corrupt {
            segment: options.path,
            byte: found.bounds.map_or(0, |b| b.frames_end),
            position: found.bounds.map_or(0, |b| b.end),
            detail: "a rewritten segment has no footer".into(),
        });
    }
    Ok(found)
}

fn sealed(bounds: Bounds) -> Found {
    Found {
        bounds: (bounds.end > bounds.first).then_some(bounds),
        points: None,
        last: None,
        sealed: true,
        tail: Tail::Sealed,
    }
}

/// Takes off what lies behind the end that the next owner found: an index or a footer of a fenced
/// owner may count it.
fn clip<V: Vfs>(
    vfs: &V,
    config: &LogConfig,
    header: &SegmentHeader,
    file: &V::File,
    found: Found,
    limit: Position,
) -> Result<Found, StoreError> {
    if found.bounds.is_none_or(|b| b.end <= limit) {
        return Ok(found);
    }
    let options = ScanOptions {
        path: vfs.path(&segment_name(header.seq)),
        limit,
        index_every: config.index_every,
    };
    let mut found: Found = scan(file, header, &options, |_, _, _| Ok(()))?.into();
    found.tail = Tail::Stale;
    Ok(found)
}

fn index_bounds<V: Vfs>(vfs: &V, header: &SegmentHeader) -> Option<Bounds> {
    let file = vfs.open(&index_name(header.seq)).ok()?;
    let mut bytes = [0; INDEX_HEADER_BYTES];
    read_exact_at(&file, 0, &mut bytes).ok()?;
    IndexFile::decode_bounds(&bytes, header.seq, header.generation)
}

fn footer<V: Vfs>(
    vfs: &V,
    header: &SegmentHeader,
    file: &V::File,
) -> Result<Option<Footer>, StoreError> {
    let name = segment_name(header.seq);
    let len = file.len().named(vfs, "measure", &name)?;
    let Some(at) = len.checked_sub(FOOTER_BYTES as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; FOOTER_BYTES];
    read_exact_at(file, at, &mut bytes).named(vfs, "read", &name)?;
    Ok(Footer::decode(&bytes)
        .filter(|f| f.seq == header.seq && f.generation == header.generation && f.frames_end == at))
}

/// The served time that the newest acquire record says; 0 when retention has dropped it (the
/// checkpoint that allowed that knows more).
fn last_served<V: Vfs>(vfs: &V, segments: &[Arc<Segment<V::File>>]) -> Result<u64, StoreError> {
    for segment in segments.iter().rev() {
        let state = segment.state.read().clone();
        if state.records == 0 {
            continue;
        }
        let name = segment.name();
        let file = vfs.open(&name).named(vfs, "open", &name)?;
        if let Some(record) = first_record(&file, &state, &vfs.path(&name))?
            && record.kind() == Kind::Acquire
        {
            return Ok(record.served_ms);
        }
    }
    Ok(0)
}

fn first_record<F: VfsFile>(
    file: &F,
    state: &SegmentState,
    path: &str,
) -> Result<Option<Record>, StoreError> {
    let at = HEADER_BYTES as u64;
    let io = |e: std::io::Error| io_error("read", path.to_owned(), &e);
    let mut window = Window::new(file, state.frames_end, 4096);
    let Some(frame): Option<FrameHeader> = window.frame_header(at).map_err(io)? else {
        return Ok(None);
    };
    let bytes = window.bytes(at, frame.bytes).map_err(io)?;
    let corrupt = |detail: &str| StoreError::Corrupt {
        segment: path.to_owned(),
        byte: at,
        // Not what the batch says: that may be what is damaged.
        position: state.first,
        detail: detail.to_owned(),
    };
    if !frame.checksum_holds(bytes) {
        return Err(corrupt("a batch's checksum is wrong"));
    }
    let mut first = None;
    records_of(&frame, bytes, 0, |record, _| {
        first = Some(record);
        false
    })
    .map_err(corrupt)?;
    Ok(first)
}
