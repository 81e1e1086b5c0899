//! Ports: the traits behind which engines stand. A port says what is promised; one contract suite
//! per port (feature `contract`) says it as tests, and every backend passes the same one.
//!
//! What is secret in an engine is sealed by the one [`Sealer`].
//!
//! Ports know no runtime: a write answers through a [`Completion`], reads block the calling
//! thread, so drivers make them off their async threads.

pub mod blobs;
pub mod check;
mod completion;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod directory;
mod error;
pub mod events;
mod fence;
mod instance_blobs;
mod layer;
pub mod limiter;
pub mod log;
pub mod map;
pub mod memory;
pub mod people;
pub mod retention;
pub mod rooms;
pub mod runs;
mod seal;
pub mod signals;
pub mod temporary;
pub mod uri;

pub use blobs::{BlobKey, BlobMeta, BlobStore, BlobWriter, Presigned, PutIf};
pub use check::Check;
pub use completion::{Completion, wait};
pub use directory::Directory;
pub use error::StoreError;
pub use events::{EventSink, SinkEvent};
pub use fence::Fence;
pub use instance_blobs::ForInstance;
pub use layer::{LogLayer, MapLayer};
pub use limiter::{LimitKey, RateLimiter, Share, Want};
pub use log::{
    Acquire, Acquired, Commit, ConsumerState, Durability, LogCaps, LogRange, Page, Retain,
    RetentionPlan, SegmentPlan, ShardLog,
};
pub use map::{Expect, MapEntry, MapPage, MapStore};
pub use people::{Hold, PeopleStatus, PersonKey, Status, StatusSink};
pub use rooms::{RoomEntry, RoomStore};
pub use seal::{SEALING_KEYS_MAX, SealError, Sealer};
pub use signals::{SignalSink, Signals};
pub use temporary::{Temporary, TemporaryKey};
