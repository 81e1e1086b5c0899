//! What only grows: the outbox, the audit and the usage.

use gb6_core_model::{InstanceId, ShardId};

use super::{
    LATER, NOW, TIME, actor, apply, binding_id, code, customer, customer_records, org, org_id,
    person_id,
};
use crate::directory::{
    AUDIT_GENESIS, Actor, CHANGES_MAX, Change, Directory, Kind, OrgId, OutboxCursor, OutboxEntry,
    PAGE_MAX, Ref, Usage, UsageSum, verify,
};

/// Everything that is in the outbox behind a cursor.
pub(super) fn drain(
    directory: &dyn Directory,
    mut after: OutboxCursor,
) -> (Vec<OutboxEntry>, OutboxCursor) {
    let mut all = Vec::new();
    loop {
        let (entries, next) = directory.outbox(&after, 7).expect("an outbox");
        if entries.is_empty() {
            return (all, next);
        }
        assert!(entries.len() <= 7 * next.len().max(1));
        all.extend(entries);
        after = next;
    }
}

/// Answers where the outbox ends.
pub(super) fn the_outbox_has_every_change(directory: &dyn Directory) -> OutboxCursor {
    let (_, begin) = drain(directory, OutboxCursor::new());
    customer(directory, 900);
    let person = Ref::new(Kind::Person, person_id(901).as_str());
    let changes = [
        Change::Create(super::person(901, 900, "eve")),
        Change::Audit {
            org: org_id(900),
            action: "session.revoke".into(),
            target: "eve".into(),
        },
        Change::Update(super::person(901, 900, "mallory"), 1),
        Change::Delete(person.clone(), 2),
    ];
    let made = directory.apply(&org_id(900), &actor(), &changes);
    assert_eq!(made.expect("changes"), [1, 0, 2, 0]);
    // What fails is not told.
    let fails = Change::Delete(person.clone(), 1);
    assert_eq!(code(apply(directory, 900, fails)), "not_found");
    let (entries, end) = drain(directory, begin.clone());
    let mut told: Vec<(Ref, Option<u64>)> = customer_records(900)
        .iter()
        .map(|r| (r.reference(), Some(1)))
        .collect();
    told.extend([Some(1), Some(2), None].map(|version| (person.clone(), version)));
    let got: Vec<(Ref, Option<u64>)> = entries
        .iter()
        .map(|e| (e.what.clone(), e.version))
        .collect();
    assert_eq!(got, told);
    assert!(entries.iter().all(|e| e.root == org_id(900)));
    let numbers: Vec<u64> = entries.iter().map(|e| e.number).collect();
    assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
    assert_eq!(directory.outbox(&end, 10).expect("nothing").0, []);
    // Each database by itself tells the same.
    let of_each = directory.databases().into_iter().flat_map(|database| {
        let after = begin.get(&database).copied().unwrap_or(0);
        let told = directory.outbox_of(&database, after, 100);
        told.expect("the outbox of a database")
    });
    assert_eq!(of_each.collect::<Vec<_>>(), entries);
    assert_eq!(code(directory.outbox_of("nowhere", 0, 1)), "not_found");

    assert!(directory.trim_outbox(&end).expect("a trim"));
    assert_eq!(code(directory.outbox(&OutboxCursor::new(), 10)), "trimmed");
    assert_eq!(directory.outbox(&end, 10).expect("nothing").0, []);
    customer(directory, 950);
    let (entries, end) = drain(directory, end);
    assert_eq!(entries.len(), customer_records(950).len());
    end
}

/// More than an engine deletes at once.
pub(super) fn much_is_trimmed(directory: &dyn Directory, begin: OutboxCursor) {
    const CALLS: u64 = 10;
    let root = customer(directory, 970);
    let (made, before) = drain(directory, begin);
    let database = &made.last().expect("a new customer").shard;
    let each = CHANGES_MAX as u64;
    for call in 0..CALLS {
        let update = |n| Change::Update(org(970, None, "acme"), 1 + call * each + n);
        let changes: Vec<Change> = (0..each).map(update).collect();
        directory.apply(&root, &actor(), &changes).expect("changes");
    }
    let mut upto = before.clone();
    let last = upto.entry(database.clone()).or_default();
    *last += CALLS * each - 3;
    let last = *last;
    assert!(directory.trim_outbox(&upto).expect("a trim"));
    let numbers = |after| -> Result<Vec<u64>, _> {
        let entries = directory.outbox_of(database, after, PAGE_MAX)?;
        Ok(entries.iter().map(|entry| entry.number).collect())
    };
    assert_eq!(numbers(last), Ok(vec![last + 1, last + 2, last + 3]));
    assert_eq!(code(numbers(last - 1)), "trimmed");
    // What was trimmed stays so, and an end that is not there yet takes nothing of what comes.
    assert!(directory.trim_outbox(&before).expect("a trim"));
    assert_eq!(numbers(last).map(|left| left.len()), Ok(3));
    upto.insert(database.clone(), last + 1_000);
    assert!(directory.trim_outbox(&upto).expect("a trim"));
    assert_eq!(code(numbers(last)), "trimmed");
    apply(
        directory,
        970,
        Change::Update(org(970, None, "acme"), 1 + CALLS * each),
    )
    .expect("a change");
    assert_eq!(numbers(last + 3), Ok(vec![last + 4]));
}

pub(super) fn the_audit_is_a_chain(directory: &dyn Directory) {
    let root = customer(directory, 1_000);
    let changes = [
        Change::Update(org(1_001, Some(1_000), "renamed"), 1),
        Change::Audit {
            org: org_id(1_001),
            action: "login.failed".into(),
            target: "ada".into(),
        },
        Change::Delete(Ref::new(Kind::Key, "acme-1000/acme-1000.k1"), 1),
    ];
    directory.apply(&root, &actor(), &changes).expect("changes");
    let sales = org_id(1_001);
    let entries = directory
        .audit(&root, &sales, 0, 1_000, NOW)
        .expect("an audit");
    let got: Vec<(&str, &str, u64)> = entries
        .iter()
        .map(|e| (e.action.as_str(), e.target.as_str(), e.version))
        .collect();
    let role = format!("role_binding {}", binding_id(1_001));
    let member = format!("membership acme-1000/{}", person_id(1_000));
    let itself = format!("organization {sales}");
    assert_eq!(
        got,
        [
            ("organization.create", itself.as_str(), 1),
            ("instance.create", "instance acme-1000", 1),
            ("key.create", "key acme-1000/acme-1000.k1", 1),
            ("membership.create", member.as_str(), 1),
            ("role_binding.create", role.as_str(), 1),
            ("organization.update", itself.as_str(), 2),
            ("login.failed", "ada", 0),
            ("key.delete", "key acme-1000/acme-1000.k1", 0),
        ]
    );
    let by = actor();
    assert!(
        entries
            .iter()
            .all(|e| e.actor == by.name && e.at_ms == by.at_ms)
    );
    assert!(
        entries
            .iter()
            .all(|e| e.detail == by.detail && e.org == sales)
    );
    let end = verify((0, AUDIT_GENESIS), &entries).expect("a chain");
    let head = |of: &OrgId| directory.audit_head(&root, of, NOW).expect("a head");
    assert_eq!(head(&sales), Some(end));
    assert_eq!(head(&org_id(1_099)), None);
    // Later entries, at another time, go on from there.
    let later = Actor {
        at_ms: TIME + 40 * 86_400_000,
        ..by
    };
    let change = Change::Update(org(1_001, Some(1_000), "again"), 2);
    directory.apply(&root, &later, &[change]).expect("a change");
    let more = directory
        .audit(&root, &sales, end.0, 10, LATER)
        .expect("an audit");
    let more = match more.is_empty() {
        // A replica may be behind.
        true => directory
            .audit(&root, &sales, end.0, 10, NOW)
            .expect("an audit"),
        false => more,
    };
    assert_eq!(more.len(), 1);
    assert_eq!(verify(end, &more).expect("a chain").0, 9);
    assert_eq!(head(&sales).map(|(number, _)| number), Some(9));
    let page = directory.audit(&root, &sales, 2, 3, NOW).expect("a page");
    assert_eq!(page, entries[2..5]);
    // The root's chain is another one.
    let others = directory.audit(&root, &root, 0, 10, NOW).expect("an audit");
    assert_eq!(others.len(), 3);
    verify((0, AUDIT_GENESIS), &others).expect("a chain");
}

fn fact(position: u64, dimension: &str, at_ms: u64, amount: u64) -> Usage {
    Usage {
        region: "eu-1".into(),
        shard: ShardId(3),
        epoch: 7,
        position,
        dimension: dimension.into(),
        instance: "acme-1100".into(),
        at_ms,
        amount,
    }
}

pub(super) fn usage_is_counted_once(directory: &dyn Directory) {
    let root = customer(directory, 1_100);
    let month = 40 * 86_400_000;
    let facts = [
        fact(1, "messages", TIME, 5),
        fact(1, "bytes", TIME, 1 << 53),
        fact(2, "messages", TIME + 1, 7),
        fact(9, "messages", TIME + month, 11),
        fact(2, "messages", TIME + 1, 7),
    ];
    let keep = |facts: &[Usage]| directory.record_usage(&root, facts).expect("usage");
    assert_eq!(keep(&facts), 4);
    assert_eq!(keep(&facts), 0, "again");
    assert_eq!(keep(&[]), 0);
    let mut another = fact(1, "messages", TIME, 5);
    another.epoch = 8;
    assert_eq!(keep(&[another.clone()]), 1);
    another.region = "us-1".into();
    another.instance = "other".into();
    assert_eq!(keep(&[another]), 1);
    let sum = |dimension, range| {
        let instance = InstanceId::from("acme-1100");
        let sum = directory.usage(&root, &instance, dimension, range, NOW);
        let sum = sum.expect("a sum");
        (sum.amount, sum.facts)
    };
    assert_eq!(sum("messages", 0..u64::MAX), (28, 4));
    assert_eq!(sum("messages", TIME..TIME + 1), (10, 2));
    assert_eq!(sum("messages", TIME + 1..TIME + month), (7, 1));
    assert_eq!(sum("bytes", TIME..TIME + 1), (1 << 53, 1));
    assert_eq!(sum("none", 0..u64::MAX), (0, 0));
    let other = customer(directory, 1_150);
    let of_other = directory.usage(&other, &"acme-1100".into(), "messages", 0..u64::MAX, NOW);
    assert_eq!(of_other, Ok(UsageSum::default()));
    let nobody = directory.record_usage(&org_id(1_199), &facts);
    assert_eq!(code(nobody), "not_found");
    let bad = [
        fact(1, "messages", 0, 1),
        fact(1, "messages", TIME, (1 << 53) + 1),
        fact(1, &"x".repeat(300), TIME, 1),
        fact(u64::MAX, "messages", TIME, 1),
    ];
    for fact in bad {
        assert_eq!(code(directory.record_usage(&root, &[fact])), "invalid");
    }
    let many = vec![facts[0].clone(); crate::directory::USAGE_MAX + 1];
    assert_eq!(code(directory.record_usage(&root, &many)), "invalid");
}
