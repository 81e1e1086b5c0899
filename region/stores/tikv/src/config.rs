//! Which TiKV, and how: one URI.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gb6_core_ports::uri::{Address, Uri};

/// What a good URI looks like, for errors.
const EXAMPLE: &str = "tikv://pd1:2379,pd2:2379,pd3:2379?prefix=gb6&timeout=3s";
/// The longest prefix in bytes: it is a part of every key.
const PREFIX_BYTES_MAX: usize = 32;
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
const GC_DEFAULT: Duration = Duration::from_secs(60 * 60);
const GC_MIN: Duration = Duration::from_secs(10 * 60);
const GC_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A TiKV cluster and how it is used. It holds no secret: keys are named by their files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `host:port` of the placement drivers (PD), in the order of the URI.
    pub endpoints: Vec<String>,
    /// What every key begins with, so that several systems may share a cluster. Default `gb6`.
    pub prefix: String,
    /// How long a read may take; a commit, whose three questions follow each other, may take three
    /// times as long, and connecting, beside the calls that wait for it, eight times. Default 3 s, so that
    /// history is answered within the time that its reader waits; 100 ms to 60 s.
    pub timeout: Duration,
    /// Certificates for TLS; without them connections are in clear text.
    pub tls: Option<Tls>,
    /// How long TiKV keeps overwritten versions, where nobody else in the cluster collects them:
    /// without a collection they stay for ever. `None`: somebody else (TiDB) does. Default 1 h,
    /// 10 min to 7 days.
    pub gc: Option<Duration>,
}

/// The PEM files of mutual TLS. The client of TiKV knows all three or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The authority that signed the certificates of the cluster.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Config {
    /// Reads `tikv://host:port,…?prefix=…&timeout=…&ca=…&cert=…&key=…&gc=…`. Everything behind the
    /// `?` may be left out; values are percent-encoded.
    ///
    /// # Errors
    /// What is wrong, and what a good one looks like.
    pub fn parse(uri: &str) -> Result<Self, String> {
        Self::read(uri).map_err(|wrong| format!("{wrong}; a good one is {EXAMPLE}"))
    }

    fn read(uri: &str) -> Result<Self, String> {
        if !uri.starts_with("tikv://") {
            return Err("the URI of TiKV begins with tikv://".into());
        }
        let mut uri = Uri::parse(uri)?;
        let login = uri.login()?;
        if !login.user.is_empty() || login.password.is_some() {
            return Err("TiKV knows no users and no passwords, only certificates".into());
        }
        if !uri.path.is_empty() {
            return Err("behind the endpoints stands something that has no meaning".into());
        }
        let endpoints = uri.addresses(None)?;
        let mut options = uri.options;
        let prefix = options.name("prefix", PREFIX_BYTES_MAX, "-_")?;
        let timeout = options.duration("timeout", TIMEOUT_MIN..=TIMEOUT_MAX)?;
        let gc = match options.is("gc", "off") {
            true => options.take("gc").and(None),
            false => Some(
                options
                    .duration("gc", GC_MIN..=GC_MAX)?
                    .unwrap_or(GC_DEFAULT),
            ),
        };
        let mut file = |name| options.path(name);
        let tls = match (file("ca")?, file("cert")?, file("key")?) {
            (None, None, None) => None,
            (Some(ca), Some(cert), Some(key)) => Some(Tls { ca, cert, key }),
            _ => {
                return Err(
                    "TLS with TiKV is mutual: ca, cert and key are all named, or none of them"
                        .into(),
                );
            }
        };
        options.end()?;
        Ok(Self {
            endpoints: endpoints.iter().map(Address::to_string).collect(),
            prefix: prefix.unwrap_or_else(|| "gb6".into()),
            timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
            tls,
            gc,
        })
    }

    /// The endpoints as one word, for errors and logs.
    pub(crate) fn place(&self) -> String {
        self.endpoints.join(",")
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tikv://{}?prefix={}", self.place(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_documented_ones() {
        let config = Config::parse("tikv://pd1:2379,10.0.0.2:2379").expect("good");
        assert_eq!(config.endpoints, ["pd1:2379", "10.0.0.2:2379"]);
        assert_eq!(config.prefix, "gb6");
        assert_eq!(config.timeout, Duration::from_secs(3));
        assert_eq!(config.gc, Some(Duration::from_secs(3600)));
        assert_eq!(config.tls, None);
    }

    #[test]
    fn options_are_read() {
        let uri = "tikv://[::1]:2379/?prefix=a_b-1&timeout=500ms&gc=off&ca=/c/ca.pem&cert=/c/c.pem&key=/c/k.pem";
        let config = Config::parse(uri).expect("good");
        assert_eq!(config.endpoints, ["[::1]:2379"]);
        assert_eq!(config.prefix, "a_b-1");
        assert_eq!(config.timeout, Duration::from_millis(500));
        assert_eq!(config.gc, None);
        assert_eq!(config.tls.expect("TLS").key, PathBuf::from("/c/k.pem"));
        let config = Config::parse("tikv://a:1?gc=2h").expect("good");
        assert_eq!(config.gc, Some(Duration::from_secs(7200)));
    }

    #[test]
    fn what_is_wrong_is_said_together_with_a_good_one() {
        let bad = [
            ("redis://a:1", "begins with tikv://"),
            ("tikv://", "no host"),
            ("tikv://a", "is not HOST:PORT"),
            ("tikv://a:99999", "is not HOST:PORT"),
            ("tikv://a b:1", "is not HOST:PORT"),
            ("tikv://a:1,", "is not HOST:PORT"),
            ("tikv://a:1,a:1", "twice"),
            ("tikv://u:secret@a:1", "no passwords"),
            ("tikv://a:1?password_file=/x", "no passwords"),
            ("tikv://a:1/x", "no meaning"),
            ("tikv://a:1?prefix=", "prefix is not 1 to 32"),
            ("tikv://a:1?prefix=a/b", "prefix is not 1 to 32"),
            ("tikv://a:1?timeout=5", "is not from 100ms to 60s"),
            ("tikv://a:1?timeout=5ms", "is not from 100ms to 60s"),
            (
                "tikv://a:1?timeout=99999999999999999999s",
                "is not from 100ms",
            ),
            ("tikv://a:1?gc=1s", "gc=1s is not from 600s"),
            ("tikv://a:1?ca=x", "mutual"),
            ("tikv://a:1?ca=", "names no file"),
            ("tikv://a:1?colour=red", "no option \"colour\""),
            ("tikv://a:1?timeout", "has no value"),
            ("tikv://a:1?gc=off&gc=1h", "twice"),
        ];
        for (uri, part) in bad {
            let error = Config::parse(uri).expect_err(uri);
            assert!(error.contains(part), "{uri}: {error}");
            assert!(error.contains(EXAMPLE), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let config = Config::parse("tikv://pd1:2379,pd2:2379?prefix=x").expect("good");
        assert_eq!(config.to_string(), "tikv://pd1:2379,pd2:2379?prefix=x");
        assert_eq!(Config::parse(&config.to_string()), Ok(config));
    }
}
