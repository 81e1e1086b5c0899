//! What the application's backend decides where it is asked: about a connection without a token,
//! and about a publication.

use bytes::Bytes;
use gb6_core_wire::client;
use gb6_core_wire::record::ContentType;

use super::server::CloseReason;

/// A decision of the application's backend, or what stands for it where there was none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision<T> {
    /// It may be, like this.
    Allow(T),
    /// The command is answered with this error: the application's own, or error 100 or 111 where
    /// the backend could not be asked.
    Error(client::Error),
    /// The connection ends.
    Disconnect(CloseReason),
}

/// What is published in place of what the client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// The data.
    pub data: Bytes,
    /// What they are.
    pub content_type: ContentType,
}
