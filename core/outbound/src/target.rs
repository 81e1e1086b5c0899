//! Where a request goes: a URL, taken apart and checked once.

use std::net::IpAddr;

use http::Uri;
use http::uri::PathAndQuery;

use crate::error::OutboundError;

/// Longest URL in bytes.
const URL_BYTES_MAX: usize = 2048;

/// A URL of HTTP or HTTPS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    host: String,
    port: u16,
    tls: bool,
    path: PathAndQuery,
}

impl Target {
    /// Takes `url` apart.
    ///
    /// # Errors
    /// It is no `http` or `https` URL with a host, holds a user or a fragment, or is too long.
    pub fn parse(url: &str) -> Result<Self, OutboundError> {
        let bad = |why| Err(OutboundError::BadUrl(why));
        if url.len() > URL_BYTES_MAX {
            return bad("it has more than 2048 bytes");
        }
        if url.contains('#') {
            return bad("it has a fragment");
        }
        let Ok(uri) = url.parse::<Uri>() else {
            return bad("it is none");
        };
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return bad("its scheme is neither https nor http"),
        };
        let Some(authority) = uri.authority() else {
            return bad("it has no host");
        };
        if authority.as_str().contains('@') {
            return bad("it names a user");
        }
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return bad("it has no host");
        }
        let usual = if tls { 443 } else { 80 };
        let port = match (
            authority.port_u16(),
            &authority.as_str()[authority.host().len()..],
        ) {
            (None, "") => usual,
            (Some(port), _) if port > 0 => port,
            _ => return bad("its port is none"),
        };
        let path = uri.path_and_query().cloned();
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            tls,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
        })
    }

    /// The host: a name or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether TLS is spoken.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Path and query.
    pub(crate) fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// The host where it is an address.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The `Host` header (RFC 9110 section 7.2).
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let usual = if self.tls { 443 } else { 80 };
        match self.port == usual {
            true => host,
            false => format!("{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, host, port, tls, path, authority) in [
            (
                "https://A.example/x?y=1",
                "a.example",
                443,
                true,
                "/x?y=1",
                "a.example",
            ),
            ("http://a.example", "a.example", 80, false, "/", "a.example"),
            ("http://[::1]:8080/", "::1", 8080, false, "/", "[::1]:8080"),
            (
                "https://10.0.0.1:444",
                "10.0.0.1",
                444,
                true,
                "/",
                "10.0.0.1:444",
            ),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(
                (target.host(), target.port(), target.is_tls()),
                (host, port, tls),
                "{url}"
            );
            assert_eq!(target.path().as_str(), path, "{url}");
            assert_eq!(target.authority(), authority, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        let long = format!("https://a.example/{}", "x".repeat(2048));
        for url in [
            "",
            "a.example",
            "/x",
            "ftp://a.example",
            "file:///etc/passwd",
            "https://",
            "https://user:pass@a.example/",
            "https://a.example/#x",
            "https://a.example:0/",
            "https://a.example:99999/",
            "https://a b/",
            "https://a.example/\r\nX: y",
            long.as_str(),
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
