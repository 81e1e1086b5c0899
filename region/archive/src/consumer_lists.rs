//! The list of consumers of an archive. Positions are stored often, so they are an object of their own
//! and no part of the manifest.
//!
//! Each ownership writes lists under names of its own, numbered, and removes the one before; the highest
//! epoch's highest number counts. What an owner that lost the shard still writes is never read.

use std::sync::Arc;

use gb6_core_model::Position;
use gb6_core_ports::{BlobKey, ConsumerState, Fence, PutIf, StoreError};

use crate::archive::Archive;
use crate::consumers::{CONSUMERS_BYTES_MAX, Consumers};
use crate::manifest::Owner;
use crate::retention::Live;

/// Lists that are looked at at a time: more than there can be but for owners that died.
const LIST_PAGE: usize = 1000;
/// How often a list is looked for that others keep replacing.
const ATTEMPTS: usize = 16;

/// What is known of the lists.
#[derive(Default)]
pub(crate) struct ConsumerLists {
    /// The ownership that has the list in hand.
    owner: Option<Owner>,
    list: Arc<Consumers>,
    /// The number of the next list.
    next: u64,
    /// The object that the next list replaces.
    stored: Option<BlobKey>,
}

/// The list that counts.
struct Stored {
    key: BlobKey,
    owner: Owner,
    number: u64,
    list: Consumers,
}

impl Archive {
    /// The list that counts; `None` where there never was one.
    fn stored_consumers(&self) -> Result<Option<Stored>, StoreError> {
        let folder = self.names.folder("consumers");
        for _ in 0..ATTEMPTS {
            let (mut newest, mut after) = (None, None);
            loop {
                let page = self.blobs().list(&folder, after.as_ref(), LIST_PAGE)?;
                let lists = page.iter().filter_map(|meta| {
                    let (epoch, incarnation, number) = self.names.consumers_of(&meta.key)?;
                    Some((epoch.0, incarnation.0, number, meta.key.clone()))
                });
                newest = newest.max(lists.max());
                if page.len() < LIST_PAGE {
                    break;
                }
                after = page.into_iter().next_back().map(|meta| meta.key);
            }
            let Some((epoch, incarnation, number, key)) = newest else {
                return Ok(None);
            };
            // Replaced meanwhile: looked for again.
            let Some(bytes) = self.blobs().get(&key, CONSUMERS_BYTES_MAX)? else {
                continue;
            };
            let list = Consumers::decode(&bytes).ok_or_else(|| StoreError::Corrupt {
                segment: key.to_string(),
                byte: 0,
                position: 0,
                detail: "the list of consumers is damaged: remove the object, consumers then \
                         register again and start from a snapshot"
                    .into(),
            })?;
            return Ok(Some(Stored {
                key,
                owner: Owner { epoch, incarnation },
                number,
                list,
            }));
        }
        Err(StoreError::Unavailable {
            cause: "the list of consumers was replaced faster than it could be read".into(),
        })
    }

    /// Takes the list in hand for the ownership `fence`, unless it has it.
    fn own_consumers(&self, lists: &mut ConsumerLists, fence: &Fence) -> Result<(), StoreError> {
        self.check(fence)?;
        let owner = Owner::of(fence);
        if lists.owner == Some(owner) {
            return Ok(());
        }
        *lists = match self.stored_consumers()? {
            Some(stored) if stored.owner.epoch > owner.epoch => {
                return Err(StoreError::Fenced {
                    held: fence.shard_epoch,
                    current: gb6_core_model::ShardEpoch(stored.owner.epoch),
                });
            }
            Some(stored) => ConsumerLists {
                owner: Some(owner),
                list: Arc::new(stored.list),
                next: match stored.owner == owner {
                    true => stored.number + 1,
                    false => 1,
                },
                stored: Some(stored.key),
            },
            None => ConsumerLists {
                owner: Some(owner),
                next: 1,
                ..ConsumerLists::default()
            },
        };
        Ok(())
    }

    /// Stores `next`, if there is one, and goes on with it.
    fn store_consumers(
        &self,
        lists: &mut ConsumerLists,
        fence: &Fence,
        next: Option<Consumers>,
    ) -> Result<(), StoreError> {
        let Some(next) = next else { return Ok(()) };
        let (epoch, incarnation) = (fence.shard_epoch, fence.owner_incarnation);
        let key = self.names.consumers(epoch, incarnation, lists.next)?;
        // Whatever becomes of this put, its number is used.
        lists.next += 1;
        let put = self
            .blobs()
            .put(&key, next.encode().into(), PutIf::Absent)
            .inspect_err(|_| self.common.metrics.failed("consumers"));
        if let Err(e) = put {
            // It may be there, or come through later: what counts is looked for anew.
            lists.owner = None;
            return Err(e);
        }
        lists.list = Arc::new(next);
        if let Some(old) = lists.stored.replace(key) {
            // One that stays counts no more: it has a lower number or epoch.
            let _ = self.blobs().delete(&old);
        }
        Ok(())
    }

    /// As [`gb6_core_ports::ShardLog::register_consumer`].
    ///
    /// # Errors
    /// `Conflict`: the name is none, or there are too many. `Fenced`; `Unavailable`; `OutcomeUnknown`.
    pub fn register_consumer(
        &self,
        fence: &Fence,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        let mut lists = self.consumers.lock();
        self.own_consumers(&mut lists, fence)?;
        let (state, next) = lists.list.register(name, position)?;
        self.store_consumers(&mut lists, fence, next)?;
        Ok(state)
    }

    /// As [`gb6_core_ports::ShardLog::set_consumer`].
    ///
    /// # Errors
    /// `Conflict`: it is not registered, or has lapsed. `Fenced`; `Unavailable`; `OutcomeUnknown`.
    pub fn set_consumer(
        &self,
        fence: &Fence,
        name: &str,
        position: Position,
    ) -> Result<(), StoreError> {
        let mut lists = self.consumers.lock();
        self.own_consumers(&mut lists, fence)?;
        let next = lists.list.set(name, position)?;
        self.store_consumers(&mut lists, fence, next)
    }

    /// As [`gb6_core_ports::ShardLog::set_consumers`]: one list.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `OutcomeUnknown`.
    pub fn set_consumers(
        &self,
        fence: &Fence,
        positions: &[(String, Position)],
    ) -> Result<Vec<String>, StoreError> {
        let mut lists = self.consumers.lock();
        self.own_consumers(&mut lists, fence)?;
        let (next, refused) = lists.list.set_all(positions);
        self.store_consumers(&mut lists, fence, next)?;
        Ok(refused)
    }

    /// As [`gb6_core_ports::ShardLog::remove_consumer`].
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `OutcomeUnknown`.
    pub fn remove_consumer(&self, fence: &Fence, name: &str) -> Result<(), StoreError> {
        let mut lists = self.consumers.lock();
        self.own_consumers(&mut lists, fence)?;
        let next = lists.list.remove(name);
        self.store_consumers(&mut lists, fence, next)
    }

    /// As [`gb6_core_ports::ShardLog::consumers`]: those that are too far behind are shown as lapsed.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt`.
    pub fn consumers(&self, live: Live) -> Result<Vec<ConsumerState>, StoreError> {
        let list = self.consumer_list()?;
        let lapsed = self.lapsed(&list, live);
        Ok(lapsed.as_ref().unwrap_or(&list).all())
    }

    /// Stores the list of a log that is copied, where it is another one.
    ///
    /// # Errors
    /// `Fenced`; `Unavailable`; `OutcomeUnknown`.
    pub fn copy_consumers(&self, fence: &Fence, list: &Consumers) -> Result<(), StoreError> {
        let mut lists = self.consumers.lock();
        self.own_consumers(&mut lists, fence)?;
        let next = (*lists.list != *list).then(|| list.clone());
        self.store_consumers(&mut lists, fence, next)
    }

    /// The list as it counts: in hand where this handle's ownership has it, else as stored.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt`.
    pub fn consumer_list(&self) -> Result<Arc<Consumers>, StoreError> {
        {
            let lists = self.consumers.lock();
            if lists.owner.is_some() && lists.owner == Some(self.current().owner) {
                return Ok(lists.list.clone());
            }
        }
        let stored = self.stored_consumers()?;
        Ok(stored.map(|s| Arc::new(s.list)).unwrap_or_default())
    }

    /// Marks those as lapsed that are behind by more than the bound; `None` where nothing changes. Counts
    /// whole segments, and what is not archived for who is not so far.
    fn lapsed(&self, list: &Consumers, live: Live) -> Option<Consumers> {
        let manifest = self.current();
        let bytes_behind = |position: Position| {
            let segments = manifest.segments.iter().filter(|s| s.first >= position);
            let archived: u64 = segments.map(|s| s.bytes).sum();
            let rest = if position <= manifest.next {
                live.bytes
            } else {
                0
            };
            archived + rest
        };
        list.lapse(self.common.config.consumer_lag_bytes_max, bytes_behind)
    }

    /// Stores who has lapsed, and answers the position that retention may not pass.
    pub(crate) fn lapse_consumers(
        &self,
        fence: &Fence,
        live: Live,
    ) -> Result<Option<Position>, StoreError> {
        let mut lists = self.consumers.lock();
        self.own_consumers(&mut lists, fence)?;
        let next = self.lapsed(&lists.list, live);
        self.store_consumers(&mut lists, fence, next)?;
        Ok(lists.list.held())
    }
}
