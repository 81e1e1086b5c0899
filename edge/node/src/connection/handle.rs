//! A session as the rest of the edge holds it: where to send to, and which instance it is of.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Disconnect, SessionId};
use gb6_core_obs::{Invariant, check_invariant};
use gb6_edge_session::{Answer, FrameKind, Notice};

use super::instance::{InstanceTag, SessionInstance};
use super::outbox::{Outbox, Pushed};
use crate::shards::ShardInbox;
use crate::wheel::Due;

/// What a session is told by others.
pub(crate) enum Event {
    /// A hub answered a request.
    Complete(u64, Box<Answer>),
    /// A hub says something unasked.
    Notice(Box<Notice>),
    /// The session is to end.
    Shutdown(Disconnect),
    /// Nobody answers in this inbox any more.
    Lost(Arc<ShardInbox>),
    /// Its client sent commands by another connection.
    Commands(FrameKind, Bytes),
}

/// A session as others hold it.
pub(crate) struct SessionHandle {
    /// Its number at this edge incarnation.
    pub(crate) session: SessionId,
    /// What goes to it.
    pub(crate) outbox: Outbox<Event>,
    /// The instance of its token.
    instance: SessionInstance,
}

impl SessionHandle {
    /// A session that has not shown a token yet.
    pub(crate) fn new(session: SessionId, outbox_bytes: usize) -> Self {
        Self {
            session,
            outbox: Outbox::new(outbox_bytes),
            instance: SessionInstance::default(),
        }
    }

    /// Commands of its client that came by another connection, of which at most `max` bytes may
    /// wait.
    #[expect(
        dead_code,
        reason = "for transports whose commands come by requests of their own"
    )]
    pub(crate) fn commands(&self, kind: FrameKind, commands: Bytes, max: usize) -> Pushed {
        let bytes = commands.len();
        self.outbox
            .inbound(Event::Commands(kind, commands), bytes, max)
    }

    /// Its connect token was good.
    pub(crate) fn belongs_to(&self, instance: InstanceTag) {
        self.instance.set(instance);
    }

    /// Whether what belongs to this instance may pass between the session and a shard (A7).
    #[inline]
    pub(crate) fn is_of(&self, instance: InstanceTag) -> bool {
        check_invariant!(
            Invariant::InstanceIsolation,
            self.instance.is(instance),
            "session {} has to do with a room of another instance",
            self.session
        )
    }
}

impl Due for SessionHandle {
    fn due(&self) {
        self.outbox.wake();
    }
}
