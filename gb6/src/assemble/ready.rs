//! What a process says when it is ready: one line of JSON for programs, words for people.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use gb6_edge_node::EdgeHandle;
use serde::Serialize;

/// The line of `gb6 dev --ready-json`. Keys are added later, never removed.
#[derive(Debug, Serialize)]
pub(super) struct DevReady<'a> {
    pub(super) ready: bool,
    pub(super) version: &'static str,
    pub(super) pid: u32,
    pub(super) instance: &'a str,
    pub(super) http: String,
    pub(super) ws: String,
    #[serde(flatten)]
    pub(super) quic: Option<QuicReady>,
    pub(super) hmac_secret: &'a str,
    pub(super) api_key: &'a str,
    pub(super) tokens: BTreeMap<&'static str, String>,
    pub(super) data_dir: String,
}

/// The line of the other roles with `--ready-json`.
#[derive(Debug, Serialize)]
pub(super) struct NodeReady<'a> {
    pub(super) ready: bool,
    pub(super) version: &'static str,
    pub(super) pid: u32,
    pub(super) role: &'a str,
    pub(super) node: &'a str,
    pub(super) http: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ws: Option<String>,
    #[serde(flatten)]
    pub(super) quic: Option<QuicReady>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mesh: Option<SocketAddr>,
    pub(super) data_dir: String,
}

/// What these lines say of a QUIC listener.
#[derive(Debug, Serialize)]
pub(super) struct QuicReady {
    /// Where clients reach it.
    #[serde(rename = "quic")]
    pub(super) addr: SocketAddr,
    /// SHA-256 of its certificate in hexadecimal digits, for clients that pin it.
    #[serde(rename = "quic_cert_sha256")]
    pub(super) cert_sha256: String,
}

impl QuicReady {
    /// What is to be said of an edge; `None`: it has no such listener.
    pub(super) fn of(edge: &EdgeHandle) -> Option<Self> {
        use std::fmt::Write;
        let digest = edge.certificate_sha256()?;
        let mut cert_sha256 = String::with_capacity(64);
        for byte in digest {
            // Writing to a string does not fail.
            let _ = write!(cert_sha256, "{byte:02x}");
        }
        Some(Self {
            addr: reachable(edge.quic_addr()?),
            cert_sha256,
        })
    }
}

/// The version in these lines.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints `line` as the only line on standard output.
pub(super) fn print_line(line: &impl Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// `host:port` at which this machine reaches a listener on `addr`.
pub(super) fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        ip if !ip.is_unspecified() => addr,
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())),
        IpAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, addr.port())),
    }
}

/// The address of a listener that speaks HTTP, with TLS below it or not.
pub(super) fn http_url(addr: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{}", reachable(addr))
}

/// The address for clients.
pub(super) fn ws_url(addr: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "wss" } else { "ws" };
    format!("{scheme}://{}/connection/websocket", reachable(addr))
}

/// The directory as it is found from anywhere.
pub(super) fn absolute(dir: &Path) -> String {
    std::fs::canonicalize(dir)
        .unwrap_or_else(|_| dir.to_path_buf())
        .display()
        .to_string()
}
