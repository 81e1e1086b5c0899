//! The owners stream: a node of a region tells an edge who owns the region's shards, where the region's
//! nodes decide that among themselves.
//!
//! An edge opens one to each node of such a region, and sends nothing on it. The node answers with all
//! owners that it knows, at once and again whenever one changes; of what several nodes say about a
//! shard the highest assignment epoch is right. An owner is where to go, and no more: that it is the
//! owner it proves by itself, with every commit.

/// What an owners stream is opened with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OwnersOpen {
    /// The region.
    #[prost(string, tag = "1")]
    pub region: String,
}

/// Who owns the shards of a region, as far as the sender knows.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OwnersNow {
    /// Those that have an owner.
    #[prost(message, repeated, tag = "1")]
    pub shards: Vec<ShardOwner>,
}

/// Who owns a shard.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ShardOwner {
    /// The shard.
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    /// The assignment epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The node.
    #[prost(string, tag = "3")]
    pub node: String,
}
