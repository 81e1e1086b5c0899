//! Statuses of users: `update_user_status`, `get_user_status` and `delete_user_status`. Each user is asked for at
//! the owner of the shard of its own channel.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use gb6_core_model::{Channel, ErrorCode, limits};
use gb6_edge_session::{Answer, Request, StatusAnswer, StatusWanted};

use super::call::Call;
use super::error::ApiError;
use super::methods::shortened;
use super::schema::{
    DeleteUserStatusRequest, Done, GetUserStatusRequest, GetUserStatusResult,
    UpdateUserStatusRequest, UserStatus,
};
use crate::people::home_of;

/// Users of one call.
const USERS_MAX: usize = 1_000;
/// Users of one call that are asked for at once.
const AT_ONCE: usize = 64;

/// Users are active now, and say something of themselves.
pub(super) async fn update(
    call: &Call,
    request: UpdateUserStatusRequest,
) -> Result<Done, ApiError> {
    let state = request.state.unwrap_or_default();
    if state.len() > limits::USER_STATE_BYTES_MAX {
        return Err(ApiError::bad(format!(
            "the state has {} bytes, at most {} are possible",
            state.len(),
            limits::USER_STATE_BYTES_MAX
        )));
    }
    ask(call, &request.users, &StatusWanted::Update { state }).await?;
    Ok(Done {})
}

/// What is known of users.
pub(super) async fn get(
    call: &Call,
    request: GetUserStatusRequest,
) -> Result<GetUserStatusResult, ApiError> {
    let found = ask(call, &request.users, &StatusWanted::Get).await?;
    let known = |seconds: i64| (seconds != 0).then_some(seconds);
    let status = |(user, status): (String, Arc<StatusAnswer>)| UserStatus {
        user,
        active: known(status.active),
        online: known(status.online),
        state: (!status.state.is_empty()).then(|| status.state.clone()),
    };
    let statuses = request.users.into_iter().zip(found).map(status).collect();
    Ok(GetUserStatusResult { statuses })
}

/// Nothing is known of users any more.
pub(super) async fn delete(
    call: &Call,
    request: DeleteUserStatusRequest,
) -> Result<Done, ApiError> {
    ask(call, &request.users, &StatusWanted::Delete).await?;
    Ok(Done {})
}

/// The answers for users, in their order.
async fn ask(
    call: &Call,
    users: &[String],
    wanted: &StatusWanted,
) -> Result<Vec<Arc<StatusAnswer>>, ApiError> {
    let instance = call.snapshot.instances.get(&call.instance);
    if instance.is_none_or(|instance| instance.user_status_ttl_ms == 0) {
        let why = "this instance keeps no statuses of users: it needs user_status_ttl";
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    if users.is_empty() || users.len() > USERS_MAX {
        let many = users.len();
        return Err(ApiError::bad(format!(
            "there are {many} users, 1 to {USERS_MAX} are possible"
        )));
    }
    let homes = users.iter().map(|user| {
        home_of(user).ok_or_else(|| {
            let user = shortened(user, 64);
            ApiError::bad(format!(
                "there is no status of `{user}`: a user has 1 to 254 bytes without `,` and `#`"
            ))
        })
    });
    let homes = homes.collect::<Result<Vec<Channel>, ApiError>>()?;
    let answers = stream::iter(homes).map(|home| ask_one(call, home, wanted.clone()));
    answers.buffered(AT_ONCE).try_collect().await
}

async fn ask_one(
    call: &Call,
    home: Channel,
    wanted: StatusWanted,
) -> Result<Arc<StatusAnswer>, ApiError> {
    let reads = wanted == StatusWanted::Get;
    let request = Request::UserStatus {
        instance_epoch: call.instance_epoch(),
        wanted,
    };
    match call.ask(&home, request).await {
        Ok(Answer::UserStatus(status)) => Ok(status),
        Err(error) if error.code == ErrorCode::Internal => {
            let why = match reads {
                true => {
                    "statuses of users can not be read now, and nothing else is affected: try again"
                }
                false => {
                    "statuses of users can not be changed now, some may have been, and nothing else is affected: try again"
                }
            };
            Err(ApiError::with(ErrorCode::Internal, why))
        }
        Ok(_) => Err(ErrorCode::Internal.into()),
        Err(error) => Err(error),
    }
}
