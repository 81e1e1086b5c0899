//! The table of methods: what each takes and answers, and who does it.

use futures_util::future::BoxFuture;
use gb6_core_model::ErrorCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::call::Call;
use super::error::ApiError;
use super::schema::{self, Json};
use super::{batch, gather, publish, revoke, rooms, rpc, statuses, users};

macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $method:ident $name:literal: $request:ty => $result:ty, $does:path;)+) => {
        /// A method of the server API.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(super) enum Method {
            $($(#[doc = $doc])+ $method,)+
        }

        impl Method {
            /// Every method.
            pub(super) const ALL: &'static [Method] = &[$(Method::$method,)+];

            /// Its name in addresses and batches.
            pub(super) fn name(self) -> &'static str {
                match self { $(Method::$method => $name,)+ }
            }

            /// What it does, in words.
            pub(super) fn summary(self) -> &'static str {
                match self { $(Method::$method => concat!($($doc,)+).trim_ascii(),)+ }
            }

            /// The schemas of what it takes and of what it answers.
            pub(super) fn schemas(self, of: &mut SchemaGenerator) -> (Schema, Schema) {
                match self {
                    $(Method::$method => (
                        of.subschema_for::<$request>(),
                        of.subschema_for::<$result>(),
                    ),)+
                }
            }
        }

        /// Reads what a method takes, and does nothing with it.
        pub(super) fn check(method: Method, body: &RawValue) -> Result<(), ApiError> {
            match method {
                $(Method::$method => read::<$request>(body).map(drop),)+
            }
        }

        async fn carry_out(
            call: &Call,
            method: Method,
            body: &RawValue,
        ) -> Result<Json, ApiError> {
            match method {
                $(Method::$method => {
                    let request: $request = read(body)?;
                    let result: $result = $does(call, request).await?;
                    write(&result)
                })+
            }
        }
    };
}

methods! {
    /// Publishes data to a channel.
    Publish "publish": schema::PublishRequest => schema::PublishResult, publish::publish;
    /// Publishes the same data to several channels.
    Broadcast "broadcast": schema::BroadcastRequest => schema::BroadcastResult, publish::broadcast;
    /// Reads a page of a channel's history, or its position alone.
    History "history": schema::HistoryRequest => schema::HistoryResult, rooms::history;
    /// Removes a channel's history; its offsets and its epoch go on.
    HistoryRemove "history_remove": schema::ChannelRequest => schema::Done, rooms::history_remove;
    /// Tells who is present in a channel.
    Presence "presence": schema::ChannelRequest => schema::PresenceResult, rooms::presence;
    /// Tells how many are present in a channel.
    PresenceStats "presence_stats": schema::ChannelRequest => schema::PresenceStatsResult,
        rooms::presence_stats;
    /// Subscribes a user's sessions to a channel.
    Subscribe "subscribe": schema::SubscribeRequest => schema::Done, users::subscribe;
    /// Ends a subscription of a user's sessions.
    Unsubscribe "unsubscribe": schema::UnsubscribeRequest => schema::Done, users::unsubscribe;
    /// Ends a user's sessions.
    Disconnect "disconnect": schema::DisconnectRequest => schema::Done, users::disconnect;
    /// Changes when a user's sessions expire.
    Refresh "refresh": schema::RefreshRequest => schema::Done, users::refresh;
    /// Tells which channels have subscribers, at all edges.
    Channels "channels": schema::ChannelsRequest => schema::ChannelsResult, gather::channels;
    /// Tells what every edge serves of the instance.
    Info "info": schema::InfoRequest => schema::InfoResult, gather::info;
    /// Tells which connections a user has, at all edges.
    Connections "connections": schema::ConnectionsRequest => schema::ConnectionsResult,
        gather::connections;
    /// Says that users are active now, and what they say of themselves.
    UpdateUserStatus "update_user_status": schema::UpdateUserStatusRequest => schema::Done,
        statuses::update;
    /// Tells when users were online and active last, and what they say of themselves.
    GetUserStatus "get_user_status": schema::GetUserStatusRequest => schema::GetUserStatusResult,
        statuses::get;
    /// Forgets the statuses of users.
    DeleteUserStatus "delete_user_status": schema::DeleteUserStatusRequest => schema::Done,
        statuses::delete;
    /// Calls a method of the server, as clients do with rpc.
    Rpc "rpc": schema::RpcRequest => schema::RpcResult, rpc::rpc;
    /// Revokes one token: connections with it end, and it opens none any more.
    RevokeToken "revoke_token": schema::RevokeTokenRequest => schema::Done, revoke::token;
    /// Revokes the tokens of a user that were issued before some time.
    InvalidateUserTokens "invalidate_user_tokens":
        schema::InvalidateUserTokensRequest => schema::Done, revoke::user_tokens;
    /// Blocks a user: the user's connections end, and none begins.
    BlockUser "block_user": schema::BlockUserRequest => schema::Done, revoke::block;
    /// Lets a blocked user in again.
    UnblockUser "unblock_user": schema::UnblockUserRequest => schema::Done, revoke::unblock;
    /// Carries out several commands. Its answer stands in no `result`.
    Batch "batch": batch::BatchRequest => batch::BatchResult, batch::batch;
}

/// Methods of the same schema that this server does not offer: they answer 108.
const NOT_OFFERED: &[&str] = &[
    "cancel_push",
    "device_list",
    "device_register",
    "device_remove",
    "device_topic_list",
    "device_topic_update",
    "device_update",
    "map_clear",
    "map_publish",
    "map_read_state",
    "map_read_stream",
    "map_remove",
    "map_stats",
    "send_push_notification",
    "update_push_status",
    "user_topic_list",
    "user_topic_update",
];

impl Method {
    /// The method of this name.
    pub(super) fn find(name: &str) -> Result<Self, ApiError> {
        let found = Method::ALL.iter().find(|m| m.name() == name).copied();
        found.ok_or_else(|| match NOT_OFFERED.contains(&name) {
            true => {
                let why = format!("this server has no method {name}");
                ApiError::with(ErrorCode::NotAvailable, why)
            }
            false => {
                let why = format!("there is no method of this name: {}", shortened(name, 64));
                ApiError::with(ErrorCode::MethodNotFound, why)
            }
        })
    }
}

/// Carries out a method. Its own future, because a batch carries out others.
pub(super) fn call<'a>(
    call: &'a Call,
    method: Method,
    body: &'a RawValue,
) -> BoxFuture<'a, Result<Json, ApiError>> {
    Box::pin(carry_out(call, method, body))
}

fn read<'a, T: Deserialize<'a> + JsonSchema>(body: &'a RawValue) -> Result<T, ApiError> {
    // Its words repeat what was found, however long that is.
    let bad = |error: serde_json::Error| ApiError::bad(shortened(&error.to_string(), 256));
    serde_json::from_str(body.get()).map_err(bad)
}

fn write(result: &impl Serialize) -> Result<Json, ApiError> {
    // These types always have a JSON form; were it otherwise, the caller must still hear.
    to_raw_value(result).map_err(|_| ErrorCode::Internal.into())
}

/// A text as it is said in an error, which is no place for a long one of somebody's.
pub(super) fn shortened(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
