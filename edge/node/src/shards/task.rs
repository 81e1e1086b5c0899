//! The task of one shard: runs its hub, keeps it attached to the shard's owner, and tells sessions
//! what comes. It never waits for a session or for the owner: both have queues.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Incarnation, InstanceId, NodeId, SessionId, ShardId};
use gb6_core_obs::{Invariant, check_invariant};
use gb6_core_wire::mesh::{HistoryPage, ShardRef, ToEdge};
use gb6_edge_session::{Detach, Hub, HubConfig, HubOut as _, Request};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Report;
use super::inbox::{Ask, ShardInbox};
use super::link::{AttachError, Streams};
use super::out::{OVERFLOW_FRAMES, Outputs};
use crate::connection::handle::SessionHandle;
use crate::shared::Shared;

/// Frames of the owner for one round: what each session gets of them is gathered for one write.
const FRAMES_AT_ONCE: usize = 64;
/// Frames handed to sessions after which the round ends, even if there are more of the owner's:
/// a few ms of work.
const HANDED_IN_ROUND: usize = 64 * 1024;
/// Frames handed to sessions after which their tasks have a turn before the next round.
const HANDED_AT_ONCE: usize = 4096;
/// Between two looks at the clock while the hub is in use, and while it is not.
const TICK: Duration = Duration::from_millis(50);
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Between two reports.
const REPORT: Duration = Duration::from_millis(500);
/// Between two tries to send what did not fit.
const SEND_AGAIN: Duration = Duration::from_millis(5);
/// How long the end waits for the owner to have heard of it.
const FAREWELL: Duration = Duration::from_millis(500);
/// Waits before the streams are opened again: full jitter below these bounds.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// An attachment that lasted so long begins the waits anew.
const SETTLED: Duration = Duration::from_secs(5);

/// Between two steps of closing gaps: what sessions were handed is written meanwhile.
const FILL_AGAIN: Duration = Duration::from_millis(5);

type Opening = Pin<Box<dyn Future<Output = Result<Streams, AttachError>> + Send>>;

/// Where the streams stand.
enum Link {
    Waiting(Instant),
    Opening(Opening),
    Up(Box<Streams>, Instant),
}

/// What woke the task.
enum Woken {
    Asked,
    Opened(Result<Box<Streams>, AttachError>),
    Retry,
    Live(bool),
    /// The last round left frames of the owner behind.
    LiveRest,
    History(bool),
    /// The last round left pages behind.
    HistoryRest,
    Tick,
    SendAgain,
    FillAgain,
}

pub(super) struct ShardTask {
    shared: Arc<Shared>,
    shard: ShardRef,
    inbox: Arc<ShardInbox>,
    report: Arc<Mutex<Report>>,
    hub: Hub<Arc<SessionHandle>>,
    out: Outputs,
    link: Link,
    failures: u32,
    /// A node that was named as the owner by one that is not.
    hint: Option<NodeId>,
    /// The snapshot that was last looked at, and the owner by it.
    placed: (Arc<Snapshot>, Option<NodeId>),
    /// The node that the streams lead to, or are opened at.
    at: Option<NodeId>,
    /// The snapshot that the shards of all subscriptions to prefixes were last compared with.
    prefixes_placed: u64,
    /// Sessions that have followed a prefix since: at most one for each request of a round.
    followers: Vec<SessionId>,
    /// Until when publishes may still be answered after the task was told to end.
    until: Option<Instant>,
    /// When what did not fit into the streams is offered to them again.
    send_at: Option<Instant>,
    counts: Report,
    reported: Instant,
    live: Vec<ToEdge>,
    /// Frames that were taken from the stream and wait for the next round.
    rest: VecDeque<ToEdge>,
    history: Vec<HistoryPage>,
    /// Pages that were taken from the stream and wait for the next round.
    pages: VecDeque<HistoryPage>,
    /// When gaps are closed a step further, while any wait for it.
    fill_at: Option<Instant>,
}

impl ShardTask {
    pub(super) fn new(
        shared: &Arc<Shared>,
        shard: ShardRef,
        inbox: Arc<ShardInbox>,
        report: Arc<Mutex<Report>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            hub: Hub::new(shared.config.hub.clone()),
            shared: shared.clone(),
            shard,
            inbox,
            report,
            out: Outputs::new(shared),
            link: Link::Waiting(now),
            failures: 0,
            hint: None,
            placed: (Arc::default(), None),
            at: None,
            prefixes_placed: 0,
            followers: Vec::new(),
            until: None,
            send_at: None,
            counts: Report::default(),
            reported: now,
            live: Vec::new(),
            rest: VecDeque::new(),
            history: Vec::new(),
            pages: VecDeque::new(),
            fill_at: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut tick = Instant::now() + TICK;
        while !self.is_over() {
            match self.wait(tick).await {
                // The clock is looked at below, whatever woke the task: while frames are always
                // ready nothing else would.
                Woken::Asked | Woken::Tick => {}
                Woken::Retry => self.open(),
                Woken::Opened(Ok(streams)) => self.attach(streams),
                Woken::Opened(Err(error)) => {
                    tracing::debug!(shard = self.shard.shard, %error, "owner not reached");
                    self.detached();
                }
                Woken::Live(true) => {
                    self.rest.extend(self.live.drain(..));
                    self.live();
                }
                Woken::LiveRest => self.live(),
                Woken::History(true) => {
                    self.pages.extend(self.history.drain(..));
                    self.history();
                }
                Woken::HistoryRest => self.history(),
                Woken::Live(false) | Woken::History(false) => self.lost(),
                Woken::SendAgain | Woken::FillAgain => {}
            }
            // Whatever woke it: requests that have come meanwhile are part of this round.
            self.asks();
            self.follow_snapshot();
            self.follow_placement();
            let now = Instant::now();
            if now >= tick {
                self.hub.tick(self.now(), &mut self.out);
                for end in self.hub.take_moved(self.now()) {
                    self.shared.session_ended(end);
                }
                tick = now + if self.hub.is_idle() { IDLE_TICK } else { TICK };
            } else if !self.hub.is_idle() {
                tick = tick.min(now + TICK);
            }
            self.fill(now);
            // As with gaps: the timer alone would wait for ever while frames are always ready.
            if self.send_at.is_some_and(|at| now >= at) {
                self.send_at = None;
            }
            // What has come together is one report.
            self.hub.report_users(self.now(), &mut self.out);
            self.hub.report_sessions(self.now(), &mut self.out);
            self.send();
            self.tell(now);
            if self.out.handed >= HANDED_AT_ONCE {
                self.out.handed = 0;
                tokio::task::yield_now().await;
            }
        }
        self.farewell().await;
    }

    /// Lets the owner know what has happened up to the end, so that it need not wait for the lease
    /// to learn that the people of this edge are gone.
    async fn farewell(&mut self) {
        let until = Instant::now() + FAREWELL;
        self.asks();
        self.send();
        while self.out.owner_queue() > 0 && Instant::now() < until {
            tokio::time::sleep(SEND_AGAIN).await;
            self.send_at = None;
            self.send();
        }
        if let Link::Up(streams, _) = &mut self.link {
            // In vain where the link is gone: the lease says it then.
            let _ = tokio::time::timeout_at(until, streams.settle()).await;
        }
    }

    /// Whether it was told to end and has nothing more to wait for.
    fn is_over(&mut self) -> bool {
        if !self.inbox.is_stopped() {
            return false;
        }
        let now = Instant::now();
        let patience = Duration::from_millis(self.shared.config.hub.answer_ms) + TICK;
        let until = *self.until.get_or_insert(now + patience);
        let gauges = self.hub.gauges();
        now >= until || (gauges.unanswered == 0 && gauges.session_ends == 0)
    }

    fn now(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    async fn wait(&mut self, tick: Instant) -> Woken {
        if !self.rest.is_empty() {
            return Woken::LiveRest;
        }
        if !self.pages.is_empty() {
            return Woken::HistoryRest;
        }
        let (send_at, fill_at) = (self.send_at, self.fill_at);
        let fill = until(fill_at);
        let inbox = &self.inbox;
        let asked = inbox.filled();
        let ticked = tokio::time::sleep_until(tick);
        match &mut self.link {
            Link::Waiting(until) => tokio::select! {
                () = asked => Woken::Asked,
                () = ticked => Woken::Tick,
                () = tokio::time::sleep_until(*until) => Woken::Retry,
            },
            Link::Opening(opening) => tokio::select! {
                () = asked => Woken::Asked,
                () = ticked => Woken::Tick,
                opened = opening => Woken::Opened(opened.map(Box::new)),
            },
            Link::Up(streams, _) => {
                let streams = &mut **streams;
                tokio::select! {
                    came = streams.live_in.recv_many(&mut self.live, FRAMES_AT_ONCE) => {
                        Woken::Live(matches!(came, Ok(1..)))
                    }
                    came = streams.history_in.recv_many(&mut self.history, FRAMES_AT_ONCE) => {
                        Woken::History(matches!(came, Ok(1..)))
                    }
                    () = asked => Woken::Asked,
                    () = ticked => Woken::Tick,
                    () = until(send_at) => Woken::SendAgain,
                    () = fill => Woken::FillAgain,
                }
            }
        }
    }

    fn asks(&mut self) {
        let asks = self.inbox.take();
        if asks.is_empty() {
            return;
        }
        let now = self.now();
        for ask in asks {
            match ask {
                Ask::Request(from, request) => {
                    if matches!(request.request, Request::Follow(_)) {
                        // It may have looked at another snapshot.
                        self.followers.push(request.session);
                    }
                    self.hub.request(now, &from, *request, &mut self.out);
                }
                Ask::Closed(session) => self.hub.session_closed(now, session, &mut self.out),
                Ask::Count(census) => census.add(self.hub.subscribed(&census.instance)),
                Ask::Came(came) => {
                    let user = (came.instance.as_str(), &*came.user);
                    let (first, waits) = (came.first, came.waits.as_ref());
                    self.hub.user_came(now, user, first, waits, &mut self.out);
                }
                Ask::Left(instance, user) => self.hub.user_left(now, (instance.as_str(), &user)),
                Ask::Here(here) => {
                    let process = self.shared.session_ends.process;
                    self.hub.session_here(now, process, *here);
                }
                Ask::Elsewhere(session) => self.hub.session_elsewhere(now, session.0),
                Ask::Ended(mut end) => {
                    let ends = &self.shared.session_ends;
                    end.number = ends.next_number();
                    self.hub.session_ended_here(now, ends.process, *end);
                }
                Ask::Placed(revision) => self.hub.users_placed(now, revision),
            }
            if self.out.owner_full() {
                self.send();
            }
        }
    }

    fn live(&mut self) {
        let now = self.now();
        while let Some(frame) = self.rest.pop_front() {
            // What comes behind a frame that ended the attachment belongs to nothing.
            if self.out.detach.is_some() {
                self.rest.clear();
                return;
            }
            if self.out.handed >= HANDED_IN_ROUND {
                self.rest.push_front(frame);
                return;
            }
            if let Some(frame) = frame.frame {
                self.hub.frame(now, frame, &mut self.out);
            }
        }
    }

    fn history(&mut self) {
        let now = self.now();
        while let Some(page) = self.pages.pop_front() {
            if self.out.detach.is_some() {
                self.pages.clear();
                return;
            }
            if self.out.handed >= HANDED_IN_ROUND {
                self.pages.push_front(page);
                return;
            }
            self.hub.history_page(now, page, &mut self.out);
        }
    }

    /// Closes gaps a step further, when it is time. Looked at in every round, because the timer
    /// alone would wait for ever while frames are always ready.
    fn fill(&mut self, now: Instant) {
        if self.fill_at.is_some_and(|at| now >= at) {
            self.hub.continue_fills(self.now(), &mut self.out);
            self.fill_at = None;
        }
        if !self.hub.fills_wait() {
            self.fill_at = None;
        } else if self.fill_at.is_none() {
            self.fill_at = Some(now + FILL_AGAIN);
        }
    }

    /// The node that owns the shard by a snapshot.
    fn owner(&self, snapshot: &Snapshot) -> Option<NodeId> {
        let region = snapshot.regions.get(&self.shard.region)?;
        let shard = ShardId(self.shard.shard);
        region.owners.get(shard.0 as usize).cloned()
    }

    fn open(&mut self) {
        let snapshot = self.shared.snapshot.load_full();
        let owner = self.owner(&snapshot);
        self.placed = (snapshot, owner);
        self.at = self.hint.take().or_else(|| self.placed.1.clone());
        let Some(owner) = self.at.clone() else {
            self.detached();
            return;
        };
        let dialer = self.shared.shards.dialer(&self.shared, &owner);
        self.link = Link::Opening(Box::pin(Streams::open(dialer, self.shard.clone())));
    }

    fn attach(&mut self, streams: Box<Streams>) {
        tracing::debug!(shard = self.shard.shard, owner = %streams.owner, "streams open");
        self.counts.attached += 1;
        self.link = Link::Up(streams, Instant::now());
        let revision = self.shared.snapshot.load().revision;
        let fresh = Incarnation(rand::random_range(1..=u64::MAX));
        self.hub.link_up(self.now(), fresh, revision, &mut self.out);
        self.shared.revocations.found(&self.shard);
    }

    /// A stream has ended.
    fn lost(&mut self) {
        self.out.clear();
        self.hub.link_down(self.now(), &mut self.out);
        self.detached();
    }

    /// There are no streams: they are opened again after a while.
    fn detached(&mut self) {
        self.shared.revocations.lost(&self.shard);
        self.counts.detached += 1;
        if let Link::Up(_, since) = &self.link
            && since.elapsed() >= SETTLED
        {
            self.failures = 0;
        }
        self.live.clear();
        self.rest.clear();
        self.history.clear();
        self.pages.clear();
        self.send_at = None;
        self.wait_to_open();
    }

    /// Waits before the streams are opened, the longer the more often that failed.
    fn wait_to_open(&mut self) {
        let bound = RETRY_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(RETRY_LONGEST);
        self.failures = self.failures.saturating_add(1);
        let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(rand::random_range(0..=bound));
        self.link = Link::Waiting(Instant::now() + wait);
    }

    /// Ends subscriptions to prefixes that are in other shards than the snapshot names: all that are,
    /// where it is a newer one, else of the sessions that have followed something since.
    fn follow_placement(&mut self) {
        let snapshot = self.shared.snapshot.load();
        let shards = |instance: &str| {
            let (region, shards) = snapshot.shards_of(&InstanceId::from(instance))?;
            let shard = |shard: ShardId| ShardRef {
                region: region.to_owned(),
                shard: shard.0,
            };
            Some(shards.into_iter().map(shard).collect())
        };
        let followers = std::mem::take(&mut self.followers);
        if self.prefixes_placed != snapshot.revision {
            self.prefixes_placed = snapshot.revision;
            self.hub.placement_changed(shards);
        } else {
            for session in followers {
                self.hub.placement_of(session, shards);
            }
        }
    }

    /// Goes to the new owner where a newer snapshot names another one.
    fn follow_snapshot(&mut self) {
        if Arc::ptr_eq(&self.placed.0, &self.shared.snapshot.load()) {
            return;
        }
        let snapshot = self.shared.snapshot.load_full();
        let owner = self.owner(&snapshot);
        let before = std::mem::replace(&mut self.placed, (snapshot, owner.clone()));
        // It may be there already: the one before has told it.
        if owner.is_none() || owner == before.1 || owner == self.at {
            return;
        }
        tracing::info!(shard = self.shard.shard, "the shard has another owner");
        self.hint = None;
        self.failures = 0;
        if matches!(self.link, Link::Waiting(_)) {
            // For the one before: nobody else has failed.
            self.at = None;
            self.wait_to_open();
        } else {
            self.lost();
        }
    }

    /// Sends what the hub has put out, and closes the link where it asks for it.
    fn send(&mut self) {
        if let Some(why) = self.out.detach.take() {
            match &why {
                Detach::Refused(refused) => {
                    tracing::info!(
                        shard = self.shard.shard,
                        reason = ?refused.reason(),
                        text = refused.text,
                        "the owner ended the attachment"
                    );
                    if !refused.owner.is_empty() && NodeId::is_valid(&refused.owner) {
                        self.hint = Some(NodeId::from(refused.owner.as_str()));
                        // It is told, and not guessed: nobody need wait for long.
                        self.failures = self.failures.min(2);
                    }
                }
                other => tracing::warn!(shard = self.shard.shard, why = ?other, "detached"),
            }
            self.detached();
        }
        if self.out.overflowed() {
            tracing::warn!(
                shard = self.shard.shard,
                "the owner does not read; attaching again"
            );
            self.counts.owner_queue_overflows += 1;
            self.lost();
        }
        while self.send_at.is_none()
            && let Link::Up(streams, _) = &self.link
        {
            match streams.send(&mut self.out) {
                Ok(true) => {}
                Ok(false) => self.send_at = Some(Instant::now() + SEND_AGAIN),
                Err(_closed) => self.lost(),
            }
            if !self.out.take_drained() {
                return;
            }
            self.hub.owner_drained(self.now(), &mut self.out);
        }
    }

    fn tell(&mut self, now: Instant) {
        if now < self.reported + REPORT {
            return;
        }
        self.reported = now;
        self.counts.counters = self.hub.counters();
        self.counts.gauges = self.hub.gauges();
        self.counts.owner_queue = self.out.owner_queue();
        within_bounds(&self.counts, &self.shared.config.hub);
        *self.report.lock() = self.counts;
    }
}

/// Waits until then; for ever where there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The hub's own sums against the bounds that it was given (A5).
fn within_bounds(report: &Report, bounds: &HubConfig) {
    let g = &report.gauges;
    for (what, has, may) in [
        ("frames for the owner", report.owner_queue, OVERFLOW_FRAMES),
        ("bytes remembered", g.ring_bytes, bounds.ring_bytes),
        ("bytes for deltas", g.base_bytes, bounds.base_bytes),
        ("bytes of filters", g.filter_bytes, bounds.filter_bytes),
        ("bytes behind gaps", g.ahead_bytes, bounds.ahead_total_bytes),
        (
            "interests unanswered",
            g.interests_unanswered,
            bounds.interests_in_flight.max(1),
        ),
    ] {
        check_invariant!(
            Invariant::QueueWithinBound,
            has <= may,
            "{has} {what}, at most {may} may be"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_obs::invariant::counted;
    use gb6_edge_session::HubGauges;

    #[test]
    fn what_a_hub_holds_beyond_its_bounds_is_counted() {
        let bounds = HubConfig::default();
        let full = Report {
            owner_queue: OVERFLOW_FRAMES,
            gauges: HubGauges {
                ring_bytes: bounds.ring_bytes,
                base_bytes: bounds.base_bytes,
                filter_bytes: bounds.filter_bytes,
                ahead_bytes: bounds.ahead_total_bytes,
                interests_unanswered: bounds.interests_in_flight,
                ..HubGauges::default()
            },
            ..Report::default()
        };
        within_bounds(&full, &bounds);
        let counted = counted();
        let mut over = full;
        over.owner_queue += 1;
        over.gauges.ring_bytes += 1;
        over.gauges.base_bytes += 1;
        over.gauges.filter_bytes += 1;
        over.gauges.ahead_bytes += 1;
        over.gauges.interests_unanswered += 1;
        within_bounds(&over, &bounds);
        assert_eq!(counted.of(Invariant::QueueWithinBound), 6);
    }
}
