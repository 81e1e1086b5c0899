//! Filling a page of history: from the tail in memory, else through the index and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gb6_core_model::{ErrorCode, ShardId};
use gb6_core_ports::{RoomStore, ShardLog, StoreError};
use gb6_core_wire::mesh::{HistoryPage, Publication, RoomRef};
use gb6_core_wire::record::{BodyError, Record};
use gb6_region_shard::HistoryRead;
use parking_lot::Mutex;

use crate::bodies::{KeyLook, RecordKeys};
use crate::indexer::{IndexState, key_of};
use crate::tail::Tail;

/// What reads of one shard need; shared with the blocking tasks that do them.
pub(crate) struct Reader {
    pub(crate) shard: ShardId,
    pub(crate) log: Arc<dyn ShardLog>,
    pub(crate) rooms: Arc<dyn RoomStore>,
    pub(crate) tail: Mutex<Tail>,
    pub(crate) keys: Arc<RecordKeys>,
    pub(crate) erased: Mutex<Erased>,
    pub(crate) index: Arc<IndexState>,
}

/// What came of a read.
pub(crate) enum Looked {
    /// The page; where its error is set, that says why it is empty.
    Page(HistoryPage),
    /// Not now: the index does not reach so far yet, since it is being rebuilt, or a moment behind; or a
    /// record key has just come; or messages were erased for good meanwhile, one of which the page might show.
    Later,
    /// Some of it lies in the archive, where this read was not to look.
    Archived,
}

/// Erased messages whose bodies may still lie in the log.
pub(crate) struct Erased {
    pub(crate) messages: BTreeSet<(RoomRef, u64)>,
    /// How often some were forgotten: a read may have taken a body before it was gone from the log,
    /// and must not look here afterwards.
    forgotten: u64,
}

impl Erased {
    pub(crate) fn new(messages: BTreeSet<(RoomRef, u64)>) -> Self {
        Self {
            messages,
            forgotten: 0,
        }
    }

    /// Forgets all but those that `keep` says are still to be hidden.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&RoomRef, u64) -> bool) {
        let before = self.messages.len();
        self.messages.retain(|(room, offset)| keep(room, *offset));
        self.forgotten += u64::from(self.messages.len() < before);
    }
}

impl Reader {
    /// Fills the page from memory alone; `None` when a part of it is not there.
    pub(crate) fn tail_page(&self, read: &HistoryRead) -> Option<HistoryPage> {
        let tail = self.tail.lock();
        if tail.first(&read.room)? > read.low {
            return None;
        }
        let mut page = read.page.clone();
        let mut bytes = 0;
        for offset in offsets(read) {
            let publication = self.shown(read, tail.get(&read.room, offset)?);
            if !add(&mut page, &mut bytes, read.bytes, publication) {
                break;
            }
        }
        Some(page)
    }

    /// Fills the page; blocks the calling thread. Looks into the archive, which may be away while index and
    /// log are there, only if `archive` is set.
    pub(crate) fn read(&self, read: &HistoryRead, archive: bool) -> Looked {
        let forgotten = self.erased.lock().forgotten;
        match self.try_read(read, archive) {
            Ok(Looked::Page(_)) if self.erased.lock().forgotten != forgotten => Looked::Later,
            Ok(looked) => looked,
            Err(error) => {
                tracing::error!(
                    shard = %self.shard, instance = read.room.instance, channel = read.room.channel,
                    low = read.low, high = read.high, %error, "history can not be read"
                );
                Looked::Page(Self::failed(read))
            }
        }
    }

    /// The page of a read that can not be carried out.
    pub(crate) fn failed(read: &HistoryRead) -> HistoryPage {
        HistoryPage {
            error: ErrorCode::Internal.code(),
            ..read.page.clone()
        }
    }

    /// The page of a read of what is not there any more.
    fn gone(read: &HistoryRead) -> HistoryPage {
        HistoryPage {
            error: ErrorCode::UnrecoverablePosition.code(),
            ..read.page.clone()
        }
    }

    fn try_read(&self, read: &HistoryRead, archive: bool) -> Result<Looked, StoreError> {
        if let Some(page) = self.tail_page(read) {
            return Ok(Looked::Page(page));
        }
        let generation = self.index.generation();
        let looked = self.rooms.applied(self.shard).and_then(|applied| {
            let (page, found) = self.read_indexed(read, archive)?;
            // Also afterwards: it may have been begun anew in between.
            Ok((page, found, applied.min(self.rooms.applied(self.shard)?)))
        });
        let (page, found, applied) = match looked {
            // The index is being opened, or begun again.
            Err(StoreError::Unavailable { .. }) => return Ok(Looked::Later),
            looked => looked?,
        };
        if found == Found::Archived {
            return Ok(Looked::Archived);
        }
        if let Found::Sealed(key_id) = found {
            return Ok(match self.keys.find(&read.room.instance, key_id) {
                KeyLook::Found => Looked::Later,
                KeyLook::Destroyed if !page.publications.is_empty() => Looked::Page(page),
                KeyLook::Destroyed => Looked::Page(Self::gone(read)),
                // Another node may have made it a moment ago: nobody is to take it for erased.
                KeyLook::Untold => Looked::Page(Self::failed(read)),
            });
        }
        if found == Found::Wrong {
            tracing::error!(
                shard = %self.shard, instance = read.room.instance, channel = read.room.channel,
                low = read.low, high = read.high, "the room index says what the log does not"
            );
            self.index.distrust(generation);
        }
        if found == Found::All || !page.publications.is_empty() {
            return Ok(Looked::Page(page));
        }
        let behind = applied < self.log.range()?.next;
        if found == Found::Wrong || behind || self.index.generation() != generation {
            return Ok(Looked::Later);
        }
        // Everything committed was indexed before it was looked for.
        tracing::warn!(
            shard = %self.shard, instance = read.room.instance, channel = read.room.channel,
            low = read.low, high = read.high, "history was trimmed while it was read"
        );
        Ok(Looked::Page(Self::gone(read)))
    }

    /// What the index and the tail have of the page, without holes, and how much that is.
    fn read_indexed(
        &self,
        read: &HistoryRead,
        archive: bool,
    ) -> Result<(HistoryPage, Found), StoreError> {
        let mut page = read.page.clone();
        let Some(key) = key_of(&read.room.instance, &read.room.channel) else {
            return Ok((page, Found::All));
        };
        let wanted = usize::try_from(read.high - read.low + 1).unwrap_or(usize::MAX);
        let entries = if read.reverse {
            self.rooms.reverse(self.shard, &key, read.high, wanted)?
        } else {
            self.rooms.forward(self.shard, &key, read.low, wanted)?
        };
        let positions: BTreeMap<u64, u64> = entries.into_iter().collect();
        let archived_before = match archive {
            true => 0,
            false => self.log.archived_before(),
        };
        let mut bytes = 0;
        let all: Vec<u64> = offsets(read).collect();
        for chunk in all.chunks(64) {
            let known: Vec<u64> = chunk
                .iter()
                .filter_map(|o| positions.get(o).copied())
                .collect();
            if known.iter().any(|position| *position < archived_before) {
                return Ok((page, Found::Archived));
            }
            let mut records = self.log.read_at(&known)?.into_iter();
            for offset in chunk {
                let record = match positions.get(offset) {
                    Some(_) => records.next().flatten(),
                    None => None,
                };
                let publication = match record {
                    // Whatever the index says, only the log knows whose message this is.
                    Some(record) if !is_at(&record, &read.room, *offset) => {
                        return Ok((page, Found::Wrong));
                    }
                    Some(mut record) => {
                        if let Err(error) = self.keys.open(&mut record) {
                            tracing::warn!(shard = %self.shard, offset, %error, "a message can not be shown");
                            if let BodyError::KeyDestroyed { key_id, .. } = error {
                                return Ok((page, Found::Sealed(key_id)));
                            }
                            gb6_core_ports::retention::erase(&mut record);
                        }
                        Some(Publication::of(&record))
                    }
                    None => self.tail.lock().get(&read.room, *offset),
                };
                let Some(publication) = publication else {
                    return Ok((page, Found::Part));
                };
                let publication = self.shown(read, publication);
                if !add(&mut page, &mut bytes, read.bytes, publication) {
                    return Ok((page, Found::All));
                }
            }
        }
        Ok((page, Found::All))
    }

    fn shown(&self, read: &HistoryRead, mut publication: Publication) -> Publication {
        let erased = self.erased.lock();
        let erased = &erased.messages;
        if !erased.is_empty() && erased.contains(&(read.room.clone(), publication.offset)) {
            publication.erase();
        }
        publication
    }
}

/// How much of a page the index led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    All,
    /// Up to a publication that the index does not know, or the log does not have.
    Part,
    /// Up to an entry that leads to another message.
    Wrong,
    /// Up to a message whose key, of this id, is not known here.
    Sealed(u32),
    /// Up to a message that lies in the archive.
    Archived,
}

/// Whether this is the room's message at `offset`.
pub(crate) fn is_at(record: &Record, room: &RoomRef, offset: u64) -> bool {
    record.takes_offset()
        && record.offset == offset
        && record.channel == room.channel
        && record.instance == room.instance
}

fn offsets(read: &HistoryRead) -> Box<dyn Iterator<Item = u64>> {
    let range = read.low..=read.high;
    if read.reverse {
        Box::new(range.rev())
    } else {
        Box::new(range)
    }
}

/// Adds a publication unless the page would have more than `limit` bytes; the first always fits.
fn add(page: &mut HistoryPage, bytes: &mut u64, limit: u64, publication: Publication) -> bool {
    let size = publication.size() as u64;
    if !page.publications.is_empty() && *bytes + size > limit {
        return false;
    }
    *bytes += size;
    page.publications.push(publication);
    true
}
