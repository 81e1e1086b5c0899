//! The file of the log's consumers.

use std::ops::Deref;

use gb6_core_model::Position;
use gb6_core_ports::{ConsumerState, StoreError};
use gb6_region_archive::consumers::{CONSUMERS_BYTES_MAX, Consumers as List};

use crate::vfs::{Named, Vfs, read_file, replace_file};

/// The name of the file.
pub(crate) const FILE: &str = "consumers";

/// The consumers of one log, in memory as in the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumers(List);

impl Deref for Consumers {
    type Target = List;

    fn deref(&self) -> &List {
        &self.0
    }
}

impl Consumers {
    pub(crate) fn list(&self) -> &List {
        &self.0
    }

    pub(crate) fn load<V: Vfs>(vfs: &V) -> Result<Self, StoreError> {
        if !vfs.exists(FILE).named(vfs, "look for", FILE)? {
            return Ok(Self::default());
        }
        let bytes = read_file(vfs, FILE, CONSUMERS_BYTES_MAX)?;
        let list = List::decode(&bytes).ok_or_else(|| StoreError::Corrupt {
            segment: vfs.path(FILE),
            byte: 0,
            position: 0,
            detail: "the list of consumers is damaged: remove the file, consumers then register \
                     again and start from a snapshot"
                .into(),
        })?;
        Ok(Self(list))
    }

    /// Stores `next`, if there is one, and becomes it.
    fn become_stored<V: Vfs>(&mut self, vfs: &V, next: Option<List>) -> Result<(), StoreError> {
        let Some(next) = next else { return Ok(()) };
        replace_file(vfs, FILE, next.encode().as_bytes())?;
        self.0 = next;
        Ok(())
    }

    pub(crate) fn register<V: Vfs>(
        &mut self,
        vfs: &V,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        let (state, next) = self.0.register(name, position)?;
        self.become_stored(vfs, next)?;
        Ok(state)
    }

    pub(crate) fn set<V: Vfs>(
        &mut self,
        vfs: &V,
        name: &str,
        position: Position,
    ) -> Result<(), StoreError> {
        let next = self.0.set(name, position)?;
        self.become_stored(vfs, next)
    }

    pub(crate) fn set_all<V: Vfs>(
        &mut self,
        vfs: &V,
        positions: &[(String, Position)],
    ) -> Result<Vec<String>, StoreError> {
        let (next, refused) = self.0.set_all(positions);
        self.become_stored(vfs, next)?;
        Ok(refused)
    }

    pub(crate) fn remove<V: Vfs>(&mut self, vfs: &V, name: &str) -> Result<(), StoreError> {
        let next = self.0.remove(name);
        self.become_stored(vfs, next)
    }

    /// Marks those as lapsed that are behind by more than `bound` bytes.
    pub(crate) fn lapse<V: Vfs>(
        &mut self,
        vfs: &V,
        bound: u64,
        bytes_behind: impl Fn(Position) -> u64,
    ) -> Result<(), StoreError> {
        let next = self.0.lapse(bound, bytes_behind);
        self.become_stored(vfs, next)
    }
}
