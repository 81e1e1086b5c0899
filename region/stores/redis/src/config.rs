//! Where a Redis is and how to talk to it: one URI.
//!
//! ```text
//! redis://[USER:PASSWORD@]HOST[:PORT][/DB][?OPTIONS]            one server (or a primary behind a name)
//! rediss://…                                                     the same over TLS
//! redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT][?…]    a cluster; some of its nodes
//! rediss+cluster://…                                             the same over TLS
//! ```

use std::fmt;
use std::time::Duration;

use gb6_core_ports::uri::{Address, Options, Secret, Uri, number};

/// An example for errors.
const GOOD: &str = "write for example redis://user:password@redis1:6379/0?timeout_ms=200 or rediss+cluster://r1:6379,r2:6379?password_file=/etc/gb6/redis";
/// The port of Redis.
const PORT: u16 = 6379;
/// Longest prefix of keys in bytes.
const PREFIX_MAX: usize = 32;
/// Largest file with a certificate or its key in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// How TLS is done. PEM files that were read when the URI was.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Tls {
    /// Who may sign the server's certificate; `None`: the public authorities.
    pub(crate) authorities: Option<Vec<u8>>,
    /// Our certificate and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("own_authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// One Redis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Hosts and ports: one, or some nodes of a cluster.
    pub(crate) nodes: Vec<Address>,
    pub(crate) cluster: bool,
    pub(crate) tls: Option<Tls>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: i64,
    /// How long a call may take before it counts as lost.
    pub(crate) timeout: Duration,
    /// How long a new connection may take until it answers.
    pub(crate) connect_timeout: Duration,
    /// What the names of all keys and channels begin with.
    pub(crate) prefix: String,
    /// How long shares of limits and people's statuses last.
    pub(crate) lease: Duration,
}

/// Without the password and without what the URI says of files.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls.is_some() {
            "rediss"
        } else {
            "redis"
        };
        let cluster = if self.cluster { "+cluster" } else { "" };
        let nodes: Vec<String> = self.nodes.iter().map(Address::to_string).collect();
        write!(f, "{tls}{cluster}://{}", nodes.join(","))?;
        match self.database {
            0 => Ok(()),
            database => write!(f, "/{database}"),
        }
    }
}

impl Config {
    /// Reads a URI and the files that it names.
    ///
    /// Options: `timeout_ms` (200; 10 to 5000: a call's deadline), `connect_timeout_ms` (1000; 50 to
    /// 30000), `prefix` (`gb6`: what keys and channels begin with), `lease_ms` (30000; 1000 to 300000:
    /// how long shares of limits and people's statuses last), `password_file`; with TLS `ca_file` (who
    /// may sign the server's certificate, instead of the public authorities), `cert_file` and
    /// `key_file` (ours).
    ///
    /// # Errors
    /// What is wrong with it, and a good one; never its password.
    pub fn parse(uri: &str) -> Result<Self, String> {
        Self::read(uri).map_err(|wrong| format!("{wrong}: {GOOD}"))
    }

    fn read(uri: &str) -> Result<Self, String> {
        let mut uri = Uri::parse(uri)?;
        let (tls, cluster) = match uri.scheme.as_str() {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis+cluster" => (false, true),
            "rediss+cluster" => (true, true),
            _ => {
                return Err(
                    "its scheme is none of redis, rediss, redis+cluster and rediss+cluster".into(),
                );
            }
        };
        let nodes = uri.addresses(Some(PORT))?;
        if !cluster && nodes.len() > 1 {
            return Err("it names several hosts, which only a cluster (redis+cluster) has".into());
        }
        let database = match uri.path.as_str() {
            "" => 0,
            _ if cluster => return Err("a cluster has no numbered databases".into()),
            path => number("the database", path, 0..=1_000_000)?,
        };
        let login = uri.login()?;
        if !login.user.is_empty() && login.password.is_none() {
            return Err(
                "before the @ stands no user:password, and there is no password_file".into(),
            );
        }
        let password = login.password.map(|password| password.read());
        let options = &mut uri.options;
        let timeout = options.millis("timeout_ms", 10..=5_000)?;
        let connect_timeout = options.millis("connect_timeout_ms", 50..=30_000)?;
        let lease = options.millis("lease_ms", 1_000..=300_000)?;
        let prefix = options.name("prefix", PREFIX_MAX, "-_.")?;
        let config = Self {
            nodes,
            cluster,
            tls: certificates(options, tls)?,
            user: Some(login.user).filter(|user| !user.is_empty()),
            password: password.transpose()?,
            database: i64::try_from(database).unwrap_or(0),
            timeout: timeout.unwrap_or(Duration::from_millis(200)),
            connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(1)),
            prefix: prefix.unwrap_or_else(|| "gb6".to_owned()),
            lease: lease.unwrap_or(Duration::from_secs(30)),
        };
        uri.options.end()?;
        Ok(config)
    }
}

/// The files of TLS, where it is spoken.
fn certificates(options: &mut Options, tls: bool) -> Result<Option<Tls>, String> {
    let mut read = |name: &'static str| match options.take(name) {
        None => Ok(None),
        Some(_) if !tls => Err(format!("{name} needs TLS: write rediss instead of redis")),
        Some(path) => file(name, &path).map(Some),
    };
    let (authorities, certificate, key) = (read("ca_file")?, read("cert_file")?, read("key_file")?);
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("cert_file and key_file belong together".into()),
    };
    Ok(tls.then_some(Tls {
        authorities,
        identity,
    }))
}

fn file(name: &str, path: &str) -> Result<Vec<u8>, String> {
    let wrong = |what: &dyn fmt::Display| format!("{name}: {path}: {what}");
    let size = std::fs::metadata(path).map_err(|e| wrong(&e))?.len();
    if size == 0 || size > FILE_MAX {
        return Err(wrong(&format!(
            "the file has {size} bytes, 1 to {FILE_MAX} are right"
        )));
    }
    std::fs::read(path).map_err(|e| wrong(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_part_is_read() {
        let config = Config::parse("redis://ann:s%40cret@r1:7000/3?timeout_ms=50&connect_timeout_ms=500&prefix=eu.1&lease_ms=2000").unwrap();
        assert_eq!(config.nodes[0].to_string(), "r1:7000");
        assert_eq!(config.user.as_deref(), Some("ann"));
        assert_eq!(config.password.as_ref().unwrap().reveal(), "s@cret");
        assert_eq!(
            (config.database, config.cluster, &config.tls),
            (3, false, &None)
        );
        assert_eq!(config.timeout, Duration::from_millis(50));
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(
            (config.prefix.as_str(), config.lease.as_secs()),
            ("eu.1", 2)
        );
        assert_eq!(config.to_string(), "redis://r1:7000/3");
        let cluster = Config::parse("rediss+cluster://:pw@[::1]:7000,r2").unwrap();
        assert!(cluster.cluster && cluster.tls.is_some() && cluster.user.is_none());
        assert_eq!(cluster.to_string(), "rediss+cluster://[::1]:7000,r2:6379");
        let plain = Config::parse("redis://localhost").unwrap();
        assert_eq!(plain.timeout, Duration::from_millis(200));
        assert!(plain.password.is_none());
    }

    #[test]
    fn what_is_wrong_is_said_with_a_good_one_and_without_the_password() {
        for (uri, wrong) in [
            ("", "no ://"),
            ("http://r1", "scheme"),
            ("redis://", "host"),
            ("redis://r1:0", "HOST:PORT"),
            ("redis://r1:99999", "HOST:PORT"),
            ("redis://r1,r2", "cluster"),
            ("redis+cluster://r1/2", "databases"),
            ("redis://r1/two", "database"),
            ("redis://hunter2@r1", "user:password"),
            ("redis://u:hunter2@r1?x=1", "no option"),
            ("redis://u:hunter2@r1?timeout_ms=0", "timeout_ms"),
            ("redis://u:hunter2@r1?timeout_ms=9999", "timeout_ms"),
            ("redis://u:hunter2%zz@r1", "%25"),
            (
                "redis://u:hunter2@r1?password_file=/nowhere",
                "leave one out",
            ),
            ("redis://r1?password_file=/nowhere", "/nowhere"),
            ("redis://r1?ca_file=/nowhere", "needs TLS"),
            ("redis://r1?prefix=a%20b", "prefix"),
        ] {
            let error = Config::parse(uri).unwrap_err();
            assert!(
                error.contains(wrong) && error.contains("redis://user"),
                "{uri}: {error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown_and_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let (password, pem) = (path("password", "hunter2\n"), path("pem", "PEMPEM"));
        let config = Config::parse(&format!(
            "rediss://r1?password_file={password}&ca_file={pem}&cert_file={pem}&key_file={pem}"
        ))
        .unwrap();
        assert_eq!(config.password.as_ref().unwrap().reveal(), "hunter2");
        let shown = format!("{config:?} {config}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("PEM"),
            "{shown}"
        );
        let half = Config::parse(&format!("rediss://r1?cert_file={pem}")).unwrap_err();
        assert!(half.contains("belong together"), "{half}");
        let empty = path("empty", "");
        assert!(Config::parse(&format!("redis://r1?password_file={empty}")).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(redis(s|\\+cluster)?://)?[ -~é]{0,60}") {
            if let Ok(config) = Config::parse(&text) {
                // What is shown without secrets is a URI again.
                let again = Config::parse(&config.to_string()).unwrap();
                prop_assert_eq!(again.nodes, config.nodes);
            }
        }
    }
}
