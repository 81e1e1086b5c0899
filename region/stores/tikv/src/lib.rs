//! The port `RoomStore` on TiKV, through its transactional client.
//!
//! Whatever TiKV does (dead, hanging, slow, back again), each step of a call ends within a deadline
//! that follows from the configured timeout, and calls work again as soon as TiKV does: see `link.rs`.

#![forbid(unsafe_code)]

mod applied;
mod check;
mod commit;
mod config;
mod error;
mod keys;
mod link;
mod metrics;
mod read;
mod rooms;
mod sweep;
mod trim;
mod write;

pub use check::check;
pub use config::{Config, Tls};
pub use rooms::TikvRooms;
