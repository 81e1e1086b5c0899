//! The machine of one client connection: connect → live → closed.

mod machine;
mod types;

pub use machine::Session;
pub use types::{
    Action, Claims, Context, FrameKind, SessionConfig, SessionCounters, SessionSeed, TokenError,
};
