//! Recovery of the newest publication alone.

use gb6_core_model::{InstanceId, hash};
use gb6_edge_session::RecoverFrom;

use crate::hub_rules::{Bench, from, page};

fn newest(offset: u64, epoch: &str) -> RecoverFrom {
    RecoverFrom {
        offset,
        epoch: epoch.into(),
        publications_max: 2,
        bytes_max: 10_000,
        newest_only: true,
        or_fail: false,
    }
}

#[test]
fn the_newest_is_given_to_who_has_not_got_it() {
    let epoch = hash::stream_epoch(&InstanceId::from("i1"), "room:1", 0);
    let cases = [
        (newest(20, &epoch), Some(0), "has it"),
        (newest(20, ""), Some(1), "has it of whichever stream"),
        (newest(20, "other"), Some(1), "has one of another stream"),
        (
            newest(90, "other"),
            Some(1),
            "was further in another stream",
        ),
        (newest(19, &epoch), Some(1), "one behind"),
        (newest(0, ""), Some(1), "has nothing"),
        (newest(3, &epoch), Some(1), "below the oldest kept"),
        (
            RecoverFrom {
                bytes_max: 5,
                ..newest(19, &epoch)
            },
            None,
            "larger than the budget",
        ),
        (
            RecoverFrom {
                publications_max: 0,
                ..newest(19, &epoch)
            },
            None,
            "the budget is used up",
        ),
    ];
    for (recover, want, what) in cases {
        let mut b = Bench::new();
        b.subscribe(0, None);
        b.interested(10, 11);
        (11..=20).for_each(|o| b.deliver(o));
        b.subscribe(1, Some(recover));
        let answer = b.answered(1);
        assert_eq!(answer.recovered, want.is_some(), "{what}");
        assert_eq!(answer.offset, 20, "{what}");
        let got: Vec<u64> = answer
            .publications
            .iter()
            .map(|p| p.publication.offset)
            .collect();
        assert_eq!(got, vec![20; want.unwrap_or(0)], "{what}");
        assert!(b.said.history.is_empty(), "{what}");
        b.said.delivered.clear();
        b.deliver(21);
        assert_eq!(b.said.delivered.len(), 2, "{what}");
    }
}

#[test]
fn what_is_not_remembered_is_read_from_the_log_one_record() {
    let mut b = Bench::new();
    b.subscribe(1, Some(newest(7, "")));
    b.subscribe(2, Some(newest(50, "other")));
    b.interested(50, 1);
    let read = b.said.history.pop().unwrap();
    assert_eq!((read.since, read.limit, b.said.history.len()), (49, 1, 0));
    // One that comes behind its position meanwhile has the other newest.
    b.deliver(51);
    b.hub.history_page(0, page(&read, 50..=50, 50), &mut b.said);
    for session in [1, 2] {
        let answer = b.answered(session);
        assert!(answer.recovered);
        assert_eq!(answer.offset, 51);
        assert_eq!(answer.publications[0].publication.offset, 51);
    }
    b.said.delivered.clear();
    b.deliver(52);
    assert_eq!(b.said.delivered.len(), 2);
}

#[test]
fn it_does_not_hold_up_those_who_want_everything() {
    let mut b = Bench::new();
    b.subscribe(1, from(30));
    b.subscribe(2, Some(newest(7, "")));
    b.interested(50, 1);
    while let Some(read) = b.said.history.pop() {
        let to = (read.since + u64::from(read.limit)).min(50);
        let page = page(&read, read.since + 1..=to, 50);
        b.hub.history_page(0, page, &mut b.said);
    }
    let (all, newest) = (b.answered(1), b.answered(2));
    assert!(all.recovered && newest.recovered);
    assert_eq!((all.publications.len(), newest.publications.len()), (20, 1));
}

#[test]
fn an_empty_room_and_a_trimmed_one_have_none() {
    let mut b = Bench::new();
    b.subscribe(1, Some(newest(0, "")));
    b.interested(0, 1);
    let answer = b.answered(1);
    assert_eq!((answer.recovered, answer.offset), (false, 0));
    let mut b = Bench::new();
    b.subscribe(1, Some(newest(3, "")));
    b.interested(10, 11);
    let answer = b.answered(1);
    assert_eq!((answer.recovered, answer.offset), (false, 10));
    assert!(answer.publications.is_empty());
}

#[test]
fn one_who_is_ahead_of_this_edge_is_waited_for() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(5, 1);
    b.subscribe(1, Some(newest(7, "")));
    (6..=8).for_each(|o| b.deliver(o));
    let probe = b.said.history.pop().unwrap();
    b.hub.history_page(0, page(&probe, [], 8), &mut b.said);
    let answer = b.answered(1);
    assert!(answer.recovered);
}
