//! The body of a record of kind [`Kind::Session`]: the end of a session or of one of its
//! subscriptions.
//!
//! Such a record stands in the user's channel `#user` (of an anonymous person in `#`) and takes no
//! room offset. Its time is when it was written, and its [`Origin`](super::Origin) says whose
//! session it was: user, client, the edge's incarnation, the session's number there, and the number
//! of the report. The session's id is nowhere in it: whoever knows that can send commands to the
//! session.

use prost::Message as _;

use super::{BODY_BYTES_MAX, Kind, Record, fields};

/// Largest body of a record of a session in bytes: a channel, a reason, and room for what newer
/// versions add.
pub const SESSION_BODY_BYTES_MAX: usize = 4 * 1024;
/// Longest reason in bytes; a disconnect frame of WebSocket takes 123 (RFC 6455 section 5.5).
pub const SESSION_REASON_BYTES_MAX: usize = 1024;

const _: () = assert!(SESSION_BODY_BYTES_MAX < BODY_BYTES_MAX);

/// What happened. Numbers are for ever; an unknown one is kept and passed over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum SessionEvent {
    /// Not set: no valid event.
    Unspecified = 0,
    /// The session has ended.
    Disconnect = 1,
    /// One of its subscriptions has ended, and the session goes on.
    Unsubscribe = 2,
}

/// The body.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionBody {
    /// [`SessionEvent`].
    pub event: i32,
    /// The channel whose subscription ended; empty where the session did.
    pub channel: String,
    /// The disconnect or unsubscribe code; 0: the edge was lost with all of its sessions, or left
    /// by the client without saying anything.
    pub code: u32,
    /// Why, for people.
    pub reason: String,
    /// Fields that a newer version has written, encoded: they are written again as they are.
    pub unknown: Vec<u8>,
}

fields::message!(SessionBody {
    1 event: int32,
    2 channel: string,
    3 code: uint32,
    4 reason: string,
});

/// Why a record does not tell of a session.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionBodyError {
    /// It is longer than such a body may be.
    #[error(
        "the body of a session's record has {bytes} bytes, at most {SESSION_BODY_BYTES_MAX} are possible"
    )]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// It is no such message.
    #[error("the body of a session's record can not be read: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl SessionBody {
    /// Reads the clear body of a record of kind [`Kind::Session`].
    ///
    /// # Errors
    /// It is too long, or no such message.
    pub fn parse(body: &[u8]) -> Result<Self, SessionBodyError> {
        if body.len() > SESSION_BODY_BYTES_MAX {
            return Err(SessionBodyError::TooLarge { bytes: body.len() });
        }
        Ok(Self::decode(body)?)
    }

    /// What happened; an unknown event is none of those that this code knows.
    pub fn event(&self) -> SessionEvent {
        SessionEvent::try_from(self.event).unwrap_or(SessionEvent::Unspecified)
    }

    /// The event's id: the same however often the event was written, and of no other event. A
    /// session ends once, whoever tells of it; of its subscriptions each report has a number.
    /// `None` where `record` is of another kind, or does not say whose session it was.
    pub fn event_id(&self, record: &Record) -> Option<String> {
        let origin = record.origin.as_ref()?;
        if record.kind() != Kind::Session || origin.edge_incarnation == 0 {
            return None;
        }
        let session = format!("{:016x}-{}", origin.edge_incarnation, origin.session);
        match self.event() {
            SessionEvent::Unspecified => None,
            SessionEvent::Disconnect => Some(format!("{session}-d")),
            SessionEvent::Unsubscribe => Some(format!("{session}-u{}", origin.number)),
        }
    }
}
