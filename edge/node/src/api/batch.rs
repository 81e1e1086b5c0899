//! `batch`: several methods in one request, one after the other or at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use gb6_core_model::ErrorCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::call::Call;
use super::error::{ApiError, ErrorBody};
use super::methods::{self, Method};
use super::schema::Json;

/// Commands of one batch.
const COMMANDS_MAX: usize = 1_000;
/// Commands of one parallel batch that are under way at once.
const AT_ONCE: usize = 64;
/// How long a batch may go on: commands that are not begun by then are not done.
const BATCH_TIME: Duration = Duration::from_secs(20);

/// Several commands in one request.
#[derive(Deserialize, JsonSchema)]
pub(super) struct BatchRequest {
    /// Each an object with one method's name and what it takes, at most 1,000. None may be a batch.
    commands: Vec<BTreeMap<String, Json>>,
    /// Whether they may be done at once, in any order.
    parallel: Option<bool>,
}

/// What became of the commands, in their order. It stands in no `result`.
#[derive(Serialize, JsonSchema)]
pub(super) struct BatchResult {
    /// For each command its method's name with its result, or `error`.
    replies: Vec<Reply>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Reply {
    Done(BTreeMap<&'static str, Json>),
    Failed { error: ErrorBody },
}

/// Does a batch.
pub(super) async fn batch(call: &Call, request: BatchRequest) -> Result<BatchResult, ApiError> {
    let commands = request.commands;
    if commands.len() > COMMANDS_MAX {
        let why = format!(
            "{} commands, at most {COMMANDS_MAX} are possible at once",
            commands.len()
        );
        return Err(ApiError::bad(why));
    }
    let until = Instant::now() + BATCH_TIME;
    let at_once = match request.parallel {
        Some(true) => AT_ONCE,
        _ => 1,
    };
    let one = |command| async move {
        match one(call, command, until).await {
            Ok((method, result)) => Reply::Done(BTreeMap::from([(method.name(), result)])),
            Err(error) => Reply::Failed {
                error: error.body(),
            },
        }
    };
    let replies = stream::iter(commands).map(one).buffered(at_once);
    Ok(BatchResult {
        replies: replies.collect().await,
    })
}

async fn one(
    call: &Call,
    command: BTreeMap<String, Json>,
    until: Instant,
) -> Result<(Method, Json), ApiError> {
    let mut methods = command.into_iter();
    let (Some((name, request)), None) = (methods.next(), methods.next()) else {
        return Err(ApiError::bad("a command is an object with one method"));
    };
    let method = Method::find(&name)?;
    if method == Method::Batch {
        return Err(ApiError::bad("a batch in a batch"));
    }
    if Instant::now() >= until {
        let why = "not done: the batch took too long";
        return Err(ApiError::with(ErrorCode::TooManyRequests, why));
    }
    let result = methods::call(call, method, &request).await?;
    Ok((method, result))
}
