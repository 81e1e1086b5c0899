//! `POST /emulation`: commands of clients whose own connection runs one way only. Any edge takes
//! them; the session may be at another.
//!
//! The request carries no token: whoever knows the session's id, 128 random bits that its client
//! alone was told, speaks for it. So a session that is another's, has ended or never was is
//! answered like any other.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::NodeId;
use gb6_core_wire::client::{Dialect, decode_emulation};
use gb6_core_wire::mesh::{EdgeQuestion, Emulation, QuestionKind};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{Answer, PLAIN, Refused, body, cors, dialect_of_body, not_allowed, text};
use crate::relay::AskError;
use crate::shared::Shared;

/// How long another edge may take: far below what SDKs wait for a reply.
const RELAY_TIMEOUT: Duration = Duration::from_secs(3);
/// What the request says beside its commands, in bytes.
const ENVELOPE_BYTES_MAX: usize = 1024;

/// Answers one request.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let from = {
        let snapshot = shared.snapshot.load();
        match cors::judge(shared, request.headers(), &snapshot) {
            Ok(from) => from,
            Err(refused) => return *refused,
        }
    };
    let mut response = match *request.method() {
        Method::OPTIONS => return from.preflight(request.headers(), "POST"),
        Method::POST => take(shared, request)
            .await
            .unwrap_or_else(|refused| *refused),
        _ => not_allowed("POST, OPTIONS"),
    };
    from.allow(response.headers_mut());
    response
}

async fn take(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Refused> {
    let refuse = |status, words: &str| Box::new(text(status, PLAIN, format!("{words}\n")));
    let dialect = dialect_of_body(request.headers());
    let commands_max = shared.config.frame_bytes_max;
    let body_max = ENVELOPE_BYTES_MAX
        + match dialect {
            // In a JSON string every quote has a backslash before it.
            Dialect::Json => 2 * commands_max,
            Dialect::Protobuf => commands_max,
        };
    let body = body::read(shared, request, body_max).await?;
    let Ok(request) = decode_emulation(dialect, body) else {
        let words = "send {\"session\": …, \"node\": …, \"data\": \"…\"}, or a Protobuf \
                     EmulationRequest as application/octet-stream";
        return Err(refuse(StatusCode::BAD_REQUEST, words));
    };
    if request.data.len() > commands_max {
        let words = "the commands are too large: send fewer at once";
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, words));
    }
    let question = EdgeQuestion {
        kind: Some(QuestionKind::Emulation(Emulation {
            session: request.session,
            data: request.data,
        })),
    };
    let node = NodeId::from(request.node);
    let asked = shared.relays.ask(shared, &node, question, RELAY_TIMEOUT);
    let (status, words) = match asked.await {
        Ok(_) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        Err(AskError::Unknown) => (StatusCode::NOT_FOUND, "there is no such node"),
        Err(error @ (AskError::Lost | AskError::Unsupported)) => {
            tracing::debug!(%node, %error, "commands for another edge were lost");
            (StatusCode::BAD_GATEWAY, "the node was lost: connect again")
        }
        Err(AskError::Silent) => (
            StatusCode::GATEWAY_TIMEOUT,
            "the node does not answer: connect again",
        ),
        Err(AskError::NoRelay | AskError::Full) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the node can not be reached now: connect again",
        ),
    };
    Err(refuse(status, words))
}
