//! Writes that may have been made in part: what their state says is not believed before all of their
//! keys were seen.
//!
//! A write of entries says, in the state of the shard's index, that they are in. Where its other keys
//! did not reach their parts of the cluster, the state says what is not so (see `commit.rs`). Until a
//! write was seen as a whole this node takes the index for as far as it was before, so that whoever writes
//! behind the log writes its entries once more; and where it was seen not to be, its state is taken back,
//! so that other nodes do not believe it either.

use gb6_core_model::{Position, ShardId};
use tikv_client::TimestampExt;

use crate::applied::Applied;
use crate::commit::{commit, fill};
use crate::error::Failure;
use crate::rooms::{Inner, options};

/// Attempts of taking a state back that somebody else's write came between.
const ATTEMPTS: usize = 8;

/// A write that was not seen as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Doubt {
    /// In this generation of the index.
    pub(crate) generation: u64,
    /// Everything before was in before it.
    pub(crate) from: Position,
}

impl Doubt {
    /// How far the index is for whoever doubts the write.
    fn lower(self, stored: Applied) -> Applied {
        if stored.generation != self.generation {
            return stored;
        }
        Applied {
            position: stored.position.min(self.from),
            ..stored
        }
    }
}

impl Inner {
    /// From now on this, or nothing, is doubted of a shard's index; answers with what was before.
    pub(crate) fn doubt(&self, shard: ShardId, doubt: Option<Doubt>) -> Option<Doubt> {
        let mut shards = self.shards.lock();
        std::mem::replace(&mut shards.entry(shard).or_default().doubt, doubt)
    }

    /// What is believed of a state that is stored.
    pub(crate) fn believed(&self, shard: ShardId, stored: Option<Applied>) -> Option<Applied> {
        let shards = self.shards.lock();
        let doubt = shards.get(&shard).and_then(|known| known.doubt);
        drop(shards);
        match doubt {
            Some(doubt) => stored.map(|stored| doubt.lower(stored)),
            None => stored,
        }
    }

    /// Takes back what a write says that was made in part: a transaction of one key, so that it is made as a
    /// whole or not. Also where others have written on, who believed it: they find out by a conflict.
    ///
    /// Errors: where it did not come to that, or it is not known; the doubt stays then.
    pub(crate) fn take_back(&self, shard: ShardId, doubt: Doubt) -> Result<(), Failure> {
        self.metrics.taken_back.inc();
        let key = self.keys.applied(shard);
        let mut attempts = 0;
        loop {
            let session = self.link.session()?;
            let taken = session.commit("take_back", async |client| {
                let mut transaction = client.begin_with_options(options()).await?;
                let value = transaction.get(key.clone()).await?;
                let Some(stored) = self.decode(shard, value)? else {
                    return Ok(());
                };
                let lowered = Applied {
                    writer: transaction.start_timestamp().version(),
                    ..doubt.lower(stored)
                };
                if lowered.position == stored.position {
                    return Ok(());
                }
                let writes = vec![(key.clone(), Some(lowered.encode()))];
                fill(&mut transaction, &writes).await?;
                commit(client, &mut transaction, &writes).await
            });
            attempts += 1;
            match taken {
                Ok(()) => {
                    self.doubt(shard, None);
                    return Ok(());
                }
                Err(failure) if failure.is_write_conflict() && attempts < ATTEMPTS => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_doubted_is_lowered_in_its_own_generation_only() {
        let stored = Applied {
            generation: 7,
            position: 20,
            writer: 9,
        };
        let doubt = |generation, from| Doubt { generation, from };
        assert_eq!(doubt(7, 12).lower(stored).position, 12);
        assert_eq!(doubt(7, 20).lower(stored), stored);
        assert_eq!(doubt(7, 25).lower(stored), stored, "never raised");
        assert_eq!(doubt(6, 12).lower(stored), stored, "begun again since");
    }
}
