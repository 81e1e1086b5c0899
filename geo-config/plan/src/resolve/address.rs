//! The grammar of addresses, host names and origins in a snapshot file.

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
