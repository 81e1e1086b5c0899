//! The port `Temporary`: small values that end by themselves and that nobody misses much: what a session
//! leaves for its return, what was fetched and can be fetched again. Nothing that must not be lost.

use std::time::Duration;

use gb6_core_model::InstanceId;

use crate::error::StoreError;

/// Longest name in bytes.
pub const TEMPORARY_NAME_MAX: usize = 256;
/// Largest value in bytes.
pub const TEMPORARY_VALUE_MAX: usize = 64 * 1024;
/// The longest that a value is kept; a longer time is cut to it.
pub const TEMPORARY_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Which value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TemporaryKey {
    /// The instance that it is of.
    pub instance: InstanceId,
    /// Its name there: any text; begin it with what it is for, such as `resume:`.
    pub name: String,
}

/// Keeps values for a while. Calls may block the calling thread, each within a deadline of its own.
///
/// A value may be gone at any time before it ends; it is there at no time after. Of all calls of
/// [`Temporary::take`] at most one gets it.
pub trait Temporary: Send + Sync {
    /// Keeps a value in place of the one that is there, for `ttl` from now; a `ttl` of zero deletes.
    ///
    /// # Errors
    /// `TooLarge`: name or value. `Unavailable`: it is as it was. `OutcomeUnknown`: one of both.
    fn put(&self, key: &TemporaryKey, value: &[u8], ttl: Duration) -> Result<(), StoreError>;

    /// The value.
    ///
    /// # Errors
    /// `Unavailable`.
    fn get(&self, key: &TemporaryKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// The value, which is gone then.
    ///
    /// # Errors
    /// `Unavailable`: it is as it was. `OutcomeUnknown`: it may be gone, and nobody has it.
    fn take(&self, key: &TemporaryKey) -> Result<Option<Vec<u8>>, StoreError>;

    /// Removes the value; that there is none is no error.
    ///
    /// # Errors
    /// As [`Temporary::take`].
    fn delete(&self, key: &TemporaryKey) -> Result<(), StoreError>;
}

/// Refuses what is larger than it may be, before an engine looks at it.
///
/// # Errors
/// `TooLarge`.
pub fn admit(key: &TemporaryKey, value: &[u8]) -> Result<(), StoreError> {
    for (size, limit) in [
        (key.name.len(), TEMPORARY_NAME_MAX),
        (value.len(), TEMPORARY_VALUE_MAX),
    ] {
        if size > limit {
            let (size, limit) = (size as u64, limit as u64);
            return Err(StoreError::TooLarge { size, limit });
        }
    }
    Ok(())
}
