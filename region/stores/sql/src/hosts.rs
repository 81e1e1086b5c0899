//! The servers of one PostgreSQL database: which of them takes writes, and whether it may be trusted
//! with them.
//!
//! A connection goes to the first server that takes writes, the last good one first; one that hangs is
//! given its part of the deadline. After a failover the promoted server has a higher timeline; from then on
//! this process uses no server with a lower one, so that an old primary that comes back is not believed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use gb6_core_ports::uri::Address;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::{Server, Tls};
use crate::fault::Fault;
use crate::link::Link;
use crate::value::Statement;

/// The oldest version that is used: its `client_connection_check_interval` ends statements whose
/// client is gone.
pub(crate) const VERSION_MIN: u64 = 140_000;

pub(crate) const PROBE: Statement = Statement::both(
    "probe",
    "SELECT current_setting('server_version_num')::bigint, pg_is_in_recovery()::int::bigint, \
            current_setting('transaction_read_only'), current_setting('synchronous_commit'), \
            current_setting('fsync'), current_setting('full_page_writes')",
);
const TIMELINE: Statement = Statement::both(
    "timeline",
    "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint",
);

/// The servers.
#[derive(Debug)]
pub(crate) struct Hosts {
    addresses: Vec<Address>,
    options: Vec<PgConnectOptions>,
    /// The one that took writes last.
    preferred: AtomicUsize,
    /// The highest timeline seen; 0 where the server does not tell.
    timeline: AtomicU64,
    patience: Duration,
    weak: bool,
    /// Whether a standby will do.
    reader: bool,
}

impl Hosts {
    /// Those that may take writes.
    pub(crate) fn new(server: &Server, deadline: Duration) -> Self {
        Self::of(server, server.hosts.clone(), deadline)
    }

    /// One that answers reads and may be a standby.
    pub(crate) fn reader(server: &Server, address: &Address, deadline: Duration) -> Self {
        Self {
            reader: true,
            ..Self::of(server, vec![address.clone()], deadline)
        }
    }

    fn of(server: &Server, addresses: Vec<Address>, deadline: Duration) -> Self {
        Self {
            options: addresses
                .iter()
                .map(|a| options(server, a, deadline))
                .collect(),
            // So that all of them can be tried in one call, and its statements run.
            patience: deadline / (addresses.len() as u32 + 1),
            addresses,
            preferred: AtomicUsize::new(0),
            timeline: AtomicU64::new(0),
            weak: server.weak,
            reader: false,
        }
    }

    /// How to connect to the server that took writes last.
    pub(crate) fn current(&self) -> (usize, PgConnectOptions) {
        let at = self.preferred.load(Ordering::Acquire);
        (at, self.options[at].clone())
    }

    /// Connects to the server that takes writes; `moved` is called before another one than before is
    /// used.
    pub(crate) async fn connect(&self, moved: impl Fn()) -> Result<Link, Fault> {
        let begin = self.preferred.load(Ordering::Acquire);
        let count = self.options.len();
        let mut faults = Vec::new();
        for at in (0..count).map(|n| (begin + n) % count) {
            let tried = tokio::time::timeout(self.patience, self.try_one(at)).await;
            let fault = match tried {
                Ok(Ok((link, timeline))) => {
                    let newer = self.timeline.fetch_max(timeline, Ordering::AcqRel) < timeline;
                    if newer || at != begin {
                        self.preferred.store(at, Ordering::Release);
                        moved();
                    }
                    return Ok(link);
                }
                Ok(Err(fault)) => fault,
                Err(_) => Fault::late("connect", self.patience, false),
            };
            faults.push((at, fault));
        }
        Err(self.all_failed(faults))
    }

    fn all_failed(&self, faults: Vec<(usize, Fault)>) -> Fault {
        let refused = faults.iter().any(|(_, f)| matches!(f, Fault::Refused(_)));
        let texts: Vec<String> = faults
            .into_iter()
            .map(|(at, fault)| {
                let cause = match fault {
                    Fault::Lost(c) | Fault::Refused(c) | Fault::Busy(c) => c,
                    other => format!("{other:?}"),
                };
                format!("{}: {cause}", self.addresses[at])
            })
            .collect();
        match refused {
            true => Fault::Refused(texts.join("; ")),
            false => Fault::Lost(texts.join("; ")),
        }
    }

    async fn try_one(&self, at: usize) -> Result<(Link, u64), Fault> {
        let mut link = Link::Postgres(Box::new(self.options[at].connect().await?));
        let row = link.rows(&PROBE, &[]).await?;
        let row = row.first().ok_or_else(|| Fault::Lost("no answer".into()))?;
        let version = row.count(0)?;
        if version < VERSION_MIN {
            return Err(Fault::Refused(format!(
                "PostgreSQL {} is too old: 14 or newer is needed",
                version / 10_000
            )));
        }
        if self.reader {
            return Ok((link, 0));
        }
        if row.int(1)? != 0 || row.text(2)? == "on" {
            return Err(Fault::Lost("it is a standby and takes no writes".into()));
        }
        if !self.weak {
            refuse_weak(&row.text(3)?, &row.text(4)?, &row.text(5)?)?;
        }
        // Services that resemble PostgreSQL do not all tell; then nothing is compared.
        let told = link.rows(&TIMELINE, &[]).await;
        let timeline = match told.as_deref() {
            Ok([row]) => row.count(0)?,
            Err(fault) if fault.is_lost() => return told.map(|_| (link, 0)),
            _ => 0,
        };
        let seen = self.timeline.load(Ordering::Acquire);
        if timeline != 0 && timeline < seen {
            return Err(Fault::Refused(format!(
                "it is on timeline {timeline}, and another server was promoted to {seen}: \
                 stop this old primary and rebuild it as a standby"
            )));
        }
        Ok((link, timeline))
    }
}

/// Settings under which a commit that was answered can be lost.
pub(crate) fn refuse_weak(commit: &str, fsync: &str, pages: &str) -> Result<(), Fault> {
    let wrong = match (commit, fsync, pages) {
        ("off" | "local", _, _) => format!("synchronous_commit={commit}"),
        (_, "off", _) => "fsync=off".to_owned(),
        (_, _, "off") => "full_page_writes=off".to_owned(),
        _ => return Ok(()),
    };
    Err(Fault::Refused(format!(
        "{wrong}: an acknowledged change could be lost. Set it to on, or say \
         weak_durability=allow in the URI"
    )))
}

/// How long a transaction may hold what it has changed while its client says nothing: one that is stopped, or
/// whose machine is gone without a word, keeps all others from changing a map until then. Half of the
/// time that a call has, so that whoever waits behind it still gets its turn.
fn silence_max(deadline: Duration) -> Duration {
    (deadline / 2).clamp(Duration::from_millis(250), Duration::from_secs(10))
}

fn options(server: &Server, address: &Address, deadline: Duration) -> PgConnectOptions {
    // No statement_timeout: one that ends the wait of a commit for a synchronous standby lets the server
    // report a commit that the standby may not have. Locks and idle transactions have bounds instead,
    // and statements of a client that is gone end.
    let silence = silence_max(deadline).as_millis().to_string();
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&address.host)
        .port(address.port)
        .username(&server.user)
        .database(&server.database)
        .application_name("gb6")
        .options([
            ("lock_timeout", "1000"),
            ("idle_in_transaction_session_timeout", silence.as_str()),
            ("client_connection_check_interval", "1000"),
            ("statement_timeout", "0"),
        ])
        .ssl_mode(match server.tls {
            Tls::Disable => PgSslMode::Disable,
            Tls::Prefer => PgSslMode::Prefer,
            Tls::Require => PgSslMode::Require,
            Tls::VerifyCa => PgSslMode::VerifyCa,
            Tls::VerifyFull => PgSslMode::VerifyFull,
        })
        .disable_statement_logging();
    if let Some(password) = &server.password {
        options = options.password(password.reveal());
    }
    if let Some(path) = &server.root_certificate {
        options = options.ssl_root_cert(PathBuf::clone(path));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_transaction_ends_before_the_calls_that_wait_for_it() {
        let silence = |ms| silence_max(Duration::from_millis(ms)).as_millis();
        assert_eq!((silence(2_000), silence(6_000)), (1_000, 3_000));
        assert_eq!((silence(50), silence(60_000)), (250, 10_000));
    }

    #[test]
    fn settings_that_lose_commits_are_refused() {
        for (commit, fsync, pages) in [
            ("off", "on", "on"),
            ("local", "on", "on"),
            ("on", "off", "on"),
            ("on", "on", "off"),
        ] {
            let refused = refuse_weak(commit, fsync, pages);
            assert!(
                matches!(refused, Err(Fault::Refused(_))),
                "{commit} {fsync}"
            );
        }
        for commit in ["on", "remote_apply", "remote_write"] {
            refuse_weak(commit, "on", "on").unwrap();
        }
    }
}
