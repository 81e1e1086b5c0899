//! Which database: `sqlite:PATH` or `postgres://user:password@host:port,host:port/database`, with options
//! behind a `?`. `docs/directory.md` lists them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gb6_core_ports::StoreError;
use gb6_core_ports::map::MAP_TOMBSTONES;
use gb6_core_ports::uri::{Address, Options, Secret, URI_BYTES_MAX, Uri, addresses, decoded};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// A database and how it is used. `Display` and `Debug` hide the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) engine: Engine,
    /// Whose records: several may share one database.
    pub(crate) namespace: String,
    /// How long a call may take.
    pub(crate) deadline: Duration,
    /// Deletions that the map remembers.
    pub(crate) tombstones: usize,
    /// The name under which placements of customers know the database.
    pub(crate) shard: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite(PathBuf),
    Postgres(Server),
}

/// A PostgreSQL database and the servers that may have it.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) struct Server {
    pub(crate) hosts: Vec<Address>,
    /// Servers that answer reads which may be stale.
    pub(crate) reads: Vec<Address>,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) database: String,
    pub(crate) tls: Tls,
    pub(crate) root_certificate: Option<PathBuf>,
    pub(crate) connections: usize,
    /// Whether settings that lose acknowledged writes are accepted.
    pub(crate) weak: bool,
    /// Whether a role that row-level security does not bind is accepted.
    pub(crate) superuser: bool,
}

/// How connections are encrypted, by libpq's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tls {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The port of PostgreSQL.
const PORT: u16 = 5432;
/// Longest name of a namespace or shard.
const NAME_BYTES_MAX: usize = 63;
const MODES: &[(&str, Tls)] = &[
    ("disable", Tls::Disable),
    ("prefer", Tls::Prefer),
    ("require", Tls::Require),
    ("verify-ca", Tls::VerifyCa),
    ("verify-full", Tls::VerifyFull),
];

const GOOD: &str =
    "such as sqlite:/var/lib/gb6/map.db or postgres://gb6:secret@db1:5432,db2:5432/gb6";

impl Config {
    /// How many servers it names; a file is one.
    #[cfg(feature = "postgres")]
    pub(crate) fn server_count(&self) -> usize {
        match &self.engine {
            Engine::Sqlite(_) => 1,
            Engine::Postgres(server) => server.hosts.len(),
        }
    }

    /// Whether a role that row-level security does not bind is accepted.
    pub(crate) fn takes_superuser(&self) -> bool {
        matches!(&self.engine, Engine::Postgres(server) if server.superuser)
    }

    /// The file of an SQLite database that is not there: whoever opens it makes an empty one.
    pub fn missing_file(&self) -> Option<&Path> {
        match &self.engine {
            Engine::Sqlite(path) if !path.exists() => Some(path),
            _ => None,
        }
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// What is wrong, and a good one beside it; never the password.
    pub fn parse(uri: &str) -> Result<Self, String> {
        Self::read(uri).map_err(|wrong| format!("{wrong}, {GOOD}"))
    }

    fn read(uri: &str) -> Result<Self, String> {
        let (engine, mut options) = match uri.strip_prefix("sqlite:") {
            Some(rest) => sqlite(rest)?,
            None => {
                let scheme = uri.split(':').next().unwrap_or_default();
                if !matches!(scheme, "postgres" | "postgresql") {
                    return Err(format!("`{scheme}:` is no database"));
                }
                let mut uri = Uri::parse(uri)?;
                let server = server(&mut uri)?;
                (Engine::Postgres(server), uri.options)
            }
        };
        let deadline = options.millis("timeout_ms", 50..=60_000)?;
        let tombstones = options.number("tombstones", 1..=1_000_000)?;
        let mut name = |option| options.name(option, NAME_BYTES_MAX, "-_");
        let (namespace, shard) = (name("namespace")?, name("shard")?);
        options.end()?;
        Ok(Self {
            engine,
            namespace: namespace.unwrap_or_else(|| "gb6".into()),
            deadline: deadline.unwrap_or(Duration::from_secs(2)),
            tombstones: tombstones.map_or(MAP_TOMBSTONES, |n| n as usize),
            shard: shard.unwrap_or_else(|| "main".into()),
        })
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Engine::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Engine::Postgres(server) => {
                let hosts: Vec<String> = server.hosts.iter().map(Address::to_string).collect();
                let (user, database) = (&server.user, &server.database);
                write!(f, "postgres://{user}@{}/{database}", hosts.join(","))
            }
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("database", &self.to_string())
            .field("namespace", &self.namespace)
            .field("deadline", &self.deadline)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

/// What stands behind `sqlite:`.
fn sqlite(rest: &str) -> Result<(Engine, Options), String> {
    if rest.len() > URI_BYTES_MAX {
        return Err(format!("it is longer than {URI_BYTES_MAX} bytes"));
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = decoded(path)?;
    if path.is_empty() || path.contains('\0') {
        return Err("sqlite: needs a path".into());
    }
    Ok((Engine::Sqlite(path.into()), Options::parse(query)?))
}

/// What a URI of PostgreSQL says.
fn server(uri: &mut Uri) -> Result<Server, String> {
    let login = uri.login()?;
    let database = uri.path.clone();
    if login.user.is_empty() || database.is_empty() {
        return Err("postgres:// needs a user and a database".into());
    }
    let hosts = uri.addresses(Some(PORT))?;
    let options = &mut uri.options;
    let reads = match options.take("reads") {
        Some(list) => addresses(&list, Some(PORT))?,
        None => Vec::new(),
    };
    let password = login.password.map(|password| password.read());
    let allow: &[(&str, ())] = &[("allow", ())];
    Ok(Server {
        hosts,
        reads,
        user: login.user,
        password: password.transpose()?,
        database,
        tls: options.choice("sslmode", MODES)?.unwrap_or(Tls::Prefer),
        root_certificate: options.path("sslrootcert")?,
        connections: options.number("connections", 1..=200)?.unwrap_or(8) as usize,
        weak: options.choice("weak_durability", allow)?.is_some(),
        superuser: options.choice("superuser", allow)?.is_some(),
    })
}

/// How the one writer and the readers of a file connect. Makes the file, for its owner alone.
pub(crate) fn sqlite_options(
    path: &Path,
    deadline: Duration,
) -> Result<(SqliteConnectOptions, SqliteConnectOptions), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    made.map_err(|e| StoreError::Io {
        operation: "open",
        path: path.display().to_string(),
        detail: e.to_string(),
    })?;
    let write = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Another process may write meanwhile: wait for it, and have some time left.
        .busy_timeout(deadline / 2)
        .disable_statement_logging();
    let read = write.clone().pragma("query_only", "on");
    Ok((write, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_uris_are_understood() {
        let c = Config::parse("sqlite:/var/lib/gb6/a%20b.db?timeout_ms=500&namespace=eu").unwrap();
        assert_eq!(c.to_string(), "sqlite:/var/lib/gb6/a b.db");
        assert_eq!((c.deadline.as_millis(), c.namespace.as_str()), (500, "eu"));
        let c = Config::parse(
            "postgres://gb6:p%40ss:w@db1,db2:5433,[::1]:7/gb6?reads=r1:1,r2&sslmode=verify-full",
        )
        .unwrap();
        assert_eq!(
            c.to_string(),
            "postgres://gb6@db1:5432,db2:5433,[::1]:7/gb6"
        );
        let Engine::Postgres(server) = &c.engine else {
            panic!("{c}");
        };
        assert_eq!(server.password.as_ref().map(Secret::reveal), Some("p@ss:w"));
        assert_eq!((server.reads.len(), server.tls), (2, Tls::VerifyFull));
        assert!(!format!("{c:?}").contains("p@ss"), "{c:?}");
    }

    /// The table of options in the documentation: each is known, and has the default that it says.
    #[test]
    fn the_documentation_has_every_option() {
        let page = include_str!("../../../../docs/directory.md");
        let rows = page
            .lines()
            .skip_while(|l| !l.starts_with("| Option "))
            .skip(2);
        let rows: Vec<(&str, &str)> = rows
            .map_while(|l| l.strip_prefix("| `"))
            .filter_map(|l| l.split_once("` | "))
            .map(|(name, rest)| (name, rest.split(" | ").next().unwrap_or_default()))
            .collect();
        let unknown = Config::parse("postgres://a@b/c?nothing=1").unwrap_err();
        let (_, known) = unknown.split_once("there are ").unwrap();
        let (known, _) = known.split_once(", such as").unwrap();
        let mut known: Vec<&str> = known
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|w| !["", "and"].contains(w))
            .collect();
        let mut named: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        named.sort_unstable();
        assert_eq!(named, known);
        let plain = Config::parse("postgres://a@b/c").unwrap();
        for (name, default) in rows {
            let default = default.trim_matches('`');
            if !["none", "refused"].contains(&default) {
                let said = Config::parse(&format!("postgres://a@b/c?{name}={default}"));
                assert_eq!(said.unwrap(), plain, "{name}={default}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_is_answered(
            text in "(sqlite:|postgres://)?[a-z:/@,?&=%0-9\\[\\]]{0,60}",
            password in "[A-Z]{12}",
        ) {
            let _ = Config::parse(&text);
            let with = format!("postgres://user:{password}@{text}");
            match Config::parse(&with) {
                Ok(config) => assert!(!format!("{config} {config:?}").contains(&password)),
                // An `@` in the rest makes it a part of the password; what is said is not that part.
                Err(error) => assert!(!error.contains(&password), "{error}"),
            }
        }
    }

    #[test]
    fn bad_uris_are_told_what_is_wrong() {
        for (uri, word) in [
            ("", "such as sqlite:"),
            ("mysql://a/b", "mysql"),
            ("sqlite:", "path"),
            ("sqlite:x?wal=off", "no option \"wal\""),
            ("sqlite:x?connections=3", "no option \"connections\""),
            ("sqlite:x?timeout_ms=1", "50 to 60000"),
            ("sqlite:x?timeout_ms=100&timeout_ms=100", "twice"),
            ("sqlite:x?namespace=a/b", "letters"),
            ("sqlite:%zz", "%25"),
            ("postgres://db1/gb6", "user"),
            ("postgres://gb6:hush@db1", "database"),
            ("postgres://gb6:hush@/gb6", "no host"),
            ("postgres://gb6:hush@db1:x/gb6", "HOST:PORT"),
            ("postgres://gb6:hush@db1/gb6?sslmode=on", "verify-full"),
            ("postgres://gb6:hush@db1/gb6?connections=0", "1 to 200"),
            ("postgres://gb6:hush@db1/gb6?weak_durability=1", "allow"),
            ("postgres://gb6@db1/gb6?password_file=/none", "/none"),
        ] {
            let error = Config::parse(uri).expect_err(uri);
            assert!(error.contains(word), "{uri}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
        let both = Config::parse("postgres://gb6:hush@db1/gb6?password_file=/dev/null");
        assert!(both.unwrap_err().contains("leave one out"));
    }
}
