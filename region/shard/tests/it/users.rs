//! Which edges have a user, against a naive model of what edges have reported on their links.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, RefusedReason, UserAnswer, UserChange, UserQuery, UsersHere, edges_sum,
};
use gb6_region_shard::{LinkId, Output, Shard, ShardConfig};
use proptest::prelude::*;

use crate::world::{World, rules};

const EDGES: u64 = 4;

fn change(instance: &str, user: &str, left: bool) -> UserChange {
    UserChange {
        instance: instance.into(),
        user: user.into(),
        left,
    }
}

fn report(world: &mut World, link: LinkId, node: &str, changes: &[UserChange], complete_by: u64) {
    let report = UsersHere {
        node: node.into(),
        changes: changes.to_vec(),
        complete_by,
    };
    world.frame(link, OwnerFrame::UsersHere(report));
}

fn ask(world: &mut World, link: LinkId, instance: &str, user: &str, revision: u64) -> UserAnswer {
    let query = UserQuery {
        request: 5,
        instance: instance.into(),
        user: user.into(),
        revision,
    };
    world.frame(link, OwnerFrame::UserQuery(query));
    let sent = world.take_sent(link).into_iter();
    let mut answers = sent.filter_map(|frame| match frame {
        EdgeFrame::UserAnswer(answer) => Some(answer),
        _ => None,
    });
    answers.next().expect("an answer")
}

#[derive(Clone, Debug)]
enum Op {
    Attach(u64),
    Drop(u64),
    Report(u64, Vec<(usize, bool)>, u64),
    Tick(u64),
    /// Whether `demo` keeps statuses from now on.
    Statuses(bool),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let change = (0..NAMES.len(), any::<bool>());
    let changes = proptest::collection::vec(change, 0..6);
    prop_oneof![
        2 => (0..EDGES).prop_map(Op::Attach),
        1 => (0..EDGES).prop_map(Op::Drop),
        12 => (0..EDGES, changes, 0..3u64).prop_map(|(e, c, by)| Op::Report(e, c, by)),
        1 => (1..1900u64).prop_map(Op::Tick),
        1 => any::<bool>().prop_map(Op::Statuses),
        1 => Just(Op::Restart),
    ]
}

const NAMES: [(&str, &str); 5] = [
    ("demo", "alice"),
    ("demo", "bob"),
    ("other", "alice"),
    // What joins to the same text is not the same.
    ("demo", "xalice"),
    ("demox", "alice"),
];

/// What an edge has said on its link.
struct Said {
    link: LinkId,
    users: BTreeSet<usize>,
    complete_by: u64,
    lease_until: u64,
}

fn run(ops: Vec<Op>) {
    let mut world = World::new(rules());
    let asker = world.attach(1_000);
    let mut asker = asker;
    let mut edges: BTreeMap<u64, Said> = BTreeMap::new();
    let mut incarnation = 0;
    // Who is here of those of whom statuses are kept, as the driver is told.
    let (mut keeps, mut here) = (false, BTreeSet::new());
    for op in ops {
        match op {
            Op::Statuses(on) => {
                keeps = on;
                let mut snapshot = Snapshot::clone(&world.snapshot);
                let demo = snapshot.instances.get_mut("demo").expect("it is there");
                demo.user_status_ttl_ms = u64::from(on) * 60_000;
                world.snapshot = Arc::new(snapshot);
                world.shard.set_snapshot(world.snapshot.clone());
            }
            Op::Attach(edge) => {
                incarnation += 1;
                if let Some(old) = edges.remove(&edge) {
                    world.shard.link_closed(old.link);
                }
                let said = Said {
                    link: world.attach(incarnation),
                    users: BTreeSet::new(),
                    complete_by: 0,
                    lease_until: world.now_ms + 10_000,
                };
                edges.insert(edge, said);
            }
            Op::Drop(edge) => {
                if let Some(old) = edges.remove(&edge) {
                    world.shard.link_closed(old.link);
                }
            }
            Op::Report(edge, changes, complete_by) => {
                let Some(said) = edges.get_mut(&edge) else {
                    continue;
                };
                let frames: Vec<UserChange> = changes
                    .iter()
                    .map(|(n, left)| change(NAMES[*n].0, NAMES[*n].1, *left))
                    .collect();
                for (n, left) in changes {
                    match left {
                        true => said.users.remove(&n),
                        false => said.users.insert(n),
                    };
                }
                if complete_by > 0 {
                    said.complete_by = complete_by;
                }
                report(
                    &mut world,
                    said.link,
                    &format!("e{edge}"),
                    &frames,
                    complete_by,
                );
            }
            Op::Tick(ms) => {
                world.tick(ms);
                edges.retain(|_, said| said.lease_until > world.now_ms);
                let renew = OwnerFrame::Renew(gb6_core_wire::mesh::Renew { sequence: 1 });
                world.frame(asker, renew);
            }
            Op::Restart => {
                edges.clear();
                here.clear();
                world.others.clear();
                world.start();
                asker = world.attach(1_000);
            }
        }
        for (n, (instance, user)) in NAMES.iter().enumerate() {
            for revision in [1, 2] {
                let answer = ask(&mut world, asker, instance, user, revision);
                let has = edges.iter().filter(|(_, said)| said.users.contains(&n));
                let has: BTreeSet<String> = has.map(|(edge, _)| format!("e{edge}")).collect();
                assert_eq!(answer.edges.iter().cloned().collect::<BTreeSet<_>>(), has);
                let told = edges.iter().filter(|(_, s)| s.complete_by == revision);
                let told: Vec<String> = told.map(|(edge, _)| format!("e{edge}")).collect();
                assert_eq!(answer.reported as usize, told.len());
                let sum = edges_sum(told.iter().map(String::as_str));
                assert_eq!(answer.reported_sum, sum);
            }
        }
        world.drain();
        for told in world.others.drain(..) {
            if let Output::UserHere {
                instance,
                user,
                here: is,
                ..
            } = told
            {
                let changed = match is {
                    true => here.insert((instance, user)),
                    false => here.remove(&(instance, user)),
                };
                assert!(changed, "it was told before");
            }
        }
        let kept = edges.values().flat_map(|said| &said.users);
        let kept = kept
            .map(|n| NAMES[*n])
            .filter(|name| keeps && name.0 == "demo");
        let kept: BTreeSet<_> = kept.map(|(i, u)| (i.to_owned(), u.to_owned())).collect();
        assert_eq!(here, kept);
        let pairs: usize = edges.values().map(|said| said.users.len()).sum();
        assert_eq!(world.shard.gauges().users, pairs);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn the_owner_knows_what_edges_have_said(ops in proptest::collection::vec(op(), 1..60)) {
        run(ops);
    }
}

#[test]
fn an_edge_with_more_users_than_fit_counts_as_one_that_has_told_nothing() {
    let mut world = World::new(rules());
    let config = ShardConfig {
        users_max: 3,
        ..world.shard.config().clone()
    };
    world.shard = Shard::new(config, world.snapshot.clone());
    world.shard.serve(world.now_ms, 1, 101, 1);
    let (a, b) = (world.attach(10), world.attach(11));
    report(&mut world, a, "a", &[change("demo", "u1", false)], 1);
    let many: Vec<UserChange> = (0..5)
        .map(|n| change("demo", &format!("u{n}"), false))
        .collect();
    report(&mut world, b, "b", &many, 1);
    let answer = ask(&mut world, a, "demo", "u1", 1);
    assert_eq!(answer.edges, ["a"]);
    assert_eq!(
        (answer.reported, answer.reported_sum),
        (1, edges_sum(["a"]))
    );
    // Not even if it says so again, until it attaches anew.
    report(&mut world, b, "b", &[], 1);
    assert_eq!(ask(&mut world, a, "demo", "u1", 1).reported, 1);
    assert_eq!(
        world.shard.gauges().users,
        1,
        "it takes no room from others"
    );
    world.shard.link_closed(b);
    let b = world.attach(11);
    report(&mut world, b, "b", &many[..2], 1);
    let answer = ask(&mut world, a, "demo", "u1", 1);
    assert_eq!((answer.edges.len(), answer.reported), (2, 2));
}

#[test]
fn an_instance_with_many_users_costs_no_other_its_answers() {
    let mut world = World::new(rules());
    let config = ShardConfig {
        users_max: 8,
        ..world.shard.config().clone()
    };
    world.shard = Shard::new(config, world.snapshot.clone());
    world.shard.serve(world.now_ms, 1, 101, 1);
    let (a, b) = (world.attach(10), world.attach(11));
    let of = |instance: &str, count: u64| -> Vec<UserChange> {
        let users = (0..count).map(|n| change(instance, &format!("u{n}"), false));
        users.collect()
    };
    report(&mut world, a, "a", &of("demo", 6), 1);
    // Who is known is not one more.
    report(&mut world, a, "a", &of("demo", 6), 1);
    assert_eq!(ask(&mut world, a, "demo", "u0", 1).edges, ["a"]);
    report(&mut world, b, "b", &of("other", 1), 1);
    report(&mut world, b, "b", &of("demo", 1), 1);
    report(&mut world, b, "b", &of("other", 2), 1);
    let answer = ask(&mut world, a, "demo", "u0", 1);
    assert_eq!((answer.edges, answer.reported), (vec!["a".to_owned()], 1));
    let answer = ask(&mut world, a, "other", "u1", 1);
    assert_eq!((answer.edges, answer.reported), (vec!["b".to_owned()], 2));
    // One that has more than its part, with others: only its own users of that edge are forgotten.
    report(&mut world, a, "a", &of("demo", 7), 1);
    report(&mut world, a, "a", &of("other", 1), 1);
    let answer = ask(&mut world, b, "other", "u0", 1);
    assert_eq!((answer.edges.len(), answer.reported), (2, 2));
    let answer = ask(&mut world, b, "demo", "u0", 1);
    assert_eq!((answer.edges.len(), answer.reported), (0, 0));
    assert_eq!(world.shard.gauges().users, 3);
}

#[test]
fn a_user_without_a_name_ends_the_link() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    report(&mut world, link, "a", &[change("demo", "", false)], 1);
    let refused = world
        .take_sent(link)
        .into_iter()
        .any(|f| matches!(f, EdgeFrame::Refused(r) if r.reason() == RefusedReason::Violation));
    assert!(refused);
    let other = world.attach(11);
    assert_eq!(ask(&mut world, other, "demo", "", 1).reported, 0);
}
