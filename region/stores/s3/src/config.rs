//! Which store: a URI.
//!
//! `file:PATH` is a local directory. `s3://BUCKET[/PREFIX]?OPTIONS` is a bucket of S3 or of what speaks
//! like it; the options are the fields of [`S3Config`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gb6_core_ports::BlobKey;
use gb6_core_ports::uri::{Options, URI_BYTES_MAX};

/// Longest prefix of a bucket's objects in bytes: with the longest key of an instance's object it stays
/// below the 1024 that S3 allows.
const PREFIX_MAX: usize = 200;

/// Least and most bytes of a part, but for the last: what S3 allows, and what still fits in memory
/// several times.
const PART_BYTES: std::ops::RangeInclusive<u64> = 5 * 1024 * 1024..=256 * 1024 * 1024;

const EXAMPLE: &str = "such as file:/var/lib/gb6/objects or s3://bucket/prefix?region=eu-central-1";

/// A store of objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Config {
    /// A local directory.
    Directory(DirectoryConfig),
    /// A bucket.
    S3(S3Config),
}

/// A local directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectoryConfig {
    /// Where; it is made where it is not there.
    pub path: PathBuf,
}

/// A bucket of S3 or of what speaks like it. No secret is in it: it is read from a file or from the
/// environment when the store is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// What all keys begin with; `None`: the whole bucket is ours.
    pub prefix: Option<BlobKey>,
    /// `endpoint`: the server's URL; default: AWS, by its region.
    pub endpoint: Option<String>,
    /// `region`; default `us-east-1`.
    pub region: String,
    /// `access_key`: who asks; default: the environment (`AWS_ACCESS_KEY_ID` and
    /// `AWS_SECRET_ACCESS_KEY`, a web identity, a container's or an instance's role).
    pub access_key: Option<String>,
    /// `secret_file`: the file that holds the secret of `access_key`.
    pub secret_file: Option<PathBuf>,
    /// `path_style`: the bucket is in the path of URLs and not in the name of the host; default `true`
    /// with an `endpoint`, else `false`.
    pub path_style: bool,
    /// `allow_http`: without TLS; default `false`.
    pub allow_http: bool,
    /// `checksums`: `sha256` (the default) has the server check each body against its SHA-256 and keep
    /// that; `none` is for servers that refuse it. A checksum of ours is kept in either case.
    pub server_checksums: bool,
    /// `deadline_ms`: how long an operation may take, and beyond that a second for each MiB; 1000 to
    /// 600000, default 30000.
    pub deadline: Duration,
    /// `part_bytes`: the size of parts of large objects; 5 MiB to 256 MiB, default 8 MiB.
    pub part_bytes: u64,
    /// `parts_in_flight`: parts of one object that are sent at the same time; 1 to 16, default 4.
    pub parts_in_flight: usize,
}

impl Config {
    /// The store that `uri` names.
    ///
    /// # Errors
    /// What is wrong with it, and a good one.
    pub fn parse(uri: &str) -> Result<Self, String> {
        if let Some(rest) = uri.strip_prefix("file:") {
            return directory(rest).map(Config::Directory);
        }
        match uri.strip_prefix("s3://") {
            Some(rest) => s3(rest).map(Config::S3),
            None => {
                let scheme: String = uri.chars().take_while(|c| *c != ':').take(20).collect();
                Err(format!("{scheme:?} is no store of objects: {EXAMPLE}"))
            }
        }
    }

    /// The name of its engine.
    pub fn kind(&self) -> &'static str {
        match self {
            Config::Directory(_) => "file",
            Config::S3(_) => "s3",
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Config::Directory(directory) => write!(f, "file:{}", directory.path.display()),
            Config::S3(s3) => write!(f, "{s3}"),
        }
    }
}

impl fmt::Display for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if let Some(prefix) = &self.prefix {
            write!(f, "/{prefix}")?;
        }
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => write!(f, " in {}", self.region),
        }
    }
}

fn directory(rest: &str) -> Result<DirectoryConfig, String> {
    // `file:///a` and `file:/a` are the same; `file://host/a` is none of ours.
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("file://HOST/… is on another machine: file:/PATH is here".to_owned()),
        None => rest,
    };
    if path.is_empty() || path.contains(['?', '#', '\0']) {
        return Err(format!(
            "file: is followed by the path of a directory, without options: {EXAMPLE}"
        ));
    }
    Ok(DirectoryConfig { path: path.into() })
}

fn s3(rest: &str) -> Result<S3Config, String> {
    if rest.len() > URI_BYTES_MAX {
        return Err(format!("it is longer than {URI_BYTES_MAX} bytes"));
    }
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    // Before anything of it is shown: it could be followed by a secret.
    if bucket.contains('@') {
        return Err(
            "s3://… takes no user and password: name them with access_key=… and secret_file=PATH"
                .to_owned(),
        );
    }
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(letters) {
        return Err(format!(
            "{bucket:?} is no bucket (3 to 63 lower-case letters, digits, '.' and '-'): {EXAMPLE}"
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    let prefix = match (prefix, BlobKey::parse(prefix)) {
        ("", _) => None,
        (text, Ok(key)) if text.len() <= PREFIX_MAX => Some(key),
        _ => {
            return Err(format!(
                "s3://{bucket}/…: the prefix must be a key of at most {PREFIX_MAX} bytes: {EXAMPLE}"
            ));
        }
    };
    let mut options = Options::parse(options)?;
    for name in ["secret", "secret_key", "secret_access_key", "password"] {
        if options.has(name) {
            return Err(format!(
                "{name} does not belong in a URI: put the secret in a file and name it with \
                 secret_file=PATH"
            ));
        }
    }
    let endpoint = options.take("endpoint").map(|url| endpoint(&url));
    let endpoint = endpoint.transpose()?;
    let path_style = options.flag("path_style")?;
    let checksums = options.choice("checksums", &[("sha256", true), ("none", false)])?;
    let deadline = options.millis("deadline_ms", 1_000..=600_000)?;
    let part_bytes = options.number("part_bytes", PART_BYTES)?;
    let parts = options.number("parts_in_flight", 1..=16)?;
    let config = S3Config {
        bucket: bucket.to_owned(),
        prefix,
        region: word(&mut options, "region")?.unwrap_or_else(|| "us-east-1".to_owned()),
        access_key: word(&mut options, "access_key")?,
        secret_file: options.path("secret_file")?,
        path_style: path_style.unwrap_or(endpoint.is_some()),
        endpoint,
        allow_http: options.flag("allow_http")?.unwrap_or(false),
        server_checksums: checksums.unwrap_or(true),
        deadline: deadline.unwrap_or(Duration::from_secs(30)),
        part_bytes: part_bytes.unwrap_or(8 * 1024 * 1024),
        parts_in_flight: parts.unwrap_or(4) as usize,
    };
    options.end()?;
    if config.access_key.is_some() != config.secret_file.is_some() {
        return Err("access_key=… and secret_file=PATH go together".to_owned());
    }
    let plain = config.endpoint.as_ref();
    if plain.is_some_and(|url| url.starts_with("http:")) && !config.allow_http {
        return Err(
            "the endpoint is reached without TLS: say allow_http=true, or use https://".to_owned(),
        );
    }
    Ok(config)
}

fn endpoint(value: &str) -> Result<String, String> {
    let bad =
        || "endpoint is a URL such as http://127.0.0.1:9000, percent-encoded or not".to_owned();
    let url = url::Url::parse(value).map_err(|_| bad())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("endpoint takes no user and password".to_owned());
    }
    let bare = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none();
    if bare {
        Ok(value.trim_end_matches('/').to_owned())
    } else {
        Err(bad())
    }
}

fn word(options: &mut Options, name: &'static str) -> Result<Option<String>, String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b',';
    let Some(value) = options.take(name) else {
        return Ok(None);
    };
    if (1..=128).contains(&value.len()) && value.bytes().all(good) {
        return Ok(Some(value));
    }
    Err(format!("{name} is a word of at most 128 characters"))
}
