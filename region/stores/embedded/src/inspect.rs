//! Looking at logs without a server: read-only, without a lock, also while one is running.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use gb6_core_model::{Offset, Position, ShardEpoch};
use gb6_core_ports::{ConsumerState, LogRange, StoreError};
use gb6_core_wire::record::{Kind, Record};

use crate::log::{LoadNote, LogConfig, SegmentedLog, look};
use crate::real_vfs::RealVfs;
use crate::vfs::Vfs;

/// One segment as [`inspect`] shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    /// Its number.
    pub seq: u64,
    /// How often it was rewritten.
    pub generation: u32,
    /// The ownership that wrote it.
    pub shard_epoch: ShardEpoch,
    /// The owner's life.
    pub owner_incarnation: u64,
    /// The region that it was written in.
    pub region: String,
    /// The shard.
    pub shard: u32,
    /// The positions that it holds.
    pub range: LogRange,
    /// Records in it; fewer than positions where retention dropped some.
    pub records: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Whether its owner finished it.
    pub sealed: bool,
}

/// A log as [`inspect`] shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogInfo {
    /// What it holds.
    pub range: LogRange,
    /// The highest epoch that owned it.
    pub epoch: ShardEpoch,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Its consumers.
    pub consumers: Vec<ConsumerState>,
    /// The position of the newest whole checkpoint.
    pub checkpoint: Option<Position>,
    /// Torn writes and fenced owners' batches that readers pass over.
    pub notes: Vec<LoadNote>,
}

/// What [`verify`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// What the log holds, where it could be opened.
    pub range: LogRange,
    /// Records that were read and are whole.
    pub records: u64,
    /// Rooms among them.
    pub rooms: u64,
    /// Whole checkpoints of it.
    pub checkpoints: u64,
    /// Everything that is wrong, in the order of the log. Empty: the log is whole.
    pub problems: Vec<StoreError>,
    /// What readers pass over, and is no fault.
    pub notes: Vec<LoadNote>,
}

/// The logs at `path`: a shard's folder, or all shards of a data directory.
///
/// Errors: `Io` when there is no log.
pub fn logs_at(path: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let io = |detail: String| StoreError::Io {
        operation: "find logs in",
        path: path.display().to_string(),
        detail,
    };
    let folders = |dir: &Path| -> Result<Vec<PathBuf>, StoreError> {
        let entries = fs::read_dir(dir).map_err(|e| io(e.to_string()))?;
        Ok(entries.flatten().map(|e| e.path()).collect())
    };
    let shards = path.join("shards");
    let mut found = if shards.is_dir() {
        folders(&shards)?
    } else {
        vec![path.to_owned()]
    };
    let mut logs = Vec::new();
    found.sort_unstable_by_key(|p| {
        let name = p.file_name().map(|n| n.to_string_lossy().into_owned());
        let number: Option<u32> = name.as_deref().and_then(|n| n.parse().ok());
        (number.is_none(), number, name)
    });
    for folder in found {
        let holds = |p: &PathBuf| p.extension().is_some_and(|e| e == "seg");
        if folder.is_dir() && folders(&folder)?.iter().any(holds) {
            logs.push(folder);
        }
    }
    if logs.is_empty() {
        return Err(io(
            "there is no segment file here, and no shards folder".into()
        ));
    }
    Ok(logs)
}

/// Describes the log in the shard folder at `path`.
///
/// Errors: as [`SegmentedLog::open`].
pub fn inspect(path: &Path) -> Result<LogInfo, StoreError> {
    inspect_in(RealVfs::existing(path))
}

/// As [`inspect`], for any directory.
pub fn inspect_in<V: Vfs>(vfs: V) -> Result<LogInfo, StoreError> {
    let log = SegmentedLog::open(vfs, LogConfig::default())?;
    let reader = log.reader();
    Ok(LogInfo {
        range: log.range(),
        epoch: log.epoch(),
        segments: look::segments(&reader),
        consumers: look::consumers(&reader),
        checkpoint: reader.load_checkpoint()?.map(|(position, _)| position),
        notes: log.notes().to_vec(),
    })
}

/// Reads every record and checkpoint of the log in the shard folder at `path` and checks all that
/// can be checked: checksums, order of positions, epochs, footers, and that each room's offsets
/// ascend.
pub fn verify(path: &Path) -> Verified {
    verify_in(RealVfs::existing(path))
}

/// As [`verify`], for any directory.
pub fn verify_in<V: Vfs>(vfs: V) -> Verified {
    let mut found = Verified::default();
    let mut rooms = Rooms::default();
    // Before the log: whatever a server writes meanwhile, its end is not before them.
    let checkpoints = look::checkpoints(&vfs);
    match SegmentedLog::open(vfs.clone(), LogConfig::default()) {
        Ok(log) => {
            found.range = log.range();
            found.notes = log.notes().to_vec();
            let reader = log.reader();
            for segment in look::segments(&reader) {
                let read = look::read_segment(&reader, segment.seq, &mut |record, path| {
                    found.records += 1;
                    found.problems.extend(rooms.check(record, path));
                });
                match read {
                    Ok(records) if records != segment.records => {
                        found.problems.push(StoreError::Corrupt {
                            segment: vfs.path(&format!("{:016}.seg", segment.seq)),
                            byte: 0,
                            position: segment.range.first,
                            detail: format!(
                                "{records} records are there, {} should be",
                                segment.records
                            ),
                        });
                    }
                    Ok(_) => {}
                    Err(e) => found.problems.push(e),
                }
            }
        }
        // The log as a whole does not open: what is wrong with each file by itself.
        Err(e) => {
            found.problems.push(e);
            for error in look::problems_by_file(&vfs) {
                if !found.problems.contains(&error) {
                    found.problems.push(error);
                }
            }
        }
    }
    found.rooms = rooms.0.len() as u64;
    judge_checkpoints(&vfs, checkpoints, &mut found);
    found
}

/// Adds what is wrong with the checkpoints, and what that means.
fn judge_checkpoints<V: Vfs>(
    vfs: &V,
    checkpoints: Result<Vec<(Position, Option<StoreError>)>, StoreError>,
    found: &mut Verified,
) {
    let checkpoints = match checkpoints {
        Ok(checkpoints) => checkpoints,
        Err(e) => return found.problems.push(e),
    };
    // A log that could not be opened has no end to compare with.
    let opened = found.range != LogRange::default();
    let end = found.range.next;
    let is_ahead = |position: Position| opened && position > end;
    let whole = checkpoints
        .iter()
        .filter(|(position, problem)| problem.is_none() && !is_ahead(*position));
    found.checkpoints = whole.count() as u64;
    let removed = found.range.first > 0 || found.records < end.saturating_sub(found.range.first);
    let means = if found.checkpoints > 0 || !removed {
        "harmless: a start replays more of the log instead, and the next checkpoint takes its place"
    } else {
        "no other is whole, and retention has removed records that only checkpoints cover: rooms of \
         which nothing is kept begin anew and old message ids are forgotten, unless it is restored \
         from a copy"
    };
    for (position, problem) in checkpoints {
        match problem {
            Some(StoreError::Corrupt {
                segment,
                byte,
                position,
                detail,
            }) => found.problems.push(StoreError::Corrupt {
                segment,
                byte,
                position,
                detail: format!("{detail} ({means})"),
            }),
            Some(other) => found.problems.push(other),
            None if is_ahead(position) => {
                found
                    .problems
                    .push(look::checkpoint_ahead(vfs, position, end));
            }
            None => {}
        }
    }
}

/// Each room's last generation and offset.
#[derive(Default)]
struct Rooms(BTreeMap<(String, String), (u32, Offset)>);

impl Rooms {
    /// What is wrong with a record's place in its room.
    fn check(&mut self, record: &Record, path: &str) -> Option<StoreError> {
        // Imported records keep the offsets of the log that they come from.
        if record.kind() != Kind::Message {
            return None;
        }
        let key = (record.instance.clone(), record.channel.clone());
        let now = (record.generation, record.offset);
        let before = self.0.insert(key, now)?;
        let follows = now.0 > before.0 || (now.0 == before.0 && now.1 > before.1);
        (!follows).then(|| StoreError::Corrupt {
            segment: path.to_owned(),
            byte: 0,
            position: record.position,
            detail: format!(
                "{} has offset {} behind offset {}",
                record.channel, record.offset, before.1
            ),
        })
    }
}
