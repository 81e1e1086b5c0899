//! Following the revocations of one instance: a subscription says that there may be something new,
//! and what there is, is read from the log in order, so that a break leaves no hole.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use gb6_core_model::{ErrorCode, Offset};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::ShardRef;
use gb6_edge_session::{Answer, Delivery, HubRequest, Request, RevocationFollower, SubscribeQuery};

use super::Revoked;
use crate::connection::handle::{Event, SessionHandle};
use crate::connection::instance::InstanceTag;
use crate::connection::outbox::Phase;
use crate::shards::ShardInbox;
use crate::shared::Shared;

/// Between two looks at the log without being told that there is something.
const LOOK: Duration = Duration::from_millis(RevocationFollower::LOOK_MS);
/// Before the next look where one failed.
const RETRY: Duration = Duration::from_millis(RevocationFollower::RETRY_MS);
/// Bytes of pushes that may wait: each only says that the log is to be read.
const BELL_BYTES: usize = 1024 * 1024;

/// Follows until the edge is gone.
pub(super) async fn run(shared: Weak<Shared>, revoked: Arc<Revoked>) {
    let mut bell: Option<Bell> = None;
    // Since when the newest are not known.
    let mut held_since = Some(Instant::now());
    let mut upkeep_at = Instant::now();
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        if bell
            .as_ref()
            .is_none_or(|bell| !bell.is_good(&strong, &revoked))
        {
            bell = Bell::hang(&strong, &revoked);
        }
        let pause = match look(&strong, &revoked).await {
            Ok(first) => {
                held_since = None;
                if upkeep_at > Instant::now() {
                    LOOK
                } else if more_upkeep(&strong, &revoked, first).await {
                    Duration::ZERO
                } else {
                    let spread = rand::random_range(0.5..1.5);
                    upkeep_at =
                        Instant::now() + strong.config.revocations.upkeep_every.mul_f64(spread);
                    LOOK
                }
            }
            Err(code) => {
                if revoked.is_current() {
                    tracing::warn!(instance = %revoked.instance, %code, "revocations can not be read");
                    revoked.close();
                }
                let since = *held_since.get_or_insert_with(Instant::now);
                let max = strong.config.revocations.hold_max;
                if max.is_some_and(|max| since.elapsed() >= max) {
                    revoked.opens_outdated(&strong);
                }
                RETRY
            }
        };
        drop(strong);
        let rung = async {
            match &mut bell {
                Some(bell) => bell.rung().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = revoked.bell.notified() => {}
            () = rung => {}
        }
    }
}

/// Makes the log small, and says whether there is more to do soon.
async fn more_upkeep(shared: &Arc<Shared>, revoked: &Revoked, first: Offset) -> bool {
    revoked.upkeep(shared, first).await.unwrap_or_else(|code| {
        let instance = &revoked.instance;
        tracing::debug!(%instance, %code, "expired revocations stay in the log");
        false
    })
}

/// Reads what is new and applies it; the first offset that the log has.
async fn look(shared: &Arc<Shared>, revoked: &Revoked) -> Result<Offset, ErrorCode> {
    let mut read = revoked.follower.read().begin();
    loop {
        let query = revoked.follower.read().query();
        let answer = revoked.read(shared, query).await?;
        let page = revoked.take(&answer, shared.clock.unix_ms())?;
        if page.restarts {
            read = revoked.follower.read().begin();
        }
        for offset in &page.unreadable {
            let instance = &revoked.instance;
            tracing::warn!(%instance, offset, "a revocation can not be read");
        }
        revoked.cut_off(shared, &page).await;
        if !page.more {
            revoked.opens(shared, read);
            return Ok(answer.first);
        }
    }
}

/// A subscription whose pushes say that the log has something new.
struct Bell {
    handle: Arc<SessionHandle>,
    inbox: Arc<ShardInbox>,
    /// Whether it still is a subscription.
    good: bool,
    /// Whether the shard has confirmed it.
    begun: bool,
}

impl Bell {
    /// Subscribes; `None`: the placement has no shard for the channel yet.
    fn hang(shared: &Arc<Shared>, revoked: &Revoked) -> Option<Self> {
        let room = revoked.room();
        let snapshot = shared.snapshot.load();
        let (region, shard) = snapshot.shard_of(&revoked.instance, RevocationFollower::CHANNEL)?;
        *revoked.shard.lock() = Some(ShardRef {
            region: region.to_owned(),
            shard: shard.0,
        });
        let inbox = shared.shards.inbox_for(shared, &snapshot, &room)?;
        let session = shared.next_session();
        let handle = SessionHandle::new(session, rand::random(), None, BELL_BYTES);
        handle.belongs_to(InstanceTag::of(revoked.instance.as_str()));
        let handle = Arc::new(handle);
        let request = HubRequest {
            token: 0,
            session,
            room,
            request: Request::Subscribe(Box::new(SubscribeQuery {
                dialect: Dialect::Protobuf,
                join_leave: false,
                presence: None,
                recover: None,
                delivery: Delivery::default(),
            })),
        };
        inbox.request(&handle, request).ok()?;
        Some(Self {
            handle,
            inbox,
            good: true,
            begun: false,
        })
    }

    /// Whether it is a subscription in the shard that the channel is in.
    fn is_good(&self, shared: &Arc<Shared>, revoked: &Revoked) -> bool {
        let snapshot = shared.snapshot.load();
        let inbox = shared.shards.inbox_for(shared, &snapshot, &revoked.room());
        self.good && inbox.is_some_and(|inbox| Arc::ptr_eq(&inbox, &self.inbox))
    }

    /// Waits until it rings. Safe to cancel.
    async fn rung(&mut self) {
        let taken = poll_fn(|cx| {
            let taken = self.handle.outbox.take(cx.waker());
            let nothing = taken.frames.is_empty() && taken.events.is_empty();
            match nothing && taken.phase == Phase::Open {
                true => Poll::Pending,
                false => Poll::Ready(taken),
            }
        })
        .await;
        // What a push says is read from the log.
        self.handle.outbox.held(0);
        let begins = |event: &Event| match event {
            Event::Complete(_, answer) => matches!(**answer, Answer::Subscribed(_)),
            _ => false,
        };
        if !self.begun && taken.events.iter().any(|(_, event)| begins(event)) {
            self.begun = true;
            self.inbox.own_begins();
        }
        let ended = |event: &Event| match event {
            Event::Complete(_, answer) => matches!(**answer, Answer::Failed(_)),
            Event::Notice(_) => true,
            _ => false,
        };
        if taken.phase != Phase::Open || taken.events.iter().any(|(_, event)| ended(event)) {
            self.good = false;
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.handle.outbox.end();
        if self.begun {
            self.inbox.own_ends();
        }
        self.inbox.session_closed(self.handle.session);
    }
}
