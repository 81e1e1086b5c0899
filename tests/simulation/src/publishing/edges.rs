//! The edges: a hub for each shard, what a driver does around it, and the links to owners.

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage};
use gb6_edge_session::{Hub, HubConfig};
use gb6_region_shard::{LinkId, Output};

use super::{Setting, Traffic, World};
use crate::edge::{Ears, Said};
use crate::network::Stream;
use crate::rng::Rng;

/// How often time passes in hubs, in ms.
const TICK_MS: u64 = 50;

/// What an edge has of one shard.
pub(crate) struct Side {
    pub(super) hub: Hub<u64>,
    pub(crate) link: Option<LinkId>,
    /// Attached since; far away while it is not.
    pub(crate) calm_since: u64,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            hub: Hub::new(HubConfig::default()),
            link: None,
            calm_since: u64::MAX,
        }
    }
}

/// A link of an edge's hub to whoever owns a shard.
pub(crate) struct Path<O> {
    pub(crate) edge: usize,
    pub(crate) shard: usize,
    pub(crate) owner: O,
    open_at_edge: bool,
    pub(crate) open_at_owner: bool,
    /// Nothing arrives before: the path is silent.
    pub(crate) stalled_until: u64,
    /// When the newest frame of each stream arrives: streams keep their order.
    last: [u64; 4],
}

impl<O> Path<O> {
    /// When something that is sent now arrives.
    pub(crate) fn arrival(&mut self, now: u64, stream: Stream, rng: &mut Rng) -> u64 {
        let last = &mut self.last[stream as usize];
        let at = (now + rng.range(1, 5)).max(self.stalled_until);
        *last = at.max(*last);
        *last
    }
}

impl<S: Setting> World<S> {
    /// Lets a hub do something; what it says is done when the present event is through.
    pub(crate) fn with_hub(
        &mut self,
        edge: usize,
        shard: usize,
        act: impl FnOnce(&mut Hub<u64>, &mut Ears),
    ) {
        let mut ears = Ears::default();
        act(&mut self.sides[edge][shard].hub, &mut ears);
        let said = ears.0.into_iter().map(|said| (edge, shard, said));
        self.work.extend(said);
    }

    pub(crate) fn drain_work(&mut self) {
        while let Some((edge, shard, said)) = self.work.pop_front() {
            match said {
                Said::Deliver(to, frame) => self.delivered(to, shard, &frame),
                Said::Complete(to, token, answer) => self.answered(to, token, answer),
                Said::Notice(to, notice) => panic!("{to} is told {notice:?}: the log goes on"),
                Said::ToOwner(frame) => {
                    self.send_owner(edge, shard, Stream::ToOwner, |link, _| {
                        Traffic::ToOwner(link, frame).into()
                    });
                }
                Said::ToHistory(request) => {
                    self.send_owner(edge, shard, Stream::Ask, |link, path| {
                        S::asks(link, path, request)
                    });
                }
                Said::Detach => {
                    if let Some(link) = self.sides[edge][shard].link {
                        self.edge_closed(link);
                    }
                }
            }
        }
    }

    fn send_owner(
        &mut self,
        edge: usize,
        shard: usize,
        stream: Stream,
        event: impl FnOnce(LinkId, &Path<S::Owner>) -> S::Event,
    ) {
        let link = self.sides[edge][shard].link;
        if let Some((link, path)) = link.and_then(|l| Some((l, self.paths.get_mut(&l)?))) {
            let at = path.arrival(self.now, stream, &mut self.rng);
            let event = event(link, path);
            self.at(at, event);
        }
    }

    /// Sends something from an owner to an edge over a link.
    pub(crate) fn send_edge(&mut self, link: LinkId, stream: Stream, event: impl Into<S::Event>) {
        let Some(path) = self.paths.get_mut(&link).filter(|p| p.open_at_owner) else {
            return;
        };
        let at = path.arrival(self.now, stream, &mut self.rng);
        self.at(at, event);
    }

    /// Does what a shard's machine has said. Handed back is what each world does in its own way: a page
    /// of history, and the outcome of a command.
    pub(crate) fn owner_says(&mut self, output: Output) -> Option<Output> {
        match output {
            Output::Send { link, frame } => {
                self.send_edge(link, Stream::ToEdge, Traffic::ToEdge(link, Box::new(frame)));
            }
            Output::Close { link } => {
                self.send_edge(link, Stream::ToEdge, Traffic::EdgeDown(link));
                if let Some(path) = self.paths.get_mut(&link) {
                    path.open_at_owner = false;
                }
            }
            Output::Unfounded { offset, head } => {
                panic!("offset {offset} was to be acknowledged above the durable {head}")
            }
            Output::Page { .. } | Output::AdminDone { .. } => return Some(output),
            // Nobody here signals, erases or removes anything, and no instance keeps statuses.
            Output::Signal { .. }
            | Output::Unkept { .. }
            | Output::FollowSignals { .. }
            | Output::UnfollowSignals { .. }
            | Output::UserHere { .. }
            | Output::Status(_)
            | Output::Read(_)
            | Output::Trimmed { .. }
            | Output::Erased { .. }
            | Output::Wake => {}
        }
        None
    }

    /// An edge dials the owner of a shard, unless it is attached.
    pub(super) fn dial(&mut self, edge: usize, shard: usize) {
        if self.sides[edge][shard].link.is_some() {
            return;
        }
        let Some(owner) = S::dialled(self, edge, shard) else {
            let (low, high) = S::DIAL_AGAIN_MS;
            return self.soon(low, high, Traffic::Dial { edge, shard });
        };
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.sides[edge][shard].link = Some(link);
        let path = Path {
            edge,
            shard,
            owner,
            open_at_edge: true,
            open_at_owner: true,
            stalled_until: 0,
            last: [0; 4],
        };
        self.paths.insert(link, path);
        let (now, fresh) = (self.now, Incarnation(self.rng.next().max(1)));
        self.with_hub(edge, shard, |hub, ears| hub.link_up(now, fresh, 1, ears));
    }

    fn listening(&self, link: LinkId) -> Option<(usize, usize)> {
        let path = self.paths.get(&link).filter(|p| p.open_at_edge)?;
        Some((path.edge, path.shard))
    }

    pub(super) fn edge_frame(&mut self, link: LinkId, frame: EdgeFrame) {
        let now = self.now;
        if let Some((edge, shard)) = self.listening(link) {
            if matches!(frame, EdgeFrame::Attached(_)) {
                self.sides[edge][shard].calm_since = now;
            }
            self.with_hub(edge, shard, |hub, ears| hub.frame(now, frame, ears));
        }
    }

    pub(crate) fn edge_page(&mut self, link: LinkId, page: HistoryPage) {
        let now = self.now;
        if let Some((edge, shard)) = self.listening(link) {
            self.with_hub(edge, shard, |hub, ears| hub.history_page(now, page, ears));
        }
    }

    pub(crate) fn edge_down(&mut self, link: LinkId) {
        let now = self.now;
        if let Some((edge, shard)) = self.listening(link) {
            self.with_hub(edge, shard, |hub, ears| hub.link_down(now, ears));
            self.edge_closed(link);
        }
    }

    fn edge_closed(&mut self, link: LinkId) {
        let Some(path) = self.paths.get_mut(&link) else {
            return;
        };
        path.open_at_edge = false;
        let side = &mut self.sides[path.edge][path.shard];
        side.link = None;
        side.calm_since = u64::MAX;
        S::edge_closed(self, link);
    }

    pub(super) fn edge_tick(&mut self, edge: usize) {
        let now = self.now;
        for shard in 0..self.sides[edge].len() {
            self.with_hub(edge, shard, |hub, ears| hub.tick(now, ears));
        }
        self.at(now + TICK_MS, Traffic::EdgeTick(edge));
    }
}
