//! The server API: `POST /api/<method>` for an instance's own backend, in the schema that SDKs of the
//! Centrifuge protocol's servers speak.
//!
//! A request goes through the same hubs as a session's commands. [`methods`] is the table of what
//! there is; [`schema`] what it takes and answers; [`openapi`] the same for machines.

mod auth;
mod batch;
mod call;
mod error;
mod gate;
mod gather;
mod methods;
mod openapi;
mod publish;
mod revoke;
mod rooms;
mod rpc;
mod schema;
mod session;
mod statuses;
mod users;
mod whereabouts;

use std::sync::Arc;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{ErrorCode, Glob, limits};
use gb6_core_wire::client::json_depth_within;
use gb6_core_wire::mesh::Person;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method as HttpMethod, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::value::RawValue;

use crate::http::{Answer, JSON, PLAIN, body, not_allowed, single, text};
use crate::shared::Shared;
use call::Call;
use error::ApiError;
use gate::Shut;
use methods::Method;

pub(crate) use gate::Gate;
pub(crate) use session::ApiSessions;

/// Where the methods are.
pub(crate) const PREFIX: &str = "/api/";
/// Where their description is.
const OPENAPI: &str = "openapi.json";
/// Largest body of a request in bytes: a batch, or a broadcast to many channels.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Deepest nesting of a body: data in a command of a batch.
const DEPTH_MAX: usize = limits::JSON_DEPTH_MAX + 8;
/// Asks for errors as HTTP statuses.
const ERROR_MODE: HeaderName = HeaderName::from_static("x-centrifugo-error-mode");

/// Answers a request whose path begins with [`PREFIX`].
pub(crate) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path();
    let name = path.strip_prefix(PREFIX).unwrap_or_default().to_owned();
    if name == OPENAPI {
        return match *request.method() {
            HttpMethod::GET | HttpMethod::HEAD => text(StatusCode::OK, JSON, openapi::document()),
            _ => not_allowed("GET, HEAD"),
        };
    }
    if *request.method() != HttpMethod::POST {
        return not_allowed("POST");
    }
    let as_http = single(request.headers(), ERROR_MODE) == Some("transport");
    let snapshot = shared.snapshot.load_full();
    let query = request.uri().query();
    let Some(instance) = auth::instance_of(&snapshot, request.headers(), query) else {
        shared.metrics.api_unauthorized.inc();
        return empty(StatusCode::UNAUTHORIZED);
    };
    let method = match Method::find(&name) {
        Ok(method) => method,
        Err(error) if error.code == ErrorCode::MethodNotFound => {
            return text(StatusCode::NOT_FOUND, PLAIN, format!("{}\n", error.words()));
        }
        Err(error) => return failed(shared, as_http, &error),
    };
    let in_hand = match shared.api_gate.admit(&instance) {
        Ok(in_hand) => in_hand,
        Err(Shut::Draining) => return draining(),
        Err(Shut::Full) => {
            let why = "too many requests of this instance are in hand";
            let error = ApiError::with(ErrorCode::TooManyRequests, why);
            return failed(shared, as_http, &error);
        }
    };
    shared.metrics.api_requests.with(&[method.name()]).inc();
    let body = match body::read(shared, request, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let read = match json_depth_within(&body, DEPTH_MAX) {
        true => serde_json::from_slice::<&RawValue>(&body).map_err(|e| e.to_string()),
        false => Err(format!("it nests deeper than {DEPTH_MAX} levels")),
    };
    let request = match read {
        Ok(request) => request,
        Err(why) => {
            let words = format!("the body is no JSON: {why}\n");
            return text(StatusCode::BAD_REQUEST, PLAIN, words);
        }
    };
    let call = Call {
        session: shared.api.of(shared, &instance),
        shared: shared.clone(),
        instance,
        snapshot,
        nobody: Arc::new(Person::default()),
    };
    let result = methods::call(&call, method, request).await;
    drop(in_hand);
    match result {
        Ok(result) if method == Method::Batch => {
            text(StatusCode::OK, JSON, result.get().to_owned())
        }
        Ok(result) => text(
            StatusCode::OK,
            JSON,
            format!("{{\"result\":{}}}", result.get()),
        ),
        Err(error) => failed(shared, as_http, &error),
    }
}

/// For fuzzers: a method's name, a query and a body, a line each, as far as they are read before
/// anything is done. Only the right key opens an instance, and what is said of the rest is short.
pub(crate) fn read_any(snapshot: &Snapshot, bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |b| *b == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (name, query, body) = (part(), part(), part());
    let (Ok(name), Ok(query)) = (std::str::from_utf8(name), std::str::from_utf8(query)) else {
        return;
    };
    let opened = auth::instance_of(snapshot, &HeaderMap::new(), Some(query));
    assert!(
        opened.is_none() || auth::parameter(query).is_some(),
        "{query}"
    );
    let said = match Method::find(name) {
        Err(error) => Some(error.words()),
        Ok(_) if !json_depth_within(body, DEPTH_MAX) => None,
        Ok(method) => match serde_json::from_slice::<&RawValue>(body) {
            Ok(body) => methods::check(method, body).err().map(|e| e.words()),
            Err(_) => None,
        },
    };
    let said = said.unwrap_or_default();
    assert!(said.chars().count() < 400, "{said}");
    if let Ok(glob) = Glob::parse(query) {
        let _ = glob.matches(name);
    }
}

/// The answer of a method that failed: in the body, or as HTTP has it where that is asked for.
fn failed(shared: &Shared, as_http: bool, error: &ApiError) -> Answer {
    let code = error.code.code().to_string();
    shared.metrics.api_errors.with(&[&code]).inc();
    let body = serde_json::to_string(&error.body()).unwrap_or_default();
    match as_http {
        true => text(error.status(), JSON, body),
        false => text(StatusCode::OK, JSON, format!("{{\"error\":{body}}}")),
    }
}

fn draining() -> Answer {
    let words = "this edge stops: ask another one\n".to_owned();
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, words);
    let soon = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, soon);
    response
}

fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
