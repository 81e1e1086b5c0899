//! Records as rows: the statements of each table, and the way there and back.

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::KeyAlgorithm;
use gb6_core_ports::Sealer;
use gb6_core_ports::directory::{
    BindingId, Instance, Key, KeyPurpose, Kind, Membership, Node, OrgId, OrgKind, Organization,
    Person, PersonId, Record, Role, RoleBinding, Secret, State, Stored,
};

use super::seal;
use crate::fault::Fault;
use crate::value::{Row, Statement, Value};

/// The statements of one kind of records. Parameters: `$1` the customer, `$2` the id, `$3` the owner,
/// then the kind's own columns. Lists: `$2` the id before the first, `$3` how many, `$4` the owner.
pub(super) struct Table {
    pub(super) insert: Statement,
    pub(super) update: Statement,
    pub(super) delete: Statement,
    pub(super) get: Statement,
    pub(super) list: Statement,
    pub(super) list_owned: Statement,
}

macro_rules! table {
    ($name:literal, $($column:literal $parameter:literal),+) => {
        Table {
            insert: Statement::both(
                concat!($name, "_insert"),
                concat!(
                    "INSERT INTO ", $name, " (root, id, owner, version", $(", ", $column,)+
                    ") VALUES ($1, $2, $3, 1", $(", ", $parameter,)+ ")"
                ),
            ),
            update: Statement::both(
                concat!($name, "_update"),
                concat!(
                    "UPDATE ", $name, " SET version = version + 1, owner = $3",
                    $(", ", $column, " = ", $parameter,)+ " WHERE root = $1 AND id = $2"
                ),
            ),
            delete: Statement::both(
                concat!($name, "_delete"),
                concat!("DELETE FROM ", $name, " WHERE root = $1 AND id = $2"),
            ),
            get: Statement::both(
                concat!($name, "_get"),
                concat!(
                    "SELECT id, owner, version", $(", ", $column,)+ " FROM ", $name,
                    " WHERE root = $1 AND id = $2"
                ),
            ),
            list: Statement::both(
                concat!($name, "_list"),
                concat!(
                    "SELECT id, owner, version", $(", ", $column,)+ " FROM ", $name,
                    " WHERE root = $1 AND id > $2 ORDER BY id LIMIT $3"
                ),
            ),
            list_owned: Statement::both(
                concat!($name, "_list_owned"),
                concat!(
                    "SELECT id, owner, version", $(", ", $column,)+ " FROM ", $name,
                    " WHERE root = $1 AND id > $2 AND owner = $4 ORDER BY id LIMIT $3"
                ),
            ),
        }
    };
}

const ORGANIZATIONS: Table = table!(
    "organizations",
    "path" "$4", "slug" "$5", "name" "$6", "kind" "$7", "state" "$8", "settings" "$9"
);
const INSTANCES: Table = table!(
    "instances",
    "region" "$4", "residency" "$5", "state" "$6", "settings" "$7"
);
const KEYS: Table = table!(
    "keys",
    "name" "$4", "purpose" "$5", "algorithm" "$6", "public_key" "$7", "secret" "$8", "state" "$9"
);
const PEOPLE: Table = table!("people", "subject" "$4", "name" "$5", "state" "$6");
const MEMBERSHIPS: Table = table!("memberships", "person" "$4", "state" "$5");
const ROLE_BINDINGS: Table = table!(
    "role_bindings",
    "org" "$4", "instance" "$5", "person" "$6", "role" "$7"
);

impl Table {
    /// The table of a kind.
    pub(super) const fn of(kind: Kind) -> &'static Table {
        match kind {
            Kind::Organization => &ORGANIZATIONS,
            Kind::Instance => &INSTANCES,
            Kind::Key => &KEYS,
            Kind::Person => &PEOPLE,
            Kind::Membership => &MEMBERSHIPS,
            Kind::RoleBinding => &ROLE_BINDINGS,
        }
    }
}

/// The column `path` of organizations.
pub(super) const PATH: usize = 3;

/// The parameters of an insert or an update; `path` is an organization's.
pub(super) fn to_row(
    root: &OrgId,
    record: &Record,
    path: &str,
    sealer: &Sealer,
) -> Result<Vec<Value>, Fault> {
    let mut row: Vec<Value> = vec![
        root.as_str().into(),
        record.reference().id.as_str().into(),
        record.owner().into(),
    ];
    match record {
        Record::Organization(o) => row.extend([
            Value::from(path),
            o.slug.as_str().into(),
            o.name.as_str().into(),
            o.kind.as_str().into(),
            o.state.as_str().into(),
            o.settings.as_str().into(),
        ]),
        Record::Instance(i) => row.extend([
            Value::from(i.region.as_str()),
            i.residency.as_str().into(),
            i.state.as_str().into(),
            i.settings.as_str().into(),
        ]),
        Record::Key(k) => {
            let secret = k.secret.as_ref();
            let sealed = secret.map(|s| seal::seal(sealer, root, &k.instance, &k.id, s));
            row.extend([
                Value::from(k.id.as_str()),
                k.purpose.as_str().into(),
                k.algorithm.name().into(),
                k.public_key.as_deref().into(),
                sealed.transpose()?.as_deref().into(),
                k.state.as_str().into(),
            ]);
        }
        Record::Person(p) => row.extend([
            Value::from(p.subject.as_str()),
            p.name.as_str().into(),
            p.state.as_str().into(),
        ]),
        Record::Membership(m) => {
            row.extend([Value::from(m.person.as_str()), m.state.as_str().into()])
        }
        Record::RoleBinding(b) => {
            let (org, instance) = match &b.node {
                Node::Organization(id) => (Some(id.as_str()), None),
                Node::Instance(id) => (None, Some(id.as_str())),
            };
            row.extend([
                Value::from(org),
                instance.into(),
                b.person.as_str().into(),
                b.role.as_str().into(),
            ]);
        }
    }
    Ok(row)
}

/// A column with one of a few names.
fn named<T>(row: &Row, column: usize, parse: impl Fn(&str) -> Option<T>) -> Result<T, Fault> {
    let text = row.text(column)?;
    parse(&text).ok_or_else(|| Fault::Damaged(format!("{text:?} in column {column} is unknown")))
}

fn org_of(row: &Row, column: usize) -> Result<OrgId, Fault> {
    named(row, column, |text| OrgId::parse(text).ok())
}

fn person_of(row: &Row, column: usize) -> Result<PersonId, Fault> {
    named(row, column, |text| PersonId::parse(text).ok())
}

fn instance_of(row: &Row, column: usize) -> Result<InstanceId, Fault> {
    Ok(InstanceId::from(row.text(column)?))
}

/// The record of a row of `get` or a list.
pub(super) fn from_row(
    root: &OrgId,
    kind: Kind,
    row: &Row,
    sealer: &Sealer,
) -> Result<Stored, Fault> {
    let record = match kind {
        Kind::Organization => Record::Organization(Organization {
            id: org_of(row, 0)?,
            parent: match row.is_null(1) {
                true => None,
                false => Some(org_of(row, 1)?),
            },
            slug: row.text(4)?,
            name: row.text(5)?,
            kind: named(row, 6, OrgKind::parse)?,
            state: named(row, 7, State::parse)?,
            settings: row.text(8)?,
        }),
        Kind::Instance => Record::Instance(Instance {
            id: instance_of(row, 0)?,
            org: org_of(row, 1)?,
            region: row.text(3)?,
            residency: row.text(4)?,
            state: named(row, 5, State::parse)?,
            settings: row.text(6)?,
        }),
        Kind::Key => {
            let (instance, id) = (instance_of(row, 1)?, row.text(3)?);
            let sealed = row.bytes_or_null(7)?;
            let secret = sealed.map(|s| seal::open(sealer, root, &instance, &id, &s));
            Record::Key(Key {
                purpose: named(row, 4, KeyPurpose::parse)?,
                algorithm: named(row, 5, KeyAlgorithm::parse)?,
                public_key: row.text_or_null(6)?,
                secret: secret.transpose()?.map(Secret),
                state: named(row, 8, State::parse)?,
                instance,
                id,
            })
        }
        Kind::Person => Record::Person(Person {
            id: person_of(row, 0)?,
            org: org_of(row, 1)?,
            subject: row.text(3)?,
            name: row.text(4)?,
            state: named(row, 5, State::parse)?,
        }),
        Kind::Membership => Record::Membership(Membership {
            instance: instance_of(row, 1)?,
            person: person_of(row, 3)?,
            state: named(row, 4, State::parse)?,
        }),
        Kind::RoleBinding => Record::RoleBinding(RoleBinding {
            id: named(row, 0, |text| BindingId::parse(text).ok())?,
            node: match row.is_null(3) {
                true => Node::Instance(instance_of(row, 4)?),
                false => Node::Organization(org_of(row, 3)?),
            },
            person: person_of(row, 5)?,
            role: named(row, 6, Role::parse)?,
        }),
    };
    let version = row.count(2)?;
    Ok(Stored { version, record })
}
