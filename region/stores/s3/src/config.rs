//! Which store: a URI.
//!
//! `file:PATH` is a local directory. `s3://BUCKET[/PREFIX]?OPTIONS` is a bucket of S3 or of what speaks
//! like it; the options are the fields of [`S3Config`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use gb6_core_ports::BlobKey;

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
    let mut config = S3Config {
        bucket: bucket.to_owned(),
        prefix,
        endpoint: None,
        region: "us-east-1".to_owned(),
        access_key: None,
        secret_file: None,
        path_style: false,
        allow_http: false,
        server_checksums: true,
        deadline: Duration::from_secs(30),
        part_bytes: 8 * 1024 * 1024,
        parts_in_flight: 4,
    };
    let mut path_style = None;
    let mut seen = Vec::new();
    for (name, value) in url::form_urlencoded::parse(options.as_bytes()) {
        if seen.contains(&name) {
            return Err(format!("{name} is there twice"));
        }
        match &*name {
            "endpoint" => config.endpoint = Some(endpoint(&value)?),
            "region" => config.region = word("region", &value)?,
            "access_key" => config.access_key = Some(word("access_key", &value)?),
            "secret_file" if !value.is_empty() => config.secret_file = Some(PathBuf::from(&*value)),
            "secret_file" => return Err("secret_file is the path of a file".to_owned()),
            "secret" | "secret_key" | "secret_access_key" | "password" => {
                return Err(format!(
                    "{name} does not belong in a URI: put the secret in a file and name it with \
                     secret_file=PATH"
                ));
            }
            "path_style" => path_style = Some(yes_or_no("path_style", &value)?),
            "allow_http" => config.allow_http = yes_or_no("allow_http", &value)?,
            "checksums" => {
                config.server_checksums = match &*value {
                    "sha256" => true,
                    "none" => false,
                    _ => return Err("checksums is sha256 or none".to_owned()),
                }
            }
            "deadline_ms" => {
                let ms = number("deadline_ms", &value, 1_000..=600_000)?;
                config.deadline = Duration::from_millis(ms);
            }
            "part_bytes" => config.part_bytes = number("part_bytes", &value, PART_BYTES)?,
            "parts_in_flight" => {
                let parts = number("parts_in_flight", &value, 1..=16)?;
                config.parts_in_flight = parts as usize;
            }
            _ => {
                let name: String = name.chars().take(40).collect();
                return Err(format!(
                    "{name:?} is no option of s3://…: there are endpoint, region, access_key, secret_file, \
                     path_style, allow_http, checksums, deadline_ms, part_bytes and parts_in_flight"
                ));
            }
        }
        seen.push(name);
    }
    config.path_style = path_style.unwrap_or(config.endpoint.is_some());
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

fn word(name: &str, value: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b',';
    if (1..=128).contains(&value.len()) && value.bytes().all(good) {
        return Ok(value.to_owned());
    }
    Err(format!("{name} is a word of at most 128 characters"))
}

fn yes_or_no(name: &str, value: &str) -> Result<bool, String> {
    value
        .parse()
        .map_err(|_| format!("{name} is true or false"))
}

fn number(name: &str, value: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    match value.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(format!(
            "{name} is a number from {} to {}",
            bounds.start(),
            bounds.end()
        )),
    }
}
