//! Why a request had no answer.

use std::net::IpAddr;

/// Why a request had no answer. None of it names more of the URL than its host: paths and queries
/// may hold secrets.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OutboundError {
    /// The URL can not be used.
    #[error("the URL can not be used: {0}")]
    BadUrl(&'static str),
    /// The host's name has no address.
    #[error("{host} has no address: {why}")]
    Unresolved {
        /// The host.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// Every address of the host is one that must not be reached.
    #[error(
        "{host} is {address}, which is no public address: an operator may open it to requests of \
         this kind"
    )]
    Forbidden {
        /// The host.
        host: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// No connection could be made.
    #[error("no connection to {host}: {why}")]
    Connect {
        /// The host.
        host: String,
        /// What the system or the TLS library said.
        why: String,
    },
    /// The deadline passed.
    #[error("{host} did not answer within {ms} ms")]
    Timeout {
        /// The host.
        host: String,
        /// The deadline in ms.
        ms: u64,
    },
    /// The answer is larger than it may be.
    #[error("the answer of {host} has more than {max} bytes")]
    TooLarge {
        /// The host.
        host: String,
        /// The bound in bytes.
        max: usize,
    },
    /// The answer is no HTTP, or ended early.
    #[error("the answer of {host} can not be read: {why}")]
    Broken {
        /// The host.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// So many requests to the host are under way that no more are begun.
    #[error("too many requests to {host} are under way")]
    Busy {
        /// The host.
        host: String,
    },
}

impl OutboundError {
    /// A short name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            OutboundError::BadUrl(_) => "bad_url",
            OutboundError::Unresolved { .. } => "unresolved",
            OutboundError::Forbidden { .. } => "forbidden",
            OutboundError::Connect { .. } => "connect",
            OutboundError::Timeout { .. } => "timeout",
            OutboundError::TooLarge { .. } => "too_large",
            OutboundError::Broken { .. } => "broken",
            OutboundError::Busy { .. } => "busy",
        }
    }
}
