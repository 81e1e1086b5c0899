//! Which batches count: the rules by which everybody who reads a shard's partition, its owner and a
//! standby alike, comes to the same records. Pure: messages in the order of their Kafka offsets go in,
//! verdicts come out.
//!
//! - An acquisition counts when its epoch is above that of the newest one that counted. It takes the
//!   position that is next.
//! - Another batch counts when it was written under the newest ownership, by epoch and incarnation, and
//!   begins at the position that is next.
//! - Everything else counts for nothing: what a deposed owner still wrote, what arrived twice, what
//!   followed a batch that did not arrive.
//!
//! So an owner that has read everything before its batch's offset, and finds that the batch counts, has
//! observed it under the newest ownership: no other reader can come to another verdict.

use gb6_core_model::{Incarnation, Position, ShardEpoch};

use crate::frame::FrameHeader;

/// What is known of a partition before one offset. Small: an index is made of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tail {
    /// The offset of the next message.
    pub offset: u64,
    /// The position that the next record takes.
    pub next: Position,
    /// The newest ownership that counted; epoch 0 before the first.
    pub epoch: ShardEpoch,
    /// The owner's life under it.
    pub incarnation: Incarnation,
    /// The served time in ms of the newest acquisition that counted.
    pub served_ms: u64,
}

/// What a message came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An ownership began with the record at this position.
    Acquired(Position),
    /// Its records are in the log, from this position on.
    Committed(Position),
    /// It counts for nothing.
    PassedOver(Passed),
}

/// Why a message counts for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passed {
    /// Written under an ownership that is not the newest.
    Fenced,
    /// Written under the newest, but it does not begin where the log ends.
    Position,
    /// Not a batch of this program.
    Foreign,
}

impl Tail {
    /// Whether it was acquired last by this epoch and incarnation.
    pub fn owned_by(&self, epoch: ShardEpoch, incarnation: Incarnation) -> bool {
        self.epoch == epoch && self.incarnation == incarnation && epoch.0 > 0
    }

    /// Takes the message at `offset`, which is `self.offset` or, where nothing lies between, above it.
    /// `served_ms` is what an acquisition says.
    pub fn take(&mut self, offset: u64, header: &FrameHeader, served_ms: u64) -> Verdict {
        debug_assert!(offset >= self.offset, "messages come in order");
        self.offset = offset.saturating_add(1);
        if header.is_acquire() {
            if header.shard_epoch <= self.epoch {
                return Verdict::PassedOver(Passed::Fenced);
            }
            let position = self.next;
            self.epoch = header.shard_epoch;
            self.incarnation = header.owner_incarnation;
            self.served_ms = self.served_ms.max(served_ms);
            self.next = self.next.saturating_add(1);
            return Verdict::Acquired(position);
        }
        if !self.owned_by(header.shard_epoch, header.owner_incarnation) {
            return Verdict::PassedOver(Passed::Fenced);
        }
        if header.first != self.next {
            return Verdict::PassedOver(Passed::Position);
        }
        self.next = self.next.saturating_add(u64::from(header.count));
        Verdict::Committed(header.first)
    }

    /// Takes a message at `offset` that is none of this program's.
    pub fn pass(&mut self, offset: u64) -> Verdict {
        self.offset = offset.saturating_add(1);
        Verdict::PassedOver(Passed::Foreign)
    }

    /// Its bytes, for whoever keeps it beside an archive.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RESUME_BYTES);
        out.extend_from_slice(RESUME_MAGIC);
        for field in [
            self.offset,
            self.next,
            self.epoch.0,
            self.incarnation.0,
            self.served_ms,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out
    }

    /// What [`Tail::encode`] made; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let fields = bytes.strip_prefix(RESUME_MAGIC)?;
        if fields.len() != RESUME_BYTES - RESUME_MAGIC.len() {
            return None;
        }
        let mut numbers = fields.chunks_exact(8).map(|chunk| {
            let mut number = [0; 8];
            number.copy_from_slice(chunk);
            u64::from_le_bytes(number)
        });
        Some(Self {
            offset: numbers.next()?,
            next: numbers.next()?,
            epoch: ShardEpoch(numbers.next()?),
            incarnation: Incarnation(numbers.next()?),
            served_ms: numbers.next()?,
        })
    }
}

const RESUME_MAGIC: &[u8; 8] = b"GB6KRES\x01";
const RESUME_BYTES: usize = 8 + 5 * 8;
