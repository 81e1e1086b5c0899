//! From a request to a WebSocket (RFC 6455 section 4.2).

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_wire::client::Dialect;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::Full;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Grant, Granted, PLAIN, single, text};
use crate::connection::transport::{Opening, Transport};
use crate::origin::{self, Verdict};
use crate::shared::Shared;

/// Grants the upgrade or says why not.
pub(super) fn answer<B>(
    shared: &Arc<Shared>,
    granted: &Granted,
    transport: Transport,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    let refuse = |why: &'static str, status: StatusCode, words: &str| {
        shared.metrics.upgrades_refused.with(&[why]).inc();
        text(status, PLAIN, format!("{words}\n"))
    };
    let headers = request.headers();
    let upgrade = request.version() == Version::HTTP_11
        && lists(headers, header::CONNECTION, "upgrade")
        && lists(headers, header::UPGRADE, "websocket");
    if !upgrade {
        let mut response = refuse(
            "no upgrade",
            StatusCode::UPGRADE_REQUIRED,
            "this address speaks WebSocket: connect with a Centrifuge client",
        );
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        return response;
    }
    if single(headers, header::SEC_WEBSOCKET_VERSION) != Some("13") {
        let words = "only WebSocket version 13 is spoken here";
        let mut response = refuse("version", StatusCode::UPGRADE_REQUIRED, words);
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return response;
    }
    let Some(key) = single(headers, header::SEC_WEBSOCKET_KEY).filter(|k| is_key(k)) else {
        let words = "Sec-WebSocket-Key must be 16 bytes in base 64";
        return refuse("key", StatusCode::BAD_REQUEST, words);
    };
    let snapshot = shared.snapshot.load();
    if snapshot.revision == 0 {
        let words = "this edge has no placement yet: try again, or look at /readyz";
        let mut response = refuse("placement", StatusCode::SERVICE_UNAVAILABLE, words);
        let soon = HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, soon);
        return response;
    }
    let host = single(headers, header::HOST);
    let foreign_origin = match origin::of_request(shared, headers, host, &snapshot) {
        Verdict::Allowed => None,
        Verdict::AtConnect(origin) => Some(origin),
        Verdict::Refused => {
            let words = "pages of this origin may not connect: \
                         add it to allowed_origins of the instance";
            return refuse("origin", StatusCode::FORBIDDEN, words);
        }
    };
    let (dialect, subprotocol) = dialect(headers, request.uri().query());
    let Ok(accept) = HeaderValue::try_from(derive_accept_key(key.as_bytes())) else {
        return refuse("key", StatusCode::BAD_REQUEST, "bad Sec-WebSocket-Key");
    };
    let instance = shared.instance_of(host);
    *granted.lock() = Some(Grant::WebSocket(Opening {
        transport,
        dialect,
        frame_ping: query_has(request.uri().query(), "cf_ws_frame_ping_pong", "true"),
        headers: shared.proxies.shown(&instance, headers),
        instance,
        foreign_origin,
    }));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = subprotocol {
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(name),
        );
    }
    response
}

/// The encoding asked for, and the subprotocol to answer with: the first offered one that is
/// known, and none where none was offered. `?cf_protocol=protobuf` (or `format`) asks for
/// Protobuf without a subprotocol.
pub(crate) fn dialect(headers: &HeaderMap, query: Option<&str>) -> (Dialect, Option<&'static str>) {
    let offered = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .find_map(|name| Dialect::ALL.into_iter().find(|d| d.subprotocol() == name));
    match offered {
        Some(dialect) => (dialect, Some(dialect.subprotocol())),
        None if query_has(query, "cf_protocol", "protobuf")
            || query_has(query, "format", "protobuf") =>
        {
            (Dialect::Protobuf, None)
        }
        None => (Dialect::Json, None),
    }
}

fn query_has(query: Option<&str>, name: &str, value: &str) -> bool {
    query.is_some_and(|q| {
        q.split('&')
            .filter_map(|pair| pair.split_once('='))
            .any(|(n, v)| n == name && v == value)
    })
}

/// Whether a header lists `token`, in any case, among others.
fn lists(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|t| t.trim().eq_ignore_ascii_case(token))
}

fn is_key(key: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD
        .decode(key)
        .is_ok_and(|bytes| bytes.len() == 16)
}
