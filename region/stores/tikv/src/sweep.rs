//! What is removed in the background: the entries of cleared indexes, and, where nobody else in the
//! cluster does it, overwritten versions that TiKV keeps until it is told how far they may go.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gb6_core_model::ShardId;
use gb6_core_ports::StoreError;
use parking_lot::{Condvar, Mutex};
use tikv_client::{Timestamp, TimestampExt};

use crate::commit::{commit, fill};
use crate::error::Failure;
use crate::link::Session;
use crate::rooms::{Inner, options, snapshot};
use crate::trim::remove_keys;

/// Between two looks, unless a clear wakes it.
const EVERY: Duration = Duration::from_secs(60);
/// Between two steps of removing: what is removed is in nobody's way.
const PAUSE: Duration = Duration::from_millis(5);
/// Marks read at once.
const MARKS_PAGE: u32 = 256;
/// How often versions are collected, by one node of the region.
const COLLECT_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long a collection may take: it looks through the cluster for what dead transactions left.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The thread that removes.
pub(crate) struct Sweeper(Arc<Signal>);

#[derive(Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    woken: bool,
    stopped: bool,
}

impl Signal {
    fn stopped(&self) -> bool {
        self.state.lock().stopped
    }
}

impl Sweeper {
    pub(crate) fn start(inner: Arc<Inner>) -> Result<Self, StoreError> {
        let signal = Arc::new(Signal::default());
        let seen = signal.clone();
        let thread = thread::Builder::new().name("tikv-sweep".into());
        let spawned = thread.spawn(move || run(&inner, &seen));
        spawned.map_err(|e| StoreError::Io {
            operation: "spawn",
            path: "tikv-sweep".into(),
            detail: e.to_string(),
        })?;
        Ok(Self(signal))
    }

    /// Something was cleared.
    pub(crate) fn wake(&self) {
        self.0.state.lock().woken = true;
        self.0.changed.notify_one();
    }
}

impl Drop for Sweeper {
    /// Ends the thread after the step that it is in; nobody waits for that.
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.changed.notify_one();
    }
}

fn run(inner: &Inner, signal: &Signal) {
    let mut failing = false;
    loop {
        {
            let mut state = signal.state.lock();
            if !state.woken && !state.stopped {
                signal.changed.wait_for(&mut state, EVERY);
            }
            if state.stopped {
                return;
            }
            state.woken = false;
        }
        let swept = sweep(inner, signal);
        if let Err(failure) = &swept
            && !failing
        {
            let cause = failure.text(&inner.place());
            tracing::warn!(%cause, "what is no longer needed in TiKV can not be removed; it is tried again");
        }
        failing = swept.is_err();
    }
}

/// Removes what is left of cleared indexes, of the shards that were used here.
fn sweep(inner: &Inner, signal: &Signal) -> Result<(), Failure> {
    let shards: Vec<ShardId> = inner.shards.lock().keys().copied().collect();
    let session = inner.link.session()?;
    let mut swept = Ok(());
    for shard in shards {
        match sweep_shard(inner, signal, &session, shard) {
            // What is wrong with one, as where a newer program wrote its state, stops no other.
            Err(failure @ Failure::Stored(_)) => swept = Err(failure),
            result => result?,
        }
    }
    if let Some(keep) = inner.config.gc {
        collect(inner, &session, keep)?;
    }
    swept
}

fn sweep_shard(
    inner: &Inner,
    signal: &Signal,
    session: &Session,
    shard: ShardId,
) -> Result<(), Failure> {
    let state = inner.keys.applied(shard);
    let mut range = inner.keys.marks(shard);
    loop {
        // The state and the marks of one moment: a mark of another generation is of one that has
        // ended, and none comes again.
        let (value, marks) = session.read("marks", async |client| {
            let (mut snapshot, _) = snapshot(client).await?;
            let value = snapshot.get(state.clone()).await?;
            let marks = snapshot.scan_keys(range.clone(), MARKS_PAGE).await?;
            Ok((value, marks.map(Vec::<u8>::from).collect::<Vec<_>>()))
        })?;
        let current = inner.decode(shard, value)?.map(|stored| stored.generation);
        let count = marks.len();
        for mark in marks {
            range.start.clone_from(&mark);
            range.start.push(0);
            let Some((generation, instance)) = inner.keys.read_mark(&mark) else {
                continue;
            };
            if Some(generation) == current {
                continue;
            }
            let entries = inner.keys.entries(instance, shard, generation);
            let removed = inner.remove(session, entries, |_| {
                thread::sleep(PAUSE);
                !signal.stopped()
            })?;
            inner.metrics.swept.inc_by(removed);
            if signal.stopped() {
                return Ok(());
            }
            match remove_keys(session, vec![mark]) {
                Ok(()) => inner.metrics.swept.inc(),
                Err(failure) if failure.is_write_conflict() => {}
                Err(failure) => return Err(failure),
            }
        }
        if count < MARKS_PAGE as usize {
            return Ok(());
        }
    }
}

/// Lets TiKV collect versions older than `keep`, unless another node of the region has done so
/// lately.
fn collect(inner: &Inner, session: &Session, keep: Duration) -> Result<(), Failure> {
    let key = inner.keys.collected();
    let turn = session.commit("turn", async |client| {
        let mut transaction = client.begin_with_options(options()).await?;
        let now = transaction.start_timestamp();
        let last = match transaction.get(key.clone()).await? {
            Some(value) => value
                .first_chunk::<8>()
                .map_or(0, |word| i64::from_be_bytes(*word)),
            None => 0,
        };
        if !is_due(last, now.physical) {
            return Ok(None);
        }
        let value = now.physical.to_be_bytes().to_vec();
        let writes = vec![(key.clone(), Some(value))];
        fill(&mut transaction, &writes).await?;
        commit(client, &mut transaction, &writes).await?;
        Ok(Some(now))
    });
    let now = match turn {
        Ok(Some(now)) => now,
        Ok(None) => return Ok(()),
        Err(failure) if failure.is_write_conflict() => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let upto = before(&now, keep);
    session.run_within(COLLECT_TIMEOUT, "collect", async |client| {
        client.gc(upto).await?;
        Ok(())
    })
}

/// Whether it is time again; the times are the cluster's, in ms. One in the future is not believed:
/// the cluster was restored.
fn is_due(last: i64, now: i64) -> bool {
    let passed = now.saturating_sub(last);
    !(0..COLLECT_EVERY.as_millis() as i64).contains(&passed)
}

fn before(now: &Timestamp, keep: Duration) -> Timestamp {
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let mut upto = Timestamp::from_version(0);
    upto.physical = now.physical.saturating_sub(keep).max(0);
    upto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_collected_now_and_then() {
        let every = COLLECT_EVERY.as_millis() as i64;
        assert!(is_due(0, 1_700_000_000_000));
        assert!(!is_due(1000, 1000 + every - 1));
        assert!(is_due(1000, 1000 + every));
        assert!(is_due(5000, 1000), "a time in the future");
    }

    #[test]
    fn what_is_kept_is_kept() {
        let mut now = Timestamp::from_version(0);
        now.physical = 10_000;
        now.logical = 7;
        let upto = before(&now, Duration::from_secs(4));
        assert_eq!((upto.physical, upto.logical), (6000, 0));
        assert_eq!(before(&now, Duration::from_secs(40)).physical, 0);
    }
}
