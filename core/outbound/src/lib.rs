//! HTTP requests that a node makes to servers which its customers name: their backends, webhooks
//! and key sets.
//!
//! Such an address comes from a tenant, so it is trusted with nothing: only public addresses are
//! reached unless an operator opened others, and the address that was checked is the one that is
//! connected to, so that a name which resolves to something else a moment later gains nothing.
//! Redirects are not followed. One deadline covers everything from the resolver to the last byte,
//! and a body has a bound.

mod breaker;
mod client;
mod error;
mod reach;
mod sign;
mod target;

pub use breaker::{Breaker, BreakerConfig};
pub use client::{Limits, Outbound, OutboundConfig, Request, Response};
pub use error::OutboundError;
pub use reach::{BadRange, Range, Reach};
pub use sign::signature;
pub use target::Target;
