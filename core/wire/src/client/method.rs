//! Which method a command holds: the protocol has a field for each, and nothing but this look at all
//! of them says that exactly one is set.

use super::{
    Command, ConnectRequest, HistoryRequest, PresenceRequest, PresenceStatsRequest, PublishRequest,
    RefreshRequest, RpcRequest, SendRequest, SubRefreshRequest, SubscribeRequest,
    UnsubscribeRequest,
};

/// What a command asks for, as [`Command::method`] sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method<'a> {
    /// No method: the answer to a server's ping when the id is 0 too, else a violation.
    None,
    /// Several methods in one command: a violation.
    Many,
    /// `connect`
    Connect(&'a ConnectRequest),
    /// `subscribe`
    Subscribe(&'a SubscribeRequest),
    /// `unsubscribe`
    Unsubscribe(&'a UnsubscribeRequest),
    /// `publish`
    Publish(&'a PublishRequest),
    /// `presence`
    Presence(&'a PresenceRequest),
    /// `presence_stats`
    PresenceStats(&'a PresenceStatsRequest),
    /// `history`
    History(&'a HistoryRequest),
    /// `ping`
    Ping,
    /// `send`
    Send(&'a SendRequest),
    /// `rpc`
    Rpc(&'a RpcRequest),
    /// `refresh`
    Refresh(&'a RefreshRequest),
    /// `sub_refresh`
    SubRefresh(&'a SubRefreshRequest),
}

impl Method<'_> {
    /// The method's name on the wire, for metrics and logs; `none` and `many` for those two.
    pub fn name(&self) -> &'static str {
        match self {
            Method::None => "none",
            Method::Many => "many",
            Method::Connect(_) => "connect",
            Method::Subscribe(_) => "subscribe",
            Method::Unsubscribe(_) => "unsubscribe",
            Method::Publish(_) => "publish",
            Method::Presence(_) => "presence",
            Method::PresenceStats(_) => "presence_stats",
            Method::History(_) => "history",
            Method::Ping => "ping",
            Method::Send(_) => "send",
            Method::Rpc(_) => "rpc",
            Method::Refresh(_) => "refresh",
            Method::SubRefresh(_) => "sub_refresh",
        }
    }
}

impl Command {
    /// The one method of this command, or that there are none or many.
    pub fn method(&self) -> Method<'_> {
        let methods = [
            self.connect.as_deref().map(Method::Connect),
            self.subscribe.as_deref().map(Method::Subscribe),
            self.unsubscribe.as_ref().map(Method::Unsubscribe),
            self.publish.as_ref().map(Method::Publish),
            self.presence.as_ref().map(Method::Presence),
            self.presence_stats.as_ref().map(Method::PresenceStats),
            self.history.as_ref().map(Method::History),
            self.ping.as_ref().map(|_| Method::Ping),
            self.send.as_ref().map(Method::Send),
            self.rpc.as_ref().map(Method::Rpc),
            self.refresh.as_ref().map(Method::Refresh),
            self.sub_refresh.as_ref().map(Method::SubRefresh),
        ];
        let mut set = methods.into_iter().flatten();
        match (set.next(), set.next()) {
            (None, _) => Method::None,
            (Some(method), None) => method,
            (Some(_), Some(_)) => Method::Many,
        }
    }

    /// Whether this is the answer to a ping: an empty command.
    pub fn is_pong(&self) -> bool {
        self.id == 0 && self.method() == Method::None
    }
}
