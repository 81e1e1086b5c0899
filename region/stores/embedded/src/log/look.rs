//! What tools see of a log: its segments one by one, whole or not.

use gb6_core_model::Position;
use gb6_core_ports::{ConsumerState, LogRange, StoreError};
use gb6_core_wire::record::Record;
use gb6_region_archive::format::records_of;
use gb6_region_archive::scan::{ScanOptions, scan};

use super::checkpoint;
use super::reader::LogReader;
use super::segment::{read_header, segment_name, segment_seq};
use crate::inspect::SegmentInfo;
use crate::vfs::{Named, Vfs};

const INDEX_EVERY: u64 = 1024 * 1024;

pub(crate) fn segments<V: Vfs>(reader: &LogReader<V>) -> Vec<SegmentInfo> {
    let segments = reader.shared.segments();
    segments
        .iter()
        .map(|segment| {
            let (header, state) = (&segment.header, segment.state.read());
            SegmentInfo {
                seq: header.seq,
                generation: header.generation,
                shard_epoch: header.shard_epoch,
                owner_incarnation: header.owner_incarnation.0,
                region: header.region.clone(),
                shard: header.shard.0,
                range: LogRange {
                    first: state.first,
                    next: state.end,
                },
                records: state.records,
                bytes: state.frames_end,
                sealed: state.sealed,
            }
        })
        .collect()
}

/// The consumers as stored: none is marked as lapsed by looking.
pub(crate) fn consumers<V: Vfs>(reader: &LogReader<V>) -> Vec<ConsumerState> {
    reader.shared.consumers.lock().all()
}

/// The checkpoints as stored: their positions, and what is wrong with each.
pub(crate) fn checkpoints<V: Vfs>(
    vfs: &V,
) -> Result<Vec<(Position, Option<StoreError>)>, StoreError> {
    checkpoint::check(vfs)
}

/// The error of a checkpoint that claims to cover more than the log holds.
pub(crate) fn checkpoint_ahead<V: Vfs>(vfs: &V, position: Position, end: Position) -> StoreError {
    let detail = format!(
        "it lies ahead of the log's end at {end}, so the end of the log was lost, or the file is of \
         another log: restore the segments from a copy, or remove it to go on with what is there"
    );
    checkpoint::corrupt(vfs, position, detail)
}

/// Reads all records of a segment from its bytes, not by its index, and answers how many.
pub(crate) fn read_segment<V: Vfs>(
    reader: &LogReader<V>,
    seq: u64,
    each: &mut dyn FnMut(&Record, &str),
) -> Result<u64, StoreError> {
    let segments = reader.shared.segments();
    let Some(segment) = segments.iter().find(|s| s.header.seq == seq) else {
        return Ok(0);
    };
    let limit = segment.state.read().end;
    scan_file(&reader.shared.vfs, seq, limit, each)
}

/// What is wrong with each segment file by itself.
pub(crate) fn problems_by_file<V: Vfs>(vfs: &V) -> Vec<StoreError> {
    let names = match vfs.list().named(vfs, "list", "") {
        Ok(names) => names,
        Err(e) => return vec![e],
    };
    names
        .iter()
        .filter_map(|name| segment_seq(name))
        .filter_map(|seq| scan_file(vfs, seq, u64::MAX, &mut |_, _| {}).err())
        .collect()
}

fn scan_file<V: Vfs>(
    vfs: &V,
    seq: u64,
    limit: u64,
    each: &mut dyn FnMut(&Record, &str),
) -> Result<u64, StoreError> {
    let name = segment_name(seq);
    let path = vfs.path(&name);
    let file = vfs.open(&name).named(vfs, "open", &name)?;
    let header = read_header(vfs, &name, &file)?;
    let options = ScanOptions {
        path: path.clone(),
        limit,
        index_every: INDEX_EVERY,
    };
    let mut records = 0;
    scan(&file, &header, &options, |frame, bytes, at| {
        records_of(frame, bytes, 0, |record, _| {
            records += 1;
            each(&record, &path);
            true
        })
        .map(|_| ())
        .map_err(|detail| StoreError::Corrupt {
            segment: path.clone(),
            byte: at,
            position: frame.first,
            detail: detail.to_owned(),
        })
    })?;
    Ok(records)
}
