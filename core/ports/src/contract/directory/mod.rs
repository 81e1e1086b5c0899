//! The contract of `Directory`: transactions that are whole or nothing, records that nobody else changes
//! unseen, an outbox and an audit that miss nothing, and customers that never see each other.

mod apart;
mod journal;
mod model;
mod records;

use std::time::Duration;

use gb6_core_model::snapshot::KeyAlgorithm;

use crate::directory::{
    Actor, BindingId, Change, Directory, DirectoryError, Freshness, Instance, Key, KeyPurpose,
    Kind, Membership, Node, OrgId, OrgKind, Organization, Person, PersonId, Record, Ref, Role,
    RoleBinding, Secret, State, Stored,
};

pub use model::behaves_like_the_model;

const NOW: Freshness = Freshness::Current;
/// A replica may answer, where there is one.
const LATER: Freshness = Freshness::Within(Duration::from_secs(60));
/// 2027-01-15, in ms.
const TIME: u64 = 1_800_000_000_000;

/// Runs the suite on a directory without customers; engines that keep more than one database too.
pub fn all(directory: &dyn Directory) {
    records::records_are_as_they_were_written(directory);
    records::versions_are_optimistic(directory);
    records::a_transaction_is_whole_or_nothing(directory);
    records::the_tree_stays_a_tree(directory);
    records::what_is_in_use_stays(directory);
    records::names_are_taken_once(directory);
    apart::customers_never_see_each_other(directory);
    apart::pages_follow_each_other(directory);
    let end = journal::the_outbox_has_every_change(directory);
    journal::much_is_trimmed(directory, end);
    journal::the_audit_is_a_chain(directory);
    journal::usage_is_counted_once(directory);
    records::bad_changes_are_refused(directory);
    apart::one_of_many_updates_wins(directory);
}

/// A ULID that follows from a number.
fn ulid(n: u64) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    (0..26)
        .rev()
        .map(|i| match i {
            0..=11 => char::from(DIGITS[(n >> (5 * i)) as usize & 31]),
            _ => '0',
        })
        .collect()
}

/// The organization of a number.
pub fn org_id(n: u64) -> OrgId {
    OrgId::parse(&format!("org_{}", ulid(n))).expect("an id")
}

fn person_id(n: u64) -> PersonId {
    PersonId::parse(&format!("usr_{}", ulid(n))).expect("an id")
}

fn binding_id(n: u64) -> BindingId {
    BindingId::parse(&format!("rol_{}", ulid(n))).expect("an id")
}

/// Who changes something in tests.
pub fn actor() -> Actor {
    Actor {
        name: "usr_test".into(),
        at_ms: TIME,
        detail: "{\"request\":\"r1\"}".into(),
    }
}

fn org(id: u64, parent: Option<u64>, slug: &str) -> Record {
    Record::Organization(Organization {
        id: org_id(id),
        parent: parent.map(org_id),
        slug: slug.into(),
        name: format!("Organization “{slug}” 🦀"),
        kind: match parent {
            Some(_) => OrgKind::Unit,
            None => OrgKind::Root,
        },
        state: State::Active,
        settings: "{\"a\": 1}".into(),
    })
}

fn instance(id: &str, of: u64) -> Record {
    Record::Instance(Instance {
        id: id.into(),
        org: org_id(of),
        region: "eu-1".into(),
        residency: String::new(),
        state: State::Active,
        settings: "{}".into(),
    })
}

fn key(instance: &str, id: &str) -> Record {
    Record::Key(Key {
        instance: instance.into(),
        id: id.into(),
        purpose: KeyPurpose::Client,
        algorithm: KeyAlgorithm::HS384,
        public_key: None,
        secret: Some(Secret(vec![0, 1, 255, 39])),
        state: State::Active,
    })
}

fn person(id: u64, of: u64, subject: &str) -> Record {
    Record::Person(Person {
        id: person_id(id),
        org: org_id(of),
        subject: subject.into(),
        name: "Ada".into(),
        state: State::Active,
    })
}

fn membership(instance: &str, person: u64) -> Record {
    Record::Membership(Membership {
        instance: instance.into(),
        person: person_id(person),
        state: State::Active,
    })
}

fn binding(id: u64, node: Node, person: u64, role: Role) -> Record {
    Record::RoleBinding(RoleBinding {
        id: binding_id(id),
        node,
        person: person_id(person),
        role,
    })
}

fn create(records: Vec<Record>) -> Vec<Change> {
    records.into_iter().map(Change::Create).collect()
}

/// Makes a customer with an instance, a key, a person, a membership and roles; they are called by `n`.
pub fn customer(directory: &dyn Directory, n: u64) -> OrgId {
    let changes = create(customer_records(n));
    let versions = directory.apply(&org_id(n), &actor(), &changes);
    assert_eq!(versions.expect("a customer"), vec![1; changes.len()]);
    org_id(n)
}

fn customer_records(n: u64) -> Vec<Record> {
    let name = format!("acme-{n}");
    vec![
        org(n, None, "acme"),
        org(n + 1, Some(n), "sales"),
        instance(&name, n + 1),
        key(&name, &format!("{name}.k1")),
        person(n, n, "ada@example.org"),
        membership(&name, n),
        binding(n, Node::Organization(org_id(n)), n, Role::Owner),
        binding(n + 1, Node::Instance(name.as_str().into()), n, Role::Bot),
    ]
}

fn code<T: std::fmt::Debug>(result: Result<T, DirectoryError>) -> &'static str {
    result.expect_err("a refusal").code()
}

fn apply(directory: &dyn Directory, root: u64, change: Change) -> Result<u64, DirectoryError> {
    let versions = directory.apply(&org_id(root), &actor(), &[change])?;
    assert_eq!(versions.len(), 1);
    Ok(versions[0])
}

fn get(directory: &dyn Directory, root: u64, what: &Ref) -> Result<Stored, DirectoryError> {
    directory.get(&org_id(root), what, NOW)
}

fn list(directory: &dyn Directory, root: u64, kind: Kind, owner: Option<&str>) -> Vec<Record> {
    let found = directory.list(&org_id(root), kind, owner, "", 1_000, NOW);
    found
        .expect("a list")
        .into_iter()
        .map(|s| s.record)
        .collect()
}
