//! The backends of an application that are asked about its connections and publications.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The backends that one instance asks; none of them is needed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxies {
    /// Who is asked about connections without a token.
    pub connect: Option<Proxy>,
    /// Who is asked about publications of clients, in namespaces with `publish_proxy`.
    pub publish: Option<Proxy>,
}

impl Proxies {
    /// Both, as far as there are any, by their names.
    pub fn all(&self) -> impl Iterator<Item = (ProxyKind, &Proxy)> {
        let connect = self.connect.iter().map(|p| (ProxyKind::Connect, p));
        connect.chain(self.publish.iter().map(|p| (ProxyKind::Publish, p)))
    }
}

/// What a backend is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyKind {
    /// Connections without a token.
    Connect,
    /// Publications of clients.
    Publish,
}

impl ProxyKind {
    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            ProxyKind::Connect => "connect",
            ProxyKind::Publish => "publish",
        }
    }
}

/// One backend, and how it is asked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// Where it is asked (`POST`): `https`, or `http` where an operator opened the address. It may
    /// hold a secret.
    pub url: String,
    /// From the resolver to the last byte of the answer, in ms.
    pub timeout_ms: u32,
    /// Headers of the client's request that are passed on, in lower case.
    #[serde(default)]
    pub headers: Vec<String>,
    /// Headers that every request has, names in lower case. They may hold secrets.
    #[serde(default)]
    pub static_headers: BTreeMap<String, String>,
    /// Whether data are always sent in base 64.
    #[serde(default)]
    pub binary_encoding: bool,
    /// Whether the connection's `meta` is passed on.
    #[serde(default)]
    pub include_meta: bool,
    /// What happens where it gives no answer that can be used.
    #[serde(default)]
    pub on_failure: OnFailure,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("timeout_ms", &self.timeout_ms)
            .field("headers", &self.headers)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}

/// What happens where a backend gives no answer that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The command is answered with error 100, and the client may try again.
    #[default]
    Refuse,
    /// What would happen without the backend.
    Allow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let proxy = Proxy {
            url: "https://app.example/?key=hunter2".into(),
            timeout_ms: 1000,
            headers: vec!["cookie".into()],
            static_headers: BTreeMap::from([("authorization".into(), "hunter2".into())]),
            binary_encoding: false,
            include_meta: false,
            on_failure: OnFailure::Refuse,
        };
        let shown = format!("{proxy:?}");
        assert!(
            shown.contains("cookie") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
