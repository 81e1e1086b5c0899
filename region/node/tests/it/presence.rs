//! Answers about presence, which are large, never stand in the way of anything else.

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, Person, Presence, PresenceQuery, Publish};

use crate::edge::{Machine, room};

const QUESTIONS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_do_not_fit_fail_alone_and_the_link_stays() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut watcher = machine.edge("e2").await;
    watcher.send(OwnerFrame::Interest(room()));
    watcher.next().await;
    let mut edge = machine.edge("e1").await;
    let person = |n: u32| Person {
        user: format!("u{n}"),
        client: format!("c{n}"),
        conn_info: vec![b'1'; 1_000].into(),
        ..Person::default()
    };
    for n in 0..1_000 {
        edge.send(OwnerFrame::Present(Presence {
            room: room(),
            person: person(n),
        }));
    }
    for request in 1..=QUESTIONS {
        edge.send(OwnerFrame::PresenceQuery(PresenceQuery {
            request,
            room: room(),
            entries: true,
        }));
    }
    edge.send(OwnerFrame::Publish(Publish {
        request: 1_000,
        room: room(),
        instance_epoch: 1,
        session: 1,
        number: 1,
        settled_below: 1,
        data: "1".into(),
        ..Publish::default()
    }));
    // Once the other edge has the message, all questions before it have been worked on, and the
    // first edge has read nothing.
    while !matches!(watcher.next().await, Some(EdgeFrame::Deliver(_))) {}
    let (mut whole, mut refused, mut published) = (0, 0, 0);
    while whole + refused < QUESTIONS || published == 0 {
        match edge.next().await.expect("the link stays") {
            EdgeFrame::PresenceAnswer(answer) if answer.error == 0 => {
                assert!(answer.entries.len() > 900 && answer.clients == 1_000);
                whole += 1;
            }
            EdgeFrame::PresenceAnswer(answer) => {
                assert_eq!(answer.error, ErrorCode::TooManyRequests.code());
                refused += 1;
            }
            EdgeFrame::Published(_) => published += 1,
            EdgeFrame::Refused(why) => panic!("{why:?}"),
            _ => {}
        }
    }
    assert!((1..=9).contains(&whole), "{whole} answers waited at once");
    // What was refused may be asked again.
    edge.send(OwnerFrame::PresenceQuery(PresenceQuery {
        request: 99,
        room: room(),
        entries: true,
    }));
    while !matches!(edge.next().await, Some(EdgeFrame::PresenceAnswer(a)) if a.error == 0) {}
}
