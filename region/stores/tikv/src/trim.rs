//! Removing entries: what retention trims from a room, and whole ranges, in bounded steps.
//!
//! Ranges are removed by transactions of at most so many keys. TiKV's `UnsafeDestroyRange` would be
//! cheaper and is not used: it takes versions that a read of a moment ago still needs, goes round the
//! replicas' log, so that one that was away keeps the keys, and on every store at once.

use std::sync::Arc;

use gb6_core_model::{ChannelKey, Offset, ShardId};
use gb6_core_ports::StoreError;
use gb6_core_ports::runs::{self, Positions, RUN_MAX};

use crate::commit::{commit, fill};
use crate::error::Failure;
use crate::keys::{Range, RoomKeys};
use crate::link::Session;
use crate::read::decode_run;
use crate::rooms::{Inner, options, snapshot};
use crate::write::contended;

/// Keys removed by one transaction.
const REMOVE_PAGE: u32 = 1024;
/// Runs read at once.
const RUNS_PAGE: u32 = 256;
/// Attempts of a step that somebody else's write came between.
const ATTEMPTS: usize = 8;

impl Inner {
    pub(crate) fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError> {
        let session = self.session()?;
        for _ in 0..ATTEMPTS {
            let cut = self.cut(&session, shard, room, below);
            let keys = match cut {
                Err(failure) if failure.is_write_conflict() => continue,
                cut => self.checked(shard, cut)?,
            };
            let Some(keys) = keys else { return Ok(()) };
            let range = keys.run(0, 0)..keys.run(below, 0);
            let removed = self.remove(&session, range, |_| true);
            return removed
                .map(|_| ())
                .map_err(|failure| failure.unknown(&self.place()));
        }
        Err(contended(shard))
    }

    /// What runs that begin below hold from there on stays, as runs that begin there; the others are
    /// still there then, and the same is found twice. Under the state of the shard's index, so that nothing
    /// is written into a generation that has ended.
    fn cut(
        &self,
        session: &Arc<Session>,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<Option<RoomKeys>, Failure> {
        let state = self.keys.applied(shard);
        let (mut transaction, value) = self.begin(session, shard)?;
        let Some(stored) = self.decode(shard, value)? else {
            return Ok(None);
        };
        self.seen(shard, stored.generation);
        let keys = self.keys.room(shard, stored.generation, room);
        session.commit("trim", async |client| {
            let mut low = keys.run(below.saturating_sub(RUN_MAX - 1), 0);
            let high = keys.run(below, 0);
            let mut stays = Positions::new();
            loop {
                let range = low.clone()..high.clone();
                let mut count = 0;
                for pair in transaction.scan(range, RUNS_PAGE).await? {
                    let key: Vec<u8> = pair.0.into();
                    let mut run = Positions::new();
                    decode_run(shard, &key, &pair.1, &mut run)?;
                    low.clone_from(&key);
                    low.push(0);
                    count += 1;
                    for (offset, position) in run.range(below..) {
                        runs::add(&mut stays, *offset, *position);
                    }
                }
                if count < RUNS_PAGE {
                    break;
                }
            }
            let writes = keys.runs(&stays);
            if writes.is_empty() {
                return Ok(());
            }
            fill(&mut transaction, &writes).await?;
            transaction.lock_keys([state.clone()]).await?;
            commit(client, &mut transaction, &writes).await
        })?;
        Ok(Some(keys))
    }

    /// Removes all keys of a range, step by step, while `go_on` says so; answers with how many.
    /// Nobody writes into the range meanwhile, except others who remove it too.
    pub(crate) fn remove(
        &self,
        session: &Session,
        mut range: Range,
        mut go_on: impl FnMut(u64) -> bool,
    ) -> Result<u64, Failure> {
        let (mut removed, mut conflicts) = (0, 0);
        while go_on(removed) {
            let keys = session.read("scan", async |client| {
                let (mut snapshot, _) = snapshot(client).await?;
                let keys = snapshot.scan_keys(range.clone(), REMOVE_PAGE).await?;
                Ok(keys.map(Vec::<u8>::from).collect::<Vec<_>>())
            })?;
            let Some(last) = keys.last().cloned() else {
                break;
            };
            let count = keys.len() as u64;
            match remove_keys(session, keys) {
                Ok(()) => {}
                // Somebody removes the same.
                Err(failure) if failure.is_write_conflict() && conflicts < ATTEMPTS => {
                    conflicts += 1;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            removed += count;
            if count < u64::from(REMOVE_PAGE) {
                break;
            }
            range.start = last;
            range.start.push(0);
        }
        Ok(removed)
    }
}

/// Removes a few keys in one transaction, and sees that all of them have gone.
pub(crate) fn remove_keys(session: &Session, keys: Vec<Vec<u8>>) -> Result<(), Failure> {
    session.commit("remove", async |client| {
        let mut transaction = client.begin_with_options(options()).await?;
        let writes = keys.into_iter().map(|key| (key, None)).collect();
        fill(&mut transaction, &writes).await?;
        commit(client, &mut transaction, &writes).await
    })
}
