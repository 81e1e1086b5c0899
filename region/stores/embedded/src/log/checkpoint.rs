//! Checkpoints beside the log. Two are kept, and retention removes from the log only what both cover.

use gb6_core_model::Position;
use gb6_core_ports::StoreError;
use gb6_region_archive::checkpoint::{CHECKPOINT_BYTES_MAX, damage, encode, is_whole, state_of};

use crate::vfs::{Named, Vfs, read_file, replace_file};

pub(crate) fn name_of(position: Position) -> String {
    format!("{position:020}.ckpt")
}

fn position_of(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(".ckpt")?;
    let well_formed = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}

pub(crate) fn stored<V: Vfs>(vfs: &V) -> Result<Vec<Position>, StoreError> {
    let names = vfs.list().named(vfs, "list", "")?;
    let mut all: Vec<Position> = names.iter().filter_map(|n| position_of(n)).collect();
    all.sort_unstable();
    Ok(all)
}

/// Stores a checkpoint, and drops the older ones but the newest that is whole: the one that is used
/// should this one be damaged later.
pub(crate) fn save<V: Vfs>(vfs: &V, position: Position, state: &[u8]) -> Result<(), StoreError> {
    replace_file(vfs, &name_of(position), &encode(position, state))?;
    let mut kept = false;
    // Later ones are a newer owner's: this one was fenced and does not know it yet.
    for old in stored(vfs)?.into_iter().rev().filter(|p| *p < position) {
        match is_whole_file(vfs, old) {
            Ok(true) if !kept => {
                kept = true;
                continue;
            }
            Ok(_) => {}
            // Whether it is of use is not known: it stays, and counts for nothing.
            Err(_) => continue,
        }
        let name = name_of(old);
        match vfs.remove(&name) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.named(vfs, "remove", &name)?,
        }
    }
    Ok(())
}

/// Removes checkpoints ahead of `end`, where a log begins to be written on: they are of another
/// one, which this was restored in place of.
pub(crate) fn remove_ahead<V: Vfs>(vfs: &V, end: Position) {
    for ahead in stored(vfs).unwrap_or_default() {
        if ahead > end {
            // Passed over until the log has got so far, and looked at then by its reader.
            let _ = vfs.remove(&name_of(ahead));
        }
    }
}

/// The newest checkpoint that is whole, at or before `end`, and below `before`.
pub(crate) fn load<V: Vfs>(
    vfs: &V,
    end: Position,
    before: Position,
) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
    let wanted = |p: &Position| *p <= end && *p < before;
    for position in stored(vfs)?.into_iter().rev().filter(wanted) {
        let name = name_of(position);
        let data = match read_file(vfs, &name, CHECKPOINT_BYTES_MAX) {
            Ok(data) => data,
            Err(StoreError::Corrupt { .. }) => continue,
            Err(_) if !vfs.exists(&name).named(vfs, "look for", &name)? => continue,
            Err(e) => return Err(e),
        };
        if damage(&data, position).is_none() {
            return Ok(Some((position, state_of(data))));
        }
    }
    Ok(None)
}

/// The stored checkpoints, oldest first, each with what is wrong with it, if anything is. One that
/// is replaced meanwhile is left out.
pub(crate) fn check<V: Vfs>(vfs: &V) -> Result<Vec<(Position, Option<StoreError>)>, StoreError> {
    let mut found = Vec::new();
    for position in stored(vfs)? {
        let name = name_of(position);
        let problem = match read_file(vfs, &name, CHECKPOINT_BYTES_MAX) {
            Ok(data) => damage(&data, position).map(|detail| corrupt(vfs, position, detail)),
            Err(_) if !vfs.exists(&name).named(vfs, "look for", &name)? => continue,
            Err(e) => Some(e),
        };
        found.push((position, problem));
    }
    Ok(found)
}

/// The error of a checkpoint that is not whole.
pub(crate) fn corrupt<V: Vfs>(
    vfs: &V,
    position: Position,
    detail: impl Into<String>,
) -> StoreError {
    StoreError::Corrupt {
        segment: vfs.path(&name_of(position)),
        byte: 0,
        position,
        detail: detail.into(),
    }
}

/// Whether a stored checkpoint is whole, without holding it in memory.
fn is_whole_file<V: Vfs>(vfs: &V, position: Position) -> Result<bool, StoreError> {
    let name = name_of(position);
    let file = vfs.open(&name).named(vfs, "open", &name)?;
    is_whole(&file, position).named(vfs, "read", &name)
}
