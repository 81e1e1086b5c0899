//! What sessions ask of one shard, on its way to the shard's task: first in, first out, bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gb6_core_model::SessionId;
use gb6_edge_session::{HubRequest, Request};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ws::connection::SessionHandle;

/// One thing that a session wants, or that is to be known of it.
pub(crate) enum Ask {
    /// A request, and who is to be answered.
    Request(Arc<SessionHandle>, Box<HubRequest>),
    /// The session has ended.
    Closed(SessionId),
}

/// The inbox is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InboxFull;

/// The inbox of one shard's task.
pub(crate) struct ShardInbox {
    asks: Mutex<VecDeque<Ask>>,
    max: usize,
    filled: Notify,
    stopped: AtomicBool,
}

impl ShardInbox {
    /// An inbox for `max` requests.
    // overflow: the request is handed back and answered 111. An unsubscribe and a session's end
    // always fit: they make room, and there is one of each for what was let in before.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            asks: Mutex::default(),
            max,
            filled: Notify::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Puts a request behind the others.
    pub(crate) fn request(
        &self,
        from: &Arc<SessionHandle>,
        request: HubRequest,
    ) -> Result<(), InboxFull> {
        {
            let mut asks = self.asks.lock();
            if asks.len() >= self.max && !matches!(request.request, Request::Unsubscribe) {
                return Err(InboxFull);
            }
            asks.push_back(Ask::Request(from.clone(), Box::new(request)));
        }
        self.filled.notify_one();
        Ok(())
    }

    /// Says that a session has ended.
    pub(crate) fn session_closed(&self, session: SessionId) {
        self.asks.lock().push_back(Ask::Closed(session));
        self.filled.notify_one();
    }

    /// Everything that waits; for the shard's task.
    pub(crate) fn take(&self) -> VecDeque<Ask> {
        std::mem::take(&mut *self.asks.lock())
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
        self.asks.lock().len()
    }
}
