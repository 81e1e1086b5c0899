//! The port `MapStore`: few small records that several nodes agree on, such as which node owns which
//! shard.

use std::time::Duration;

use crate::error::StoreError;

/// Longest key in bytes.
pub const MAP_KEY_MAX: usize = 256;
/// Largest value in bytes.
pub const MAP_VALUE_MAX: usize = 64 * 1024;
/// How many of the newest deletions a store remembers, unless it is told otherwise.
pub const MAP_TOMBSTONES: usize = 10_000;

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

impl Expect {
    /// Whether a record that exists at revision `found`, or does not, is as expected.
    ///
    /// # Errors
    /// `Conflict`, which says what was found.
    pub fn check(self, key: &str, found: Option<u64>) -> Result<(), StoreError> {
        let is = match found {
            Some(revision) => format!("is at revision {revision}"),
            None => "does not exist".to_owned(),
        };
        let what = match (self, found) {
            (Expect::Any, _) | (Expect::Absent, None) => return Ok(()),
            (Expect::Revision(r), Some(f)) if r == f => return Ok(()),
            (Expect::Absent, Some(_)) => format!("{key} {is}, and was to be new"),
            (Expect::Revision(r), _) => format!("{key} {is}, revision {r} was expected"),
        };
        Err(StoreError::Conflict { what })
    }
}

/// Records at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapPage {
    /// The records, by key.
    pub entries: Vec<MapEntry>,
    /// The store's revision at that moment.
    pub revision: u64,
}

impl MapPage {
    /// The page, if it has no more than `limit` records: what every engine's [`MapStore::list`] answers.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn within(self, limit: usize) -> Result<Self, StoreError> {
        match self.entries.len() {
            count if count > limit => Err(StoreError::TooLarge {
                size: count as u64,
                limit: limit as u64,
            }),
            _ => Ok(self),
        }
    }
}

/// A linearizable map. Calls block the calling thread; each has a deadline of its own.
///
/// Every change raises the store's revision by at least one, and revisions are seen in their order: who
/// has been told of one is told of no lower one later.
///
/// A key is 1 to [`MAP_KEY_MAX`] bytes of printable ASCII without spaces; another one is a `Conflict`
/// (`TooLarge` where it is longer), before anything is asked.
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
    /// each once, as it is now, in the order of their revisions; at most `limit` (at least one), the
    /// lowest revisions first. Waits for one up to `wait` where there is none; then the page is empty. The
    /// page's revision is what to ask after next.
    ///
    /// # Errors
    /// `Unavailable`. `Trimmed`: deletions after `after` may have been forgotten ([`MAP_TOMBSTONES`]):
    /// list again, and go on after the list's revision; never with an `after` of 0, which asks for what
    /// there is.
    fn changes(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<MapPage, StoreError>;
}

/// Whether `key` may be a key.
///
/// # Errors
/// `TooLarge`; `Conflict` where it has other bytes than printable ASCII, or none.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        let what = "a key of the map is empty".to_owned();
        return Err(StoreError::Conflict { what });
    }
    check_prefix(key)
}

/// Whether `prefix` may begin a key.
///
/// # Errors
/// As [`check_key`].
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAP_KEY_MAX {
        return Err(StoreError::TooLarge {
            size: prefix.len() as u64,
            limit: MAP_KEY_MAX as u64,
        });
    }
    if !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        let what = format!("{prefix:?} is no key of the map: printable ASCII without spaces");
        return Err(StoreError::Conflict { what });
    }
    Ok(())
}

/// Whether `value` may be a value.
///
/// # Errors
/// `TooLarge`.
pub fn check_value(value: &[u8]) -> Result<(), StoreError> {
    if value.len() > MAP_VALUE_MAX {
        return Err(StoreError::TooLarge {
            size: value.len() as u64,
            limit: MAP_VALUE_MAX as u64,
        });
    }
    Ok(())
}
