//! The index beside a sealed segment: bounds, sparse points and the rooms' summary. It is
//! derived: one that is missing, damaged or of another generation is made again from the segment.

use gb6_core_model::Position;

use crate::format::{u32_at, u64_at};
use crate::summary::{RoomSpan, Summary};

const MAGIC: &[u8; 8] = b"GB6IDX\r\n";
/// Summaries below this version lack the first batch of a segment: they are passed over.
const INDEX_VERSION: u32 = 2;
/// Bytes of the fixed part: enough to open a log without reading more.
pub const INDEX_HEADER_BYTES: usize = 80;
/// Largest index file that is read in bytes: 65,536 rooms with the longest names.
pub const INDEX_BYTES_MAX: u64 = 32 * 1024 * 1024;
const NO_SUMMARY: u32 = u32::MAX;

/// A point of the sparse index: the batch that begins with this position stands at this byte.
pub type Point = (Position, u64);

/// The bounds of a sealed segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The first position.
    pub first: Position,
    /// The position after the last.
    pub end: Position,
    /// Where the batches end, in bytes.
    pub frames_end: u64,
    /// Records in it.
    pub records: u64,
}

/// The index of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexFile {
    /// The segment's number.
    pub seq: u64,
    /// The segment's generation.
    pub generation: u32,
    /// The segment's bounds.
    pub bounds: Bounds,
    /// The sparse index.
    pub points: Vec<Point>,
    /// `None`: not known, the segment must be read.
    pub summary: Option<Summary>,
}

impl IndexFile {
    /// About how many bytes it takes in memory.
    pub(crate) fn weight(&self) -> usize {
        let rooms = self.summary.iter().flat_map(|s| s.sorted());
        let names: usize = rooms.map(|(i, c, _)| i.len() + c.len() + 64).sum();
        self.points.len() * 16 + names + 256
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (position, byte) in &self.points {
            body.extend_from_slice(&position.to_le_bytes());
            body.extend_from_slice(&byte.to_le_bytes());
        }
        let summary = self.summary.as_ref().filter(|s| !s.overflow);
        let rooms = match summary {
            None => NO_SUMMARY,
            Some(summary) => {
                body.extend_from_slice(&summary.settled_bytes.to_le_bytes());
                body.extend_from_slice(&summary.pinned_bytes.to_le_bytes());
                for (instance, channel, span) in summary.sorted() {
                    for name in [instance, channel] {
                        body.extend_from_slice(&(name.len() as u32).to_le_bytes());
                        body.extend_from_slice(name.as_bytes());
                    }
                    for number in [span.min, span.max, span.bytes] {
                        body.extend_from_slice(&number.to_le_bytes());
                    }
                }
                summary.room_count as u32
            }
        };
        let mut out = Vec::with_capacity(INDEX_HEADER_BYTES + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&INDEX_VERSION.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        for number in [
            self.seq,
            self.bounds.first,
            self.bounds.end,
            self.bounds.frames_end,
            self.bounds.records,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.points.len() as u32).to_le_bytes());
        out.extend_from_slice(&rooms.to_le_bytes());
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// The bounds that an index file's first bytes give, when they are those of this segment.
    pub fn decode_bounds(bytes: &[u8], seq: u64, generation: u32) -> Option<Bounds> {
        let bytes = bytes.get(..INDEX_HEADER_BYTES)?;
        let whole = bytes[..8] == MAGIC[..]
            && u32_at(bytes, 8) <= INDEX_VERSION
            && crc32c::crc32c(&bytes[..INDEX_HEADER_BYTES - 4])
                == u32_at(bytes, INDEX_HEADER_BYTES - 4)
            && u32_at(bytes, 12) == generation
            && u64_at(bytes, 16) == seq;
        whole.then(|| Bounds {
            first: u64_at(bytes, 24),
            end: u64_at(bytes, 32),
            frames_end: u64_at(bytes, 40),
            records: u64_at(bytes, 48),
        })
    }

    /// Reads a whole index file; `None` when it is damaged or of another generation.
    pub fn decode(bytes: &[u8], seq: u64, generation: u32) -> Option<Self> {
        let bounds = Self::decode_bounds(bytes, seq, generation)?;
        let (points, rooms) = (u32_at(bytes, 56) as usize, u32_at(bytes, 60));
        let body = &bytes[INDEX_HEADER_BYTES..];
        if body.len() as u64 != u64_at(bytes, 64) || crc32c::crc32c(body) != u32_at(bytes, 72) {
            return None;
        }
        let mut rest = body;
        let mut index = Self {
            seq,
            generation,
            bounds,
            points: Vec::with_capacity(points.min(body.len() / 16)),
            summary: None,
        };
        for _ in 0..points {
            index.points.push((number(&mut rest)?, number(&mut rest)?));
        }
        if u32_at(bytes, 8) < INDEX_VERSION {
            return Some(index);
        }
        if rooms != NO_SUMMARY {
            let mut summary = Summary {
                settled_bytes: number(&mut rest)?,
                pinned_bytes: number(&mut rest)?,
                ..Summary::default()
            };
            for _ in 0..rooms {
                let (instance, channel) = (text(&mut rest)?, text(&mut rest)?);
                let span = RoomSpan {
                    min: number(&mut rest)?,
                    max: number(&mut rest)?,
                    bytes: number(&mut rest)?,
                };
                summary.insert(instance, channel, span);
            }
            index.summary = Some(summary);
        }
        rest.is_empty().then_some(index)
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (word, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_le_bytes(*word))
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let (len, behind) = rest.split_first_chunk::<4>()?;
    let (text, behind) = behind.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *rest = behind;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_the_first_version_is_not_believed() {
        let mut summary = Summary::default();
        let span = RoomSpan {
            min: 3,
            max: 9,
            bytes: 700,
        };
        summary.insert("demo".into(), "room:a".into(), span);
        let index = IndexFile {
            seq: 5,
            generation: 1,
            bounds: Bounds {
                first: 10,
                end: 20,
                frames_end: 900,
                records: 10,
            },
            points: vec![(10, 128), (16, 600)],
            summary: Some(summary),
        };
        let mut bytes = index.encode();
        assert_eq!(IndexFile::decode(&bytes, 5, 1), Some(index.clone()));
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..INDEX_HEADER_BYTES - 4]);
        bytes[INDEX_HEADER_BYTES - 4..INDEX_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let expected = IndexFile {
            summary: None,
            ..index
        };
        assert_eq!(IndexFile::decode(&bytes, 5, 1), Some(expected));
    }
}
