//! What each subscriber is delivered, and in which form: numbers for names, differences, filters,
//! and not one's own.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::ErrorCode;
use gb6_core_wire::client::{Dialect, FilterNode, Publication as Told, Push, TagsFilter};
use gb6_core_wire::fossil;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{Delivery, HubConfig, RecoverFrom, Request, SubscribeQuery};

use crate::client::{replies, room};
use crate::hub_model::person;
use crate::hub_rules::{Bench, from};

fn subscribe(
    b: &mut Bench,
    session: u64,
    dialect: Dialect,
    delivery: Delivery,
    recover: Option<RecoverFrom>,
) {
    let query = SubscribeQuery {
        dialect,
        join_leave: true,
        presence: None,
        recover,
        delivery,
    };
    b.ask(0, session, Request::Subscribe(Box::new(query)));
}

fn delta() -> Delivery {
    Delivery {
        delta: true,
        ..Delivery::default()
    }
}

fn compact() -> Delivery {
    Delivery {
        compact: true,
        ..Delivery::default()
    }
}

fn filter(val: &str) -> Delivery {
    let node = FilterNode {
        key: "t".into(),
        cmp: "eq".into(),
        val: val.into(),
        ..FilterNode::default()
    };
    Delivery {
        filter: Some(Arc::new(TagsFilter::new(&node).unwrap())),
        ..Delivery::default()
    }
}

/// A bench whose room stands at offset 4.
fn bench() -> Bench {
    let mut b = Bench::new();
    b.subscribe(99, None);
    b.interested(4, 1);
    b.answered(99);
    b.said.delivered.clear();
    b
}

fn publish(b: &mut Bench, publication: Publication) {
    let frame = Deliver {
        room: room(1),
        publication,
    };
    b.frame(0, EdgeFrame::Deliver(frame));
}

fn json(offset: u64, data: impl Into<Bytes>) -> Publication {
    Publication {
        offset,
        data: data.into(),
        content_type: ContentType::Json.into(),
        ..Publication::default()
    }
}

/// A state of which a number changes.
fn state(n: u64) -> String {
    format!(r#"{{"rest":"so viel, das gleich bleibt: жаба","n":{n},"more":"und noch etwas mehr"}}"#)
}

/// The push that a session was handed last.
fn push(b: &mut Bench, session: u64, dialect: Dialect) -> Option<Push> {
    let at = b
        .said
        .delivered
        .iter()
        .rposition(|(to, _)| *to == session)?;
    let frame = b.said.delivered.remove(at).1;
    replies(dialect, &frame).remove(0).push.map(|push| *push)
}

fn told(b: &mut Bench, session: u64, dialect: Dialect) -> Told {
    push(b, session, dialect)
        .and_then(|push| push.publication)
        .unwrap()
}

/// What was told inside a JSON string.
fn text(told: &Told) -> String {
    serde_json::from_slice(&told.data).unwrap()
}

#[test]
fn the_first_is_whole_and_every_next_one_a_difference_made_once() {
    let mut b = bench();
    for session in 0..10 {
        subscribe(
            &mut b,
            session,
            Dialect::ALL[session as usize % 2],
            delta(),
            None,
        );
    }
    publish(&mut b, json(5, state(5)));
    for session in 0..10 {
        let told = told(&mut b, session, Dialect::ALL[session as usize % 2]);
        assert!(!told.delta);
        match session % 2 {
            0 => assert_eq!(text(&told), state(5)),
            _ => assert_eq!(told.data, state(5)),
        }
    }
    assert_eq!(told(&mut b, 99, Dialect::Json).data, state(5));
    assert_eq!(b.hub.counters().deltas, 0);
    publish(&mut b, json(6, state(6)));
    let frame = |b: &Bench, session| {
        let mut of = b.said.delivered.iter().filter(|(to, _)| *to == session);
        of.next().unwrap().1.as_ptr()
    };
    assert_eq!(frame(&b, 0), frame(&b, 8), "one frame for all of a form");
    let in_json = told(&mut b, 0, Dialect::Json);
    let in_protobuf = told(&mut b, 1, Dialect::Protobuf);
    assert!(in_json.delta && in_protobuf.delta && in_protobuf.offset == 6);
    assert_eq!(text(&in_json).as_bytes(), in_protobuf.data);
    let made = fossil::apply(state(5).as_bytes(), &in_protobuf.data, 1000).unwrap();
    assert_eq!(made, state(6).as_bytes());
    let plain = told(&mut b, 99, Dialect::Json);
    assert!(!plain.delta && plain.data == state(6));
    // Both dialects share the bytes.
    assert_eq!(b.hub.counters().deltas, 1);
    // Nothing is kept for nobody.
    assert!(b.hub.gauges().base_bytes > 0);
    for session in 0..10 {
        b.ask(0, session, Request::Unsubscribe);
    }
    assert_eq!(b.hub.gauges().base_bytes, 0);
}

#[test]
fn what_is_not_smaller_is_told_whole() {
    let mut b = bench();
    subscribe(&mut b, 1, Dialect::Json, delta(), None);
    for (offset, data) in [(5, "1"), (6, "2"), (7, r#""\"ä\\""#)] {
        publish(&mut b, json(offset, data));
        let told = told(&mut b, 1, Dialect::Json);
        assert!(!told.delta);
        assert_eq!(text(&told), data);
    }
}

#[test]
fn recovery_gives_a_base() {
    let mut b = bench();
    publish(&mut b, json(5, state(5)));
    publish(&mut b, json(6, state(6)));
    for session in 0..2 {
        let recover = from(4);
        subscribe(
            &mut b,
            session,
            Dialect::ALL[session as usize],
            delta(),
            recover,
        );
        assert_eq!(b.answered(session).publications.len(), 2);
    }
    // Who has all of it already has no base that could be relied on.
    subscribe(&mut b, 2, Dialect::Protobuf, delta(), from(6));
    assert!(b.answered(2).recovered);
    subscribe(&mut b, 3, Dialect::Protobuf, delta(), None);
    publish(&mut b, json(7, state(7)));
    let deltas: Vec<bool> = (0..4)
        .map(|s| {
            told(
                &mut b,
                s,
                if s == 0 {
                    Dialect::Json
                } else {
                    Dialect::Protobuf
                },
            )
            .delta
        })
        .collect();
    assert_eq!(deltas, [true, true, false, false]);
}

#[test]
fn an_erased_publication_is_no_base() {
    let mut b = bench();
    subscribe(&mut b, 1, Dialect::Json, delta(), None);
    publish(&mut b, json(5, state(5)));
    assert!(b.hub.gauges().base_bytes > 0);
    let erased = Erased {
        room: room(1),
        offset: 5,
        erasures: 1,
    };
    b.frame(0, EdgeFrame::Erased(erased));
    assert_eq!(b.hub.gauges().base_bytes, 0, "it is kept nowhere");
    publish(&mut b, json(6, state(6)));
    assert_eq!(text(&told(&mut b, 1, Dialect::Json)), state(6));
    // One that comes erased is told as nothing, and the next one whole.
    let mut blank = json(7, state(7));
    blank.erase();
    publish(&mut b, blank);
    assert_eq!(text(&told(&mut b, 1, Dialect::Json)), "null");
    publish(&mut b, json(8, state(8)));
    let told = told(&mut b, 1, Dialect::Json);
    assert_eq!((told.delta, text(&told)), (false, state(8)));
}

#[test]
fn what_is_not_json_has_a_base_in_each_dialect() {
    let mut b = bench();
    for session in 0..2 {
        subscribe(
            &mut b,
            session,
            Dialect::ALL[session as usize],
            delta(),
            None,
        );
    }
    let bytes = |n: u8| {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes[100] = n;
        bytes
    };
    let mut base = String::new();
    for offset in 5..7 {
        let binary = Publication {
            content_type: ContentType::Unspecified.into(),
            ..json(offset, bytes(offset as u8))
        };
        publish(&mut b, binary);
        let in_json = told(&mut b, 0, Dialect::Json);
        let in_protobuf = told(&mut b, 1, Dialect::Protobuf);
        assert_eq!(
            (in_json.delta, in_protobuf.delta),
            (offset == 6, offset == 6)
        );
        if offset == 6 {
            let made = fossil::apply(&bytes(5), &in_protobuf.data, 1000).unwrap();
            assert_eq!(made, bytes(6));
            let made = fossil::apply(base.as_bytes(), text(&in_json).as_bytes(), 1000).unwrap();
            assert!(made.starts_with(b"{\"b64\":\"AAECAwQF"));
        }
        base = text(&in_json);
    }
    assert_eq!(b.hub.counters().deltas, 2);
}

#[test]
fn too_much_to_keep_is_told_whole() {
    let config = HubConfig {
        base_bytes: 50,
        ..HubConfig::default()
    };
    let mut b = Bench::detached(config);
    b.attach(0, 1);
    subscribe(&mut b, 1, Dialect::Protobuf, delta(), None);
    b.interested(4, 1);
    for offset in 5..8 {
        publish(&mut b, json(offset, state(offset)));
        assert!(!told(&mut b, 1, Dialect::Protobuf).delta);
        assert_eq!(b.hub.gauges().base_bytes, 0);
    }
}

#[test]
fn one_number_for_all_of_a_room() {
    let mut b = bench();
    b.said.numbers = Some(6);
    for session in 0..4 {
        subscribe(
            &mut b,
            session,
            Dialect::ALL[session as usize % 2],
            compact(),
            None,
        );
        assert_eq!(b.answered(session).number, 7);
    }
    subscribe(&mut b, 4, Dialect::Protobuf, Delivery::default(), None);
    assert_eq!(b.answered(4).number, 0);
    let publication = Publication {
        offset: 5,
        data: r#"{"a":1}"#.into(),
        ..Publication::default()
    };
    publish(&mut b, publication);
    let frames: Vec<&Bytes> = b.said.delivered.iter().map(|(_, f)| f).collect();
    let of = |session: usize| &frames[session + 1][..];
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&of(1)[2..]), "11220f0807220b22077b2261223a317d3005");
    assert_eq!(of(1).as_ptr(), of(3).as_ptr());
    let in_json = br#"{"push":{"id":7,"pub":{"data":{"a":1},"offset":5}}}"#;
    assert_eq!(&of(0)[2..], in_json);
    b.said.delivered.clear();
    let joined = Presence {
        room: room(1),
        person: person(7),
    };
    b.frame(0, EdgeFrame::Join(joined.clone()));
    b.frame(0, EdgeFrame::Leave(joined));
    let left = push(&mut b, 0, Dialect::Json).unwrap();
    let joined = push(&mut b, 0, Dialect::Json).unwrap();
    assert!(joined.join.is_some() && left.leave.is_some());
    assert_eq!([joined.id, left.id], [7, 7]);
    assert_eq!(
        push(&mut b, 4, Dialect::Protobuf).unwrap().channel,
        "room:1"
    );
}

#[test]
fn without_numbers_pushes_carry_the_name() {
    let mut b = bench();
    b.said.numbers = None;
    subscribe(&mut b, 1, Dialect::Json, compact(), None);
    assert_eq!(b.answered(1).number, 0);
    publish(&mut b, json(5, "1"));
    let push = push(&mut b, 1, Dialect::Json).unwrap();
    assert_eq!((push.id, push.channel.as_str()), (0, "room:1"));
}

#[test]
fn filters_choose_and_their_subscribers_stay_at_the_rooms_position() {
    let mut b = bench();
    subscribe(&mut b, 1, Dialect::Json, filter("a"), None);
    subscribe(&mut b, 2, Dialect::Json, filter("b"), None);
    let tagged = |offset: u64| Publication {
        tags: [(
            "t".to_owned(),
            ["a", "b", "c"][offset as usize % 3].to_owned(),
        )]
        .into(),
        ..json(offset, "1")
    };
    (5..=10).for_each(|offset| publish(&mut b, tagged(offset)));
    let mut got = |session| -> Vec<u64> {
        std::iter::from_fn(|| push(&mut b, session, Dialect::Json))
            .map(|push| push.publication.unwrap().offset)
            .collect()
    };
    assert_eq!((got(1), got(2)), (vec![9, 6], vec![10, 7]));
    assert_eq!(got(99), [10, 9, 8, 7, 6, 5]);
    assert_eq!(b.hub.counters().unwanted, 8);
    // What is recovered is chosen too.
    subscribe(&mut b, 3, Dialect::Json, filter("a"), from(4));
    let answer = b.answered(3);
    let offsets: Vec<u64> = answer
        .publications
        .iter()
        .map(|p| p.publication.offset)
        .collect();
    assert_eq!(
        (answer.recovered, answer.offset, offsets),
        (true, 4, vec![6, 9])
    );
}

#[test]
fn filters_beyond_the_bound_are_refused() {
    let one = filter("a").filter.unwrap().bytes();
    let config = HubConfig {
        filter_bytes: one,
        ..HubConfig::default()
    };
    let mut b = Bench::detached(config);
    b.attach(0, 1);
    b.subscribe(99, None);
    b.interested(4, 1);
    for session in 1..4 {
        subscribe(&mut b, session, Dialect::Json, filter("a"), None);
        b.answered(session);
    }
    subscribe(&mut b, 4, Dialect::Json, filter("b"), None);
    assert_eq!(b.failed(4), ErrorCode::LimitExceeded);
    assert_eq!(
        (
            b.hub.gauges().filter_bytes,
            b.hub.counters().filters_refused
        ),
        (one, 1)
    );
    assert_eq!(b.hub.gauges().subscribers, 4);
    for session in 1..4 {
        b.ask(0, session, Request::Unsubscribe);
    }
    assert_eq!(b.hub.gauges().filter_bytes, 0);
    subscribe(&mut b, 4, Dialect::Json, filter("b"), None);
    b.answered(4);
}

#[test]
fn ones_own_are_left_out_where_that_is_asked_for() {
    let mut b = bench();
    for (session, delta) in [(1, false), (2, true)] {
        let delivery = Delivery {
            without_own: Some(Arc::new(person(session))),
            delta,
            ..Delivery::default()
        };
        subscribe(&mut b, session, Dialect::Protobuf, delivery, None);
    }
    let by = |offset, session| Publication {
        from: Some(person(session)),
        ..json(offset, state(offset))
    };
    let mut got = Vec::new();
    for (offset, session) in [(5, 3), (6, 2), (7, 3), (8, 3), (9, 1)] {
        publish(&mut b, by(offset, session));
        let at = |s| b.said.delivered.iter().any(|(to, _)| *to == s);
        let two = at(2).then(|| told(&mut b, 2, Dialect::Protobuf).delta);
        got.push((b.said.delivered.iter().any(|(to, _)| *to == 1), two));
        b.said.delivered.clear();
    }
    // Behind its own the next one is whole: the room's last one was not handed to it.
    let want = [
        (true, Some(false)),
        (true, None),
        (true, Some(false)),
        (true, Some(true)),
        (false, Some(true)),
    ];
    assert_eq!(got, want);
}
