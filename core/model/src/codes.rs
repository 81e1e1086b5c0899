//! Every code that a client can see, in one table each: errors, disconnects, unsubscribes.
//!
//! Codes below 1000 (errors), 3000 to 3999 (disconnects) and 2000 to 2999 (unsubscribes) are those
//! of the Centrifuge client protocol; error codes 1000 to 1999 are ours. Messages and reasons are
//! plain words: SDKs take an empty message for none, and a reason that parses as JSON for advice.

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal $(, $flag:ident)?;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every code of this table.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The number on the wire.
            pub fn code(self) -> u32 {
                match self { $($name::$variant => $code,)+ }
            }

            /// The words that go with it: never empty, never JSON, at most 123 bytes.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The code with this number.
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} ({})", self.text(), self.code())
            }
        }
    };
}

codes! {
    /// An error in a reply.
    ErrorCode {
        /// Something failed here; trying again may help.
        Internal = 100, "internal server error";
        /// The connection has no identity.
        Unauthorized = 101, "unauthorized";
        /// No namespace of that name.
        UnknownChannel = 102, "unknown channel";
        /// The token does not allow it.
        PermissionDenied = 103, "permission denied";
        /// No such rpc.
        MethodNotFound = 104, "method not found";
        /// The session already subscribed to the channel.
        AlreadySubscribed = 105, "already subscribed";
        /// A limit of the session, such as its number of subscriptions.
        LimitExceeded = 106, "limit exceeded";
        /// The command's fields make no sense or are too large.
        BadRequest = 107, "bad request";
        /// The channel's namespace does not offer it.
        NotAvailable = 108, "not available";
        /// The token has expired: fetch a new one.
        TokenExpired = 109, "token expired";
        /// The connection or subscription has expired.
        Expired = 110, "expired";
        /// Too many commands, or too much of the instance's work waits.
        TooManyRequests = 111, "too many requests";
        /// The position is below the oldest kept offset, or of another stream.
        UnrecoverablePosition = 112, "unrecoverable position";
        /// A page of the same channel is already on its way.
        ConcurrentPagination = 113, "concurrent pagination";
        /// The region's disk is full; reads go on and writing resumes by itself.
        StorageFull = 1001, "storage full";
        /// The shard is moving to another owner; try again with the same id.
        OwnerMoving = 1002, "owner moving";
        /// Whether the publish was written is not known; try again with the same id.
        OutcomeUnknown = 1003, "outcome unknown";
    }
}

impl ErrorCode {
    /// Whether the same command may succeed when it is tried again.
    pub fn temporary(self) -> bool {
        matches!(
            self,
            ErrorCode::Internal
                | ErrorCode::TooManyRequests
                | ErrorCode::ConcurrentPagination
                | ErrorCode::StorageFull
                | ErrorCode::OwnerMoving
                | ErrorCode::OutcomeUnknown
        )
    }
}

codes! {
    /// Why a connection ends. 3500 to 3999 are terminal: the SDK does not reconnect.
    Disconnect {
        /// This node is going away; another one, or this one later, will take the session.
        Shutdown = 3001, "shutdown";
        /// Something failed here.
        ServerError = 3004, "internal server error";
        /// The token expired and was not refreshed in time.
        ConnectionExpired = 3005, "connection expired";
        /// A subscription expired and was not refreshed in time.
        SubscriptionExpired = 3006, "subscription expired";
        /// The client reads too slowly: its queue is full.
        Slow = 3008, "slow";
        /// Writing to the client failed.
        WriteError = 3009, "write error";
        /// A server-side subscription's position could not be kept.
        InsufficientState = 3010, "insufficient state";
        /// An operator asked the client to reconnect.
        ForceReconnect = 3011, "force reconnect";
        /// No answer to a ping.
        NoPong = 3012, "no pong";
        /// Too many commands for too long.
        TooManyRequests = 3013, "too many requests";
        /// The token is not valid here.
        InvalidToken = 3500, "invalid token";
        /// A frame or a command breaks the protocol.
        BadRequest = 3501, "bad request";
        /// No connect command within the deadline.
        Stale = 3502, "stale";
        /// An operator ended the connection.
        ForceDisconnect = 3503, "force disconnect";
        /// Too many connections.
        ConnectionLimit = 3504, "connection limit";
        /// Too many channels.
        ChannelLimit = 3505, "channel limit";
        /// A binary frame on a JSON connection, or the reverse.
        InappropriateProtocol = 3506, "inappropriate protocol";
        /// The connection may not do this.
        PermissionDenied = 3507, "permission denied";
        /// There is no handler for it.
        NotAvailable = 3508, "not available";
        /// Too many commands failed.
        TooManyErrors = 3509, "too many errors";
    }
}

impl Disconnect {
    /// Whether an SDK reconnects by itself after this code.
    pub fn reconnect(self) -> bool {
        self.code() < 3500
    }
}

codes! {
    /// Why the server ended a subscription. From 2500 on the SDK subscribes again by itself.
    Unsubscribed {
        /// The server ended it for good.
        Server = 2000, "server unsubscribed";
        /// The position can not be continued from the log.
        InsufficientState = 2500, "insufficient state";
        /// The subscription expired.
        Expired = 2501, "subscription expired";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: u32, text: &str) {
        assert!(!text.is_empty() && text.len() <= 123, "{code}");
        assert!(
            serde_json::from_str::<serde_json::Value>(text).is_err(),
            "{code}: SDKs would read {text:?} as JSON"
        );
    }

    #[test]
    fn texts_are_plain_words() {
        ErrorCode::ALL
            .iter()
            .for_each(|c| check(c.code(), c.text()));
        Disconnect::ALL
            .iter()
            .for_each(|c| check(c.code(), c.text()));
        Unsubscribed::ALL
            .iter()
            .for_each(|c| check(c.code(), c.text()));
    }

    #[test]
    fn numbers_read_back() {
        for c in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(c.code()), Some(*c));
        }
        let temporary: Vec<u32> = ErrorCode::ALL
            .iter()
            .filter(|c| c.temporary())
            .map(|c| c.code())
            .collect();
        assert_eq!(temporary, [100, 111, 113, 1001, 1002, 1003]);
        assert!(Disconnect::Shutdown.reconnect() && !Disconnect::InvalidToken.reconnect());
    }
}
