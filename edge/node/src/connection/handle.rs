//! A session as the rest of the edge holds it: where to send to, and which instance it is of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gb6_core_model::{Channel, Disconnect, SessionId};
use gb6_core_obs::{Invariant, check_invariant};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{
    Answer, Claims, Decision, FrameKind, Identity, Notice, Replacement, SubscriptionClaims,
    TokenRef,
};
use parking_lot::Mutex;

use super::instance::{InstanceTag, SessionInstance};
use super::outbox::{Outbox, Pushed};
use crate::auth::Refusal;
use crate::people::{Ordered, Roll};
use crate::revocation::Revoked;
use crate::shards::ShardInbox;
use crate::wheel::Due;

/// What one lot of commands from elsewhere counts beside its bytes.
const COMMANDS_COST: usize = 64;

/// What a token for a channel says.
pub(crate) type JudgedSubscription = Result<(SubscriptionClaims, TokenRef), Refusal>;

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
    /// A token was verified that had to wait for its key.
    Verified(u32, Box<Result<(Claims, TokenRef), Refusal>>),
    /// The same of a token for this channel.
    SubscriptionVerified(u32, Channel, Box<JudgedSubscription>),
    /// Whoever needs no token waited long enough to come in.
    Admitted(u32, Box<Claims>),
    /// The application's backend has decided about its connect, and has given no claims.
    ConnectDecided(u32, Box<Decision<()>>),
    /// The application's backend has decided about a publication.
    PublishDecided(u32, Box<Decision<Option<Replacement>>>),
    /// It was revoked, or its instance is gone: it ends before anything else that waits is done or sent.
    Cut(Disconnect),
    /// Its client sent commands by another connection.
    Commands(FrameKind, Bytes),
    /// Tokens were revoked, perhaps of its subscriptions; whether the newest revocations were not
    /// known when that was found out.
    TokensRevoked { late: bool },
    /// The application's server wants something of some of a user's sessions.
    Ordered(Arc<Ordered>),
    /// Somebody asks what it is.
    Describe(Arc<Roll>),
}

impl Event {
    /// Why the session is to end, if that is what it says: a session that is held ends at once, and
    /// what waits is neither done nor sent.
    pub(crate) fn ends(&self) -> Option<Disconnect> {
        match self {
            Self::Cut(why) | Self::Shutdown(why) => Some(*why),
            _ => None,
        }
    }

    /// The request that was not done, or perhaps not, and may be tried again, if that is what it says.
    pub(crate) fn fails(&self) -> Option<u64> {
        match self {
            Self::Complete(token, answer) => match **answer {
                Answer::Failed(code) if code.temporary() => Some(*token),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A session as others hold it.
pub(crate) struct SessionHandle {
    /// Its number at this edge incarnation.
    pub(crate) session: SessionId,
    /// The session id that its client was told.
    pub(crate) secret: u128,
    /// The encoding of commands that may come by other connections; `None`: none may.
    pub(crate) takes: Option<Dialect>,
    /// What goes to it.
    pub(crate) outbox: Outbox<Event>,
    /// The instance of its token.
    instance: SessionInstance,
    /// The revocations of that instance.
    revoked: OnceLock<Arc<Revoked>>,
    /// By what those may name it.
    identity: Mutex<Option<Box<Identity>>>,
    /// Whether it has shown tokens for channels, by which they may name its subscriptions.
    shows_tokens: AtomicBool,
}

impl SessionHandle {
    /// A session that has not shown a token yet; `takes` is the encoding of commands that may come
    /// by other connections.
    pub(crate) fn new(
        session: SessionId,
        secret: u128,
        takes: Option<Dialect>,
        outbox_bytes: usize,
    ) -> Self {
        Self {
            session,
            secret,
            takes,
            outbox: Outbox::new(outbox_bytes),
            instance: SessionInstance::default(),
            revoked: OnceLock::new(),
            identity: Mutex::new(None),
            shows_tokens: AtomicBool::new(false),
        }
    }

    /// Its token was good: revocations may name it by this.
    pub(crate) fn identify(&self, revoked: &Arc<Revoked>, identity: Identity) {
        *self.identity.lock() = Some(Box::new(identity));
        // The first token decides; later ones are of the same instance.
        let _ = self.revoked.set(revoked.clone());
    }

    /// Whether revocations may name it.
    pub(crate) fn is_identified(&self) -> bool {
        self.revoked.get().is_some()
    }

    /// It shows a token for a channel, which is looked up after this.
    pub(crate) fn shows_token(&self) {
        self.shows_tokens.store(true, Ordering::SeqCst);
    }

    /// Whether revocations may name one of its subscriptions.
    pub(crate) fn has_shown_tokens(&self) -> bool {
        self.shows_tokens.load(Ordering::SeqCst)
    }

    /// By what revocations may name it, if these are those of its instance.
    pub(crate) fn identity_of(&self, revoked: &Revoked) -> Option<Identity> {
        let ours = self.is_held_by(revoked);
        ours.then(|| self.identity.lock().as_deref().copied())?
    }

    /// Whether these are the revocations of its instance.
    pub(crate) fn is_held_by(&self, revoked: &Revoked) -> bool {
        let ours = self.revoked.get();
        ours.is_some_and(|ours| std::ptr::eq(&**ours, revoked))
    }

    /// Whether nothing may be delivered or accepted, because the newest revocations are not known.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.revoked.get().is_some_and(|revoked| !revoked.is_open())
    }

    /// Commands of its client that came by another connection, of which at most `max` bytes may
    /// wait. A client that sends faster than its session takes is told to go (3013): it was told
    /// already that they are taken.
    pub(crate) fn commands(&self, commands: Bytes, max: usize) -> Pushed {
        let kind = match self.takes {
            Some(Dialect::Json) => FrameKind::Text,
            Some(Dialect::Protobuf) => FrameKind::Binary,
            None => return Pushed::Ended,
        };
        // What a single small one costs beside its bytes counts too.
        let bytes = commands.len() + COMMANDS_COST;
        let pushed = self
            .outbox
            .inbound(Event::Commands(kind, commands), bytes, max);
        if pushed == Pushed::Refused {
            self.outbox
                .event(Event::Shutdown(Disconnect::TooManyRequests));
        }
        pushed
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
