//! The HTTP side of the listener: health, metrics, the console and its sign-in, and the requests
//! that become WebSockets.

pub(crate) mod assets;
pub(crate) mod body;
mod cors;
mod dev_token;
mod emulation;
pub(crate) mod stream;
pub(crate) mod upgrade;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_obs::metrics::CONTENT_TYPE as METRICS_TYPE;
use gb6_core_wire::client::Dialect;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::admission::Unproven;
use crate::connection::transport::{Opening, Transport};
use crate::shared::Shared;
use assets::Asset;

pub(crate) use stream::TakenOver;

/// What a connection becomes behind a request.
pub(crate) enum Grant {
    /// A WebSocket.
    WebSocket(Opening),
    /// An answer that does not end.
    Stream(Box<stream::Stream>),
}

/// Where what a request was granted waits for the connection's task.
pub(crate) type Granted = Arc<Mutex<Option<Grant>>>;

/// A whole answer.
pub(crate) type Answer = Response<Full<Bytes>>;
/// An answer that says why not.
pub(crate) type Refused = Box<Answer>;

/// Answers one request.
///
/// # Errors
/// The connection goes on without HTTP, and without an answer of it.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    granted: Granted,
    unproven: Arc<Unproven>,
    request: Request<Incoming>,
) -> Result<Answer, TakenOver> {
    let body = BodyLength::of(&request);
    let path = request.uri().path();
    // What asks whether it may ask begins nothing.
    let begins = *request.method() != Method::OPTIONS && path.starts_with(SESSIONS);
    let transport = stream::transport_at(path);
    if body == BodyLength::Two {
        return Ok(finished(&shared, body, ambiguous()));
    }
    if begins && let Err(refused) = turn_of(&shared, &unproven).await {
        return Ok(finished(&shared, body, *refused));
    }
    let response = match transport {
        Some(transport) => stream::answer(&shared, &granted, transport, request)
            .await
            .inspect_err(|_| shared.metrics.http.with(&["200"]).inc())?,
        None => route(&shared, &granted, request).await,
    };
    Ok(finished(&shared, body, response))
}

/// Answers one request on the admin address.
pub(crate) async fn serve_admin(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let body = BodyLength::of(&request);
    let response = match request.uri().path() {
        _ if body == BodyLength::Two => ambiguous(),
        "/healthz" if reads => health(shared.health.now().healthz()),
        "/readyz" if reads => health(shared.health.now().readyz()),
        "/metrics" if reads => text(StatusCode::OK, METRICS_TYPE, shared.registry.text()),
        path if path.starts_with(crate::api::PREFIX) => crate::api::answer(&shared, request).await,
        _ if reads => {
            let help = "here are /api/…, /metrics, /healthz and /readyz\n".to_owned();
            text(StatusCode::NOT_FOUND, PLAIN, help)
        }
        _ => not_allowed("GET, HEAD"),
    };
    Ok(finished(&shared, body, response))
}

/// How a request says where its body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyLength {
    /// By a number, or it has none.
    Number,
    /// By its chunks.
    Chunks,
    /// In both ways.
    Two,
}

impl BodyLength {
    fn of<B>(request: &Request<B>) -> Self {
        let says = |name| request.headers().contains_key(name);
        match (
            says(header::TRANSFER_ENCODING),
            says(header::CONTENT_LENGTH),
        ) {
            (true, true) => BodyLength::Two,
            (true, false) => BodyLength::Chunks,
            (false, _) => BodyLength::Number,
        }
    }
}

/// What every answer has, and the count of it.
fn finished(shared: &Shared, body: BodyLength, mut response: Answer) -> Answer {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        secure(headers);
        // A number that stood behind `chunked` was dropped unseen. Whoever believes in that one
        // sees another request behind this one: none is read. And who keeps connections for the next
        // requests is not to find out by one that fails that this edge has gone.
        if body != BodyLength::Number || shared.is_draining() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let status = response.status();
    shared.metrics.http.with(&[status.as_str()]).inc();
    response
}

/// The answer to a body with two lengths.
fn ambiguous() -> Answer {
    let words = "send either Content-Length or Transfer-Encoding\n";
    text(StatusCode::BAD_REQUEST, PLAIN, words.to_owned())
}

/// Where sessions begin.
const SESSIONS: &str = "/connection/";

/// Waits until a session may begin; the answer says why none may.
async fn turn_of(shared: &Shared, unproven: &Unproven) -> Result<(), Refused> {
    let refuse = |why: &'static str, words: &str, retry_after_s: u32| {
        shared.metrics.upgrades_refused.with(&[why]).inc();
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{words}\n"));
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        // The next try should find another edge.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Box::new(response)
    };
    let draining = || refuse("drain", "this edge is stopping: connect to another", 1);
    if shared.is_draining() {
        return Err(draining());
    }
    let words = "too many clients connect at once: come back in a moment";
    let turn = shared.connects.enter(|| unproven.aside()).await;
    turn.map_err(|busy| refuse("storm", words, busy.retry_after_s))?;
    match shared.is_draining() {
        true => Err(draining()),
        false => Ok(()),
    }
}

async fn route(shared: &Arc<Shared>, granted: &Granted, request: Request<Incoming>) -> Answer {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        path if shared.config.admin.is_some() && is_admin(path) => {
            text(StatusCode::NOT_FOUND, PLAIN, "nothing here\n".to_owned())
        }
        "/connection/websocket" if reads => {
            upgrade::answer(shared, granted, Transport::WebSocket, &request)
        }
        "/connection/uni_websocket" if reads => {
            upgrade::answer(shared, granted, Transport::UniWebSocket, &request)
        }
        "/healthz" if reads => health(shared.health.now().healthz()),
        "/readyz" if reads => health(shared.health.now().readyz()),
        "/metrics" if reads => text(StatusCode::OK, METRICS_TYPE, shared.registry.text()),
        "/dev/token" if *request.method() == Method::POST => {
            dev_token::answer(shared, request).await
        }
        "/emulation" => emulation::answer(shared, request).await,
        path if path.starts_with(crate::api::PREFIX) => crate::api::answer(shared, request).await,
        "/connection/websocket"
        | "/connection/uni_websocket"
        | "/healthz"
        | "/readyz"
        | "/metrics" => not_allowed("GET, HEAD"),
        "/dev/token" => not_allowed("POST"),
        path if reads => match (shared.assets)(path.trim_start_matches('/')) {
            Some(asset) => file(request.headers(), asset),
            None => text(StatusCode::NOT_FOUND, PLAIN, "nothing here\n".to_owned()),
        },
        _ => not_allowed("GET, HEAD"),
    }
}

/// Whether a path is for the admin address where there is one.
fn is_admin(path: &str) -> bool {
    path == "/metrics" || path.starts_with(crate::api::PREFIX)
}

pub(crate) const PLAIN: &str = "text/plain; charset=utf-8";
pub(crate) const JSON: &str = "application/json";

pub(crate) fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How the body of a request is encoded.
fn dialect_of_body(headers: &HeaderMap) -> Dialect {
    let content_type = single(headers, header::CONTENT_TYPE);
    let media_type = content_type.and_then(|c| c.split(';').next());
    match media_type.map(str::trim) {
        Some(binary) if binary.eq_ignore_ascii_case("application/octet-stream") => {
            Dialect::Protobuf
        }
        _ => Dialect::Json,
    }
}

pub(crate) fn not_allowed(allowed: &'static str) -> Answer {
    let mut response = text(
        StatusCode::METHOD_NOT_ALLOWED,
        PLAIN,
        format!("use {allowed}\n"),
    );
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn health(answer: gb6_core_obs::HealthAnswer) -> Answer {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    text(status, JSON, answer.body)
}

fn file(request: &HeaderMap, asset: Asset) -> Answer {
    let etag = format!("\"{}\"", asset.etag);
    let known = request
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|t| t.trim() == etag || t.trim() == "*"));
    let mut response = if known {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Full::new(asset.bytes))
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(content_type) = HeaderValue::try_from(asset.content_type) {
        headers.insert(header::CONTENT_TYPE, content_type);
    }
    let cache = if asset.immutable {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

/// What keeps a page of ours from being used against whoever looks at it: nothing is loaded from
/// elsewhere, no other page frames it, no address leaks.
fn secure(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
         object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The text of a header that stands there once.
pub(crate) fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
