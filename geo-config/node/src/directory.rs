//! Follows a directory: reads every customer once, then those of whom its outbox says that something has
//! changed, and now and then all of them again, so that nothing stays missed.
//!
//! Every call blocks, and has the deadline of the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::InstanceId;
use gb6_core_ports::Directory;
use gb6_core_ports::directory::{
    DirectoryError, Freshness, Instance, Key, KeyPurpose, Kind, OrgId, Organization, OutboxCursor,
    PAGE_MAX, Record, State,
};
use gb6_geo_config_plan::{DirectoryInstance, DirectoryKey, DirectoryKeyUse};

/// Opens a directory; it is called until it succeeds.
pub type OpenDirectory = Box<dyn FnMut() -> Result<Arc<dyn Directory>, DirectoryError> + Send>;

/// All customers are read again after so long: that finds what no outbox tells, as when a database was put
/// back to an earlier moment.
const READ_ANEW: Duration = Duration::from_secs(300);
/// Entries of the outbox that are kept for other readers; older ones that this one has read are forgotten.
const OUTBOX_KEPT: u64 = 10_000;
/// How often that is done.
const TRIM_EVERY: Duration = Duration::from_secs(3_600);
/// How soon a trim goes on that left something.
const TRIM_ON: Duration = Duration::from_secs(10);
/// Pages of the outbox in one look: what is behind them waits for the next one.
const PAGES_PER_LOOK: usize = 16;
/// Instances of a directory: a snapshot of more does not fit into one frame of the mesh.
const INSTANCES_MAX: usize = 10_000;

type Result<T, E = DirectoryError> = std::result::Result<T, E>;

/// The directory, and what was read of it.
pub(crate) struct Follower {
    open: OpenDirectory,
    directory: Option<Arc<dyn Directory>>,
    read: Option<Whole>,
    /// Whether there are other instances than were taken last.
    changed: bool,
    trims_at: Instant,
}

/// All customers as they were read.
#[derive(Default)]
struct Whole {
    cursor: OutboxCursor,
    customers: BTreeMap<OrgId, Vec<DirectoryInstance>>,
    /// Instances of all customers.
    count: usize,
    at: Option<Instant>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("open", &self.directory.is_some())
            .finish_non_exhaustive()
    }
}

impl Follower {
    pub(crate) fn new(open: OpenDirectory) -> Self {
        Self {
            open,
            directory: None,
            read: None,
            changed: false,
            trims_at: Instant::now() + TRIM_EVERY,
        }
    }

    /// The instances in use, by id; `None`: the directory was not read yet.
    pub(crate) fn instances(&self) -> Option<Vec<DirectoryInstance>> {
        let customers = self.read.as_ref()?.customers.values();
        let mut instances: Vec<DirectoryInstance> = customers.flatten().cloned().collect();
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        Some(instances)
    }

    /// Reads what has changed, or all of it where that was `asked` for. Blocks.
    ///
    /// # Errors
    /// Of the directory. What was read before stays, and what could be read is read: of several databases the
    /// loss of one keeps nothing of the others back.
    pub(crate) fn look(&mut self, asked: bool) -> Result<()> {
        let directory = match &self.directory {
            Some(directory) => Arc::clone(directory),
            None => {
                let opened = (self.open)()?;
                self.directory = Some(Arc::clone(&opened));
                opened
            }
        };
        let directory = &*directory;
        let at = self.read.as_ref().and_then(|read| read.at);
        let mut failed = None;
        if asked || at.is_none_or(|at| at.elapsed() >= READ_ANEW) {
            failed = self.read_all(directory).err();
        }
        let Some(read) = &mut self.read else {
            return failed.map_or(Ok(()), Err);
        };
        if failed.is_some() {
            // Meanwhile changes are followed, as if this had not been tried.
            read.at = Some(Instant::now());
        }
        match read.follow(directory, &mut self.changed) {
            // Others have forgotten what this reader did not know yet.
            Err(DirectoryError::Trimmed { .. }) => self.read_all(directory)?,
            other => other?,
        }
        self.trim(directory);
        failed.map_or(Ok(()), Err)
    }

    /// Whether there are other instances than at the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn read_all(&mut self, directory: &dyn Directory) -> Result<()> {
        let mut new = Whole {
            // First, so that what changes while customers are read is read again.
            cursor: end_of_outbox(directory)?,
            ..Whole::default()
        };
        let known = self.read.as_ref().map(|read| &read.customers);
        let mut after = String::new();
        loop {
            let roots = directory.roots(&after, PAGE_MAX)?;
            let Some(last) = roots.last() else { break };
            last.as_str().clone_into(&mut after);
            for root in roots {
                // The first time nobody knows what a customer had: none may seem to have nothing.
                let before =
                    known.map(|customers| customers.get(&root).map_or(&[][..], Vec::as_slice));
                new.put(directory, root, before)?;
            }
        }
        new.at = Some(Instant::now());
        self.changed |= known != Some(&new.customers);
        self.read = Some(new);
        Ok(())
    }

    /// Forgets what everybody has read, so that the outbox does not grow for ever.
    fn trim(&mut self, directory: &dyn Directory) {
        let Some(read) = &self.read else { return };
        if Instant::now() < self.trims_at {
            return;
        }
        let old = read.cursor.iter().filter_map(|(shard, last)| {
            let upto = last.checked_sub(OUTBOX_KEPT)?;
            Some((shard.clone(), upto))
        });
        let again = match directory.trim_outbox(&old.collect()) {
            Ok(true) => TRIM_EVERY,
            Ok(false) => TRIM_ON,
            Err(error) => {
                tracing::warn!(%error, "the directory's outbox could not be trimmed: it grows until it can");
                TRIM_EVERY
            }
        };
        self.trims_at = Instant::now() + again;
    }
}

impl Whole {
    /// Reads the customers of whom the outbox of any database tells; says in `changed` when they have other
    /// instances. The error is that of the first database that failed, unless an outbox was trimmed.
    fn follow(&mut self, directory: &dyn Directory, changed: &mut bool) -> Result<()> {
        let mut failed = None;
        for database in directory.databases() {
            match self.follow_one(directory, &database, changed) {
                Ok(()) => {}
                Err(trimmed @ DirectoryError::Trimmed { .. }) => failed = Some(trimmed),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn follow_one(
        &mut self,
        directory: &dyn Directory,
        database: &str,
        changed: &mut bool,
    ) -> Result<()> {
        for _ in 0..PAGES_PER_LOOK {
            let after = self.cursor.get(database).copied().unwrap_or(0);
            let entries = directory.outbox_of(database, after, PAGE_MAX)?;
            let Some(last) = entries.last().map(|entry| entry.number) else {
                break;
            };
            let ours = entries.into_iter().filter(|entry| {
                matches!(
                    entry.what.kind,
                    Kind::Organization | Kind::Instance | Kind::Key
                )
            });
            let roots: BTreeSet<OrgId> = ours.map(|entry| entry.root).collect();
            for root in roots {
                let before = self.customers.get(&root).cloned().unwrap_or_default();
                self.put(directory, root.clone(), Some(&before))?;
                *changed |= self.customers.get(&root).unwrap_or(&Vec::new()) != &before;
            }
            // Last: whatever failed is read again.
            self.cursor.insert(database.to_owned(), last);
        }
        Ok(())
    }

    /// Reads a customer. One that can not be read by itself stays as it was `before`, where that is known.
    fn put(
        &mut self,
        directory: &dyn Directory,
        root: OrgId,
        before: Option<&[DirectoryInstance]>,
    ) -> Result<()> {
        let mut instances = match (customer(directory, &root), before) {
            (Ok(instances), _) => instances,
            (Err(error), Some(before)) if !is_of_the_database(&error) => {
                tracing::error!(customer = %root, %error, "a customer can not be read and stays as it was");
                before.to_vec()
            }
            (Err(error), _) => return Err(error),
        };
        let had = self.customers.get(&root).map_or(0, Vec::len);
        let mut count = self.count - had + instances.len();
        if count > INSTANCES_MAX {
            let too_many = format!(
                "the directory has more than {INSTANCES_MAX} instances in use: a mesh serves no more"
            );
            let Some(before) = before else {
                return Err(DirectoryError::invalid(too_many));
            };
            // overflow: the customer's new ones are left out. Whatever else has changed holds, and what others
            // change does too: a key that is revoked is in use no more.
            tracing::error!(customer = %root, "{too_many}: this customer's new ones are left out");
            instances.retain(|one| before.iter().any(|had| had.id == one.id));
            count = self.count - had + instances.len();
        }
        self.count = count;
        match instances.is_empty() {
            true => self.customers.remove(&root),
            false => self.customers.insert(root, instances),
        };
        Ok(())
    }
}

/// Whether nothing else of the directory can be read either.
fn is_of_the_database(error: &DirectoryError) -> bool {
    matches!(
        error,
        DirectoryError::Unavailable { .. } | DirectoryError::OutcomeUnknown { .. }
    )
}

/// Where the outbox ends now.
fn end_of_outbox(directory: &dyn Directory) -> Result<OutboxCursor> {
    let mut cursor = OutboxCursor::new();
    loop {
        match directory.outbox(&cursor, PAGE_MAX) {
            Ok((entries, next)) => {
                cursor = next;
                if entries.is_empty() {
                    return Ok(cursor);
                }
            }
            Err(DirectoryError::Trimmed { shard, first }) => {
                cursor.insert(shard, first.saturating_sub(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The instances of a customer that are in use: neither they nor an organization above is suspended.
fn customer(directory: &dyn Directory, root: &OrgId) -> Result<Vec<DirectoryInstance>> {
    let organizations = all(directory, root, Kind::Organization, |record| match record {
        Record::Organization(organization) => Some(organization),
        _ => None,
    })?;
    let organizations: BTreeMap<&OrgId, &Organization> =
        organizations.iter().map(|one| (&one.id, one)).collect();
    let instances = all(directory, root, Kind::Instance, |record| match record {
        Record::Instance(instance) => Some(instance),
        _ => None,
    })?;
    let mut in_use: Vec<Instance> = instances
        .into_iter()
        .filter(|one| one.state == State::Active && is_active(&organizations, &one.org))
        .collect();
    if in_use.is_empty() {
        return Ok(Vec::new());
    }
    in_use.sort_by(|a, b| a.id.cmp(&b.id));
    let keys = all(directory, root, Kind::Key, |record| match record {
        Record::Key(key) => Some(key),
        _ => None,
    });
    let keys = match keys {
        Ok(keys) => Ok(by_instance(keys)),
        Err(error) if is_of_the_database(&error) => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    let instance = |one: Instance| DirectoryInstance {
        keys: match &keys {
            Ok(keys) => Ok(keys.get(&one.id).cloned().unwrap_or_default()),
            Err(why) => Err(why.clone()),
        },
        id: one.id,
        region: one.region,
        settings: one.settings,
    };
    Ok(in_use.into_iter().map(instance).collect())
}

/// Whether an organization and all above it are in use.
fn is_active(organizations: &BTreeMap<&OrgId, &Organization>, org: &OrgId) -> bool {
    let mut at = Some(org);
    // Bounded by their number, should they ever form a circle.
    for _ in 0..=organizations.len() {
        let Some(id) = at else { return true };
        match organizations.get(id) {
            Some(one) if one.state == State::Active => at = one.parent.as_ref(),
            _ => return false,
        }
    }
    false
}

fn by_instance(keys: Vec<Key>) -> BTreeMap<InstanceId, Vec<DirectoryKey>> {
    let mut all = BTreeMap::<InstanceId, Vec<DirectoryKey>>::new();
    for key in keys {
        let usage = match key.purpose {
            KeyPurpose::Client => DirectoryKeyUse::Client,
            KeyPurpose::Api => DirectoryKeyUse::Api,
            KeyPurpose::Secret => DirectoryKeyUse::Named,
            KeyPurpose::Livekit => continue,
        };
        if key.state != State::Active {
            continue;
        }
        let secret = key.secret.map(|secret| {
            // Secrets of a snapshot are text. What is none becomes an empty one, which is refused.
            String::from_utf8(secret.0).unwrap_or_default()
        });
        let known = all.entry(key.instance).or_default();
        known.push(DirectoryKey {
            id: key.id,
            usage,
            algorithm: key.algorithm,
            secret,
            public_key: key.public_key,
        });
    }
    all.values_mut()
        .for_each(|keys| keys.sort_by(|a, b| a.id.cmp(&b.id)));
    all
}

/// All records of a kind that a customer has.
fn all<T>(
    directory: &dyn Directory,
    root: &OrgId,
    kind: Kind,
    take: impl Fn(Record) -> Option<T>,
) -> Result<Vec<T>> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = directory.list(root, kind, None, &after, PAGE_MAX, Freshness::Current)?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = last.record.reference().id;
        found.extend(page.into_iter().filter_map(|stored| take(stored.record)));
    }
}
