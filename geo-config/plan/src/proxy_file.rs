//! The application's backends that an instance asks, as the snapshot file has them.

use std::collections::BTreeMap;

use gb6_core_model::snapshot::OnFailure;
use serde::Deserialize;
use toml::Spanned;

use crate::key_file::SecretText;
use crate::units::Millis;

/// `[instances.NAME.proxies]`
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxiesFile {
    /// Who is asked about connections without a token. Default: nobody.
    #[serde(default)]
    pub connect: Option<Spanned<ProxyFile>>,
    /// Who is asked about publications of clients in namespaces with `publish_proxy`. Default:
    /// nobody.
    #[serde(default)]
    pub publish: Option<Spanned<ProxyFile>>,
}

/// `[instances.NAME.proxies.connect]` or `.publish`
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyFile {
    /// Where it is asked: an `https` URL, or an `http` URL of an address that the edges' operator
    /// opened.
    pub url: SecretText,
    /// From the resolver to the last byte of the answer, 10ms to 5s. Default 1s.
    #[serde(default)]
    pub timeout: Option<Spanned<Millis>>,
    /// Headers of the client's request that are passed on, in any case. Default none.
    #[serde(default)]
    pub headers: Vec<Spanned<String>>,
    /// Headers that every request has. Default none.
    #[serde(default)]
    pub static_headers: BTreeMap<Spanned<String>, SecretText>,
    /// Whether data are always sent in base 64, as `b64data`. Default false: only where they are no
    /// JSON.
    #[serde(default)]
    pub binary_encoding: bool,
    /// Whether the connection's `meta` is passed on. Default false.
    #[serde(default)]
    pub include_meta: Option<Spanned<bool>>,
    /// What happens where it gives no answer that can be used: `refuse`, the default, or `allow`.
    #[serde(default)]
    pub on_failure: Option<Spanned<OnFailure>>,
}

/// How long a backend may take where the file does not say, in ms.
pub(crate) const TIMEOUT_DEFAULT: u64 = 1_000;
/// The shortest and the longest time in ms that a file may give it: SDKs wait 5 s for an answer.
pub(crate) const TIMEOUT_MIN: u64 = 10;
pub(crate) const TIMEOUT_MAX: u64 = 5_000;
/// Most headers of either kind.
pub(crate) const HEADERS_MAX: usize = 32;
/// Longest name and value of a header in bytes.
pub(crate) const HEADER_NAME_BYTES_MAX: usize = 64;
pub(crate) const HEADER_VALUE_BYTES_MAX: usize = 4_096;
/// Headers that say how a message is carried, not what it is about (RFC 9110 section 7.6.1): they
/// are made anew for each request.
pub(crate) const HEADERS_OF_CARRIAGE: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
