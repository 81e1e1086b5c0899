//! The rules of what counts, in small: what a page of a book would show.

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_region_stores_kafka::frame::{FIRST_OF_ACQUIRE, FrameHeader};
use gb6_region_stores_kafka::tail::{Passed, Tail, Verdict};
use proptest::prelude::*;

fn header(epoch: u64, incarnation: u64, first: u64, count: u32) -> FrameHeader {
    FrameHeader {
        shard: ShardId(0),
        shard_epoch: ShardEpoch(epoch),
        owner_incarnation: Incarnation(incarnation),
        first,
        count,
    }
}

fn acquire(epoch: u64, incarnation: u64) -> FrameHeader {
    header(epoch, incarnation, FIRST_OF_ACQUIRE, 1)
}

#[test]
fn each_rule_decides_as_it_says() {
    use Verdict::{Acquired, Committed, PassedOver};
    let steps = [
        (
            header(1, 1, 0, 3),
            PassedOver(Passed::Fenced),
            "nobody owns it",
        ),
        (acquire(1, 1), Acquired(0), "the first"),
        (header(1, 1, 1, 3), Committed(1), "the owner's"),
        (
            header(1, 1, 1, 3),
            PassedOver(Passed::Position),
            "the same again",
        ),
        (
            header(1, 1, 5, 1),
            PassedOver(Passed::Position),
            "behind one that is missing",
        ),
        (
            header(1, 2, 4, 1),
            PassedOver(Passed::Fenced),
            "another life, the same epoch",
        ),
        (
            acquire(1, 2),
            PassedOver(Passed::Fenced),
            "of two with one epoch the first wins",
        ),
        (header(1, 1, 4, 1), Committed(4), "the winner goes on"),
        (acquire(3, 3), Acquired(5), "a newer one"),
        (
            header(1, 1, 5, 1),
            PassedOver(Passed::Fenced),
            "a deposed owner's",
        ),
        (
            header(1, 1, 6, 1),
            PassedOver(Passed::Fenced),
            "even where its position fits",
        ),
        (
            acquire(2, 2),
            PassedOver(Passed::Fenced),
            "older than the newest",
        ),
        (header(3, 3, 6, 2), Committed(6), "the owner's"),
        (acquire(4, 3), Acquired(8), "the same life again"),
        (
            header(3, 3, 9, 1),
            PassedOver(Passed::Fenced),
            "what it sent before",
        ),
    ];
    let mut tail = Tail::default();
    for (offset, (header, verdict, why)) in (0..).zip(steps) {
        assert_eq!(tail.take(offset, &header, 0), verdict, "{why}");
    }
    assert_eq!(tail.pass(15), PassedOver(Passed::Foreign));
    assert_eq!((tail.offset, tail.next), (16, 9));
}

fn any_header() -> impl Strategy<Value = FrameHeader> {
    let acquires = (0_u64..6, 0_u64..4).prop_map(|(e, i)| acquire(e, i));
    let batches = (0_u64..6, 0_u64..4, 0_u64..12, 0_u32..4);
    prop_oneof![
        1 => acquires,
        3 => batches.prop_map(|(e, i, first, count)| header(e, i, first, count)),
    ]
}

proptest! {
    /// Whoever begins anywhere, knowing what is known there, comes to the same; positions have no gaps;
    /// epochs only rise; of one ownership nothing counts once a newer one has begun.
    #[test]
    fn every_reader_comes_to_the_same(messages in proptest::collection::vec(any_header(), 1..60)) {
        let mut tail = Tail::default();
        let mut known = vec![tail];
        let mut verdicts = Vec::new();
        for (offset, message) in (0..).zip(&messages) {
            let before = tail;
            let verdict = tail.take(offset, message, offset);
            match verdict {
                Verdict::Acquired(at) => {
                    prop_assert_eq!((at, tail.next), (before.next, before.next + 1));
                    prop_assert!(message.shard_epoch > before.epoch);
                }
                Verdict::Committed(at) => {
                    prop_assert_eq!(at, before.next);
                    prop_assert!(before.owned_by(message.shard_epoch, message.owner_incarnation));
                }
                Verdict::PassedOver(_) => {
                    prop_assert_eq!(tail, Tail { offset: tail.offset, ..before });
                }
            }
            prop_assert!(tail.epoch >= before.epoch && tail.served_ms >= before.served_ms);
            known.push(tail);
            verdicts.push(verdict);
        }
        for (from, begin) in known.into_iter().enumerate() {
            let mut again = Tail::decode(&begin.encode()).expect("its own bytes");
            for (offset, message) in (0..).zip(&messages).skip(from) {
                let verdict = again.take(offset, message, offset);
                prop_assert_eq!(verdict, verdicts[offset as usize]);
            }
            prop_assert_eq!(again, tail);
        }
    }
}
