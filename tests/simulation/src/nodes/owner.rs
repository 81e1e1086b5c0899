//! Who owns a shard on a node: reads its log, acquires it, writes, is paused, gives it away. As the
//! actor of a shard does it in the product.

use std::sync::Arc;

use gb6_core_model::{Incarnation, NodeId, ShardEpoch, ShardId};
use gb6_core_ports::{Acquire, Acquired, Fence, StoreError};
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame};
use gb6_region_assign::{Input, next_epoch};
use gb6_region_shard::LinkId;

use super::edges::asker;
use super::faults::Peer;
use super::log::{Answer, Answered, Ask, Asker};
use super::replay::Replay;
use super::serving::Serving;
use super::world::{Event, NodesWorld};

/// So long a log may not answer before the shard is another's to serve, in ms.
pub(super) const LASTS_MS: u64 = 3_000;
/// A log that has not answered for so long is not kept up with, in ms.
pub(super) const BEHIND_MS: u64 = 1_500;
/// Pause before a shard that could not be served is tried again, in ms: the first, doubled with each
/// that fails, and the longest.
const RETRY_MS: (u64, u64) = (100, 2_000);
/// Who has served for longer did not fail at once, in ms.
const SERVED_WELL_MS: u64 = 30_000;

/// What an owner is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Serve,
    /// Finish what is in flight, begin no batch, and say so.
    Pause,
    /// End at once: the shard is this node's.
    Leave(NodeId),
    /// Finish what is in flight, save a checkpoint, end.
    Stop,
}

/// What comes to an owner.
pub(crate) enum Incoming {
    Frame(LinkId, Box<OwnerFrame>),
    Closed(LinkId),
    Asked(LinkId, HistoryRequest),
}

impl Incoming {
    /// Whether the answer says what the shard's state is.
    pub(super) fn asks(&self) -> bool {
        match self {
            Incoming::Frame(_, frame) => {
                !matches!(**frame, OwnerFrame::Publish(_) | OwnerFrame::Renew(_))
            }
            Incoming::Closed(_) => false,
            Incoming::Asked(..) => true,
        }
    }
}

/// Where it stands.
pub(super) enum Stage {
    /// It will read the log.
    Begins(Option<Box<Replay>>),
    /// It has asked the log for the shard.
    Acquires(u64, Fence, Box<Replay>),
    Serves(Box<Serving>),
}

/// An owner.
pub(crate) struct Owner {
    /// Raised by every attempt: what belongs to an earlier one is void.
    pub(crate) attempt: u64,
    /// The assignment epoch.
    pub(crate) epoch: u64,
    pub(crate) order: Order,
    /// It has served.
    pub(crate) served: bool,
    pub(super) stage: Stage,
    pub(super) inbox: Vec<Incoming>,
    pub(super) told_paused: bool,
    began: u64,
    failed: u32,
    /// What has failed since the log last answered, by the node's clock.
    pub(super) trouble: Trouble,
    /// Whether its log answers, as the machine of assignments was told.
    pub(super) heard: Option<bool>,
    /// When the log was asked who owns the shard, of which it last said that this node does.
    pub(super) proved_at: Option<u64>,
}

impl Owner {
    pub(crate) fn serving(&self) -> Option<&Serving> {
        match &self.stage {
            Stage::Serves(serving) => Some(serving),
            _ => None,
        }
    }

    pub(super) fn serving_mut(&mut self) -> Option<&mut Serving> {
        match &mut self.stage {
            Stage::Serves(serving) => Some(serving),
            _ => None,
        }
    }

    /// Whether edges are let in.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.order, Order::Serve | Order::Pause)
    }

    /// Whether the log answers, of which the node has heard nothing for `silence_ms`; `None`: neither has
    /// lasted for long enough to say so.
    pub(crate) fn log_answers(&self, clock: u64, silence_ms: u64) -> Option<bool> {
        let Trouble {
            since,
            latest,
            down,
        } = self.trouble;
        // Of a shard that is served only what fails counts, and silence.
        let silent = !down && silence_ms >= LASTS_MS;
        let latest = if down { clock } else { latest };
        if silent || since.is_some_and(|since| latest >= since + LASTS_MS) {
            return Some(false);
        }
        (since.is_none() && silence_ms < BEHIND_MS).then_some(true)
    }
}

/// What has failed since a log last answered. Times are by the node's clock.
#[derive(Clone, Copy, Default)]
pub(super) struct Trouble {
    since: Option<u64>,
    latest: u64,
    /// The shard is not served.
    down: bool,
}

impl Trouble {
    /// An attempt to serve begins.
    fn begins(&mut self, clock: u64) {
        self.down = true;
        self.failed(clock);
    }

    /// The log did not take what it was given.
    pub(super) fn failed(&mut self, clock: u64) {
        self.latest = clock;
        self.since.get_or_insert(clock);
    }
}

impl NodesWorld {
    pub(super) fn owner(&mut self, asker: Asker) -> Option<&mut Owner> {
        let owner = self.process(asker.node)?.owners.get_mut(&asker.shard)?;
        (owner.attempt == asker.attempt).then_some(owner)
    }

    pub(super) fn asker(&mut self, node: usize, shard: usize) -> Option<Asker> {
        let attempt = self.process(node)?.owners.get(&shard)?.attempt;
        Some(Asker {
            node,
            shard,
            attempt,
        })
    }

    /// A node is told that it owns a shard, or under which epoch it goes on to.
    pub(crate) fn own(&mut self, node: usize, shard: usize, epoch: u64) {
        let now = self.now;
        let known = self.process(node).and_then(|p| p.owners.get_mut(&shard));
        if let Some(owner) = known {
            owner.epoch = epoch;
            if owner.served {
                let shard = shard as u32;
                self.news(node, Input::Serving { shard, epoch });
            }
            return;
        }
        let followed = self.take_followed(node, shard);
        let takes = if followed.is_some() { 30 } else { 300 };
        self.own.counts.followed += u64::from(followed.is_some());
        let attempt = self.token();
        let owner = Owner {
            attempt,
            epoch,
            order: Order::Serve,
            served: false,
            stage: Stage::Begins(followed.map(Box::new)),
            inbox: Vec::new(),
            told_paused: false,
            began: now,
            failed: 0,
            trouble: Trouble::default(),
            heard: None,
            proved_at: None,
        };
        let asker = Asker {
            node,
            shard,
            attempt,
        };
        let Some(process) = self.process(node) else {
            return;
        };
        process.owners.insert(shard, owner);
        self.soon(2, takes, Event::OwnerBegins(asker));
    }

    /// Reads the log and asks for the shard.
    pub(crate) fn owner_begins(&mut self, asker: Asker) {
        let Asker { node, shard, .. } = asker;
        let (now, snapshot) = (self.now, self.snapshot.clone());
        let cut = self.is_cut(node, Peer::Log);
        let incarnation = Incarnation(self.rng.next().max(1));
        let log = self.own.logs[shard].open();
        let Some(process) = self.process(node) else {
            return;
        };
        let (clock, unix) = (process.clock(now), process.unix(now));
        let Some(owner) = self.owner(asker) else {
            return;
        };
        owner.began = now;
        owner.trouble.begins(clock);
        owner.proved_at = None;
        if cut {
            return self.owner_fails(asker);
        }
        let Stage::Begins(followed) = &mut owner.stage else {
            return;
        };
        let mut replay = match followed.take() {
            Some(replay) => replay,
            None => Box::new(Replay::begin(&log, shard, &snapshot)),
        };
        replay.read_on(&log);
        let (highest, served_ms, _) = replay.shard.log_state();
        let (epoch, highest) = (owner.epoch, ShardEpoch(highest));
        let Some(next) = next_epoch(epoch, highest) else {
            owner.failed = 0;
            let used_up = Input::EpochsUsedUp {
                shard: shard as u32,
                epoch,
                highest,
            };
            self.news(node, used_up);
            return self.owner_fails(asker);
        };
        let fence = Fence {
            region: Arc::from("eu"),
            shard: ShardId(shard as u32),
            shard_epoch: next,
            owner_incarnation: incarnation,
        };
        let acquire = Acquire {
            time: unix,
            served_ms,
        };
        let request = self.ask_log(asker, Ask::Acquire(fence.clone(), acquire));
        if let Some(owner) = self.owner(asker) {
            owner.stage = Stage::Acquires(request, fence, replay);
        }
    }

    /// The attempt has failed, or the shard was lost: the log is read again, after a pause.
    pub(super) fn owner_fails(&mut self, asker: Asker) {
        let (now, attempt) = (self.now, self.token());
        self.close_links_of(asker.node, Some(asker.shard), false);
        let Some(owner) = self.owner(asker) else {
            return;
        };
        if owner.order == Order::Stop {
            return self.owner_ends(asker, false);
        }
        if now > owner.began + SERVED_WELL_MS {
            owner.failed = 0;
        }
        owner.failed += 1;
        let pause = (RETRY_MS.0 << owner.failed.min(16).saturating_sub(1)).min(RETRY_MS.1);
        owner.attempt = attempt;
        owner.stage = Stage::Begins(None);
        owner.inbox.clear();
        owner.told_paused = false;
        let again = Asker { attempt, ..asker };
        self.at(now + pause, Event::OwnerBegins(again));
    }

    fn acquired(&mut self, asker: Asker, answer: Result<Box<Acquired>, StoreError>) {
        let cut = self.is_cut(asker.node, Peer::Log);
        let (now, log) = (self.now, self.own.logs[asker.shard].open());
        let Some(process) = self.process(asker.node) else {
            return;
        };
        let clock = process.clock(now);
        let Some(owner) = self.owner(asker) else {
            return;
        };
        let Ok(acquired) = answer else {
            return self.owner_fails(asker);
        };
        if cut {
            return self.owner_fails(asker);
        }
        let before = std::mem::replace(&mut owner.stage, Stage::Begins(None));
        let Stage::Acquires(_, fence, mut replay) = before else {
            return;
        };
        replay.read_on(&log);
        if replay.next != acquired.range.next {
            // Another one has acquired it meanwhile, and written.
            return self.owner_fails(asker);
        }
        let (epoch, incarnation) = (fence.shard_epoch.0, fence.owner_incarnation.0);
        replay.shard.serve(clock, epoch, incarnation, replay.next);
        owner.trouble = Trouble::default();
        owner.stage = Stage::Serves(Box::new(Serving {
            fence,
            replay: *replay,
            log,
            in_flight: None,
            confirming: None,
        }));
        let (shard, epoch) = (asker.shard as u32, owner.epoch);
        self.own.counts.acquired += 1;
        self.news(asker.node, Input::Serving { shard, epoch });
        self.take_incoming(asker);
    }

    pub(crate) fn log_answers(&mut self, answered: Answered) {
        let Answered {
            asker,
            request,
            answer,
        } = answered;
        let Some(owner) = self.owner(asker) else {
            return;
        };
        match (&owner.stage, answer) {
            (Stage::Acquires(waits, ..), Answer::Acquired(answer)) if *waits == request => {
                self.acquired(asker, answer);
            }
            (Stage::Serves(_), Answer::Appended(answer)) => self.appended(asker, request, answer),
            (Stage::Serves(_), Answer::Confirmed(answer)) => self.confirmed(asker, request, answer),
            _ => {}
        }
    }

    /// Whoever asked has waited long enough.
    pub(crate) fn log_silent(&mut self, asker: Asker, request: u64) {
        let unknown = StoreError::OutcomeUnknown {
            cause: "the log gave no answer in time".into(),
        };
        let Some(owner) = self.owner(asker) else {
            return;
        };
        match &owner.stage {
            Stage::Acquires(waits, ..) if *waits == request => self.acquired(asker, Err(unknown)),
            Stage::Serves(_) => {
                self.appended(asker, request, Err(unknown.clone()));
                self.confirmed(asker, request, Err(unknown));
            }
            _ => {}
        }
    }

    pub(crate) fn order(&mut self, node: usize, shard: usize, order: Order) {
        let Some(asker) = self.asker(node, shard) else {
            return;
        };
        let Some(owner) = self.owner(asker) else {
            return;
        };
        owner.order = order.clone();
        match order {
            Order::Pause => owner.told_paused = false,
            Order::Leave(to) => {
                // What is in flight is not answered: the edges ask the next owner.
                if let Some(serving) = owner.serving_mut() {
                    serving.replay.shard.leave_to(to.as_str());
                    self.flush(asker);
                }
                return self.owner_ends(asker, false);
            }
            Order::Stop if owner.serving().is_none() => return self.owner_ends(asker, false),
            Order::Serve | Order::Stop => {}
        }
        self.pump(asker);
    }

    pub(super) fn owner_ends(&mut self, asker: Asker, saves: bool) {
        let Asker { node, shard, .. } = asker;
        if saves && !self.is_cut(node, Peer::Log) {
            self.checkpoint(asker);
        }
        self.close_links_of(node, Some(shard), false);
        if let Some(process) = self.process(node) {
            process.owners.remove(&shard);
        }
        let shard = shard as u32;
        self.soon(
            1,
            20,
            Event::Tell {
                node,
                input: Input::Left { shard },
            },
        );
    }

    /// A frame of an edge, or the end of its link.
    pub(crate) fn owner_frame(&mut self, link: LinkId, frame: OwnerFrame) {
        self.incoming(link, Incoming::Frame(link, Box::new(frame)));
    }

    pub(crate) fn owner_down(&mut self, link: LinkId) {
        self.incoming(link, Incoming::Closed(link));
        if let Some(path) = self.paths.get_mut(&link) {
            path.open_at_owner = false;
        }
    }

    fn incoming(&mut self, link: LinkId, incoming: Incoming) {
        let Some(path) = self.paths.get(&link).filter(|path| path.open_at_owner) else {
            return;
        };
        let asker = asker(path);
        if let Some(owner) = self.owner(asker).filter(|owner| owner.is_open()) {
            owner.inbox.push(incoming);
            self.take_incoming(asker);
        }
    }

    /// A reader asks whoever it takes for the owner.
    pub(crate) fn owner_asked(
        &mut self,
        node: usize,
        shard: usize,
        link: LinkId,
        request: HistoryRequest,
    ) {
        let Some(asker) = self.asker(node, shard) else {
            return;
        };
        if let Some(owner) = self.owner(asker)
            && owner.is_open()
            && owner.serving().is_some()
        {
            owner.inbox.push(Incoming::Asked(link, request));
            self.take_incoming(asker);
        }
    }
}
