//! `Directory` on one or several databases.

mod catalogue;
mod change;
mod journal;
mod months;
mod seal;
mod tables;
mod walls;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gb6_core_model::InstanceId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::Sealer;
use gb6_core_ports::directory::{
    Actor, AuditEntry, Change, Directory, DirectoryError, Freshness, Kind, OrgId, OutboxCursor,
    OutboxEntry, PAGE_MAX, Record, Ref, Stored, Usage, UsageSum, check_changes, check_usage,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use self::change::Tx;
use self::months::Months;
use self::tables::{PATH, Table, from_row};
use crate::config::Config;
use crate::db::{Db, Progress};
use crate::fault::Fault;
use crate::migrate::{Component, Migration};
use crate::pool::Session;

/// The directory's tables.
pub(crate) const TABLES: Component = Component {
    name: "directory",
    migrations: &[Migration {
        name: "customers and what is theirs",
        sqlite: include_str!("../migrations/sqlite/directory-0001.sql"),
        postgres: include_str!("../migrations/postgres/directory-0001.sql"),
    }],
};

/// One database of the directory.
#[derive(Debug)]
pub(crate) struct Shard {
    name: String,
    db: Arc<Db>,
    months: Months,
    #[cfg(feature = "postgres")]
    follower: Option<tokio::task::JoinHandle<()>>,
}

/// The directory.
#[derive(Debug)]
pub struct SqlDirectory {
    /// The first keeps the catalogue.
    shards: Vec<Shard>,
    sealer: Sealer,
    placements: Mutex<HashMap<OrgId, usize>>,
}

type Result<T> = std::result::Result<T, DirectoryError>;

impl SqlDirectory {
    /// Connects to the databases, brings their tables up to date, and makes the months ahead. The first
    /// keeps the catalogue; with several, each is named with `shard=`. Blocks the calling thread; so do all
    /// its calls, on `runtime`, which has threads of its own. They
    /// are made from threads that are not a runtime's.
    ///
    /// # Errors
    /// `Unavailable`: a database does not answer, or is not fit; its text says why. `Format`: its tables are newer
    /// than this program.
    pub fn open(
        configs: &[Config],
        sealer: Sealer,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Self> {
        let Some(first) = configs.first() else {
            return Err(DirectoryError::invalid("a directory needs a database"));
        };
        let mut shards: Vec<Shard> = Vec::new();
        for config in configs {
            if shards.iter().any(|shard| shard.name == config.shard) {
                return Err(DirectoryError::invalid(format!(
                    "two databases are the shard `{}`: name each with shard=",
                    config.shard
                )));
            }
            shards.push(Shard::open(config, &first.shard, runtime.clone(), metrics)?);
        }
        let directory = Self {
            shards,
            sealer,
            placements: Mutex::default(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        directory.make_months(now.map_or(0, |now| now.as_millis() as u64))?;
        Ok(directory)
    }

    /// Makes the tables of the month of `now_ms` and of those ahead, where they are missing. To be
    /// called about once a day; a month that is missing is made when it is needed, which takes longer.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn make_months(&self, now_ms: u64) -> Result<()> {
        self.shards.iter().try_for_each(|shard| {
            shard.call("make months", async |progress| {
                shard.months.ahead(shard, now_ms, progress).await
            })
        })
    }

    /// Takes away the audit and the usage of the months that end before `before_ms`, of all customers in one of
    /// [`Directory::databases`]; answers the tables of all months that were taken away of it, by this call or
    /// earlier, and were not dropped yet. They are to be dumped and dropped.
    ///
    /// # Errors
    /// `NotFound`: there is no such database. `Invalid`: it is SQLite, which keeps no months apart.
    /// `Unavailable`: it may be done again, whatever was done.
    pub fn detach_months(&self, database: &str, before_ms: u64) -> Result<Vec<String>> {
        let shard = self.shard(database)?;
        shard.call("detach months", async |progress| {
            shard.months.detach(shard, before_ms, progress).await
        })
    }

    /// The database of a name.
    fn shard(&self, database: &str) -> Result<&Shard> {
        let shard = self.shards.iter().find(|shard| shard.name == database);
        shard.ok_or_else(|| DirectoryError::not_found(format!("database {database}")))
    }

    /// Runs a call within the deadline of the first database.
    fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(&Progress) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        let name = match &self.shards[..] {
            [only] => &only.db.name,
            // Which of them it was, errors say that come from one.
            _ => "the directory's databases",
        };
        let result = self.shards[0].db.call(what, call);
        result.map_err(|fault| fault.into_directory(name))
    }

    /// Reads what is a customer's; `nobody` is the answer where there is no such customer.
    fn read<T>(
        &self,
        what: &str,
        root: &OrgId,
        fresh: Freshness,
        nobody: impl FnOnce() -> Result<T>,
        read: impl AsyncFn(&mut Session) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        let found = self.call(what, async |_| match self.shard_of(root).await? {
            Some(shard) => {
                let answer = shard.read(root, fresh, &read).await;
                answer.map(Some).map_err(|fault| shard.named(fault))
            }
            None => Ok(None),
        })?;
        found.map_or_else(nobody, Ok)
    }
}

impl Shard {
    fn open(config: &Config, first: &str, runtime: Handle, metrics: &Metrics) -> Result<Self> {
        let db = Arc::new(Db::open(config, &TABLES, runtime, metrics)?);
        #[cfg(feature = "postgres")]
        let follower = (!db.replicas().all().is_empty())
            .then(|| db.runtime.spawn(crate::replica::follow(db.clone())));
        let shard = Self {
            name: config.shard.clone(),
            db,
            months: Months::default(),
            #[cfg(feature = "postgres")]
            follower,
        };
        if !shard.db.is_sqlite() && !config.takes_superuser() {
            shard.call("look at the role", async |_| walls::hold(&shard.db).await)?;
        }
        shard.call("name the database", async |progress| {
            catalogue::name(&shard, first, progress).await
        })?;
        Ok(shard)
    }

    fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(&Progress) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        self.db
            .call(what, call)
            .map_err(|fault| fault.into_directory(&self.db.name))
    }

    /// Forgets the entries of its outbox up to `upto`. Each step is a transaction with a deadline of its own, and
    /// may be done again: one that fails keeps nothing of what the steps before it did.
    fn trim_outbox(&self, upto: u64) -> Result<bool> {
        let begun = Instant::now();
        let last = self.call("trim the outbox", async |progress| {
            let (last, session) = journal::forget(self, upto).await?;
            progress.commit_again(session).await?;
            Ok(last)
        })?;
        let mut next = Some(0);
        while let Some(from) = next {
            // Who calls has other things to do, however much is to be trimmed.
            if begun.elapsed() >= self.db.deadline {
                return Ok(false);
            }
            next = self.call("trim the outbox", async |progress| {
                let Some((next, session)) = journal::trim(self, from, last).await? else {
                    return Ok(None);
                };
                progress.commit_again(session).await?;
                Ok(Some(next))
            })?;
        }
        Ok(true)
    }

    /// A fault of this database, as an answer that names it.
    fn named(&self, fault: Fault) -> Fault {
        fault.into_directory(&self.db.name).into()
    }

    /// Writes what is a customer's, in one transaction that has its row locked.
    async fn write<T>(
        &self,
        (root, begins): (&OrgId, bool),
        sealer: &Sealer,
        progress: &Progress,
        write: impl AsyncFnOnce(&mut Tx<'_>) -> std::result::Result<T, Fault>,
    ) -> std::result::Result<T, Fault> {
        let mut tx = Tx {
            session: self.db.begin().await?,
            root,
            sealer,
        };
        let written = match tx.lock(begins).await {
            Ok(()) => write(&mut tx).await,
            Err(fault) => Err(fault),
        };
        match written {
            Ok(_) => progress.commit(tx.session).await?,
            Err(_) => tx.session.rollback().await,
        }
        written
    }

    async fn read<T>(
        &self,
        root: &OrgId,
        fresh: Freshness,
        read: &impl AsyncFn(&mut Session) -> std::result::Result<T, Fault>,
    ) -> std::result::Result<T, Fault> {
        #[cfg(feature = "postgres")]
        if let Freshness::Within(bound) = fresh
            && let replicas = self.db.replicas()
            && let Some(replica) = replicas.within(bound, self.db.deadline / 4).await
        {
            let within = self.db.deadline / 2;
            let asked = tokio::time::timeout(within, async {
                let session = replica.pool.begin(crate::db::SNAPSHOT).await?;
                seen(session, root, read).await
            });
            match asked.await {
                Ok(Ok(answer)) => {
                    self.db.metrics.stale_read("replica");
                    return Ok(answer);
                }
                Ok(Err(answer @ Fault::Answer(_))) => {
                    self.db.metrics.stale_read("replica");
                    return Err(answer);
                }
                // Whatever it was, the primary knows.
                _ => replica.failed(),
            }
        }
        #[cfg(feature = "postgres")]
        if fresh != Freshness::Current {
            self.db.metrics.stale_read("primary");
        }
        #[cfg(not(feature = "postgres"))]
        let _ = fresh;
        seen(self.db.snapshot().await?, root, read).await
    }
}

/// Reads in a transaction that sees one customer.
async fn seen<T>(
    mut session: Session,
    root: &OrgId,
    read: &impl AsyncFn(&mut Session) -> std::result::Result<T, Fault>,
) -> std::result::Result<T, Fault> {
    journal::see(&mut session, root).await?;
    let answer = read(&mut session).await;
    session.rollback().await;
    answer
}

#[cfg(feature = "postgres")]
impl Drop for Shard {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

impl Directory for SqlDirectory {
    fn apply(&self, root: &OrgId, by: &Actor, changes: &[Change]) -> Result<Vec<u64>> {
        check_changes(root, by, changes)?;
        let begins = matches!(changes.first(),
            Some(Change::Create(Record::Organization(org))) if org.id == *root);
        self.call("change the directory", async |progress| {
            let shard = self.place(root, begins, progress).await?;
            self.claim(root, changes, progress).await?;
            let made = async {
                let month = std::iter::once(by.at_ms);
                shard.months.ensure(shard, month, progress).await?;
                let write = async |tx: &mut Tx<'_>| tx.changes(by, changes).await;
                shard
                    .write((root, begins), &self.sealer, progress, write)
                    .await
            };
            made.await.map_err(|fault| shard.named(fault))
        })
    }

    fn get(&self, root: &OrgId, what: &Ref, fresh: Freshness) -> Result<Stored> {
        let nobody = || Err(DirectoryError::not_found(what));
        self.read("read a record", root, fresh, nobody, async |session| {
            let args = [root.as_str().into(), what.id.as_str().into()];
            match session.row(&Table::of(what.kind).get, &args).await? {
                Some(row) => from_row(root, what.kind, &row, &self.sealer),
                None => Err(DirectoryError::not_found(what).into()),
            }
        })
    }

    fn list(
        &self,
        root: &OrgId,
        kind: Kind,
        owner: Option<&str>,
        after: &str,
        limit: usize,
        fresh: Freshness,
    ) -> Result<Vec<Stored>> {
        let nobody = || Ok(Vec::new());
        self.read("list records", root, fresh, nobody, async |session| {
            let mut args = vec![
                root.as_str().into(),
                after.into(),
                limit.min(PAGE_MAX).into(),
            ];
            let table = Table::of(kind);
            let statement = match owner {
                Some(owner) => {
                    args.push(owner.into());
                    &table.list_owned
                }
                None => &table.list,
            };
            let rows = session.rows(statement, &args).await?;
            let all = rows
                .iter()
                .map(|row| from_row(root, kind, row, &self.sealer));
            all.collect()
        })
    }

    fn path(&self, root: &OrgId, org: &OrgId, fresh: Freshness) -> Result<Vec<OrgId>> {
        let missing = || DirectoryError::not_found(Ref::new(Kind::Organization, org.as_str()));
        let nobody = || Err(missing());
        self.read("read a path", root, fresh, nobody, async |session| {
            let args = [root.as_str().into(), org.as_str().into()];
            let row = session
                .row(&Table::of(Kind::Organization).get, &args)
                .await?;
            let path = row.ok_or_else(missing)?.text(PATH)?;
            let ids = path.split('/').skip(1).map(OrgId::parse);
            ids.collect::<std::result::Result<_, _>>()
                .map_err(|e| Fault::Damaged(e.0))
        })
    }

    fn root_of(&self, instance: &InstanceId) -> Result<OrgId> {
        self.call("find an instance", async |_| {
            self.claimed_by(instance).await
        })
    }

    fn roots(&self, after: &str, limit: usize) -> Result<Vec<OrgId>> {
        self.call("list customers", async |_| {
            self.all_roots(after, limit).await
        })
    }

    fn databases(&self) -> Vec<String> {
        self.shards.iter().map(|shard| shard.name.clone()).collect()
    }

    fn outbox_of(&self, database: &str, after: u64, limit: usize) -> Result<Vec<OutboxEntry>> {
        let shard = self.shard(database)?;
        shard.call("read the outbox", async |_| {
            journal::outbox(shard, after, limit).await
        })
    }

    fn trim_outbox(&self, upto: &OutboxCursor) -> Result<bool> {
        let mut done = Ok(true);
        for shard in &self.shards {
            let Some(upto) = upto.get(&shard.name) else {
                continue;
            };
            match (shard.trim_outbox(*upto), &mut done) {
                (Ok(all), Ok(done)) => *done &= all,
                (Err(error), Ok(_)) => done = Err(error),
                // The first failure is told.
                (_, Err(_)) => {}
            }
        }
        done
    }

    fn audit(
        &self,
        root: &OrgId,
        org: &OrgId,
        after: u64,
        limit: usize,
        fresh: Freshness,
    ) -> Result<Vec<AuditEntry>> {
        let nobody = || Ok(Vec::new());
        self.read("read the audit", root, fresh, nobody, async |session| {
            journal::audit(session, root, org, after, limit).await
        })
    }

    fn audit_head(
        &self,
        root: &OrgId,
        org: &OrgId,
        fresh: Freshness,
    ) -> Result<Option<(u64, [u8; 32])>> {
        let nobody = || Ok(None);
        self.read("read the audit", root, fresh, nobody, async |session| {
            journal::head(session, root, org).await
        })
    }

    fn record_usage(&self, root: &OrgId, facts: &[Usage]) -> Result<u64> {
        check_usage(facts)?;
        self.call("keep usage", async |progress| {
            let shard = self.place(root, false, progress).await?;
            let kept = async {
                let months = facts.iter().map(|fact| fact.at_ms);
                shard.months.ensure(shard, months, progress).await?;
                let write = async |tx: &mut Tx<'_>| journal::keep_usage(tx, facts).await;
                shard
                    .write((root, false), &self.sealer, progress, write)
                    .await
            };
            kept.await.map_err(|fault| shard.named(fault))
        })
    }

    fn usage(
        &self,
        root: &OrgId,
        instance: &InstanceId,
        dimension: &str,
        time_ms: Range<u64>,
        fresh: Freshness,
    ) -> Result<UsageSum> {
        let nobody = || Ok(UsageSum::default());
        self.read("sum usage", root, fresh, nobody, async |session| {
            let time = time_ms.clone();
            journal::sum_usage(session, root, instance, dimension, time).await
        })
    }
}
