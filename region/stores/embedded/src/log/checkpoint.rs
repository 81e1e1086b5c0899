//! Checkpoints beside the log: the state of a machine at a position, so that a start replays only
//! what came after. Two are kept, and retention removes from the log only what both cover.

use gb6_core_model::Position;
use gb6_core_ports::StoreError;

use super::format::{FORMAT_VERSION, u32_at, u64_at};
use crate::vfs::{Named, Vfs, VfsFile, read_exact_at, read_file, replace_file};

const MAGIC: &[u8; 8] = b"GB6CKPT\n";
const HEADER_BYTES: usize = 32;
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes read at a time to see whether a checkpoint is whole.
const READ_CHUNK: usize = 256 * 1024;

fn name_of(position: Position) -> String {
    format!("{position:020}.ckpt")
}

fn position_of(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(".ckpt")?;
    let well_formed = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}

fn stored<V: Vfs>(vfs: &V) -> Result<Vec<Position>, StoreError> {
    let names = vfs.list().named(vfs, "list", "")?;
    let mut all: Vec<Position> = names.iter().filter_map(|n| position_of(n)).collect();
    all.sort_unstable();
    Ok(all)
}

/// Stores a checkpoint, and drops the older ones but the newest that is whole: the one that is used
/// should this one be damaged later.
pub(crate) fn save<V: Vfs>(vfs: &V, position: Position, state: &[u8]) -> Result<(), StoreError> {
    let mut data = Vec::with_capacity(HEADER_BYTES + state.len());
    data.extend_from_slice(MAGIC);
    data.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(&position.to_le_bytes());
    data.extend_from_slice(&(state.len() as u64).to_le_bytes());
    data.extend_from_slice(state);
    let crc = checksum(&data);
    data[12..16].copy_from_slice(&crc.to_le_bytes());
    replace_file(vfs, &name_of(position), &data)?;
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
        let mut data = match read_file(vfs, &name, FILE_BYTES_MAX) {
            Ok(data) => data,
            Err(StoreError::Corrupt { .. }) => continue,
            Err(_) if !vfs.exists(&name).named(vfs, "look for", &name)? => continue,
            Err(e) => return Err(e),
        };
        if is_whole(&data, position) {
            data.drain(..HEADER_BYTES);
            return Ok(Some((position, data)));
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
        let problem = match read_file(vfs, &name, FILE_BYTES_MAX) {
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

fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&data[..12]), &data[16..])
}

/// Whether a stored checkpoint is whole, without holding it in memory.
fn is_whole_file<V: Vfs>(vfs: &V, position: Position) -> Result<bool, StoreError> {
    let name = name_of(position);
    let file = vfs.open(&name).named(vfs, "open", &name)?;
    let len = file.len().named(vfs, "measure", &name)?;
    if !(HEADER_BYTES as u64..=FILE_BYTES_MAX).contains(&len) {
        return Ok(false);
    }
    let mut chunk = vec![0; READ_CHUNK.min(len as usize)];
    read_exact_at(&file, 0, &mut chunk).named(vfs, "read", &name)?;
    if header_damage(&chunk, position, len).is_some() {
        return Ok(false);
    }
    let (wanted, mut crc) = (u32_at(&chunk, 12), checksum(&chunk));
    let mut at = chunk.len() as u64;
    while at < len {
        chunk.resize(READ_CHUNK.min((len - at) as usize), 0);
        read_exact_at(&file, at, &mut chunk).named(vfs, "read", &name)?;
        crc = crc32c::crc32c_append(crc, &chunk);
        at += chunk.len() as u64;
    }
    Ok(crc == wanted)
}

fn is_whole(data: &[u8], position: Position) -> bool {
    damage(data, position).is_none()
}

/// What is wrong with the bytes of the checkpoint at `position`.
fn damage(data: &[u8], position: Position) -> Option<&'static str> {
    header_damage(data, position, data.len() as u64)
        .or_else(|| (u32_at(data, 12) != checksum(data)).then_some("its checksum does not fit"))
}

/// What is wrong with the header of a checkpoint of `len` bytes that begins with `data`.
fn header_damage(data: &[u8], position: Position, len: u64) -> Option<&'static str> {
    if data.len() < HEADER_BYTES {
        Some("the file ends inside its header")
    } else if data[..8] != MAGIC[..] {
        Some("it does not begin as a checkpoint does")
    } else if u32_at(data, 8) > FORMAT_VERSION {
        Some("a newer version wrote it")
    } else if u64_at(data, 16) != position {
        Some("it is of another position than its name says")
    } else if u64_at(data, 24) != len - HEADER_BYTES as u64 {
        Some("it has another length than its header says")
    } else {
        None
    }
}
