//! The checker accepts a history that keeps every promise, and names the promise that each
//! mutation of it breaks.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn event(client: &str, what: What) -> Event {
    Event {
        client: client.to_owned(),
        what,
        at: 0,
    }
}

fn client(name: &str, instance: &str) -> Event {
    let (instance, user) = (instance.to_owned(), format!("user-of-{name}"));
    event(name, What::Client { instance, user })
}

fn message(n: u64) -> Message {
    Message {
        room: "room:a".into(),
        id: Some(format!("m{n}")),
        data: fingerprint(format!("data {n}").as_bytes()),
    }
}

fn publication(offset: u64) -> Publication {
    Publication {
        offset,
        id: message(offset).id,
        user: "user-of-p".into(),
        data: message(offset).data,
    }
}

fn sent(n: u64) -> Event {
    event("p", What::Sent(message(n)))
}

fn acknowledged(n: u64, offset: u64, duplicate: bool) -> Event {
    let what = What::Acknowledged {
        message: message(n),
        offset: Some(offset),
        epoch: "E".into(),
        duplicate,
    };
    event("p", what)
}

fn received(client: &str, offset: u64) -> Event {
    let what = What::Received {
        room: "room:a".into(),
        publication: publication(offset),
    };
    event(client, what)
}

fn subscribed(client: &str, offset: u64, recovered: Option<bool>) -> Event {
    let what = What::Subscribed {
        room: "room:a".into(),
        offset,
        epoch: "E".into(),
        recovered,
    };
    event(client, what)
}

fn page(client: &str, since: Option<u64>, reverse: bool, offsets: &[u64], top: u64) -> Event {
    let what = What::Page {
        room: "room:a".into(),
        since,
        reverse,
        top,
        epoch: "E".into(),
        publications: offsets.iter().map(|o| publication(*o)).collect(),
    };
    event(client, what)
}

fn log(first: u64, top: u64) -> Event {
    let what = What::Log {
        room: "room:a".into(),
        first,
        top,
        trimmed: false,
    };
    event("l", what)
}

fn settled(client: &str) -> Event {
    event(
        client,
        What::Settled {
            room: "room:a".into(),
        },
    )
}

/// A publisher `p` with one retry, subscribers `s` (which is recovered once and pages once) and `t`,
/// and a reader `l` of the whole log: eight messages, the last one without an acknowledgement.
fn good() -> Vec<Event> {
    let mut events = vec![
        client("p", "demo"),
        client("s", "demo"),
        client("t", "demo"),
        client("l", "demo"),
        event("p", What::Connected),
        subscribed("s", 0, None),
        subscribed("t", 0, None),
    ];
    for n in 1..=7 {
        events.push(sent(n));
        if n == 3 {
            // Its answer is lost with the connection.
            events.push(event("p", What::Lost));
            events.push(event("p", What::Connected));
            events.push(sent(3));
            events.push(acknowledged(3, 3, true));
        } else {
            events.push(acknowledged(n, n, false));
        }
        events.push(received("t", n));
    }
    events.extend([sent(8), received("t", 8), settled("t")]);
    events.extend([received("s", 1), received("s", 2), event("s", What::Lost)]);
    events.extend([subscribed("s", 2, Some(true)), received("s", 3)]);
    events.extend([event("s", What::Lost), subscribed("s", 6, Some(false))]);
    events.extend([page("s", Some(3), false, &[4, 5, 6], 6)]);
    events.extend([received("s", 7), received("s", 8), settled("s")]);
    events.extend([
        page("l", None, true, &[8, 7, 6, 5], 8),
        page("l", Some(5), true, &[4, 3, 2, 1], 8),
        log(1, 8),
    ]);
    events
}

fn check(events: &[Event]) -> Result<Summary, Vec<Violation>> {
    let mut checker = Checker::new();
    events.iter().for_each(|e| checker.add(e));
    checker.finish()
}

/// Checks that the mutated history breaks `rule`.
fn breaks(rule: Rule, mutate: impl FnOnce(&mut Vec<Event>)) {
    let mut events = good();
    mutate(&mut events);
    let violations = check(&events).expect_err("the mutation breaks nothing");
    assert!(
        violations.iter().any(|v| v.rule == rule),
        "{rule:?} is not among {violations:#?}"
    );
}

fn position(events: &[Event], wanted: &Event) -> usize {
    events.iter().position(|e| e == wanted).unwrap()
}

fn remove(events: &mut Vec<Event>, wanted: &Event) {
    events.remove(position(events, wanted));
}

fn replace(events: &mut [Event], wanted: &Event, with: Event) {
    let at = position(events, wanted);
    events[at] = with;
}

#[test]
fn a_good_history_is_accepted() {
    let summary = check(&good()).unwrap();
    assert_eq!((summary.messages, summary.attempts), (8, 9));
    assert_eq!((summary.acknowledged, summary.duplicates), (7, 1));
    assert_eq!((summary.delivered, summary.paged), (13, 11));
    assert_eq!((summary.clients, summary.rooms, summary.lost), (4, 1, 3));
}

#[test]
fn acknowledged_and_read_by_nobody() {
    breaks(Rule::AcknowledgedIsKept, |events| {
        events.extend([sent(9), acknowledged(9, 9, false)]);
    });
    // The log ends before what a subscriber saw and the publisher has an acknowledgement for.
    breaks(Rule::AcknowledgedIsKept, |events| {
        replace(events, &log(1, 8), log(1, 6));
    });
    // Without an offset too: a plain publish.
    breaks(Rule::AcknowledgedIsKept, |events| {
        let plain = Message {
            id: None,
            ..message(77)
        };
        events.push(event("p", What::Sent(plain.clone())));
        let what = What::Acknowledged {
            message: plain,
            offset: None,
            epoch: String::new(),
            duplicate: false,
        };
        events.push(event("p", what));
    });
}

#[test]
fn delivered_twice() {
    breaks(Rule::DeliveredOnce, |events| {
        let at = position(events, &received("t", 4));
        events.insert(at, received("t", 4));
    });
    breaks(Rule::DeliveredOnce, |events| {
        let at = position(events, &received("s", 3));
        events.insert(at, received("s", 2));
    });
}

#[test]
fn skipped() {
    breaks(Rule::NothingSkipped, |events| {
        remove(events, &received("t", 4));
    });
    // Recovered from an offset that the client does not have.
    breaks(Rule::NothingSkipped, |events| {
        remove(events, &received("s", 2));
    });
    // A gap that no page fills.
    breaks(Rule::NothingSkipped, |events| {
        replace(
            events,
            &page("s", Some(3), false, &[4, 5, 6], 6),
            page("s", Some(3), false, &[4, 5], 6),
        );
    });
}

#[test]
fn offsets_with_a_hole_or_falling() {
    breaks(Rule::Consecutive, |events| {
        remove(events, &page("l", Some(5), true, &[4, 3, 2, 1], 8));
    });
    breaks(Rule::Consecutive, |events| {
        replace(events, &log(1, 8), log(2, 8));
    });
    breaks(Rule::Consecutive, |events| {
        replace(
            events,
            &subscribed("s", 6, Some(false)),
            subscribed("s", 2, Some(false)),
        );
    });
}

#[test]
fn readers_disagree() {
    breaks(Rule::OneOrder, |events| {
        let swapped = |at: u64, holds: u64| {
            let what = What::Received {
                room: "room:a".into(),
                publication: Publication {
                    offset: at,
                    ..publication(holds)
                },
            };
            event("t", what)
        };
        replace(events, &received("t", 5), swapped(5, 6));
        replace(events, &received("t", 6), swapped(6, 5));
    });
    breaks(Rule::OneOrder, |events| {
        replace(
            events,
            &acknowledged(5, 5, false),
            acknowledged(5, 6, false),
        );
    });
}

#[test]
fn an_id_at_two_offsets() {
    breaks(Rule::OneOffset, |events| {
        let what = What::Received {
            room: "room:a".into(),
            publication: Publication {
                offset: 9,
                ..publication(3)
            },
        };
        events.push(event("t", what));
    });
    // Data without an id that was sent once.
    breaks(Rule::OneOffset, |events| {
        let plain = |offset| Publication {
            id: None,
            offset,
            ..publication(55)
        };
        let sent = Message {
            id: None,
            ..message(55)
        };
        events.push(event("p", What::Sent(sent)));
        for offset in [9, 10] {
            let what = What::Received {
                room: "room:a".into(),
                publication: plain(offset),
            };
            events.push(event("t", what));
        }
    });
}

#[test]
fn a_retry_with_another_answer() {
    breaks(Rule::RetryReturnsFirst, |events| {
        events.extend([sent(3), acknowledged(3, 4, true)]);
    });
    breaks(Rule::RetryReturnsFirst, |events| {
        events.extend([sent(4), acknowledged(4, 4, false)]);
    });
}

#[test]
fn one_sender_out_of_order() {
    // Message 9 was acknowledged before message 10 was sent, and stands behind it.
    breaks(Rule::SenderOrder, |events| {
        events.extend([sent(10), acknowledged(10, 10, false)]);
        events.extend([sent(9), acknowledged(9, 9, false)]);
        events.extend([page("l", Some(8), false, &[9, 10], 10), log(1, 10)]);
    });
    // Both in flight on one connection.
    breaks(Rule::SenderOrder, |events| {
        events.extend([sent(10), sent(9)]);
        events.extend([page("l", Some(8), false, &[9, 10], 10), log(1, 10)]);
    });
}

#[test]
fn never_sent_or_sent_elsewhere() {
    breaks(Rule::SentBefore, |events| {
        events.push(received("t", 9));
    });
    breaks(Rule::SentBefore, |events| {
        let elsewhere = Message {
            room: "room:b".into(),
            ..message(9)
        };
        events.push(event("p", What::Sent(elsewhere)));
        events.push(received("t", 9));
    });
}

#[test]
fn another_instance() {
    breaks(Rule::InstanceKept, |events| {
        events.push(client("q", "other"));
        events.push(event("q", What::Sent(message(9))));
        events.push(received("t", 9));
    });
}

#[test]
fn refused_and_written() {
    breaks(Rule::RefusedIsAbsent, |events| {
        let failed = What::Failed {
            message: message(8),
            code: 1001,
        };
        events.push(event("p", failed));
    });
    // Unknown is not refused.
    let mut events = good();
    let failed = What::Failed {
        message: message(8),
        code: 1003,
    };
    events.push(event("p", failed));
    check(&events).unwrap();
}

#[test]
fn two_epochs() {
    breaks(Rule::OneEpoch, |events| {
        let what = What::Subscribed {
            room: "room:a".into(),
            offset: 8,
            epoch: "F".into(),
            recovered: Some(false),
        };
        events.push(event("t", what));
    });
}

#[test]
fn pages_with_holes_or_in_the_wrong_direction() {
    breaks(Rule::PageOrder, |events| {
        events.push(page("l", Some(2), false, &[3, 5], 8));
    });
    breaks(Rule::PageOrder, |events| {
        events.push(page("l", Some(2), false, &[4], 8));
    });
    breaks(Rule::PageOrder, |events| {
        events.push(page("l", Some(5), true, &[3, 4], 8));
    });
    breaks(Rule::PageOrder, |events| {
        events.push(page("l", None, true, &[8], 7));
    });
}

#[test]
fn settled_too_early() {
    breaks(Rule::CaughtUp, |events| {
        remove(events, &received("t", 8));
    });
}

#[test]
fn a_history_that_makes_no_sense() {
    breaks(Rule::WellFormed, |events| {
        events.insert(0, received("t", 1));
    });
    breaks(Rule::WellFormed, |events| {
        events.push(acknowledged(40, 8, false));
    });
    breaks(Rule::WellFormed, |events| {
        events.push(client("p", "other"));
    });
}

#[test]
fn what_breaks_is_bounded_and_counted() {
    let mut events = good();
    events.extend((0..5_000).map(|n| received("t", 100 + 2 * n)));
    let violations = check(&events).unwrap_err();
    assert!(violations.len() < 1_100, "{}", violations.len());
    assert!(
        violations
            .iter()
            .any(|v| v.evidence.ends_with("more broken promises"))
    );
}

#[test]
fn lines_round_trip_and_errors_name_the_line() {
    let mut text = String::new();
    for event in good() {
        text.push_str(&serde_json::to_string(&event).unwrap());
        text.push('\n');
    }
    let back: Vec<Event> = read_events(Cursor::new(&text))
        .map(|e| e.unwrap())
        .collect();
    assert_eq!(back, good());
    let written_by_hand =
        r#"{"client":"s","kind":"received","room":"room:a","offset":4,"user":"u","data":"00"}"#;
    let event = read_events(Cursor::new(written_by_hand))
        .next()
        .unwrap()
        .unwrap();
    assert!(
        matches!(event.what, What::Received { ref publication, .. } if publication.offset == 4)
    );
    text.push_str("{\"client\":\"x\"}\n");
    let error = read_events(Cursor::new(&text))
        .find_map(Result::err)
        .unwrap();
    assert!(
        error
            .to_string()
            .starts_with(&format!("line {} is no event", good().len() + 1))
    );
}

proptest! {
    /// Histories of a model that keeps every promise are accepted, and removing any one delivery
    /// from one of them is noticed.
    #[test]
    fn model_histories(
        count in 1u64..40,
        breaks_at in proptest::collection::vec(1u64..40, 0..4),
        removed in 1u64..40,
    ) {
        let mut events = vec![client("p", "demo"), client("s", "demo"), client("l", "demo")];
        events.push(subscribed("s", 0, None));
        for n in 1..=count {
            events.extend([sent(n), acknowledged(n, n, false), received("s", n)]);
            if breaks_at.contains(&n) {
                events.extend([event("s", What::Lost), subscribed("s", n, Some(true))]);
            }
        }
        let all: Vec<u64> = (1..=count).collect();
        events.extend([settled("s"), page("l", Some(0), false, &all, count), log(1, count)]);
        prop_assert!(check(&events).is_ok());
        let removed = removed.min(count);
        remove(&mut events, &received("s", removed));
        prop_assert!(check(&events).is_err());
    }
}
