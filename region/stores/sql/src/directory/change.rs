//! One customer's transaction: each change checked against what is there, made, told in the outbox and
//! bound into the audit.
//!
//! The customer's row is locked first, so that the transactions of a customer are one after the other and
//! what was looked at stays so; those of others go on beside it.

use gb6_core_model::InstanceId;
use gb6_core_ports::Sealer;
use gb6_core_ports::directory::{
    Actor, Change, DEPTH_MAX, DirectoryError, Kind, Node, OrgId, Record, Ref,
};

use super::journal;
use super::tables::{PATH, Table, to_row};
use crate::fault::Fault;
use crate::pool::Session;
use crate::value::{Row, Statement, Value};

/// Names the customer whose rows the transaction may see (PostgreSQL: row-level security).
pub(super) const SEE: Statement = Statement::each(
    "see_customer",
    "SELECT $1",
    "SELECT set_config('gb6.root', $1, true)",
);
const MAKE_CUSTOMER: Statement = Statement::both(
    "customer_make",
    "INSERT INTO customers (root) VALUES ($1) ON CONFLICT DO NOTHING",
);
const LOCK_CUSTOMER: Statement = Statement::each(
    "customer_lock",
    "SELECT root FROM customers WHERE root = $1",
    "SELECT root FROM customers WHERE root = $1 FOR UPDATE",
);
/// Paths are the ids from the root down, each behind a `/`, which is before `0`.
const HEIGHT: Statement = Statement::both(
    "organizations_height",
    "SELECT CAST(max(length(path) - length(replace(path, '/', ''))) AS BIGINT) FROM organizations \
     WHERE root = $1 AND (path = $2 OR (path >= $2 || '/' AND path < $2 || '0'))",
);
const MOVE_BELOW: Statement = Statement::both(
    "organizations_move",
    "UPDATE organizations SET path = $3 || substr(path, CAST($4 AS INTEGER)) \
     WHERE root = $1 AND path >= $2 || '/' AND path < $2 || '0'",
);

/// A transaction of one customer.
pub(super) struct Tx<'a> {
    pub(super) session: Session,
    pub(super) root: &'a OrgId,
    pub(super) sealer: &'a Sealer,
}

impl Tx<'_> {
    /// Locks the customer; one that `begins` is made.
    pub(super) async fn lock(&mut self, begins: bool) -> Result<(), Fault> {
        let root = [self.root.as_str().into()];
        self.session.rows(&SEE, &root).await?;
        if begins {
            self.session.run(&MAKE_CUSTOMER, &root).await?;
        }
        match self.session.row(&LOCK_CUSTOMER, &root).await? {
            Some(_) => Ok(()),
            None => Err(DirectoryError::not_found(format!("customer {}", self.root)).into()),
        }
    }

    /// Makes every change; answers their versions.
    pub(super) async fn changes(
        &mut self,
        by: &Actor,
        changes: &[Change],
    ) -> Result<Vec<u64>, Fault> {
        let (mut versions, mut told) = (Vec::new(), Vec::new());
        for change in changes {
            let (version, org, target) = self.change(change).await?;
            if let Change::Create(record) | Change::Update(record, _) = change {
                told.push((record.reference(), Some(version)));
            } else if let Change::Delete(what, _) = change {
                told.push((what.clone(), None));
            }
            versions.push(version);
            journal::note(self, by, &change.action(), (version, org, target)).await?;
        }
        // Last, because its row is every customer's.
        journal::tell(self, &told).await?;
        Ok(versions)
    }

    async fn find(&mut self, kind: Kind, id: &str) -> Result<Row, Fault> {
        let args = [self.root.as_str().into(), id.into()];
        let row = self.session.row(&Table::of(kind).get, &args).await?;
        row.ok_or_else(|| DirectoryError::not_found(Ref::new(kind, id)).into())
    }

    async fn at(&mut self, what: &Ref, version: u64) -> Result<Row, Fault> {
        let row = self.find(what.kind, &what.id).await?;
        let found = row.count(2)?;
        match found == version {
            true => Ok(row),
            false => Err(DirectoryError::Conflict {
                what: what.to_string(),
                version: found,
            }
            .into()),
        }
    }

    /// Makes one change; answers its version, in whose audit it is, and to what it was done.
    async fn change(&mut self, change: &Change) -> Result<(u64, OrgId, String), Fault> {
        match change {
            Change::Create(record) => self.create(record).await,
            Change::Update(record, version) => self.update(record, *version).await,
            Change::Delete(what, version) => self.delete(what, *version).await,
            Change::Audit { org, target, .. } => {
                self.find(Kind::Organization, org.as_str()).await?;
                Ok((0, org.clone(), target.clone()))
            }
        }
    }

    async fn create(&mut self, record: &Record) -> Result<(u64, OrgId, String), Fault> {
        let what = record.reference();
        let args = [self.root.as_str().into(), what.id.as_str().into()];
        let table = Table::of(what.kind);
        if self.session.row(&table.get, &args).await?.is_some() {
            let what = what.to_string();
            return Err(DirectoryError::AlreadyExists { what }.into());
        }
        let path = self.check_links(record, None).await?;
        let row = to_row(self.root, record, &path, self.sealer)?;
        let made = self.session.run(&table.insert, &row).await;
        made.map_err(|fault| fault.about(&what))?;
        Ok((1, self.org_of(record).await?, what.to_string()))
    }

    async fn update(
        &mut self,
        record: &Record,
        version: u64,
    ) -> Result<(u64, OrgId, String), Fault> {
        let what = record.reference();
        let was = self.at(&what, version).await?;
        let owner = was.text_or_null(1)?;
        if owner.as_deref() != record.owner() && what.kind != Kind::Organization {
            let reason = format!("{what} stays where it is");
            return Err(DirectoryError::invalid(reason).into());
        }
        let old = match what.kind {
            Kind::Organization => Some(was.text(PATH)?),
            _ => None,
        };
        let path = self.check_links(record, old.as_deref()).await?;
        let row = to_row(self.root, record, &path, self.sealer)?;
        let made = self.session.run(&Table::of(what.kind).update, &row).await;
        made.map_err(|fault| fault.about(&what))?;
        if let Some(old) = old.filter(|old| *old != path) {
            let behind = Value::from(old.len() + 1);
            let args = [
                self.root.as_str().into(),
                old.as_str().into(),
                path.as_str().into(),
                behind,
            ];
            self.session.run(&MOVE_BELOW, &args).await?;
        }
        Ok((version + 1, self.org_of(record).await?, what.to_string()))
    }

    async fn delete(&mut self, what: &Ref, version: u64) -> Result<(u64, OrgId, String), Fault> {
        let was = self.at(what, version).await?;
        let org = match what.kind {
            Kind::Organization => what.id.clone(),
            Kind::Instance | Kind::Person => was.text(1)?,
            Kind::Key | Kind::Membership => self.owner_of_instance(&was.text(1)?).await?,
            // Of its two nodes one is null.
            Kind::RoleBinding => match was.text_or_null(3)? {
                Some(org) => org,
                None => self.owner_of_instance(&was.text(4)?).await?,
            },
        };
        let args = [self.root.as_str().into(), what.id.as_str().into()];
        let gone = self.session.run(&Table::of(what.kind).delete, &args).await;
        gone.map_err(|fault| fault.about(what))?;
        let org = OrgId::parse(&org).map_err(|e| Fault::Damaged(e.0))?;
        Ok((0, org, what.to_string()))
    }

    /// What a record points at exists, and the tree stays one; answers an organization's path. `old` is the
    /// path that it had.
    async fn check_links(&mut self, record: &Record, old: Option<&str>) -> Result<String, Fault> {
        let mut instance = None;
        let mut org = None;
        let mut person = None;
        match record {
            Record::Organization(o) => {
                let Some(parent) = &o.parent else {
                    return Ok(format!("/{}", o.id));
                };
                let above = self.find(Kind::Organization, parent.as_str()).await?;
                return self.path_below(&above.text(PATH)?, &o.id, old).await;
            }
            Record::Instance(i) => org = Some(&i.org),
            Record::Person(p) => org = Some(&p.org),
            Record::Key(k) => instance = Some(&k.instance),
            Record::Membership(m) => (instance, person) = (Some(&m.instance), Some(&m.person)),
            Record::RoleBinding(b) => {
                person = Some(&b.person);
                match &b.node {
                    Node::Organization(id) => org = Some(id),
                    Node::Instance(id) => instance = Some(id),
                }
            }
        }
        if let Some(id) = org {
            self.find(Kind::Organization, id.as_str()).await?;
        }
        if let Some(id) = instance {
            self.find(Kind::Instance, id.as_str()).await?;
        }
        if let Some(id) = person {
            self.find(Kind::Person, id.as_str()).await?;
        }
        Ok(String::new())
    }

    /// The path of an organization below the one whose path is `above`.
    async fn path_below(
        &mut self,
        above: &str,
        id: &OrgId,
        old: Option<&str>,
    ) -> Result<String, Fault> {
        let depth = |path: &str| path.matches('/').count();
        let mut height = 1;
        if let Some(old) = old {
            if above.split('/').any(|one| one == id.as_str()) {
                return Err(DirectoryError::invalid("it would be below itself").into());
            }
            let args = [self.root.as_str().into(), old.into()];
            let row = self.session.row(&HEIGHT, &args).await?;
            let deepest = row.map_or(Ok(0), |row| row.count(0))? as usize;
            height = (deepest + 1).saturating_sub(depth(old));
        }
        match depth(above) + height > DEPTH_MAX {
            true => Err(DirectoryError::invalid("the tree would be too deep").into()),
            false => Ok(format!("{above}/{id}")),
        }
    }

    async fn owner_of_instance(&mut self, instance: &str) -> Result<String, Fault> {
        self.find(Kind::Instance, instance).await?.text(1)
    }

    /// The organization in whose audit a change of a record is.
    async fn org_of(&mut self, record: &Record) -> Result<OrgId, Fault> {
        let instance: &InstanceId = match record {
            Record::Organization(o) => return Ok(o.id.clone()),
            Record::Instance(i) => return Ok(i.org.clone()),
            Record::Person(p) => return Ok(p.org.clone()),
            Record::Key(k) => &k.instance,
            Record::Membership(m) => &m.instance,
            Record::RoleBinding(b) => match &b.node {
                Node::Organization(id) => return Ok(id.clone()),
                Node::Instance(id) => id,
            },
        };
        let owner = self.owner_of_instance(instance.as_str()).await?;
        OrgId::parse(&owner).map_err(|e| Fault::Damaged(e.0))
    }
}
