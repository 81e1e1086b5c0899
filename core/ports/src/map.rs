//! The port `MapStore`: few small records that several nodes agree on, such as which node owns which
//! shard.

use std::time::Duration;

use crate::error::StoreError;

/// Longest key in bytes.
pub const MAP_KEY_MAX: usize = 256;
/// Largest value in bytes.
pub const MAP_VALUE_MAX: usize = 64 * 1024;

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// Its key: `/`-separated parts of printable ASCII.
    pub key: String,
    /// Its value; `None`: it was deleted (told by [`MapStore::changes`] alone).
    pub value: Option<Vec<u8>>,
    /// The store's revision at which it was last changed.
    pub revision: u64,
}

/// What a record must be for a change to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Whatever.
    Any,
    /// It does not exist.
    Absent,
    /// It exists, last changed at this revision.
    Revision(u64),
}

/// Records at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapPage {
    /// The records, by key.
    pub entries: Vec<MapEntry>,
    /// The store's revision at that moment.
    pub revision: u64,
}

/// A linearizable map. Calls block the calling thread; each has a deadline of its own.
///
/// Every change raises the store's revision by at least one, and revisions are seen in their order: who
/// has been told of one is told of no lower one later.
pub trait MapStore: Send + Sync {
    /// A record; `None` where there is none.
    ///
    /// # Errors
    /// `Unavailable`.
    fn get(&self, key: &str) -> Result<Option<MapEntry>, StoreError>;

    /// Writes a record if it is as expected; answers its revision.
    ///
    /// # Errors
    /// `Conflict`: it is not. `TooLarge`: key or value. `Unavailable`: nothing was written.
    /// `OutcomeUnknown`: read it.
    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError>;

    /// Removes a record if it is as expected; that none is there is no error with [`Expect::Any`].
    ///
    /// # Errors
    /// As [`MapStore::put`].
    fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError>;

    /// Every record whose key begins with `prefix`.
    ///
    /// # Errors
    /// `Unavailable`; `TooLarge` above `limit` records.
    fn list(&self, prefix: &str, limit: usize) -> Result<MapPage, StoreError>;

    /// Records whose keys begin with `prefix` and which were changed or deleted after revision `after`,
    /// each once, as it is now, in the order of their revisions; at most `limit`, the lowest revisions
    /// first. Waits for one up to `wait` where there is none; then the page is empty. The page's revision is
    /// what to ask after next.
    ///
    /// # Errors
    /// `Unavailable`.
    fn changes(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<MapPage, StoreError>;
}
