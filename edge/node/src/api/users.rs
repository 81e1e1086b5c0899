//! What is done with a user's sessions, wherever they are: `subscribe`, `unsubscribe`, `disconnect` and
//! `refresh`. They are said to the edges that may have the user; one without such sessions has nothing
//! to do.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gb6_core_model::{Disconnect, ErrorCode, limits};
use gb6_core_wire::client::json_depth_within;
use gb6_core_wire::mesh::{
    DisconnectUser, EdgeQuestion, QuestionKind, RefreshUser, SubscribeUser, UserAction, UserCommand,
};
use gb6_edge_session::CloseReason;

use super::call::Call;
use super::error::ApiError;
use super::schema::{
    DisconnectRequest, Done, Json, RefreshRequest, SubscribeRequest, Switch, UnsubscribeRequest,
};
use super::whereabouts;
use crate::relay::AskError;

/// How long the edges may take.
const WITHIN: Duration = Duration::from_secs(3);
/// Client ids that a disconnect may leave out.
const WHITELIST_MAX: usize = 1_000;
/// Longest name of a user or a session in bytes.
const NAME_BYTES_MAX: usize = 1_024;
/// Largest info or data of a subscription in bytes.
const GRANT_BYTES_MAX: usize = limits::PUBLISH_BYTES_MAX;

/// Subscribes a user's sessions.
pub(super) async fn subscribe(call: &Call, request: SubscribeRequest) -> Result<Done, ApiError> {
    let (channel, _) = call.channel(&request.channel)?;
    let over = request.r#override.unwrap_or_default();
    let value = |switch: Option<Switch>| switch.and_then(|s| s.value);
    let since = request.recover_since;
    let subscribe = SubscribeUser {
        channel: channel.as_str().to_owned(),
        info: bytes("info", request.info, request.b64info)?,
        data: bytes("data", request.data, request.b64data)?,
        expires_unix_ms: unix_ms(request.expire_at)?,
        presence: value(over.presence),
        join_leave: value(over.join_leave),
        force_push_join_leave: value(over.force_push_join_leave),
        force_recovery: value(over.force_recovery),
        force_positioning: value(over.force_positioning),
        since_offset: since.as_ref().map(|s| s.offset.unwrap_or(0)),
        since_epoch: since.and_then(|s| s.epoch).unwrap_or_default(),
    };
    let to = To::new(request.user, request.client, request.session);
    command(call, to, UserAction::Subscribe(subscribe)).await
}

/// Ends a subscription of a user's sessions.
pub(super) async fn unsubscribe(
    call: &Call,
    request: UnsubscribeRequest,
) -> Result<Done, ApiError> {
    let (channel, _) = call.channel(&request.channel)?;
    let to = To::new(request.user, request.client, request.session);
    let channel = channel.as_str().to_owned();
    command(call, to, UserAction::Unsubscribe(channel)).await
}

/// Ends a user's sessions.
pub(super) async fn disconnect(call: &Call, request: DisconnectRequest) -> Result<Done, ApiError> {
    let wanted = request.disconnect.unwrap_or_default();
    let end = DisconnectUser {
        code: match wanted.code.unwrap_or(0) {
            0 => Disconnect::ForceDisconnect.code(),
            code => code,
        },
        reason: wanted.reason.unwrap_or_default(),
    };
    if CloseReason::custom(end.code, &end.reason).is_err() {
        let why = "a code is one of the protocol's or 4000 to 4999; a reason is needed for those, \
                   has at most 123 bytes, and is no JSON";
        return Err(ApiError::bad(why));
    }
    let mut to = To::new(request.user, request.client, request.session);
    to.whitelist = request.whitelist.unwrap_or_default();
    if to.whitelist.len() > WHITELIST_MAX {
        let why = format!("whitelist has more than {WHITELIST_MAX} client ids");
        return Err(ApiError::bad(why));
    }
    command(call, to, UserAction::Disconnect(end)).await
}

/// Changes when a user's sessions expire.
pub(super) async fn refresh(call: &Call, request: RefreshRequest) -> Result<Done, ApiError> {
    let info = match request.info {
        Some(info) => Some(bytes("info", Some(info), None)?),
        None => None,
    };
    let refresh = RefreshUser {
        expired: request.expired.unwrap_or(false),
        expires_unix_ms: unix_ms(request.expire_at)?,
        info,
    };
    let to = To::new(request.user, request.client, request.session);
    command(call, to, UserAction::Refresh(refresh)).await
}

/// Whose sessions are meant.
struct To {
    user: String,
    client: String,
    session: String,
    whitelist: Vec<String>,
}

impl To {
    fn new(user: Option<String>, client: Option<String>, session: Option<String>) -> Self {
        Self {
            user: user.unwrap_or_default(),
            client: client.unwrap_or_default(),
            session: session.unwrap_or_default(),
            whitelist: Vec::new(),
        }
    }
}

/// Says a command to the edges of a user. Users that nobody knows are a success.
async fn command(call: &Call, to: To, action: UserAction) -> Result<Done, ApiError> {
    if to.user.is_empty() && to.client.is_empty() && to.session.is_empty() {
        let why = "user is empty, which means anonymous people: name a client or a session too";
        return Err(ApiError::bad(why));
    }
    let longest = to.user.len().max(to.client.len()).max(to.session.len());
    if longest > NAME_BYTES_MAX {
        let why = format!("user, client and session have at most {NAME_BYTES_MAX} bytes");
        return Err(ApiError::bad(why));
    }
    let user = to.user.clone();
    let question = EdgeQuestion {
        kind: Some(QuestionKind::User(Box::new(UserCommand {
            instance: call.instance.as_str().to_owned(),
            user: to.user,
            client: to.client,
            session: to.session,
            whitelist: to.whitelist,
            action: Some(action),
        }))),
    };
    let gathered = whereabouts::ask(call, &user, question, WITHIN).await;
    // An edge that no relay reaches is away, and its people with it.
    let mut failed = gathered.failed.iter();
    match failed.find(|(_, why)| **why != AskError::Unknown) {
        None => Ok(Done {}),
        Some((edge, why)) => {
            let why = format!("edge {edge}: {why}; do it again, which does no harm");
            Err(ApiError::with(ErrorCode::Internal, why))
        }
    }
}

/// JSON, or bytes in base 64 that are JSON; nothing is empty.
fn bytes(name: &str, json: Option<Json>, b64: Option<String>) -> Result<Bytes, ApiError> {
    let bytes = match (b64, json) {
        (Some(text), _) if !text.is_empty() => {
            let decoded = STANDARD.decode(text);
            decoded.map_err(|_| ApiError::bad(format!("b64{name} is no base 64")))?
        }
        (_, Some(json)) => String::from(Box::<str>::from(json)).into_bytes(),
        _ => Vec::new(),
    };
    if bytes.len() > GRANT_BYTES_MAX {
        let why = format!("{name} has more than {GRANT_BYTES_MAX} bytes");
        return Err(ApiError::bad(why));
    }
    let is_json = || {
        json_depth_within(&bytes, limits::JSON_DEPTH_MAX)
            && serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok()
    };
    if !bytes.is_empty() && !is_json() {
        return Err(ApiError::bad(format!("{name} is no JSON")));
    }
    Ok(bytes.into())
}

/// A time of the API in Unix ms; 0 and nothing: never.
fn unix_ms(seconds: Option<i64>) -> Result<Option<i64>, ApiError> {
    match seconds {
        None | Some(0) => Ok(None),
        Some(seconds) => match seconds.checked_mul(1000) {
            Some(ms) if ms > 0 => Ok(Some(ms)),
            _ => Err(ApiError::bad("expire_at is in Unix seconds")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_unix_seconds_and_zero_is_never() {
        assert_eq!(unix_ms(None), Ok(None));
        assert_eq!(unix_ms(Some(0)), Ok(None));
        assert_eq!(unix_ms(Some(1_700_000_000)), Ok(Some(1_700_000_000_000)));
        assert!(unix_ms(Some(-1)).is_err());
        assert!(unix_ms(Some(i64::MAX)).is_err());
    }
}
