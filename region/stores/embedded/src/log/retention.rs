//! Retention: which segments may go, and letting them go, oldest first.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::log::FirstKept;
use gb6_core_ports::retention::{RetentionOffset, retention_offset};
use gb6_core_ports::{RetentionPlan, SegmentPlan, StoreError};
use gb6_region_archive::summary::Summary;

use super::jobs::write_index;
use super::reader::Shared;
use super::segment::{Segment, SegmentError, index_name, read_index, segment_name};
use crate::vfs::{Named, Vfs};

const READ_CHUNK: usize = 1024 * 1024;

struct Verdict {
    bytes: u64,
    dead_bytes: u64,
    all_dead: bool,
}

impl<V: Vfs> Shared<V> {
    /// Bytes of batches at or behind `position`, counted in whole segments.
    fn bytes_behind(&self, position: Position) -> u64 {
        let segments = self.segments();
        let behind = segments.iter().filter_map(|s| {
            let state = s.state.read();
            (state.end > position && state.first >= position).then_some(state.frames_end)
        });
        behind.sum()
    }

    /// Marks consumers as lapsed that are too far behind, and answers how far a trim to `to` may
    /// go.
    pub(crate) fn trim_bound(&self, to: Position) -> Result<Position, StoreError> {
        let mut consumers = self.consumers.lock();
        let bound = self.config.consumer_lag_bytes_max;
        consumers.lapse(&self.vfs, bound, |p| self.bytes_behind(p))?;
        Ok(consumers.held().map_or(to, |held| held.min(to)))
    }

    /// Removes the oldest segment when it is sealed and ends at or before `to`; answers the first
    /// position kept when there is none to remove. Oldest first and each durably: a log never has a
    /// hole, and an owner that lost the shard and slept finds its own segment gone before its
    /// successor's.
    pub(crate) fn remove_oldest(&self, to: Position) -> Result<Option<Position>, StoreError> {
        let vfs = &self.vfs;
        let (oldest, all) = {
            let mut segments = self.segments.write();
            let all = segments.clone();
            let Some(oldest) = all
                .first()
                .filter(|s| all.len() > 1 && s.state.read().end <= to)
            else {
                return Ok(Some(all.first().map_or(0, |s| s.state.read().first)));
            };
            *segments = Arc::new(all[1..].to_vec());
            (oldest.clone(), all)
        };
        let name = segment_name(oldest.header.seq);
        let removed = match vfs.remove(&name) {
            // An empty one whose owner was fenced and gave its name back.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.named(vfs, "remove", &name),
        };
        let removed = removed.and_then(|()| vfs.sync_dir().named(vfs, "sync directory of", &name));
        if let Err(e) = removed {
            *self.segments.write() = all;
            return Err(e);
        }
        // Derived; an index without its segment is removed by the next owner.
        let _ = vfs.remove(&index_name(oldest.header.seq));
        Ok(None)
    }

    pub(crate) fn plan_retention(
        &self,
        first_kept: &FirstKept<'_>,
        settled: Position,
    ) -> Result<RetentionPlan, StoreError> {
        let consumers = self.consumers.lock().clone();
        let held = consumers.held().unwrap_or(Position::MAX);
        let segments = self.segments();
        let mut plan = RetentionPlan {
            trim_to: self.range().first,
            ..RetentionPlan::default()
        };
        let mut prefix = true;
        for segment in &segments[..segments.len().saturating_sub(1)] {
            let end = segment.state.read().end;
            if end > settled {
                break;
            }
            let verdict = match self.judge(segment, first_kept) {
                Ok(verdict) => verdict,
                // Rewritten at this moment: the next plan sees it.
                Err(SegmentError::Moved) => break,
                Err(SegmentError::Store(e)) => return Err(e),
            };
            if verdict.all_dead && prefix {
                plan.trim_to = end;
                continue;
            }
            prefix = false;
            let worth = verdict.dead_bytes > 0 && verdict.dead_bytes * 2 >= verdict.bytes;
            if worth && end <= held {
                plan.rewrite.push(SegmentPlan {
                    segment: segment.header.seq,
                    bytes: verdict.bytes,
                    dead_bytes: verdict.dead_bytes,
                });
            }
        }
        plan.waits_for = consumers.waits_for(plan.trim_to);
        Ok(plan)
    }

    fn judge(
        &self,
        segment: &Arc<Segment<V::File>>,
        first_kept: &FirstKept<'_>,
    ) -> Result<Verdict, SegmentError> {
        let (first, records) = {
            let state = segment.state.read();
            (state.first, state.records)
        };
        if records == 0 {
            return Ok(Verdict {
                bytes: 0,
                dead_bytes: 0,
                all_dead: true,
            });
        }
        let summary = read_index(&self.vfs, &segment.header).and_then(|index| index.summary);
        if let Some(summary) = summary {
            let (bytes, dead_bytes) = summary.dead_bytes(first_kept);
            return Ok(Verdict {
                bytes,
                dead_bytes,
                all_dead: summary.is_dead(first_kept),
            });
        }
        // No summary: its owner died before it was sealed, or it has too many rooms.
        let mut verdict = Verdict {
            bytes: 0,
            dead_bytes: 0,
            all_dead: true,
        };
        let mut summary = Summary::default();
        self.read_segment(segment, first, READ_CHUNK, &mut |record, encoded| {
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
        })?;
        if !summary.overflow {
            // So that it is read once only; without it the next plan reads it again.
            let _ = write_index(&self.vfs, &segment.index(summary));
        }
        Ok(verdict)
    }
}
