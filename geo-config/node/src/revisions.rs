//! Revisions: every snapshot that differs from the last one gets the next number, and is kept
//! before anybody is given it, so that a number never means two snapshots.

use gb6_core_mesh::snapshot::SnapshotStore;
use gb6_core_model::snapshot::Snapshot;

use crate::GeoError;
use crate::serve::Published;

/// The kept snapshot and where it is kept.
#[derive(Debug)]
pub(crate) struct Revisions {
    store: SnapshotStore,
    current: Option<Snapshot>,
}

impl Revisions {
    /// Reads what is kept. Blocks on the disk.
    pub(crate) fn open(store: SnapshotStore) -> Result<Self, GeoError> {
        let current = store.load()?;
        Ok(Self { store, current })
    }

    /// The snapshot in force.
    pub(crate) fn current(&self) -> Option<&Snapshot> {
        self.current.as_ref()
    }

    /// Puts `new` in force, whatever revision it says: under the current one if it says the same,
    /// else under the next, kept first. Blocks on the disk.
    pub(crate) fn take(&mut self, mut new: Snapshot) -> Result<Published, GeoError> {
        let current = self.current.as_ref().map_or(0, |current| current.revision);
        new.revision = current;
        if self.current.as_ref() != Some(&new) {
            new.revision = current + 1;
            // Encoded before it is kept: one that no frame can carry must not come into force.
            let published = Published::new(&new)?;
            self.store.save(&new)?;
            self.current = Some(new);
            return Ok(published);
        }
        Ok(Published::new(&new)?)
    }
}
