//! A bounded pool of connections, and a session: one of them while a call has it.
//!
//! A session that was given up in the middle of anything (a deadline, an error in a transaction) never
//! goes back: its connection is closed, and the database rolls back what it held.
//!
//! Connections that hang without being closed mostly do so together, because of what lies between. So
//! while a statement of one has had no answer for long, an idle one is used only if it has answered since
//! that statement was begun; else a new one is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fault::Fault;
#[cfg(feature = "postgres")]
use crate::hosts::Hosts;
use crate::link::Link;
use crate::metrics::SqlMetrics;
use crate::value::{Row, Statement, Value};

/// A connection that nobody used for longer is not trusted to be there.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// What a call that writes asks one after the other. Where each takes more than its part of the deadline
/// none succeeds anyway, and it costs nothing more that connections are taken for ones that hang.
const STATEMENTS: u32 = 5;
/// A lease of the nodes of a region is kept by a second attempt after half a second, which needs another
/// connection.
const SILENT_AFTER_MAX: Duration = Duration::from_millis(400);

/// How a connection is made.
#[derive(Debug)]
pub(crate) enum Connector {
    Sqlite(SqliteConnectOptions),
    #[cfg(feature = "postgres")]
    Postgres(Hosts),
}

/// Connections to one database.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) connector: Connector,
    // overflow: a call waits for a connection until its deadline, then it is answered `Unavailable`.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// Raised when connections that were made before are not to be used any more.
    generation: AtomicU64,
    silence: Mutex<Silence>,
    /// After so long a statement without an answer is taken for one whose connection hangs; `None`: none
    /// does, for nothing lies between.
    silent_after: Option<Duration>,
    metrics: SqlMetrics,
}

/// Statements that have no answer.
#[derive(Debug, Default)]
struct Silence {
    /// When those under way were begun, by number. Bounded by the connections.
    running: BTreeMap<u64, Instant>,
    next_number: u64,
    /// When the latest was begun that was given up.
    given_up: Option<Instant>,
}

impl Silence {
    /// A connection that has not answered since this moment may hang.
    fn began(&self, now: Instant, silent_after: Option<Duration>) -> Option<Instant> {
        let silent_after = silent_after?;
        let running = self.running.values().copied();
        let silent = running.filter(|begun| now.saturating_duration_since(*begun) >= silent_after);
        silent.chain(self.given_up).max()
    }
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
    generation: u64,
}

impl Pool {
    /// One of at most `size` connections, for calls that may take as long as `deadline`.
    pub(crate) fn new(
        connector: Connector,
        size: usize,
        deadline: Duration,
        metrics: SqlMetrics,
    ) -> Arc<Self> {
        let is_remote = !matches!(connector, Connector::Sqlite(_));
        let silent_after = is_remote.then(|| (deadline / STATEMENTS).min(SILENT_AFTER_MAX));
        Arc::new(Self {
            connector,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            generation: AtomicU64::new(0),
            silence: Mutex::default(),
            silent_after,
            metrics,
        })
    }

    /// Lets go of every idle connection, and of the used ones when they come back.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let gone = std::mem::take(&mut *self.idle.lock());
        self.metrics.connections.sub(gone.len() as i64);
    }

    fn take_idle(&self) -> Option<Link> {
        let generation = self.generation.load(Ordering::Acquire);
        let silence = self.silence.lock().began(Instant::now(), self.silent_after);
        let mut idle = self.idle.lock();
        while let Some(one) = idle.pop() {
            let answers = silence.is_none_or(|began| one.since > began);
            if one.generation == generation && answers && one.since.elapsed() < IDLE_MAX {
                return Some(one.link);
            }
            self.metrics.connections.dec();
        }
        None
    }

    async fn connect(self: &Arc<Self>) -> Result<Link, Fault> {
        let result = match &self.connector {
            Connector::Sqlite(options) => match options.connect().await {
                Ok(link) => Ok(Link::Sqlite(Box::new(link))),
                Err(e) => Err(e.into()),
            },
            #[cfg(feature = "postgres")]
            Connector::Postgres(hosts) => hosts.connect(|| self.forget()).await,
        };
        self.metrics.connected(&result);
        if result.is_ok() {
            self.metrics.connections.inc();
        }
        result
    }

    /// A connection for one call.
    pub(crate) async fn session(self: &Arc<Self>) -> Result<Session, Fault> {
        let asked = Instant::now();
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| Fault::Lost("the pool is closed".into()))?;
        let (link, reused) = match self.take_idle() {
            Some(link) => (link, true),
            None => (self.connect().await?, false),
        };
        self.metrics.waited(asked.elapsed());
        Ok(Session {
            generation: self.generation.load(Ordering::Acquire),
            pool: self.clone(),
            link: Some(link),
            reused,
            fit: true,
            in_transaction: false,
            _permit: permit,
        })
    }

    /// The rows of one statement outside a transaction.
    pub(crate) async fn query(
        self: &Arc<Self>,
        statement: &Statement,
        args: &[Value],
    ) -> Result<Vec<Row>, Fault> {
        loop {
            let mut session = self.session().await?;
            match session.rows(statement, args).await {
                Err(fault) if fault.is_lost() && session.reused => self.forget(),
                result => return result,
            }
        }
    }

    /// A session in a transaction that `begin` begins. Connections that broke while nobody used them
    /// are passed over.
    pub(crate) async fn begin(self: &Arc<Self>, begin: &'static str) -> Result<Session, Fault> {
        loop {
            let mut session = self.session().await?;
            match session.script("begin", begin).await {
                Ok(()) => {
                    session.in_transaction = true;
                    return Ok(session);
                }
                Err(fault) if fault.is_lost() && session.reused => self.forget(),
                Err(fault) => return Err(fault),
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let idle = self.idle.get_mut().len();
        self.metrics.connections.sub(idle as i64);
    }
}

/// A connection while one call has it.
#[derive(Debug)]
pub(crate) struct Session {
    pool: Arc<Pool>,
    /// Taken when the session ends.
    link: Option<Link>,
    generation: u64,
    /// Whether it was used before, so that it may have broken meanwhile.
    reused: bool,
    /// Whether the connection is known to wait for the next statement.
    fit: bool,
    in_transaction: bool,
    _permit: OwnedSemaphorePermit,
}

/// A statement without an answer; counts one that its caller gave up.
struct Running<'a> {
    pool: &'a Pool,
    name: &'static str,
    since: Instant,
    number: u64,
    ended: bool,
}

impl<'a> Running<'a> {
    fn begin(pool: &'a Pool, name: &'static str) -> Self {
        let since = Instant::now();
        let mut silence = pool.silence.lock();
        let number = silence.next_number;
        silence.next_number += 1;
        silence.running.insert(number, since);
        Self {
            pool,
            name,
            since,
            number,
            ended: false,
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut silence = self.pool.silence.lock();
        silence.running.remove(&self.number);
        if !self.ended {
            silence.given_up = silence.given_up.max(Some(self.since));
            self.pool.metrics.late(self.name);
        }
    }
}

macro_rules! running {
    ($session:expr, $name:expr, $link:ident => $call:expr) => {{
        let session = $session;
        let Some($link) = session.link.as_mut() else {
            return Err(Fault::Lost("the connection is closed".into()));
        };
        let mut running = Running::begin(&session.pool, $name);
        // A call that is given up here leaves it so.
        session.fit = false;
        let result = $call.await;
        running.ended = true;
        session
            .pool
            .metrics
            .statement(running.name, running.since.elapsed(), &result);
        session.fit = !result.as_ref().is_err_and(Fault::is_lost);
        result
    }};
}

impl Session {
    /// Runs a statement; answers its rows.
    pub(crate) async fn rows(
        &mut self,
        statement: &Statement,
        args: &[Value],
    ) -> Result<Vec<Row>, Fault> {
        running!(self, statement.name, link => link.rows(statement, args))
    }

    /// Runs a statement; answers its one row, if there is one.
    pub(crate) async fn row(
        &mut self,
        statement: &Statement,
        args: &[Value],
    ) -> Result<Option<Row>, Fault> {
        Ok(self.rows(statement, args).await?.into_iter().next())
    }

    /// Runs a statement; answers how many rows it changed.
    pub(crate) async fn run(
        &mut self,
        statement: &Statement,
        args: &[Value],
    ) -> Result<u64, Fault> {
        running!(self, statement.name, link => link.run(statement, args))
    }

    /// Runs statements without parameters.
    pub(crate) async fn script(
        &mut self,
        name: &'static str,
        sql: &'static str,
    ) -> Result<(), Fault> {
        running!(self, name, link => link.script(sql))
    }

    /// Runs statements whose text was built: of numbers and names of this program alone.
    pub(crate) async fn script_built(
        &mut self,
        name: &'static str,
        sql: String,
    ) -> Result<(), Fault> {
        running!(self, name, link => link.script_built(sql))
    }

    /// Ends the transaction and keeps what it wrote.
    ///
    /// What breaks from here on leaves its outcome unknown.
    pub(crate) async fn commit(mut self) -> Result<(), Fault> {
        match self.script("commit", "COMMIT").await {
            Ok(()) => {
                self.in_transaction = false;
                Ok(())
            }
            Err(Fault::Lost(cause)) => Err(Fault::Unknown(cause)),
            Err(fault) => Err(fault),
        }
    }

    /// Ends the transaction and forgets what it wrote. One that is dropped instead costs its connection.
    pub(crate) async fn rollback(mut self) {
        if self.fit && self.script("rollback", "ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else {
            return;
        };
        let current = self.pool.generation.load(Ordering::Acquire) == self.generation;
        if self.fit && !self.in_transaction && current {
            self.pool.idle.lock().push(Idle {
                link,
                since: Instant::now(),
                generation: self.generation,
            });
        } else {
            self.pool.metrics.connections.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_answered_since_a_statement_hangs_may_hang_too() {
        let (begun, ms) = (Instant::now(), Duration::from_millis);
        let mut silence = Silence::default();
        silence.running.insert(0, begun);
        silence.running.insert(1, begun + ms(100));
        let after = Some(ms(400));
        assert_eq!(silence.began(begun + ms(399), after), None);
        assert_eq!(silence.began(begun + ms(400), after), Some(begun));
        let both = silence.began(begun + ms(500), after);
        assert_eq!(both, Some(begun + ms(100)));
        // It was given up, so that it did hang, however long that took.
        silence.running.clear();
        silence.given_up = Some(begun + ms(7));
        assert_eq!(silence.began(begun + ms(8), after), Some(begun + ms(7)));
        assert_eq!(silence.began(begun + ms(8), None), None, "no network");
    }
}
