//! Reading the records of one segment, wherever it lies.

use std::cell::Cell;

use gb6_core_model::Position;
use gb6_core_wire::record::Record;

use crate::format::{SegmentHeader, records_of, records_where};
use crate::index::{Bounds, Point};
use crate::read_at::ReadAt;
use crate::walk::{Walk, WalkError};

/// A sealed segment, or the committed part of an open one.
#[derive(Debug)]
pub struct SegmentView<'a, F> {
    /// Its bytes.
    pub file: &'a F,
    /// Its header.
    pub header: &'a SegmentHeader,
    /// Its bounds.
    pub bounds: Bounds,
    /// The sparse index, or the part of it from the point on that leads to what is wanted.
    pub points: &'a [Point],
}

impl<F: ReadAt> SegmentView<'_, F> {
    fn damage(byte: u64, position: Position, detail: &'static str) -> WalkError {
        WalkError::Damage {
            byte,
            position,
            detail,
        }
    }

    /// Hands the records from `from` on to `each`, decoded and as they lie there, until it answers
    /// false. Answers whether it always answered true. Reads `chunk` bytes at a time.
    ///
    /// # Errors
    /// Reading fails, or damage is met on the way.
    pub fn read(
        &self,
        from: Position,
        chunk: usize,
        each: &mut dyn FnMut(Record, &[u8]) -> bool,
    ) -> Result<bool, WalkError> {
        let after = self.points.partition_point(|(p, _)| *p <= from);
        let mut walk = Walk::new(self.file, self.header, &self.bounds, chunk);
        walk.seek(self.points.get(after.saturating_sub(1)));
        while let Some(frame) = walk.frame()? {
            if frame.end() > from {
                let at = walk.at();
                let more = records_of(&frame, walk.bytes(&frame)?, from, &mut *each)
                    .map_err(|detail| Self::damage(at, frame.first, detail))?;
                if !more {
                    return Ok(false);
                }
            }
            walk.pass();
        }
        Ok(true)
    }

    /// Finds the records of `positions` in their ascending `order`, from the `done`-th on, as far as
    /// they lie before this segment's end; what is found goes to the same place of `found`. The first
    /// of them must not lie before the segment. Reads `chunk` bytes at a time.
    ///
    /// # Errors
    /// As [`SegmentView::read`].
    pub fn find(
        &self,
        positions: &[Position],
        order: &[usize],
        chunk: usize,
        done: &mut usize,
        found: &mut [Option<Record>],
    ) -> Result<(), WalkError> {
        let mut walk = Walk::new(self.file, self.header, &self.bounds, chunk);
        while let Some(wanted) = order.get(*done).map(|i| positions[*i])
            && wanted < self.bounds.end
        {
            let after = self.points.partition_point(|(p, _)| *p <= wanted);
            walk.seek(self.points.get(after.saturating_sub(1)));
            let frame = loop {
                match walk.frame()? {
                    Some(frame) if frame.end() <= wanted => walk.pass(),
                    found => break found.filter(|f| f.first <= wanted),
                }
            };
            // No batch: a hole.
            let Some(frame) = frame else {
                *done += 1;
                continue;
            };
            let at = walk.at();
            let bytes = walk.bytes(&frame)?;
            let next = Cell::new(*done);
            let next_wanted = || order.get(next.get()).map(|i| positions[*i]);
            records_where(
                &frame,
                bytes,
                |position| next_wanted() == Some(position),
                |record, _| {
                    while next_wanted() == Some(record.position) {
                        found[order[next.get()]] = Some(record.clone());
                        next.set(next.get() + 1);
                    }
                    next_wanted().is_some_and(|wanted| wanted < frame.end())
                },
            )
            .map_err(|detail| Self::damage(at, frame.first, detail))?;
            *done = next.get();
        }
        Ok(())
    }
}
