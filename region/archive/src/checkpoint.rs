//! The bytes of checkpoints: the state of a machine at a position, so that a start replays only what
//! came after. `docs/log-format.md` describes them.

use std::io;

use gb6_core_model::Position;

use crate::format::{FORMAT_VERSION, u32_at, u64_at};
use crate::read_at::{ReadAt, read_exact_at};

const MAGIC: &[u8; 8] = b"GB6CKPT\n";
/// Bytes before the state.
pub const CHECKPOINT_HEADER_BYTES: usize = 32;
/// Largest checkpoint in bytes.
pub const CHECKPOINT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes read at a time to see whether a checkpoint is whole.
const READ_CHUNK: usize = 256 * 1024;

/// The checkpoint of `state` at `position`.
pub fn encode(position: Position, state: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(CHECKPOINT_HEADER_BYTES + state.len());
    data.extend_from_slice(MAGIC);
    data.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(&position.to_le_bytes());
    data.extend_from_slice(&(state.len() as u64).to_le_bytes());
    data.extend_from_slice(state);
    let crc = checksum(&data);
    data[12..16].copy_from_slice(&crc.to_le_bytes());
    data
}

fn checksum(data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&data[..12]), &data[16..])
}

/// What is wrong with the bytes of the checkpoint at `position`; `None`: it is whole.
pub fn damage(data: &[u8], position: Position) -> Option<&'static str> {
    header_damage(data, position, data.len() as u64)
        .or_else(|| (u32_at(data, 12) != checksum(data)).then_some("its checksum does not fit"))
}

/// What is wrong with the header of a checkpoint of `len` bytes that begins with `data`.
fn header_damage(data: &[u8], position: Position, len: u64) -> Option<&'static str> {
    if data.len() < CHECKPOINT_HEADER_BYTES {
        Some("the file ends inside its header")
    } else if data[..8] != MAGIC[..] {
        Some("it does not begin as a checkpoint does")
    } else if u32_at(data, 8) > FORMAT_VERSION {
        Some("a newer version wrote it")
    } else if u64_at(data, 16) != position {
        Some("it is of another position than its name says")
    } else if u64_at(data, 24) != len - CHECKPOINT_HEADER_BYTES as u64 {
        Some("it has another length than its header says")
    } else {
        None
    }
}

/// Whether the checkpoint at `position` in `file` is whole, without holding it in memory.
///
/// # Errors
/// It can not be read.
pub fn is_whole<F: ReadAt>(file: &F, position: Position) -> io::Result<bool> {
    let len = file.len()?;
    if !(CHECKPOINT_HEADER_BYTES as u64..=CHECKPOINT_BYTES_MAX).contains(&len) {
        return Ok(false);
    }
    let mut chunk = vec![0; READ_CHUNK.min(len as usize)];
    read_exact_at(file, 0, &mut chunk)?;
    if header_damage(&chunk, position, len).is_some() {
        return Ok(false);
    }
    let (wanted, mut crc) = (u32_at(&chunk, 12), checksum(&chunk));
    let mut at = chunk.len() as u64;
    while at < len {
        chunk.resize(READ_CHUNK.min((len - at) as usize), 0);
        read_exact_at(file, at, &mut chunk)?;
        crc = crc32c::crc32c_append(crc, &chunk);
        at += chunk.len() as u64;
    }
    Ok(crc == wanted)
}

/// The state of a whole checkpoint.
pub fn state_of(mut data: Vec<u8>) -> Vec<u8> {
    data.drain(..CHECKPOINT_HEADER_BYTES.min(data.len()));
    data
}
