//! Prefixes of channel names that an edge follows, in every shard of their instance.

/// The edge has subscribers of every room of an instance whose name begins with a prefix, or has
/// none any more.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Message)]
pub struct PrefixRef {
    /// The instance.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// What the names begin with: a whole namespace and some of what stands behind it.
    #[prost(string, tag = "2")]
    pub prefix: String,
    /// The edge's number for the answer; 0 where there is none.
    #[prost(uint64, tag = "3")]
    pub request: u64,
}

/// The answer to `follow_prefix`: what is committed from here on is delivered.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PrefixFollowed {
    /// The edge's request number.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// A code of `gb6_core_model::ErrorCode`; 0: none.
    #[prost(uint32, tag = "2")]
    pub error: u32,
}
