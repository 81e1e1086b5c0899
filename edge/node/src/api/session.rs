//! What the server API asks of the shards, as sessions do: numbered publishes, answers by number.
//!
//! An instance's requests at one edge share a numbering session, so that the edge's resends after a
//! break neither double nor lose what the API publishes. A session lives for a while only: a
//! shard's owner remembers every room in which it published.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use gb6_core_model::{ErrorCode, InstanceId};
use gb6_core_wire::mesh::RoomRef;
use gb6_edge_session::{Answer, HubRequest, Request};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::connection::handle::{Event, SessionHandle};
use crate::connection::instance::InstanceTag;
use crate::connection::outbox::Phase;
use crate::shards::ShardInbox;
use crate::shared::Shared;

/// How long a session is used, in ms.
const LIFE_MS: u64 = 60_000;
/// Requests after which another one begins.
const REQUESTS_MAX: u64 = 4_096;
/// What is waited beyond the time in which a shard answers: only a task that died does not.
const PATIENCE: Duration = Duration::from_secs(1);

/// The sessions in use, by instance.
#[derive(Default)]
pub(crate) struct ApiSessions {
    current: Mutex<BTreeMap<InstanceId, Arc<ApiSession>>>,
}

impl ApiSessions {
    /// The session for a request of `instance`.
    pub(crate) fn of(&self, shared: &Arc<Shared>, instance: &InstanceId) -> Arc<ApiSession> {
        let now_ms = shared.clock.now_ms();
        let mut current = self.current.lock();
        if let Some(session) = current.get(instance).filter(|s| !s.is_over(now_ms)) {
            return session.clone();
        }
        let session = Arc::new(ApiSession::begin(shared, instance, now_ms));
        current.insert(instance.clone(), session.clone());
        session
    }
}

/// One numbering session.
pub(crate) struct ApiSession {
    handle: Arc<SessionHandle>,
    /// Who waits for which answer. Bounded by the requests that the API has in hand.
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
    /// Shards that were asked: they are told when it ends.
    asked: Mutex<Vec<Arc<ShardInbox>>>,
    next: AtomicU64,
    began_ms: u64,
}

impl ApiSession {
    fn begin(shared: &Arc<Shared>, instance: &InstanceId, now_ms: u64) -> Self {
        // No frame is ever sent to it: only answers.
        let handle = Arc::new(SessionHandle::new(
            shared.next_session(),
            rand::random(),
            None,
            0,
        ));
        handle.belongs_to(InstanceTag::of(instance.as_str()));
        let waiting = Arc::<Mutex<HashMap<_, _>>>::default();
        tokio::spawn(distribute(handle.clone(), waiting.clone()));
        Self {
            handle,
            waiting,
            asked: Mutex::default(),
            next: AtomicU64::new(1),
            began_ms: now_ms,
        }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.began_ms + LIFE_MS || self.next.load(Ordering::Relaxed) > REQUESTS_MAX
    }

    /// Asks the shard of a room. An error says that nothing was written, unless it is 1003.
    pub(crate) async fn ask(
        &self,
        shared: &Arc<Shared>,
        room: RoomRef,
        request: Request,
    ) -> Result<Answer, ErrorCode> {
        let no_answer = match request {
            Request::Publish(_) => ErrorCode::OutcomeUnknown,
            _ => ErrorCode::Internal,
        };
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let snapshot = shared.snapshot.load();
            let inbox = shared.shards.inbox_for(shared, &snapshot, &room);
            let inbox = inbox.ok_or(ErrorCode::OwnerMoving)?;
            let mut asked = self.asked.lock();
            if !asked.iter().any(|known| Arc::ptr_eq(known, &inbox)) {
                asked.push(inbox.clone());
            }
            drop(asked);
            self.waiting.lock().insert(token, sender);
            let request = HubRequest {
                token,
                session: self.handle.session,
                room,
                request,
            };
            if inbox.request(&self.handle, request).is_err() {
                self.waiting.lock().remove(&token);
                shared.metrics.inbox_full.inc();
                return Err(ErrorCode::TooManyRequests);
            }
        }
        let patience = Duration::from_millis(shared.config.hub.answer_ms) + PATIENCE;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(Answer::Failed(code))) => Err(code),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => {
                self.waiting.lock().remove(&token);
                Err(no_answer)
            }
        }
    }
}

impl Drop for ApiSession {
    fn drop(&mut self) {
        self.handle.outbox.end();
        self.handle.outbox.wake();
        for inbox in self.asked.get_mut().drain(..) {
            inbox.session_closed(self.handle.session);
        }
    }
}

/// Hands each answer to whoever waits for it, until the session ends.
async fn distribute(
    handle: Arc<SessionHandle>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
) {
    loop {
        let taken = poll_fn(|cx| {
            let taken = handle.outbox.take(cx.waker());
            match taken.events.is_empty() && taken.phase == Phase::Open {
                true => Poll::Pending,
                false => Poll::Ready(taken),
            }
        })
        .await;
        for (_, event) in taken.events {
            if let Event::Complete(token, answer) = event {
                let waits = waiting.lock().remove(&token);
                // Whoever waited may have gone away.
                let _ = waits.map(|sender| sender.send(*answer));
            }
        }
        if taken.phase != Phase::Open {
            return;
        }
    }
}
