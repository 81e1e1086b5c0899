//! `rpc`: the methods that clients call, with the API's rights.

use std::collections::BTreeMap;

use gb6_core_model::snapshot::ChannelKind;
use gb6_core_model::{ErrorCode, Offset, limits};
use gb6_edge_session::{Answer, Request};
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

#[derive(Serialize)]
struct PublishReply {
    offset: Offset,
    epoch: String,
    time: i64,
    duplicate: bool,
}

#[derive(Deserialize)]
struct TraceParams {
    room: String,
    offset: Offset,
}

#[derive(Serialize)]
struct TraceReply<'a> {
    edge: &'a str,
    shard: u32,
    shard_epoch: u64,
    offset: Offset,
    sync_us: u64,
    batch: u32,
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
    let name = full_name(params.room);
    if call.channel(&name)?.1.kind == ChannelKind::Signal {
        let why = "room.publish is durable; in a channel of kind = \"signal\" use publish";
        return Err(ApiError::with(ErrorCode::NotAvailable, why));
    }
    let (channel, published) = call.publish(&name, message).await?;
    answer(&PublishReply {
        offset: published.offset,
        epoch: call.epoch(&channel, published.generation),
        time: published.time,
        duplicate: published.duplicate,
    })
}

async fn trace(call: &Call, params: TraceParams) -> Result<RpcResult, ApiError> {
    let offset = params.offset;
    if offset == 0 {
        return Err(ApiError::bad("offsets begin at 1"));
    }
    let (channel, _) = call.channel(&full_name(params.room))?;
    let Answer::Traced(traced) = call.ask(&channel, Request::Trace { offset }).await? else {
        return Err(ErrorCode::Internal.into());
    };
    answer(&TraceReply {
        edge: &call.shared.config.session.node,
        shard: traced.shard,
        shard_epoch: traced.shard_epoch,
        offset,
        sync_us: traced.sync_us,
        batch: traced.batch,
    })
}

fn full_name(room: String) -> String {
    match room.contains(':') {
        true => room,
        false => format!("room:{room}"),
    }
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
