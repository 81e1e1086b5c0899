//! Checkpoints beside the log: the state of a machine at a position, so that a start replays only
//! what came after. Never the only copy of anything.

use gb6_core_model::Position;
use gb6_core_ports::StoreError;

use super::format::{FORMAT_VERSION, u32_at, u64_at};
use crate::vfs::{Named, Vfs, read_file, replace_file};

const MAGIC: &[u8; 8] = b"GB6CKPT\n";
const HEADER_BYTES: usize = 32;
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Checkpoints that are kept: the newest, and the one before in case it is damaged.
const KEPT: usize = 2;

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

/// Stores a checkpoint and drops all but the newest two.
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
    let all = stored(vfs)?;
    let excess = all.len().saturating_sub(KEPT);
    for old in all.iter().take(excess).filter(|p| **p != position) {
        let name = name_of(*old);
        vfs.remove(&name).named(vfs, "remove", &name)?;
    }
    Ok(())
}

/// The newest checkpoint that is whole and at or before `end`.
pub(crate) fn load<V: Vfs>(
    vfs: &V,
    end: Position,
) -> Result<Option<(Position, Vec<u8>)>, StoreError> {
    for position in stored(vfs)?.into_iter().rev().filter(|p| *p <= end) {
        let name = name_of(position);
        let mut data = match read_file(vfs, &name, FILE_BYTES_MAX) {
            Ok(data) => data,
            Err(StoreError::Corrupt { .. }) => continue,
            Err(e) => return Err(e),
        };
        if is_whole(&data, position) {
            data.drain(..HEADER_BYTES);
            return Ok(Some((position, data)));
        }
    }
    Ok(None)
}

fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&data[..12]), &data[16..])
}

fn is_whole(data: &[u8], position: Position) -> bool {
    data.len() >= HEADER_BYTES
        && data[..8] == MAGIC[..]
        && u32_at(data, 8) <= FORMAT_VERSION
        && u64_at(data, 16) == position
        && u64_at(data, 24) == (data.len() - HEADER_BYTES) as u64
        && u32_at(data, 12) == checksum(data)
}
