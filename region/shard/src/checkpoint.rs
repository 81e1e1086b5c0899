//! Checkpoints: the folded state at a position, so that a restart reads only the log behind it.
//!
//! A checkpoint is derived from the log and may be lost: then everything is replayed.

use bytes::Bytes;
use gb6_core_wire::mesh::{RoomRef, ShardRef};
use prost::Message;

use crate::dedupe::{IdKey, Written};
use crate::machine::Shard;
use crate::ownership::{Sealed, Standing};
use crate::room::Version;

/// The format that this code writes.
const VERSION: u32 = 1;

/// Why a checkpoint can not be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The bytes are no checkpoint.
    #[error("checkpoint can not be read: {0}")]
    Unreadable(String),
    /// A newer program wrote it.
    #[error("checkpoint has format {found}, this program reads up to {VERSION}")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It is another shard's.
    #[error("checkpoint belongs to shard {found}, not {wanted}")]
    OtherShard {
        /// Whose it is.
        found: String,
        /// Whose was wanted.
        wanted: String,
    },
}

#[derive(Clone, PartialEq, Message)]
struct Checkpoint {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, required, tag = "2")]
    shard: ShardRef,
    #[prost(uint64, tag = "3")]
    next_position: u64,
    #[prost(uint64, tag = "4")]
    log_epoch: u64,
    #[prost(uint64, tag = "5")]
    served_ms: u64,
    #[prost(message, repeated, tag = "6")]
    rooms: Vec<RoomState>,
    #[prost(message, repeated, tag = "7")]
    ids: Vec<IdsState>,
    #[prost(message, repeated, tag = "8")]
    numbers: Vec<NumberState>,
    #[prost(message, repeated, tag = "9")]
    instances: Vec<InstanceState>,
    #[prost(message, repeated, tag = "10")]
    erasures: Vec<ErasureState>,
    /// Served time of the newest message id that the bound pushed out; not in checkpoints of older
    /// programs.
    #[prost(uint64, optional, tag = "11")]
    ids_pushed_out_ms: Option<u64>,
    /// Ends of sessions that edges may report again.
    #[prost(message, repeated, tag = "12")]
    processes: Vec<ProcessState>,
}

#[derive(Clone, PartialEq, Message)]
struct ProcessState {
    #[prost(fixed64, tag = "1")]
    process: u64,
    #[prost(uint64, repeated, tag = "2")]
    written: Vec<u64>,
    #[prost(uint64, tag = "3")]
    served_ms: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ErasureState {
    #[prost(message, required, tag = "1")]
    room: RoomRef,
    #[prost(uint64, tag = "2")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RoomState {
    #[prost(message, required, tag = "1")]
    key: RoomRef,
    #[prost(uint64, tag = "2")]
    head: u64,
    #[prost(uint64, tag = "3")]
    first: u64,
    #[prost(int64, tag = "4")]
    time: i64,
    #[prost(uint32, tag = "5")]
    generation: u32,
    #[prost(uint64, repeated, tag = "6")]
    mark_offsets: Vec<u64>,
    #[prost(int64, repeated, tag = "7")]
    mark_times: Vec<i64>,
    /// The version of the newest publication that has one; 0: none has.
    #[prost(uint64, tag = "8")]
    version: u64,
    #[prost(string, tag = "9")]
    version_epoch: String,
}

/// The ids of one instance, packed: a shard holds up to a million, and a checkpoint must not hold
/// up its commits.
#[derive(Clone, PartialEq, Message)]
struct IdsState {
    #[prost(string, tag = "1")]
    instance: String,
    /// Entries of [`ID_BYTES`], oldest first: key, offset, time, served time, generation.
    #[prost(bytes = "vec", tag = "2")]
    packed: Vec<u8>,
}

const ID_BYTES: usize = 16 + 8 + 8 + 8 + 4;

#[derive(Clone, Copy, PartialEq, Message)]
struct WrittenState {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint32, tag = "2")]
    generation: u32,
    #[prost(int64, tag = "3")]
    time: i64,
}

#[derive(Clone, PartialEq, Message)]
struct NumberState {
    #[prost(fixed64, tag = "1")]
    edge: u64,
    #[prost(uint64, tag = "2")]
    session: u64,
    /// Index in `rooms`.
    #[prost(uint32, tag = "3")]
    room: u32,
    #[prost(uint64, tag = "4")]
    highest: u64,
    #[prost(uint64, tag = "5")]
    served_ms: u64,
    #[prost(uint64, repeated, tag = "6")]
    result_numbers: Vec<u64>,
    #[prost(message, repeated, tag = "7")]
    results: Vec<WrittenState>,
}

#[derive(Clone, PartialEq, Message)]
struct InstanceState {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    /// Sealed but for `sealed_slots`; else only they are.
    #[prost(bool, tag = "3")]
    sealed_all: bool,
    #[prost(uint32, repeated, tag = "4")]
    sealed_slots: Vec<u32>,
}

impl From<Written> for WrittenState {
    fn from(w: Written) -> Self {
        Self {
            offset: w.offset,
            generation: w.generation,
            time: w.time,
        }
    }
}

impl From<WrittenState> for Written {
    fn from(w: WrittenState) -> Self {
        Self {
            offset: w.offset,
            generation: w.generation,
            time: w.time,
        }
    }
}

fn unpack(entry: &[u8]) -> Option<(IdKey, Written, u64)> {
    let (key, rest) = entry.split_first_chunk::<16>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (time, rest) = rest.split_first_chunk::<8>()?;
    let (served_ms, rest) = rest.split_first_chunk::<8>()?;
    let (generation, _) = rest.split_first_chunk::<4>()?;
    let written = Written {
        offset: u64::from_le_bytes(*offset),
        generation: u32::from_le_bytes(*generation),
        time: i64::from_le_bytes(*time),
    };
    Some((*key, written, u64::from_le_bytes(*served_ms)))
}

impl Shard {
    /// The committed state, and the position of the first record that it does not contain.
    pub fn checkpoint(&self) -> (u64, Bytes) {
        let mut index = std::collections::HashMap::new();
        let mut rooms = Vec::new();
        for (ix, room) in self.rooms.iter() {
            if room.head == 0 && room.first == 1 {
                continue;
            }
            index.insert(ix, rooms.len() as u32);
            rooms.push(RoomState {
                key: room.key.clone(),
                head: room.head,
                first: room.first,
                time: room.time,
                generation: room.generation,
                mark_offsets: room.marks.iter().map(|m| m.0).collect(),
                mark_times: room.marks.iter().map(|m| m.1).collect(),
                version: room.version.as_ref().map_or(0, |v| v.number),
                version_epoch: room
                    .version
                    .as_ref()
                    .map_or_else(String::new, |v| v.epoch.clone()),
            });
        }
        let ids = self.dedupe.iter().map(|(instance, ids)| {
            let mut packed = Vec::with_capacity(ids.size_hint().1.unwrap_or(0) * ID_BYTES);
            for (key, written, served_ms) in ids {
                packed.extend_from_slice(&key);
                packed.extend_from_slice(&written.offset.to_le_bytes());
                packed.extend_from_slice(&written.time.to_le_bytes());
                packed.extend_from_slice(&served_ms.to_le_bytes());
                packed.extend_from_slice(&written.generation.to_le_bytes());
            }
            IdsState {
                instance: instance.to_owned(),
                packed,
            }
        });
        let numbers = self
            .numbers
            .iter()
            .filter_map(|(edge, session, room, entry)| {
                Some(NumberState {
                    edge,
                    session,
                    room: *index.get(&room)?,
                    highest: entry.highest,
                    served_ms: entry.served_ms,
                    result_numbers: entry.results.iter().map(|(n, _)| *n).collect(),
                    results: entry.results.iter().map(|(_, w)| (*w).into()).collect(),
                })
            });
        let instances = self.ownership.instances.iter().map(|(name, standing)| {
            let slots = match &standing.sealed {
                Sealed::Slots(slots) | Sealed::AllBut(slots) => {
                    slots.iter().map(|s| u32::from(*s)).collect()
                }
                Sealed::Nothing | Sealed::All => Vec::new(),
            };
            InstanceState {
                instance: name.clone(),
                epoch: standing.epoch,
                sealed_all: matches!(standing.sealed, Sealed::All | Sealed::AllBut(_)),
                sealed_slots: slots,
            }
        });
        let state = Checkpoint {
            version: VERSION,
            shard: self.config.shard.clone(),
            next_position: self.next_position,
            log_epoch: self.log_epoch,
            served_ms: self.served_ms,
            ids: ids.collect(),
            numbers: numbers.collect(),
            instances: instances.collect(),
            ids_pushed_out_ms: self.dedupe.pushed_out_ms(),
            processes: self
                .sessions
                .processes
                .iter()
                .filter(|(_, known)| !known.written.is_empty())
                .map(|(process, known)| ProcessState {
                    process: *process,
                    written: known.written.iter().copied().collect(),
                    served_ms: known.served_ms,
                })
                .collect(),
            erasures: self
                .erasures
                .iter()
                .map(|(room, offset)| ErasureState {
                    room: room.clone(),
                    offset: *offset,
                })
                .collect(),
            rooms,
        };
        (self.next_position, state.encode_to_vec().into())
    }

    /// Takes the state of a checkpoint into an empty machine; replay goes on at the position that
    /// is returned.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<u64, CheckpointError> {
        let state =
            Checkpoint::decode(bytes).map_err(|e| CheckpointError::Unreadable(e.to_string()))?;
        if state.version > VERSION {
            return Err(CheckpointError::Newer {
                found: state.version,
            });
        }
        if state.shard != self.config.shard {
            let name = |s: &ShardRef| format!("{}/{}", s.region, s.shard);
            return Err(CheckpointError::OtherShard {
                found: name(&state.shard),
                wanted: name(&self.config.shard),
            });
        }
        let mut index = Vec::with_capacity(state.rooms.len());
        for saved in state.rooms {
            let ix = self.rooms.ensure(&saved.key);
            index.push(ix);
            let room = self.rooms.get_mut(ix);
            room.head = saved.head;
            room.open_head = saved.head;
            room.first = saved.first;
            room.time = saved.time;
            room.generation = saved.generation;
            room.version = (saved.version > 0).then(|| {
                Box::new(Version {
                    number: saved.version,
                    epoch: saved.version_epoch,
                })
            });
            room.marks = saved
                .mark_offsets
                .into_iter()
                .zip(saved.mark_times)
                .collect();
            if !room.marks.is_empty() {
                self.aging.insert(ix);
            }
        }
        for ids in &state.ids {
            let mut entries = ids.packed.chunks_exact(ID_BYTES);
            if entries.len() > 0 {
                self.dedupe.reserve(&ids.instance, entries.len());
            }
            for entry in &mut entries {
                let (key, written, served_ms) = unpack(entry)
                    .ok_or_else(|| CheckpointError::Unreadable("a message id".into()))?;
                self.dedupe.insert(&ids.instance, key, written, served_ms);
            }
            if !entries.remainder().is_empty() {
                return Err(CheckpointError::Unreadable("half a message id".into()));
            }
        }
        self.dedupe.restore_pushed_out(state.ids_pushed_out_ms);
        for saved in state.numbers {
            let Some(room) = index.get(saved.room as usize) else {
                return Err(CheckpointError::Unreadable("a number's room".into()));
            };
            let entry = self.numbers.entry(saved.edge, saved.session, *room);
            entry.highest = saved.highest;
            entry.served_ms = saved.served_ms;
            let results = saved.results.into_iter().map(Written::from);
            entry.results = saved.result_numbers.into_iter().zip(results).collect();
        }
        for saved in state.instances {
            let sealed = match (saved.sealed_all, saved.sealed_slots) {
                (true, slots) if slots.is_empty() => Sealed::All,
                (true, slots) => Sealed::AllBut(slots.into_iter().map(|s| s as u16).collect()),
                (false, slots) if slots.is_empty() => Sealed::Nothing,
                (false, slots) => Sealed::Slots(slots.into_iter().map(|s| s as u16).collect()),
            };
            let standing = Standing {
                epoch: saved.epoch,
                sealed,
            };
            self.ownership.instances.insert(saved.instance, standing);
        }
        for saved in state.processes {
            let known = self.sessions.processes.entry(saved.process).or_default();
            known.written = saved.written.into_iter().collect();
            known.served_ms = saved.served_ms;
        }
        let erasures = state.erasures.into_iter();
        self.erasures = erasures.map(|e| (e.room, e.offset)).collect();
        self.next_position = state.next_position;
        self.log_epoch = state.log_epoch;
        self.served_ms = state.served_ms;
        Ok(state.next_position)
    }
}
