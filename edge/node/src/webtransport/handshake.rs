//! From an HTTP/3 connection to the stream of a session.

use std::sync::Arc;

use gb6_core_model::Disconnect;
use http::StatusCode;
use http::header::HeaderMap;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use web_transport_proto::{ConnectRequest, ConnectResponse, Frame, Settings, StreamUni};

use super::carrier::{Http3, WebTransportStream};
use crate::admission::Unproven;
use crate::connection::transport::{Opening, Transport};
use crate::http::upgrade;
use crate::origin::{self, Verdict};
use crate::quic::ONE_WAY_STREAMS;
use crate::shared::Shared;

/// Where clients connect.
const PATH: &str = "/connection/webtransport";
/// Streams that a client may have open: the request and the session's one.
const BIDI_STREAMS: u32 = 2;

/// Why no session came of a connection: an error code of HTTP/3 (RFC 9114 section 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Failed(u32);

impl Failed {
    const GENERAL: Self = Self(0x101);
    const MISSING_SETTINGS: Self = Self(0x10a);
    const REQUEST_REJECTED: Self = Self(0x10b);
    const MESSAGE: Self = Self(0x10e);
}

/// Brings a connection to its session, or ends it. The caller sees to the deadline.
pub(crate) async fn accept(
    shared: &Arc<Shared>,
    connection: &Connection,
    unproven: &Unproven,
) -> Option<(WebTransportStream, Opening)> {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(BIDI_STREAMS));
    match session(shared, connection, unproven).await {
        Ok(session) => Some(session),
        Err(Failed(code)) => {
            // Nothing where the connection is gone.
            connection.close(VarInt::from_u32(code), b"no WebTransport session");
            None
        }
    }
}

async fn session(
    shared: &Arc<Shared>,
    connection: &Connection,
    unproven: &Unproven,
) -> Result<(WebTransportStream, Opening), Failed> {
    let lost = |_| Failed::GENERAL;
    let mut control = connection.open_uni().await.map_err(lost)?;
    let mut settings = Settings::default();
    settings.enable_webtransport(1);
    settings
        .write(&mut control)
        .await
        .map_err(|_| Failed::GENERAL)?;
    let theirs = client_settings(connection).await?;

    let (mut answer, mut request) = connection.accept_bi().await.map_err(lost)?;
    let asked = ConnectRequest::read(&mut request)
        .await
        .map_err(|_| Failed::MESSAGE)?;
    let judged = match judge(shared, &asked) {
        Ok(_) if shared.connects.enter(|| unproven.aside()).await.is_err() => {
            Err(("storm", StatusCode::SERVICE_UNAVAILABLE))
        }
        judged => judged,
    };
    let opening = match judged {
        Ok(opening) => opening,
        Err((why, status)) => {
            shared.metrics.upgrades_refused.with(&[why]).inc();
            refuse(&mut answer, status).await;
            return Err(Failed::REQUEST_REJECTED);
        }
    };
    ConnectResponse::OK
        .write(&mut answer)
        .await
        .map_err(|_| Failed::GENERAL)?;

    let id = u64::from(VarInt::from(answer.id()));
    let http3 = Http3 {
        connection: connection.clone(),
        answer: Some(answer),
        request,
        _control: control,
        _theirs: theirs,
    };
    let (send, mut recv) = connection.accept_bi().await.map_err(lost)?;
    match stream_header(&mut recv).await {
        Some(session) if session == id => Ok((WebTransportStream::new(http3, send, recv), opening)),
        _ => Err(Failed::GENERAL),
    }
}

/// Reads the client's settings, and keeps the streams that came before them: those of QPACK, which
/// must stay open.
async fn client_settings(connection: &Connection) -> Result<Vec<RecvStream>, Failed> {
    let mut streams = Vec::new();
    loop {
        let mut stream = connection.accept_uni().await.map_err(|_| Failed::GENERAL)?;
        // The first byte says which it is: all known kinds have a one-byte number.
        let mut kind = [0];
        stream
            .read_exact(&mut kind)
            .await
            .map_err(|_| Failed::GENERAL)?;
        let is_control = u64::from(kind[0]) == StreamUni::CONTROL.0.into_inner();
        if is_control {
            let mut rest = tokio::io::AsyncReadExt::chain(&kind[..], &mut stream);
            Settings::read(&mut rest)
                .await
                .map_err(|_| Failed::MISSING_SETTINGS)?;
        }
        streams.push(stream);
        if is_control {
            return Ok(streams);
        }
        if streams.len() >= ONE_WAY_STREAMS as usize {
            return Err(Failed::MISSING_SETTINGS);
        }
    }
}

/// The session that a stream says it belongs to.
async fn stream_header(stream: &mut RecvStream) -> Option<u64> {
    let frame = web_transport_proto::VarInt::read(stream).await.ok()?;
    let session = web_transport_proto::VarInt::read(stream).await.ok()?;
    (Frame(frame) == Frame::WEBTRANSPORT).then(|| session.into_inner())
}

/// What the session is to be, or why there is none.
fn judge(
    shared: &Arc<Shared>,
    request: &ConnectRequest,
) -> Result<Opening, (&'static str, StatusCode)> {
    let url = &request.url;
    if url.path() != PATH {
        return Err(("path", StatusCode::NOT_FOUND));
    }
    let snapshot = shared.snapshot.load();
    if snapshot.revision == 0 {
        return Err(("placement", StatusCode::SERVICE_UNAVAILABLE));
    }
    let host = url.authority();
    let foreign_origin = match origin::of_request(shared, &request.headers, Some(host), &snapshot) {
        Verdict::Allowed => None,
        Verdict::AtConnect(origin) => Some(origin),
        Verdict::Refused => return Err(("origin", StatusCode::FORBIDDEN)),
    };
    let (dialect, _) = upgrade::dialect(&HeaderMap::new(), url.query());
    let instance = shared.instance_of(Some(host));
    Ok(Opening {
        transport: Transport::WebTransport,
        dialect,
        frame_ping: false,
        headers: shared.proxies.shown(&instance, &request.headers),
        instance,
        foreign_origin,
    })
}

/// Answers a request with an error, and waits until the client has it.
async fn refuse(answer: &mut SendStream, status: StatusCode) {
    if ConnectResponse::new(status).write(answer).await.is_ok() && answer.finish().is_ok() {
        // However it ends, there is no more to be said.
        let _ = answer.stopped().await;
    }
}

/// Ends a connection whose client did not come as far as a session in time.
pub(crate) fn too_late(connection: &Connection) {
    let why = Disconnect::Stale;
    connection.close(VarInt::from_u32(Failed::GENERAL.0), why.text().as_bytes());
}
