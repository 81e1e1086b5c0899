//! Reading a segment's batches from its bytes: where they end, and whether what stands behind is
//! a torn write or damage.

use std::io;

use gb6_core_model::Position;
use gb6_core_ports::StoreError;

use crate::format::{
    FIRST_UNKNOWN, FOOTER_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Footer, FrameHeader,
    HEADER_BYTES, SegmentHeader,
};
use crate::index::{Bounds, Point};
use crate::read_at::{ReadAt, io_error};

/// Bytes read at a time when a whole segment is read.
pub const SCAN_CHUNK: usize = 1024 * 1024;

/// A window over a file: asks for bytes are answered from one buffer that is read in chunks.
pub struct Window<'a, F> {
    file: &'a F,
    /// Nothing is read at or behind this byte.
    limit: u64,
    chunk: usize,
    base: u64,
    buf: Vec<u8>,
}

impl<'a, F: ReadAt> Window<'a, F> {
    /// A window that reads `chunk` bytes at a time, and nothing at or behind `limit`.
    pub fn new(file: &'a F, limit: u64, chunk: usize) -> Self {
        Self {
            file,
            limit,
            chunk,
            base: 0,
            buf: Vec::new(),
        }
    }

    /// The bytes at `at`: `len` of them, or fewer at the limit or the file's end.
    ///
    /// # Errors
    /// Reading fails.
    pub fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let buffered = self.base + self.buf.len() as u64;
        let wanted = self.limit.saturating_sub(at).min(len as u64);
        if at < self.base || at + wanted > buffered {
            let fill = self
                .limit
                .saturating_sub(at)
                .min(len.max(self.chunk) as u64);
            self.buf.resize(fill as usize, 0);
            let mut done = 0;
            while done < self.buf.len() {
                match self.file.read_at(at + done as u64, &mut self.buf[done..]) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(e) => {
                        self.buf.clear();
                        return Err(e);
                    }
                }
            }
            self.buf.truncate(done);
            self.base = at;
        }
        let from = ((at - self.base) as usize).min(self.buf.len());
        let to = (from + wanted as usize).min(self.buf.len());
        Ok(&self.buf[from..to])
    }

    /// The frame header at `at`, when the bytes there can be one and the frame ends within the
    /// limit.
    ///
    /// # Errors
    /// Reading fails.
    pub fn frame_header(&mut self, at: u64) -> io::Result<Option<FrameHeader>> {
        let limit = self.limit;
        let header = FrameHeader::decode(self.bytes(at, FRAME_HEADER_BYTES)?);
        Ok(header.filter(|h| at + h.bytes as u64 <= limit))
    }
}

/// How a segment's batches end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Only zeros behind them, or nothing.
    Clean,
    /// A footer that fits.
    Sealed,
    /// Bytes that are no whole batch, and no batch behind: a write that a crash cut.
    Torn,
    /// Batches of an owner that was fenced: behind the end that the next owner found.
    Stale,
}

/// What a scan found.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// `None`: no batch at all.
    pub bounds: Option<Bounds>,
    /// Where the batches end.
    pub frames_end: u64,
    /// The sparse index.
    pub points: Vec<Point>,
    /// Where the last batch begins, and its bytes.
    pub last: Option<(u64, usize)>,
    /// What stands behind the batches.
    pub tail: Tail,
}

/// How to read a segment.
pub struct ScanOptions {
    /// The segment's name with its directory, for errors.
    pub path: String,
    /// Positions at or behind this one are not this segment's: the next owner found its end here.
    pub limit: Position,
    /// Bytes between two points of the sparse index.
    pub index_every: u64,
}

/// Reads all batches of a segment up to `limit`, each handed to `each` with its bytes and where it
/// begins.
///
/// # Errors
/// `Corrupt` where damage is found that no crash explains; what `each` answers; what reading answers.
pub fn scan<F: ReadAt>(
    file: &F,
    header: &SegmentHeader,
    options: &ScanOptions,
    mut each: impl FnMut(&FrameHeader, &[u8], u64) -> Result<(), StoreError>,
) -> Result<Scan, StoreError> {
    let io = |e: io::Error| io_error("read", options.path.clone(), &e);
    let len = file.len().map_err(io)?;
    let mut window = Window::new(file, len, SCAN_CHUNK);
    let mut at = HEADER_BYTES as u64;
    let mut found = Scan {
        bounds: None,
        frames_end: at,
        points: Vec::new(),
        last: None,
        tail: Tail::Clean,
    };
    loop {
        let corrupt = |position: Position, detail: String| StoreError::Corrupt {
            segment: options.path.clone(),
            byte: at,
            position,
            detail,
        };
        let expected = found.bounds.map(|b| b.end);
        let frame = window
            .frame_header(at)
            .map_err(io)?
            .filter(|f| ours(f, header));
        if let Some(frame) = frame {
            if frame.first >= options.limit {
                found.tail = Tail::Stale;
                break;
            }
            let bytes = window.bytes(at, frame.bytes).map_err(io)?;
            if frame.checksum_holds(bytes) {
                let follows = match expected {
                    None => true,
                    Some(end) if header.generation == 0 => frame.first == end,
                    Some(end) => frame.first >= end,
                };
                if !follows || frame.end() > options.limit {
                    return Err(corrupt(
                        expected.unwrap_or(frame.first),
                        format!(
                            "a batch has positions {} to {}, which do not follow",
                            frame.first,
                            frame.end()
                        ),
                    ));
                }
                each(&frame, bytes, at)?;
                let due = found
                    .points
                    .last()
                    .is_none_or(|(_, byte)| at - byte >= options.index_every);
                if due {
                    found.points.push((frame.first, at));
                }
                let bounds = found.bounds.get_or_insert(Bounds {
                    first: frame.first,
                    end: frame.first,
                    frames_end: at,
                    records: 0,
                });
                found.last = Some((at, frame.bytes));
                at += frame.bytes as u64;
                bounds.end = frame.end();
                bounds.records += u64::from(frame.count);
                bounds.frames_end = at;
                found.frames_end = at;
                continue;
            }
        }
        if let Some(footer) = Footer::decode(window.bytes(at, FOOTER_BYTES).map_err(io)?) {
            let fits = footer.seq == header.seq
                && footer.generation == header.generation
                && footer.frames_end == at
                && (header.generation > 0 || expected.is_none_or(|end| end == footer.end))
                && footer.records == found.bounds.map_or(0, |b| b.records);
            if !fits {
                return Err(corrupt(
                    expected.unwrap_or(footer.first),
                    "the segment's footer does not fit its batches".into(),
                ));
            }
            found.bounds = (footer.end > footer.first).then_some(Bounds {
                first: footer.first,
                end: footer.end,
                frames_end: at,
                records: footer.records,
            });
            found.tail = Tail::Sealed;
            break;
        }
        let next_expected = expected.unwrap_or(match header.first {
            FIRST_UNKNOWN => 0,
            first => first,
        });
        match look_behind(&mut window, header, at, len, next_expected).map_err(io)? {
            Behind::Nothing => found.tail = Tail::Clean,
            Behind::Garbage => found.tail = Tail::Torn,
            Behind::Batch(byte, first) => {
                return Err(corrupt(
                    next_expected,
                    format!(
                        "a batch is damaged: a whole one with position {first} stands behind it \
                         at byte {byte}"
                    ),
                ));
            }
            Behind::Footer => {
                return Err(corrupt(
                    next_expected,
                    "a batch is damaged in a sealed segment".into(),
                ));
            }
        }
        break;
    }
    Ok(found)
}

fn ours(frame: &FrameHeader, header: &SegmentHeader) -> bool {
    frame.shard_epoch == header.shard_epoch && frame.owner_incarnation == header.owner_incarnation
}

enum Behind {
    Nothing,
    Garbage,
    Batch(u64, Position),
    Footer,
}

/// What stands behind the byte where reading failed. A batch is found by its owner's epoch and
/// incarnation, which a client can not know, so that no message's body is taken for one.
fn look_behind<F: ReadAt>(
    window: &mut Window<'_, F>,
    header: &SegmentHeader,
    from: u64,
    len: u64,
    expected: Position,
) -> io::Result<Behind> {
    if len >= from + FOOTER_BYTES as u64 {
        let at = len - FOOTER_BYTES as u64;
        let footer = Footer::decode(window.bytes(at, FOOTER_BYTES)?);
        if footer.is_some_and(|f| f.seq == header.seq && f.generation == header.generation) {
            return Ok(Behind::Footer);
        }
    }
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&header.shard_epoch.0.to_le_bytes());
    mark[8..].copy_from_slice(&header.owner_incarnation.0.to_le_bytes());
    let mut behind = Behind::Nothing;
    let mut at = from;
    while at < len {
        let chunk = window.bytes(at, SCAN_CHUNK)?;
        if chunk.is_empty() {
            break;
        }
        let step = chunk.len().saturating_sub(mark.len() - 1).max(1);
        let mut candidates = Vec::new();
        if chunk.iter().any(|b| *b != 0) {
            behind = Behind::Garbage;
            candidates.extend(
                chunk
                    .windows(mark.len())
                    .enumerate()
                    .filter(|(_, w)| *w == mark)
                    .map(|(i, _)| at + i as u64),
            );
        }
        for candidate in candidates {
            // The mark stands 8 bytes into a frame.
            let Some(begin) = candidate.checked_sub(8).filter(|b| *b > from) else {
                continue;
            };
            let Some(frame) = window.frame_header(begin)? else {
                continue;
            };
            if frame.first < expected || frame.bytes > FRAME_BYTES_MAX {
                continue;
            }
            if frame.checksum_holds(window.bytes(begin, frame.bytes)?) {
                return Ok(Behind::Batch(begin, frame.first));
            }
        }
        at += step as u64;
    }
    Ok(behind)
}
