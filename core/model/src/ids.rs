//! Identifiers: small newtypes, so that a shard epoch is never mistaken for an instance epoch and
//! a room's offset never for a position in the log.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::channel::Channel;

/// Number of slots of the whole mesh, for ever. A room's slot never depends on the number of shards.
pub const SLOT_COUNT: u16 = 16_384;

/// A room's offset: 1 for its first record that clients can see, then consecutive. 0 means "none".
pub type Offset = u64;

/// A record's number in its shard's log, from 0. Never a byte offset: those belong to a segment's
/// generation and change when a segment is rewritten.
pub type Position = u64;

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(s: &str) -> Self {
                Self(Arc::from(s))
            }
        }
        impl From<String> for $name {
            fn from(s: String) -> Self {
                Self(Arc::from(s))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

string_id!(
    /// An instance: one isolated environment of a customer, the tenant. 1 to 63 characters of
    /// `[a-z0-9-]`, beginning with a letter ([`InstanceId::is_valid`]).
    InstanceId
);
string_id!(
    /// A node of the mesh, as its certificate names it: the same grammar as an instance.
    NodeId
);

impl InstanceId {
    /// Whether `s` may name an instance: `[a-z][a-z0-9-]{0,62}`. It becomes part of keys, file
    /// names, topics and host names, so the grammar is that of a DNS label.
    pub fn is_valid(s: &str) -> bool {
        is_label(s)
    }
}

impl NodeId {
    /// Whether `s` may name a node: `[a-z][a-z0-9-]{0,62}`.
    pub fn is_valid(s: &str) -> bool {
        is_label(s)
    }
}

fn is_label(s: &str) -> bool {
    let b = s.as_bytes();
    (1..=63).contains(&b.len())
        && b[0].is_ascii_lowercase()
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// One of the 16,384 slots that rooms hash to.
    Slot(u16)
);
number_id!(
    /// A shard of one region: the unit of ownership and of performance isolation.
    ShardId(u32)
);
number_id!(
    /// Ownership of a shard: raised by every acquisition. An owner with an old one can never
    /// acknowledge.
    ShardEpoch(u64)
);
number_id!(
    /// Ownership of an instance's rooms by a region: raised when they move. 1 at creation.
    InstanceEpoch(u64)
);
number_id!(
    /// One life of a process that owns a shard or serves an edge: random at start, never 0.
    Incarnation(u64)
);
number_id!(
    /// A client's session at one edge incarnation: unique there, never used again.
    SessionId(u64)
);

/// A channel of an instance: the key under which every map outside one instance keeps it. No bare
/// channel name crosses an instance's boundary (invariant A7).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ChannelKey {
    /// The instance that the channel belongs to.
    pub instance: InstanceId,
    /// The channel's full name.
    pub channel: Channel,
}

impl ChannelKey {
    /// The key of `channel` in `instance`.
    pub fn new(instance: InstanceId, channel: Channel) -> Self {
        Self { instance, channel }
    }
}

/// What a node does in the mesh. A node's certificate carries its roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Terminates clients and forwards to regions.
    Edge,
    /// Owns shards: order, durability, presence.
    Region,
    /// Serves the placement snapshot.
    Geo,
}

impl Role {
    /// The role's name, as in certificates and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Region => "region",
            Role::Geo => "geo",
        }
    }

    /// The role with this name.
    pub fn parse(s: &str) -> Option<Self> {
        match s {
            "edge" => Some(Role::Edge),
            "region" => Some(Role::Region),
            "geo" => Some(Role::Geo),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_dns_labels() {
        for good in ["demo", "a", "acme-2"] {
            assert!(InstanceId::is_valid(good), "{good}");
        }
        for bad in ["", "Demo", "2acme", "-a", "a_b", "a.b", &"a".repeat(64)] {
            assert!(!InstanceId::is_valid(bad), "{bad}");
        }
    }
}
