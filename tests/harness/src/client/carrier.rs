//! What carries a session: chosen by the scheme of its target's URL.

use std::net::SocketAddr;
use std::time::Duration;

use gb6_core_wire::client::Command;

use super::quic_wire::QuicWire;
use super::stream_wire::StreamWire;
use super::{ClientError, Incoming, Target, Wire};

/// One connection: frames of commands out, frames of replies in.
#[derive(Debug)]
pub(super) enum Carrier {
    WebSocket(Wire),
    Stream(StreamWire),
    Quic(QuicWire),
}

impl Carrier {
    /// Connects to a target; an HTTP stream with the first commands.
    pub(super) async fn open(target: &Target, patience: Duration) -> Result<Self, ClientError> {
        let fail = |reason: String| ClientError::Connect {
            url: target.url.clone(),
            reason,
        };
        if let Some(rest) = target.url.strip_prefix("http://") {
            let at = rest.find('/').ok_or_else(|| fail("no path".into()))?;
            let (address, path) = rest.split_at(at);
            let back = target.back.as_deref().unwrap_or(address);
            let wire = StreamWire::new(address, path, back, target.dialect, patience);
            return Ok(Carrier::Stream(wire));
        }
        let Some(rest) = target.url.strip_prefix("quic://") else {
            let wire = Wire::open(&target.url, target.dialect, patience).await?;
            return Ok(Carrier::WebSocket(wire));
        };
        let parts = rest.split_once('@');
        let parts = parts.and_then(|(name, at)| Some((name, at.parse::<SocketAddr>().ok()?)));
        let (Some((name, address)), Some(ca)) = (parts, &target.ca) else {
            return Err(fail("want quic://NAME@ADDRESS and a CA".into()));
        };
        let opened = QuicWire::open(address, name, ca);
        match tokio::time::timeout(patience, opened).await {
            Ok(opened) => opened.map(Carrier::Quic).map_err(fail),
            Err(_) => Err(fail(format!("no answer within {patience:?}"))),
        }
    }

    /// Sends commands in one frame.
    pub(super) async fn send(&mut self, commands: &[Command]) -> Result<(), ClientError> {
        match self {
            Carrier::WebSocket(wire) => wire.send(commands).await,
            Carrier::Stream(wire) => wire.send(commands).await,
            Carrier::Quic(wire) => wire.send(commands).await,
        }
    }

    /// The next frame. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Incoming, ClientError> {
        match self {
            Carrier::WebSocket(wire) => wire.next().await,
            Carrier::Stream(wire) => wire.next().await,
            Carrier::Quic(wire) => wire.next().await,
        }
    }

    /// As [`Carrier::next`], with a deadline.
    pub(super) async fn next_within(
        &mut self,
        patience: Duration,
    ) -> Result<Incoming, ClientError> {
        match tokio::time::timeout(patience, self.next()).await {
            Ok(incoming) => incoming,
            Err(_) => Err(ClientError::Late {
                what: "anything".into(),
                patience,
            }),
        }
    }
}
