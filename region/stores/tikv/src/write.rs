//! Writing behind the log, and beginning again.
//!
//! A write is an optimistic transaction: it reads the state of the shard's index, and its commit
//! fails where somebody else changed that state since. The state is the transaction's primary key, so
//! that reading it says whether a transaction whose answer was lost was committed: the read waits
//! until that is decided. An answer that says so is not believed either: see `commit.rs`.
//!
//! A write of entries says, in the state, that they are in. Where its other keys did not reach their parts of
//! the cluster, the state says what is not so. So it says too where the write began, and only who has seen
//! all of it takes the index for farther: whoever writes behind the log begins there, and writes its entries
//! once more, over those that are there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gb6_core_model::{Position, ShardId};
use gb6_core_ports::runs;
use gb6_core_ports::{RoomEntry, StoreError};
use tikv_client::{TimestampExt, Transaction};

use crate::applied::{Applied, FORMAT};
use crate::commit::{Writes, commit, fill, look};
use crate::error::Failure;
use crate::link::{COMMIT_STEPS, Session};
use crate::rooms::{Inner, options};

/// Entries of one transaction at most: with the longest names 2 MB, far below what TiKV takes.
const WRITE_ENTRIES_MAX: usize = 4096;
/// Instances of a shard that are known to be marked; beyond, they are marked again.
const MARKED_MAX: usize = 16_384;
/// Between attempts of reading back.
const READ_BACK_PAUSE: Duration = Duration::from_millis(100);
/// Attempts of a clear that somebody else's write came between.
const CLEAR_ATTEMPTS: usize = 8;

/// What became of one write.
enum Written {
    Done,
    /// Its state says that it was, and some of its keys are missing.
    InPart(Failure),
    /// It was not made, and why.
    Not(String),
    /// Somebody else has written, and it does not follow that.
    Behind(Position),
}

impl Inner {
    pub(crate) fn put(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        if applied < from {
            return Err(does_not_follow(from, applied, from));
        }
        let mut at = from;
        for (part, to) in parts(entries, from, applied) {
            self.write(shard, &part, at, to)?;
            at = to;
        }
        Ok(())
    }

    /// The instances of `entries` that may not be marked yet.
    fn unmarked(&self, shard: ShardId, generation: u64, entries: &[RoomEntry]) -> Vec<Arc<str>> {
        let shards = self.shards.lock();
        let known = shards
            .get(&shard)
            .filter(|known| known.generation == generation);
        let instances: BTreeSet<&str> = entries.iter().map(|e| e.room.instance.as_str()).collect();
        instances
            .into_iter()
            .filter(|i| known.is_none_or(|known| !known.marked.contains(*i)))
            .map(Arc::from)
            .collect()
    }

    fn marked(&self, shard: ShardId, generation: u64, instances: Vec<Arc<str>>) {
        self.seen(shard, generation);
        if let Some(known) = self.shards.lock().get_mut(&shard) {
            // overflow: all are forgotten; marking them again changes nothing.
            if known.marked.len() + instances.len() > MARKED_MAX {
                known.marked.clear();
            }
            known.marked.extend(instances);
        }
    }

    /// A transaction that has read the state of a shard's index.
    pub(crate) fn begin(
        &self,
        session: &Session,
        shard: ShardId,
    ) -> Result<(Transaction, Option<Vec<u8>>), Failure> {
        let key = self.keys.applied(shard);
        session.read("begin", async |client| {
            let mut transaction = client.begin_with_options(options()).await?;
            let value = transaction.get(key.clone()).await?;
            Ok((transaction, value))
        })
    }

    /// The same, where entries that begin at `from` follow what is believed to be in.
    fn begin_at(
        &self,
        session: &Session,
        shard: ShardId,
        from: Position,
        applied: Position,
    ) -> Result<(Transaction, Option<Applied>), StoreError> {
        let begun = self.begin(session, shard);
        let (transaction, value) = begun.map_err(|failure| failure.unavailable(&self.place()))?;
        let stored = self.decode(shard, value)?;
        let at = self.believed(shard, stored);
        match at == from {
            true => Ok((transaction, stored)),
            false => Err(does_not_follow(from, applied, at)),
        }
    }

    /// Writes entries that fit into one transaction.
    fn write(
        &self,
        shard: ShardId,
        entries: &[RoomEntry],
        from: Position,
        applied: Position,
    ) -> Result<(), StoreError> {
        let session = self.session()?;
        let (mut transaction, mut stored) = self.begin_at(&session, shard, from, applied)?;
        let claims = |stored: Option<Applied>| stored.is_some_and(|stored| stored.position > from);
        if claims(stored) && !entries.is_empty() {
            // Runs that are written once more may become shorter: nobody is to believe the write that
            // this one replaces, not even who has seen it.
            drop(transaction);
            self.write(shard, &[], from, from)?;
            (transaction, stored) = self.begin_at(&session, shard, from, applied)?;
            if claims(stored) {
                return Err(written_by_another(shard));
            }
        }
        let writer = transaction.start_timestamp().version();
        let written = Applied {
            generation: stored.map_or(writer, |stored| stored.generation),
            position: applied,
            from,
            writer,
        };
        let unmarked = self.unmarked(shard, written.generation, entries);
        // The first key is the primary one.
        let mut writes: Writes = vec![(self.keys.applied(shard), Some(written.encode()))];
        for instance in &unmarked {
            let instance = instance.as_bytes();
            let mark = self.keys.mark(shard, written.generation, instance);
            writes.push((mark, Some(Vec::from([FORMAT]))));
        }
        for (room, positions) in runs::by_room(entries) {
            let keys = self.keys.room(shard, written.generation, room);
            writes.append(&mut keys.runs(&positions));
        }
        let committed = session.commit("commit", async |client| {
            fill(&mut transaction, &writes).await?;
            commit(client, &mut transaction, &writes).await
        });
        let done = match committed {
            Ok(()) => Written::Done,
            Err(failure) if failure.is_write_conflict() => {
                // What it wrote before it failed is removed; else its lease does that.
                let _ = session.run("rollback", async |_| Ok(transaction.rollback().await?));
                return Err(written_by_another(shard));
            }
            Err(failure @ Failure::PartMade) => Written::InPart(failure),
            Err(failure) => {
                drop(transaction);
                self.read_back(shard, stored, &written, &writes, failure)?
            }
        };
        match done {
            Written::Done => {
                self.whole(shard, writer);
                self.marked(shard, written.generation, unmarked);
                Ok(())
            }
            Written::InPart(failure) => {
                let cause = failure.text(&self.place());
                tracing::warn!(%shard, %cause, "a write to the room index is made once more");
                Err(StoreError::Unavailable { cause })
            }
            Written::Not(cause) => Err(StoreError::Unavailable { cause }),
            Written::Behind(at) => Err(does_not_follow(from, applied, at)),
        }
    }

    /// Whether a transaction whose answer is missing was committed, and as a whole. Its end is decided
    /// when this answers: a read of a primary key that is being written waits until it is. Tried for as long
    /// as a commit may take. `begun` is what was stored when it began.
    fn read_back(
        &self,
        shard: ShardId,
        begun: Option<Applied>,
        written: &Applied,
        writes: &Writes,
        failure: Failure,
    ) -> Result<Written, StoreError> {
        self.metrics.read_back.inc();
        let place = self.place();
        let cause = failure.text(&place);
        let unknown = |failure: Failure| {
            let cause = format!("{cause}; then, read back: {}", failure.text(&place));
            StoreError::OutcomeUnknown { cause }
        };
        let deadline = Instant::now() + self.config.timeout * COMMIT_STEPS;
        let stored = loop {
            let read = self.link.session().and_then(|session| {
                let stored = self.read_applied(&session, shard)?;
                if stored.is_none_or(|stored| stored.writer != written.writer) {
                    return Ok(stored);
                }
                session.read("look", async |client| {
                    look(client, client.current_timestamp().await?, writes).await
                })?;
                Ok(stored)
            });
            match read {
                Ok(stored) => break stored,
                Err(failure @ Failure::PartMade) => return Ok(Written::InPart(failure)),
                Err(failure @ Failure::Stored(_)) => return Err(unknown(failure)),
                Err(failure) if Instant::now() >= deadline => return Err(unknown(failure)),
                Err(_) => thread::sleep(READ_BACK_PAUSE),
            }
        };
        Ok(match stored {
            Some(stored) if stored.writer == written.writer => Written::Done,
            stored if stored == begun => Written::Not(cause),
            stored => Written::Behind(stored.map_or(0, |stored| stored.position)),
        })
    }

    /// Begins a new generation of a shard's index, so that nothing of the old one is seen. Where
    /// `only` says which one is meant, another is left alone.
    pub(crate) fn begin_again(&self, shard: ShardId, only: Option<u64>) -> Result<(), StoreError> {
        let place = self.place();
        let key = self.keys.applied(shard);
        let mut failed = None;
        for _ in 0..CLEAR_ATTEMPTS {
            let session = self.session()?;
            let begun = self.begin(&session, shard);
            let (mut transaction, value) = begun.map_err(|f| f.unavailable(&place))?;
            let stored = match self.decode(shard, value) {
                Ok(None) => return Ok(()),
                Ok(Some(stored)) => Some(stored.generation),
                Err(StoreError::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            };
            let known = only.or(failed);
            if known.is_some() && stored.is_some() && known != stored {
                // Somebody has begun it again, or an attempt of ours that failed has.
                return Ok(());
            }
            let writer = transaction.start_timestamp().version();
            let fresh = Applied {
                generation: writer,
                position: 0,
                from: 0,
                writer,
            };
            let writes = vec![(key.clone(), Some(fresh.encode()))];
            let committed = session.commit("clear", async |client| {
                fill(&mut transaction, &writes).await?;
                commit(client, &mut transaction, &writes).await
            });
            match committed {
                Ok(()) => {
                    self.seen(shard, fresh.generation);
                    return Ok(());
                }
                Err(failure) if failure.is_write_conflict() => {}
                Err(failure) => {
                    drop(transaction);
                    let cause = failure.text(&place);
                    let read = self.session().and_then(|session| {
                        let read = self.read_applied(&session, shard);
                        read.map_err(|f| f.unknown(&place))
                    });
                    match read {
                        Ok(Some(now)) if Some(now.generation) != stored => return Ok(()),
                        Ok(_) => return Err(StoreError::Unavailable { cause }),
                        Err(_) => return Err(StoreError::OutcomeUnknown { cause }),
                    }
                }
            }
            failed = failed.or(stored);
        }
        Err(contended(shard))
    }
}

/// Attempts were used up by writes of others.
pub(crate) fn contended(shard: ShardId) -> StoreError {
    StoreError::Conflict {
        what: format!("the room index of shard {shard} is written all the time"),
    }
}

fn written_by_another(shard: ShardId) -> StoreError {
    StoreError::Conflict {
        what: format!("the room index of shard {shard} was written by somebody else"),
    }
}

fn does_not_follow(from: Position, applied: Position, stored: Position) -> StoreError {
    StoreError::Conflict {
        what: format!(
            "entries from position {from} to {applied} do not follow the stored {stored}"
        ),
    }
}

/// Entries cut so that each part fits into a transaction: each part with the position before which
/// every record is in once it is written.
fn parts(
    entries: &[RoomEntry],
    from: Position,
    applied: Position,
) -> Vec<(Vec<RoomEntry>, Position)> {
    if entries.len() <= WRITE_ENTRIES_MAX {
        return vec![(entries.to_vec(), applied)];
    }
    let mut sorted = entries.to_vec();
    sorted.sort_by_key(|entry| entry.position);
    let mut parts = Vec::new();
    let mut rest = sorted.as_slice();
    while rest.len() > WRITE_ENTRIES_MAX {
        let (part, behind) = rest.split_at(WRITE_ENTRIES_MAX);
        // What lies before the next entry is in: records without an entry need none.
        let next = behind.first().map_or(applied, |entry| entry.position);
        parts.push((part.to_vec(), next.clamp(from, applied)));
        rest = behind;
    }
    parts.push((rest.to_vec(), applied));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::{Channel, ChannelKey, InstanceId};

    fn entry(position: Position) -> RoomEntry {
        let channel = Channel::parse("a").expect("a channel's name");
        RoomEntry {
            room: ChannelKey::new(InstanceId::from("demo"), channel),
            offset: position,
            position,
        }
    }

    #[test]
    fn parts_never_claim_what_a_later_one_holds() {
        // Every second record has an entry, in no order.
        let mut entries: Vec<RoomEntry> = (0..10_000).map(|n| entry(100 + n * 2)).collect();
        entries.reverse();
        let parts = parts(&entries, 100, 20_200);
        assert_eq!(parts.len(), 3);
        let mut written = Vec::new();
        let mut at = 100;
        for (part, applied) in &parts {
            assert!(part.len() <= WRITE_ENTRIES_MAX);
            assert!(*applied >= at);
            at = *applied;
            written.extend(part.iter().map(|e| e.position));
            let missing = entries
                .iter()
                .any(|e| e.position < at && !written.contains(&e.position));
            assert!(!missing, "before {at}");
        }
        assert_eq!(at, 20_200);
        assert_eq!(written.len(), entries.len());
    }

    #[test]
    fn a_part_claims_nothing_outside_of_the_whole() {
        let entries: Vec<RoomEntry> = (0..5000).map(entry).collect();
        let parts = parts(&entries, 4500, 4600);
        assert_eq!(parts[0].1, 4500);
        assert_eq!(parts[1].1, 4600);
    }
}
