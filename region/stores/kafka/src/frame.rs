//! The bytes of one Kafka message: a batch of records with what decides whether it counts
//! (`docs/kafka.md`). Everything is little-endian; nothing here does I/O.

use bytes::{BufMut, Bytes};
use gb6_core_model::{Incarnation, Position, ShardEpoch, ShardId};
use gb6_core_ports::Fence;
use gb6_core_wire::record::{Kind, Record};
use prost::Message;

/// The version that this code writes, and the newest that it reads.
pub const FRAME_VERSION: u32 = 1;
/// Bytes before a batch's records.
pub const FRAME_HEADER_BYTES: usize = 44;
/// Most bytes of a frame: what the topic's `max.message.bytes` must let through.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// `first` of a batch that begins an ownership: its position is where it stands in the log.
pub const FIRST_OF_ACQUIRE: Position = Position::MAX;

const MAGIC: &[u8; 4] = b"GB6K";

/// What stands before a batch's records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The shard that it was written for.
    pub shard: ShardId,
    /// The ownership under which it was written.
    pub shard_epoch: ShardEpoch,
    /// The owner's life.
    pub owner_incarnation: Incarnation,
    /// The position of its first record, or [`FIRST_OF_ACQUIRE`].
    pub first: Position,
    /// Its records; one without any only shows who owns the shard.
    pub count: u32,
}

/// Why a message is no batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// Not written by this program: it counts for nothing, whoever reads it.
    Foreign,
    /// Written by a newer version of this program.
    Newer(u32),
    /// Begins as a batch and is none.
    Damaged(&'static str),
}

impl FrameHeader {
    /// That of a batch which is written under `fence`.
    pub(crate) fn of(fence: &Fence, first: Position, count: u32) -> Self {
        Self {
            shard: fence.shard,
            shard_epoch: fence.shard_epoch,
            owner_incarnation: fence.owner_incarnation,
            first,
            count,
        }
    }

    /// Whether it begins an ownership.
    pub fn is_acquire(&self) -> bool {
        self.first == FIRST_OF_ACQUIRE
    }

    /// Reads the header of a message and checks the whole message against its checksum.
    ///
    /// # Errors
    /// The message is no whole batch that this code understands.
    pub fn decode(message: &[u8]) -> Result<Self, FrameError> {
        if message.get(..4) != Some(&MAGIC[..]) {
            return Err(FrameError::Foreign);
        }
        if message.len() < FRAME_HEADER_BYTES {
            return Err(FrameError::Damaged("shorter than a header"));
        }
        if crc32c::crc32c(&message[8..]) != u32_at(message, 4) {
            return Err(FrameError::Damaged("the checksum is wrong"));
        }
        let version = u32_at(message, 8);
        if version > FRAME_VERSION {
            return Err(FrameError::Newer(version));
        }
        let header = Self {
            shard: ShardId(u32_at(message, 12)),
            shard_epoch: ShardEpoch(u64_at(message, 16)),
            owner_incarnation: Incarnation(u64_at(message, 24)),
            first: u64_at(message, 32),
            count: u32_at(message, 40),
        };
        if header.is_acquire() && header.count != 1 {
            return Err(FrameError::Damaged("an acquisition is one record"));
        }
        if !header.is_acquire() && header.first.checked_add(u64::from(header.count)).is_none() {
            return Err(FrameError::Damaged("its positions overflow"));
        }
        Ok(header)
    }
}

/// Makes the message of an acquisition. Whoever reads it sets the record's position and served time.
pub fn encode_acquire(fence: &Fence, record: &Record) -> Bytes {
    encode(fence, FIRST_OF_ACQUIRE, std::slice::from_ref(record))
}

/// Makes the message of a batch. Its records' positions, epoch and
/// incarnation are set.
pub fn encode_batch(fence: &Fence, first: Position, records: &[Record]) -> Bytes {
    encode(fence, first, records)
}

fn encode(fence: &Fence, first: Position, records: &[Record]) -> Bytes {
    let draft = Draft::of(records);
    let header = FrameHeader::of(fence, first, draft.count);
    draft.finish(&header)
}

/// A batch's records, encoded behind the place of its header.
pub(crate) struct Draft {
    out: Vec<u8>,
    count: u32,
}

impl Draft {
    pub(crate) fn of(records: &[Record]) -> Self {
        // Once: it takes as long as encoding.
        let lengths: Vec<usize> = records.iter().map(Message::encoded_len).collect();
        let bytes: usize = lengths.iter().map(|length| length + 5).sum();
        let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + bytes);
        out.resize(FRAME_HEADER_BYTES, 0);
        for (record, length) in records.iter().zip(lengths) {
            prost::encoding::encode_varint(length as u64, &mut out);
            record.encode_raw(&mut out);
        }
        Self {
            out,
            count: records.len() as u32,
        }
    }

    /// Its records.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of its records.
    pub(crate) fn bytes(&self) -> usize {
        self.out.len() - FRAME_HEADER_BYTES
    }

    /// All of them in one, in order.
    pub(crate) fn join(mut drafts: Vec<Self>) -> Self {
        if drafts.len() == 1
            && let Some(alone) = drafts.pop()
        {
            return alone;
        }
        let bytes: usize = drafts.iter().map(Self::bytes).sum();
        let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + bytes);
        out.resize(FRAME_HEADER_BYTES, 0);
        for draft in &drafts {
            out.extend_from_slice(&draft.out[FRAME_HEADER_BYTES..]);
        }
        Self {
            out,
            count: drafts.iter().map(Self::count).sum(),
        }
    }

    /// Its message, with `header`, whose count is the draft's.
    pub(crate) fn finish(mut self, header: &FrameHeader) -> Bytes {
        let mut head = &mut self.out[..FRAME_HEADER_BYTES];
        head.put_slice(MAGIC);
        head.put_u32_le(0);
        head.put_u32_le(FRAME_VERSION);
        head.put_u32_le(header.shard.0);
        head.put_u64_le(header.shard_epoch.0);
        head.put_u64_le(header.owner_incarnation.0);
        head.put_u64_le(header.first);
        head.put_u32_le(self.count);
        let crc = crc32c::crc32c(&self.out[8..]);
        self.out[4..8].copy_from_slice(&crc.to_le_bytes());
        self.out.into()
    }
}

/// The records of a batch whose header was read, in order, each as it is encoded.
///
/// # Errors
/// The message has not the records that its header says.
pub fn encoded_records(header: &FrameHeader, message: &Bytes) -> Result<Vec<Bytes>, FrameError> {
    let damaged = FrameError::Damaged("its records are not whole");
    let mut rest = message.get(FRAME_HEADER_BYTES..).unwrap_or_default();
    let mut records = Vec::with_capacity((header.count as usize).min(rest.len()));
    for _ in 0..header.count {
        let Ok(length) = prost::encoding::decode_varint(&mut rest) else {
            return Err(damaged);
        };
        let at = message.len() - rest.len();
        let record = usize::try_from(length).ok().and_then(|n| rest.get(..n));
        let Some(record) = record else {
            return Err(damaged);
        };
        records.push(message.slice(at..at + record.len()));
        rest = &rest[record.len()..];
    }
    if !rest.is_empty() {
        return Err(FrameError::Damaged("it has bytes behind its records"));
    }
    Ok(records)
}

/// The records of a batch that counts, `first` being the position of its first one and `served_ms` the
/// served time of its acquire record, if it is one.
///
/// # Errors
/// As [`encoded_records`]; also where a record has another position than its place says.
pub fn records(
    header: &FrameHeader,
    message: &Bytes,
    first: Position,
    served_ms: u64,
) -> Result<Vec<Record>, FrameError> {
    let encoded = encoded_records(header, message)?;
    let mut records = Vec::with_capacity(encoded.len());
    for (encoded, index) in encoded.into_iter().zip(0_u64..) {
        let position = first.saturating_add(index);
        let Ok(mut record) = Record::decode(encoded) else {
            return Err(FrameError::Damaged("a record is no Protobuf"));
        };
        if header.is_acquire() {
            if record.kind() != Kind::Acquire {
                return Err(FrameError::Damaged("an acquisition of another kind"));
            }
            record.position = position;
            record.served_ms = served_ms;
        } else if record.position != position {
            return Err(FrameError::Damaged("a record has another position"));
        }
        records.push(record);
    }
    Ok(records)
}

/// The served time that an acquisition itself says; 0 where it has no such record.
pub fn served_ms_of(header: &FrameHeader, message: &Bytes) -> Result<u64, FrameError> {
    let mut encoded = encoded_records(header, message)?.into_iter();
    let record = encoded
        .next()
        .and_then(|record| Record::decode(record).ok());
    match record {
        Some(record) if record.kind() == Kind::Acquire => Ok(record.served_ms),
        _ => Err(FrameError::Damaged("an acquisition of another kind")),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        out.copy_from_slice(found);
    }
    u32::from_le_bytes(out)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    if let Some(found) = bytes.get(at..at + 8) {
        out.copy_from_slice(found);
    }
    u64::from_le_bytes(out)
}
