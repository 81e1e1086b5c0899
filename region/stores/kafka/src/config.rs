//! What a `kafka://` URI says.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gb6_core_ports::Durability;
use gb6_core_ports::uri::{PercentError, percent_decoded};

const EXAMPLE: &str = "kafka://host1:9092,host2:9092/prefix?replication=3&min_insync=2";
const PREFIX_BYTES_MAX: usize = 100;
/// Longest password in bytes: a longer file is not one.
const PASSWORD_BYTES_MAX: usize = 4096;

/// How the brokers are spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// In clear, without a login.
    Plaintext,
    /// TLS.
    Ssl,
    /// A login in clear.
    SaslPlaintext,
    /// A login over TLS.
    SaslSsl,
}

impl Security {
    /// As librdkafka names it.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Security::Plaintext => "plaintext",
            Security::Ssl => "ssl",
            Security::SaslPlaintext => "sasl_plaintext",
            Security::SaslSsl => "sasl_ssl",
        }
    }

    fn has_login(self) -> bool {
        matches!(self, Security::SaslPlaintext | Security::SaslSsl)
    }

    fn has_tls(self) -> bool {
        matches!(self, Security::Ssl | Security::SaslSsl)
    }
}

/// A name and a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub(crate) mechanism: &'static str,
    pub(crate) user: String,
    pub(crate) password: Password,
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Password {
    Given(String),
    /// Read when a client is made, so that it can be changed.
    File(PathBuf),
}

impl Password {
    /// # Errors
    /// In words: its file can not be read.
    pub(crate) fn read(&self) -> Result<String, String> {
        let path = match self {
            Password::Given(password) => return Ok(password.clone()),
            Password::File(path) => path,
        };
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("the file {} can not be read: {e}", path.display()))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(format!(
                "the file {} holds no password: 1 to {PASSWORD_BYTES_MAX} bytes",
                path.display()
            ));
        }
        Ok(password.to_owned())
    }
}

/// A Kafka log, as its URI says: `kafka://[user[:password]@]host:port[,host:port…][/prefix][?options]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The brokers asked first, `host:port` each.
    pub brokers: Vec<String>,
    /// What names of topics begin with; default `gb6`.
    pub prefix: String,
    /// Copies of every message; option `replication`, default 3.
    pub replication: u16,
    /// Copies that must exist before a commit is answered; option `min_insync`, default 2.
    pub min_insync: u16,
    /// Option `security`: `plaintext` (default), `ssl`, `sasl_plaintext`, `sasl_ssl`.
    pub security: Security,
    pub(crate) login: Option<Login>,
    /// The authorities whose certificates brokers may show, PEM; option `ca_file`, default the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, PEM; option `cert_file`.
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM; option `key_file`.
    pub key_file: Option<PathBuf>,
    /// After how long an append is answered whatever the brokers do; option `timeout_ms`, 500 to 4,000,
    /// default 3,000: an edge gives up after 4 s.
    pub timeout: Duration,
    /// Bytes of a shard that lie in Kafka alone before the owner moves them to the archive; option
    /// `live_mib`, 1 to 4,096, default 64.
    pub live_bytes_max: u64,
    /// How long they lie there at most; option `archive_after_s`, 1 to 86,400, default 60.
    pub archive_after: Duration,
    /// Bytes of a shard's newest batches that are kept in memory; option `cache_mib`, 1 to 1,024,
    /// default 16.
    pub cache_bytes_max: usize,
    /// Bytes of batches that all shards of a node keep in memory together.
    pub node_cache_bytes_max: usize,
}

impl Config {
    /// What `uri` says.
    ///
    /// # Errors
    /// In words: what is wrong, and how a good one looks. Never with what may be a password.
    pub fn parse(uri: &str) -> Result<Self, String> {
        parse(uri).map_err(|what| format!("log: {what}; a good one is {EXAMPLE}"))
    }

    /// What survives a commit.
    pub fn durability(&self) -> Durability {
        match self.min_insync.min(self.replication) {
            0 | 1 => Durability::Disk,
            _ => Durability::Replicated,
        }
    }

    /// The topic of the logs of a region's shards.
    pub fn log_topic(&self, region: &str) -> String {
        format!("{}.{region}.log", self.prefix)
    }

    /// The topic of a region's events for others.
    pub fn events_topic(&self, region: &str) -> String {
        format!("{}.{region}.events", self.prefix)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|login| format!("{}@", login.user));
        write!(
            f,
            "kafka://{}{}/{}?replication={}&min_insync={}",
            user.unwrap_or_default(),
            self.brokers.join(","),
            self.prefix,
            self.replication,
            self.min_insync,
        )
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({self})")
    }
}

fn parse(uri: &str) -> Result<Config, String> {
    let rest = uri
        .strip_prefix("kafka://")
        .ok_or("it does not begin with kafka://")?;
    let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, brokers) = match authority.rsplit_once('@') {
        Some((user, brokers)) => (Some(user), brokers),
        None => (None, authority),
    };
    let mut config = Config {
        brokers: brokers.split(',').map(broker).collect::<Result<_, _>>()?,
        prefix: match prefix {
            "" => "gb6".to_owned(),
            prefix => topic_part(prefix)?,
        },
        replication: 3,
        min_insync: 2,
        security: Security::Plaintext,
        login: None,
        ca_file: None,
        cert_file: None,
        key_file: None,
        timeout: Duration::from_secs(3),
        live_bytes_max: 64 << 20,
        archive_after: Duration::from_secs(60),
        cache_bytes_max: 16 << 20,
        node_cache_bytes_max: 512 << 20,
    };
    let mut mechanism = None;
    let mut password_file = None;
    let mut seen: Vec<&str> = Vec::new();
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("the option {option:?} has no value"))?;
        if seen.contains(&name) {
            return Err(format!("the option {name:?} is there twice"));
        }
        seen.push(name);
        match name {
            "replication" => config.replication = number(name, value, 1, 15)? as u16,
            "min_insync" => config.min_insync = number(name, value, 1, 15)? as u16,
            "security" => config.security = security(value)?,
            "mechanism" => mechanism = Some(mechanism_of(value)?),
            "password_file" => password_file = Some(path(name, value)?),
            "ca_file" => config.ca_file = Some(path(name, value)?),
            "cert_file" => config.cert_file = Some(path(name, value)?),
            "key_file" => config.key_file = Some(path(name, value)?),
            "timeout_ms" => {
                config.timeout = Duration::from_millis(number(name, value, 500, 4000)?);
            }
            "live_mib" => config.live_bytes_max = number(name, value, 1, 4096)? << 20,
            "archive_after_s" => {
                config.archive_after = Duration::from_secs(number(name, value, 1, 86_400)?);
            }
            "cache_mib" => config.cache_bytes_max = (number(name, value, 1, 1024)? as usize) << 20,
            "node_cache_mib" => {
                config.node_cache_bytes_max = (number(name, value, 8, 65_536)? as usize) << 20;
            }
            _ => return Err(format!("there is no option {name:?}")),
        }
    }
    config.login = login(user, password_file, mechanism)?;
    validate(&config)?;
    Ok(config)
}

fn validate(config: &Config) -> Result<(), String> {
    if config.min_insync > config.replication {
        return Err(format!(
            "min_insync={} is above replication={}: nothing could be written (one copy only, which is lost \
             with its machine, must be asked for as replication=1&min_insync=1)",
            config.min_insync, config.replication
        ));
    }
    match (&config.login, config.security.has_login()) {
        (Some(_), false) => {
            return Err("a user is named, and no login is made: add security=sasl_ssl".into());
        }
        (None, true) => {
            return Err(format!(
                "security={} needs a login: kafka://user@host:port/…&password_file=PATH",
                config.security.protocol()
            ));
        }
        _ => {}
    }
    let files = config.ca_file.is_some() || config.cert_file.is_some() || config.key_file.is_some();
    if files && !config.security.has_tls() {
        return Err("certificates are named, and TLS is off: add security=ssl".into());
    }
    if config.cert_file.is_some() != config.key_file.is_some() {
        return Err("cert_file and key_file go together".into());
    }
    Ok(())
}

fn broker(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("the broker {text:?} has no port"))?;
    let named = !host.is_empty()
        && host.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
        });
    if !named || port.parse::<u16>().is_err() || port == "0" {
        return Err(format!("the broker {text:?} is not host:port"));
    }
    Ok(text.to_owned())
}

fn topic_part(text: &str) -> Result<String, String> {
    let good = text.len() <= PREFIX_BYTES_MAX
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    match good {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "the prefix {text:?} is not 1 to {PREFIX_BYTES_MAX} letters, digits, '.', '_' and '-'"
        )),
    }
}

fn login(
    user: Option<&str>,
    password_file: Option<PathBuf>,
    mechanism: Option<&'static str>,
) -> Result<Option<Login>, String> {
    let Some(user) = user else {
        return match (password_file, mechanism) {
            (None, None) => Ok(None),
            _ => Err("a password or mechanism without a user: kafka://user@host:port".into()),
        };
    };
    let (name, password) = match user.split_once(':') {
        Some((name, password)) => (name, Some(unescape(password)?)),
        None => (user, None),
    };
    let password = match (password, password_file) {
        (Some(_), Some(_)) => return Err("both a password and a password_file".into()),
        (Some(password), None) if !password.is_empty() => Password::Given(password),
        (None, Some(path)) => Password::File(path),
        _ => return Err("the user has no password: add password_file=PATH".into()),
    };
    let user = unescape(name)?;
    if user.is_empty() {
        return Err("the user has no name".into());
    }
    Ok(Some(Login {
        mechanism: mechanism.unwrap_or("SCRAM-SHA-512"),
        user,
        password,
    }))
}

/// Resolves `%XX`.
fn unescape(text: &str) -> Result<String, String> {
    percent_decoded(text).map_err(|error| {
        let wrong = match error {
            PercentError::Digits => {
                "the user or password has a % without two hexadecimal digits behind it"
            }
            PercentError::Utf8 => "the user or password is not UTF-8",
        };
        wrong.to_owned()
    })
}

fn number(name: &str, value: &str, least: u64, most: u64) -> Result<u64, String> {
    match value.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("{name}={value} is not {least} to {most}")),
    }
}

fn path(name: &str, value: &str) -> Result<PathBuf, String> {
    match value {
        "" => Err(format!("{name} names no file")),
        value => Ok(Path::new(value).to_owned()),
    }
}

fn security(value: &str) -> Result<Security, String> {
    match value {
        "plaintext" => Ok(Security::Plaintext),
        "ssl" => Ok(Security::Ssl),
        "sasl_plaintext" => Ok(Security::SaslPlaintext),
        "sasl_ssl" => Ok(Security::SaslSsl),
        _ => Err(format!(
            "security={value} is none of plaintext, ssl, sasl_plaintext, sasl_ssl"
        )),
    }
}

fn mechanism_of(value: &str) -> Result<&'static str, String> {
    match value {
        "plain" => Ok("PLAIN"),
        "scram-sha-256" => Ok("SCRAM-SHA-256"),
        "scram-sha-512" => Ok("SCRAM-SHA-512"),
        _ => Err(format!(
            "mechanism={value} is none of plain, scram-sha-256, scram-sha-512"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_uri_asks_for_three_copies() {
        let config = Config::parse("kafka://a:9092").expect("a URI");
        assert_eq!((config.replication, config.min_insync), (3, 2));
        assert_eq!(config.durability(), Durability::Replicated);
        assert_eq!(config.log_topic("eu"), "gb6.eu.log");
        assert_eq!(config.events_topic("eu"), "gb6.eu.events");
        let one = Config::parse("kafka://a:1,b:2/p.q?replication=1&min_insync=1").expect("a URI");
        assert_eq!(one.durability(), Durability::Disk);
        assert_eq!(one.brokers, ["a:1", "b:2"]);
        assert_eq!(one.log_topic("eu"), "p.q.eu.log");
        let weak = Config::parse("kafka://a:1?min_insync=1").expect("a URI");
        assert_eq!(
            weak.durability(),
            Durability::Disk,
            "one copy may be all there is"
        );
    }

    #[test]
    fn what_is_wrong_is_said_and_no_password_is_shown() {
        for (uri, says) in [
            ("redis://a:1", "kafka://"),
            ("kafka://", "no port"),
            ("kafka://a", "no port"),
            ("kafka://a:0", "host:port"),
            ("kafka://a:1,,b:2", "no port"),
            ("kafka://a b:1", "host:port"),
            ("kafka://a:1/x/y", "prefix"),
            ("kafka://a:1?replication=1", "replication=1&min_insync=1"),
            ("kafka://a:1?replication=0", "1 to 15"),
            ("kafka://a:1?acks=1", "no option \"acks\""),
            ("kafka://a:1?replication=3&replication=3", "twice"),
            ("kafka://a:1?timeout_ms=60000", "500 to 4000"),
            ("kafka://a:1?security=tls", "sasl_ssl"),
            ("kafka://a:1?security=sasl_ssl", "password_file"),
            ("kafka://u:secret@a:1", "security=sasl_ssl"),
            ("kafka://u@a:1?security=sasl_ssl", "password_file"),
            (
                "kafka://u:secret@a:1?security=sasl_ssl&password_file=/x",
                "both",
            ),
            ("kafka://u:%zzsecret@a:1?security=sasl_ssl", "hexadecimal"),
            (
                "kafka://u:secret@a:1?security=sasl_ssl&mechanism=gssapi",
                "scram",
            ),
            ("kafka://a:1?ca_file=/x", "security=ssl"),
            ("kafka://a:1?security=ssl&cert_file=/x", "key_file"),
        ] {
            let error = Config::parse(uri).expect_err(uri);
            assert!(error.contains(says), "{uri}: {error}");
            assert!(error.contains(EXAMPLE), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn passwords_are_hidden_and_may_lie_in_files() {
        let uri = "kafka://us%40er:s%3Aecret@a:1?security=sasl_ssl&mechanism=scram-sha-256";
        let config = Config::parse(uri).expect("a URI");
        let login = config.login.clone().expect("a login");
        assert_eq!(
            (login.user.as_str(), login.mechanism),
            ("us@er", "SCRAM-SHA-256")
        );
        assert_eq!(login.password.read().expect("given"), "s:ecret");
        let shown = format!("{config} {config:?}");
        assert!(!shown.contains("ecret"), "{shown}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret\n").expect("written");
        assert_eq!(
            Password::File(file.path().into()).read().expect("read"),
            "s3cret"
        );
        std::fs::write(file.path(), "\n").expect("written");
        let error = Password::File(file.path().into())
            .read()
            .expect_err("empty");
        assert!(error.contains("holds no password"), "{error}");
        let missing = Password::File("/does/not/exist".into()).read();
        assert!(missing.expect_err("missing").contains("/does/not/exist"));
    }
}
