//! Walking over the batches of a segment: every one is checked before it is believed, also those
//! that are only passed over. A batch's header decides where the next one begins and which
//! positions are missing, so an unchecked one could turn damage into a hole that looks like what
//! retention left.

use std::io;

use gb6_core_model::Position;
use gb6_core_ports::StoreError;

use crate::format::{FrameHeader, HEADER_BYTES, SegmentHeader};
use crate::index::{Bounds, Point};
use crate::read_at::{ReadAt, io_error};
use crate::scan::Window;

/// Why a walk can not go on.
pub enum WalkError {
    /// The file could not be read.
    Io(io::Error),
    /// Something else than the batch that belongs here.
    Damage {
        /// Where, in bytes.
        byte: u64,
        /// The position that was expected there.
        position: Position,
        /// What is wrong.
        detail: &'static str,
    },
}

impl WalkError {
    /// The error of reading the segment that messages call `path`.
    pub fn of(self, path: &str) -> StoreError {
        match self {
            WalkError::Io(e) => io_error("read", path.to_owned(), &e),
            WalkError::Damage {
                byte,
                position,
                detail,
            } => StoreError::Corrupt {
                segment: path.to_owned(),
                byte,
                position,
                detail: detail.to_owned(),
            },
        }
    }
}

impl From<io::Error> for WalkError {
    fn from(e: io::Error) -> Self {
        WalkError::Io(e)
    }
}

/// A walk over one segment, from a point of its sparse index on.
pub struct Walk<'a, F> {
    window: Window<'a, F>,
    header: &'a SegmentHeader,
    /// The segment's first position, the one after its last, and where its batches end, as they
    /// were when the walk began.
    first: Position,
    end: Position,
    frames_end: u64,
    at: u64,
    /// The position that the batch at `at` begins with, or, where `exact` is false, may begin with
    /// at the lowest.
    expected: Position,
    exact: bool,
    /// The checked batch at `at`.
    found: Option<FrameHeader>,
}

impl<'a, F: ReadAt> Walk<'a, F> {
    /// A walk that stands at the end; [`Walk::seek`] takes it to where reading begins.
    pub fn new(file: &'a F, header: &'a SegmentHeader, bounds: &Bounds, chunk: usize) -> Self {
        Self {
            window: Window::new(file, bounds.frames_end, chunk),
            header,
            first: bounds.first,
            end: bounds.end,
            frames_end: bounds.frames_end,
            at: 0,
            expected: bounds.first,
            exact: false,
            found: None,
        }
    }

    /// Goes on to `point` unless the walk has come further already. Without one there is nothing
    /// in the segment.
    pub fn seek(&mut self, point: Option<&Point>) {
        let whole = self.header.generation == 0;
        let (position, byte) = match point {
            // Where a segment begins is known without its index.
            Some((_, byte)) if whole && *byte == HEADER_BYTES as u64 => (self.first, *byte),
            Some((position, byte)) => (*position, *byte),
            None => (self.first, self.frames_end),
        };
        if byte > self.at || self.at == 0 {
            self.at = byte;
            self.expected = position;
            self.exact = whole || point.is_some();
            self.found = None;
        }
    }

    /// Goes to the first batch, wherever the segment's index leads to.
    pub fn begin(&mut self) {
        self.at = HEADER_BYTES as u64;
        self.expected = self.first;
        self.exact = self.header.generation == 0;
        self.found = None;
    }

    /// The batch where the walk stands, checked; `None` behind the last one.
    ///
    /// # Errors
    /// Reading fails, or what is there is not what belongs there.
    pub fn frame(&mut self) -> Result<Option<FrameHeader>, WalkError> {
        if self.found.is_none() && self.at < self.frames_end {
            self.found = Some(self.check()?);
        }
        if self.found.is_none() && self.header.generation == 0 && self.expected != self.end {
            return Err(self.damage("batches are missing at the end of this segment"));
        }
        Ok(self.found)
    }

    fn check(&mut self) -> Result<FrameHeader, WalkError> {
        let Some(frame) = self.window.frame_header(self.at)? else {
            return Err(self.damage("no batch begins here"));
        };
        if !frame.checksum_holds(self.window.bytes(self.at, frame.bytes)?) {
            return Err(self.damage("a batch's checksum is wrong"));
        }
        if frame.shard_epoch != self.header.shard_epoch
            || frame.owner_incarnation != self.header.owner_incarnation
        {
            return Err(self.damage("a batch is not of this segment's owner"));
        }
        let follows = match self.exact {
            true => frame.first == self.expected,
            false => frame.first >= self.expected,
        };
        if !follows || frame.end() > self.end {
            return Err(self.damage("a batch's positions do not follow"));
        }
        Ok(frame)
    }

    /// Steps behind the batch that [`Walk::frame`] answered.
    pub fn pass(&mut self) {
        if let Some(frame) = self.found.take() {
            self.at += frame.bytes as u64;
            self.expected = frame.end();
            self.exact = self.header.generation == 0;
        }
    }

    /// Where the walk stands, in bytes.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The bytes of the batch that [`Walk::frame`] answered.
    ///
    /// # Errors
    /// Reading fails.
    pub fn bytes(&mut self, frame: &FrameHeader) -> io::Result<&[u8]> {
        self.window.bytes(self.at, frame.bytes)
    }

    fn damage(&self, detail: &'static str) -> WalkError {
        WalkError::Damage {
            byte: self.at,
            position: self.expected,
            detail,
        }
    }
}
