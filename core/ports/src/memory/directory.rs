//! The directory in memory: the plain model that engines are compared with.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gb6_core_model::InstanceId;

use crate::directory::{
    AUDIT_GENESIS, Actor, AuditEntry, Change, DEPTH_MAX, Directory, DirectoryError, Freshness,
    Kind, Node, OrgId, OutboxCursor, OutboxEntry, PAGE_MAX, Record, Ref, Stored, Usage, UsageSum,
    check_changes, check_usage,
};

/// The name of the one database.
const SHARD: &str = "main";

/// Customers behind one lock.
#[derive(Debug, Default)]
pub struct MemoryDirectory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    customers: BTreeMap<OrgId, Customer>,
    /// Whose each instance is or was.
    names: BTreeMap<InstanceId, OrgId>,
    outbox: Vec<OutboxEntry>,
    last: u64,
}

#[derive(Clone, Debug, Default)]
struct Customer {
    records: BTreeMap<Ref, Stored>,
    audit: BTreeMap<OrgId, Vec<AuditEntry>>,
    usage: BTreeMap<(String, u32, u64, u64, String), Usage>,
}

type Result<T> = std::result::Result<T, DirectoryError>;

impl Customer {
    fn find(&self, kind: Kind, id: &str) -> Result<&Stored> {
        let what = Ref::new(kind, id);
        let found = self.records.get(&what);
        found.ok_or_else(|| DirectoryError::not_found(what))
    }

    fn at(&self, what: &Ref, version: u64) -> Result<&Stored> {
        let found = self.find(what.kind, &what.id)?;
        match found.version == version {
            true => Ok(found),
            false => Err(DirectoryError::Conflict {
                what: what.to_string(),
                version: found.version,
            }),
        }
    }

    /// From the root down to `org`.
    fn path(&self, org: &str) -> Result<Vec<OrgId>> {
        let Record::Organization(found) = &self.find(Kind::Organization, org)?.record else {
            return Err(DirectoryError::not_found(org));
        };
        let mut path = match &found.parent {
            Some(parent) => self.path(parent.as_str())?,
            None => Vec::new(),
        };
        path.push(found.id.clone());
        Ok(path)
    }

    /// How many levels an organization and what is below it have.
    fn height(&self, org: &str) -> usize {
        let below = self.records.values().filter_map(|s| match &s.record {
            Record::Organization(o) if o.parent.as_ref().is_some_and(|p| p.as_str() == org) => {
                Some(self.height(o.id.as_str()))
            }
            _ => None,
        });
        1 + below.max().unwrap_or(0)
    }

    /// What a record points at exists.
    fn check_links(&self, record: &Record) -> Result<()> {
        let org = |id: &OrgId| self.find(Kind::Organization, id.as_str()).map(drop);
        let instance = |id: &InstanceId| self.find(Kind::Instance, id.as_str()).map(drop);
        match record {
            Record::Organization(o) => match &o.parent {
                Some(parent) => {
                    let above = self.path(parent.as_str())?;
                    if above.contains(&o.id) {
                        return Err(DirectoryError::invalid("it would be below itself"));
                    }
                    match above.len() + self.height(o.id.as_str()) > DEPTH_MAX {
                        true => Err(DirectoryError::invalid("the tree would be too deep")),
                        false => Ok(()),
                    }
                }
                None => Ok(()),
            },
            Record::Instance(i) => org(&i.org),
            Record::Key(k) => instance(&k.instance),
            Record::Person(p) => org(&p.org),
            Record::Membership(m) => {
                instance(&m.instance)?;
                self.find(Kind::Person, m.person.as_str()).map(drop)
            }
            Record::RoleBinding(b) => {
                match &b.node {
                    Node::Organization(id) => org(id)?,
                    Node::Instance(id) => instance(id)?,
                }
                self.find(Kind::Person, b.person.as_str()).map(drop)
            }
        }
    }

    /// No other record has the same name.
    fn check_unique(&self, record: &Record) -> Result<()> {
        let what = record.reference();
        let taken = self.records.iter().any(|(other, stored)| {
            *other != what
                && stored.record.owner() == record.owner()
                && match (&stored.record, record) {
                    (Record::Organization(a), Record::Organization(b)) => a.slug == b.slug,
                    (Record::Person(a), Record::Person(b)) => a.subject == b.subject,
                    (Record::RoleBinding(a), Record::RoleBinding(b)) => {
                        a.person == b.person && a.role == b.role
                    }
                    _ => false,
                }
        });
        match taken {
            true => Err(DirectoryError::AlreadyExists {
                what: what.to_string(),
            }),
            false => Ok(()),
        }
    }

    fn in_use(&self, what: &Ref) -> bool {
        self.records.values().any(|stored| {
            let person = match &stored.record {
                Record::Membership(m) => Some(m.person.as_str()),
                Record::RoleBinding(b) => Some(b.person.as_str()),
                _ => None,
            };
            match what.kind {
                Kind::Person => person == Some(&what.id),
                Kind::Organization | Kind::Instance => stored.record.owner() == Some(&what.id),
                Kind::Key | Kind::Membership | Kind::RoleBinding => false,
            }
        })
    }

    /// The organization in whose audit a change of a record is.
    fn org_of(&self, record: &Record) -> Result<OrgId> {
        let of_instance = |id: &InstanceId| {
            let found = self.find(Kind::Instance, id.as_str())?;
            self.org_of(&found.record)
        };
        match record {
            Record::Organization(o) => Ok(o.id.clone()),
            Record::Instance(i) => Ok(i.org.clone()),
            Record::Person(p) => Ok(p.org.clone()),
            Record::Key(k) => of_instance(&k.instance),
            Record::Membership(m) => of_instance(&m.instance),
            Record::RoleBinding(b) => match &b.node {
                Node::Organization(id) => Ok(id.clone()),
                Node::Instance(id) => of_instance(id),
            },
        }
    }

    /// Makes one change; answers its version, whose audit it is in, and to what it was done.
    fn change(&mut self, change: &Change) -> Result<(u64, OrgId, String)> {
        let what = match change {
            Change::Create(record) | Change::Update(record, _) => record.reference(),
            Change::Delete(what, _) => what.clone(),
            Change::Audit { org, target, .. } => {
                self.find(Kind::Organization, org.as_str())?;
                return Ok((0, org.clone(), target.clone()));
            }
        };
        let (version, org) = match change {
            Change::Create(record) => {
                if self.records.contains_key(&what) {
                    let what = what.to_string();
                    return Err(DirectoryError::AlreadyExists { what });
                }
                (1, self.keep(record, 1)?)
            }
            Change::Update(record, version) => {
                let was = self.at(&what, *version)?;
                let moved = was.record.owner() != record.owner();
                if moved && what.kind != Kind::Organization {
                    return Err(DirectoryError::invalid(format!("{what} stays where it is")));
                }
                (version + 1, self.keep(record, version + 1)?)
            }
            Change::Delete(_, version) => {
                let was = self.at(&what, *version)?.record.clone();
                if self.in_use(&what) {
                    return Err(DirectoryError::invalid(format!("{what} is in use")));
                }
                let org = self.org_of(&was)?;
                self.records.remove(&what);
                (0, org)
            }
            Change::Audit { .. } => return Err(DirectoryError::invalid("no record")),
        };
        Ok((version, org, what.to_string()))
    }

    fn keep(&mut self, record: &Record, version: u64) -> Result<OrgId> {
        self.check_links(record)?;
        self.check_unique(record)?;
        let stored = Stored {
            version,
            record: record.clone(),
        };
        self.records.insert(record.reference(), stored);
        self.org_of(record)
    }

    fn note(&mut self, root: &OrgId, by: &Actor, change: &Change, made: (u64, OrgId, String)) {
        let (version, org, target) = made;
        let chain = self.audit.entry(org.clone()).or_default();
        let mut entry = AuditEntry {
            root: root.clone(),
            org,
            number: chain.len() as u64 + 1,
            at_ms: by.at_ms,
            actor: by.name.clone(),
            action: change.action(),
            target,
            version,
            detail: by.detail.clone(),
            previous: chain.last().map_or(AUDIT_GENESIS, |last| last.hash),
            hash: AUDIT_GENESIS,
        };
        entry.hash = entry.digest();
        chain.push(entry);
    }
}

impl MemoryDirectory {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic leaves is whole: a customer is replaced at the end of a transaction.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for MemoryDirectory {
    fn apply(&self, root: &OrgId, by: &Actor, changes: &[Change]) -> Result<Vec<u64>> {
        check_changes(root, by, changes)?;
        let mut state = self.state();
        let begins = matches!(changes.first(),
            Some(Change::Create(Record::Organization(o))) if o.id == *root);
        if !begins && !state.customers.contains_key(root) {
            return Err(DirectoryError::not_found(format!("customer {root}")));
        }
        for change in changes {
            if let Change::Create(record @ Record::Instance(i)) = change {
                let whose = state.names.entry(i.id.clone()).or_insert(root.clone());
                if whose != root {
                    let what = record.reference().to_string();
                    return Err(DirectoryError::AlreadyExists { what });
                }
            }
        }
        let mut customer = state.customers.get(root).cloned().unwrap_or_default();
        let (mut versions, mut told) = (Vec::new(), Vec::new());
        for change in changes {
            let made = customer.change(change)?;
            versions.push(made.0);
            let what = match change {
                Change::Create(record) | Change::Update(record, _) => Some(record.reference()),
                Change::Delete(what, _) => Some(what.clone()),
                Change::Audit { .. } => None,
            };
            told.extend(what.map(|what| (what, (made.0 > 0).then_some(made.0))));
            customer.note(root, by, change, made);
        }
        state.customers.insert(root.clone(), customer);
        for (what, version) in told {
            state.last += 1;
            let entry = OutboxEntry {
                shard: SHARD.to_owned(),
                number: state.last,
                root: root.clone(),
                what,
                version,
            };
            state.outbox.push(entry);
        }
        Ok(versions)
    }

    fn get(&self, root: &OrgId, what: &Ref, _: Freshness) -> Result<Stored> {
        let state = self.state();
        let customer = state.customers.get(root);
        let found = customer.and_then(|c| c.records.get(what));
        found
            .cloned()
            .ok_or_else(|| DirectoryError::not_found(what))
    }

    fn list(
        &self,
        root: &OrgId,
        kind: Kind,
        owner: Option<&str>,
        after: &str,
        limit: usize,
        _: Freshness,
    ) -> Result<Vec<Stored>> {
        let state = self.state();
        let records = state
            .customers
            .get(root)
            .into_iter()
            .flat_map(|c| &c.records);
        Ok(records
            .filter(|(what, _)| what.kind == kind && *what.id > *after)
            .filter(|(_, stored)| owner.is_none() || stored.record.owner() == owner)
            .take(limit.min(PAGE_MAX))
            .map(|(_, stored)| stored.clone())
            .collect())
    }

    fn path(&self, root: &OrgId, org: &OrgId, _: Freshness) -> Result<Vec<OrgId>> {
        let state = self.state();
        let Some(customer) = state.customers.get(root) else {
            return Err(DirectoryError::not_found(Ref::new(
                Kind::Organization,
                org.as_str(),
            )));
        };
        customer.path(org.as_str())
    }

    fn root_of(&self, instance: &InstanceId) -> Result<OrgId> {
        let state = self.state();
        let found = state.names.get(instance).cloned();
        found.ok_or_else(|| DirectoryError::not_found(format!("instance {instance}")))
    }

    fn roots(&self, after: &str, limit: usize) -> Result<Vec<OrgId>> {
        let state = self.state();
        let roots = state.customers.keys().filter(|root| root.as_str() > after);
        Ok(roots.take(limit.min(PAGE_MAX)).cloned().collect())
    }

    fn databases(&self) -> Vec<String> {
        vec![SHARD.to_owned()]
    }

    fn outbox_of(&self, database: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>> {
        if database != SHARD {
            let what = format!("database {database}");
            return Err(DirectoryError::not_found(what));
        }
        let state = self.state();
        let first = state.last + 1 - state.outbox.len() as u64;
        if after + 1 < first {
            let shard = SHARD.to_owned();
            return Err(DirectoryError::Trimmed { shard, first });
        }
        let entries = state.outbox.iter().filter(|e| e.number > after);
        Ok(entries.take(limit.min(PAGE_MAX)).cloned().collect())
    }

    fn trim_outbox(&self, upto: &OutboxCursor) -> Result<bool> {
        let upto = upto.get(SHARD).copied().unwrap_or(0);
        self.state().outbox.retain(|e| e.number > upto);
        Ok(true)
    }

    fn audit(
        &self,
        root: &OrgId,
        org: &OrgId,
        after: u64,
        limit: usize,
        _: Freshness,
    ) -> Result<Vec<AuditEntry>> {
        let state = self.state();
        let chain = state.customers.get(root).and_then(|c| c.audit.get(org));
        let entries = chain.into_iter().flatten().filter(|e| e.number > after);
        Ok(entries.take(limit.min(PAGE_MAX)).cloned().collect())
    }

    fn audit_head(
        &self,
        root: &OrgId,
        org: &OrgId,
        _: Freshness,
    ) -> Result<Option<(u64, [u8; 32])>> {
        let state = self.state();
        let chain = state.customers.get(root).and_then(|c| c.audit.get(org));
        Ok(chain.and_then(|c| c.last()).map(|e| (e.number, e.hash)))
    }

    fn record_usage(&self, root: &OrgId, facts: &[Usage]) -> Result<u64> {
        check_usage(facts)?;
        let mut state = self.state();
        let Some(customer) = state.customers.get_mut(root) else {
            return Err(DirectoryError::not_found(format!("customer {root}")));
        };
        let before = customer.usage.len();
        for fact in facts {
            let (region, dimension) = (fact.region.clone(), fact.dimension.clone());
            let id = (region, fact.shard.0, fact.epoch, fact.position, dimension);
            customer.usage.entry(id).or_insert_with(|| fact.clone());
        }
        Ok((customer.usage.len() - before) as u64)
    }

    fn usage(
        &self,
        root: &OrgId,
        instance: &InstanceId,
        dimension: &str,
        time_ms: Range<u64>,
        _: Freshness,
    ) -> Result<UsageSum> {
        let state = self.state();
        let mut sum = UsageSum::default();
        for fact in state
            .customers
            .get(root)
            .into_iter()
            .flat_map(|c| c.usage.values())
        {
            let asked = fact.instance == *instance && fact.dimension == dimension;
            if asked && time_ms.contains(&fact.at_ms) {
                sum.amount += fact.amount;
                sum.facts += 1;
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        crate::contract::directory::all(&MemoryDirectory::default());
        for seed in 0..20 {
            let (one, other) = (MemoryDirectory::default(), MemoryDirectory::default());
            crate::contract::directory::behaves_like_the_model(&one, &other, seed, 300);
        }
    }
}
