//! Signals through a hub: the door, the answer, at most once, and to whoever is there.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::client::{Dialect, Publication as Told};
use gb6_core_wire::fossil;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Answer, Delivery, HubConfig, HubRequest, PublishAnswer, PublishQuery, RecoverFrom, Request,
    SubscribeQuery,
};

use crate::client::{replies, room};
use crate::hub_model::person;
use crate::hub_rules::{Bench, from};

fn query(data: &'static str) -> PublishQuery {
    PublishQuery {
        instance_epoch: InstanceEpoch(1),
        from: Arc::new(person(5)),
        id: Bytes::new(),
        data: data.into(),
        content_type: ContentType::Json,
        tags: Default::default(),
        traceparent: String::new(),
        version: None,
        after: None,
        signal: true,
        unkept: false,
    }
}

fn signal(b: &mut Bench, now: u64, token: u64, data: &'static str) {
    ask(b, now, token, query(data));
}

fn ask(b: &mut Bench, now: u64, token: u64, query: PublishQuery) {
    let request = HubRequest {
        token,
        session: SessionId(5),
        room: room(1),
        request: Request::Publish(Box::new(query)),
    };
    b.hub.request(now, &5, request, &mut b.said);
}

/// The signals that were sent to the owner: number for the answer, and data.
fn sent(b: &mut Bench) -> Vec<(u64, Bytes)> {
    let frames = std::mem::take(&mut b.said.owner).into_iter();
    frames
        .filter_map(|frame| match frame {
            OwnerFrame::Signal(s) => Some((s.request, s.data)),
            OwnerFrame::Publish(_) => panic!("a signal is no publish"),
            _ => None,
        })
        .collect()
}

fn failures(b: &mut Bench) -> Vec<(u64, ErrorCode)> {
    let answers = std::mem::take(&mut b.said.answers).into_iter();
    answers
        .filter_map(|(token, answer)| match answer {
            Answer::Failed(code) => Some((token, code)),
            _ => None,
        })
        .collect()
}

fn come(b: &mut Bench, data: impl Into<Bytes>) {
    let publication = Publication {
        data: data.into(),
        content_type: ContentType::Json.into(),
        time: 9,
        ..Publication::default()
    };
    let frame = Deliver {
        room: room(1),
        publication,
    };
    b.frame(0, EdgeFrame::Signal(frame));
}

#[test]
fn a_signal_waits_for_credit_in_its_order_and_is_answered_without_an_offset() {
    // The owner of the bench gives credit for two.
    let mut b = Bench::new();
    for (token, data) in [(1, "1"), (2, "2"), (3, "3"), (4, "4")] {
        signal(&mut b, 0, token, data);
    }
    let first = sent(&mut b);
    assert_eq!(
        first.iter().map(|(_, d)| &d[..]).collect::<Vec<_>>(),
        [b"1", b"2"]
    );
    b.published(first[0].0, 0);
    let next = sent(&mut b);
    assert_eq!(next.iter().map(|(_, d)| &d[..]).collect::<Vec<_>>(), [b"3"]);
    let answers = std::mem::take(&mut b.said.answers);
    assert_eq!(answers.len(), 1);
    let Answer::Published(published) = &answers[0].1 else {
        panic!("{answers:?}");
    };
    assert_eq!((answers[0].0, *published), (1, PublishAnswer::default()));
    // An error is one all the same.
    let moving = Published {
        request: first[1].0,
        error: ErrorCode::OwnerMoving.code(),
        ..Published::default()
    };
    b.frame(0, EdgeFrame::Published(moving));
    assert_eq!(failures(&mut b), [(2, ErrorCode::OwnerMoving)]);
}

#[test]
fn what_was_sent_is_never_sent_again_and_what_was_not_waits() {
    let mut b = Bench::new();
    for (token, data) in [(1, "1"), (2, "2"), (3, "3")] {
        signal(&mut b, 0, token, data);
    }
    assert_eq!(sent(&mut b).len(), 2);
    b.hub.link_down(10, &mut b.said);
    let unknown = ErrorCode::OutcomeUnknown;
    assert_eq!(failures(&mut b), [(1, unknown), (2, unknown)]);
    b.attach(20, 1);
    let again = sent(&mut b);
    assert_eq!(
        again.iter().map(|(_, d)| &d[..]).collect::<Vec<_>>(),
        [b"3"]
    );
    b.published(again[0].0, 0);
    // Nothing is left of any of them, and no session is told of as one that has ended.
    b.hub.session_closed(30, SessionId(5), &mut b.said);
    assert!(
        !b.said
            .owner
            .iter()
            .any(|f| matches!(f, OwnerFrame::SessionEnded(_)))
    );
    assert_eq!(b.hub.gauges().unanswered, 0);
    assert!(b.hub.is_idle());
}

#[test]
fn a_signal_without_an_answer_gives_its_credit_back_when_it_comes() {
    let mut b = Bench::new();
    for (token, data) in [(1, "1"), (2, "2"), (3, "3")] {
        signal(&mut b, 0, token, data);
    }
    let first = sent(&mut b);
    // The third was never sent: nothing of it is known to anybody.
    b.hub.tick(HubConfig::default().answer_ms, &mut b.said);
    let unknown = ErrorCode::OutcomeUnknown;
    let late = ErrorCode::TooManyRequests;
    assert_eq!(failures(&mut b), [(1, unknown), (2, unknown), (3, late)]);
    signal(&mut b, 5_000, 4, "4");
    assert!(sent(&mut b).is_empty(), "both places are taken");
    b.published(first[0].0, 0);
    assert_eq!(sent(&mut b).len(), 1);
}

#[test]
fn a_full_door_refuses() {
    let config = HubConfig {
        door_max: 2,
        ..HubConfig::default()
    };
    let mut b = Bench::detached(config);
    for (token, data) in [(1, "1"), (2, "2"), (3, "3")] {
        signal(&mut b, 0, token, data);
    }
    assert_eq!(failures(&mut b), [(3, ErrorCode::TooManyRequests)]);
}

#[test]
fn whoever_is_there_gets_it_whatever_is_known_of_the_room() {
    let mut b = Bench::new();
    b.subscribe(1, None);
    // The one that waits for its answer is no subscriber yet.
    come(&mut b, "1");
    assert!(b.said.delivered.is_empty());
    b.interested(0, 1);
    b.answered(1);
    come(&mut b, "2");
    b.hub.link_down(10, &mut b.said);
    b.attach(20, 1);
    // Nothing has been said of the room on this attachment.
    come(&mut b, "3");
    let texts: Vec<Vec<u8>> = b
        .said
        .delivered
        .iter()
        .map(|(_, f)| f[2..].to_vec())
        .collect();
    let push = |data: &str| {
        format!(r#"{{"push":{{"channel":"room:1","pub":{{"data":{data},"time":9}}}}}}"#)
            .into_bytes()
    };
    assert_eq!(texts, [push("2"), push("3")]);
    // It is remembered nowhere and moves nothing.
    assert_eq!(b.hub.gauges().ring_bytes, 0);
    b.interested(0, 1);
    b.subscribe(2, None);
    assert_eq!(b.answered(2).offset, 0);
    assert_eq!(b.hub.counters().signals, 3);
}

#[test]
fn signals_are_the_first_to_go_where_a_client_reads_slowly() {
    let mut b = Bench::new();
    let text = |n: u32| format!(r#"{{"n":{n},"rest":"what stays the same for a while"}}"#);
    for session in 1..=2 {
        let query = SubscribeQuery {
            dialect: Dialect::Protobuf,
            join_leave: false,
            presence: None,
            recover: None,
            delivery: Delivery {
                delta: session == 2,
                ..Delivery::default()
            },
        };
        b.ask(0, session, Request::Subscribe(Box::new(query)));
    }
    b.interested(0, 1);
    let got = |b: &mut Bench, backlog: usize, n: u32| -> Vec<(u64, bool)> {
        b.said.backlog = backlog;
        b.said.delivered.clear();
        come(b, text(n));
        let told = b.said.delivered.iter().map(|(to, frame)| {
            let push = replies(Dialect::Protobuf, frame).remove(0).push.unwrap();
            (*to, push.publication.unwrap().delta)
        });
        told.collect()
    };
    let most = HubConfig::default().signal_backlog_bytes;
    assert_eq!(got(&mut b, 0, 1), [(1, false), (2, false)]);
    assert_eq!(got(&mut b, most, 2), [(1, false), (2, true)]);
    assert_eq!(got(&mut b, most + 1, 3), []);
    // What it missed is no base for the next one.
    assert_eq!(got(&mut b, 0, 4), [(1, false), (2, false)]);
    assert_eq!(got(&mut b, 0, 5), [(1, false), (2, true)]);
    assert_eq!(b.hub.counters().signals_dropped, 2);
}

#[test]
fn the_owner_is_told_that_a_stream_is_not_to_keep_it() {
    let mut b = Bench::new();
    for (token, unkept) in [(1, true), (2, false)] {
        let query = PublishQuery {
            unkept,
            ..query("1")
        };
        ask(&mut b, 0, token, query);
    }
    let frames = std::mem::take(&mut b.said.owner).into_iter();
    let unkept: Vec<bool> = frames
        .filter_map(|frame| match frame {
            OwnerFrame::Signal(signal) => Some(signal.unkept),
            _ => None,
        })
        .collect();
    assert_eq!(unkept, [true, false]);
}

/// A room that stands at offset 4, with a subscriber that has deltas in each dialect.
fn stream() -> Bench {
    let mut b = Bench::new();
    b.subscribe(99, None);
    b.interested(4, 1);
    b.answered(99);
    for session in 0..2 {
        subscribe_with_deltas(&mut b, session, None);
    }
    b
}

/// JSON where the session's number is even.
fn dialect(session: u64) -> Dialect {
    Dialect::ALL[session as usize % 2]
}

fn subscribe_with_deltas(b: &mut Bench, session: u64, recover: Option<RecoverFrom>) -> Vec<u64> {
    let query = SubscribeQuery {
        dialect: dialect(session),
        join_leave: false,
        presence: None,
        recover,
        delivery: Delivery {
            delta: true,
            ..Delivery::default()
        },
    };
    b.ask(0, session, Request::Subscribe(Box::new(query)));
    let recovered = b.answered(session).publications;
    recovered.iter().map(|p| p.publication.offset).collect()
}

fn text(n: u64) -> String {
    format!(r#"{{"n":{n},"rest":"what stays the same for a while"}}"#)
}

fn publish(b: &mut Bench, offset: u64) {
    let publication = Publication {
        offset,
        data: text(offset).into(),
        content_type: ContentType::Json.into(),
        ..Publication::default()
    };
    let frame = Deliver {
        room: room(1),
        publication,
    };
    b.frame(0, EdgeFrame::Deliver(frame));
}

/// The one publication that a subscriber with deltas was told, and its data as text.
fn told(b: &mut Bench, session: u64) -> (Told, String) {
    let (its, others) = std::mem::take(&mut b.said.delivered)
        .into_iter()
        .partition(|(to, _)| *to == session);
    b.said.delivered = others;
    let [(_, frame)] = <[_; 1]>::try_from(its).unwrap();
    let push = replies(dialect(session), &frame).remove(0).push.unwrap();
    let told = push.publication.unwrap();
    let text = match dialect(session) {
        Dialect::Json => serde_json::from_slice(&told.data).unwrap(),
        Dialect::Protobuf => String::from_utf8(told.data.to_vec()).unwrap(),
    };
    (told, text)
}

#[test]
fn what_a_stream_does_not_keep_is_told_whole_and_moves_nothing() {
    let mut b = stream();
    publish(&mut b, 5);
    publish(&mut b, 6);
    b.said.delivered.clear();
    let before = b.hub.gauges().ring_bytes;
    for n in [100, 101] {
        come(&mut b, text(n));
        for session in 0..2 {
            let (told, whole) = told(&mut b, session);
            assert_eq!((told.delta, told.offset, whole), (false, 0, text(n)));
        }
    }
    assert_eq!(b.hub.gauges().ring_bytes, before);
    assert_eq!(b.hub.gauges().base_bytes, 0, "it is nobody's base");
    // The next one is behind the same position: nothing was missed, and nothing is asked for.
    for offset in 7..9 {
        publish(&mut b, offset);
        for session in 0..2 {
            let (told, data) = told(&mut b, session);
            assert_eq!((told.delta, told.offset), (offset == 8, offset));
            match told.delta {
                true => assert_eq!(
                    fossil::apply(text(7).as_bytes(), data.as_bytes(), 1000).unwrap(),
                    text(8).as_bytes()
                ),
                false => assert_eq!(data, text(7)),
            }
        }
    }
    assert!(b.said.history.is_empty());
    // Who comes later has nothing of it, whether it wants all or the newest.
    assert_eq!(subscribe_with_deltas(&mut b, 3, from(4)), [5, 6, 7, 8]);
    come(&mut b, text(102));
    let newest = from(0).map(|recover| RecoverFrom {
        newest_only: true,
        ..recover
    });
    assert_eq!(subscribe_with_deltas(&mut b, 4, newest), [8]);
}

#[test]
fn who_recovers_behind_it_has_another_base_than_those_who_were_told() {
    let mut b = stream();
    publish(&mut b, 5);
    publish(&mut b, 6);
    come(&mut b, text(100));
    // One has the newest as its base, the other nothing that could be relied on.
    assert_eq!(subscribe_with_deltas(&mut b, 2, from(4)), [5, 6]);
    assert_eq!(subscribe_with_deltas(&mut b, 3, from(6)), [0; 0]);
    b.said.delivered.clear();
    publish(&mut b, 7);
    for session in [0, 1, 3] {
        let (told, data) = told(&mut b, session);
        assert_eq!((told.delta, data), (false, text(7)), "{session}");
    }
    let (told_2, data) = told(&mut b, 2);
    assert!(told_2.delta);
    let made = fossil::apply(text(6).as_bytes(), data.as_bytes(), 1000).unwrap();
    assert_eq!(made, text(7).as_bytes());
    publish(&mut b, 8);
    for session in 0..4 {
        let (told, data) = told(&mut b, session);
        assert!(told.delta, "{session}");
        let made = fossil::apply(text(7).as_bytes(), data.as_bytes(), 1000).unwrap();
        assert_eq!(made, text(8).as_bytes());
    }
}
