//! Which database: `sqlite:PATH` or `postgres://user:password@host:port,host:port/database`, with options
//! behind a `?`. `docs/directory.md` lists them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gb6_core_ports::StoreError;
use gb6_core_ports::map::MAP_TOMBSTONES;
use gb6_core_ports::uri::{PercentError, percent_decoded};
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
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) tls: Tls,
    pub(crate) root_certificate: Option<PathBuf>,
    pub(crate) connections: usize,
    /// Whether settings that lose acknowledged writes are accepted.
    pub(crate) weak: bool,
    /// Whether a role that row-level security does not bind is accepted.
    pub(crate) superuser: bool,
}

/// A server's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
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
        let (address, query) = uri.split_once('?').unwrap_or((uri, ""));
        let mut options = Options::parse(query)?;
        let engine = if let Some(path) = address.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return Err(format!("sqlite: needs a path, {GOOD}"));
            }
            Engine::Sqlite(PathBuf::from(decoded(path)?))
        } else if let Some(rest) = address
            .strip_prefix("postgres://")
            .or_else(|| address.strip_prefix("postgresql://"))
        {
            Engine::Postgres(server(rest, &mut options)?)
        } else {
            let scheme = address.split(':').next().unwrap_or_default();
            return Err(format!("`{scheme}:` is no database, {GOOD}"));
        };
        let millis = options.number("timeout_ms", 2_000, 50..=60_000)?;
        let tombstones = options.number("tombstones", MAP_TOMBSTONES as u64, 1..=1_000_000)?;
        let namespace = options.take("namespace").unwrap_or_else(|| "gb6".into());
        let shard = options.take("shard").unwrap_or_else(|| "main".into());
        for (option, name) in [("namespace", &namespace), ("shard", &shard)] {
            let fits = name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            if name.is_empty() || name.len() > 63 || !fits {
                return Err(format!(
                    "{option}={name}: 1 to 63 letters, digits, `-` or `_`, such as {option}=main"
                ));
            }
        }
        options.all_taken()?;
        Ok(Self {
            engine,
            namespace,
            deadline: Duration::from_millis(millis),
            tombstones: tombstones as usize,
            shard,
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

/// What stands behind `postgres://`.
fn server(rest: &str, options: &mut Options) -> Result<Server, String> {
    let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(decoded(password)?)),
        None => (login, None),
    };
    if user.is_empty() || database.is_empty() {
        return Err(format!("postgres:// needs a user and a database, {GOOD}"));
    }
    let from_file = match options.take("password_file") {
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|e| format!("password_file={path} can not be read: {e}"))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => None,
    };
    if password.is_some() && from_file.is_some() {
        return Err("a password in the URI and a password_file: leave one out".into());
    }
    let tls = match options.take("sslmode").as_deref() {
        None | Some("prefer") => Tls::Prefer,
        Some("disable") => Tls::Disable,
        Some("require") => Tls::Require,
        Some("verify-ca") => Tls::VerifyCa,
        Some("verify-full") => Tls::VerifyFull,
        Some(other) => {
            return Err(format!(
                "sslmode={other}: disable, prefer, require, verify-ca or verify-full"
            ));
        }
    };
    let reads = match options.take("reads") {
        Some(list) => addresses(&list)?,
        None => Vec::new(),
    };
    Ok(Server {
        hosts: addresses(hosts)?,
        reads,
        user: decoded(user)?,
        password: password.or(from_file),
        database: decoded(database)?,
        tls,
        root_certificate: options.take("sslrootcert").map(PathBuf::from),
        connections: options.number("connections", 8, 1..=200)? as usize,
        weak: options.flag("weak_durability")?,
        superuser: options.flag("superuser")?,
    })
}

/// `host`, `host:port`, `[v6]:port`, with commas between.
fn addresses(list: &str) -> Result<Vec<Address>, String> {
    let all: Vec<Address> = list.split(',').map(address).collect::<Result<_, _>>()?;
    match all.len() {
        0..=16 => Ok(all),
        n => Err(format!("{n} hosts, at most 16 are tried")),
    }
}

fn address(text: &str) -> Result<Address, String> {
    let bad = || format!("`{text}` is no host, such as db1:5432 or [fd00::1]:5432");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| bad())?,
        None => 5432,
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c);
    if host.is_empty() || port == 0 || host.contains(odd) {
        return Err(bad());
    }
    Ok(Address {
        host: host.to_owned(),
        port,
    })
}

/// With `%XX` turned into what it stands for.
fn decoded(text: &str) -> Result<String, String> {
    percent_decoded(text).map_err(|error| {
        let wrong = match error {
            PercentError::Digits => {
                "a `%` in the URI begins no two hexadecimal digits: write %25 for a `%`"
            }
            PercentError::Utf8 => "the URI is not UTF-8",
        };
        wrong.to_owned()
    })
}

/// What stands behind `?`.
#[derive(Debug)]
struct Options(Vec<(String, String)>);

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut all: Vec<(String, String)> = Vec::new();
        for part in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if all.iter().any(|(n, _)| n == name) {
                return Err(format!("the option {name} is there twice"));
            }
            all.push((name.to_owned(), decoded(value)?));
        }
        Ok(Self(all))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    fn number(
        &mut self,
        name: &str,
        default: u64,
        bounds: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, String> {
        let Some(text) = self.take(name) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(n) if bounds.contains(&n) => Ok(n),
            _ => Err(format!(
                "{name}={text}: a number from {} to {}, {default} by default",
                bounds.start(),
                bounds.end()
            )),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name).as_deref() {
            None => Ok(false),
            Some("allow") => Ok(true),
            Some(other) => Err(format!("{name}={other}: only `allow`, or leave it out")),
        }
    }

    fn all_taken(self) -> Result<(), String> {
        const KNOWN: &str = "timeout_ms, namespace, shard and tombstones; for postgres:// also \
                             connections, sslmode, sslrootcert, password_file, reads, \
                             weak_durability and superuser";
        match self.0.first() {
            Some((name, _)) => Err(format!("{name} is no option here: {KNOWN}")),
            None => Ok(()),
        }
    }
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
        assert_eq!(server.password.as_deref(), Some("p@ss:w"));
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
        let (_, known) = unknown.split_once(": ").unwrap();
        let mut known: Vec<&str> = known
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|w| !["", "and", "for", "postgres", "also"].contains(w))
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
            ("sqlite:x?wal=off", "wal is no option"),
            ("sqlite:x?connections=3", "connections is no option"),
            ("sqlite:x?timeout_ms=1", "50 to 60000"),
            ("sqlite:x?timeout_ms=100&timeout_ms=100", "twice"),
            ("sqlite:x?namespace=a/b", "letters"),
            ("sqlite:%zz", "%25"),
            ("postgres://db1/gb6", "user"),
            ("postgres://gb6:hush@db1", "database"),
            ("postgres://gb6:hush@/gb6", "no host"),
            ("postgres://gb6:hush@db1:x/gb6", "no host"),
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
