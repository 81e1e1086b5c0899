//! An edge process: sessions and the hub of the one shard.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame};
use gb6_edge_session::{
    Answer, Detach, HeldRequests, Hub, HubConfig, HubOut, Notice, Session, SessionConfig,
    SessionCounters,
};
use gb6_region_shard::LinkId;

use crate::connections::Heard;
use crate::crowds::Door;
use crate::revocations::Following;
use crate::scenario::Scenario;
use crate::tokens::Token;

/// What an edge process holds while it runs.
pub(crate) struct Edge {
    /// Raised by every start: events of an earlier life are void.
    pub(crate) life: u64,
    /// The newest placement that it was given: kept on its disk.
    pub(crate) kept: Arc<Snapshot>,
    pub(crate) up: Option<Running>,
}

pub(crate) struct Running {
    pub(crate) hub: Hub<u64>,
    /// By session number, which is also the number of the client's connection.
    pub(crate) sessions: BTreeMap<u64, Connected>,
    /// The current link, once dialled.
    pub(crate) link: Option<LinkId>,
    /// When that was.
    pub(crate) linked_at: u64,
    pub(crate) dialling: bool,
    pub(crate) config: SessionConfig,
    pub(crate) counters: SessionCounters,
    pub(crate) following: Following,
    pub(crate) door: Door,
}

pub(crate) struct Connected {
    pub(crate) session: Session,
    pub(crate) client: usize,
    /// What hubs have delivered before its connect was answered.
    pub(crate) held: Vec<Bytes>,
    /// Its token, once that was good: revocations may name it.
    pub(crate) token: Option<Token>,
    /// What waits for it while it is held still, each with whether an owner that was fenced may have
    /// said it.
    pub(crate) outbox: VecDeque<(bool, Heard)>,
    /// What it asks meanwhile; `None`: nothing.
    pub(crate) waiting: Option<HeldRequests>,
}

impl Connected {
    pub(crate) fn new(session: Session, client: usize) -> Self {
        Self {
            session,
            client,
            held: Vec::new(),
            token: None,
            outbox: VecDeque::new(),
            waiting: None,
        }
    }
}

impl Running {
    /// One that begins `now`, and asks the hub for itself as `session`.
    pub(crate) fn new(scenario: &Scenario, now: u64, session: u64) -> Self {
        Self {
            following: Following::new(session),
            door: Door::new(scenario, now),
            linked_at: 0,
            hub: Hub::new(HubConfig::default()),
            sessions: BTreeMap::new(),
            link: None,
            dialling: false,
            config: SessionConfig {
                // Short, so that what is not renewed ends within the run.
                expiry_grace_ms: 1_500,
                ..SessionConfig::default()
            },
            counters: SessionCounters::default(),
        }
    }
}

/// What a hub said, in order. Boxed where large: there are many at once.
pub(crate) enum Said {
    Deliver(u64, Bytes),
    Complete(u64, u64, Answer),
    Notice(u64, Notice),
    ToOwner(Box<OwnerFrame>),
    ToHistory(HistoryRequest),
    Detach,
}

/// Collects what a hub says.
#[derive(Default)]
pub(crate) struct Ears(pub(crate) Vec<Said>);

impl HubOut<u64> for Ears {
    fn deliver(&mut self, to: &u64, frame: Bytes) {
        self.0.push(Said::Deliver(*to, frame));
    }
    fn complete(&mut self, to: &u64, token: u64, answer: Answer) {
        self.0.push(Said::Complete(*to, token, answer));
    }
    fn notice(&mut self, to: &u64, notice: Notice) {
        self.0.push(Said::Notice(*to, notice));
    }
    fn to_owner(&mut self, frame: OwnerFrame) {
        self.0.push(Said::ToOwner(Box::new(frame)));
    }
    fn to_history(&mut self, request: HistoryRequest) {
        self.0.push(Said::ToHistory(request));
    }
    fn detach(&mut self, _why: Detach) {
        self.0.push(Said::Detach);
    }
}
