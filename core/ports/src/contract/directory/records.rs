//! Records and the transactions that change them.

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::KeyAlgorithm;

use super::{
    LATER, NOW, actor, apply, binding, binding_id, code, customer, customer_records, get, instance,
    key, list, membership, org, org_id, person,
};
use crate::directory::{
    Actor, Change, DEPTH_MAX, Directory, DirectoryError, Key, KeyPurpose, Kind, Node, Record, Ref,
    Role, Secret, State, Stored,
};

pub(super) fn records_are_as_they_were_written(directory: &dyn Directory) {
    customer(directory, 100);
    for record in customer_records(100) {
        let what = record.reference();
        for fresh in [NOW, LATER] {
            let got = directory.get(&org_id(100), &what, fresh);
            let stored = Stored {
                version: 1,
                record: record.clone(),
            };
            assert_eq!(got.expect("a record"), stored);
        }
        let listed = list(directory, 100, what.kind, record.owner());
        assert!(listed.contains(&record), "{what}: {listed:?}");
    }
    assert_eq!(list(directory, 100, Kind::Organization, None).len(), 2);
    assert_eq!(list(directory, 100, Kind::Key, Some("acme")), []);
    let instance = InstanceId::from("acme-100");
    assert_eq!(directory.root_of(&instance).expect("a root"), org_id(100));
    assert_eq!(code(directory.root_of(&"acme-x".into())), "not_found");
    let path = directory.path(&org_id(100), &org_id(101), NOW);
    assert_eq!(path.expect("a path"), [org_id(100), org_id(101)]);
    assert!(
        directory
            .roots("", 1_000)
            .expect("roots")
            .contains(&org_id(100))
    );
    // A public key instead of a secret, and every other column at its other value.
    let mut changed = customer_records(100);
    for record in &mut changed {
        match record {
            Record::Organization(o) => {
                (o.name, o.state) = ("'; --".into(), State::Suspended);
                o.settings = format!("{{\"long\": \"{}\"}}", "x".repeat(60_000));
            }
            Record::Instance(i) => {
                (i.region, i.residency) = ("us-2".into(), "us".into());
                (i.state, i.settings) = (State::Suspended, "{\"b\":2}".into());
            }
            Record::Key(k) => {
                (k.purpose, k.algorithm) = (KeyPurpose::Livekit, KeyAlgorithm::EdDSA);
                (k.public_key, k.secret) = (Some("-----BEGIN".into()), None);
                k.state = State::Suspended;
            }
            Record::Person(p) => {
                (p.subject, p.name) = ("bob".into(), "Bob".into());
                p.state = State::Suspended;
            }
            Record::Membership(m) => m.state = State::Suspended,
            Record::RoleBinding(b) => b.role = Role::Guest,
        }
    }
    let updates: Vec<Change> = changed
        .iter()
        .map(|r| Change::Update(r.clone(), 1))
        .collect();
    let versions = directory.apply(&org_id(100), &actor(), &updates);
    assert_eq!(versions.expect("updates"), vec![2; updates.len()]);
    for record in changed {
        let got = get(directory, 100, &record.reference()).expect("a record");
        assert_eq!((got.version, got.record), (2, record));
    }
}

pub(super) fn versions_are_optimistic(directory: &dyn Directory) {
    customer(directory, 200);
    let sales = org(201, Some(200), "sales");
    let what = sales.reference();
    let update = |version| apply(directory, 200, Change::Update(sales.clone(), version));
    assert_eq!(update(1).expect("an update"), 2);
    for version in [1, 3, 0, u64::MAX] {
        let found = update(version);
        let expected = DirectoryError::Conflict {
            what: what.to_string(),
            version: 2,
        };
        assert_eq!(found, Err(expected));
    }
    let delete = |what: Ref, version| apply(directory, 200, Change::Delete(what, version));
    let role = Ref::new(Kind::RoleBinding, binding_id(200).as_str());
    assert_eq!(code(delete(role.clone(), 2)), "conflict");
    assert_eq!(delete(role.clone(), 1).expect("a delete"), 0);
    assert_eq!(code(delete(role.clone(), 1)), "not_found");
    assert_eq!(code(get(directory, 200, &role)), "not_found");
    let missing = org(299, Some(200), "x");
    assert_eq!(
        code(apply(directory, 200, Change::Update(missing, 1))),
        "not_found"
    );
    assert_eq!(
        code(apply(directory, 200, Change::Create(sales))),
        "already_exists"
    );
}

pub(super) fn a_transaction_is_whole_or_nothing(directory: &dyn Directory) {
    customer(directory, 300);
    let changes = [
        Change::Create(org(302, Some(300), "two")),
        // Within a transaction the changes before are seen.
        Change::Create(org(303, Some(302), "three")),
        Change::Create(person(301, 303, "eve")),
        Change::Create(membership("acme-300", 399)),
    ];
    let (root, by) = (org_id(300), actor());
    let before = directory.audit(&root, &root, 0, 1_000, NOW);
    assert_eq!(code(directory.apply(&root, &by, &changes)), "not_found");
    for n in [302, 303] {
        let what = Ref::new(Kind::Organization, org_id(n).as_str());
        assert_eq!(code(get(directory, 300, &what)), "not_found");
    }
    let after = directory.audit(&root, &root, 0, 1_000, NOW);
    assert_eq!(after, before, "what was not done is not in the audit");
    assert_eq!(
        directory
            .apply(&root, &by, &changes[..3])
            .expect("a transaction"),
        [1, 1, 1]
    );
    let path = directory.path(&root, &org_id(303), NOW);
    assert_eq!(
        path.expect("a path"),
        [org_id(300), org_id(302), org_id(303)]
    );
}

pub(super) fn the_tree_stays_a_tree(directory: &dyn Directory) {
    customer(directory, 400);
    let levels = DEPTH_MAX as u64;
    // 400 is level 1, 402 level 2, … 410 level 10.
    for n in 2..=levels {
        let parent = if n == 2 { 400 } else { 400 + n - 1 };
        apply(
            directory,
            400,
            Change::Create(org(400 + n, Some(parent), "down")),
        )
        .expect("a level");
    }
    let too_deep = Change::Create(org(411, Some(410), "down"));
    assert_eq!(code(apply(directory, 400, too_deep)), "invalid");
    let below_itself = Change::Update(org(403, Some(406), "down"), 1);
    assert_eq!(code(apply(directory, 400, below_itself)), "invalid");
    // Level 2 with 9 levels below one at level 2: too deep by one.
    let deeper = Change::Update(org(402, Some(401), "down"), 1);
    assert_eq!(code(apply(directory, 400, deeper)), "invalid");
    let path_of = |n| {
        directory
            .path(&org_id(400), &org_id(n), NOW)
            .expect("a path")
    };
    assert_eq!(path_of(410).len(), DEPTH_MAX);
    // A move takes along what is below.
    apply(
        directory,
        400,
        Change::Update(org(405, Some(401), "moved"), 1),
    )
    .expect("a move");
    assert_eq!(path_of(406), [400, 401, 405, 406].map(org_id));
    assert_eq!(path_of(410).len(), 8);
    assert_eq!(path_of(404).len(), 4);
    let unknown = Change::Update(org(405, Some(499), "moved"), 2);
    assert_eq!(code(apply(directory, 400, unknown)), "not_found");
    let below_itself = Change::Update(org(405, Some(410), "moved"), 2);
    assert_eq!(code(apply(directory, 400, below_itself)), "invalid");
}

pub(super) fn what_is_in_use_stays(directory: &dyn Directory) {
    let root = customer(directory, 500);
    let delete = |what: &Ref| apply(directory, 500, Change::Delete(what.clone(), 1));
    let all: Vec<Ref> = customer_records(500)
        .iter()
        .map(Record::reference)
        .collect();
    for what in &all[..3] {
        assert_eq!(code(delete(what)), "invalid", "{what}");
    }
    assert_eq!(
        code(delete(&all[4])),
        "invalid",
        "a person with a membership"
    );
    for what in all[1..].iter().rev() {
        assert_eq!(delete(what).expect("a delete"), 0, "{what}");
    }
    assert_eq!(code(delete(&all[0])), "invalid", "the root stays");
    assert_eq!(directory.path(&root, &root, NOW).expect("a path"), [root]);
}

pub(super) fn names_are_taken_once(directory: &dyn Directory) {
    customer(directory, 600);
    let taken = [
        org(602, Some(600), "sales"),
        person(602, 600, "ada@example.org"),
        binding(603, Node::Organization(org_id(600)), 600, Role::Owner),
        membership("acme-600", 600),
        key("acme-600", "acme-600.k1"),
        instance("acme-600", 600),
    ];
    for record in taken {
        let what = record.reference();
        assert_eq!(
            code(apply(directory, 600, Change::Create(record))),
            "already_exists",
            "{what}"
        );
    }
    let elsewhere = [
        org(602, Some(601), "sales"),
        person(602, 601, "ada@example.org"),
        binding(603, Node::Organization(org_id(601)), 600, Role::Owner),
        binding(604, Node::Organization(org_id(600)), 600, Role::Admin),
    ];
    for record in elsewhere {
        apply(directory, 600, Change::Create(record)).expect("another place");
    }
    let into = Change::Update(org(602, Some(600), "sales"), 1);
    assert_eq!(code(apply(directory, 600, into)), "already_exists");
    // An instance's name is taken among all customers, even when it is gone.
    customer(directory, 610);
    let other = Change::Create(instance("acme-600", 610));
    let error = apply(directory, 610, other.clone()).expect_err("a refusal");
    assert_eq!(error.code(), "already_exists");
    assert!(!error.to_string().contains(org_id(600).as_str()), "{error}");
    for kind in [Kind::Key, Kind::Membership, Kind::RoleBinding] {
        for record in list(directory, 600, kind, Some("acme-600")) {
            let delete = Change::Delete(record.reference(), 1);
            apply(directory, 600, delete).expect("a delete");
        }
    }
    let gone = Change::Delete(Ref::new(Kind::Instance, "acme-600"), 1);
    apply(directory, 600, gone).expect("a delete");
    assert_eq!(code(apply(directory, 610, other)), "already_exists");
    let again = Change::Create(instance("acme-600", 601));
    apply(directory, 600, again).expect("its own again");
}

pub(super) fn bad_changes_are_refused(directory: &dyn Directory) {
    let root = customer(directory, 1_200);
    let mut bad = vec![
        org(1_202, Some(1_200), "Not A Slug"),
        org(1_202, None, "second-root"),
        instance("Acme", 1_200),
        key("acme-1200", ""),
        key("acme-1200", "a/b"),
        person(1_202, 1_200, ""),
        person(1_202, 1_200, "a\nb"),
        person(1_202, 1_200, "a\0b"),
        person(1_202, 1_200, &"x".repeat(300)),
    ];
    let with = |change: fn(&mut Key)| {
        let Record::Key(mut k) = key("acme-1200", "k") else {
            unreachable!("a key");
        };
        change(&mut k);
        Record::Key(k)
    };
    bad.push(with(|k| k.secret = None));
    bad.push(with(|k| k.public_key = Some("x".into())));
    bad.push(with(|k| k.secret = Some(Secret(vec![1; 20_000]))));
    bad.push(with(|k| {
        (k.secret, k.public_key) = (None, Some("\0".into()))
    }));
    for record in bad {
        let change = Change::Create(record.clone());
        assert_eq!(
            code(apply(directory, 1_200, change)),
            "invalid",
            "{record:?}"
        );
    }
    let moved = [
        instance("acme-1200", 1_200),
        person(1_200, 1_201, "ada@example.org"),
        binding(1_200, Node::Organization(org_id(1_201)), 1_200, Role::Owner),
    ];
    for record in moved {
        let change = Change::Update(record.clone(), 1);
        assert_eq!(
            code(apply(directory, 1_200, change)),
            "invalid",
            "{record:?}"
        );
    }
    let change = [Change::Create(person(1_203, 1_200, "p"))];
    let by = actor();
    let unfit = [
        Actor {
            name: String::new(),
            ..by.clone()
        },
        Actor {
            at_ms: 5,
            ..by.clone()
        },
        Actor {
            detail: "x".repeat(9_000),
            ..by.clone()
        },
        Actor {
            name: "x".repeat(300),
            ..by.clone()
        },
    ];
    for by in unfit {
        assert_eq!(code(directory.apply(&root, &by, &change)), "invalid");
    }
    assert_eq!(code(directory.apply(&root, &by, &[])), "invalid");
    let many = vec![change[0].clone(); crate::directory::CHANGES_MAX + 1];
    assert_eq!(code(directory.apply(&root, &by, &many)), "invalid");
    assert_eq!(list(directory, 1_200, Kind::Person, None).len(), 1);
}
