//! Counters of an endpoint, as plain atomics: whoever exports metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a link did not come about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FailureReason {
    /// No address is known, or it can not be resolved.
    Address,
    /// Nobody answers there, or the path failed.
    Unreachable,
    /// The handshake or the hello took too long.
    Timeout,
    /// A certificate was not accepted: another authority, expired, or none.
    Certificate,
    /// Another node than expected, or a hello that differs from the certificate.
    Node,
    /// A role that the certificate does not carry.
    Role,
    /// No common version of the protocol.
    Version,
    /// The first stream carried no hello.
    BadHello,
    /// Too many handshakes at once.
    Busy,
    /// The peer closed for a reason of its own.
    Refused,
}

impl FailureReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [FailureReason; 10] = [
        FailureReason::Address,
        FailureReason::Unreachable,
        FailureReason::Timeout,
        FailureReason::Certificate,
        FailureReason::Node,
        FailureReason::Role,
        FailureReason::Version,
        FailureReason::BadHello,
        FailureReason::Busy,
        FailureReason::Refused,
    ];

    /// The reason as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::Address => "address",
            FailureReason::Unreachable => "unreachable",
            FailureReason::Timeout => "timeout",
            FailureReason::Certificate => "certificate",
            FailureReason::Node => "node",
            FailureReason::Role => "role",
            FailureReason::Version => "version",
            FailureReason::BadHello => "bad_hello",
            FailureReason::Busy => "busy",
            FailureReason::Refused => "refused",
        }
    }
}

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

/// What an endpoint has counted since it was made. Every field only grows.
#[derive(Debug, Default)]
pub struct MeshStats {
    /// Links that came up, dialled and accepted.
    pub links_up: Counter,
    /// Links that ended.
    pub links_down: Counter,
    /// Streams opened by this side.
    pub streams_opened: Counter,
    /// Streams accepted from the other side.
    pub streams_accepted: Counter,
    /// Streams refused: no, or no known, purpose in their first frame, or not in time.
    pub streams_refused: Counter,
    /// Frames queued for sending.
    pub frames_out: Counter,
    /// Their encoded bytes.
    pub bytes_out: Counter,
    /// Frames received.
    pub frames_in: Counter,
    /// Bytes received on streams. A link in memory moves values and counts none.
    pub bytes_in: Counter,
    /// Received frames that broke the framing or were too large.
    pub frames_bad: Counter,
    /// Frames that found their lane full.
    pub queue_full: Counter,
    /// Datagrams sent.
    pub datagrams_out: Counter,
    /// Datagrams received.
    pub datagrams_in: Counter,
    /// Datagrams dropped because the receiver's queue was full (links in memory).
    pub datagrams_dropped: Counter,
    dial_failures: [Counter; FailureReason::ALL.len()],
    accept_failures: [Counter; FailureReason::ALL.len()],
}

impl MeshStats {
    /// Dials that failed for `reason`.
    pub fn dial_failures(&self, reason: FailureReason) -> u64 {
        self.dial_failures[reason as usize].get()
    }

    /// Incoming connections that failed for `reason`.
    pub fn accept_failures(&self, reason: FailureReason) -> u64 {
        self.accept_failures[reason as usize].get()
    }

    pub(crate) fn dial_failed(&self, reason: FailureReason) {
        self.dial_failures[reason as usize].add(1);
    }

    pub(crate) fn accept_failed(&self, reason: FailureReason) {
        self.accept_failures[reason as usize].add(1);
    }
}
