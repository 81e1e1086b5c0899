//! `rpc`: the methods that clients call, with the API's rights.

use std::collections::BTreeMap;

use gb6_core_model::snapshot::ChannelKind;
use gb6_core_model::{ErrorCode, Offset, limits};
use gb6_edge_session::{Answer, Request, RoomPublished, RoomTraced, room_channel};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::call::Call;
use super::error::ApiError;
use super::methods::shortened;
use super::schema::{Content, Json, RpcRequest, RpcResult};

#[derive(Deserialize)]
struct PublishParams {
    /// A full channel name, or one without `room:`.
    room: String,
    /// The message id.
    id: Option<String>,
    data: Json,
}

#[derive(Deserialize)]
struct TraceParams {
    room: String,
    offset: Offset,
}

/// Calls a method.
pub(super) async fn rpc(call: &Call, request: RpcRequest) -> Result<RpcResult, ApiError> {
    let params = request.params.as_deref().unwrap_or(RawValue::NULL);
    match request.method.as_str() {
        "room.publish" => publish(call, parse(params)?).await,
        "room.trace" => trace(call, parse(params)?).await,
        other => {
            let why = format!("there is no rpc {}", shortened(other, 64));
            Err(ApiError::with(ErrorCode::MethodNotFound, why))
        }
    }
}

async fn publish(call: &Call, params: PublishParams) -> Result<RpcResult, ApiError> {
    let fits = |id: &String| (1..=limits::MESSAGE_ID_BYTES_MAX).contains(&id.len());
    if params.id.as_ref().is_some_and(|id| !fits(id)) {
        return Err(ApiError::bad("an id has 1 to 128 bytes"));
    }
    let tags = params.id.iter().map(|id| ("id".to_owned(), id.clone()));
    let message = call.message(Content {
        data: Some(params.data),
        b64data: None,
        skip_history: false,
        tags: BTreeMap::from_iter(tags),
        idempotency_key: params.id,
        version: 0,
        version_epoch: String::new(),
    })?;
    let name = room_channel(&params.room);
    if call.channel(&name)?.1.kind == ChannelKind::Signal {
        let why = "room.publish is durable; in a channel of kind = \"signal\" use publish";
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    let (channel, published) = call.publish(&name, message).await?;
    let epoch = call.epoch(&channel, published.generation);
    answer(&RoomPublished::new(&published, epoch))
}

async fn trace(call: &Call, params: TraceParams) -> Result<RpcResult, ApiError> {
    let offset = params.offset;
    if offset == 0 {
        return Err(ApiError::bad("offsets begin at 1"));
    }
    let (channel, _) = call.channel(&room_channel(&params.room))?;
    let Answer::Traced(traced) = call.ask(&channel, Request::Trace { offset }).await? else {
        return Err(ErrorCode::Internal.into());
    };
    let node = &call.shared.config.session.node;
    answer(&RoomTraced::new(node, offset, &traced))
}

fn parse<'a, T: Deserialize<'a>>(params: &'a RawValue) -> Result<T, ApiError> {
    let bad = |e: serde_json::Error| {
        let why = format!("params: {e}");
        ApiError::bad(shortened(&why, 256))
    };
    serde_json::from_str(params.get()).map_err(bad)
}

fn answer(reply: &impl Serialize) -> Result<RpcResult, ApiError> {
    let data = to_raw_value(reply).map_err(|_| ErrorCode::Internal)?;
    Ok(RpcResult { data })
}
