//! Sessions of instances that want to hear of their ends: an edge reports them to the owner of the
//! shard of `#user`, which writes their ends into its log
//! ([`Kind::Session`](crate::record::Kind::Session)), also when the edge is lost.
//!
//! Rules that the frames alone do not say:
//! - An edge numbers ends over all shards, ascending; at most [`SESSION_ENDS_UNANSWERED_MAX`] of a
//!   shard are unanswered. After a break it says all of its sessions and all unanswered ends again.
//! - An end is answered when its record is durable; an end whose number was written is answered again
//!   and not written again.

/// Ends of sessions and subscriptions that an edge may have unanswered in one shard.
pub const SESSION_ENDS_UNANSWERED_MAX: usize = 1024;

/// What has changed among an edge's sessions, in this order: who came, who went without a word, who
/// is another shard's, who ended.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SessionsReport {
    /// This life of the edge's process, in all shards.
    #[prost(fixed64, tag = "1")]
    pub process: u64,
    /// Sessions that have begun; after attaching, parts of all of them.
    #[prost(message, repeated, tag = "2")]
    pub here: Vec<SessionHere>,
    /// Whether all sessions have been named since the edge attached: others are here no longer.
    #[prost(bool, tag = "3")]
    pub complete: bool,
    /// What has ended.
    #[prost(message, repeated, tag = "4")]
    pub ended: Vec<SessionEnd>,
    /// Sessions that go on, but of whose ends another shard is told from now on.
    #[prost(uint64, repeated, tag = "5")]
    pub elsewhere: Vec<u64>,
}

/// A session.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SessionHere {
    /// Its number in this life of the edge.
    #[prost(uint64, tag = "1")]
    pub session: u64,
    /// Its instance.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// Its user; empty: anonymous.
    #[prost(string, tag = "3")]
    pub user: String,
    /// Its client id.
    #[prost(string, tag = "4")]
    pub client: String,
}

/// The end of a session or of one of its subscriptions.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SessionEnd {
    /// The number of the report, from 1.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The session.
    #[prost(message, required, tag = "2")]
    pub of: SessionHere,
    /// The instance epoch that the edge routed by.
    #[prost(uint64, tag = "3")]
    pub instance_epoch: u64,
    /// [`SessionEvent`](crate::record::SessionEvent).
    #[prost(enumeration = "crate::record::SessionEvent", tag = "4")]
    pub event: i32,
    /// The channel whose subscription ended; empty where the session did.
    #[prost(string, tag = "5")]
    pub channel: String,
    /// The code.
    #[prost(uint32, tag = "6")]
    pub code: u32,
    /// Why, for people.
    #[prost(string, tag = "7")]
    pub reason: String,
}

impl SessionEnd {
    /// The channel that its record stands in: the user's own, or `#` where there is none.
    pub fn home(user: &str) -> String {
        let own = gb6_core_model::Channel::personal(user);
        own.map_or_else(|| "#".to_owned(), |channel| channel.as_str().to_owned())
    }
}

/// The answer to ends.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SessionsWritten {
    /// Numbers of ends whose records are durable.
    #[prost(uint64, repeated, tag = "1")]
    pub numbers: Vec<u64>,
    /// Numbers of ends that belong to another shard by now, and were not written.
    #[prost(uint64, repeated, tag = "2")]
    pub moved: Vec<u64>,
}
