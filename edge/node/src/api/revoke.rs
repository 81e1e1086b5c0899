//! Taking tokens and users back: records of the instance's log of revocations.

use gb6_core_model::ErrorCode;
use gb6_edge_session::Revocation;

use super::call::Call;
use super::error::ApiError;
use super::schema::{
    BlockUserRequest, Done, InvalidateUserTokensRequest, RevokeTokenRequest, UnblockUserRequest,
};
use crate::auth::{TOKEN_ID_BYTES_MAX, named_token};
use crate::revocation::revoke;

/// How long a revocation is remembered for whose end no time is given, in ms: 400 days.
const KEPT_MS: i64 = 400 * 24 * 3600 * 1000;

/// Revokes one token, or one connection.
pub(super) async fn token(call: &Call, request: RevokeTokenRequest) -> Result<Done, ApiError> {
    let uid = &request.uid;
    if let Some(client) = request.client.filter(|client| !client.is_empty()) {
        if !uid.is_empty() {
            return Err(ApiError::bad("uid and client are two things: name one"));
        }
        let until = end(call, request.expire_at)?;
        return write(call, Revocation::Session { client, until }).await;
    }
    let token = named_token(uid).ok_or_else(|| {
        let why =
            format!("uid is the token's jti, 1 to {TOKEN_ID_BYTES_MAX} bytes, or the token itself");
        ApiError::bad(why)
    })?;
    let until = match (request.expire_at, token.ends_unix_ms) {
        (None, Some(ends)) => {
            let until = ends.saturating_add(grace_ms(call));
            if until <= call.shared.clock.unix_ms() {
                return Ok(Done {});
            }
            until
        }
        (expire_at, _) => end(call, expire_at)?,
    };
    write(call, Revocation::of_token(token.key, until)).await
}

/// How long a connection or subscription outlives its token, in ms.
fn grace_ms(call: &Call) -> i64 {
    i64::try_from(call.shared.config.session.expiry_grace_ms).unwrap_or(i64::MAX)
}

/// Revokes the tokens of a user that were issued before some time.
pub(super) async fn user_tokens(
    call: &Call,
    request: InvalidateUserTokensRequest,
) -> Result<Done, ApiError> {
    if request.channel.is_some_and(|channel| !channel.is_empty()) {
        let why = "subscription tokens are revoked one by one, by revoke_token";
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    let now = call.shared.clock.unix_ms();
    let before = match request.issued_before {
        None | Some(0) => now,
        Some(seconds) => seconds.saturating_mul(1000),
    };
    let until = end(call, request.expire_at)?;
    let revocation = Revocation::UserTokens {
        user: request.user,
        before,
        until,
    };
    write(call, revocation).await
}

/// Blocks a user.
pub(super) async fn block(call: &Call, request: BlockUserRequest) -> Result<Done, ApiError> {
    let until = match request.expire_at {
        None | Some(0) => None,
        some => Some(end(call, some)?),
    };
    let user = request.user;
    write(call, Revocation::Block { user, until }).await
}

/// Lets a blocked user in again.
pub(super) async fn unblock(call: &Call, request: UnblockUserRequest) -> Result<Done, ApiError> {
    write(call, Revocation::Unblock { user: request.user }).await
}

/// Unix ms of Unix seconds that lie ahead.
fn end(call: &Call, expire_at: Option<i64>) -> Result<i64, ApiError> {
    let now = call.shared.clock.unix_ms();
    match expire_at {
        None | Some(0) => Ok(now.saturating_add(KEPT_MS)),
        Some(seconds) => {
            let until = seconds.saturating_mul(1000);
            match until > now {
                true => Ok(until),
                false => Err(ApiError::bad(
                    "expire_at has passed: nothing is to be revoked",
                )),
            }
        }
    }
}

async fn write(call: &Call, revocation: Revocation) -> Result<Done, ApiError> {
    match revoke(&call.shared, &call.instance, &revocation).await {
        Ok(()) => Ok(Done {}),
        Err(ErrorCode::BadRequest) => Err(ApiError::bad("a user or client has 1 to 255 bytes")),
        Err(ErrorCode::LimitExceeded) => {
            let why = "too much of the instance is revoked and not expired: give expire_at";
            Err(ApiError::with(ErrorCode::LimitExceeded, why))
        }
        Err(code) => Err(code.into()),
    }
}
