//! The edges of a move: one hub for each shard, and what a driver does around it.

use gb6_core_model::Incarnation;
use gb6_core_wire::mesh::{EdgeFrame, HistoryPage};
use gb6_edge_session::{Hub, HubConfig};
use gb6_region_shard::LinkId;

use super::shards::Path;
use super::world::{Event, MoveWorld};
use crate::edge::{Ears, Said};
use crate::network::Stream;

/// An edge.
pub(crate) struct EdgeNode {
    pub(crate) sides: [Side; 2],
    /// It has been told where the instance is now.
    pub(crate) placed: bool,
}

/// What an edge has of one shard.
pub(crate) struct Side {
    hub: Hub<u64>,
    link: Option<LinkId>,
    /// Attached since; far away while it is not.
    pub(crate) calm_since: u64,
}

impl EdgeNode {
    pub(crate) fn new() -> Self {
        let side = || Side {
            hub: Hub::new(HubConfig::default()),
            link: None,
            calm_since: u64::MAX,
        };
        Self {
            sides: [side(), side()],
            placed: false,
        }
    }
}

impl MoveWorld {
    /// Lets a hub do something; what it says is done when the present event is through.
    pub(crate) fn with_hub(
        &mut self,
        edge: usize,
        shard: usize,
        act: impl FnOnce(&mut Hub<u64>, &mut Ears),
    ) {
        let mut ears = Ears::default();
        act(&mut self.edges[edge].sides[shard].hub, &mut ears);
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
                    self.send_owner(edge, shard, Stream::ToOwner, |l| Event::ToOwner(l, *frame));
                }
                Said::ToHistory(request) => {
                    self.send_owner(edge, shard, Stream::Ask, |l| Event::Ask(l, request));
                }
                Said::Detach => {
                    if let Some(link) = self.edges[edge].sides[shard].link {
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
        event: impl FnOnce(LinkId) -> Event,
    ) {
        let link = self.edges[edge].sides[shard].link;
        if let Some((link, path)) = link.and_then(|l| Some((l, self.paths.get_mut(&l)?))) {
            let at = path.arrival(self.now, stream, &mut self.rng);
            self.at(at, event(link));
        }
    }

    pub(crate) fn dial(&mut self, edge: usize, shard: usize) {
        let side = &mut self.edges[edge].sides[shard];
        if side.link.is_some() {
            return;
        }
        if self.shards[shard].up.is_none() {
            return self.soon(20, 80, Event::Dial { edge, shard });
        }
        let link = LinkId(self.next_link);
        self.next_link += 1;
        side.link = Some(link);
        self.paths.insert(link, Path::new(edge, shard));
        let (now, fresh) = (self.now, Incarnation(self.rng.next().max(1)));
        self.with_hub(edge, shard, |hub, ears| hub.link_up(now, fresh, 1, ears));
    }

    fn listening(&self, link: LinkId) -> Option<(usize, usize)> {
        let path = self.paths.get(&link).filter(|p| p.open_at_edge)?;
        Some((path.edge, path.shard))
    }

    pub(crate) fn edge_frame(&mut self, link: LinkId, frame: EdgeFrame) {
        let now = self.now;
        if let Some((edge, shard)) = self.listening(link) {
            if matches!(frame, EdgeFrame::Attached(_)) {
                self.edges[edge].sides[shard].calm_since = now;
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

    /// The edge's side is closed: the owner learns of it, and the edge dials again.
    fn edge_closed(&mut self, link: LinkId) {
        let Some(path) = self.paths.get_mut(&link) else {
            return;
        };
        path.open_at_edge = false;
        let (edge, shard) = (path.edge, path.shard);
        let side = &mut self.edges[edge].sides[shard];
        side.link = None;
        side.calm_since = u64::MAX;
        self.soon(1, 400, Event::OwnerDown(link));
        self.soon(5, 60, Event::Dial { edge, shard });
    }

    /// A link breaks; both sides learn it at different times.
    pub(crate) fn break_link(&mut self) {
        let (edge, shard) = (self.rng.range(0, 2), self.rng.range(0, 2));
        if let Some(link) = self.edges[edge as usize].sides[shard as usize].link {
            if self.rng.one_in(2) {
                // What is on its way to the edge is lost, what it sent arrives.
                self.edge_down(link);
            } else {
                self.owner_down(link);
                self.soon(1, 100, Event::EdgeDown(link));
            }
        }
    }

    pub(crate) fn edge_tick(&mut self, edge: usize) {
        let now = self.now;
        for shard in 0..2 {
            self.with_hub(edge, shard, |hub, ears| hub.tick(now, ears));
        }
        self.at(now + 50, Event::EdgeTick(edge));
    }
}
