//! The driver of an edge: sockets, tasks and clocks around the pure machines of `edge/session`.
//!
//! [`Edge::start`] listens for clients of the Centrifuge protocol, over WebSocket and QUIC, answers
//! health, metrics and the console on the HTTP port, verifies tokens, and keeps a task for each shard
//! whose rooms have subscribers here, attached to the shard's owner over the mesh.

pub mod auth;
pub mod fuzz;

mod accept;
mod admin;
mod admission;
mod api;
mod clock;
mod config;
mod connection;
mod connects;
mod edge;
mod hosts;
mod http;
mod limits;
mod metrics;
mod one_way;
mod origin;
mod owners;
mod pace;
mod people;
mod places;
mod proxies;
mod quic;
mod relay;
mod revocation;
mod session_ends;
mod shards;
mod shared;
mod stream;
mod tls;
mod unmoved;
mod webtransport;
mod wheel;
mod ws;

pub use auth::{IssueError, KeySetTiming, SigningKey, TokenRequest, issue_token, sign_claims};
pub use config::{ConfigError, EdgeConfig};
pub use edge::{Edge, EdgeDeps, EdgeError, EdgeHandle};
pub use http::assets::{Asset, AssetSource, no_assets};
pub use proxies::ProxyBounds;
pub use revocation::RevocationConfig;
pub use tls::{CertificateError, CertificateSource, SelfMade};
