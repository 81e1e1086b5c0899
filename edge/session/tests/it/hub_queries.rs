//! Questions about presence and traces: asked once for all, bounded, instances in turns.

use gb6_core_model::{ErrorCode, InstanceEpoch, SessionId};
use gb6_core_wire::mesh::*;
use gb6_edge_session::{Answer, HubConfig, HubRequest, Request, StatusWanted};

use crate::hub_rules::Bench;

const WHO: Request = Request::Presence { entries: true };

fn ask(b: &mut Bench, now: u64, token: u64, instance: &str, room: u64, request: Request) {
    let request = HubRequest {
        token,
        session: SessionId(token),
        room: RoomRef {
            instance: instance.to_owned(),
            channel: format!("room:{room}"),
        },
        request,
    };
    b.hub.request(now, &token, request, &mut b.said);
}

/// The questions that the owner was asked since the last look.
fn asked(b: &mut Bench) -> Vec<PresenceQuery> {
    let frames = b.said.owner.drain(..);
    let queries = frames.filter_map(|f| match f {
        OwnerFrame::PresenceQuery(query) => Some(query),
        _ => None,
    });
    queries.collect()
}

fn answer(b: &mut Bench, request: u64, clients: u32) {
    let frame = PresenceAnswer {
        request,
        clients,
        ..PresenceAnswer::default()
    };
    b.frame(0, EdgeFrame::PresenceAnswer(frame));
}

/// Tokens with the number that they were answered, or the error.
fn answers(b: &mut Bench) -> Vec<(u64, Result<u32, ErrorCode>)> {
    let answers = b.said.answers.drain(..);
    let answers = answers.map(|(token, answer)| match answer {
        Answer::Presence(who) => (token, Ok(who.clients)),
        Answer::Failed(code) => (token, Err(code)),
        other => panic!("{other:?}"),
    });
    answers.collect()
}

fn bench(queries_in_flight: usize, queries_waiting: usize) -> Bench {
    let mut b = Bench::detached(HubConfig {
        queries_in_flight,
        queries_waiting,
        ..HubConfig::default()
    });
    b.attach(0, 1);
    b.said.owner.clear();
    b
}

#[test]
fn ten_thousand_equal_questions_are_two() {
    let mut b = Bench::new();
    for token in 0..10_000 {
        ask(&mut b, 0, token, "demo", 1, WHO);
    }
    let first = asked(&mut b);
    assert_eq!(first.len(), 1, "one is under way");
    // Who came while it was under way may have come into the room since: they get the next one.
    answer(&mut b, first[0].request, 5);
    assert_eq!(answers(&mut b), [(0, Ok(5))]);
    let second = asked(&mut b);
    assert_eq!(second.len(), 1);
    answer(&mut b, second[0].request, 6);
    let rest = answers(&mut b);
    assert_eq!(rest.len(), 9_999);
    assert!(rest.iter().all(|(_, answer)| *answer == Ok(6)));
    assert!(asked(&mut b).is_empty() && b.hub.is_idle());
    assert_eq!(b.hub.counters().queries_shared, 9_999);
    // People and their number alone are different questions, and so are traces.
    ask(&mut b, 0, 1, "demo", 1, WHO);
    ask(
        &mut b,
        0,
        2,
        "demo",
        1,
        Request::Presence { entries: false },
    );
    ask(&mut b, 0, 3, "demo", 1, Request::Trace { offset: 4 });
    assert_eq!(b.said.owner.len(), 3);
}

#[test]
fn a_bounded_number_is_under_way_and_instances_take_turns() {
    let mut b = bench(2, 3);
    for room in 0..7 {
        ask(&mut b, 0, room, "flood", room, WHO);
    }
    ask(&mut b, 0, 10, "calm", 1, WHO);
    // Two under way, three wait, two are too many; the other instance has a place of its own.
    let many = ErrorCode::TooManyRequests;
    assert_eq!(answers(&mut b), [(5, Err(many)), (6, Err(many))]);
    assert_eq!(b.hub.counters().queries_refused, 2);
    let mut order = Vec::new();
    loop {
        let questions = asked(&mut b);
        if questions.is_empty() {
            break;
        }
        assert!(questions.len() <= 2);
        for question in questions {
            order.push((question.room.instance, question.room.channel));
            answer(&mut b, question.request, 1);
        }
    }
    let order: Vec<String> = order.into_iter().map(|(i, c)| i + "/" + &c).collect();
    let want = [
        "flood/room:0",
        "flood/room:1",
        "flood/room:2",
        "calm/room:1",
    ];
    assert_eq!(order[..4], want);
    assert_eq!(order[4..], ["flood/room:3", "flood/room:4"]);
    assert!(b.hub.is_idle());
}

#[test]
fn a_break_asks_again_and_silence_makes_place() {
    let mut b = bench(1, 10);
    ask(&mut b, 0, 1, "demo", 1, WHO);
    ask(&mut b, 0, 2, "demo", 1, WHO);
    ask(&mut b, 0, 3, "demo", 2, WHO);
    let first = asked(&mut b);
    b.hub.link_down(10, &mut b.said);
    b.attach(20, 1);
    // What waited goes first; then both get the same answer, because neither has one of the last
    // link.
    let waited = asked(&mut b);
    assert_eq!(waited[0].room.channel, "room:2");
    answer(&mut b, waited[0].request, 9);
    let again = asked(&mut b);
    assert_ne!(again[0].request, first[0].request);
    answer(&mut b, again[0].request, 7);
    assert_eq!(answers(&mut b), [(3, Ok(9)), (1, Ok(7)), (2, Ok(7))]);
    // The owner never answers: the asker is told, and the next one has its place.
    ask(&mut b, 100, 4, "demo", 3, WHO);
    ask(&mut b, 1_000, 5, "demo", 4, WHO);
    let silent = asked(&mut b);
    b.hub.tick(4_500, &mut b.said);
    assert_eq!(answers(&mut b), [(4, Err(ErrorCode::Internal))]);
    assert_eq!(asked(&mut b)[0].room.channel, "room:4");
    answer(&mut b, silent[0].request, 1);
    assert_eq!(b.hub.counters().stray_frames, 1);
}

#[test]
fn a_question_that_the_owner_refuses_fails_alone() {
    let mut b = Bench::new();
    ask(&mut b, 0, 1, "demo", 1, WHO);
    let frame = PresenceAnswer {
        request: asked(&mut b)[0].request,
        error: ErrorCode::TooManyRequests.code(),
        ..PresenceAnswer::default()
    };
    b.frame(0, EdgeFrame::PresenceAnswer(frame));
    assert_eq!(answers(&mut b), [(1, Err(ErrorCode::TooManyRequests))]);
}

#[test]
fn statuses_are_asked_for_and_changed_through_the_owner() {
    let mut b = Bench::new();
    let status = |wanted| Request::UserStatus {
        instance_epoch: InstanceEpoch(3),
        wanted,
    };
    let busy = status(StatusWanted::Update {
        state: "busy".to_owned(),
    });
    // Equal questions that wait are one; equal changes are not, for another may lie between.
    b.hub.link_down(0, &mut b.said);
    ask(&mut b, 0, 1, "demo", 1, busy.clone());
    for token in 2..=3 {
        ask(&mut b, 0, token, "demo", 1, status(StatusWanted::Get));
    }
    ask(&mut b, 0, 4, "demo", 1, status(StatusWanted::Delete));
    ask(&mut b, 0, 5, "demo", 1, busy.clone());
    b.attach(1, 1);
    let frames: Vec<OwnerFrame> = b.said.owner.drain(..).collect();
    let queries = frames.into_iter().filter_map(|frame| match frame {
        OwnerFrame::UserStatus(query) => Some(query),
        _ => None,
    });
    let queries: Vec<UserStatusQuery> = queries.collect();
    let asked = queries
        .iter()
        .map(|q| (q.action(), q.state.as_str(), q.instance_epoch));
    assert_eq!(
        asked.collect::<Vec<_>>(),
        [
            (UserStatusAction::Update, "busy", 3),
            (UserStatusAction::Get, "", 3),
            (UserStatusAction::Delete, "", 3),
            (UserStatusAction::Update, "busy", 3),
        ]
    );
    for (query, error) in queries.iter().zip([0, 0, 100, 0]) {
        assert_eq!(query.room.channel, "room:1");
        b.frame(
            2,
            EdgeFrame::UserStatusAnswer(UserStatusAnswer {
                request: query.request,
                active: 5,
                online: 6,
                state: "busy".to_owned(),
                error,
            }),
        );
    }
    let answers: Vec<_> = b.said.answers.drain(..).collect();
    assert_eq!(answers.len(), 5);
    for (token, answer) in answers {
        match (token, answer) {
            (1 | 5, Answer::UserStatus(_)) => {}
            (2..=3, Answer::UserStatus(status)) => {
                assert_eq!((status.active, status.online), (5, 6));
                assert_eq!(status.state, "busy");
            }
            (4, Answer::Failed(code)) => assert_eq!(code, ErrorCode::Internal),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_change_of_a_status_that_a_lost_link_leaves_unknown_is_not_made_behind_a_later_one() {
    let mut b = Bench::new();
    let update = |state: &str| Request::UserStatus {
        instance_epoch: InstanceEpoch(3),
        wanted: StatusWanted::Update {
            state: state.to_owned(),
        },
    };
    b.attach(1, 1);
    ask(&mut b, 0, 1, "demo", 1, update("busy"));
    b.hub.link_down(0, &mut b.said);
    ask(&mut b, 0, 2, "demo", 1, update("away"));
    assert_eq!(answers(&mut b), [(1, Err(ErrorCode::Internal))]);
    b.said.owner.clear();
    b.attach(1, 2);
    let frames: Vec<OwnerFrame> = b.said.owner.drain(..).collect();
    let states = frames.iter().filter_map(|frame| match frame {
        OwnerFrame::UserStatus(query) => Some(query.state.as_str()),
        _ => None,
    });
    assert_eq!(states.collect::<Vec<_>>(), ["away"]);
}
