//! Links between nodes: QUIC with mutual TLS between processes, and a link in memory with the same
//! interface for one process and for tests. Neither side of a link can tell which kind it has.
//!
//! [`Endpoint`] dials and accepts; [`Link`] opens and accepts streams; [`Stream::split`] gives the
//! two typed halves, [`FrameSender`] and [`FrameReceiver`]; [`Dialer`] keeps a link to one peer
//! alive. The frames themselves are `gb6_core_wire::mesh`.

#![forbid(unsafe_code)]

pub mod certs;
mod close;
mod dialer;
mod endpoint;
mod frame;
pub mod fuzz;
mod handshake;
mod hello;
pub mod identity;
mod lanes;
mod link;
mod memory;
mod network;
mod quic;
pub mod snapshot;
mod stats;
mod stream;
mod tls;
pub mod transport;

pub use close::{CloseCode, Closed};
pub use dialer::{Backoff, Dialer};
pub use endpoint::{BindError, DialError, Endpoint};
pub use frame::{FrameError, FrameReader, encode_frame};
pub use hello::{HelloError, LocalNode, PeerInfo};
pub use identity::NodeIdentity;
pub use lanes::QueueLimits;
pub use link::{DatagramError, Link, OpenError};
pub use memory::memory_pair;
pub use network::MemoryNetwork;
pub use stats::{Counter, FailureReason, MeshStats};
pub use stream::{FrameReceiver, FrameSender, RecvError, SendError, Stream, TrySendError};
pub use tls::{MeshTls, TlsError, install_crypto};
pub use transport::Timing;
