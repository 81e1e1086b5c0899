//! Random transactions on a directory and on a plain model of it.

use super::journal::drain;
use super::{NOW, TIME, actor, binding, instance, key, membership, org, org_id, person};
use crate::contract::Random;
use crate::directory::{Actor, Change, Directory, Kind, Node, OutboxCursor, Ref, Role};

/// Random transactions on a directory and on a plain model, both without customers: they answer alike,
/// and keep the same.
pub fn behaves_like_the_model(
    directory: &dyn Directory,
    model: &dyn Directory,
    seed: u64,
    steps: usize,
) {
    let mut random = Random::new(seed);
    // Numbers that the contract's other tests do not use.
    const BASE: u64 = 1 << 40;
    let roots = [BASE, BASE + 100];
    for root in roots {
        for one in [directory, model] {
            let begin = [Change::Create(org(root, None, "root"))];
            one.apply(&org_id(root), &actor(), &begin).expect("a root");
        }
    }
    for step in 0..steps {
        let root = roots[random.below(2) as usize];
        let count = 1 + random.below(3);
        let changes: Vec<Change> = (0..count).map(|_| change(&mut random, root)).collect();
        let by = Actor {
            at_ms: TIME + step as u64,
            ..actor()
        };
        let got = directory.apply(&org_id(root), &by, &changes);
        let expected = model.apply(&org_id(root), &by, &changes);
        match (&got, &expected) {
            (Err(got), Err(expected)) => assert_eq!(
                got.code(),
                expected.code(),
                "seed {seed} step {step}: {changes:?}: {got} instead of {expected}"
            ),
            _ => assert_eq!(got, expected, "seed {seed} step {step}: {changes:?}"),
        }
    }
    for root in roots.map(org_id) {
        for kind in Kind::ALL.iter().copied() {
            let all = |one: &dyn Directory| one.list(&root, kind, None, "", 1_000, NOW);
            assert_eq!(all(directory), all(model), "seed {seed}: {kind}");
        }
        for n in 0..8 {
            let org = org_id(BASE + n);
            let path = |one: &dyn Directory| one.path(&root, &org, NOW).ok();
            assert_eq!(path(directory), path(model), "seed {seed}: {org}");
            let audit = |one: &dyn Directory| one.audit(&root, &org, 0, 1_000, NOW);
            assert_eq!(audit(directory), audit(model), "seed {seed}: {org}");
        }
    }
    let told = |one: &dyn Directory, root: u64| -> Vec<(Ref, Option<u64>)> {
        let (entries, _) = drain(one, OutboxCursor::new());
        let of_root = entries.into_iter().filter(|e| e.root == org_id(root));
        of_root.map(|e| (e.what, e.version)).collect()
    };
    for root in roots {
        assert_eq!(told(directory, root), told(model, root), "seed {seed}");
    }
}

/// A change of few records, so that they often meet.
fn change(random: &mut Random, root: u64) -> Change {
    const BASE: u64 = 1 << 40;
    let mut pick = |n: u64| random.below(n);
    let name = ["m-a", "m-b", "m-c"][pick(3) as usize];
    let record = match pick(6) {
        0 => {
            let id = BASE + pick(8);
            let parent = (id != root).then(|| match pick(4) {
                0 => root,
                _ => BASE + pick(8),
            });
            org(id, parent, ["x", "y", "z"][pick(3) as usize])
        }
        1 => instance(name, root + pick(2)),
        2 => key(name, ["k1", "k2"][pick(2) as usize]),
        3 => person(pick(3), root + pick(2), ["p", "q"][pick(2) as usize]),
        4 => membership(name, pick(3)),
        _ => {
            let node = match pick(2) {
                0 => Node::Organization(org_id(root + pick(3))),
                _ => Node::Instance(name.into()),
            };
            let role = [Role::Owner, Role::Member][pick(2) as usize];
            binding(pick(4), node, pick(3), role)
        }
    };
    let version = 1 + pick(3);
    match pick(10) {
        0..=4 => Change::Create(record),
        5..=7 => Change::Update(record, version),
        8 => Change::Delete(record.reference(), version),
        _ => Change::Audit {
            org: org_id(root + pick(3)),
            action: "note".into(),
            target: String::new(),
        },
    }
}
