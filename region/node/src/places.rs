//! How many reads of history may be under way at once: few of a shard and not too many of a node, and apart
//! from them those that need an archive, which may not answer while the index and the log do. Each keeps one of
//! the threads that takeovers, statuses and much else need too.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads of one shard at once.
const READS_MAX: usize = 8;
/// Reads of one shard from its archive at once.
const ARCHIVE_READS_MAX: usize = 8;
/// Reads of a node from its logs and the index at once: well below the 512 threads that a runtime has for what
/// blocks.
const NODE_READS_MAX: usize = 192;
/// Reads of a node from archives at once.
const NODE_ARCHIVE_READS_MAX: usize = 64;

/// The places of all shards of a node. Cloning shares them.
#[derive(Clone)]
pub(crate) struct NodePlaces {
    reads: Arc<Semaphore>,
    from_archive: Arc<Semaphore>,
}

impl Default for NodePlaces {
    fn default() -> Self {
        Self {
            reads: Arc::new(Semaphore::new(NODE_READS_MAX)),
            from_archive: Arc::new(Semaphore::new(NODE_ARCHIVE_READS_MAX)),
        }
    }
}

/// The places of a shard's reads. Cloning shares them.
#[derive(Clone)]
pub(crate) struct ReadPlaces {
    reads: Arc<Semaphore>,
    from_archive: Arc<Semaphore>,
    node: NodePlaces,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    _of_shard: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

impl ReadPlaces {
    pub(crate) fn new(node: NodePlaces) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(READS_MAX)),
            from_archive: Arc::new(Semaphore::new(ARCHIVE_READS_MAX)),
            node,
        }
    }

    /// Waits for a place; one of those that may look into the archive if `archive` is set. Overflow policy:
    /// who waits says for how long.
    pub(crate) async fn take(&self, archive: bool) -> Option<Place> {
        let (of_shard, of_node) = match archive {
            true => (&self.from_archive, &self.node.from_archive),
            false => (&self.reads, &self.node.reads),
        };
        // None of them is ever closed.
        let of_shard = of_shard.clone().acquire_owned().await.ok()?;
        let of_node = of_node.clone().acquire_owned().await.ok()?;
        Some(Place {
            _of_shard: of_shard,
            _of_node: of_node,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_node_reads_so_much_at_once_however_many_shards_it_has() {
        for (archive, of_shard, most) in [
            (false, READS_MAX, NODE_READS_MAX),
            (true, ARCHIVE_READS_MAX, NODE_ARCHIVE_READS_MAX),
        ] {
            let node = NodePlaces::default();
            let shards: Vec<_> = (0..=most / of_shard)
                .map(|_| ReadPlaces::new(node.clone()))
                .collect();
            let mut taken = Vec::new();
            for place in 0..most {
                let shard = &shards[place / of_shard];
                taken.push(shard.take(archive).await.expect("a place"));
            }
            let last = &shards[most / of_shard];
            let moment = Duration::from_millis(50);
            assert!(timeout(moment, last.take(archive)).await.is_err());
            // Whoever needs the other kind does not wait.
            assert!(last.take(!archive).await.is_some());
            taken.pop();
            assert!(last.take(archive).await.is_some());
        }
    }
}
