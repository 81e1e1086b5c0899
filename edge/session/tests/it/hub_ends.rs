//! Ends of sessions on their way to the owner: in order, bounded, until each is in its log.

use std::collections::BTreeSet;

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::SessionEvent;
use gb6_edge_session::{Hub, HubConfig};
use proptest::prelude::*;

use crate::hub_rules::{Bench, Said};
use crate::owner::Owner;

const PROCESS: u64 = 9;

fn here(session: u64) -> SessionHere {
    SessionHere {
        session,
        instance: "demo".into(),
        user: "alice".into(),
        client: format!("c{session}"),
    }
}

fn end(number: u64, session: u64, channel: &str) -> SessionEnd {
    let event = match channel {
        "" => SessionEvent::Disconnect,
        _ => SessionEvent::Unsubscribe,
    };
    SessionEnd {
        number,
        of: here(session),
        instance_epoch: 1,
        event: event.into(),
        channel: channel.into(),
        ..SessionEnd::default()
    }
}

/// What the owner was told since the last look: who is here, whether all, and what has ended.
fn told(b: &mut Bench, now: u64) -> Vec<(Vec<u64>, bool, Vec<u64>)> {
    b.hub.report_sessions(now, &mut b.said);
    let frames = b.said.owner.drain(..);
    let reports = frames.filter_map(|frame| match frame {
        OwnerFrame::Sessions(report) => {
            assert_eq!(report.process, PROCESS);
            let here = report.here.iter().map(|h| h.session).collect();
            let ended = report.ended.iter().map(|e| e.number).collect();
            Some((here, report.complete, ended))
        }
        _ => None,
    });
    reports.collect()
}

fn written(b: &mut Bench, now: u64, numbers: Vec<u64>, moved: Vec<u64>) {
    let written = SessionsWritten { numbers, moved };
    b.frame(now, EdgeFrame::SessionsWritten(written));
}

#[test]
fn what_is_not_answered_is_said_again() {
    let mut b = Bench::new();
    assert_eq!(
        told(&mut b, 0),
        [],
        "an edge without such sessions says nothing"
    );
    b.hub.session_here(0, PROCESS, here(1));
    b.hub.session_here(0, PROCESS, here(2));
    assert_eq!(told(&mut b, 0), [(vec![1, 2], true, vec![])]);
    b.hub.session_ended_here(1, PROCESS, end(5, 1, "room:1"));
    b.hub.session_ended_here(1, PROCESS, end(6, 1, ""));
    assert_eq!(told(&mut b, 1), [(vec![], false, vec![5, 6])]);
    assert_eq!(told(&mut b, 2), []);
    written(&mut b, 2, vec![5], vec![]);
    b.hub.link_down(3, &mut b.said);
    b.hub.session_here(3, PROCESS, here(3));
    b.hub.session_ended_here(3, PROCESS, end(7, 2, ""));
    assert_eq!(told(&mut b, 3), []);
    b.attach(4, 1);
    assert_eq!(told(&mut b, 4), [(vec![3], true, vec![6, 7])]);
    written(&mut b, 5, vec![6, 7], vec![]);
    assert_eq!(b.hub.gauges().session_ends, 0);
    assert_eq!(b.hub.counters().session_ends, 3);
    // An answer to nothing.
    written(&mut b, 5, vec![6], vec![]);
    assert_eq!(b.hub.counters().stray_frames, 1);
}

#[test]
fn what_is_another_shards_is_taken_back_from_the_owner_that_heard_of_it() {
    let mut b = Bench::new();
    for session in 1..=4 {
        b.hub.session_here(0, PROCESS, here(session));
    }
    told(&mut b, 0);
    let elsewhere = |b: &mut Bench, now| -> Vec<u64> {
        b.hub.report_sessions(now, &mut b.said);
        let frames = b.said.owner.drain(..);
        let reports = frames.filter_map(|frame| match frame {
            OwnerFrame::Sessions(report) => Some(report.elsewhere),
            _ => None,
        });
        reports.flatten().collect()
    };
    // One that comes back before it was said, and one that was never here.
    for session in [1, 2, 9] {
        b.hub.session_elsewhere(1, session);
    }
    b.hub.session_here(1, PROCESS, here(2));
    assert_eq!(elsewhere(&mut b, 1), [1]);
    assert_eq!(told(&mut b, 2), []);
    // Behind a break all that are here are named, so that nothing has to be taken back.
    b.hub.link_down(3, &mut b.said);
    b.hub.session_elsewhere(3, 3);
    b.attach(4, 1);
    assert_eq!(told(&mut b, 4), [(vec![2, 4], true, vec![])]);
    assert!(elsewhere(&mut b, 5).is_empty());
}

#[test]
fn what_another_shard_is_to_be_told_is_given_back_after_a_while() {
    let mut b = Bench::new();
    b.hub.session_ended_here(0, PROCESS, end(1, 1, ""));
    told(&mut b, 0);
    written(&mut b, 1_000, vec![], vec![1]);
    assert_eq!(b.hub.take_moved(1_499), []);
    assert_eq!(b.hub.gauges().session_ends, 1);
    assert_eq!(b.hub.take_moved(1_500), [end(1, 1, "")]);
    assert_eq!(b.hub.gauges().session_ends, 0);
}

#[test]
fn an_owner_that_answers_nothing_costs_a_bounded_number() {
    let mut b = Bench::new();
    for n in 1..=20_000 {
        b.hub.session_ended_here(0, PROCESS, end(n, n, ""));
    }
    let mut other = end(20_001, 1, "");
    other.of.instance = "other".into();
    b.hub.session_ended_here(0, PROCESS, other);
    assert_eq!(b.hub.counters().session_ends_dropped, 20_000 - 16_384);
    assert_eq!(
        b.hub.gauges().session_ends,
        16_385,
        "another instance has its own"
    );
    let sent: usize = told(&mut b, 0).iter().map(|t| t.2.len()).sum();
    assert_eq!(sent, SESSION_ENDS_UNANSWERED_MAX);
    written(&mut b, 1, (1..=10).collect(), vec![]);
    let sent: Vec<u64> = told(&mut b, 1).into_iter().flat_map(|t| t.2).collect();
    assert_eq!(sent, (1_025..=1_034).collect::<Vec<u64>>());
}

#[derive(Clone, Debug)]
enum Op {
    Begin,
    End(prop::sample::Index),
    Unsubscribe(prop::sample::Index),
    Up,
    Down,
    Restart,
    Carry(usize),
    Answer,
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Begin),
        4 => any::<prop::sample::Index>().prop_map(Op::End),
        3 => any::<prop::sample::Index>().prop_map(Op::Unsubscribe),
        2 => Just(Op::Up),
        1 => Just(Op::Down),
        1 => Just(Op::Restart),
        8 => (0..4usize).prop_map(Op::Carry),
        5 => Just(Op::Answer),
        2 => (1..1_500u64).prop_map(Op::Pass),
    ]
}

struct World {
    hub: Hub<u64>,
    said: Said,
    owner: Owner,
    now: u64,
    linked: bool,
    incarnation: u64,
    here: Vec<u64>,
    sessions: u64,
    numbers: u64,
}

impl World {
    fn settle(&mut self) {
        if !std::mem::take(&mut self.said.detached).is_empty() {
            self.linked = false;
            self.owner.break_link();
        }
    }

    fn hear(&mut self) {
        while let Some(frame) = self.owner.next() {
            self.hub.frame(self.now, frame, &mut self.said);
            self.settle();
        }
    }

    fn down(&mut self) {
        self.linked = false;
        self.owner.break_link();
        self.hub.link_down(self.now, &mut self.said);
        self.said.owner.clear();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Begin => {
                self.sessions += 1;
                self.here.push(self.sessions);
                self.hub
                    .session_here(self.now, PROCESS, here(self.sessions));
            }
            Op::End(at) | Op::Unsubscribe(at) if !self.here.is_empty() => {
                let at = at.index(self.here.len());
                let ends = matches!(op, Op::End(_));
                let session = match ends {
                    true => self.here.swap_remove(at),
                    false => self.here[at],
                };
                self.numbers += 1;
                let channel = if ends { "" } else { "room:1" };
                let end = end(self.numbers, session, channel);
                self.hub.session_ended_here(self.now, PROCESS, end);
            }
            Op::End(_) | Op::Unsubscribe(_) => {}
            Op::Up if !self.linked => {
                self.linked = true;
                self.incarnation += 1;
                let fresh = Incarnation(self.incarnation);
                self.hub.link_up(self.now, fresh, 1, &mut self.said);
            }
            Op::Up => {}
            Op::Down => self.down(),
            Op::Restart => {
                self.down();
                self.owner.restart(self.now);
            }
            Op::Carry(frames) => {
                self.hub.report_sessions(self.now, &mut self.said);
                let said = std::mem::take(&mut self.said.owner);
                if self.linked {
                    self.owner.to_owner.extend(said);
                }
                for _ in 0..frames {
                    self.owner.take(self.now);
                    self.hear();
                }
            }
            Op::Answer => {
                self.owner.answer_ends();
                self.hear();
            }
            Op::Pass(ms) => {
                self.now += ms;
                self.owner.expire(self.now);
                self.hub.tick(self.now, &mut self.said);
            }
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn the_owner_hears_of_every_end_and_knows_who_is_here(
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let mut world = World {
            hub: Hub::new(HubConfig::default()),
            said: Said::default(),
            owner: Owner::default(),
            now: 10_000,
            linked: false,
            incarnation: 0,
            here: Vec::new(),
            sessions: 0,
            numbers: 0,
        };
        world.owner.restart(world.now);
        for op in ops {
            world.apply(op);
        }
        // A session more, so that there is something to say.
        world.apply(Op::Begin);
        for _ in 0..200 {
            for op in [Op::Up, Op::Carry(50), Op::Answer, Op::Pass(50)] {
                world.apply(op);
            }
        }
        let written: Vec<u64> = world.owner.ends.keys().copied().collect();
        prop_assert_eq!(written, (1..=world.numbers).collect::<Vec<u64>>());
        let here: BTreeSet<u64> = world.here.iter().copied().collect();
        prop_assert_eq!(&world.owner.sessions, &here);
        prop_assert_eq!(world.hub.gauges().session_ends, 0);
    }
}
