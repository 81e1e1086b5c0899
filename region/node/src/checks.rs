//! What must hold of a commit before anything is acknowledged or delivered because of it. A few
//! comparisons for each batch and record; what they find is a bug of GB6 or of an engine.

use gb6_core_obs::{Invariant, check_invariant};
use gb6_core_ports::{Commit, Fence};
use gb6_core_wire::record::Record;
use gb6_region_shard::{Gauges, ShardConfig};

/// Whether the log's answer is about this batch, all of it, under this ownership (A4). If not, its
/// outcome is unknown.
pub(crate) fn covers(commit: &Commit, fence: &Fence, batch: &[Record]) -> bool {
    let first = batch.first().map_or(commit.first, |r| r.position);
    let next = first + batch.len() as u64;
    let consecutive = (first..).zip(batch).all(|(at, r)| r.position == at);
    let ours = |r: &Record| {
        r.shard_epoch == fence.shard_epoch.0 && r.owner_incarnation == fence.owner_incarnation.0
    };
    check_invariant!(
        Invariant::AckAfterCommit,
        commit.first == first && commit.next == next,
        "positions {first} to {next} were appended, and {} to {} committed",
        commit.first,
        commit.next
    ) && check_invariant!(
        Invariant::PositionsConsecutive,
        consecutive,
        "a batch of {} from {first} has a hole",
        batch.len()
    ) && check_invariant!(
        Invariant::CommittedUnderFence,
        batch.iter().all(ours),
        "a batch was committed that {fence} did not write"
    )
}

/// The acknowledgement that a machine refused to make.
pub(crate) fn unfounded(offset: u64, head: u64) {
    check_invariant!(
        Invariant::AckAfterCommit,
        (1..=head).contains(&offset),
        "offset {offset} was to be acknowledged, and {head} is the newest durable one"
    );
}

/// Whether a message continues its room: `before` is the room's last committed one (A8).
pub(crate) fn continues(before: &Record, record: &Record) -> bool {
    check_invariant!(
        Invariant::RecordTime,
        record.time >= before.time,
        "time fell from {} to {} at offset {}",
        before.time,
        record.time,
        record.offset
    );
    check_invariant!(
        Invariant::OffsetsConsecutive,
        record.offset == before.offset + 1,
        "offset {} was committed behind {}",
        record.offset,
        before.offset
    )
}

/// The machine's own sums against the bounds that it was given (A5).
pub(crate) fn within_bounds(config: &ShardConfig, gauges: &Gauges) {
    check_invariant!(
        Invariant::QueueWithinBound,
        gauges.dedupe_ids <= config.dedupe_ids_max,
        "{} message ids are remembered, at most {} may be",
        gauges.dedupe_ids,
        config.dedupe_ids_max
    );
    check_invariant!(
        Invariant::QueueWithinBound,
        gauges.inbox <= gauges.unanswered,
        "{} publishes wait, and {} are within somebody's credit",
        gauges.inbox,
        gauges.unanswered
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
    use gb6_core_obs::invariant::counted;

    fn fence() -> Fence {
        Fence {
            region: "eu".into(),
            shard: ShardId(0),
            shard_epoch: ShardEpoch(3),
            owner_incarnation: Incarnation(9),
        }
    }

    /// Records at `first` and the two positions behind it.
    fn batch(first: u64) -> Vec<Record> {
        let record = |position| Record {
            position,
            shard_epoch: 3,
            owner_incarnation: 9,
            ..Record::default()
        };
        (first..first + 3).map(record).collect()
    }

    fn commit(first: u64, next: u64) -> Commit {
        Commit {
            first,
            next,
            ..Commit::default()
        }
    }

    #[test]
    fn a_commit_is_believed_only_where_it_is_about_all_of_the_batch_under_our_fence() {
        assert!(covers(&commit(5, 8), &fence(), &batch(5)));
        let counted = counted();
        for (first, next) in [(4, 7), (5, 7), (5, 9), (6, 8)] {
            assert!(!covers(&commit(first, next), &fence(), &batch(5)));
        }
        assert_eq!(counted.of(Invariant::AckAfterCommit), 4);
        let mut hole = batch(5);
        hole[2].position = 8;
        assert!(!covers(&commit(5, 8), &fence(), &hole));
        let mut foreign = batch(5);
        foreign[1].shard_epoch = 2;
        assert!(!covers(&commit(5, 8), &fence(), &foreign));
        let mut other_life = batch(5);
        other_life[0].owner_incarnation = 8;
        assert!(!covers(&commit(5, 8), &fence(), &other_life));
        assert_eq!(counted.of(Invariant::CommittedUnderFence), 2);
        assert_eq!(counted.of(Invariant::PositionsConsecutive), 1);
    }

    #[test]
    #[should_panic(expected = "invariant ack_after_commit violated: positions 5 to 8")]
    fn an_answer_about_another_batch_panics_in_tests() {
        covers(&commit(4, 7), &fence(), &batch(5));
    }

    #[test]
    #[should_panic(expected = "invariant ack_after_commit violated: offset 4")]
    fn an_unfounded_acknowledgement_panics_in_tests() {
        unfounded(4, 3);
    }

    #[test]
    fn record_time_never_falls_in_a_room_and_offsets_follow() {
        let at = |offset, time| Record {
            offset,
            time,
            ..Record::default()
        };
        assert!(continues(&at(1, 50), &at(2, 50)));
        assert!(continues(&at(1, 50), &at(2, 51)));
        let counted = counted();
        assert!(continues(&at(1, 50), &at(2, 49)), "its place is right");
        assert_eq!(counted.of(Invariant::RecordTime), 1);
        assert!(!continues(&at(1, 50), &at(3, 50)));
        assert!(!continues(&at(2, 50), &at(2, 50)));
        assert_eq!(counted.of(Invariant::OffsetsConsecutive), 2);
    }

    #[test]
    fn sums_beyond_their_bounds_are_counted() {
        let config = ShardConfig {
            dedupe_ids_max: 10,
            ..ShardConfig::new(Default::default())
        };
        let sums = |dedupe_ids, inbox, unanswered| Gauges {
            dedupe_ids,
            inbox,
            unanswered,
            ..Gauges::default()
        };
        within_bounds(&config, &sums(10, 4, 4));
        let counted = counted();
        within_bounds(&config, &sums(11, 5, 4));
        assert_eq!(counted.of(Invariant::QueueWithinBound), 2);
    }
}
