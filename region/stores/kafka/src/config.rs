//! What a `kafka://` URI says.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gb6_core_ports::Durability;
use gb6_core_ports::uri::{Address, Options, Password, Uri};

const EXAMPLE: &str = "kafka://host1:9092,host2:9092/prefix?replication=3&min_insync=2";
const PREFIX_BYTES_MAX: usize = 100;
const SECURITIES: &[(&str, Security)] = &[
    ("plaintext", Security::Plaintext),
    ("ssl", Security::Ssl),
    ("sasl_plaintext", Security::SaslPlaintext),
    ("sasl_ssl", Security::SaslSsl),
];
/// As librdkafka names them.
const MECHANISMS: &[(&str, &str)] = &[
    ("plain", "PLAIN"),
    ("scram-sha-256", "SCRAM-SHA-256"),
    ("scram-sha-512", "SCRAM-SHA-512"),
];

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
    /// That of a file is read when a client is made, so that it can be changed.
    pub(crate) password: Password,
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
    let mut uri = Uri::parse(uri)?;
    if uri.scheme != "kafka" {
        return Err("it does not begin with kafka://".into());
    }
    let brokers = uri.addresses(None)?;
    let login = login(&mut uri)?;
    let Uri {
        path, mut options, ..
    } = uri;
    let config = Config {
        brokers: brokers.iter().map(Address::to_string).collect(),
        prefix: match path.as_str() {
            "" => "gb6".to_owned(),
            prefix => topic_part(prefix)?,
        },
        replication: copies(&mut options, "replication", 3)?,
        min_insync: copies(&mut options, "min_insync", 2)?,
        security: options
            .choice("security", SECURITIES)?
            .unwrap_or(Security::Plaintext),
        login,
        ca_file: options.path("ca_file")?,
        cert_file: options.path("cert_file")?,
        key_file: options.path("key_file")?,
        timeout: options
            .millis("timeout_ms", 500..=4000)?
            .unwrap_or(Duration::from_secs(3)),
        live_bytes_max: options.number("live_mib", 1..=4096)?.unwrap_or(64) << 20,
        archive_after: options
            .number("archive_after_s", 1..=86_400)?
            .map_or(Duration::from_secs(60), Duration::from_secs),
        cache_bytes_max: (options.number("cache_mib", 1..=1024)?.unwrap_or(16) as usize) << 20,
        node_cache_bytes_max: (options.number("node_cache_mib", 8..=65_536)?.unwrap_or(512)
            as usize)
            << 20,
    };
    options.end()?;
    validate(&config)?;
    Ok(config)
}

fn copies(options: &mut Options, name: &'static str, default: u16) -> Result<u16, String> {
    let given = options.number(name, 1..=15)?;
    Ok(given.map_or(default, |copies| copies as u16))
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

fn login(uri: &mut Uri) -> Result<Option<Login>, String> {
    let mechanism = uri.options.choice("mechanism", MECHANISMS)?;
    let login = uri.login()?;
    match (login.user.is_empty(), login.password) {
        (true, None) if mechanism.is_none() => Ok(None),
        (true, _) => Err("a password or mechanism without a user: kafka://user@host:port".into()),
        (false, None) => Err("the user has no password: add password_file=PATH".into()),
        (false, Some(password)) => Ok(Some(Login {
            mechanism: mechanism.unwrap_or("SCRAM-SHA-512"),
            user: login.user,
            password,
        })),
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
            ("kafka://", "no host"),
            ("kafka://a", "HOST:PORT"),
            ("kafka://a:0", "HOST:PORT"),
            ("kafka://a:1,,b:2", "HOST:PORT"),
            ("kafka://a b:1", "HOST:PORT"),
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
        assert_eq!(login.password.read().expect("given").reveal(), "s:ecret");
        let shown = format!("{config} {config:?}");
        assert!(!shown.contains("ecret"), "{shown}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "s3cret\n").expect("written");
        let uri = format!(
            "kafka://u@a:1?security=sasl_ssl&password_file={}",
            file.path().display()
        );
        let login = Config::parse(&uri).expect("a URI").login.expect("a login");
        assert_eq!(login.password.read().expect("read").reveal(), "s3cret");
        // Changed since.
        std::fs::write(file.path(), "an0ther").expect("written");
        assert_eq!(login.password.read().expect("read").reveal(), "an0ther");
    }
}
