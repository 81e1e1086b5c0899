//! What a hub keeps within bounds, however much there is of it.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Incarnation, InstanceEpoch, SessionId};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{HubConfig, HubRequest, PublishQuery, RecoverFrom, Request, SubscribeQuery};

use crate::hub_model::person;
use crate::hub_rules::{Bench, attached_frame, page, publication};

fn numbered(n: u64) -> RoomRef {
    RoomRef {
        instance: format!("i{}", n % 7),
        channel: format!("room:{n}"),
    }
}

/// Session `n` subscribes to room `n`.
fn subscribe(b: &mut Bench, n: u64) {
    let query = SubscribeQuery {
        dialect: Dialect::Json,
        join_leave: false,
        presence: None,
        recover: None,
        delivery: Default::default(),
    };
    let request = HubRequest {
        token: n,
        session: SessionId(n),
        room: numbered(n),
        request: Request::Subscribe(Box::new(query)),
    };
    b.hub.request(0, &n, request, &mut b.said);
}

/// Session `n` publishes to room `n`.
fn publish(b: &mut Bench, n: u64) {
    let query = PublishQuery {
        instance_epoch: InstanceEpoch(1),
        from: Arc::new(person(n)),
        id: Bytes::new(),
        data: Bytes::from_static(b"1"),
        content_type: ContentType::Json,
        tags: Default::default(),
        traceparent: String::new(),
        version: None,
        after: None,
        signal: false,
        unkept: false,
    };
    let request = HubRequest {
        token: 1_000 + n,
        session: SessionId(n),
        room: numbered(n),
        request: Request::Publish(Box::new(query)),
    };
    b.hub.request(0, &n, request, &mut b.said);
}

/// The rooms that the owner is told of, and whether each still has subscribers.
fn told(b: &mut Bench) -> Vec<(RoomRef, bool)> {
    let said = b.said.owner.drain(..).filter_map(|frame| match frame {
        OwnerFrame::Interest(room) => Some((room, true)),
        OwnerFrame::Uninterest(room) => Some((room, false)),
        _ => None,
    });
    said.collect()
}

fn answer(b: &mut Bench, room: RoomRef) {
    let frame = Interested {
        room,
        top: 4,
        first: 1,
        generation: 0,
        erasures: 0,
    };
    b.frame(0, EdgeFrame::Interested(frame));
}

/// The owner answers one by one until all is said; returns the order, and the most that it had to
/// answer at once.
fn answer_all(b: &mut Bench) -> (Vec<RoomRef>, usize) {
    let mut open = std::collections::VecDeque::new();
    let (mut order, mut most) = (Vec::new(), 0);
    loop {
        open.extend(told(b).into_iter().map(|(room, _)| room));
        most = most.max(open.len());
        let Some(room) = open.pop_front() else {
            return (order, most);
        };
        order.push(room.clone());
        answer(b, room);
    }
}

#[test]
fn after_a_break_the_owner_is_told_of_thirty_thousand_rooms_a_bounded_number_at_a_time() {
    const ROOMS: u64 = 30_000;
    let mut b = Bench::new();
    (0..ROOMS).for_each(|n| subscribe(&mut b, n));
    assert_eq!(b.hub.gauges().interests_unanswered, 4_096);
    assert_eq!(b.hub.gauges().interests_waiting, 30_000 - 4_096);
    let (order, most) = answer_all(&mut b);
    let wanted: Vec<RoomRef> = (0..ROOMS).map(numbered).collect();
    assert!(order == wanted && most == 4_096, "{most}");
    b.hub.link_down(10, &mut b.said);
    assert_eq!(b.hub.gauges().interests_waiting, 0);
    b.attach(20, 1);
    // It breaks again before all is said: nothing is left over of the first time.
    answer(&mut b, numbered(0));
    b.said.owner.clear();
    b.hub.link_up(30, Incarnation(7), 1, &mut b.said);
    b.frame(30, attached_frame(1));
    let (order, most) = answer_all(&mut b);
    assert!(order == wanted && most == 4_096, "{most}");
    let gauges = b.hub.gauges();
    assert_eq!(
        (gauges.interests_unanswered, gauges.interests_waiting),
        (0, 0)
    );
    b.said.delivered.clear();
    for room in wanted {
        let publication = publication(5);
        b.frame(40, EdgeFrame::Deliver(Deliver { room, publication }));
    }
    assert_eq!(b.said.delivered.len() as u64, ROOMS);
}

#[test]
fn a_room_that_goes_before_its_turn_is_never_mentioned() {
    let mut b = Bench::detached(HubConfig {
        interests_in_flight: 2,
        ..HubConfig::default()
    });
    b.attach(0, 1);
    b.said.owner.clear();
    (0..5).for_each(|n| subscribe(&mut b, n));
    for n in [0, 3] {
        b.hub.session_closed(0, SessionId(n), &mut b.said);
    }
    b.hub.tick(2_000, &mut b.said);
    let first = [(0, true), (1, true), (0, false)].map(|(n, on)| (numbered(n), on));
    assert_eq!(told(&mut b), first);
    // The answer for a room that is gone makes place too.
    answer(&mut b, numbered(0));
    assert_eq!(told(&mut b), [(numbered(2), true)]);
    answer(&mut b, numbered(1));
    answer(&mut b, numbered(2));
    assert_eq!(told(&mut b), [(numbered(4), true)]);
}

#[test]
fn what_is_kept_behind_gaps_is_bounded_over_all_rooms_and_read_again_where_it_did_not_fit() {
    const ROOMS: u64 = 20;
    let config = HubConfig {
        ahead_bytes: 1_000,
        ahead_total_bytes: 5_000,
        ..HubConfig::default()
    };
    let mut b = Bench::detached(config);
    b.attach(0, 1);
    (0..ROOMS).for_each(|n| subscribe(&mut b, n));
    answer_all(&mut b);
    // 5 is missing everywhere.
    for offset in 6..=40 {
        for room in (0..ROOMS).map(numbered) {
            let publication = publication(offset);
            b.frame(0, EdgeFrame::Deliver(Deliver { room, publication }));
            let kept = b.hub.gauges().ahead_bytes;
            assert!(kept <= 5_000, "{kept}");
        }
    }
    assert!(b.hub.gauges().ahead_bytes > 4_500);
    assert!(b.hub.counters().ahead_dropped > 400);
    assert!(b.said.delivered.is_empty());
    while let Some(read) = b.said.history.pop() {
        let to = (read.since + 10).min(40);
        let answer = page(&read, read.since + 1..=to, 40);
        b.hub.history_page(0, answer, &mut b.said);
    }
    assert_eq!(b.said.delivered.len() as u64, ROOMS * 36);
    assert_eq!(b.hub.gauges().ahead_bytes, 0);
    // A break forgets what is kept.
    let publication = publication(50);
    let room = numbered(1);
    b.frame(0, EdgeFrame::Deliver(Deliver { room, publication }));
    assert!(b.hub.gauges().ahead_bytes > 0);
    b.hub.link_down(10, &mut b.said);
    assert_eq!(b.hub.gauges().ahead_bytes, 0);
    b.attach(20, 1);
    answer_all(&mut b);
}

#[test]
fn while_the_way_to_the_owner_is_full_publishes_and_interest_wait_and_instances_take_turns() {
    let mut b = Bench::new();
    b.said.owner_max = Some(3);
    for n in 0..14 {
        publish(&mut b, n);
    }
    (0..14).for_each(|n| subscribe(&mut b, n));
    let mut rounds = Vec::new();
    loop {
        let said: Vec<OwnerFrame> = b.said.owner.drain(..).collect();
        if said.is_empty() {
            break;
        }
        assert!(said.len() <= 3);
        rounds.extend(said.iter().map(|frame| match frame {
            OwnerFrame::Publish(p) => ('p', p.room.channel.clone()),
            OwnerFrame::Interest(room) => ('i', room.channel.clone()),
            other => panic!("{other:?}"),
        }));
        b.hub.owner_drained(0, &mut b.said);
    }
    let names = |kind: char, n: &[u64]| -> Vec<(char, String)> {
        n.iter().map(|n| (kind, numbered(*n).channel)).collect()
    };
    // The first three found it free; then instances 0 to 6 have their turns, two publishes each:
    // where the way was full within a turn, the rest of it waits for the next one.
    let published = names('p', &[0, 1, 2, 7, 8, 9, 3, 10, 4, 5, 12, 6, 11, 13]);
    assert_eq!(rounds[..14], published);
    assert_eq!(rounds[14..], names('i', &(0..14).collect::<Vec<_>>()));
}

#[test]
fn sessions_that_end_while_there_is_no_lease_are_not_remembered() {
    let mut b = Bench::new();
    b.hub.link_down(0, &mut b.said);
    b.hub.tick(10_000, &mut b.said);
    for n in 0..100 {
        publish(&mut b, n);
        b.hub.session_closed(10_000, SessionId(n), &mut b.said);
    }
    b.hub.tick(20_000, &mut b.said);
    b.said.owner.clear();
    b.attach(20_001, 2);
    let ended = |f: &&OwnerFrame| matches!(f, OwnerFrame::SessionEnded(_));
    assert_eq!(b.said.owner.iter().filter(ended).count(), 0);
}

#[test]
fn thousands_of_small_messages_are_recovered_from_memory_and_from_the_log() {
    const MESSAGES: u64 = 9_000;
    let whole = |offset| {
        Some(RecoverFrom {
            offset,
            epoch: String::new(),
            publications_max: gb6_core_model::limits::RECOVERY_PUBLICATIONS_MAX,
            bytes_max: gb6_core_model::limits::RECOVERY_BYTES_MAX,
            newest_only: false,
            or_fail: false,
        })
    };
    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(0, 1);
    (1..=MESSAGES).for_each(|offset| b.deliver(offset));
    b.subscribe(1, whole(0));
    let answer = b.answered(1);
    assert!(answer.recovered && b.said.history.is_empty());
    assert_eq!(answer.publications.len() as u64, MESSAGES);
    // What is kept for it counts as the memory that it takes, and stays within its bound.
    let kept = b.hub.gauges().ring_bytes;
    assert!((3_000_000..5_000_000).contains(&kept), "{kept}");

    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(MESSAGES, 1);
    b.subscribe(1, whole(0));
    while let Some(read) = b.said.history.pop() {
        let to = (read.since + u64::from(read.limit)).min(MESSAGES);
        let page = page(&read, read.since + 1..=to, MESSAGES);
        b.hub.history_page(0, page, &mut b.said);
    }
    let answer = b.answered(1);
    assert!(answer.recovered);
    assert_eq!(answer.publications.len() as u64, MESSAGES);
}
