//! The machine of one shard at one edge.

mod out;

use gb6_core_model::{Incarnation, SessionId};
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage};

pub use out::{Detach, HubConfig, HubCounters, HubGauges, HubOut};

use crate::request::HubRequest;

/// The rooms of one shard that have subscribers at this edge. `S` is the driver's handle of a
/// session: cheap to clone.
pub struct Hub<S> {
    handle: std::marker::PhantomData<S>,
    counters: HubCounters,
}

impl<S: Clone> Hub<S> {
    /// A hub that is attached to nobody.
    pub fn new(_config: HubConfig) -> Self {
        Self {
            handle: std::marker::PhantomData,
            counters: HubCounters::default(),
        }
    }
    /// A session asks for something. Its requests must come in the order in which it made them.
    pub fn request(
        &mut self,
        _now_ms: u64,
        _from: &S,
        _request: HubRequest,
        _out: &mut impl HubOut<S>,
    ) {
    }
    /// A session has ended: its subscriptions end, its waiting requests are not answered.
    pub fn session_closed(&mut self, _now_ms: u64, _session: SessionId, _out: &mut impl HubOut<S>) {
    }
    /// The streams to an owner are open: the hub attaches. `fresh` is a new random number every
    /// time: the hub's incarnation where it has none or its lease has ended. `revision`: of the
    /// snapshot that the owner was found by.
    pub fn link_up(
        &mut self,
        _now_ms: u64,
        _fresh: Incarnation,
        _revision: u64,
        _out: &mut impl HubOut<S>,
    ) {
    }
    /// A stream has ended: both are closed, no frame of them comes any more.
    pub fn link_down(&mut self, _now_ms: u64, _out: &mut impl HubOut<S>) {}
    /// A frame came on the shard stream.
    pub fn frame(&mut self, _now_ms: u64, _frame: EdgeFrame, _out: &mut impl HubOut<S>) {}
    /// A page came on the catch-up stream.
    pub fn history_page(&mut self, _now_ms: u64, _page: HistoryPage, _out: &mut impl HubOut<S>) {}
    /// Time has passed: call it every 50 ms or so while the hub is in use.
    pub fn tick(&mut self, _now_ms: u64, _out: &mut impl HubOut<S>) {}
    /// What has happened.
    pub fn counters(&self) -> HubCounters {
        self.counters
    }
    /// How it stands.
    pub fn gauges(&self) -> HubGauges {
        HubGauges::default()
    }
}
