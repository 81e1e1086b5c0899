//! `POST /dev/token {name}`: a token for whoever asks, so that the console needs no password on
//! one's own machine. Only a loopback listener has it, and only pages of a loopback host get it:
//! a foreign page that makes its name point here (DNS rebinding) sends its own name as `Host`.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::caps::Match;
use gb6_core_model::snapshot::KeyUse;
use gb6_core_model::{Allow, Capability};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{JSON, PLAIN, single, text};
use crate::auth::{TokenRequest, issue_token};
use crate::origin;
use crate::shared::Shared;

/// Largest request body in bytes: a name and its quotes.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// Longest name in characters.
const NAME_CHARS_MAX: usize = 64;
/// How long a token lasts, in seconds: the console fetches another before.
const TTL_S: i64 = 3600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
}

#[derive(Serialize)]
struct Given<'a> {
    token: &'a str,
    user: &'a str,
    instance: &'a str,
    expires_in: i64,
    channels: &'a [String],
}

/// Answers with a token, or with why there is none.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let refuse = |status: StatusCode, words: &str| text(status, PLAIN, format!("{words}\n"));
    if !shared.config.dev_tokens {
        return refuse(
            StatusCode::NOT_FOUND,
            "this server gives no tokens: make one with `gb6 token create`",
        );
    }
    let host = single(request.headers(), header::HOST);
    let from = request.headers().contains_key(header::ORIGIN);
    let from_here = !from
        || single(request.headers(), header::ORIGIN)
            .and_then(|o| o.split_once("://"))
            .is_some_and(|(_, authority)| origin::is_loopback(authority));
    if !host.is_some_and(origin::is_loopback) || !from_here {
        return refuse(
            StatusCode::FORBIDDEN,
            "tokens are given to pages of this machine only: open the console by 127.0.0.1 or localhost",
        );
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(shared.config.body_timeout, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
    };
    let Ok(wanted) = serde_json::from_slice::<Wanted>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "send {\"name\": \"…\"}");
    };
    let user = wanted.name.trim();
    if user.is_empty()
        || user.chars().count() > NAME_CHARS_MAX
        || user.chars().any(char::is_control)
    {
        return refuse(
            StatusCode::BAD_REQUEST,
            "a name has 1 to 64 characters, none of them a control character",
        );
    }
    let snapshot = shared.snapshot.load();
    let instance = &shared.config.default_instance;
    let placed = snapshot.instances.get(instance);
    let key = placed.and_then(|i| i.keys.iter().find(|k| k.usage == KeyUse::Client));
    let (Some(placed), Some(key)) = (placed, key) else {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the instance has no key for tokens yet: look at /readyz, and at the snapshot's keys",
        );
    };
    let channels: Vec<String> = placed
        .namespaces
        .keys()
        .map(|namespace| format!("{namespace}:*"))
        .collect();
    let issued = issue_token(
        key,
        &TokenRequest {
            user: user.to_owned(),
            now: shared.clock.unix_ms() / 1000,
            ttl: Some(TTL_S),
            caps: Some(vec![Capability {
                channels: channels.clone(),
                matching: Match::Wildcard,
                allow: vec![
                    Allow::Subscribe,
                    Allow::Publish,
                    Allow::Presence,
                    Allow::History,
                ],
            }]),
            info: None,
        },
    );
    let token = match issued {
        Ok(token) => token,
        Err(error) => {
            tracing::error!(%error, instance = %instance, "no token could be made");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "no token could be made");
        }
    };
    shared.metrics.dev_tokens.inc();
    let given = Given {
        token: &token,
        user,
        instance: instance.as_str(),
        expires_in: TTL_S,
        channels: &channels,
    };
    match serde_json::to_string(&given) {
        Ok(body) => text(StatusCode::OK, JSON, body),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "no token could be made"),
    }
}
