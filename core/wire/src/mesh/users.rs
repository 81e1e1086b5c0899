//! Which edges have sessions of a named user: kept by the owner of the shard of the user's `#user`
//! channel, so that what is wanted of a user goes to those edges alone. And the user's status, which the
//! same owner keeps.

use super::RoomRef;

/// What has changed among the named users of an edge; after attaching, parts of all of them.
///
/// It is heard of when a renewal that was sent behind it is answered.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UsersHere {
    /// The edge's node id, put there by the driver of the owner, from the certificate of the link: an
    /// edge does not name itself.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The changes, in order.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<UserChange>,
    /// The snapshot revision by which the edge has reported all users whose `#user` channel lies in
    /// this shard, these changes included; 0: more of them follow.
    #[prost(uint64, tag = "3")]
    pub complete_by: u64,
}

/// A user has come to an edge or left it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserChange {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// The user; never empty.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Whether the last session has left; else the first one has come.
    #[prost(bool, tag = "3")]
    pub left: bool,
}

/// Asks which edges have sessions of a user.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserQuery {
    /// The edge's number for the answer.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The instance.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// The user.
    #[prost(string, tag = "3")]
    pub user: String,
    /// The snapshot revision that the edge routed by: an edge of another one may report the user to
    /// another shard.
    #[prost(uint64, tag = "4")]
    pub revision: u64,
}

/// Which edges have sessions of a user, and which edges have said all that they have.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserAnswer {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Node ids of edges with sessions of the user.
    #[prost(string, repeated, tag = "2")]
    pub edges: Vec<String>,
    /// Attached edges that have reported all of their users by the revision of the query.
    #[prost(uint32, tag = "3")]
    pub reported: u32,
    /// The [`edges_sum`] of their node ids.
    #[prost(fixed64, tag = "4")]
    pub reported_sum: u64,
}

/// Asks for the status of a user, or changes it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserStatusQuery {
    /// The edge's number for the answer.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The user's own channel, `#user`.
    #[prost(message, required, tag = "2")]
    pub room: RoomRef,
    /// The instance epoch that the edge routed by.
    #[prost(uint64, tag = "3")]
    pub instance_epoch: u64,
    /// What is wanted.
    #[prost(enumeration = "UserStatusAction", tag = "4")]
    pub action: i32,
    /// Of an update, what the user says of itself from now on; empty: what it said.
    #[prost(string, tag = "5")]
    pub state: String,
}

/// What is wanted of a user's status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum UserStatusAction {
    /// Not set.
    Unspecified = 0,
    /// To read it.
    Get = 1,
    /// That the user is active now.
    Update = 2,
    /// That nothing be known of it.
    Delete = 3,
}

/// The status of a user; where it was changed, empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UserStatusAnswer {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// When it was active last, in Unix seconds; 0: not known.
    #[prost(int64, tag = "2")]
    pub active: i64,
    /// When it was connected last, in Unix seconds; 0: not known.
    #[prost(int64, tag = "3")]
    pub online: i64,
    /// What it says of itself; empty: nothing.
    #[prost(string, tag = "4")]
    pub state: String,
    /// A code of `gb6_core_model::ErrorCode`; 0: none.
    #[prost(uint32, tag = "5")]
    pub error: u32,
}

/// A sum over node ids, in any order: equal numbers of equal sums are the same ids.
pub fn edges_sum<'a>(nodes: impl IntoIterator<Item = &'a str>) -> u64 {
    let hashes = nodes
        .into_iter()
        .map(|node| gb6_core_model::hash::stable_hash64(&[node.as_bytes()]));
    hashes.fold(0, u64::wrapping_add)
}
