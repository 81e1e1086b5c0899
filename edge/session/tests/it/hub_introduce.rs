//! What others see of a subscriber, changed while it is there.

use std::sync::Arc;

use gb6_core_model::Incarnation;
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::{OwnerFrame, Person};
use gb6_edge_session::{Answer, Delivery, Request, SubscribeQuery};

use crate::hub_model::person;
use crate::hub_rules::{Bench, attached_frame};

/// The infos of people that the owner is told of.
fn told(b: &mut Bench) -> Vec<String> {
    let info = |person: &Person| String::from_utf8_lossy(&person.chan_info).into_owned();
    let frames = std::mem::take(&mut b.said.owner).into_iter();
    frames
        .flat_map(|frame| match frame {
            OwnerFrame::Present(p) => vec![format!("+{}", info(&p.person))],
            OwnerFrame::Absent(p) => vec![format!("-{}", info(&p.person))],
            OwnerFrame::PresenceSet(set) => {
                let entries = set.entries.iter();
                entries.map(|p| format!("={}", info(&p.person))).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

fn subscribe(b: &mut Bench, session: u64, presence: Option<Arc<Person>>) {
    let query = SubscribeQuery {
        dialect: Dialect::Json,
        join_leave: false,
        presence,
        recover: None,
        delivery: Delivery::default(),
    };
    b.ask(0, session, Request::Subscribe(Box::new(query)));
}

fn introduce(b: &mut Bench, session: u64, info: &'static str) {
    let person = Person {
        chan_info: info.into(),
        ..person(session)
    };
    b.said.answers.clear();
    b.ask(0, session, Request::Introduce(Arc::new(person)));
    let answers = std::mem::take(&mut b.said.answers);
    assert!(matches!(answers[..], [(to, Answer::Introduced)] if to == session));
}

#[test]
fn whoever_is_there_is_told_anew_and_nobody_else() {
    let mut b = Bench::new();
    introduce(&mut b, 1, "nobody");
    subscribe(&mut b, 1, Some(Arc::new(person(1))));
    subscribe(&mut b, 2, None);
    // One that waits comes as what it is by then.
    introduce(&mut b, 1, "1");
    introduce(&mut b, 2, "hidden");
    assert!(told(&mut b).is_empty());
    b.interested(0, 1);
    assert_eq!(told(&mut b), ["+1"]);
    introduce(&mut b, 1, "2");
    introduce(&mut b, 2, "hidden");
    introduce(&mut b, 3, "nobody");
    assert_eq!(told(&mut b), ["+2"]);
    // Without a link it is told with the next.
    b.hub.link_down(10, &mut b.said);
    introduce(&mut b, 1, "3");
    assert!(told(&mut b).is_empty());
    b.hub.link_up(20, Incarnation(7), 1, &mut b.said);
    b.frame(20, attached_frame(1));
    assert_eq!(told(&mut b), ["=3"]);
    b.ask(30, 1, Request::Unsubscribe);
    assert_eq!(told(&mut b), ["-3"]);
}
