//! `MapStore` on a database.
//!
//! Every change first raises the namespace's one revision, in its own transaction: whoever else wants to
//! change anything waits for that row until the commit. So changes are one after the other, a record is
//! compared and set at one moment, and revisions come in the order of commits, which a sequence's numbers
//! do not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::map::{check_key, check_prefix, check_value};
use gb6_core_ports::{Expect, MapEntry, MapPage, MapStore, StoreError};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::Config;
use crate::db::{Db, Progress};
use crate::fault::Fault;
use crate::migrate::{Component, Migration};
use crate::pool::Session;
use crate::value::{Row, Statement, Value};

/// The map's tables.
pub(crate) const TABLES: Component = Component {
    name: "map",
    migrations: &[Migration {
        name: "records and their revisions",
        sqlite: include_str!("migrations/sqlite/map-0001.sql"),
        postgres: include_str!("migrations/postgres/map-0001.sql"),
    }],
};

const MAKE_SPACE: Statement = Statement::both(
    "map_make_space",
    "INSERT INTO map_spaces (space, revision, forgotten) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING",
);
const RAISE: Statement = Statement::each(
    "map_raise",
    "UPDATE map_spaces SET revision = revision + 1 WHERE space = $1 RETURNING revision",
    "UPDATE map_spaces SET revision = revision + 1 WHERE space = $1 \
     RETURNING revision, pg_notify('gb6_map', $1)",
);
const GET: Statement = Statement::both(
    "map_get",
    "SELECT key, value, revision FROM map_entries \
     WHERE space = $1 AND key = $2 AND value IS NOT NULL",
);
const PUT: Statement = Statement::both(
    "map_put",
    "INSERT INTO map_entries (space, key, value, revision) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (space, key) DO UPDATE SET value = excluded.value, revision = excluded.revision",
);
/// The namespace's revisions beside each record, so that both are of one moment; a row without a record
/// where there is none. Keys are printable ASCII, so that 0x7f is above all that begin alike.
const LIST: Statement = Statement::both(
    "map_list",
    "SELECT s.revision, s.forgotten, e.key, e.value, e.revision FROM map_spaces s \
     LEFT JOIN (SELECT space, key, value, revision FROM map_entries \
         WHERE space = $1 AND key >= $2 AND key < $3 AND value IS NOT NULL \
         ORDER BY key LIMIT $4) e ON e.space = s.space \
     WHERE s.space = $1 ORDER BY e.key",
);
const CHANGES: Statement = Statement::both(
    "map_changes",
    "SELECT s.revision, s.forgotten, e.key, e.value, e.revision FROM map_spaces s \
     LEFT JOIN (SELECT space, key, value, revision FROM map_entries \
         WHERE space = $1 AND key >= $2 AND key < $3 AND revision > $5 \
         ORDER BY revision LIMIT $4) e ON e.space = s.space \
     WHERE s.space = $1 ORDER BY e.revision",
);
const OLDEST_KEPT: Statement = Statement::both(
    "map_oldest_deletion",
    "SELECT revision FROM map_entries WHERE space = $1 AND value IS NULL \
     ORDER BY revision DESC LIMIT 1 OFFSET $2",
);
/// The oldest up to that one, as many as a call has the time for: where fewer are remembered than there are, those
/// that are too many go with the next deletions.
const FORGET: Statement = Statement::both(
    "map_forget",
    "DELETE FROM map_entries WHERE space = $1 AND value IS NULL AND revision IN \
         (SELECT revision FROM map_entries WHERE space = $1 AND value IS NULL AND revision <= $2 \
          ORDER BY revision LIMIT 1000) RETURNING revision",
);
const FORGOTTEN: Statement = Statement::both(
    "map_forgotten",
    "UPDATE map_spaces SET forgotten = $2 WHERE space = $1",
);

/// How often who waits looks by itself: SQLite tells nobody of another process's commit.
const LOOK_SQLITE: Duration = Duration::from_millis(40);
/// PostgreSQL does tell.
const LOOK_POSTGRES: Duration = Duration::from_millis(500);

/// Agreed records in a database.
#[derive(Debug)]
pub struct SqlMap {
    db: Arc<Db>,
    space: String,
    tombstones: usize,
    /// Raised when something may have changed.
    changed: watch::Sender<u64>,
    #[cfg(feature = "postgres")]
    listener: Option<tokio::task::JoinHandle<()>>,
}

impl SqlMap {
    /// Connects to the database and brings its tables up to date. Blocks the calling thread, for the
    /// configured deadline at most; so do all its calls, on `runtime`, which has threads of its own. They
    /// are made from threads that are not a runtime's.
    ///
    /// # Errors
    /// `Unavailable`: no server answers, or its settings are not fit. `Format`: the tables are newer than
    /// this program. `Unsupported`: the engine is not compiled in.
    pub fn open(config: &Config, runtime: Handle, metrics: &Metrics) -> Result<Self, StoreError> {
        let db = Arc::new(Db::open(config, &TABLES, runtime, metrics)?);
        let space = config.namespace.clone();
        db.call("make the namespace", async |progress| {
            let mut session = db.begin().await?;
            session.run(&MAKE_SPACE, &[space.as_str().into()]).await?;
            progress.commit(session).await
        })
        .map_err(|fault| fault.into_store(&db.name))?;
        Ok(Self::of(config, db))
    }

    /// As [`SqlMap::open`], of a database whose tables are left as they are; `None` where there are none
    /// yet.
    ///
    /// # Errors
    /// As there.
    pub fn open_existing(
        config: &Config,
        runtime: Handle,
        metrics: &Metrics,
    ) -> Result<Option<Self>, StoreError> {
        let db = Arc::new(Db::connected(config, TABLES.name, runtime, metrics)?);
        let version = db
            .call("look at the tables", async |_| {
                crate::migrate::version(&db, &TABLES).await
            })
            .map_err(|fault| fault.into_store(&db.name))?;
        Ok((version > 0).then(|| Self::of(config, db)))
    }

    fn of(config: &Config, db: Arc<Db>) -> Self {
        let space = config.namespace.clone();
        let (changed, _) = watch::channel(0);
        #[cfg(feature = "postgres")]
        let listener = (!db.is_sqlite()).then(|| {
            let listen = crate::listen::listen(db.clone(), space.clone(), changed.clone());
            db.runtime.spawn(listen)
        });
        Self {
            db,
            space,
            tombstones: config.tombstones,
            changed,
            #[cfg(feature = "postgres")]
            listener,
        }
    }

    fn call<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(&Progress) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.db
            .call(what, call)
            .map_err(|fault| fault.into_store(&self.db.name))
    }

    fn write(&self, key: &str, value: Option<&[u8]>, expect: Expect) -> Result<u64, StoreError> {
        check_key(key)?;
        check_value(value.unwrap_or_default())?;
        let revision = self.call("write a record", async |progress| {
            let mut session = self.db.begin().await?;
            match self.change(&mut session, key, value, expect).await {
                Ok(Some(revision)) => {
                    progress.commit(session).await?;
                    Ok(revision)
                }
                Ok(None) => {
                    session.rollback().await;
                    Ok(0)
                }
                Err(fault) => {
                    session.rollback().await;
                    Err(fault)
                }
            }
        })?;
        self.changed.send_modify(|n| *n += 1);
        Ok(revision)
    }

    /// Makes a change; `None` where there is nothing to delete.
    async fn change(
        &self,
        session: &mut Session,
        key: &str,
        value: Option<&[u8]>,
        expect: Expect,
    ) -> Result<Option<u64>, Fault> {
        let space = Value::from(self.space.as_str());
        let raised = session.row(&RAISE, std::slice::from_ref(&space)).await?;
        let raised = raised.ok_or_else(|| Fault::Damaged("the namespace is gone".into()))?;
        let revision = raised.count(0)?;
        let found = session.row(&GET, &[space.clone(), key.into()]).await?;
        let found = found.map(|row| row.count(2)).transpose()?;
        expect.check(key, found)?;
        if value.is_none() && found.is_none() {
            return Ok(None);
        }
        let args = [space.clone(), key.into(), value.into(), revision.into()];
        session.run(&PUT, &args).await?;
        if value.is_none() {
            let kept = [space.clone(), self.tombstones.into()];
            if let Some(row) = session.row(&OLDEST_KEPT, &kept).await? {
                let upto = [space.clone(), row.count(0)?.into()];
                let gone = session.rows(&FORGET, &upto).await?;
                let gone: Result<Vec<u64>, Fault> = gone.iter().map(|row| row.count(0)).collect();
                if let Some(newest) = gone?.into_iter().max() {
                    session.run(&FORGOTTEN, &[space, newest.into()]).await?;
                }
            }
        }
        Ok(Some(revision))
    }

    fn range(&self, prefix: &str, limit: usize) -> [Value; 4] {
        let above = format!("{prefix}\u{7f}");
        [
            self.space.as_str().into(),
            prefix.into(),
            above.as_str().into(),
            limit.into(),
        ]
    }

    async fn page(&self, prefix: &str, after: u64, limit: usize) -> Result<MapPage, Fault> {
        // One more than asked for tells whether there are more.
        let [space, from, to, limit_and_one] = self.range(prefix, limit.saturating_add(1));
        let args = [space, from, to, limit_and_one, after.into()];
        let page = Page::read(self.db.query(&CHANGES, &args).await?)?;
        if after > 0 && after < page.forgotten {
            let first = page.forgotten;
            return Err(StoreError::Trimmed { first }.into());
        }
        let mut page = page.page;
        if page.entries.len() > limit {
            page.entries.truncate(limit);
            page.revision = page.entries.last().map_or(after, |e| e.revision);
        }
        Ok(page)
    }
}

struct Page {
    page: MapPage,
    forgotten: u64,
}

impl Page {
    fn read(rows: Vec<Row>) -> Result<Self, Fault> {
        let first = rows
            .first()
            .ok_or_else(|| Fault::Damaged("the namespace is gone".into()))?;
        let (revision, forgotten) = (first.count(0)?, first.count(1)?);
        let entries = rows
            .iter()
            .filter(|row| !row.is_null(2))
            .map(|row| {
                Ok(MapEntry {
                    key: row.text(2)?,
                    value: row.bytes_or_null(3)?,
                    revision: row.count(4)?,
                })
            })
            .collect::<Result<_, Fault>>()?;
        let page = MapPage { entries, revision };
        Ok(Self { page, forgotten })
    }
}

impl MapStore for SqlMap {
    fn get(&self, key: &str) -> Result<Option<MapEntry>, StoreError> {
        check_key(key)?;
        self.call("read a record", async |_| {
            let args = [self.space.as_str().into(), key.into()];
            let rows = self.db.query(&GET, &args).await?;
            let entry = rows.first().map(|row| {
                Ok(MapEntry {
                    key: row.text(0)?,
                    value: row.bytes_or_null(1)?,
                    revision: row.count(2)?,
                })
            });
            entry.transpose()
        })
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        self.write(key, Some(value), expect)
    }

    fn delete(&self, key: &str, expect: Expect) -> Result<(), StoreError> {
        self.write(key, None, expect).map(drop)
    }

    fn list(&self, prefix: &str, limit: usize) -> Result<MapPage, StoreError> {
        check_prefix(prefix)?;
        let page = self.call("list records", async |_| {
            let args = self.range(prefix, limit.saturating_add(1));
            Ok(Page::read(self.db.query(&LIST, &args).await?)?.page)
        })?;
        page.within(limit)
    }

    fn changes(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Result<MapPage, StoreError> {
        check_prefix(prefix)?;
        let until = Instant::now() + wait;
        let mut changed = self.changed.subscribe();
        let look = match self.db.is_sqlite() {
            true => LOOK_SQLITE,
            false => LOOK_POSTGRES,
        };
        loop {
            changed.mark_unchanged();
            let page = self.call("read changes", async |_| {
                self.page(prefix, after, limit.max(1)).await
            })?;
            let left = until.saturating_duration_since(Instant::now());
            if !page.entries.is_empty() || left.is_zero() {
                return Ok(page);
            }
            let woken = async { tokio::time::timeout(left.min(look), changed.changed()).await };
            // Whether it was woken or is to look by itself: it looks.
            let _ = self.db.runtime.block_on(woken);
        }
    }
}

#[cfg(feature = "postgres")]
impl Drop for SqlMap {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}
