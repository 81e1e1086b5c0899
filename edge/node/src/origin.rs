//! Which pages may open a WebSocket: a browser sends cookies and can reach local networks, so a
//! foreign page is let in only where somebody listed it (RFC 6455 section 10.2).

use std::net::IpAddr;

use gb6_core_model::snapshot::Snapshot;

/// What becomes of a connection with a certain `Origin` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It may go on.
    Allowed,
    /// Some instance lists the origin: the connection may go on, and its token must be of such an
    /// instance.
    Listed(Box<str>),
    /// It may not.
    Refused,
}

/// Judges an `Origin` header against the `Host` header of the same request.
pub(crate) fn judge(
    origin: Option<&str>,
    host: Option<&str>,
    loopback_allowed: bool,
    snapshot: &Snapshot,
) -> Verdict {
    // Only browsers send one.
    let Some(origin) = origin else {
        return Verdict::Allowed;
    };
    if let Some((scheme, authority)) = origin.split_once("://") {
        let same = host.is_some_and(|host| {
            without_default_port(scheme, authority)
                .eq_ignore_ascii_case(without_default_port(scheme, host))
        });
        if same || (loopback_allowed && is_loopback(authority)) {
            return Verdict::Allowed;
        }
    }
    let listed = snapshot
        .instances
        .values()
        .any(|i| is_listed(origin, &i.allowed_origins));
    if listed {
        Verdict::Listed(origin.into())
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
    use gb6_core_model::InstanceEpoch;
    use gb6_core_model::snapshot::Instance;
    use std::collections::BTreeMap;

    fn snapshot() -> Snapshot {
        Snapshot {
            instances: BTreeMap::from([(
                "acme".into(),
                Instance {
                    region: "r1".to_owned(),
                    epoch: InstanceEpoch(1),
                    slots: Vec::new(),
                    allowed_origins: vec!["https://app.acme.example".to_owned()],
                    subscriptions_max: 1,
                    ..Instance::default()
                },
            )]),
            ..Snapshot::default()
        }
    }

    #[test]
    fn verdicts() {
        let listed = || Verdict::Listed("https://app.acme.example".into());
        for (origin, host, loopback, want) in [
            (None, "x", false, Verdict::Allowed),
            (
                Some("http://127.0.0.1:8080"),
                "127.0.0.1:8080",
                false,
                Verdict::Allowed,
            ),
            (
                Some("https://chat.example"),
                "chat.example:443",
                false,
                Verdict::Allowed,
            ),
            (
                Some("https://CHAT.example"),
                "chat.example",
                false,
                Verdict::Allowed,
            ),
            (
                Some("https://chat.example:8443"),
                "chat.example",
                false,
                Verdict::Refused,
            ),
            (
                Some("http://localhost:5173"),
                "127.0.0.1:8080",
                false,
                Verdict::Refused,
            ),
            (
                Some("http://localhost:5173"),
                "127.0.0.1:8080",
                true,
                Verdict::Allowed,
            ),
            (
                Some("http://[::1]:5173"),
                "127.0.0.1:8080",
                true,
                Verdict::Allowed,
            ),
            (
                Some("http://localhost.evil.example"),
                "127.0.0.1:8080",
                true,
                Verdict::Refused,
            ),
            (
                Some("http://127.0.0.1.evil.example"),
                "127.0.0.1:8080",
                true,
                Verdict::Refused,
            ),
            (
                Some("https://evil.example"),
                "127.0.0.1:8080",
                true,
                Verdict::Refused,
            ),
            (Some("null"), "127.0.0.1:8080", true, Verdict::Refused),
            (Some(""), "", true, Verdict::Refused),
            (
                Some("https://app.acme.example"),
                "chat.example",
                false,
                listed(),
            ),
            (
                Some("https://app.acme.example.evil"),
                "chat.example",
                false,
                Verdict::Refused,
            ),
        ] {
            assert_eq!(
                judge(origin, Some(host), loopback, &snapshot()),
                want,
                "{origin:?} at {host}"
            );
        }
        assert_eq!(
            judge(Some("https://a"), None, true, &snapshot()),
            Verdict::Refused
        );
    }
}
