//! The actor of one shard: feeds its machine, appends its batches, carries out its outputs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_mesh::FrameSender;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_ports::{Commit, Completion, Fence, StoreError};
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame, Publish, ToEdge, ToOwner};
use gb6_core_wire::record::Record;
use gb6_region_shard::{Admin, AdminOutcome, AppendFailure, LinkId, Shard, SyncStats};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::accept::PageReply;
use crate::checkpoints::{CheckpointEvery, Checkpoints};
use crate::checks;
use crate::history::Reader;
use crate::indexer::IndexFeed;
use crate::keeper::{Order, Ownership};
use crate::metrics::{RegionMetrics, ShardNumbers};
use crate::places::{NodePlaces, ReadPlaces};
use crate::recovery::{Acquisition, unix_ms};
use crate::regain::Regain;
use crate::retention;
use crate::signals::ShardSignals;
use crate::statuses::ShardStatuses;
use crate::turns::{Asked, CommitTurns, Turn, Wait};
use crate::webhooks::Feed;

/// Inputs handled before a batch is formed.
const INPUTS_MAX: usize = 64;
/// How often time passes in the machine.
const TICK: Duration = Duration::from_millis(250);
/// How long the log may take to say who owns the shard.
const CONFIRM_MAX: Duration = Duration::from_secs(2);

/// What an actor is told.
pub(crate) enum Input {
    Link {
        link: LinkId,
        sender: FrameSender<ToEdge>,
    },
    Frames {
        link: LinkId,
        frames: Vec<ToOwner>,
    },
    LinkClosed {
        link: LinkId,
    },
    History {
        link: LinkId,
        request: HistoryRequest,
        reply: PageReply,
    },
    Admin {
        command: Admin,
        done: oneshot::Sender<AdminOutcome>,
    },
}

/// What a shard's actor shares with the rest of its node.
pub(crate) struct Surroundings {
    pub(crate) metrics: RegionMetrics,
    pub(crate) numbers: Arc<Mutex<ShardNumbers>>,
    pub(crate) turns: Arc<CommitTurns>,
    pub(crate) signals: ShardSignals,
    pub(crate) statuses: ShardStatuses,
    pub(crate) webhooks: Feed,
    pub(crate) checkpoint_every: CheckpointEvery,
    pub(crate) places: NodePlaces,
    /// How often space is given back.
    pub(crate) retention_every: Duration,
    /// When the machine's clock was 0.
    pub(crate) started: Instant,
    /// How far the node can rely on owning the shard.
    pub(crate) ownership: Ownership,
}

/// Why an actor ended.
pub(crate) enum Ended {
    /// It was asked to.
    Drained,
    /// The shard has another owner.
    Left,
    /// The log must be read again, or another node owns the shard.
    Lost,
    /// What could only be read is acquired: the log is read again, and served under this.
    Acquired(Box<Acquisition>),
}

impl Input {
    /// Whether what is answered to it says what the shard's state is, and so must not be older than what
    /// another owner has answered. A publish is answered when it is committed, which the log lets no
    /// other owner's be; a renewal says that the owner lives.
    fn asks(&self) -> bool {
        match self {
            Input::LinkClosed { .. } => false,
            Input::Frames { frames, .. } => !frames.iter().all(|frame| {
                let frame = frame.frame.as_ref();
                matches!(frame, Some(OwnerFrame::Publish(_) | OwnerFrame::Renew(_)))
            }),
            Input::Link { .. } | Input::History { .. } | Input::Admin { .. } => true,
        }
    }
}

/// Everything that an actor owns while it serves.
pub(crate) struct Worker {
    pub(crate) shard: Shard,
    pub(crate) fence: Fence,
    /// While the shard can only be read.
    pub(crate) regain: Option<Regain>,
    pub(crate) reader: Arc<Reader>,
    pub(crate) feed: IndexFeed,
    pub(crate) metrics: RegionMetrics,
    pub(crate) numbers: Arc<Mutex<ShardNumbers>>,
    pub(crate) turns: Arc<CommitTurns>,
    pub(crate) signals: ShardSignals,
    pub(crate) statuses: ShardStatuses,
    pub(crate) webhooks: Feed,
    pub(crate) retention_every: Duration,
    pub(crate) started: Instant,
    pub(crate) links: HashMap<LinkId, FrameSender<ToEdge>>,
    pub(crate) replies: HashMap<(LinkId, u64), PageReply>,
    pub(crate) admins: HashMap<u64, oneshot::Sender<AdminOutcome>>,
    pub(crate) next_admin: u64,
    pub(crate) places: ReadPlaces,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) retaining: Option<retention::Running>,
    pub(crate) retained_at: Instant,
    pub(crate) storage_full: bool,
    pub(crate) ownership: Ownership,
    /// When the log was last asked who owns the shard, and said that this node does.
    proved_at: Option<Instant>,
    /// A hand-over: no batch is begun.
    paused: bool,
    /// It was said that nothing is in flight.
    told_paused: bool,
    /// It was said that a key is missing.
    told_not_sealable: bool,
}

type InFlight = (
    oneshot::Receiver<Result<Commit, StoreError>>,
    Arc<Vec<Record>>,
);

impl Worker {
    pub(crate) fn new(
        shard: Shard,
        fence: Fence,
        regain: Option<Regain>,
        reader: Arc<Reader>,
        feed: IndexFeed,
        (uncovered, state_bytes): (u64, u64),
        surroundings: Surroundings,
    ) -> Self {
        let now = Instant::now();
        let Surroundings {
            metrics,
            numbers,
            turns,
            signals,
            statuses,
            webhooks,
            checkpoint_every,
            places,
            retention_every,
            started,
            ownership,
        } = surroundings;
        Self {
            shard,
            fence,
            regain,
            reader,
            feed,
            metrics,
            numbers,
            turns,
            signals,
            statuses,
            webhooks,
            retention_every,
            started,
            links: HashMap::new(),
            replies: HashMap::new(),
            admins: HashMap::new(),
            next_admin: 1,
            places: ReadPlaces::new(places),
            checkpoints: Checkpoints::new(checkpoint_every, uncovered, state_bytes, now),
            retaining: None,
            retained_at: now,
            storage_full: false,
            ownership,
            proved_at: None,
            paused: false,
            told_paused: false,
            told_not_sealable: false,
        }
    }

    /// Serves until told to end, or until the shard is lost.
    pub(crate) async fn run(
        &mut self,
        inbox: &mut mpsc::Receiver<Input>,
        snapshot: &mut watch::Receiver<Arc<Snapshot>>,
        orders: &mut watch::Receiver<Order>,
    ) -> Ended {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut in_flight: Option<InFlight> = None;
        let mut waiting: Option<(Instant, Wait)> = None;
        let mut followed = true;
        self.paused = *orders.borrow() == Order::Pause;
        loop {
            tokio::select! {
                biased;
                answer = answer(&mut in_flight), if in_flight.is_some() => {
                    let batch = in_flight.take().map(|(_, batch)| batch).unwrap_or_default();
                    self.answered(answer, batch);
                }
                changed = orders.changed() => {
                    let order = match changed {
                        Ok(()) => orders.borrow_and_update().clone(),
                        Err(_) => Order::Stop,
                    };
                    match order {
                        Order::Serve => self.paused = false,
                        Order::Pause => {
                            self.paused = true;
                            self.told_paused = false;
                            // The turn goes to another shard.
                            waiting = None;
                        }
                        Order::Leave(owner) => {
                            // What is in flight is not answered: the edges ask the next owner.
                            let owner = owner.as_ref().map_or("", |owner| owner.as_str());
                            self.shard.leave_to(owner);
                            self.flush();
                            return Ended::Left;
                        }
                        Order::Stop => {
                            if let Some((commit, batch)) = in_flight.take() {
                                self.answered(commit.await.ok(), batch);
                            }
                            self.flush();
                            self.checkpoint_now().await;
                            if let Some(running) = self.retaining.take() {
                                running.stop().await;
                            }
                            return Ended::Drained;
                        }
                    }
                }
                changed = snapshot.changed(), if followed => {
                    // Without a sender the last snapshot stays.
                    followed = changed.is_ok();
                    let newest = snapshot.borrow_and_update().clone();
                    self.shard.set_snapshot(newest);
                }
                _ = tick.tick() => {
                    if let Some(ended) = self.tick() {
                        return ended;
                    }
                }
                turn = come(&mut waiting), if waiting.is_some() => {
                    if let Some((asked, _)) = waiting.take() {
                        let waited = asked.elapsed().as_secs_f64();
                        self.metrics.turn_seconds.observe(waited);
                    }
                    // What has come meanwhile is part of the batch, where nothing must be asked first.
                    if self.ownership.is_sure()
                        && let Some(ended) = self.take_with(Vec::new(), inbox).await
                    {
                        return ended;
                    }
                    in_flight = turn.and_then(|turn| self.append(turn));
                }
                input = inbox.recv() => match input {
                    Some(input) => {
                        if let Some(ended) = self.take_with(vec![input], inbox).await {
                            return ended;
                        }
                    }
                    None => return Ended::Drained,
                },
                // The flush below hands them to the edges.
                () = self.signals.filled() => {}
                // So do answers about statuses.
                () = self.statuses.answered() => {}
            }
            if self.paused {
                if in_flight.is_none() && !self.told_paused {
                    self.told_paused = true;
                    self.ownership.paused();
                }
            } else if in_flight.is_none() && waiting.is_none() && self.shard.wants_batch() {
                match self.turns.ask() {
                    Asked::Now(turn) => in_flight = self.append(turn),
                    Asked::Later(wait) => waiting = Some((Instant::now(), wait)),
                }
            }
            if let Some((_, wait)) = &mut waiting
                && self.shard.is_urgent()
            {
                wait.hurry();
            }
            self.flush();
            if !self.shard.is_serving() {
                return Ended::Lost;
            }
        }
    }

    /// Takes inputs and those that have come with them. Whether the node can rely on owning the shard
    /// is asked after they have come, and where it can not the log is: an answer must not be older than
    /// what another owner has answered. For what asks nothing of the kind an answer of half a lease ago
    /// is enough, so that edges which only stay attached do not fill the log with questions.
    async fn take_with(
        &mut self,
        mut inputs: Vec<Input>,
        inbox: &mut mpsc::Receiver<Input>,
    ) -> Option<Ended> {
        while inputs.len() < INPUTS_MAX
            && let Ok(input) = inbox.try_recv()
        {
            inputs.push(input);
        }
        if inputs.is_empty() {
            return None;
        }
        let recently = !inputs.iter().any(Input::asks) && self.is_proved();
        if !self.ownership.is_sure()
            && !recently
            && let Err(error) = self.confirm().await
        {
            tracing::warn!(shard = %self.reader.shard, %error, "it is not known whether this node still owns the shard: it is not served until it is");
            self.shard.stop_serving();
            self.flush();
            return Some(Ended::Lost);
        }
        for input in inputs {
            self.take(input);
        }
        None
    }

    /// Whether the log has said of late that this node owns the shard.
    fn is_proved(&self) -> bool {
        let lasts = self.ownership.proof_lasts();
        self.proved_at.is_some_and(|at| at.elapsed() < lasts)
    }

    /// Asks the log whether this node still owns the shard. What can only be read is read because nobody
    /// else can have it.
    async fn confirm(&mut self) -> Result<(), StoreError> {
        if self.regain.is_some() {
            return Ok(());
        }
        self.metrics.confirms.inc();
        let asked_at = Instant::now();
        let (log, fence) = (self.reader.log.clone(), self.fence.clone());
        let asked = tokio::task::spawn_blocking(move || log.confirm(&fence));
        let unavailable = |cause: String| StoreError::Unavailable { cause };
        match tokio::time::timeout(CONFIRM_MAX, asked).await {
            Ok(Ok(answer)) => {
                self.proved_at = answer.is_ok().then_some(asked_at);
                answer
            }
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable(format!(
                "the log gave no answer in {CONFIRM_MAX:?}"
            ))),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn take(&mut self, input: Input) {
        let now = self.now_ms();
        match input {
            Input::Link { link, sender } => {
                self.links.insert(link, sender);
            }
            Input::Frames { link, frames } => {
                for frame in frames {
                    // A frame of a newer version is passed over.
                    if let (Some(frame), true) = (frame.frame, self.links.contains_key(&link)) {
                        if let OwnerFrame::Publish(publish) = &frame
                            && !self.reader.keys.can_seal(&publish.room.instance)
                        {
                            self.not_sealable(link, publish);
                            continue;
                        }
                        let large = matches!(frame, OwnerFrame::PresenceQuery(_));
                        self.shard.frame(now, link, frame);
                        // A hundred bytes of a question may make a megabyte of an answer: it goes
                        // where it is counted before the next one is made.
                        if large {
                            self.flush();
                        }
                    }
                }
            }
            Input::LinkClosed { link } => {
                self.links.remove(&link);
                self.shard.link_closed(link);
            }
            Input::History {
                link,
                request,
                reply,
            } => {
                self.replies.insert((link, request.request), reply);
                self.shard.history(now, link, request);
            }
            Input::Admin { command, done } => {
                let token = self.next_admin;
                self.next_admin += 1;
                self.admins.insert(token, done);
                self.shard.admin(token, command);
            }
        }
    }

    /// Refuses what this node has no key for. In a batch it would cost those of others.
    fn not_sealable(&mut self, link: LinkId, publish: &Publish) {
        if !std::mem::replace(&mut self.told_not_sealable, true) {
            tracing::warn!(shard = %self.reader.shard, instance = publish.room.instance, "this node has no record key of the instance: nothing of it, nor of others like it, is written until it has");
        }
        self.shard.not_writable(link, publish.request);
    }

    /// Forms a batch from what waits and appends it.
    fn append(&mut self, mut turn: Turn) -> Option<InFlight> {
        let batch = self.shard.next_batch(self.now_ms(), unix_ms())?;
        let (done, answer) = oneshot::channel();
        if let Some(regain) = &self.regain {
            // Nothing is written before the shard is acquired. The receiver is right here.
            let _ = done.send(Err(regain.why()));
            return Some((answer, batch.records));
        }
        match self.reader.keys.for_log(&batch.records) {
            Ok(records) => {
                let completion = Completion::new(move |result: Result<Commit, StoreError>| {
                    let commit = result.as_ref().ok();
                    turn.synced = commit.map(|commit| (commit.sync_us, commit.shared));
                    drop(turn);
                    // The actor waits for it, or has ended.
                    let _ = done.send(result);
                });
                self.reader.log.append(&self.fence, records, completion);
            }
            Err(error) => {
                tracing::error!(shard = %self.reader.shard, %error, "a batch can not be sealed");
                let refused = StoreError::Unavailable {
                    cause: error.to_string(),
                };
                // The receiver is right here.
                let _ = done.send(Err(refused));
            }
        }
        Some((answer, batch.records))
    }

    /// The log's answer to the batch in flight; `None` when its thread has died.
    fn answered(&mut self, answer: Option<Result<Commit, StoreError>>, batch: Arc<Vec<Record>>) {
        let now = self.now_ms();
        let answer = answer.unwrap_or_else(|| {
            Err(StoreError::OutcomeUnknown {
                cause: "the log gave no answer".into(),
            })
        });
        match answer {
            Ok(commit) if !checks::covers(&commit, &self.fence, &batch) => {
                self.shard.failed(now, AppendFailure::OutcomeUnknown);
            }
            Ok(commit) => {
                self.storage_full = false;
                self.ownership.log_answered();
                let micros = commit.elapsed_us as f64;
                self.metrics.commit_seconds.observe(micros / 1e6);
                self.metrics.batch_records.observe(batch.len() as f64);
                self.checkpoints.written(commit.bytes);
                self.reader.tail.lock().push(batch.clone());
                self.webhooks.committed(&batch);
                self.feed.committed(batch);
                let stats = SyncStats {
                    sync_us: commit.sync_us,
                    records: commit.shared,
                };
                self.shard.committed(now, stats);
            }
            Err(error) => {
                let failure = match &error {
                    StoreError::Fenced { .. } | StoreError::Sealed { .. } => AppendFailure::Fenced,
                    StoreError::StorageFull { .. } => AppendFailure::StorageFull,
                    // Nothing was written, and the log is as it was.
                    StoreError::TooLarge { .. } => AppendFailure::Refused,
                    e if e.retryable() => AppendFailure::Refused,
                    _ => AppendFailure::OutcomeUnknown,
                };
                if failure != AppendFailure::StorageFull || !self.storage_full {
                    tracing::error!(shard = %self.reader.shard, %error, "a batch was not committed");
                }
                self.storage_full = failure == AppendFailure::StorageFull;
                if !matches!(
                    error,
                    StoreError::Fenced { .. }
                        | StoreError::Sealed { .. }
                        | StoreError::StorageFull { .. }
                        | StoreError::TooLarge { .. }
                ) {
                    self.ownership.log_failed();
                }
                self.shard.failed(now, failure);
            }
        }
    }
}

async fn answer(in_flight: &mut Option<InFlight>) -> Option<Result<Commit, StoreError>> {
    match in_flight {
        Some((commit, _)) => commit.await.ok(),
        None => std::future::pending().await,
    }
}

/// The turn that was asked for; `None` when it will not come.
async fn come(waiting: &mut Option<(Instant, Wait)>) -> Option<Turn> {
    match waiting {
        Some((_, wait)) => wait.turn().await,
        None => std::future::pending().await,
    }
}
