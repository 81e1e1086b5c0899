//! Reading a room's entries: pages of runs, as of one moment, from either end.

use gb6_core_model::{ChannelKey, Offset, ShardId};
use gb6_core_ports::StoreError;
use gb6_core_ports::runs::{self, Positions, RUN_MAX};
use tikv_client::Snapshot;

use crate::error::Failure;
use crate::keys::{RoomKeys, first_of};
use crate::rooms::{Inner, damaged, options, snapshot};

/// Keys of one page of a scan, at most and at least: at most 0.6 MB.
const PAGE_MAX: usize = 512;
const PAGE_MIN: usize = 16;

impl Inner {
    /// Entries with offset `from` or more: at least the first `limit` of them, as far as there are any.
    pub(crate) fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Positions, StoreError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Positions::new());
        };
        let page = limit.clamp(PAGE_MIN, PAGE_MAX);
        let pages = async |snapshot: &mut Snapshot, keys: &RoomKeys| {
            let mut found = Positions::new();
            let mut low = keys.run(from.saturating_sub(RUN_MAX - 1), 0);
            // Offsets follow each other, so that the first range mostly has them all: TiKV asks every
            // part of the cluster that a range reaches into.
            let near = from.saturating_add(limit as u64).saturating_add(RUN_MAX);
            for end in [keys.end_of(near), keys.end()] {
                while low < end {
                    let pairs = snapshot.scan(low.clone()..end.clone(), page as u32).await?;
                    let (mut count, mut first) = (0, 0);
                    for pair in pairs {
                        let key: Vec<u8> = pair.0.into();
                        let mut run = Positions::new();
                        first = decode_run(shard, &key, &pair.1, &mut run)?;
                        for (offset, position) in run.range(from..) {
                            runs::add(&mut found, *offset, *position);
                        }
                        count += 1;
                        low = key;
                    }
                    // A run that begins later may hold newer positions of offsets seen here.
                    if found.keys().nth(last).is_some_and(|last| *last < first) {
                        return Ok(found);
                    }
                    if count < page {
                        low = end.clone();
                    } else {
                        low.push(0);
                    }
                }
            }
            Ok(found)
        };
        self.read_room("forward", shard, room, pages)
    }

    /// Entries with offset `from` or less: at least the last `limit` of them, as far as there are any.
    pub(crate) fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Positions, StoreError> {
        let Some(last) = limit.checked_sub(1) else {
            return Ok(Positions::new());
        };
        let page = limit.clamp(PAGE_MIN, PAGE_MAX);
        let pages = async |snapshot: &mut Snapshot, keys: &RoomKeys| {
            let mut found = Positions::new();
            let mut high = keys.end_of(from);
            let near = from
                .saturating_sub(limit as u64)
                .saturating_sub(2 * RUN_MAX);
            for low in [keys.run(near, 0), keys.run(0, 0)] {
                while low < high {
                    let range = low.clone()..high.clone();
                    let pairs = snapshot.scan_reverse(range, page as u32).await?;
                    let (mut count, mut first) = (0, Offset::MAX);
                    for pair in pairs {
                        let key: Vec<u8> = pair.0.into();
                        let mut run = Positions::new();
                        first = decode_run(shard, &key, &pair.1, &mut run)?;
                        for (offset, position) in run.range(..=from) {
                            runs::add(&mut found, *offset, *position);
                        }
                        count += 1;
                        high = key;
                    }
                    // A run that begins earlier may reach to offsets seen here.
                    let reached = found.keys().rev().nth(last);
                    if reached.is_some_and(|last| first.saturating_add(RUN_MAX) <= *last) {
                        return Ok(found);
                    }
                    if count < page {
                        high = low.clone();
                    }
                }
            }
            Ok(found)
        };
        self.read_room("reverse", shard, room, pages)
    }

    /// Reads of a room, as of one moment: `pages` is given the state of the index and collects.
    fn read_room(
        &self,
        step: &'static str,
        shard: ShardId,
        room: &ChannelKey,
        pages: impl AsyncFn(&mut Snapshot, &RoomKeys) -> Result<Positions, Failure>,
    ) -> Result<Positions, StoreError> {
        let session = self.session()?;
        let key = self.keys.applied(shard);
        let read = session.read(step, async |client| {
            let (mut snapshot, now) = snapshot(client).await?;
            let mut state = client.snapshot(now, options());
            // The generation seldom changes: both are read at once, and the entries again if it did.
            let guess = self.guess(shard);
            let keys = self.keys.room(shard, guess, room);
            let (value, found) = tokio::join!(state.get(key.clone()), pages(&mut snapshot, &keys));
            let Some(stored) = self.decode(shard, value?)? else {
                return Ok(Positions::new());
            };
            if stored.generation == guess {
                return found;
            }
            self.seen(shard, stored.generation);
            let keys = self.keys.room(shard, stored.generation, room);
            pages(&mut snapshot, &keys).await
        });
        self.checked(shard, read)
    }
}

/// Adds the entries of a stored run; answers with its first offset.
pub(crate) fn decode_run(
    shard: ShardId,
    key: &[u8],
    value: &[u8],
    into: &mut Positions,
) -> Result<Offset, Failure> {
    let bad = || damaged(format!("a run of the room index of shard {shard} in TiKV"));
    let first = first_of(key).ok_or_else(bad)?;
    runs::decode(first, value, into).ok_or_else(bad)?;
    Ok(first)
}
