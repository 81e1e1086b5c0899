//! Customers beside each other, pages, and many who change one record.

use std::sync::Mutex;

use super::{
    LATER, NOW, actor, apply, binding, code, create, customer, customer_records, get, key,
    membership, org, org_id, person, person_id,
};
use crate::directory::{
    AUDIT_GENESIS, Change, Directory, DirectoryError, Kind, Node, Record, Ref, Role, verify,
};

pub(super) fn customers_never_see_each_other(directory: &dyn Directory) {
    let (one, other) = (customer(directory, 700), customer(directory, 750));
    for record in customer_records(750) {
        let what = record.reference();
        assert_eq!(code(directory.get(&one, &what, NOW)), "not_found");
        assert_eq!(code(directory.get(&one, &what, LATER)), "not_found");
        let owner = Some(record.owner().unwrap_or(other.as_str()));
        let owned = directory.list(&one, what.kind, owner, "", 10, NOW);
        assert_eq!(owned.expect("a list"), [], "{what}");
        let all = directory
            .list(&one, what.kind, None, "", 10, NOW)
            .expect("a list");
        assert!(all.iter().all(|s| s.record.reference() != what));
        let update = Change::Update(record.clone(), 1);
        if what.id != other.as_str() {
            assert_eq!(code(apply(directory, 700, update)), "not_found", "{what}");
            let delete = Change::Delete(what.clone(), 1);
            assert_eq!(code(apply(directory, 700, delete)), "not_found", "{what}");
        }
        assert_eq!(get(directory, 750, &what).expect("untouched").version, 1);
    }
    // Nothing is hung on what is another's.
    for record in [
        org(702, Some(750), "x"),
        person(702, 750, "x"),
        key("acme-750", "x"),
        membership("acme-750", 700),
        membership("acme-700", 750),
        binding(703, Node::Instance("acme-750".into()), 700, Role::Owner),
        binding(703, Node::Organization(org_id(700)), 750, Role::Owner),
    ] {
        let what = record.reference();
        assert_eq!(
            code(apply(directory, 700, Change::Create(record))),
            "not_found",
            "{what}"
        );
    }
    assert_eq!(code(directory.path(&one, &other, NOW)), "not_found");
    assert_eq!(directory.audit(&one, &other, 0, 10, NOW), Ok(vec![]));
    assert_eq!(directory.audit_head(&one, &other, NOW), Ok(None));
    // Ids are one's own: the same ones may be another's too.
    apply(directory, 700, Change::Create(person(750, 700, "x"))).expect("the same id");
    assert_eq!(
        get(
            directory,
            750,
            &Ref::new(Kind::Person, person_id(750).as_str())
        )
        .map(|s| s.record),
        Ok(person(750, 750, "ada@example.org"))
    );
    // A customer that is not there has nothing.
    let nobody = org_id(799);
    let none = directory.list(&nobody, Kind::Person, None, "", 10, NOW);
    assert_eq!(none.expect("nothing"), []);
    let what = Ref::new(Kind::Organization, nobody.as_str());
    assert_eq!(code(directory.get(&nobody, &what, NOW)), "not_found");
    let change = Change::Create(org(798, Some(799), "x"));
    assert_eq!(code(apply(directory, 799, change)), "not_found");
}

pub(super) fn pages_follow_each_other(directory: &dyn Directory) {
    let root = customer(directory, 800);
    let people: Vec<Record> = (801..808)
        .map(|n| person(n, 800, &format!("p{n}")))
        .collect();
    let changes = create(people.clone());
    directory.apply(&root, &actor(), &changes).expect("people");
    let mut after = String::new();
    let mut seen = Vec::new();
    for limit in [3, 3, 3] {
        let page = directory.list(&root, Kind::Person, None, &after, limit, NOW);
        seen.extend(page.expect("a page").into_iter().map(|s| s.record));
        after = seen.last().expect("one").reference().id;
    }
    let ids = |records: &[Record]| records.iter().map(|r| r.reference().id).collect::<Vec<_>>();
    assert!(seen.is_sorted_by_key(|r| r.reference().id));
    assert_eq!(ids(&seen[1..]), ids(&people));
}

pub(super) fn one_of_many_updates_wins(directory: &dyn Directory) {
    let root = customer(directory, 1_300);
    let made = Mutex::new(Vec::new());
    std::thread::scope(|s| {
        for n in 0..4 {
            let (root, made) = (&root, &made);
            s.spawn(move || {
                for version in 1..=8 {
                    let name = format!("by-{n}-{version}");
                    let change = Change::Update(org(1_301, Some(1_300), &name), version);
                    match directory.apply(root, &actor(), &[change]) {
                        Ok(versions) => made.lock().expect("no panic").extend(versions),
                        Err(DirectoryError::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let mut made = made.into_inner().expect("no panic");
    made.sort_unstable();
    let what = Ref::new(Kind::Organization, org_id(1_301).as_str());
    let version = get(directory, 1_300, &what).expect("a record").version;
    let each_once: Vec<u64> = (2..=version).collect();
    assert_eq!(made, each_once, "a version that two were told");
    let sales = org_id(1_301);
    let entries = directory
        .audit(&root, &sales, 0, 1_000, NOW)
        .expect("an audit");
    verify((0, AUDIT_GENESIS), &entries).expect("a chain");
    let updates = entries.iter().filter(|e| e.action == "organization.update");
    assert_eq!(updates.count() as u64, version - 1);
}
