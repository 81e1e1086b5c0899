//! GB6 itself in one process: one that runs already, or `gb6 dev`.

use std::ffi::OsStr;
use std::net::ToSocketAddrs as _;

use anyhow::{Context, Result, bail};
use gb6_core_wire::client::Dialect;
use serde::Deserialize;

use super::{Running, Speech, Subject, Tokens, Workspace};
use crate::codec::Method;
use crate::process::Watched;
use crate::secure::{Carrier, SecureTarget};
use crate::swarm::{Target, Transport};

/// What `--ready-json` prints.
#[derive(Deserialize)]
pub(crate) struct ReadyLine {
    /// The WebSocket's URL.
    pub(crate) ws: String,
    /// The address of its QUIC listener.
    #[serde(default)]
    pub(crate) quic: Option<String>,
    /// The server's process.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    /// The instance's secret.
    #[serde(default)]
    pub(crate) hmac_secret: Option<String>,
    /// Tokens by user.
    #[serde(default)]
    pub(crate) tokens: std::collections::BTreeMap<String, String>,
}

impl ReadyLine {
    /// Reads the line.
    ///
    /// # Errors
    /// It is not that line.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line.trim())
            .with_context(|| format!("this is no line of --ready-json: {}", line.trim()))
    }

    /// The tokens of its connections.
    ///
    /// # Errors
    /// It has neither secret nor tokens.
    pub(crate) fn tokens(&self) -> Result<Tokens> {
        match (&self.hmac_secret, self.tokens.values().next()) {
            (Some(secret), _) => Ok(Tokens::Signed {
                secret: secret.clone(),
                key_id: None,
            }),
            (None, Some(token)) => Ok(Tokens::Given(token.clone())),
            (None, None) => bail!("the line of --ready-json has neither hmac_secret nor tokens"),
        }
    }
}

/// Address, host and path of a `ws://` URL, spoken to in Protobuf.
///
/// # Errors
/// It is no such URL, or its host has no address.
pub(crate) fn websocket_target(url: &str) -> Result<Target> {
    if url.starts_with("wss://") {
        bail!(
            "`{url}`: TLS (wss://) is not spoken here, so that its cost is in no figure: name the \
             server's own ws:// address, behind what terminates TLS"
        );
    }
    let rest = url.strip_prefix("ws://").with_context(|| {
        format!("`{url}` is no URL of the form ws://host:port/connection/websocket")
    })?;
    let (host, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash..]),
        None => (rest, "/connection/websocket"),
    };
    let with_port = if host
        .rsplit_once(':')
        .is_some_and(|(_, p)| p.parse::<u16>().is_ok())
    {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let addr = with_port
        .to_socket_addrs()
        .with_context(|| format!("finding the address of {with_port}"))?
        .next()
        .with_context(|| format!("{with_port} has no address"))?;
    Ok(Target {
        addr,
        transport: Transport::WebSocket {
            host: host.to_owned(),
            path: path.to_owned(),
            subprotocol: Some(Dialect::Protobuf.subprotocol().to_owned()),
        },
    })
}

/// A server that runs already.
///
/// # Errors
/// The URL is none.
pub(crate) fn running(
    url: &str,
    tokens: Tokens,
    method: Method,
    watched: Vec<Watched>,
) -> Result<Subject> {
    let target = websocket_target(url)?;
    Ok(Subject::new(
        url,
        target,
        Speech::Gb6(tokens, method),
        watched,
        Vec::new(),
    ))
}

/// What `gb6 dev` is told: rooms without presence, as those of a mesh are. The rooms of its own
/// instance tell everybody in them who comes, so that one session would cost a write to each other.
const DEV_CONFIG: &str = "[instances.bench]\ncommand_rate = \"unlimited\"\n\
     [instances.bench.namespaces.room]\n";

/// Starts `gb6 dev` with a fresh data directory.
fn start(workspace: &Workspace, name: &str, more: &[&str]) -> Result<Running> {
    let dir = workspace.fresh(name)?;
    let (data, config) = (dir.join("data"), dir.join("dev.toml"));
    std::fs::write(&config, DEV_CONFIG).with_context(|| format!("writing {}", config.display()))?;
    let mut arguments = ["dev", "--http", "127.0.0.1:0", "--ready-json"]
        .map(OsStr::new)
        .to_vec();
    arguments.extend(more.iter().map(OsStr::new));
    arguments.extend([
        OsStr::new("--config"),
        config.as_os_str(),
        OsStr::new("--data-dir"),
        data.as_os_str(),
    ]);
    let (gb6, pinning) = (&workspace.gb6, workspace.pinning);
    Running::start("gb6-dev", gb6, &arguments, &dir, pinning)
}

/// `gb6 dev`.
///
/// # Errors
/// It does not start.
pub(crate) fn dev(workspace: &Workspace, method: Method) -> Result<Subject> {
    let mut running = start(workspace, "dev", &[])?;
    let ready = ReadyLine::parse(&running.first_line()?)?;
    Ok(Subject::new(
        "gb6 dev",
        websocket_target(&ready.ws)?,
        Speech::Gb6(ready.tokens()?, method),
        vec![Watched::process("gb6", running.pid())],
        vec![running],
    ))
}

/// `gb6 dev` with TLS and QUIC.
///
/// # Errors
/// It does not start.
pub(crate) fn secure(workspace: &Workspace, carrier: Carrier) -> Result<(Subject, SecureTarget)> {
    let mut running = start(workspace, "secure", &["--quic", "127.0.0.1:0", "--tls"])?;
    let ready = ReadyLine::parse(&running.first_line()?)?;
    let tokens = ready.tokens()?;
    // The scheme is all that differs from what is spoken without TLS.
    let target = websocket_target(&ready.ws.replacen("wss://", "ws://", 1))?;
    let addr = match (carrier, &ready.quic) {
        (Carrier::Tls, _) => target.addr,
        (Carrier::Quic, Some(quic)) => quic
            .parse()
            .with_context(|| format!("`{quic}` is no address of a QUIC listener"))?,
        (Carrier::Quic, None) => bail!("the line of --ready-json has no quic"),
    };
    let watched = vec![Watched::process("gb6", running.pid())];
    let speech = Speech::Gb6(tokens, Method::Publish);
    let subject = Subject::new("gb6 dev", target, speech, watched, vec![running]);
    let bare = false;
    Ok((
        subject,
        SecureTarget {
            addr,
            carrier,
            bare,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = websocket_target("ws://127.0.0.1:8080/connection/websocket?x=1").unwrap();
        assert_eq!(target.addr, "127.0.0.1:8080".parse().unwrap());
        let Transport::WebSocket { host, path, .. } = target.transport else {
            panic!("no WebSocket")
        };
        assert_eq!(
            (host.as_str(), path.as_str()),
            ("127.0.0.1:8080", "/connection/websocket?x=1")
        );
        let bare = websocket_target("ws://127.0.0.1").unwrap();
        assert_eq!(bare.addr.port(), 80);
        let told = websocket_target("wss://x/").unwrap_err().to_string();
        assert!(told.contains("TLS"), "{told}");
        for wrong in ["http://127.0.0.1:1/", "wss://x/", "127.0.0.1:8080"] {
            assert!(websocket_target(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_ready_line_gives_url_pid_and_tokens() {
        let line = r#"{"ready":true,"version":"0.1.0","pid":7,"instance":"demo",
            "http":"http://127.0.0.1:8080","ws":"ws://127.0.0.1:8080/connection/websocket",
            "hmac_secret":"s","tokens":{"alice":"A","bob":"B"},"data_dir":"x"}"#;
        let ready = ReadyLine::parse(line).unwrap();
        assert_eq!(ready.pid, Some(7));
        assert!(matches!(ready.tokens().unwrap(), Tokens::Signed { .. }));
        let ready = ReadyLine::parse(r#"{"ws":"ws://x","tokens":{"alice":"A"}}"#).unwrap();
        assert_eq!(ready.tokens().unwrap().of(1, "room:"), "A");
        assert!(ReadyLine::parse("Listening on 127.0.0.1:8080").is_err());
        assert!(
            ReadyLine::parse(r#"{"ws":"ws://x"}"#)
                .unwrap()
                .tokens()
                .is_err()
        );
    }
}
