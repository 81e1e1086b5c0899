//! The limits stream: an edge asks the owner of an instance's home shard for its shares of limits
//! that edges keep together.
//!
//! An edge opens one to each node that owns a home shard of an instance with such limits. It sends
//! [`LimitsWanted`] for what it uses, in advance and again before the shares end, and the owner
//! answers with [`LimitsShared`]. The owner passes over limits of instances whose home shard it does
//! not own: the edge goes on with what it has and asks elsewhere when its placement says so. A
//! stream that ends takes no share away.

/// What a limits stream is opened with: nothing is asked for yet.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LimitsOpen {}

/// What an edge would use of limits.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LimitsWanted {
    /// At most `gb6_core_model::limits::LIMITS_ENTRIES_MAX`; the owner passes over the rest.
    #[prost(message, repeated, tag = "1")]
    pub limits: Vec<LimitWanted>,
}

/// What an edge would use of one limit.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LimitWanted {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Its user; empty: all of the instance.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Thousandths of a command that were asked for a second; 0: the share is given back.
    #[prost(uint64, tag = "3")]
    pub demand: u64,
}

/// The shares of an edge.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LimitsShared {
    /// One for each limit that was asked for and is shared out here.
    #[prost(message, repeated, tag = "1")]
    pub limits: Vec<LimitShared>,
}

/// The share of one limit.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LimitShared {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Its user; empty: all of the instance.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Millionths of rate and burst.
    #[prost(uint32, tag = "3")]
    pub parts: u32,
    /// How long the share lasts, in ms from its arrival on.
    #[prost(uint32, tag = "4")]
    pub valid_ms: u32,
    /// After how long it should be asked for again while it is used, in ms.
    #[prost(uint32, tag = "5")]
    pub renew_ms: u32,
}
