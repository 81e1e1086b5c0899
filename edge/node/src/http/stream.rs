//! Requests whose answer does not end: HTTP streaming and event streams, with and without a way
//! back.
//!
//! The answer is `HTTP/1.1` without a length: it lasts as long as the connection, which is taken out
//! of the HTTP layer like a WebSocket's. So an idle one costs what a WebSocket does, and ends like
//! one: bounded by the same queue and the same deadlines.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_wire::client::{Dialect, connect_command};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::{
    Answer, Grant, Granted, PLAIN, Refused, body, cors, dialect_of_body, not_allowed, secure,
    single, text,
};
use crate::connection::transport::{Opening, Transport};
use crate::one_way::framing::OneWay;
use crate::shared::Shared;

/// The query parameter with the connect command (or, unidirectionally, the connect request). It
/// holds a token: a query is never logged, nor any part of it.
const CONNECT: &str = "cf_connect";

/// An answer that does not end.
pub(crate) struct Stream {
    pub(crate) opening: Opening,
    /// The head of the answer, as it is sent.
    pub(crate) head: Bytes,
    pub(crate) framing: OneWay,
}

/// What the HTTP layer is told where the connection goes on without it.
#[derive(Debug, thiserror::Error)]
#[error("the connection is taken over")]
pub(crate) struct TakenOver;

/// The transport at this path.
pub(super) fn transport_at(path: &str) -> Option<Transport> {
    Some(match path {
        "/connection/http_stream" => Transport::HttpStream,
        "/connection/sse" => Transport::Sse,
        "/connection/uni_http_stream" => Transport::UniHttpStream,
        "/connection/uni_sse" => Transport::UniSse,
        _ => return None,
    })
}

/// Grants the stream, or says why not.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    granted: &Granted,
    transport: Transport,
    request: Request<Incoming>,
) -> Result<Answer, TakenOver> {
    let methods = match transport {
        Transport::Sse | Transport::UniSse => "GET, POST, OPTIONS",
        _ => "POST, OPTIONS",
    };
    let from = {
        let snapshot = shared.snapshot.load();
        match cors::judge(shared, request.headers(), &snapshot) {
            Ok(from) => from,
            Err(refused) => return Ok(*refused),
        }
    };
    let reads = *request.method() == Method::GET && methods.starts_with("GET");
    let mut refused = if *request.method() == Method::OPTIONS {
        return Ok(from.preflight(request.headers(), methods));
    } else if !reads && *request.method() != Method::POST {
        not_allowed(methods)
    } else {
        match open(shared, transport, &from, request).await {
            Ok(stream) => {
                *granted.lock() = Some(Grant::Stream(Box::new(stream)));
                return Err(TakenOver);
            }
            Err(refused) => *refused,
        }
    };
    from.allow(refused.headers_mut());
    Ok(refused)
}

async fn open(
    shared: &Arc<Shared>,
    transport: Transport,
    from: &cors::From,
    request: Request<Incoming>,
) -> Result<Stream, Refused> {
    let refuse = |why: &'static str, status, words: &str| {
        shared.metrics.upgrades_refused.with(&[why]).inc();
        Box::new(text(status, PLAIN, format!("{words}\n")))
    };
    if shared.snapshot.load().revision == 0 {
        let words = "this edge has no placement yet: try again, or look at /readyz";
        let mut refused = refuse("placement", StatusCode::SERVICE_UNAVAILABLE, words);
        let soon = HeaderValue::from_static("1");
        refused.headers_mut().insert(header::RETRY_AFTER, soon);
        return Err(refused);
    }
    let events = matches!(transport, Transport::Sse | Transport::UniSse);
    let dialect = match events {
        // An event is text.
        true => Dialect::Json,
        false => dialect_of_body(request.headers()),
    };
    let instance = shared.instance_of(single(request.headers(), header::HOST));
    let headers = shared.proxies.shown(&instance, request.headers());
    let given = if *request.method() == Method::GET {
        connect_of(request.uri().query()).unwrap_or_default()
    } else {
        body::read(shared, request, shared.config.frame_bytes_max).await?
    };
    let commands = match transport.is_unidirectional() {
        // Who has nothing to say may still be somebody: the instance decides.
        true if given.is_empty() => connect_command(dialect, empty(dialect)),
        true => connect_command(dialect, &given),
        false => Ok(given),
    };
    let Some(commands) = commands.ok().filter(|commands| !commands.is_empty()) else {
        let words = match events {
            true => "send a connect command as cf_connect in the query, or in the body of a POST",
            false => "send a connect command in the body",
        };
        return Err(refuse("connect", StatusCode::BAD_REQUEST, words));
    };
    Ok(Stream {
        opening: Opening {
            transport,
            dialect,
            frame_ping: false,
            instance,
            foreign_origin: from.foreign.clone(),
            headers,
        },
        head: head(from, events, dialect),
        framing: OneWay::new(commands, dialect, events, transport.is_unidirectional()),
    })
}

/// A connect request that says nothing.
fn empty(dialect: Dialect) -> &'static [u8] {
    match dialect {
        Dialect::Json => b"{}",
        Dialect::Protobuf => b"",
    }
}

/// What `cf_connect` of a query holds.
pub(crate) fn connect_of(query: Option<&str>) -> Option<Bytes> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(name, _)| name == CONNECT)
        .map(|(_, value)| Bytes::from(value.into_owned()))
}

/// The head of an answer without an end.
fn head(from: &cors::From, events: bool, dialect: Dialect) -> Bytes {
    let mut headers = HeaderMap::new();
    from.allow(&mut headers);
    secure(&mut headers);
    let content_type = match (events, dialect) {
        (true, _) => "text/event-stream; charset=utf-8",
        (false, Dialect::Json) => "application/x-ndjson",
        (false, Dialect::Protobuf) => "application/octet-stream",
    };
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (
            header::CACHE_CONTROL,
            "private, no-cache, no-store, must-revalidate, max-age=0",
        ),
        (header::CONNECTION, "close"),
        // What stands between would keep events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}
