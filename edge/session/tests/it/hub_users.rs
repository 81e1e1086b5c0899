//! The users that a hub reports to the owner, and who waits until it has heard of them.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::*;
use gb6_edge_session::{ARRIVAL, Answer, Detach, Hub, HubConfig, HubOut, Notice};
use proptest::prelude::*;

use crate::hub_rules::{Bench, Said};
use crate::owner::Owner;

const ALICE: (&str, &str) = ("demo", "alice");

/// Who went on since the last look, and whether the owner had heard of them.
fn arrived(said: &mut Said) -> Vec<bool> {
    let answers = said.answers.drain(..);
    let answers = answers.map(|(token, answer)| match (token, answer) {
        (ARRIVAL, Answer::Arrived(heard)) => heard,
        other => panic!("{other:?}"),
    });
    answers.collect()
}

/// What the owner was told since the last look: users with a sign, revisions, and renewals.
fn told(said: &mut Said) -> Vec<String> {
    let frames = said.owner.drain(..);
    let told = frames.filter_map(|frame| match frame {
        OwnerFrame::UsersHere(report) => {
            let sign = |left| if left { '-' } else { '+' };
            let users = report.changes.iter();
            let users = users.map(|c| format!("{}{}/{}", sign(c.left), c.instance, c.user));
            let by = format!("by {}", report.complete_by);
            Some(users.chain([by]).collect::<Vec<_>>().join(" "))
        }
        OwnerFrame::Renew(renew) => Some(format!("renew {}", renew.sequence)),
        _ => None,
    });
    told.collect()
}

fn bench() -> Bench {
    let mut b = Bench::new();
    b.hub.users_placed(0, 3);
    b.hub.report_users(0, &mut b.said);
    assert_eq!(told(&mut b.said), ["by 3"]);
    b
}

fn renewed(b: &mut Bench, now: u64, sequence: u64) {
    b.frame(now, EdgeFrame::Renewed(Renew { sequence }));
}

#[test]
fn who_comes_first_waits_for_the_owner_and_others_cost_nothing() {
    let mut b = bench();
    b.hub.user_came(0, ALICE, true, Some(&1), &mut b.said);
    b.hub.user_came(0, ALICE, false, Some(&2), &mut b.said);
    b.hub
        .user_came(0, ("demo", "bob"), true, Some(&3), &mut b.said);
    b.hub.report_users(0, &mut b.said);
    assert_eq!(told(&mut b.said), ["+demo/alice +demo/bob by 3", "renew 1"]);
    assert!(arrived(&mut b.said).is_empty());
    renewed(&mut b, 1, 1);
    assert_eq!(arrived(&mut b.said), [true; 3]);
    b.hub.user_came(2, ALICE, false, Some(&4), &mut b.said);
    b.hub.report_users(2, &mut b.said);
    assert_eq!(arrived(&mut b.said), [true]);
    assert_eq!(told(&mut b.said), Vec::<String>::new());
}

#[test]
fn a_renewal_that_was_sent_before_proves_nothing() {
    let mut b = Bench::new();
    b.hub.users_placed(0, 3);
    b.hub.report_users(0, &mut b.said);
    b.hub.tick(3_400, &mut b.said);
    assert_eq!(told(&mut b.said), ["by 3", "renew 1"]);
    b.hub.user_came(3_401, ALICE, true, Some(&1), &mut b.said);
    renewed(&mut b, 3_402, 1);
    assert!(arrived(&mut b.said).is_empty());
    // One that is due goes out behind what is reported.
    b.hub.tick(6_900, &mut b.said);
    let told = told(&mut b.said);
    assert_eq!(told[..2], ["+demo/alice by 3", "renew 2"], "{told:?}");
}

#[test]
fn without_a_link_nobody_waits_for_long() {
    let mut b = bench();
    b.hub.link_down(1_000, &mut b.said);
    // The owner may believe for a moment that it hears everything.
    b.hub.user_came(1_001, ALICE, true, Some(&1), &mut b.said);
    b.hub.tick(2_900, &mut b.said);
    assert!(arrived(&mut b.said).is_empty());
    b.hub.tick(3_000, &mut b.said);
    assert_eq!(arrived(&mut b.said), [false]);
    b.hub
        .user_came(3_001, ("demo", "bob"), true, Some(&1), &mut b.said);
    assert_eq!(arrived(&mut b.said), [false]);
    assert_eq!(b.hub.counters().arrivals_unheard, 2);
    // All of it is said when there is a link again.
    b.said.owner.clear();
    b.attach(3_100, 1);
    assert_eq!(told(&mut b.said), ["+demo/alice +demo/bob by 3"]);
}

#[test]
fn an_owner_that_says_nothing_holds_nobody_up_for_long() {
    let mut b = bench();
    b.hub.user_came(0, ALICE, true, Some(&1), &mut b.said);
    b.hub.tick(1_999, &mut b.said);
    assert!(arrived(&mut b.said).is_empty());
    b.hub.tick(2_000, &mut b.said);
    assert_eq!(arrived(&mut b.said), [false]);
}

#[test]
fn who_comes_and_goes_is_told_once() {
    let mut b = bench();
    for n in 0..100 {
        b.hub.user_came(n * 10, ALICE, true, None, &mut b.said);
        b.hub.user_left(n * 10 + 5, ALICE);
        b.hub.tick(n * 10 + 6, &mut b.said);
    }
    assert_eq!(told(&mut b.said), ["+demo/alice by 3"]);
    b.hub.tick(2_994, &mut b.said);
    assert_eq!(told(&mut b.said), Vec::<String>::new());
    b.hub.tick(2_995, &mut b.said);
    assert_eq!(told(&mut b.said), ["-demo/alice by 3"]);
    assert_eq!(b.hub.gauges().users, 0);
}

#[test]
fn a_flood_of_arrivals_leaves_renewals_to_the_lease() {
    let mut b = bench();
    let mut renewals = 0;
    for n in 0..1_000 {
        let user = format!("u{n}");
        b.hub
            .user_came(0, ("demo", &user), true, Some(&n), &mut b.said);
        b.hub.report_users(0, &mut b.said);
        renewals += told(&mut b.said)
            .iter()
            .filter(|t| t.starts_with('r'))
            .count();
    }
    assert_eq!(renewals, 8);
    renewed(&mut b, 1, 8);
    b.hub.report_users(1, &mut b.said);
    assert_eq!(told(&mut b.said), ["renew 9"], "one for all that wait");
    renewed(&mut b, 2, 9);
    assert_eq!(arrived(&mut b.said), [true; 1_000]);
}

#[derive(Clone, Debug)]
enum Op {
    Come(u8),
    Leave(u8),
    Place(u64),
    Up,
    Down,
    Restart,
    /// The owner takes so many frames, and the hub what it answers.
    Carry(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3u8).prop_map(Op::Come),
        6 => (0..3u8).prop_map(Op::Leave),
        1 => (1..9u64).prop_map(Op::Place),
        2 => Just(Op::Up),
        1 => Just(Op::Down),
        1 => Just(Op::Restart),
        9 => (0..4usize).prop_map(Op::Carry),
        3 => (1..1_500u64).prop_map(Op::Pass),
    ]
}

/// Where the hub's outputs go. Sessions are known by the number of their user.
#[derive(Default)]
struct Out {
    owner: Vec<OwnerFrame>,
    arrived: Vec<(u8, bool)>,
    detached: bool,
}

impl HubOut<u8> for Out {
    fn deliver(&mut self, _: &u8, _: bytes::Bytes) {}
    fn notice(&mut self, _: &u8, _: Notice) {}
    fn to_history(&mut self, _: HistoryRequest) {}
    fn complete(&mut self, to: &u8, token: u64, answer: Answer) {
        let Answer::Arrived(heard) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(token, ARRIVAL);
        self.arrived.push((*to, heard));
    }
    fn to_owner(&mut self, frame: OwnerFrame) {
        self.owner.push(frame);
    }
    fn detach(&mut self, _: Detach) {
        self.detached = true;
    }
}

struct World {
    hub: Hub<u8>,
    out: Out,
    owner: Owner,
    now: u64,
    linked: bool,
    incarnation: u64,
    /// How many sessions each user has.
    here: BTreeMap<u8, usize>,
    /// How many wait.
    waiting: usize,
}

fn name(user: u8) -> (String, String) {
    ("demo".to_owned(), format!("u{user}"))
}

impl World {
    fn new() -> Self {
        Self {
            hub: Hub::new(HubConfig::default()),
            out: Out::default(),
            owner: Owner::default(),
            now: 10_000,
            linked: false,
            incarnation: 0,
            here: BTreeMap::new(),
            waiting: 0,
        }
    }

    /// What the hub has said: whoever goes on because the owner has heard of it is known there.
    fn settle(&mut self) {
        for (user, heard) in self.out.arrived.drain(..) {
            self.waiting -= 1;
            let known = self.owner.users.contains(&name(user));
            assert!(known || !heard, "u{user} went on, and nobody can find it");
        }
        if std::mem::take(&mut self.out.detached) {
            self.linked = false;
            self.owner.break_link();
        }
    }

    fn up(&mut self) {
        if !self.linked {
            self.linked = true;
            self.incarnation += 1;
            let fresh = Incarnation(self.incarnation);
            self.hub.link_up(self.now, fresh, 1, &mut self.out);
        }
    }

    fn down(&mut self) {
        if self.linked {
            self.linked = false;
            self.owner.break_link();
            self.hub.link_down(self.now, &mut self.out);
            self.out.owner.clear();
        }
    }

    fn carry(&mut self, frames: usize) {
        self.hub.report_users(self.now, &mut self.out);
        let said = std::mem::take(&mut self.out.owner);
        if self.linked {
            self.owner.to_owner.extend(said);
        }
        for _ in 0..frames {
            self.owner.take(self.now);
            while let Some(frame) = self.owner.next() {
                self.hub.frame(self.now, frame, &mut self.out);
                self.settle();
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.owner.expire(self.now);
        self.hub.tick(self.now, &mut self.out);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Come(user) => {
                let sessions = self.here.entry(user).or_default();
                *sessions += 1;
                let (instance, name) = name(user);
                let first = *sessions == 1;
                self.waiting += 1;
                let key = (instance.as_str(), name.as_str());
                self.hub
                    .user_came(self.now, key, first, Some(&user), &mut self.out);
            }
            Op::Leave(user) => {
                let sessions = self.here.entry(user).or_default();
                if *sessions == 1 {
                    let (instance, name) = name(user);
                    self.hub.user_left(self.now, (&instance, &name));
                }
                *sessions = sessions.saturating_sub(1);
            }
            Op::Place(revision) => self.hub.users_placed(self.now, revision),
            Op::Up => self.up(),
            Op::Down => self.down(),
            Op::Restart => {
                self.down();
                self.owner.restart(self.now);
            }
            Op::Carry(frames) => self.carry(frames),
            Op::Pass(ms) => self.pass(ms),
        }
        self.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn who_goes_on_is_found_and_the_owner_knows_all_in_the_end(
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let mut world = World::new();
        world.owner.restart(world.now);
        for op in ops {
            world.apply(op);
        }
        world.apply(Op::Place(9));
        for _ in 0..200 {
            world.apply(Op::Up);
            world.apply(Op::Carry(50));
            world.apply(Op::Pass(50));
        }
        world.apply(Op::Carry(50));
        prop_assert_eq!(world.waiting, 0);
        let here = world.here.iter().filter(|(_, sessions)| **sessions > 0);
        let here: BTreeSet<_> = here.map(|(user, _)| name(*user)).collect();
        prop_assert_eq!(&world.owner.users, &here);
        prop_assert!(world.owner.users_complete);
        prop_assert_eq!(world.hub.gauges().users, here.len());
    }
}
