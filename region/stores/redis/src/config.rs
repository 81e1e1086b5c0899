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

use gb6_core_ports::uri::percent_decoded;

/// An example for errors.
const GOOD: &str = "write for example redis://user:password@redis1:6379/0?timeout_ms=200 or rediss+cluster://r1:6379,r2:6379?password_file=/etc/gb6/redis";
/// The port of Redis.
const PORT: u16 = 6379;
/// Nodes of a cluster that may be named.
const NODES_MAX: usize = 32;
/// Longest prefix of keys in bytes.
const PREFIX_MAX: usize = 32;
/// Largest file with a secret or a certificate in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// A password: it is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

impl Password {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

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
    pub(crate) nodes: Vec<(String, u16)>,
    pub(crate) cluster: bool,
    pub(crate) tls: Option<Tls>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Password>,
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
        let nodes: Vec<String> = self.nodes.iter().map(address).collect();
        write!(f, "{tls}{cluster}://{}", nodes.join(","))?;
        match self.database {
            0 => Ok(()),
            database => write!(f, "/{database}"),
        }
    }
}

fn address((host, port): &(String, u16)) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
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
        let Some((scheme, rest)) = uri.split_once("://") else {
            return Err("this is no URI of a Redis".into());
        };
        let (tls, cluster) = match scheme {
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
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let nodes = hosts.split(',').map(node).collect::<Result<Vec<_>, _>>()?;
        if nodes.len() > NODES_MAX {
            return Err(format!("it names more than {NODES_MAX} nodes"));
        }
        if !cluster && nodes.len() > 1 {
            return Err("it names several hosts, which only a cluster (redis+cluster) has".into());
        }
        let database = match path {
            "" => 0,
            _ if cluster => return Err("a cluster has no numbered databases".into()),
            _ => number("the database", path, 0, 1_000_000)?,
        };
        let (user, password) = match login {
            None => (None, None),
            Some(login) => {
                let (user, password) = login
                    .split_once(':')
                    .ok_or("before the @ stands no user:password")?;
                let user =
                    percent_decoded(user).map_err(|_| "its user is not percent-encoded UTF-8")?;
                let password = percent_decoded(password)
                    .map_err(|_| "its password is not percent-encoded UTF-8")?;
                let some = |text: String| (!text.is_empty()).then_some(text);
                (some(user), some(password).map(Password))
            }
        };
        let mut config = Self {
            nodes,
            cluster,
            tls: tls.then(Tls::default),
            user,
            password,
            database: i64::try_from(database).unwrap_or(0),
            timeout: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(1),
            prefix: "gb6".to_owned(),
            lease: Duration::from_secs(30),
        };
        config.options(options)?;
        Ok(config)
    }

    fn options(&mut self, options: &str) -> Result<(), String> {
        let (mut certificate, mut key) = (None, None);
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = percent_decoded(value)
                .map_err(|_| format!("{name} is not percent-encoded UTF-8"))?;
            let ms = |low, high| number(name, &value, low, high).map(Duration::from_millis);
            match name {
                "timeout_ms" => self.timeout = ms(10, 5_000)?,
                "connect_timeout_ms" => self.connect_timeout = ms(50, 30_000)?,
                "lease_ms" => self.lease = ms(1_000, 300_000)?,
                "prefix" => {
                    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                    if value.is_empty() || value.len() > PREFIX_MAX || !value.chars().all(plain) {
                        return Err(format!(
                            "prefix is not 1 to {PREFIX_MAX} of a-z, 0-9, -, _ and ."
                        ));
                    }
                    self.prefix = value;
                }
                "password_file" => {
                    if self.password.is_some() {
                        return Err("it has a password and password_file: keep one of them".into());
                    }
                    let text = String::from_utf8(file(name, &value)?);
                    let text = text.map_err(|_| format!("the file of {name} is not UTF-8"))?;
                    self.password = Some(Password(text.trim_end_matches(['\r', '\n']).to_owned()));
                }
                "ca_file" | "cert_file" | "key_file" => {
                    let Some(tls) = &mut self.tls else {
                        return Err(format!("{name} needs TLS: write rediss instead of redis"));
                    };
                    let pem = Some(file(name, &value)?);
                    match name {
                        "ca_file" => tls.authorities = pem,
                        "cert_file" => certificate = pem,
                        _ => key = pem,
                    }
                }
                _ => {
                    return Err(format!(
                        "there is no option {name:?}; there are timeout_ms, connect_timeout_ms, lease_ms, prefix, password_file, ca_file, cert_file and key_file"
                    ));
                }
            }
        }
        match (certificate, key, &mut self.tls) {
            (Some(certificate), Some(key), Some(tls)) => tls.identity = Some((certificate, key)),
            (None, None, _) => {}
            _ => return Err("cert_file and key_file belong together".into()),
        }
        Ok(())
    }
}

fn node(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or("an address in brackets does not end")?;
            (host, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err("a host is missing or is no name".into());
    }
    let port = match port {
        None => PORT,
        Some(port) => {
            let number = port.parse().ok().filter(|port| *port > 0);
            number.ok_or("a port is not a number from 1 to 65535")?
        }
    };
    Ok((host.to_owned(), port))
}

fn number(name: &str, text: &str, low: u64, high: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|n| (low..=high).contains(n));
    number.ok_or_else(|| format!("{name} is not a number from {low} to {high}"))
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
        assert_eq!(config.nodes, [("r1".to_owned(), 7000)]);
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
            ("", "no URI"),
            ("http://r1", "scheme"),
            ("redis://", "host"),
            ("redis://r1:0", "port"),
            ("redis://r1:99999", "port"),
            ("redis://r1,r2", "cluster"),
            ("redis+cluster://r1/2", "databases"),
            ("redis://r1/two", "database"),
            ("redis://hunter2@r1", "user:password"),
            ("redis://u:hunter2@r1?x=1", "no option"),
            ("redis://u:hunter2@r1?timeout_ms=0", "timeout_ms"),
            ("redis://u:hunter2@r1?timeout_ms=9999", "timeout_ms"),
            ("redis://u:hunter2%zz@r1", "password"),
            ("redis://u:hunter2@r1?password_file=/nowhere", "keep one"),
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
