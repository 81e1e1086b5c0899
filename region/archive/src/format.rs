//! The bytes of segments and their index files: `docs/log-format.md` describes them for readers.
//! Everything is little-endian; nothing here does I/O.

use bytes::Buf;
use gb6_core_model::{Incarnation, Position, ShardEpoch, ShardId};
use gb6_core_wire::record::Record;
use prost::Message;

/// The format version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of a segment's header; the first batch begins behind it.
pub const HEADER_BYTES: usize = 128;
/// Bytes before a batch's records.
pub const FRAME_HEADER_BYTES: usize = 36;
/// Bytes of a sealed segment's footer.
pub const FOOTER_BYTES: usize = 64;
/// Largest batch frame in bytes: a length above it is not one of ours.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// `first` of a segment whose first position is that of its first batch.
pub const FIRST_UNKNOWN: Position = Position::MAX;

const HEADER_MAGIC: &[u8; 8] = b"GB6LOG\r\n";
const FOOTER_MAGIC: &[u8; 8] = b"GB6FOOT\n";
const REGION_BYTES_MAX: usize = 63;

/// The header of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The segment's number, as in its name.
    pub seq: u64,
    /// The ownership that writes it.
    pub shard_epoch: ShardEpoch,
    /// The owner's life.
    pub owner_incarnation: Incarnation,
    /// The first position, or [`FIRST_UNKNOWN`].
    pub first: Position,
    /// The shard.
    pub shard: ShardId,
    /// How often the segment was rewritten.
    pub generation: u32,
    /// The region, cut at 63 bytes.
    pub region: String,
}

/// Why bytes are no header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// Not a segment, or damaged.
    Damaged(&'static str),
    /// Of a newer format.
    Newer(u32),
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut region = self.region.as_str();
        while region.len() > REGION_BYTES_MAX {
            let mut chars = region.chars();
            chars.next_back();
            region = chars.as_str();
        }
        out[..8].copy_from_slice(HEADER_MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.shard_epoch.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.owner_incarnation.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.first.to_le_bytes());
        out[48..52].copy_from_slice(&self.shard.0.to_le_bytes());
        out[52..56].copy_from_slice(&self.generation.to_le_bytes());
        out[56] = region.len() as u8;
        out[57..57 + region.len()].copy_from_slice(region.as_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_BYTES - 4]);
        out[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(HeaderError::Damaged("shorter than a header"));
        };
        if bytes[..8] != HEADER_MAGIC[..] {
            return Err(HeaderError::Damaged("no segment: the magic is missing"));
        }
        // A newer format may have a longer header; one of this length has its checksum here.
        let (version, len) = (u32_at(bytes, 8), u32_at(bytes, 12) as usize);
        let whole = crc32c::crc32c(&bytes[..HEADER_BYTES - 4]) == u32_at(bytes, HEADER_BYTES - 4);
        if version > FORMAT_VERSION && (whole || len > HEADER_BYTES) {
            return Err(HeaderError::Newer(version));
        }
        if !whole {
            return Err(HeaderError::Damaged("the header's checksum is wrong"));
        }
        let region_len = usize::from(bytes[56]).min(REGION_BYTES_MAX);
        Ok(Self {
            seq: u64_at(bytes, 16),
            shard_epoch: ShardEpoch(u64_at(bytes, 24)),
            owner_incarnation: Incarnation(u64_at(bytes, 32)),
            first: u64_at(bytes, 40),
            shard: ShardId(u32_at(bytes, 48)),
            generation: u32_at(bytes, 52),
            region: String::from_utf8_lossy(&bytes[57..57 + region_len]).into_owned(),
        })
    }
}

/// The footer of a sealed segment: behind its last batch, at the end of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// The first position of the segment.
    pub first: Position,
    /// The position after its last.
    pub end: Position,
    /// Where the batches end and this footer begins, in bytes.
    pub frames_end: u64,
    /// Records in it.
    pub records: u64,
    /// The segment's number.
    pub seq: u64,
    /// The segment's generation.
    pub generation: u32,
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[..8].copy_from_slice(FOOTER_MAGIC);
        out[8..16].copy_from_slice(&self.first.to_le_bytes());
        out[16..24].copy_from_slice(&self.end.to_le_bytes());
        out[24..32].copy_from_slice(&self.frames_end.to_le_bytes());
        out[32..40].copy_from_slice(&self.records.to_le_bytes());
        out[40..48].copy_from_slice(&self.seq.to_le_bytes());
        out[48..52].copy_from_slice(&self.generation.to_le_bytes());
        let crc = crc32c::crc32c(&out[..FOOTER_BYTES - 4]);
        out[FOOTER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a footer; `None` when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..FOOTER_BYTES)?;
        if bytes[..8] != FOOTER_MAGIC[..]
            || crc32c::crc32c(&bytes[..FOOTER_BYTES - 4]) != u32_at(bytes, FOOTER_BYTES - 4)
        {
            return None;
        }
        Some(Self {
            first: u64_at(bytes, 8),
            end: u64_at(bytes, 16),
            frames_end: u64_at(bytes, 24),
            records: u64_at(bytes, 32),
            seq: u64_at(bytes, 40),
            generation: u32_at(bytes, 48),
        })
    }
}

/// What stands before a batch's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes of the whole frame.
    pub bytes: usize,
    /// CRC32C over the length field and everything behind the checksum field.
    pub crc: u32,
    /// The ownership that wrote it.
    pub shard_epoch: ShardEpoch,
    /// The owner's life.
    pub owner_incarnation: Incarnation,
    /// The first record's position; the others follow without holes.
    pub first: Position,
    /// Records in it.
    pub count: u32,
}

impl FrameHeader {
    /// Reads a frame's first 36 bytes; `None` when they can not be one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        let len = u32_at(bytes, 0) as usize;
        if !(FRAME_HEADER_BYTES - 8..=FRAME_BYTES_MAX - 8).contains(&len) {
            return None;
        }
        let header = Self {
            bytes: len + 8,
            crc: u32_at(bytes, 4),
            shard_epoch: ShardEpoch(u64_at(bytes, 8)),
            owner_incarnation: Incarnation(u64_at(bytes, 16)),
            first: u64_at(bytes, 24),
            count: u32_at(bytes, 32),
        };
        let fits = header.count > 0
            && header.count as usize <= len
            && header.first.checked_add(u64::from(header.count)).is_some();
        fits.then_some(header)
    }

    /// The position after the frame's last record.
    pub fn end(&self) -> Position {
        self.first + u64::from(self.count)
    }

    /// Whether `frame` (all of its bytes) has the checksum that it says.
    pub fn checksum_holds(&self, frame: &[u8]) -> bool {
        frame.len() == self.bytes && frame_crc(frame) == self.crc
    }
}

fn frame_crc(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..])
}

/// A batch that grows record by record and becomes one frame.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    buf: Vec<u8>,
    first: Position,
    count: u32,
}

impl FrameBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record; its position must follow the last one's.
    pub fn push(&mut self, record: &Record) {
        self.begin(record.position);
        // A Vec grows as needed: encoding into it never fails.
        let encoded = record.encode_length_delimited(&mut self.buf);
        debug_assert!(encoded.is_ok());
        self.count += 1;
    }

    /// Adds a record that has `position` as it is encoded already, with whatever a newer version
    /// has put into it.
    pub fn push_encoded(&mut self, position: Position, record: &[u8]) {
        self.begin(position);
        prost::encoding::encode_varint(record.len() as u64, &mut self.buf);
        self.buf.extend_from_slice(record);
        self.count += 1;
    }

    fn begin(&mut self, position: Position) {
        if self.count == 0 {
            self.buf.clear();
            self.buf.resize(FRAME_HEADER_BYTES, 0);
            self.first = position;
        }
        debug_assert_eq!(position, self.end());
    }

    /// Records in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The first record's position.
    pub fn first(&self) -> Position {
        self.first
    }

    /// The position after the last record.
    pub fn end(&self) -> Position {
        self.first + u64::from(self.count)
    }

    /// Bytes of the frame.
    pub fn bytes(&self) -> usize {
        if self.count == 0 { 0 } else { self.buf.len() }
    }

    /// Writes the header and returns the frame, which stays until the next [`FrameBuilder::clear`].
    pub fn seal(&mut self, epoch: ShardEpoch, owner: Incarnation) -> &[u8] {
        let len = (self.buf.len() - 8) as u32;
        self.buf[..4].copy_from_slice(&len.to_le_bytes());
        self.buf[8..16].copy_from_slice(&epoch.0.to_le_bytes());
        self.buf[16..24].copy_from_slice(&owner.0.to_le_bytes());
        self.buf[24..32].copy_from_slice(&self.first.to_le_bytes());
        self.buf[32..36].copy_from_slice(&self.count.to_le_bytes());
        let crc = frame_crc(&self.buf);
        self.buf[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.buf
    }

    /// Makes it empty; a buffer that one large batch has grown is given back.
    pub fn clear(&mut self) {
        self.count = 0;
        if self.buf.capacity() > 4 * 1024 * 1024 {
            self.buf = Vec::new();
        } else {
            self.buf.clear();
        }
    }

    /// Takes the last records off again, down to `count` records and `bytes` bytes.
    pub fn truncate(&mut self, count: u32, bytes: usize) {
        if count == 0 {
            return self.clear();
        }
        self.count = count;
        self.buf.truncate(bytes);
    }
}

/// Decodes the records of a frame whose checksum holds, from position `from` on, until `each`
/// answers false; it gets the encoded record too, which may hold fields that are not known here.
/// Bodies are copies: a record that is kept does not keep its neighbours' memory.
///
/// The error says what is wrong with a frame whose checksum holds: written by another version, or
/// by mistake.
pub fn records_of(
    header: &FrameHeader,
    frame: &[u8],
    from: Position,
    each: impl FnMut(Record, &[u8]) -> bool,
) -> Result<bool, &'static str> {
    records_where(header, frame, |position| position >= from, each)
}

/// As [`records_of`], for the positions that `wanted` answers true for; the others are passed
/// over without decoding them.
pub fn records_where(
    header: &FrameHeader,
    frame: &[u8],
    mut wanted: impl FnMut(Position) -> bool,
    mut each: impl FnMut(Record, &[u8]) -> bool,
) -> Result<bool, &'static str> {
    let mut rest = frame.get(FRAME_HEADER_BYTES..).unwrap_or_default();
    for position in header.first..header.end() {
        let len = prost::decode_length_delimiter(&mut rest)
            .map_err(|_| "a record's length is not a number")?;
        let Some((bytes, behind)) = rest.split_at_checked(len) else {
            return Err("a record is longer than its batch");
        };
        rest = behind;
        if !wanted(position) {
            continue;
        }
        let record = Record::decode(bytes).map_err(|_| "a record is not valid Protobuf")?;
        if record.position != position {
            return Err("a record's position differs from its place");
        }
        if !each(record, bytes) {
            return Ok(false);
        }
    }
    if rest.has_remaining() {
        return Err("bytes are left behind a batch's last record");
    }
    Ok(true)
}

/// The number in the four bytes at `at`; there must be as many.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// The number in the eight bytes at `at`; there must be as many.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
