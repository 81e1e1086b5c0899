//! The port `Directory`: customers and what is theirs. Organizations are a tree; instances, keys, people,
//! memberships and roles hang on it. Everything is changed in transactions, each of which says in an
//! outbox what it changed, and in an audit who did it.
//!
//! Every call names the customer, which is the root of its tree: it decides which database is asked, and
//! nothing of another customer is ever answered.

mod audit;
mod records;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use gb6_core_model::{InstanceId, Position, ShardId};

use crate::error::StoreError;

pub use audit::{AUDIT_GENESIS, AuditEntry, verify};
pub use records::{
    BindingId, DEPTH_MAX, Instance, Invalid, KEY_BYTES_MAX, Key, KeyPurpose, Kind, Membership,
    Node, OrgId, OrgKind, Organization, Person, PersonId, Record, Ref, Role, RoleBinding,
    SETTINGS_MAX, Secret, State, TEXT_MAX,
};

/// Changes in one transaction.
pub const CHANGES_MAX: usize = 256;
/// Facts of usage in one call.
pub const USAGE_MAX: usize = 1_000;
/// Entries or records of one page.
pub const PAGE_MAX: usize = 1_000;
/// Longest detail of an audit entry in bytes.
pub const DETAIL_MAX: usize = 8 * 1024;

/// What can go wrong with the directory.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// There is no such record of this customer.
    #[error("{what} does not exist")]
    NotFound {
        /// Which.
        what: String,
    },
    /// There is one already, or one that has the same name.
    #[error("{what} exists already, or its name is taken")]
    AlreadyExists {
        /// Which.
        what: String,
    },
    /// It was changed meanwhile. Read it again, and decide anew.
    #[error("{what} is at version {version} now: read it again")]
    Conflict {
        /// Which.
        what: String,
        /// Its version now.
        version: u64,
    },
    /// It can not be, however often it is asked for.
    #[error("{reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// What was asked for is no longer kept.
    #[error(
        "the outbox of {shard} begins at {first}: read the records themselves, then go on there"
    )]
    Trimmed {
        /// Whose outbox.
        shard: String,
        /// The first entry that is kept.
        first: u64,
    },
    /// Nothing was written; it may work later.
    #[error("unavailable: {cause}")]
    Unavailable {
        /// What is missing.
        cause: String,
    },
    /// Nobody knows whether it was written: read what is there.
    #[error("outcome unknown: {cause}")]
    OutcomeUnknown {
        /// What happened.
        cause: String,
    },
    /// The store itself: no space, damage, tables of a newer program.
    #[error(transparent)]
    Store(StoreError),
}

impl From<Invalid> for DirectoryError {
    fn from(e: Invalid) -> Self {
        Self::Invalid { reason: e.0 }
    }
}

impl From<StoreError> for DirectoryError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Unavailable { cause } => Self::Unavailable { cause },
            StoreError::OutcomeUnknown { cause } => Self::OutcomeUnknown { cause },
            other => Self::Store(other),
        }
    }
}

impl DirectoryError {
    /// A stable name of its kind.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::AlreadyExists { .. } => "already_exists",
            Self::Conflict { .. } => "conflict",
            Self::Invalid { .. } => "invalid",
            Self::Trimmed { .. } => "trimmed",
            Self::Unavailable { .. } => "unavailable",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::Store(_) => "store",
        }
    }

    /// That a record does not exist.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        let what = what.to_string();
        Self::NotFound { what }
    }

    /// That something can not be.
    pub fn invalid(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::Invalid { reason }
    }
}

/// How old an answer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// It has everything that was acknowledged before the call.
    Current,
    /// It has everything that was acknowledged this long before the call: a replica may answer.
    Within(Duration),
}

/// Who changes something, for the audit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Who: a person, a service, a token.
    pub name: String,
    /// When, in ms since 1970: from 2020 to 2099.
    pub at_ms: u64,
    /// Why, from where, by which request; up to [`DETAIL_MAX`] bytes.
    pub detail: String,
}

impl Actor {
    /// Whether it may stand in the audit.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.name.is_empty() {
            return Err(Invalid("an actor has a name".into()));
        }
        records::short("actor", &self.name)?;
        if self.detail.len() > DETAIL_MAX || self.detail.contains('\0') {
            let reason = format!("the detail has at most {DETAIL_MAX} bytes, and no zero byte");
            return Err(Invalid(reason));
        }
        check_time(self.at_ms)
    }
}

/// Whether a time is one of 2020 to 2099: others are mistakes, and each month has a table of its own.
///
/// # Errors
/// Where it is not.
pub fn check_time(at_ms: u64) -> Result<(), Invalid> {
    match (1_577_836_800_000..4_102_444_800_000).contains(&at_ms) {
        true => Ok(()),
        false => Err(Invalid(format!(
            "{at_ms} is no time in ms from 2020 to 2099"
        ))),
    }
}

/// A change of one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new one, at version 1.
    Create(Record),
    /// One that is there, at this version, becomes as it is here: its version is raised by 1. An
    /// organization with another parent moves with everything below it; other records stay where they
    /// belong.
    Update(Record, u64),
    /// One that is there, at this version, is removed. Nothing may belong to it any more.
    Delete(Ref, u64),
    /// No record changes: something else happened that the audit of an organization should have.
    Audit {
        /// Whose audit.
        org: OrgId,
        /// What happened, such as `session.revoke`.
        action: String,
        /// To what.
        target: String,
    },
}

impl Change {
    /// The name of what is done, as the audit has it.
    pub fn action(&self) -> String {
        match self {
            Change::Create(record) => format!("{}.create", record.reference().kind),
            Change::Update(record, _) => format!("{}.update", record.reference().kind),
            Change::Delete(what, _) => format!("{}.delete", what.kind),
            Change::Audit { action, .. } => action.clone(),
        }
    }

    /// Whether it may be made, whatever there is.
    fn check(&self, root: &OrgId) -> Result<(), DirectoryError> {
        match self {
            Change::Create(record) | Change::Update(record, _) => {
                record.check()?;
                if let Record::Organization(org) = record
                    && org.parent.is_none() != (org.id == *root)
                {
                    let reason = "a customer is called by the id of its root, which has no parent";
                    return Err(DirectoryError::invalid(reason));
                }
                Ok(())
            }
            Change::Delete(what, _) => match what.id == root.as_str() {
                true => Err(DirectoryError::invalid(
                    "a customer's root stays: suspend it instead",
                )),
                false => Ok(()),
            },
            Change::Audit { action, target, .. } => {
                records::short("action", action)?;
                Ok(records::short("target", target)?)
            }
        }
    }
}

/// Whether changes may be made in one transaction, whatever there is: what every engine asks first.
///
/// # Errors
/// `Invalid`.
pub fn check_changes(root: &OrgId, by: &Actor, changes: &[Change]) -> Result<(), DirectoryError> {
    by.check()?;
    if changes.is_empty() || changes.len() > CHANGES_MAX {
        return Err(DirectoryError::invalid(format!(
            "{} changes: a transaction has 1 to {CHANGES_MAX}",
            changes.len()
        )));
    }
    changes.iter().try_for_each(|change| change.check(root))
}

/// Whether facts of usage may be kept in one call.
///
/// # Errors
/// `Invalid`.
pub fn check_usage(facts: &[Usage]) -> Result<(), DirectoryError> {
    if facts.len() > USAGE_MAX {
        return Err(DirectoryError::invalid(format!(
            "{} facts: at most {USAGE_MAX} at once",
            facts.len()
        )));
    }
    Ok(facts.iter().try_for_each(Usage::check)?)
}

/// A record as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Raised by every change of it, from 1.
    pub version: u64,
    /// The record.
    pub record: Record,
}

/// That a record was changed; what it became is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxEntry {
    /// The database.
    pub shard: String,
    /// Its number there, from 1, in the order of commits.
    pub number: u64,
    /// The customer.
    pub root: OrgId,
    /// Which record.
    pub what: Ref,
    /// The version that the change made; `None`: it was removed.
    pub version: Option<u64>,
}

/// Up to where each database's outbox was read, by database.
pub type OutboxCursor = BTreeMap<String, u64>;

/// A fact of usage, as a shard's log tells it. What is counted twice is there once: (region, shard, epoch,
/// position, dimension) is its identity, and `at_ms` is the record's own time, so that it never differs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Usage {
    /// The region of the shard.
    pub region: String,
    /// The shard.
    pub shard: ShardId,
    /// The epoch under which the record was written.
    pub epoch: u64,
    /// The record's position.
    pub position: Position,
    /// What was used, such as `messages`.
    pub dimension: String,
    /// By which instance.
    pub instance: InstanceId,
    /// The record's time in ms since 1970.
    pub at_ms: u64,
    /// How much, in the dimension's unit; at most 2^53.
    pub amount: u64,
}

impl Usage {
    /// Whether it may be kept.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Invalid> {
        records::short("region", &self.region)?;
        records::short("dimension", &self.dimension)?;
        check_time(self.at_ms)?;
        if !InstanceId::is_valid(self.instance.as_str()) {
            return Err(Invalid("the usage is of no instance".into()));
        }
        // Sums of a great many of them fit into 64 bits.
        match self.amount <= 1 << 53 && self.epoch.max(self.position) <= i64::MAX as u64 {
            true => Ok(()),
            false => Err(Invalid("an amount is at most 2^53".into())),
        }
    }
}

/// What was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UsageSum {
    /// All amounts together.
    pub amount: u64,
    /// How many facts there are.
    pub facts: u64,
}

/// The customers. Calls block the calling thread; each has a deadline of its own.
pub trait Directory: Send + Sync {
    /// Makes all changes or none; answers the version of each, 0 where nothing has one. A customer begins
    /// with the creation of its root.
    ///
    /// Each change of a record is in the outbox once, and in the audit of the organization that the record
    /// belongs to; that of an organization in its own.
    ///
    /// # Errors
    /// Those of the change that fails; nothing was written, unless it is `OutcomeUnknown`.
    fn apply(
        &self,
        root: &OrgId,
        by: &Actor,
        changes: &[Change],
    ) -> Result<Vec<u64>, DirectoryError>;

    /// A record of the customer.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    fn get(&self, root: &OrgId, what: &Ref, fresh: Freshness) -> Result<Stored, DirectoryError>;

    /// The customer's records of a kind, those of one `owner` where it is given ([`Record::owner`]), by id
    /// behind `after`, at most `limit` and [`PAGE_MAX`].
    ///
    /// # Errors
    /// `Unavailable`.
    fn list(
        &self,
        root: &OrgId,
        kind: Kind,
        owner: Option<&str>,
        after: &str,
        limit: usize,
        fresh: Freshness,
    ) -> Result<Vec<Stored>, DirectoryError>;

    /// The way from the root to an organization, both included.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    fn path(
        &self,
        root: &OrgId,
        org: &OrgId,
        fresh: Freshness,
    ) -> Result<Vec<OrgId>, DirectoryError>;

    /// The customer whose instance it is, or was.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    fn root_of(&self, instance: &InstanceId) -> Result<OrgId, DirectoryError>;

    /// Customers by id behind `after`, at most `limit` and [`PAGE_MAX`].
    ///
    /// # Errors
    /// `Unavailable`.
    fn roots(&self, after: &str, limit: usize) -> Result<Vec<OrgId>, DirectoryError>;

    /// What was changed behind `after`, for every database in the order of its commits, and where to go
    /// on; at most `limit` and [`PAGE_MAX`] of each database. A database that is not in `after` is read from
    /// its beginning.
    ///
    /// # Errors
    /// `Trimmed`; `Unavailable`: of one database is enough. Whoever is to go on with the others reads each by
    /// [`Directory::outbox_of`].
    fn outbox(
        &self,
        after: &OutboxCursor,
        limit: usize,
    ) -> Result<(Vec<OutboxEntry>, OutboxCursor), DirectoryError> {
        let (mut all, mut next) = (Vec::new(), OutboxCursor::new());
        for database in self.databases() {
            let from = after.get(&database).copied().unwrap_or(0);
            let entries = self.outbox_of(&database, from, limit)?;
            let last = entries.last().map_or(from, |entry| entry.number);
            next.insert(database, last);
            all.extend(entries);
        }
        Ok((all, next))
    }

    /// The names of the databases, that of the catalogue first.
    fn databases(&self) -> Vec<String>;

    /// As [`Directory::outbox`], of one database, behind its entry number `after`.
    ///
    /// # Errors
    /// `NotFound`: there is no such database. `Trimmed`; `Unavailable`.
    fn outbox_of(
        &self,
        database: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<OutboxEntry>, DirectoryError>;

    /// Forgets the entries up to `upto`, that one included: everybody has read them. They are deleted in steps, for
    /// as long as a call may take in each database. Answers whether none of them is left; else the next call
    /// goes on.
    ///
    /// # Errors
    /// `Unavailable`: some are left, and are forgotten at the next call.
    fn trim_outbox(&self, upto: &OutboxCursor) -> Result<bool, DirectoryError>;

    /// The audit of an organization behind entry number `after`, at most `limit` and [`PAGE_MAX`].
    ///
    /// # Errors
    /// `Unavailable`.
    fn audit(
        &self,
        root: &OrgId,
        org: &OrgId,
        after: u64,
        limit: usize,
        fresh: Freshness,
    ) -> Result<Vec<AuditEntry>, DirectoryError>;

    /// The number and the hash of the newest entry of an organization's audit, to be kept elsewhere; `None`
    /// where it has no entry.
    ///
    /// # Errors
    /// `Unavailable`.
    fn audit_head(
        &self,
        root: &OrgId,
        org: &OrgId,
        fresh: Freshness,
    ) -> Result<Option<(u64, [u8; 32])>, DirectoryError>;

    /// Keeps facts of usage; answers how many of them are new.
    ///
    /// # Errors
    /// `NotFound`: there is no such customer. `Invalid`; `Unavailable`. After `OutcomeUnknown` the same
    /// call may be made again: what is there already is not counted twice.
    fn record_usage(&self, root: &OrgId, facts: &[Usage]) -> Result<u64, DirectoryError>;

    /// What an instance used of a dimension at these times, in ms since 1970.
    ///
    /// # Errors
    /// `Unavailable`.
    fn usage(
        &self,
        root: &OrgId,
        instance: &InstanceId,
        dimension: &str,
        time_ms: Range<u64>,
        fresh: Freshness,
    ) -> Result<UsageSum, DirectoryError>;
}
