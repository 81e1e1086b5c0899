//! How many reads of history may be under way at once: few of a shard, and apart from them those that need
//! its archive, which may not answer while the index and the log do.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads of one shard at once.
const READS_MAX: usize = 8;
/// Reads of one shard from its archive at once.
const ARCHIVE_READS_MAX: usize = 8;
/// Reads of a node from archives at once: each keeps a thread for as long as the archive takes.
const NODE_ARCHIVE_READS_MAX: usize = 64;

/// Reads from archives of all shards of a node. Cloning shares them.
#[derive(Clone)]
pub(crate) struct ArchivePlaces(Arc<Semaphore>);

impl Default for ArchivePlaces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(NODE_ARCHIVE_READS_MAX)))
    }
}

/// The places of a shard's reads. Cloning shares them.
#[derive(Clone)]
pub(crate) struct ReadPlaces {
    reads: Arc<Semaphore>,
    from_archive: Arc<Semaphore>,
    node: ArchivePlaces,
}

/// A place, until it is dropped.
pub(crate) struct Place {
    _of_shard: OwnedSemaphorePermit,
    _of_node: Option<OwnedSemaphorePermit>,
}

impl ReadPlaces {
    pub(crate) fn new(node: ArchivePlaces) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(READS_MAX)),
            from_archive: Arc::new(Semaphore::new(ARCHIVE_READS_MAX)),
            node,
        }
    }

    /// Waits for a place; one of those that may look into the archive if `archive` is set. Overflow policy:
    /// who waits says for how long.
    pub(crate) async fn take(&self, archive: bool) -> Option<Place> {
        // None of them is ever closed.
        if !archive {
            let place = self.reads.clone().acquire_owned().await.ok()?;
            return Some(Place {
                _of_shard: place,
                _of_node: None,
            });
        }
        let of_shard = self.from_archive.clone().acquire_owned().await.ok()?;
        let of_node = self.node.0.clone().acquire_owned().await.ok()?;
        Some(Place {
            _of_shard: of_shard,
            _of_node: Some(of_node),
        })
    }
}
