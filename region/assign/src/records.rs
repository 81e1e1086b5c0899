//! The records that the nodes of a region share: one of each node, one of each shard.
//!
//! They are JSON, so that a person can read them in the store. Fields that are not known are kept out
//! of what is written back: all nodes of a region must know a field before one of them uses it, so a
//! record of a later version is refused by name.

use gb6_core_model::NodeId;
use serde::{Deserialize, Serialize};

/// The version of records that this program writes and the highest that it reads.
const VERSION: u32 = 1;

/// Why a record can not be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// It is no record.
    #[error("the record {key} can not be read: {reason}")]
    Damaged {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// It is of a later version.
    #[error(
        "the record {key} has version {found}, this program reads up to {VERSION}: use a newer gb6 on every node of the region"
    )]
    Newer {
        /// Its key.
        key: String,
        /// Its version.
        found: u32,
    },
}

/// A node, as it says itself with every beat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Of the record's fields.
    pub version: u32,
    /// This life of the node's process.
    #[serde(with = "hex")]
    pub incarnation: u64,
    /// Raised by every beat: what others look at is that it changes.
    pub beat: u64,
    /// It gives its shards away and takes none.
    pub draining: bool,
    /// `host:port` of its mesh listener, for people who look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Shards that it follows as their standby and has caught up with, ascending.
    #[serde(default)]
    pub ready: Vec<u32>,
    /// None of the logs that it follows or writes to answers it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
    /// The last beat of the node's life before this one, where its record was replaced: who has seen
    /// that beat knows that there was none behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<LastBeat>,
}

/// The last beat of a life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastBeat {
    /// Of which life of the node's process.
    #[serde(with = "hex")]
    pub incarnation: u64,
    /// Its beat.
    pub beat: u64,
}

/// Who owns a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Of the record's fields.
    pub version: u32,
    /// The owner; `None`: it was given up, and whoever comes may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The life of the owner's process that owns it; 0 without an owner.
    #[serde(with = "hex")]
    pub incarnation: u64,
    /// The assignment epoch: raised whenever the owner changes.
    pub epoch: u64,
    /// The node that follows the shard's log, to take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<NodeId>,
    /// Where a person wants it to be: balancing leaves it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<NodeId>,
    /// The node that its owner is to hand it over to, while that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<NodeId>,
}

/// What a key names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key {
    /// A node.
    Node(NodeId),
    /// A shard.
    Shard(u32),
}

/// What the keys of a region's records begin with.
pub fn prefix(region: &str) -> String {
    format!("regions/{region}/")
}

/// The key of a node's record.
pub fn node_key(region: &str, node: &NodeId) -> String {
    format!("regions/{region}/nodes/{node}")
}

/// The key of a shard's record.
pub fn shard_key(region: &str, shard: u32) -> String {
    format!("regions/{region}/shards/{shard}")
}

impl Key {
    /// What a key of a region's records names; `None`: it is none of ours.
    pub fn parse(region: &str, key: &str) -> Option<Self> {
        let rest = key.strip_prefix(&prefix(region))?;
        match rest.split_once('/')? {
            ("nodes", name) if NodeId::is_valid(name) => Some(Key::Node(NodeId::from(name))),
            ("shards", number) => {
                let shard: u32 = number.parse().ok()?;
                // One spelling alone.
                (shard.to_string() == number).then_some(Key::Shard(shard))
            }
            _ => None,
        }
    }
}

impl NodeRecord {
    /// The first record of a life.
    pub fn new(incarnation: u64, mesh: Option<String>) -> Self {
        Self {
            version: VERSION,
            incarnation,
            beat: 0,
            draining: false,
            mesh,
            ready: Vec::new(),
            cut_off: false,
            replaced: None,
        }
    }

    /// The beat that it is.
    pub(crate) fn beat(&self) -> LastBeat {
        LastBeat {
            incarnation: self.incarnation,
            beat: self.beat,
        }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Out of a stored value.
    ///
    /// # Errors
    /// It is none, or one of a later version.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, RecordError> {
        decode(key, value, |record: &Self| record.version)
    }
}

impl ShardRecord {
    /// Of a shard that has never had an owner.
    pub fn unowned() -> Self {
        Self {
            version: VERSION,
            ..Self::default()
        }
    }

    /// Whether this life of this node owns the shard.
    pub fn is_of(&self, node: &NodeId, incarnation: u64) -> bool {
        self.node.as_ref() == Some(node) && self.incarnation == incarnation
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Out of a stored value.
    ///
    /// # Errors
    /// It is none, or one of a later version.
    pub fn decode(key: &str, value: &[u8]) -> Result<Self, RecordError> {
        decode(key, value, |record: &Self| record.version)
    }
}

fn encode<R: Serialize>(record: &R) -> Vec<u8> {
    // Of strings, numbers and lists: there is nothing in it that JSON has not.
    serde_json::to_vec(record).unwrap_or_default()
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn decode<R: for<'a> Deserialize<'a>>(
    key: &str,
    value: &[u8],
    version: impl Fn(&R) -> u32,
) -> Result<R, RecordError> {
    let damaged = |error: serde_json::Error| RecordError::Damaged {
        key: key.to_owned(),
        reason: error.to_string(),
    };
    let found = serde_json::from_slice::<Versioned>(value).map_err(damaged)?;
    if found.version > VERSION {
        return Err(RecordError::Newer {
            key: key.to_owned(),
            found: found.version,
        });
    }
    let record = serde_json::from_slice::<R>(value).map_err(damaged)?;
    debug_assert_eq!(version(&record), found.version);
    Ok(record)
}

/// Incarnations as 16 hexadecimal digits: JSON readers take large numbers for floating ones.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let node = NodeId::from("r1");
        assert_eq!(
            Key::parse("eu", &node_key("eu", &node)),
            Some(Key::Node(node))
        );
        assert_eq!(Key::parse("eu", &shard_key("eu", 17)), Some(Key::Shard(17)));
        for foreign in [
            "regions/us/shards/1",
            "regions/eu/shards/01",
            "regions/eu/shards/x",
            "regions/eu/nodes/R1",
            "regions/eu/other/1",
            "regions/eu/shards",
        ] {
            assert_eq!(Key::parse("eu", foreign), None, "{foreign}");
        }
    }

    #[test]
    fn records_are_read_as_they_are_written_and_later_ones_refused() {
        let mut node = NodeRecord::new(0xffff_ffff_ffff_fff1, Some("10.0.0.1:7700".into()));
        node.ready = vec![1, 5];
        let bytes = node.encode();
        assert_eq!(NodeRecord::decode("k", &bytes), Ok(node));
        let shard = ShardRecord {
            node: Some("r1".into()),
            incarnation: 7,
            epoch: 3,
            pinned: Some("r2".into()),
            ..ShardRecord::unowned()
        };
        let text = String::from_utf8(shard.encode()).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"node":"r1","incarnation":"0000000000000007","epoch":3,"pinned":"r2"}"#
        );
        assert_eq!(ShardRecord::decode("k", text.as_bytes()), Ok(shard));
        let newer = text.replace(r#""version":1"#, r#""version":2,"#.trim_end_matches(','));
        let error = ShardRecord::decode("k", newer.as_bytes()).unwrap_err();
        assert_eq!(
            error,
            RecordError::Newer {
                key: "k".into(),
                found: 2
            }
        );
        assert!(matches!(
            ShardRecord::decode("k", b"{}"),
            Err(RecordError::Damaged { .. })
        ));
    }
}
