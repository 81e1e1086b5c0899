//! The server's own methods: `room.publish`, the durable publish with an id and an answer,
//! `room.trace`, which tells how a message got to where it lies, and `update_user_status`, by which a user
//! says that it is active, and what it says of itself. Arguments and results are JSON in
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
use crate::request::{PublishAnswer, Request, StatusWanted, TraceAnswer};

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

/// What `room.publish` answers, whoever calls it.
#[derive(Serialize)]
pub struct RoomPublished {
    offset: Offset,
    epoch: String,
    time: i64,
    duplicate: bool,
}

impl RoomPublished {
    /// The answer for what was written under this stream epoch.
    pub fn new(published: &PublishAnswer, epoch: String) -> Self {
        Self {
            offset: published.offset,
            epoch,
            time: published.time,
            duplicate: published.duplicate,
        }
    }
}

#[derive(Deserialize)]
struct TraceArgument {
    room: String,
    offset: Offset,
}

/// What `room.trace` answers, whoever calls it.
#[derive(Serialize)]
pub struct RoomTraced<'a> {
    edge: &'a str,
    shard: u32,
    shard_epoch: u64,
    offset: Offset,
    sync_us: u64,
    batch: u32,
}

impl<'a> RoomTraced<'a> {
    /// The answer of the node `edge` about the record at `offset`.
    pub fn new(edge: &'a str, offset: Offset, traced: &TraceAnswer) -> Self {
        Self {
            edge,
            shard: traced.shard,
            shard_epoch: traced.shard_epoch,
            offset,
            sync_us: traced.sync_us,
            batch: traced.batch,
        }
    }
}

#[derive(Deserialize, Default)]
struct StatusArgument {
    #[serde(default)]
    state: Option<String>,
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
            "update_user_status" => self.rpc_status(turn, id, &request.data),
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
        let channel = room_channel(&argument.room);
        self.write(turn, id, &channel, message, Asked::RpcPublish)
    }

    pub(super) fn rpc_published(
        &self,
        turn: &mut Turn<'_>,
        id: u32,
        channel: &Channel,
        published: PublishAnswer,
    ) {
        let epoch = self.epoch(channel, published.generation);
        answer(turn, id, &RoomPublished::new(&published, epoch));
    }

    fn rpc_trace(&mut self, turn: &mut Turn<'_>, id: u32, data: &Bytes) -> Result<(), ErrorCode> {
        let TraceArgument { room, offset } = parse(data)?;
        if offset == 0 {
            return Err(ErrorCode::BadRequest);
        }
        let name = room_channel(&room);
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
        let node = &turn.cx.config.node;
        answer(turn, id, &RoomTraced::new(node, offset, &traced));
    }
}

impl Live {
    fn rpc_status(&mut self, turn: &mut Turn<'_>, id: u32, data: &Bytes) -> Result<(), ErrorCode> {
        // SDKs send nothing, or `null`, where there is no argument.
        let argument = match data.is_empty() {
            true => None,
            false => parse::<Option<StatusArgument>>(data)?,
        };
        let state = argument.unwrap_or_default().state.unwrap_or_default();
        if state.len() > limits::USER_STATE_BYTES_MAX {
            return Err(ErrorCode::BadRequest);
        }
        let (instance, user) = self.identity();
        let placed = turn.cx.snapshot.instances.get(instance);
        let placed = placed.filter(|placed| placed.user_status_ttl_ms > 0);
        let epoch = placed.ok_or(ErrorCode::NotAvailable)?.epoch;
        // Nobody in particular has no status.
        if user.is_empty() {
            return Err(ErrorCode::PermissionDenied);
        }
        let home = Channel::personal(user).ok_or(ErrorCode::NotAvailable)?;
        let update = Request::UserStatus {
            instance_epoch: epoch,
            wanted: StatusWanted::Update { state },
        };
        let request = self.request(turn, id, &home, Asked::RpcStatus, update);
        turn.hub(request);
        Ok(())
    }
}

/// A method that has nothing to say.
pub(super) fn done(turn: &mut Turn<'_>, id: u32) {
    #[derive(Serialize)]
    struct Done {}
    answer(turn, id, &Done {});
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
    Some(room_channel(&parse::<Named>(data).ok()?.room))
}

/// The channel that the argument `room` of these methods names: a full name, or one without its
/// namespace.
pub fn room_channel(room: &str) -> String {
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
