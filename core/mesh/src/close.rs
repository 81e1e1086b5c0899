//! Why a link ended, as both of its sides and everything that waits on it learn it.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

/// The application close codes of `gb6-mesh/1` (RFC 9000 section 19.19).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseCode {
    /// The side that closed needs the link no more.
    Done,
    /// The node that closed is about to stop: dial again, perhaps another one.
    Draining,
    /// The peer broke a rule of the protocol.
    Violation,
    /// The peer's first frame was not a hello.
    BadHello,
    /// No version of the protocol is spoken by both sides.
    Version,
    /// The peer's certificate names no node, or another one than its hello.
    Identity,
    /// The peer claimed a role that its certificate does not carry.
    Role,
    /// The peer's hello did not come in time.
    HelloTimeout,
    /// The node that answered is not the one that was dialled.
    WrongNode,
    /// A code that this version does not know.
    Unknown(u64),
}

impl CloseCode {
    /// The code on the wire.
    pub fn code(self) -> u64 {
        match self {
            CloseCode::Done => 0,
            CloseCode::Draining => 1,
            CloseCode::Violation => 2,
            CloseCode::BadHello => 16,
            CloseCode::Version => 17,
            CloseCode::Identity => 18,
            CloseCode::Role => 19,
            CloseCode::HelloTimeout => 20,
            CloseCode::WrongNode => 21,
            CloseCode::Unknown(code) => code,
        }
    }

    /// The meaning of a code from the wire.
    pub fn from_code(code: u64) -> Self {
        match code {
            0 => CloseCode::Done,
            1 => CloseCode::Draining,
            2 => CloseCode::Violation,
            16 => CloseCode::BadHello,
            17 => CloseCode::Version,
            18 => CloseCode::Identity,
            19 => CloseCode::Role,
            20 => CloseCode::HelloTimeout,
            21 => CloseCode::WrongNode,
            other => CloseCode::Unknown(other),
        }
    }
}

/// Why a link has ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Closed {
    /// This side closed it.
    #[error("this side closed the link ({code:?}): {text}")]
    Local {
        /// With what code.
        code: CloseCode,
        /// With what words.
        text: Arc<str>,
    },
    /// The peer closed it.
    #[error("the peer closed the link ({code:?}): {text}")]
    Peer {
        /// With what code.
        code: CloseCode,
        /// With what words.
        text: Arc<str>,
    },
    /// Nothing was heard from the peer for the idle timeout: its process or the path is gone.
    #[error("nothing was heard from the peer for the idle timeout")]
    TimedOut,
    /// The path or the transport failed.
    #[error("the link was lost: {0}")]
    Lost(Arc<str>),
}

impl Closed {
    pub(crate) fn from_quic(error: &quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => Closed::Peer {
                code: CloseCode::from_code(close.error_code.into_inner()),
                text: String::from_utf8_lossy(&close.reason).into(),
            },
            quinn::ConnectionError::LocallyClosed => Closed::Local {
                code: CloseCode::Done,
                text: "closed here".into(),
            },
            quinn::ConnectionError::TimedOut => Closed::TimedOut,
            other => Closed::Lost(other.to_string().into()),
        }
    }
}

/// Set once, when a link ends; everything that waits on the link waits on this too.
#[derive(Debug, Default)]
pub(crate) struct CloseCell {
    reason: OnceLock<Closed>,
    changed: Notify,
}

impl CloseCell {
    /// Records the end; only the first reason counts. Returns whether this was the first.
    pub(crate) fn set(&self, reason: Closed) -> bool {
        let first = self.reason.set(reason).is_ok();
        if first {
            self.changed.notify_waiters();
        }
        first
    }

    pub(crate) fn get(&self) -> Option<&Closed> {
        self.reason.get()
    }

    pub(crate) async fn wait(&self) -> Closed {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(reason) = self.reason.get() {
                return reason.clone();
            }
            changed.await;
        }
    }
}
