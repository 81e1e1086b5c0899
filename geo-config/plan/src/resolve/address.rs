//! The grammar of addresses, host names and origins in a snapshot file.

/// Longest URL in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Whether `text` is `host:port` with a port that can be dialled.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => return port_of(port) && v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host,
    };
    port_of(port)
        && (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// Whether `text` is a host name or an IP address as a `Host` header has it without its port, in
/// lower case: an IPv6 address stands in brackets.
pub(super) fn is_host(text: &str) -> bool {
    let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    let bare = text.starts_with('[') || !text.contains(':');
    lower && bare && is_address(&format!("{text}:1"))
}

fn port_of(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Whether keys may be fetched from `text`: an `https` URL, or an `http` URL of a loopback address,
/// without a user or a fragment.
pub(super) fn is_jwks_url(text: &str) -> bool {
    host_of_url(text).is_some_and(|(tls, host)| tls || is_loopback(&host))
}

/// Whether requests may be sent to `text`: an `https` or `http` URL without a user or a fragment.
/// Whether a node may reach its address is the operator's to say.
pub(super) fn is_request_url(text: &str) -> bool {
    host_of_url(text).is_some()
}

/// Whether `text` is reached by TLS, and its host: `None` where it is no URL as wanted here.
fn host_of_url(text: &str) -> Option<(bool, String)> {
    let (rest, port, tls) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (rest, "443", true),
        (None, Some(rest)) => (rest, "80", false),
        (None, None) => return None,
    };
    let authority = rest.split(['/', '?']).next().unwrap_or("");
    let with_port = match authority.rsplit_once(':') {
        Some((_, p)) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
            authority.to_owned()
        }
        _ => format!("{authority}:{port}"),
    };
    let fits = text.len() <= URL_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
        && is_address(&with_port);
    let (host, _) = with_port.rsplit_once(':')?;
    fits.then(|| (tls, host.to_owned()))
}

fn is_loopback(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6
            .parse::<std::net::Ipv6Addr>()
            .is_ok_and(|ip| ip.is_loopback()),
        None => {
            host == "localhost"
                || host
                    .parse::<std::net::Ipv4Addr>()
                    .is_ok_and(|ip| ip.is_loopback())
        }
    }
}

/// Whether `text` is an origin as browsers send it (RFC 6454 section 7): scheme, host, and a port
/// that is not the scheme's own.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((host, default_port)) = text
        .strip_prefix("https://")
        .map(|h| (h, "443"))
        .or_else(|| text.strip_prefix("http://").map(|h| (h, "80")))
    else {
        return false;
    };
    if host.bytes().any(|b| b.is_ascii_uppercase()) || host.ends_with(&format!(":{default_port}")) {
        return false;
    }
    let with_port = host
        .rsplit_once(':')
        .is_some_and(|(_, p)| p.bytes().all(|b| b.is_ascii_digit()));
    if with_port {
        is_address(host)
    } else {
        is_address(&format!("{host}:1"))
    }
}
