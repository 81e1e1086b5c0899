//! `RoomStore` on TiKV: what reading, writing and removing share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{RoomEntry, RoomStore, StoreError};
use parking_lot::Mutex;
use tikv_client::transaction::HeartbeatOption;
use tikv_client::{
    Backoff, CheckLevel, RetryOptions, Snapshot, Timestamp, TransactionClient, TransactionOptions,
};

use crate::applied::{Applied, FORMAT, Unreadable};
use crate::config::Config;
use crate::error::Failure;
use crate::keys::Keys;
use crate::link::{Link, Session};
use crate::metrics::TikvMetrics;
use crate::sweep::Sweeper;

/// The index of rooms of one region in TiKV. Several regions, and several nodes of one, may share a
/// cluster.
pub struct TikvRooms {
    inner: Arc<Inner>,
    sweeper: Sweeper,
}

/// What calls and the sweeper share.
pub(crate) struct Inner {
    pub(crate) link: Link,
    pub(crate) keys: Keys,
    pub(crate) metrics: TikvMetrics,
    /// What is known of the shards that were asked for.
    pub(crate) shards: Mutex<BTreeMap<ShardId, Known>>,
    pub(crate) config: Config,
}

/// What was last seen of a shard: hints, each of which is checked where it matters.
#[derive(Clone, Default, Debug)]
pub(crate) struct Known {
    pub(crate) generation: u64,
    /// Instances that are marked in this generation.
    pub(crate) marked: BTreeSet<Arc<str>>,
    /// Who made the last write that was seen as a whole from here. Unlike the others it is no hint.
    pub(crate) whole: u64,
}

impl TikvRooms {
    /// The index of `region` in the cluster of `config`. Connects nowhere yet: the first call does,
    /// and while there is no connection calls fail with `Unavailable`.
    ///
    /// Errors: `Io` when the system gives no thread.
    pub fn open(config: Config, region: &str, metrics: &Metrics) -> Result<Self, StoreError> {
        let metrics = TikvMetrics::new(metrics);
        let keys = Keys::new(&config.prefix, region);
        let inner = Arc::new(Inner {
            link: Link::new(config.clone(), keys.collected(), metrics.clone()),
            keys,
            metrics,
            shards: Mutex::default(),
            config,
        });
        let sweeper = Sweeper::start(inner.clone())?;
        Ok(Self { inner, sweeper })
    }
}

/// Transactions without the client's heartbeats and locks: a transaction of ours ends within its
/// deadlines, and the lease of one that does not is what frees its keys.
pub(crate) fn options() -> TransactionOptions {
    // The longest wait for a lock is a lease, 3 s: the deadline of a step ends the wait earlier.
    let locks = Backoff::no_jitter_backoff(2, 250, 30);
    let regions = Backoff::no_jitter_backoff(2, 500, 10);
    TransactionOptions::new_optimistic()
        .retry_options(RetryOptions::new(regions, locks))
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
        .drop_check(CheckLevel::None)
}

/// What is stored as of now.
pub(crate) async fn snapshot(client: &TransactionClient) -> Result<(Snapshot, Timestamp), Failure> {
    let now = client.current_timestamp().await?;
    Ok((client.snapshot(now.clone(), options()), now))
}

impl Inner {
    pub(crate) fn place(&self) -> String {
        self.link.place()
    }

    pub(crate) fn session(&self) -> Result<Arc<Session>, StoreError> {
        let session = self.link.session();
        session.map_err(|failure| failure.unavailable(&self.place()))
    }

    /// The state of a shard's index as it is stored.
    pub(crate) fn decode(
        &self,
        shard: ShardId,
        value: Option<Vec<u8>>,
    ) -> Result<Option<Applied>, StoreError> {
        let Some(value) = value else { return Ok(None) };
        let what = || format!("the state of the room index of shard {shard} in TiKV");
        match Applied::decode(&value) {
            Ok(applied) => Ok(Some(applied)),
            Err(Unreadable::Newer(found)) => Err(StoreError::Format {
                path: what(),
                found: found.into(),
                supported: FORMAT.into(),
            }),
            Err(Unreadable::Damaged) => Err(damaged(what())),
        }
    }

    pub(crate) fn read_applied(
        &self,
        session: &Session,
        shard: ShardId,
    ) -> Result<Option<Applied>, Failure> {
        let key = self.keys.applied(shard);
        let value = session.read("applied", async |client| {
            let (mut snapshot, _) = snapshot(client).await?;
            Ok(snapshot.get(key.clone()).await?)
        })?;
        let applied = self.decode(shard, value)?;
        self.seen(shard, applied.map_or(0, |a| a.generation));
        Ok(applied)
    }

    pub(crate) fn seen(&self, shard: ShardId, generation: u64) {
        let mut shards = self.shards.lock();
        let known = shards.entry(shard).or_default();
        if known.generation != generation {
            *known = Known {
                generation,
                marked: BTreeSet::new(),
                whole: known.whole,
            };
        }
    }

    /// A write was seen as a whole.
    pub(crate) fn whole(&self, shard: ShardId, writer: u64) {
        self.shards.lock().entry(shard).or_default().whole = writer;
    }

    /// How far the index of a shard is, by its state as it is stored. What the last write says is believed
    /// where it was seen as a whole from here: see `commit.rs`.
    pub(crate) fn believed(&self, shard: ShardId, stored: Option<Applied>) -> Position {
        let shards = self.shards.lock();
        let whole = shards.get(&shard).map(|known| known.whole);
        stored.map_or(0, |stored| match whole == Some(stored.writer) {
            true => stored.position,
            false => stored.from,
        })
    }

    pub(crate) fn guess(&self, shard: ShardId) -> u64 {
        let shards = self.shards.lock();
        shards.get(&shard).map_or(0, |known| known.generation)
    }

    /// The answer of a read; an index that is damaged is begun again and filled from the log.
    pub(crate) fn checked<T>(
        &self,
        shard: ShardId,
        read: Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let failure = match read {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        let Failure::Stored(error @ StoreError::Corrupt { .. }) = failure else {
            return Err(failure.unavailable(&self.place()));
        };
        tracing::error!(%shard, %error, "the room index is damaged and is begun again");
        self.metrics.begun_again.inc();
        self.begin_again(shard, Some(self.guess(shard)))?;
        Err(StoreError::Unavailable {
            cause: format!("{error}: it is filled again from the log"),
        })
    }
}

/// Damage names no room: errors are seen by people who may not know it.
pub(crate) fn damaged(segment: String) -> StoreError {
    StoreError::Corrupt {
        segment,
        byte: 0,
        position: 0,
        detail: "the value is not one that this program writes".into(),
    }
}

impl RoomStore for TikvRooms {
    fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        self.inner.put(shard, entries, from, applied)
    }

    fn applied(&self, shard: ShardId) -> Result<Position, StoreError> {
        let session = self.inner.session()?;
        let read = self.inner.read_applied(&session, shard);
        let applied = self.inner.checked(shard, read)?;
        Ok(self.inner.believed(shard, applied))
    }

    fn forward(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let found = self.inner.forward(shard, room, from, limit)?;
        Ok(found.into_iter().take(limit).collect())
    }

    fn reverse(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Position)>, StoreError> {
        let found = self.inner.reverse(shard, room, from, limit)?;
        Ok(found.into_iter().rev().take(limit).collect())
    }

    fn delete_below(
        &self,
        shard: ShardId,
        room: &ChannelKey,
        below: Offset,
    ) -> Result<(), StoreError> {
        self.inner.delete_below(shard, room, below)
    }

    fn clear(&self, shard: ShardId) -> Result<(), StoreError> {
        self.inner.begin_again(shard, None)?;
        self.sweeper.wake();
        Ok(())
    }
}
