//! Signals through a hub: the door, the answer, at most once, and to whoever is there.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{
    Answer, Delivery, HubConfig, HubRequest, PublishAnswer, PublishQuery, Request, SubscribeQuery,
};

use crate::client::{replies, room};
use crate::hub_model::person;
use crate::hub_rules::Bench;

fn signal(b: &mut Bench, now: u64, token: u64, data: &'static str) {
    let query = PublishQuery {
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
    };
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
