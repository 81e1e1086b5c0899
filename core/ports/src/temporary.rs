//! The port `Temporary`: small values that end by themselves and that nobody misses much, such as when a
//! user was seen last. Nothing that must not be lost.

use std::time::Duration;

use gb6_core_model::InstanceId;

use crate::error::StoreError;

/// Longest name in bytes.
pub const TEMPORARY_NAME_MAX: usize = 512;
/// Largest value in bytes.
pub const TEMPORARY_VALUE_MAX: usize = 4 * 1024;
/// Values of one call.
pub const TEMPORARY_BATCH_MAX: usize = 1024;
/// The longest that a value is kept; a longer time is cut to it.
pub const TEMPORARY_TTL_MAX: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Which value.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TemporaryKey {
    /// The instance that it is of.
    pub instance: InstanceId,
    /// Its name there: any text; begin it with what it is for, such as `online:`.
    pub name: String,
}

/// Keeps values for a while. Calls may block the calling thread, each within a deadline of its own.
///
/// A value may be gone at any time before it ends; it is there at no time after. The values of one call
/// are changed one by one, and one that fails may leave some changed.
pub trait Temporary: Send + Sync {
    /// Keeps values in place of those that are there, for `ttl` from now; a `ttl` of zero deletes.
    ///
    /// # Errors
    /// `TooLarge`: values, a name or a value; nothing is changed. `Unavailable`, `OutcomeUnknown`: each
    /// is as it was, or as it was to be.
    fn put(&self, values: &[(TemporaryKey, Vec<u8>)], ttl: Duration) -> Result<(), StoreError>;

    /// The values, in that order; `None`: there is none.
    ///
    /// # Errors
    /// `TooLarge`, `Unavailable`.
    fn get(&self, keys: &[TemporaryKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Removes values; that there is none is no error.
    ///
    /// # Errors
    /// As [`Temporary::put`].
    fn delete(&self, keys: &[TemporaryKey]) -> Result<(), StoreError>;
}

/// Refuses what is larger than it may be, before an engine looks at it.
///
/// # Errors
/// `TooLarge`.
pub fn admit<'a>(
    values: impl ExactSizeIterator<Item = (&'a TemporaryKey, &'a [u8])>,
) -> Result<(), StoreError> {
    let within = |size: usize, limit: usize| match size > limit {
        true => Err(StoreError::TooLarge {
            size: size as u64,
            limit: limit as u64,
        }),
        false => Ok(()),
    };
    within(values.len(), TEMPORARY_BATCH_MAX)?;
    for (key, value) in values {
        within(key.name.len(), TEMPORARY_NAME_MAX)?;
        within(value.len(), TEMPORARY_VALUE_MAX)?;
    }
    Ok(())
}
