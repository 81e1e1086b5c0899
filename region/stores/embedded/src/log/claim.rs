//! Taking a shard: the next segment's name, exclusively, and what a new owner does about the tail
//! that the last one left.

use std::io;

use gb6_core_ports::{Fence, StoreError};
use gb6_region_archive::format::{FIRST_UNKNOWN, SegmentHeader};
use gb6_region_archive::index::IndexFile;

use super::jobs::{Prepared, prepare, write_index};
use super::load::{Loaded, OpenTail, load};
use super::reader::Shared;
use super::segment::{read_header, segment_name, segment_seq};
use crate::vfs::{Named, Vfs, VfsFile, io_error, is_temporary, read_exact_at};

/// How often an acquisition looks again because somebody else took the name that it wanted.
const ACQUIRE_ATTEMPTS: usize = 16;

pub(crate) fn header(seq: u64, fence: &Fence) -> SegmentHeader {
    SegmentHeader {
        seq,
        shard_epoch: fence.shard_epoch,
        owner_incarnation: fence.owner_incarnation,
        first: FIRST_UNKNOWN,
        shard: fence.shard,
        generation: 0,
        region: fence.region.to_string(),
    }
}

/// The header of the newest segment after `seq`, where there is one that can be read.
pub(crate) fn newest_header<V: Vfs>(vfs: &V, seq: u64) -> Option<SegmentHeader> {
    let names = vfs.list().ok()?;
    let newest = names.iter().filter_map(|n| segment_seq(n)).max();
    let name = segment_name(newest.filter(|newest| *newest > seq)?);
    let file = vfs.open(&name).ok()?;
    read_header(vfs, &name, &file).ok()
}

/// Takes the next segment's name for `fence`, exclusively and durably.
pub(crate) fn claim<V: Vfs>(
    shared: &Shared<V>,
    fence: &Fence,
) -> Result<Prepared<V::File>, StoreError> {
    let vfs = &shared.vfs;
    for _ in 0..ACQUIRE_ATTEMPTS {
        let loaded = load(vfs, &shared.config)?;
        if fence.shard_epoch <= loaded.epoch {
            return Err(StoreError::Fenced {
                held: fence.shard_epoch,
                current: loaded.epoch,
            });
        }
        let seq = loaded.last_seq.map_or(0, |seq| seq + 1);
        let prepared = prepare(vfs, header(seq, fence), shared.config.segment_bytes_first)?;
        let name = segment_name(seq);
        match vfs.publish(&prepared.name, &name) {
            Ok(()) => {
                let next = is_next(vfs, loaded.last_seq, seq).named(vfs, "look for", &name)?;
                if !next {
                    take_name_back(vfs, &name);
                    let current = load(vfs, &shared.config)?.epoch;
                    return Err(StoreError::Fenced {
                        held: fence.shard_epoch,
                        current,
                    });
                }
                vfs.sync_dir().named(vfs, "sync directory of", &name)?;
                return Ok(prepared);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                vfs.remove(&prepared.name)
                    .named(vfs, "remove", &prepared.name)?;
            }
            // Tidied away by somebody who acquired the shard meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("rename", vfs.path(&name), &e)),
        }
    }
    Err(StoreError::Unavailable {
        cause: "others keep acquiring this shard".into(),
    })
}

/// Whether the name `seq` that was just taken follows the newest one. `before` was the newest when
/// its taker looked; one that slept since then may have found a name free because whoever had it
/// is gone too: retention removes from the oldest on, so `before` went first.
pub(crate) fn is_next<V: Vfs>(vfs: &V, before: Option<u64>, seq: u64) -> io::Result<bool> {
    match before {
        Some(before) => vfs.exists(&segment_name(before)),
        None => {
            let names = vfs.list()?;
            Ok(names
                .iter()
                .filter_map(|n| segment_seq(n))
                .all(|s| s == seq))
        }
    }
}

/// Gives a name back that was taken behind the newest one. The segment holds nothing; one that
/// stays because this fails is passed over and removed by the next owner.
pub(crate) fn take_name_back<V: Vfs>(vfs: &V, name: &str) {
    let _ = vfs.remove(name).and_then(|()| vfs.sync_dir());
}

/// Whether the claimed segment is still the newest, and nothing before it has its epoch.
pub(crate) fn check_claim<F>(
    loaded: &Loaded<F>,
    fence: &Fence,
    seq: u64,
) -> Result<(), StoreError> {
    let ours = loaded.last_seq == Some(seq) && loaded.epoch == fence.shard_epoch;
    if ours {
        return Ok(());
    }
    Err(StoreError::Fenced {
        held: fence.shard_epoch,
        current: loaded.epoch,
    })
}

/// Makes the last batch of an unsealed log durable: its owner may have died between writing and
/// syncing, or its sync may have failed, after which the system counts pages as clean that never
/// reached the disk. So the same bytes are written again and synced. Never answers `StorageFull`,
/// from which a caller concludes that what can be read is durable.
pub(crate) fn make_durable<V: Vfs>(vfs: &V, tail: &OpenTail<V::File>) -> Result<(), StoreError> {
    write_again(vfs, tail).map_err(|e| match e {
        // A file system that writes elsewhere what is overwritten.
        StoreError::StorageFull { path } => StoreError::Io {
            operation: "make durable on a full disk",
            path,
            detail: "the file system has no space to overwrite".into(),
        },
        other => other,
    })
}

fn write_again<V: Vfs>(vfs: &V, tail: &OpenTail<V::File>) -> Result<(), StoreError> {
    let name = tail.segment.name();
    let (at, len) = tail.last;
    let file = vfs.open(&name).named(vfs, "open", &name)?;
    let mut bytes = vec![0; len];
    read_exact_at(&file, at, &mut bytes).named(vfs, "read", &name)?;
    file.write_at(at, &bytes).named(vfs, "write", &name)?;
    file.sync().named(vfs, "sync", &name)
}

/// Makes what a log holds durable for somebody who has no space to own it, and will show it. Needs
/// no space: the blocks are there.
pub(crate) fn make_readable<V: Vfs>(shared: &Shared<V>) -> Result<(), StoreError> {
    match load(&shared.vfs, &shared.config)?.tail {
        Some(tail) => make_durable(&shared.vfs, &tail),
        None => Ok(()),
    }
}

/// Gives back the blocks behind an unsealed segment's records and writes its index, so that it is
/// never scanned again. What fails here is done by the next acquisition.
pub(crate) fn settle_tail<V: Vfs>(vfs: &V, tail: &OpenTail<V::File>) {
    let (bounds, points) = tail.segment.indexed();
    if let Ok(file) = vfs.open(&tail.segment.name()) {
        let _ = file.set_len(bounds.frames_end);
    }
    let index = IndexFile {
        seq: tail.segment.header.seq,
        generation: tail.segment.header.generation,
        bounds,
        points,
        summary: None,
    };
    let _ = write_index(vfs, &index);
}

/// Removes what owners that are gone left behind: temporary files, indexes whose segment was
/// removed, and empty segments before `first`, the log's first one.
pub(crate) fn remove_leftovers<V: Vfs>(vfs: &V, first: u64) {
    let names = vfs.list().unwrap_or_default();
    for name in &names {
        let orphan = name
            .strip_suffix(".idx")
            .is_some_and(|stem| names.binary_search(&format!("{stem}.seg")).is_err());
        let before = segment_seq(name).is_some_and(|seq| seq < first);
        if is_temporary(name) || orphan || before {
            let _ = vfs.remove(name);
        }
    }
}
