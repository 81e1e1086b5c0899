//! Giving space back: which segments may go, which are worth rewriting, and doing it.

use gb6_core_model::Position;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::retention::{RetentionOffset, retention_offset};
use gb6_core_ports::{BlobKey, Fence, Retain, RetentionPlan, SegmentPlan, StoreError};
use gb6_core_wire::record::Record;

use crate::archive::Archive;
use crate::format::SegmentHeader;
use crate::manifest::{Manifest, SegmentEntry};
use crate::reading::SegmentError;
use crate::summary::Summary;

/// The part of a log that is not archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// The position that the log's next record takes.
    pub next: Position,
    /// Bytes of the records that are not archived.
    pub bytes: u64,
}

struct Verdict {
    bytes: u64,
    dead_bytes: u64,
    all_dead: bool,
}

impl Archive {
    /// The segment that holds `position`, for [`Archive::rewrite`]; `None` where none does.
    pub fn segment_of(&self, position: Position) -> Option<u64> {
        let manifest = self.current();
        let index = manifest.index_of(position)?;
        Some(manifest.segments[index].seq)
    }

    /// As [`gb6_core_ports::ShardLog::trim`], for the archived part: whole segments before `to` go, never
    /// past a consumer that has not lapsed.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `OutcomeUnknown`.
    pub fn trim(&self, fence: &Fence, to: Position, live: Live) -> Result<Position, StoreError> {
        let held = self.lapse_consumers(fence, live)?;
        let bound = held.map_or(to, |held| held.min(to));
        let mut gone = Vec::new();
        let manifest = self.change("trim", fence, |manifest| {
            let dead = manifest.segments.iter().take_while(|s| s.next <= bound);
            let dead = dead.count();
            gone.extend(manifest.segments.drain(..dead));
            manifest.first = manifest.segments.first().map_or(manifest.next, |s| s.first);
            Ok(dead > 0)
        })?;
        let mut keys: Vec<BlobKey> = Vec::new();
        for segment in &gone {
            keys.extend(self.keys_of(segment)?);
        }
        self.delete(keys)?;
        Ok(manifest.first)
    }

    /// As [`gb6_core_ports::ShardLog::rewrite`]; when it returns the old content is deleted.
    ///
    /// # Errors
    /// `Conflict`: there is no such segment, or it was replaced meanwhile. `Fenced`; `Corrupt`;
    /// `Unavailable`; `OutcomeUnknown`: rewrite again.
    pub fn rewrite(
        &self,
        fence: &Fence,
        segment: u64,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<u64, StoreError> {
        self.check(fence)?;
        // What an earlier one could not delete goes first.
        self.delete(Vec::new())?;
        let manifest = self.current();
        let old = find(&manifest, segment)?.clone();
        let new = self.write_generation(fence, &manifest, &old, retain)?;
        self.change("rewrite", fence, |manifest| {
            if manifest.segments.iter().any(|s| s.name == new.name) {
                return Ok(false);
            }
            let place = manifest.segments.iter_mut().find(|s| s.name == old.name);
            let Some(place) = place else {
                return Err(StoreError::Conflict {
                    what: format!("segment {segment} was replaced meanwhile"),
                });
            };
            *place = new.clone();
            Ok(true)
        })?;
        self.delete(self.keys_of(&old)?.to_vec())?;
        Ok(old.bytes.saturating_sub(new.bytes))
    }

    fn write_generation(
        &self,
        fence: &Fence,
        manifest: &Manifest,
        old: &SegmentEntry,
        retain: &mut dyn FnMut(&Record) -> Retain,
    ) -> Result<SegmentEntry, StoreError> {
        let header = SegmentHeader {
            generation: old.generation + 1,
            ..old.header(manifest)
        };
        let mut output = self.output(fence, old.first, header)?;
        let object = self.object(old, false)?;
        let mut failed = None;
        let read = self.read_segment(manifest, old, old.first, &object, &mut |record, encoded| {
            let what = retain(&record);
            failed = output.writer().retain(record, encoded, what).err();
            failed.is_none()
        });
        match (read, failed) {
            (Err(SegmentError::Gone(_)), _) => Err(StoreError::Conflict {
                what: format!("segment {} was replaced meanwhile", old.seq),
            }),
            (Err(SegmentError::Store(e)), _) | (_, Some(e)) => Err(e),
            (Ok(_), None) => self.close(output, old.first, old.next),
        }
    }

    /// As [`gb6_core_ports::ShardLog::plan_retention`], for the archived part.
    ///
    /// # Errors
    /// `Corrupt`; `Unavailable`.
    pub fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        let consumers = self.consumer_list()?;
        let held = consumers.held().unwrap_or(Position::MAX);
        self.reading(|manifest| {
            let mut plan = RetentionPlan {
                trim_to: manifest.first,
                ..RetentionPlan::default()
            };
            let mut prefix = true;
            for segment in manifest.segments.iter().take_while(|s| s.next <= settled) {
                let verdict = self.judge(manifest, segment, first_kept)?;
                if verdict.all_dead && prefix {
                    plan.trim_to = segment.next;
                    continue;
                }
                prefix = false;
                let worth = verdict.dead_bytes > 0 && verdict.dead_bytes * 2 >= verdict.bytes;
                if worth && segment.next <= held {
                    plan.rewrite.push(SegmentPlan {
                        segment: segment.seq,
                        bytes: verdict.bytes,
                        dead_bytes: verdict.dead_bytes,
                    });
                }
            }
            plan.waits_for = consumers.waits_for(plan.trim_to);
            Ok(plan)
        })
    }

    fn judge(
        &self,
        manifest: &Manifest,
        segment: &SegmentEntry,
        first_kept: &FirstKept<'_>,
    ) -> Result<Verdict, SegmentError> {
        let mut verdict = Verdict {
            bytes: 0,
            dead_bytes: 0,
            all_dead: true,
        };
        if segment.records == 0 {
            return Ok(verdict);
        }
        let index = self.index(manifest, segment)?;
        if let Some(summary) = &index.summary {
            let (bytes, dead_bytes) = summary.dead_bytes(first_kept);
            return Ok(Verdict {
                bytes,
                dead_bytes,
                all_dead: summary.is_dead(first_kept),
            });
        }
        // No summary: the index was lost, or the segment has too many rooms.
        let mut summary = Summary::default();
        let object = self.object(segment, false)?;
        self.read_segment(
            manifest,
            segment,
            segment.first,
            &object,
            &mut |record, encoded| {
                let bytes = encoded.len() as u64;
                let dead = match retention_offset(&record) {
                    RetentionOffset::Room(at) => at < first_kept(&record.instance, &record.channel),
                    RetentionOffset::Settled => true,
                    RetentionOffset::Pinned => false,
                };
                verdict.bytes += bytes;
                verdict.dead_bytes += if dead { bytes } else { 0 };
                verdict.all_dead &= dead;
                summary.add(&record, bytes);
                true
            },
        )?;
        if !summary.overflow {
            let mut index = (*index).clone();
            index.summary = Some(summary);
            self.keep_index(self.names.index(&segment.name)?, index);
        }
        Ok(verdict)
    }
}

/// The segment with this number.
fn find(manifest: &Manifest, seq: u64) -> Result<&SegmentEntry, StoreError> {
    let found = manifest.segments.iter().find(|s| s.seq == seq);
    found.ok_or_else(|| StoreError::Conflict {
        what: format!("segment {seq} is not a sealed segment of this log"),
    })
}
