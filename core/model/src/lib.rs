//! The vocabulary of GB6: identifiers, limits, channel names, permissions, error codes, time and
//! the placement snapshot, and queues in which instances take turns. No role logic and no I/O lives here; every other crate may depend on it.

pub mod caps;
pub mod channel;
pub mod codes;
pub mod glob;
pub mod hash;
pub mod ids;
pub mod limits;
mod patterns;
pub mod prefix;
mod proxies;
pub mod public_key;
pub mod snapshot;
mod snapshot_check;
pub mod turns;
pub mod webhooks;

pub use caps::{Allow, Capability, CapabilityError, Caps};
pub use channel::{Channel, ChannelError};
pub use codes::{Disconnect, ErrorCode, Unsubscribed};
pub use glob::{Glob, GlobError};
pub use ids::{
    ChannelKey, Incarnation, InstanceEpoch, InstanceId, NodeId, Offset, Position, Role, SessionId,
    ShardEpoch, ShardId, Slot,
};
pub use public_key::{PublicKey, PublicKeyError, VerifyingJwk};
pub use snapshot_check::SnapshotError;
pub use turns::Turns;
pub use webhooks::{WebhookEvent, Webhooks};
