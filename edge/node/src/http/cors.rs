//! Which pages may read answers (Fetch Standard, section 3.2): the same that may open a WebSocket.

use gb6_core_model::snapshot::Snapshot;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;

use super::{Answer, PLAIN, Refused, single, text};
use crate::origin::{self, Verdict};
use crate::shared::Shared;

/// How long a browser may remember what a page may send, in seconds.
const REMEMBERED_S: &str = "300";

/// Where a request comes from.
pub(super) struct From {
    /// As the request says it; `None`: by no page.
    origin: Option<HeaderValue>,
    /// The page's origin, where only the connection's instance can let it in.
    pub(super) foreign: Option<Box<str>>,
}

/// Judges the page that sends a request.
///
/// # Errors
/// It may not: the answer.
pub(super) fn judge(
    shared: &Shared,
    headers: &HeaderMap,
    snapshot: &Snapshot,
) -> Result<From, Refused> {
    let host = single(headers, header::HOST);
    let foreign = match origin::of_request(shared, headers, host, snapshot) {
        Verdict::Allowed => None,
        Verdict::AtConnect(origin) => Some(origin),
        Verdict::Refused => {
            shared.metrics.upgrades_refused.with(&["origin"]).inc();
            let words = "pages of this origin may not connect: \
                         add it to allowed_origins of the instance\n";
            return Err(Box::new(text(
                StatusCode::FORBIDDEN,
                PLAIN,
                words.to_owned(),
            )));
        }
    };
    Ok(From {
        origin: headers.get(header::ORIGIN).cloned(),
        foreign,
    })
}

impl From {
    /// Lets the page read an answer.
    pub(super) fn allow(&self, headers: &mut HeaderMap) {
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = &self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
    }

    /// The answer to the question what a page may send.
    pub(super) fn preflight(&self, request: &HeaderMap, methods: &'static str) -> Answer {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.allow(headers);
        let mut put = |name: HeaderName, value| headers.insert(name, value);
        put(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(methods),
        );
        put(
            header::ACCESS_CONTROL_MAX_AGE,
            HeaderValue::from_static(REMEMBERED_S),
        );
        // Headers mean nothing here: whatever the page's library adds may come.
        if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            put(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        response
    }
}
