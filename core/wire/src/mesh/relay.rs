//! The relay stream: edges do not dial each other, so a node of a region carries their questions.
//!
//! Every edge opens one relay stream to each relay of the placement. The relay tells it which
//! edges it reaches ([`RelayEdges`]), and passes questions and answers between them by node id. It
//! keeps nothing of a question: who asks numbers it, remembers whom it asked, and gives it up at
//! its deadline.
//!
//! Rules that the frames alone do not say:
//! - The sender of what a relay passes on is the node of the certificate of the stream it came by;
//!   a frame never names it. An edge drops an answer of a node that it did not ask.
//! - A relay never waits for an edge: what does not fit into its queue is answered
//!   [`RelayOutcome::Full`], an answer that does not fit is dropped.
//! - Questions of one edge to another by one relay arrive in their order.
//! - A question that is not answered may have been carried out.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;

use super::{
    ChannelsThere, ChannelsWanted, Class, ConnectionsThere, ConnectionsWanted, UserCommand,
};

/// What a relay stream is opened with: nothing is asked for yet.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RelayOpen {}

/// A frame from an edge to a relay.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ToRelay {
    /// The frame.
    #[prost(oneof = "RelayRequest", tags = "1, 2")]
    pub frame: Option<RelayRequest>,
}

/// What an edge says to a relay.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum RelayRequest {
    /// Asks other edges.
    #[prost(message, tag = "1")]
    Ask(RelayAsk),
    /// Answers another edge.
    #[prost(message, tag = "2")]
    Answer(RelayAnswer),
}

/// A frame from a relay to an edge.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FromRelay {
    /// The frame.
    #[prost(oneof = "RelayFrame", tags = "1, 2, 3")]
    pub frame: Option<RelayFrame>,
}

/// What a relay says to an edge.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum RelayFrame {
    /// Which edges it reaches; the first frame of the stream names all.
    #[prost(message, tag = "1")]
    Edges(RelayEdges),
    /// Another edge asks.
    #[prost(message, tag = "2")]
    Asked(RelayAsked),
    /// Another edge has answered, or why it will not.
    #[prost(message, tag = "3")]
    Answered(RelayAnswered),
}

impl ToRelay {
    /// The class of this frame.
    pub fn class(&self) -> Class {
        match &self.frame {
            Some(RelayRequest::Answer(_)) => Class::Acknowledgement,
            Some(RelayRequest::Ask(_)) => Class::Live,
            None => Class::Control,
        }
    }
}

impl FromRelay {
    /// The class of this frame.
    pub fn class(&self) -> Class {
        match &self.frame {
            Some(RelayFrame::Answered(_)) => Class::Acknowledgement,
            Some(RelayFrame::Asked(_)) => Class::Live,
            Some(RelayFrame::Edges(_)) | None => Class::Control,
        }
    }
}

/// How the edges that a relay reaches have changed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayEdges {
    /// Node ids that it reaches now.
    #[prost(string, repeated, tag = "1")]
    pub up: Vec<String>,
    /// Node ids that it does not reach any more.
    #[prost(string, repeated, tag = "2")]
    pub down: Vec<String>,
}

/// Asks edges by their node ids.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayAsk {
    /// The asking edge's number of the question; unique in this life of it.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Who is asked, at most [`RELAY_TARGETS_MAX`].
    #[prost(string, repeated, tag = "2")]
    pub to: Vec<String>,
    /// How long the answer is waited for, in ms from now on.
    #[prost(uint32, tag = "3")]
    pub within_ms: u32,
    /// An [`EdgeQuestion`], which relays do not read.
    #[prost(bytes = "bytes", tag = "4")]
    pub question: Bytes,
}

/// Edges that one [`RelayAsk`] may name: more are asked with several.
pub const RELAY_TARGETS_MAX: usize = 1024;

/// Another edge asks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayAsked {
    /// The asking edge's node id.
    #[prost(string, tag = "1")]
    pub from: String,
    /// Its number of the question.
    #[prost(uint64, tag = "2")]
    pub request: u64,
    /// How long it waits for the answer, in ms.
    #[prost(uint32, tag = "3")]
    pub within_ms: u32,
    /// An [`EdgeQuestion`].
    #[prost(bytes = "bytes", tag = "4")]
    pub question: Bytes,
}

/// Answers another edge.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayAnswer {
    /// The edge that asked.
    #[prost(string, tag = "1")]
    pub to: String,
    /// Its number of the question.
    #[prost(uint64, tag = "2")]
    pub request: u64,
    /// Whether there is an answer.
    #[prost(enumeration = "RelayOutcome", tag = "3")]
    pub outcome: i32,
    /// An [`EdgeAnswer`], which relays do not read; empty unless `outcome` is `Answered`.
    #[prost(bytes = "bytes", tag = "4")]
    pub answer: Bytes,
}

/// Another edge has answered, or why it will not.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RelayAnswered {
    /// The edge that was asked.
    #[prost(string, tag = "1")]
    pub from: String,
    /// The question's number.
    #[prost(uint64, tag = "2")]
    pub request: u64,
    /// Whether there is an answer.
    #[prost(enumeration = "RelayOutcome", tag = "3")]
    pub outcome: i32,
    /// An [`EdgeAnswer`]; empty unless `outcome` is `Answered`.
    #[prost(bytes = "bytes", tag = "4")]
    pub answer: Bytes,
}

/// What became of a question to one edge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, prost::Enumeration)]
#[repr(i32)]
pub enum RelayOutcome {
    /// Not set, or of a later version.
    Unspecified = 0,
    /// It was answered.
    Answered = 1,
    /// The relay does not reach the edge.
    Unknown = 2,
    /// Too much waits for the edge.
    Full = 3,
    /// The edge does not know this kind of question.
    Unsupported = 4,
}

/// What one edge asks another.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EdgeQuestion {
    /// The kind; none where it is of a later version.
    #[prost(oneof = "QuestionKind", tags = "1, 2, 3, 4")]
    pub kind: Option<QuestionKind>,
}

impl EdgeQuestion {
    /// As it stands in [`RelayAsk`].
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Out of a [`RelayAsked`]; `None`: it is none.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

/// The kinds of questions.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum QuestionKind {
    /// Commands for a session there, sent by `/emulation`. The answer is [`AnswerKind::Done`]
    /// whether or not there is such a session.
    #[prost(message, tag = "1")]
    Emulation(Emulation),
    /// A command for a user's sessions there. The answer is [`AnswerKind::Done`], whether or not
    /// there are any.
    #[prost(message, boxed, tag = "2")]
    User(Box<UserCommand>),
    /// Which channels of an instance have subscribers there.
    #[prost(message, tag = "3")]
    Channels(ChannelsWanted),
    /// A user's connections there.
    #[prost(message, tag = "4")]
    Connections(ConnectionsWanted),
}

/// Commands for a session of another edge.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Emulation {
    /// The session's id, as its connect reply gave it.
    #[prost(string, tag = "1")]
    pub session: String,
    /// Commands in the session's encoding.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

impl fmt::Debug for Emulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows a session's id can send commands to it.
        f.debug_struct("Emulation")
            .field("data_bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// What the other edge answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct EdgeAnswer {
    /// The kind; none where it is of a later version.
    #[prost(oneof = "AnswerKind", tags = "1, 2, 3")]
    pub kind: Option<AnswerKind>,
}

impl EdgeAnswer {
    /// As it stands in [`RelayAnswer`].
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Out of a [`RelayAnswered`]; `None`: it is none.
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

/// The kinds of answers.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum AnswerKind {
    /// It was taken; there is nothing else to say.
    #[prost(message, tag = "1")]
    Done(Done),
    /// The channels.
    #[prost(message, tag = "2")]
    Channels(ChannelsThere),
    /// The connections.
    #[prost(message, tag = "3")]
    Connections(ConnectionsThere),
}

/// An answer that says nothing else.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Done {}
