//! Placement snapshots on the side of a node: the last good one is kept on disk, so that a node
//! starts and works without geo; while geo can be reached, its newer ones are followed.

mod follower;
mod store;

pub(crate) use follower::read;
pub use follower::{FollowError, FollowerConfig, GeoAddress, SnapshotFollower, SnapshotStats};
pub use store::{SnapshotStore, StoreError};
