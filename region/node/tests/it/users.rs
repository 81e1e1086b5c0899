//! Users that edges report to a real owner.

use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, UserAnswer, UserChange, UserQuery, UsersHere, edges_sum,
};

use crate::edge::{Edge, Machine};

fn report(edge: &Edge, users: &[&str], complete_by: u64) {
    let change = |user: &&str| UserChange {
        instance: "demo".into(),
        user: (*user).into(),
        left: false,
    };
    edge.send(OwnerFrame::UsersHere(UsersHere {
        // Somebody else's name, which nobody believes.
        node: "e9".into(),
        changes: users.iter().map(change).collect(),
        complete_by,
    }));
}

async fn ask(edge: &mut Edge, user: &str) -> UserAnswer {
    edge.send(OwnerFrame::UserQuery(UserQuery {
        request: 1,
        instance: "demo".into(),
        user: user.into(),
        revision: 1,
    }));
    loop {
        match edge.next().await.expect("the link stays") {
            EdgeFrame::UserAnswer(answer) => return answer,
            EdgeFrame::Refused(why) => panic!("{why:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_at_the_edges_whose_certificates_say_so_until_their_links_end() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let (one, mut two) = (machine.edge("e1").await, machine.edge("e2").await);
    report(&one, &["alice", "bob"], 1);
    report(&two, &["alice"], 1);
    let answer = loop {
        // The other edge's frames come by a stream of their own.
        let answer = ask(&mut two, "alice").await;
        if answer.reported == 2 {
            break answer;
        }
    };
    let mut edges = answer.edges;
    edges.sort();
    assert_eq!(edges, ["e1", "e2"]);
    assert_eq!(answer.reported_sum, edges_sum(["e2", "e1"]));
    assert_eq!(ask(&mut two, "bob").await.edges, ["e1"]);
    drop(one);
    while ask(&mut two, "bob").await.reported == 2 {}
    let answer = ask(&mut two, "alice").await;
    assert_eq!((answer.edges, answer.reported), (vec!["e2".to_owned()], 1));
    assert!(ask(&mut two, "bob").await.edges.is_empty());
}
