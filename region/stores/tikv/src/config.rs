//! Which TiKV, and how: one URI.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What a good URI looks like, for errors.
const EXAMPLE: &str = "tikv://pd1:2379,pd2:2379,pd3:2379?prefix=gb6&timeout=3s";
/// The endpoints of PD that may be named.
const ENDPOINTS_MAX: usize = 16;
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
    /// `?` may be left out; the values are taken as they are, without percent-decoding.
    ///
    /// # Errors
    /// What is wrong, and what a good one looks like.
    pub fn parse(uri: &str) -> Result<Self, String> {
        Self::read(uri).map_err(|wrong| format!("{wrong}; a good one is {EXAMPLE}"))
    }

    fn read(uri: &str) -> Result<Self, String> {
        let rest = uri
            .strip_prefix("tikv://")
            .ok_or("the URI of TiKV begins with tikv://")?;
        let (hosts, options) = match rest.split_once('?') {
            Some((hosts, options)) => (hosts, options),
            None => (rest, ""),
        };
        let mut config = Self {
            endpoints: endpoints(hosts.strip_suffix('/').unwrap_or(hosts))?,
            prefix: "gb6".into(),
            timeout: TIMEOUT_DEFAULT,
            tls: None,
            gc: Some(GC_DEFAULT),
        };
        let (mut ca, mut cert, mut key) = (None, None, None);
        let mut seen: Vec<&str> = Vec::new();
        for option in options.split('&').filter(|o| !o.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("the option {option:?} has no value"))?;
            if seen.contains(&name) {
                return Err(format!("the option {name} is there twice"));
            }
            seen.push(name);
            match name {
                "prefix" => config.prefix = prefix(value)?,
                "timeout" => config.timeout = duration(name, value, TIMEOUT_MIN, TIMEOUT_MAX)?,
                "gc" if value == "off" => config.gc = None,
                "gc" => config.gc = Some(duration(name, value, GC_MIN, GC_MAX)?),
                "ca" => ca = Some(file(name, value)?),
                "cert" => cert = Some(file(name, value)?),
                "key" => key = Some(file(name, value)?),
                _ => {
                    return Err(format!(
                        "there is no option {name:?} (there are prefix, timeout, gc, ca, cert and key)"
                    ));
                }
            }
        }
        config.tls = match (ca, cert, key) {
            (None, None, None) => None,
            (Some(ca), Some(cert), Some(key)) => Some(Tls { ca, cert, key }),
            _ => {
                return Err(
                    "TLS with TiKV is mutual: ca, cert and key are all named, or none of them"
                        .into(),
                );
            }
        };
        Ok(config)
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

fn endpoints(hosts: &str) -> Result<Vec<String>, String> {
    if hosts.contains('@') {
        return Err("TiKV knows no users and no passwords, only certificates".into());
    }
    let mut endpoints: Vec<String> = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = host
            .rsplit_once(':')
            .ok_or_else(|| format!("the endpoint {host:?} is not host:port"))?;
        let good = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        if name.is_empty() || !name.chars().all(good) || port.parse::<u16>().is_err() {
            return Err(format!("the endpoint {host:?} is not host:port"));
        }
        if endpoints.iter().any(|known| known == host) {
            return Err(format!("the endpoint {host} is there twice"));
        }
        endpoints.push(host.to_owned());
    }
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(format!("more than {ENDPOINTS_MAX} endpoints"));
    }
    Ok(endpoints)
}

fn prefix(value: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if value.is_empty() || value.len() > PREFIX_BYTES_MAX || !value.bytes().all(good) {
        return Err(format!(
            "prefix is 1 to {PREFIX_BYTES_MAX} letters, digits, '-' and '_'"
        ));
    }
    Ok(value.to_owned())
}

fn file(name: &str, value: &str) -> Result<PathBuf, String> {
    match value {
        "" => Err(format!("{name} names no file")),
        path => Ok(PathBuf::from(path)),
    }
}

/// A whole number of one unit: `500ms`, `10s`, `15m`, `2h`, `7d`.
fn duration(name: &str, value: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let digits = value.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = value.split_at(digits.unwrap_or(value.len()));
    let unit: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let parsed = number.parse::<u64>().ok().filter(|_| unit > 0);
    let millis = parsed.and_then(|n| n.checked_mul(unit));
    let given = millis.map(Duration::from_millis);
    given.filter(|d| (min..=max).contains(d)).ok_or_else(|| {
        format!(
            "{name} is from {min:?} to {max:?}, written as 500ms, 10s, 15m, 2h or 7d: not {value:?}"
        )
    })
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
            ("tikv://", "is not host:port"),
            ("tikv://a", "is not host:port"),
            ("tikv://a:99999", "is not host:port"),
            ("tikv://a b:1", "is not host:port"),
            ("tikv://a:1,", "is not host:port"),
            ("tikv://a:1,a:1", "twice"),
            ("tikv://u:secret@a:1", "no passwords"),
            ("tikv://a:1?prefix=", "prefix is 1 to 32"),
            ("tikv://a:1?prefix=a/b", "prefix is 1 to 32"),
            ("tikv://a:1?timeout=5", "timeout is from 100ms to 60s"),
            ("tikv://a:1?timeout=5ms", "timeout is from 100ms to 60s"),
            (
                "tikv://a:1?timeout=99999999999999999999s",
                "timeout is from",
            ),
            ("tikv://a:1?gc=1s", "gc is from 600s"),
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
