//! The port `PeopleStatus`: who is online, and what people say of themselves (at work, in a call, back at
//! three), for all rooms of an instance at once. Who knows that a person is online holds it under a lease,
//! others read it in bulk and are told of changes. Freshness is all that is lost when it is lost.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::InstanceId;

use crate::error::StoreError;

/// Largest status in bytes.
pub const STATUS_BYTES_MAX: usize = 1024;
/// Longest name of a user in bytes.
pub const STATUS_USER_MAX: usize = 256;
/// People of one call.
pub const STATUS_BATCH_MAX: usize = 1024;

/// Who.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PersonKey {
    /// The instance.
    pub instance: InstanceId,
    /// Its user.
    pub user: String,
}

/// What a node says of a person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Of whom.
    pub person: PersonKey,
    /// What; `None`: nothing any more.
    pub status: Option<Vec<u8>>,
}

/// What is known of a person.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Rises whenever it changes: of two statuses of a person the one with the higher version is newer.
    /// A lease that ends changes no version.
    pub version: u64,
    /// What was said last by those whose lease lasts; `None`: nobody says anything.
    pub said: Option<Vec<u8>>,
}

/// Who is told of changes. Called by whoever makes or receives them, so it must not block; what it has
/// no room for it drops.
pub trait StatusSink: Send + Sync {
    /// A followed person's status has changed. Older ones than what was told before are never told.
    fn changed(&self, person: &PersonKey, status: &Status);

    /// From now on changes are told, wherever they are made: what was missed until now is read. Told after
    /// each [`PeopleStatus::follow`], and again when the engine is back after it was lost.
    fn live(&self, person: &PersonKey) {
        let _ = person;
    }
}

/// An engine of statuses. Apart from [`PeopleStatus::follow`] and [`PeopleStatus::unfollow`], calls may block
/// the calling thread, each within a deadline of its own.
///
/// Each change is told to each sink at most once. The end of a lease is told to nobody: who shows a status
/// reads it again once a lease.
pub trait PeopleStatus: Send + Sync {
    /// Says for `holder` (a name that nobody else uses) what is said of people, in place of what it said of them
    /// before, until the lease ends that is answered. To say the same again renews the lease and changes
    /// nothing else.
    ///
    /// # Errors
    /// `TooLarge`: people, a name or a status; nothing is changed. `Unavailable`, `OutcomeUnknown`: what
    /// was said stays or not; say it again.
    fn hold(&self, holder: &str, holds: &[Hold]) -> Result<Duration, StoreError>;

    /// What is known of people, in that order.
    ///
    /// # Errors
    /// `TooLarge`, `Unavailable`.
    fn read(&self, people: &[PersonKey]) -> Result<Vec<Status>, StoreError>;

    /// Tells `sink` of changes from when it is told [`StatusSink::live`], until [`PeopleStatus::unfollow`].
    /// Once, however often it is called. A sink that its owner has dropped is forgotten.
    fn follow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>);

    /// Tells `sink` of no change that is made after this returns. Not to follow is no error.
    fn unfollow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>);
}

/// Refuses what is larger than it may be, before an engine looks at it.
///
/// # Errors
/// `TooLarge`.
pub fn admit<'a>(
    people: impl ExactSizeIterator<Item = (&'a PersonKey, Option<&'a Vec<u8>>)>,
) -> Result<(), StoreError> {
    let within = |size: usize, limit: usize| match size > limit {
        true => Err(StoreError::TooLarge {
            size: size as u64,
            limit: limit as u64,
        }),
        false => Ok(()),
    };
    within(people.len(), STATUS_BATCH_MAX)?;
    for (person, status) in people {
        within(person.user.len(), STATUS_USER_MAX)?;
        within(status.map_or(0, Vec::len), STATUS_BYTES_MAX)?;
    }
    Ok(())
}
