//! What sessions ask of one shard, on its way to the shard's task: first in, first out, bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gb6_core_model::{InstanceId, SessionId};
use gb6_core_obs::{Invariant, check_invariant};
use gb6_core_wire::mesh::{SessionEnd, SessionHere};
use gb6_edge_session::{HubRequest, Request};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::census::Census;

use crate::connection::handle::SessionHandle;

/// One thing that a session wants, or that is to be known of it.
pub(crate) enum Ask {
    /// A request, and who is to be answered.
    Request(Arc<SessionHandle>, Box<HubRequest>),
    /// The session has ended.
    Closed(SessionId),
    /// Which rooms have subscribers here.
    Count(Arc<Census>),
    /// A user's session has come.
    Came(Box<Came>),
    /// The last session of a user has left.
    Left(InstanceId, Arc<str>),
    /// A session has begun, of whose end its instance wants to hear.
    Here(Box<SessionHere>),
    /// Another shard is told of the end of a session from now on.
    Elsewhere(SessionId),
    /// A session, or one of its subscriptions, has ended.
    Ended(Box<SessionEnd>),
    /// All users of the shard by the placement of this revision have been told of.
    Placed(u64),
}

/// A user's session has come.
pub(crate) struct Came {
    pub(super) instance: InstanceId,
    pub(super) user: Arc<str>,
    /// Whether it is the first one.
    pub(super) first: bool,
    /// Who waits until the owner has heard of it.
    pub(super) waits: Option<Arc<SessionHandle>>,
}

/// The inbox is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InboxFull;

/// Bytes of publishes that may wait in one inbox: the hub's own doors have a tighter bound for
/// each instance, so this one is met only by a task that does not get to run.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The inbox of one shard's task.
pub(crate) struct ShardInbox {
    waiting: Mutex<Waiting>,
    max: usize,
    filled: Notify,
    stopped: AtomicBool,
    /// Rooms of the edge's own, which are no client's.
    own: AtomicUsize,
}

#[derive(Default)]
struct Waiting {
    asks: VecDeque<Ask>,
    bytes: usize,
    closed: bool,
}

impl ShardInbox {
    /// An inbox for `max` requests and 64 MiB of publishes.
    // overflow: the request is handed back and answered 111, also where the task has panicked. An
    // unsubscribe and a session's end always fit: they make room, and there is one of each for what
    // was let in before.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            max,
            filled: Notify::new(),
            stopped: AtomicBool::new(false),
            own: AtomicUsize::new(0),
        }
    }

    /// The edge itself has a subscription here.
    pub(crate) fn own_begins(&self) {
        self.own.fetch_add(1, Ordering::Relaxed);
    }

    /// The edge itself has one subscription less here.
    pub(crate) fn own_ends(&self) {
        self.own.fetch_sub(1, Ordering::Relaxed);
    }

    /// Subscriptions of the edge itself.
    pub(crate) fn own(&self) -> usize {
        self.own.load(Ordering::Relaxed)
    }

    /// Puts a request behind the others.
    pub(crate) fn request(
        &self,
        from: &Arc<SessionHandle>,
        request: HubRequest,
    ) -> Result<(), InboxFull> {
        let bytes = match &request.request {
            Request::Publish(publish) => publish.data.len(),
            _ => 0,
        };
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return Err(InboxFull);
            }
            let full = waiting.asks.len() >= self.max || waiting.bytes + bytes > BYTES_MAX;
            if full && !request.request.leaves() {
                return Err(InboxFull);
            }
            waiting.bytes += bytes;
            let ask = Ask::Request(from.clone(), Box::new(request));
            waiting.asks.push_back(ask);
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Says that a session has ended.
    pub(crate) fn session_closed(&self, session: SessionId) {
        self.tell(Ask::Closed(session));
    }

    /// Says that a user's session has come, which always fits: it is one for each session. `false`:
    /// nobody hears it.
    pub(crate) fn user_came(
        &self,
        instance: &InstanceId,
        user: &Arc<str>,
        first: bool,
        waits: Option<&Arc<SessionHandle>>,
    ) -> bool {
        self.tell(Ask::Came(Box::new(Came {
            instance: instance.clone(),
            user: user.clone(),
            first,
            waits: waits.cloned(),
        })))
    }

    /// Says that the last session of a user has left, which always fits.
    pub(crate) fn user_left(&self, instance: &InstanceId, user: &Arc<str>) {
        self.tell(Ask::Left(instance.clone(), user.clone()));
    }

    /// Says that a session has begun, which always fits: it is one for each session.
    pub(crate) fn session_here(&self, here: SessionHere) {
        self.tell(Ask::Here(Box::new(here)));
    }

    /// Says that another shard is told of the end of a session from now on, which always fits: it is at
    /// most one for each that was said to be here.
    pub(crate) fn session_elsewhere(&self, session: SessionId) {
        self.tell(Ask::Elsewhere(session));
    }

    /// Says that a session or a subscription has ended, which always fits: the task bounds what waits.
    pub(crate) fn session_ended(&self, end: SessionEnd) {
        self.tell(Ask::Ended(Box::new(end)));
    }

    /// Says by which revision of the placement all users of the shard have been told of.
    pub(super) fn placed(&self, revision: u64) {
        self.tell(Ask::Placed(revision));
    }

    fn tell(&self, ask: Ask) -> bool {
        let mut waiting = self.waiting.lock();
        let open = !waiting.closed;
        if open {
            waiting.asks.push_back(ask);
        }
        drop(waiting);
        self.filled.notify_one();
        open
    }

    /// Asks which rooms have subscribers. It always fits: few such questions are answered at once.
    pub(super) fn count(&self, census: &Arc<Census>) {
        self.tell(Ask::Count(census.clone()));
    }

    /// Everything that waits; for the shard's task.
    pub(crate) fn take(&self) -> VecDeque<Ask> {
        let (asks, bytes) = self.empty(false);
        check_invariant!(
            Invariant::QueueWithinBound,
            bytes <= BYTES_MAX,
            "{bytes} bytes of publishes waited for one shard"
        );
        asks
    }

    /// Nobody takes anything out of it any more: what waits is dropped, what comes is refused.
    pub(crate) fn close(&self) {
        drop(self.empty(true));
    }

    fn empty(&self, closed: bool) -> (VecDeque<Ask>, usize) {
        let mut waiting = self.waiting.lock();
        waiting.closed |= closed;
        let bytes = std::mem::take(&mut waiting.bytes);
        (std::mem::take(&mut waiting.asks), bytes)
    }

    /// Waits until something came or the inbox was stopped; for the shard's task.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Ends the shard's task.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.filled.notify_one();
    }

    /// Whether [`ShardInbox::stop`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().asks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gb6_core_model::InstanceEpoch;
    use gb6_core_wire::mesh::{Person, RoomRef};
    use gb6_core_wire::record::ContentType;
    use gb6_edge_session::PublishQuery;

    fn session() -> Arc<SessionHandle> {
        Arc::new(SessionHandle::new(SessionId(1), 0, None, 100))
    }

    fn ask(request: Request) -> HubRequest {
        HubRequest {
            token: 1,
            session: SessionId(1),
            room: RoomRef::default(),
            request,
        }
    }

    fn publish(bytes: usize) -> HubRequest {
        ask(Request::Publish(Box::new(PublishQuery {
            instance_epoch: InstanceEpoch(1),
            from: Arc::new(Person::default()),
            id: Bytes::new(),
            data: Bytes::from(vec![0; bytes]),
            content_type: ContentType::Json,
            tags: Default::default(),
            traceparent: String::new(),
            version: None,
            after: None,
            signal: false,
            unkept: false,
        })))
    }

    #[test]
    fn bounded_in_number_but_an_end_always_fits() {
        let inbox = ShardInbox::new(2);
        let from = session();
        assert_eq!(inbox.request(&from, publish(1)), Ok(()));
        assert_eq!(inbox.request(&from, publish(1)), Ok(()));
        assert_eq!(inbox.request(&from, publish(1)), Err(InboxFull));
        assert_eq!(inbox.request(&from, ask(Request::Unsubscribe)), Ok(()));
        inbox.session_closed(SessionId(1));
        let asks = inbox.take();
        assert!(matches!(asks.back(), Some(Ask::Closed(SessionId(1)))));
        assert_eq!(asks.len(), 4);
        assert_eq!(inbox.request(&from, publish(1)), Ok(()));
    }

    #[test]
    fn nothing_waits_where_nobody_takes_it() {
        let inbox = ShardInbox::new(2);
        let from = session();
        assert_eq!(inbox.request(&from, publish(1)), Ok(()));
        inbox.close();
        assert_eq!(inbox.request(&from, publish(1)), Err(InboxFull));
        assert_eq!(
            inbox.request(&from, ask(Request::Unsubscribe)),
            Err(InboxFull)
        );
        inbox.session_closed(SessionId(1));
        assert_eq!(inbox.len(), 0);
    }

    #[test]
    fn bounded_in_bytes() {
        let inbox = ShardInbox::new(1_000_000);
        let from = session();
        let mut taken = 0;
        while inbox.request(&from, publish(1 << 20)) == Ok(()) {
            taken += 1;
        }
        assert_eq!(taken, 64);
        inbox.take();
        assert_eq!(inbox.request(&from, publish(1 << 20)), Ok(()));
    }
}
