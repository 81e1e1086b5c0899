//! The server's own methods: `room.publish`, the durable publish with an id and an answer, and
//! `room.trace`, which tells how a message got to where it lies. Arguments and results are JSON in
//! both dialects.

use bytes::Bytes;
use gb6_core_model::{Allow, Channel, ErrorCode, Offset, limits};
use gb6_core_wire::client::{RpcRequest, RpcResult, json_depth_within};
use gb6_core_wire::record::ContentType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::live::{Asked, Live};
use super::reply::Turn;
use super::rooms::{Message, MessageId};
use crate::request::{PublishAnswer, Request, TraceAnswer};

/// The namespace that a room's bare name stands in.
const ROOM_NAMESPACE: &str = "room";

#[derive(Deserialize)]
struct PublishArgument<'a> {
    /// The name without `room:`, or a full channel name.
    room: String,
    /// The client's message id.
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Serialize)]
struct PublishReply {
    offset: Offset,
    epoch: String,
    time: i64,
    duplicate: bool,
}

#[derive(Deserialize)]
struct TraceArgument {
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

impl Live {
    pub(super) fn rpc(
        &mut self,
        turn: &mut Turn<'_>,
        id: u32,
        request: &RpcRequest,
    ) -> Result<(), ErrorCode> {
        match request.method.as_str() {
            "room.publish" => self.rpc_publish(turn, id, &request.data),
            "room.trace" => self.rpc_trace(turn, id, &request.data),
            _ => Err(ErrorCode::MethodNotFound),
        }
    }

    fn rpc_publish(&mut self, turn: &mut Turn<'_>, id: u32, data: &Bytes) -> Result<(), ErrorCode> {
        let argument: PublishArgument<'_> = parse(data)?;
        let fits = |id: &String| (1..=limits::MESSAGE_ID_BYTES_MAX).contains(&id.len());
        if argument.id.as_ref().is_some_and(|id| !fits(id)) {
            return Err(ErrorCode::BadRequest);
        }
        let message = Message {
            id: MessageId::Given(argument.id),
            data: data.slice_ref(argument.data.get().as_bytes()),
            content_type: ContentType::Json,
        };
        let channel = full_name(&argument.room);
        self.write(turn, id, &channel, message, Asked::RpcPublish)
    }

    pub(super) fn rpc_published(
        &self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &Channel,
        published: PublishAnswer,
    ) {
        let reply = PublishReply {
            offset: published.offset,
            epoch: self.epoch(channel, published.generation),
            time: published.time,
            duplicate: published.duplicate,
        };
        answer(turn, id, &reply);
    }

    fn rpc_trace(&mut self, turn: &mut Turn<'_>, id: u32, data: &Bytes) -> Result<(), ErrorCode> {
        let TraceArgument { room, offset } = parse(data)?;
        if offset == 0 {
            return Err(ErrorCode::BadRequest);
        }
        let name = full_name(&room);
        let (channel, _) = self.asker().may(turn.cx.snapshot, &name, Allow::History)?;
        let asked = Asked::RpcTrace(offset);
        let request = self.request(turn, id, &channel, asked, Request::Trace { offset });
        turn.hub(request);
        Ok(())
    }

    pub(super) fn rpc_traced(
        &self,
        turn: &mut Turn<'_>,
        id: u32,
        offset: Offset,
        traced: TraceAnswer,
    ) {
        let reply = TraceReply {
            edge: &turn.cx.config.node,
            shard: traced.shard,
            shard_epoch: traced.shard_epoch,
            offset,
            sync_us: traced.sync_us,
            batch: traced.batch,
        };
        answer(turn, id, &reply);
    }
}

fn parse<'a, T: Deserialize<'a>>(data: &'a Bytes) -> Result<T, ErrorCode> {
    if !json_depth_within(data, limits::JSON_DEPTH_MAX) {
        return Err(ErrorCode::BadRequest);
    }
    serde_json::from_slice(data).map_err(|_| ErrorCode::BadRequest)
}

/// The channel that the argument of a method names, if it names one.
pub(super) fn channel_named(data: &Bytes) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        room: String,
    }
    Some(full_name(&parse::<Named>(data).ok()?.room))
}

fn full_name(room: &str) -> String {
    match room.contains(':') {
        true => room.to_owned(),
        false => format!("{ROOM_NAMESPACE}:{room}"),
    }
}

fn answer(turn: &mut Turn<'_>, id: u32, reply: &impl Serialize) {
    match serde_json::to_vec(reply) {
        Ok(data) => turn.answer(id, RpcResult { data: data.into() }),
        // These types always have a JSON form; were it otherwise, the client must still hear.
        Err(_) => turn.fail(id, ErrorCode::Internal),
    }
}
