//! Shard epochs of assigned shards: which assignment, and how often its owner has acquired since.
//!
//! An owner whose write ended without an outcome acquires its shard again. It need not ask anybody for
//! that: the low bits of a shard epoch count its acquisitions under one assignment. Whatever they
//! count, the epochs of the next assignment are above all of them.

use gb6_core_model::ShardEpoch;

/// Bits of a shard epoch that count acquisitions under one assignment.
pub const LOCAL_BITS: u32 = 24;
/// The highest count.
pub const LOCAL_MAX: u64 = (1 << LOCAL_BITS) - 1;

/// The lowest shard epoch of an assignment epoch.
pub fn first_epoch(assignment: u64) -> ShardEpoch {
    ShardEpoch(assignment << LOCAL_BITS)
}

/// The assignment epoch that a shard epoch belongs to; 0 for those of a time in which nothing was
/// assigned.
pub fn assignment_of(epoch: ShardEpoch) -> u64 {
    epoch.0 >> LOCAL_BITS
}

/// The shard epoch to acquire with under `assignment` where `highest` is the log's; `None`: the
/// assignment's epoch must be raised above [`assignment_of`] `highest` first, or another one has it.
pub fn next_epoch(assignment: u64, highest: ShardEpoch) -> Option<ShardEpoch> {
    let first = first_epoch(assignment);
    let next = first.0.max(highest.0.checked_add(1)?);
    (assignment_of(ShardEpoch(next)) == assignment).then_some(ShardEpoch(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_acquires_again_under_its_assignment_until_it_is_used_up() {
        assert_eq!(next_epoch(1, ShardEpoch(0)), Some(ShardEpoch(1 << 24)));
        assert_eq!(
            next_epoch(1, ShardEpoch(1 << 24)),
            Some(ShardEpoch((1 << 24) + 1))
        );
        let last = ShardEpoch((1 << 24) | LOCAL_MAX);
        assert_eq!(next_epoch(1, last), None, "used up");
        assert_eq!(next_epoch(2, last), Some(first_epoch(2)));
        assert_eq!(next_epoch(1, first_epoch(2)), None, "a newer assignment");
        assert_eq!(next_epoch(1, ShardEpoch(u64::MAX)), None);
    }

    #[test]
    fn a_log_of_a_time_without_assignments_has_lower_epochs() {
        assert_eq!(assignment_of(ShardEpoch(90_000)), 0);
        assert_eq!(next_epoch(1, ShardEpoch(90_000)), Some(first_epoch(1)));
    }
}
