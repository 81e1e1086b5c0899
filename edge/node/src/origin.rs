//! Which pages may connect: a browser sends cookies and can reach local networks, so a foreign page
//! is let in only where somebody listed it (RFC 6455 section 10.2).
//!
//! An instance's list is nobody else's business. So a request is refused at once only by the list of
//! the instance that its host name names. Where that names none, the instance is known when the token
//! has been verified, and its list is looked at then: until then every page is treated alike.

use std::net::IpAddr;

use gb6_core_model::snapshot::Snapshot;
use http::HeaderMap;
use http::header;

use crate::http::single;
use crate::shared::Shared;

/// Longest origin that an instance can list, in bytes: `https://`, a host name and a port.
const ORIGIN_BYTES_MAX: usize = 8 + 255 + 6;

/// What becomes of a connection with a certain `Origin` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It may go on.
    Allowed,
    /// It may go on until it is known to which instance it belongs, which must list this origin.
    AtConnect(Box<str>),
    /// It may not.
    Refused,
}

/// Judges the page that a request to `host` comes from.
pub(crate) fn of_request(
    shared: &Shared,
    headers: &HeaderMap,
    host: Option<&str>,
    snapshot: &Snapshot,
) -> Verdict {
    let origin = match headers.get(header::ORIGIN) {
        None => None,
        // What can not be read is no origin of anybody's.
        Some(_) => Some(single(headers, header::ORIGIN).unwrap_or("")),
    };
    let named = shared.named_by(host);
    let named = named.and_then(|id| snapshot.instances.get(&id));
    let list = named.map(|instance| instance.allowed_origins.as_slice());
    judge(origin, host, shared.config.loopback_origins, list)
}

/// Judges an `Origin` header against the `Host` header of the same request, and the list of the
/// instance that this names, if it names one.
pub(crate) fn judge(
    origin: Option<&str>,
    host: Option<&str>,
    loopback_allowed: bool,
    list: Option<&[String]>,
) -> Verdict {
    // Only browsers send one.
    let Some(origin) = origin else {
        return Verdict::Allowed;
    };
    // `null` and the like: nobody can list them.
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Verdict::Refused;
    };
    let same = host.is_some_and(|host| {
        without_default_port(scheme, authority)
            .eq_ignore_ascii_case(without_default_port(scheme, host))
    });
    if same || (loopback_allowed && is_loopback(authority)) {
        return Verdict::Allowed;
    }
    // It is kept as long as the connection.
    let listed = list.is_none_or(|list| is_listed(origin, list));
    if listed && origin.len() <= ORIGIN_BYTES_MAX {
        Verdict::AtConnect(origin.into())
    } else {
        Verdict::Refused
    }
}

/// Whether `origin` is in `list`; scheme and host are compared without case.
pub(crate) fn is_listed(origin: &str, list: &[String]) -> bool {
    list.iter().any(|l| l.eq_ignore_ascii_case(origin))
}

/// Whether `host[:port]` is this machine's own.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host.eq_ignore_ascii_case("localhost")
        || host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The host of `host[:port]`; the brackets of an IPv6 address stay.
pub(crate) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(_) => match authority.find(']') {
            Some(end) => &authority[..=end],
            None => authority,
        },
        None => authority.split_once(':').map_or(authority, |(h, _)| h),
    }
}

fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return authority,
    };
    authority.strip_suffix(default).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: &str = "https://app.acme.example";

    /// The verdict at a host that names no instance, and at one that names `acme`.
    fn verdicts(origin: &str, host: &str, loopback: bool) -> [Verdict; 2] {
        let acme = [ACME.to_owned()];
        [None, Some(acme.as_slice())].map(|list| judge(Some(origin), Some(host), loopback, list))
    }

    #[test]
    fn pages_of_the_listener_and_of_this_machine() {
        for (origin, host, loopback, allowed) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", false, true),
            ("https://chat.example", "chat.example:443", false, true),
            ("https://CHAT.example", "chat.example", false, true),
            ("https://chat.example:8443", "chat.example", false, false),
            ("http://localhost:5173", "127.0.0.1:8080", false, false),
            ("http://localhost:5173", "127.0.0.1:8080", true, true),
            ("http://[::1]:5173", "127.0.0.1:8080", true, true),
            (
                "http://localhost.evil.example",
                "127.0.0.1:8080",
                true,
                false,
            ),
            (
                "http://127.0.0.1.evil.example",
                "127.0.0.1:8080",
                true,
                false,
            ),
        ] {
            for verdict in verdicts(origin, host, loopback) {
                let is = verdict == Verdict::Allowed;
                assert_eq!(is, allowed, "{origin:?} at {host}: {verdict:?}");
            }
        }
        assert_eq!(judge(None, Some("x"), false, None), Verdict::Allowed);
        assert_eq!(judge(None, Some("x"), false, Some(&[])), Verdict::Allowed);
    }

    #[test]
    fn a_list_counts_where_its_instance_is_named_and_later_elsewhere() {
        let later = |origin: &str| Verdict::AtConnect(origin.into());
        for (origin, named) in [
            (ACME, later(ACME)),
            (
                "https://APP.acme.example",
                later("https://APP.acme.example"),
            ),
            ("https://evil.example", Verdict::Refused),
            ("https://app.acme.example.evil", Verdict::Refused),
        ] {
            assert_eq!(
                verdicts(origin, "chat.example", true),
                [later(origin), named],
                "{origin}"
            );
        }
    }

    #[test]
    fn what_nobody_can_list_is_refused_everywhere() {
        let long = format!("https://{}.example", "x".repeat(300));
        for origin in ["null", "", long.as_str()] {
            assert_eq!(
                verdicts(origin, "127.0.0.1:8080", true),
                [Verdict::Refused, Verdict::Refused],
                "{origin:?}"
            );
        }
    }
}
