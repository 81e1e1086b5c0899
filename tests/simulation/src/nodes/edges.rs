//! The edges: a hub for each shard, what they know of owners, and their links to them.

use std::collections::BTreeMap;

use gb6_core_model::{Incarnation, NodeId};
use gb6_core_wire::mesh::EdgeFrame;
use gb6_edge_session::{Hub, HubConfig};
use gb6_region_shard::LinkId;

use super::SHARDS;
use super::faults::Peer;
use super::log::Asker;
use super::world::{Event, NodesWorld};
use crate::edge::{Ears, Said};
use crate::network::Stream;
use crate::rng::Rng;

/// How often time passes in hubs, in ms.
const TICK_MS: u64 = 50;

/// An edge.
pub(crate) struct EdgeNode {
    sides: Vec<Side>,
    /// The owner of each shard, with the assignment epoch under which it was told.
    known: BTreeMap<usize, (u64, NodeId)>,
}

/// What an edge has of one shard.
struct Side {
    hub: Hub<u64>,
    link: Option<LinkId>,
    /// A dial is planned.
    dialling: bool,
}

impl Default for EdgeNode {
    fn default() -> Self {
        let side = || Side {
            hub: Hub::new(HubConfig::default()),
            link: None,
            // The first is planned when the run begins.
            dialling: true,
        };
        Self {
            sides: (0..SHARDS).map(|_| side()).collect(),
            known: BTreeMap::new(),
        }
    }
}

/// A link of an edge's hub to whoever owns a shard.
pub(crate) struct Path {
    pub(crate) edge: usize,
    pub(crate) shard: usize,
    pub(crate) node: usize,
    attempt: u64,
    open_at_edge: bool,
    pub(crate) open_at_owner: bool,
    /// Nothing arrives before: the path is silent.
    pub(crate) stalled_until: u64,
    /// When the newest frame of each stream arrives: streams keep their order.
    last: [u64; 4],
}

impl Path {
    /// When something that is sent now arrives.
    pub(crate) fn arrival(&mut self, now: u64, stream: Stream, rng: &mut Rng) -> u64 {
        let last = &mut self.last[stream as usize];
        let at = (now + rng.range(1, 5)).max(self.stalled_until);
        *last = at.max(*last);
        *last
    }

    /// Whom it leads to.
    pub(crate) fn asker(&self) -> Asker {
        Asker {
            node: self.node,
            shard: self.shard,
            attempt: self.attempt,
        }
    }
}

impl NodesWorld {
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
                Said::Deliver(to, frame) => self.delivered(to, &frame),
                Said::Complete(to, token, answer) => self.answered(to, token, answer),
                Said::Notice(to, notice) => panic!("{to} is told {notice:?}: the log goes on"),
                Said::ToOwner(frame) => {
                    self.send_owner(edge, shard, |link| Event::ToOwner(link, *frame));
                }
                Said::ToHistory(request) => self.send_asked(edge, shard, request),
                Said::Detach => {
                    if let Some(link) = self.edges[edge].sides[shard].link {
                        self.edge_closed(link);
                    }
                }
            }
        }
    }

    fn send_owner(&mut self, edge: usize, shard: usize, event: impl FnOnce(LinkId) -> Event) {
        let link = self.edges[edge].sides[shard].link;
        if let Some((link, path)) = link.and_then(|l| Some((l, self.paths.get_mut(&l)?))) {
            let at = path.arrival(self.now, Stream::ToOwner, &mut self.rng);
            self.at(at, event(link));
        }
    }

    /// A hub reads history.
    fn send_asked(
        &mut self,
        edge: usize,
        shard: usize,
        request: gb6_core_wire::mesh::HistoryRequest,
    ) {
        let link = self.edges[edge].sides[shard].link;
        if let Some((link, path)) = link.and_then(|l| Some((l, self.paths.get_mut(&l)?))) {
            let at = path.arrival(self.now, Stream::Ask, &mut self.rng);
            let node = path.node;
            let asked = Event::Ask {
                node,
                shard,
                link,
                request,
            };
            self.at(at, asked);
        }
    }

    /// An edge dials the owner of a shard, as far as it knows one.
    pub(crate) fn dial(&mut self, edge: usize, shard: usize) {
        let side = &mut self.edges[edge].sides[shard];
        side.dialling = false;
        if side.link.is_some() {
            return;
        }
        let owner = self.edges[edge].known.get(&shard);
        let owner = owner.and_then(|(_, name)| self.newest(name));
        let open = owner.filter(|node| {
            let serves = self.processes[*node].owners.get(&shard);
            let paused = self.pauses.holds(self.now, crate::geo::Node::Region(*node));
            let cut = self.is_cut(*node, Peer::Edge(edge));
            !paused && !cut && serves.is_some_and(|owner| owner.is_open())
        });
        let Some(node) = open else {
            return self.dial_soon(edge, shard);
        };
        let attempt = self.processes[node].owners[&shard].attempt;
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.edges[edge].sides[shard].link = Some(link);
        let path = Path {
            edge,
            shard,
            node,
            attempt,
            open_at_edge: true,
            open_at_owner: true,
            stalled_until: 0,
            last: [0; 4],
        };
        self.paths.insert(link, path);
        let (now, fresh) = (self.now, Incarnation(self.rng.next().max(1)));
        self.with_hub(edge, shard, |hub, ears| hub.link_up(now, fresh, 1, ears));
    }

    fn dial_soon(&mut self, edge: usize, shard: usize) {
        if !std::mem::replace(&mut self.edges[edge].sides[shard].dialling, true) {
            self.soon(5, 60, Event::Dial { edge, shard });
        }
    }

    /// A node has told an edge who owns what.
    pub(crate) fn edge_learns(&mut self, edge: usize, owners: &[(usize, u64, NodeId)]) {
        for (shard, epoch, name) in owners {
            let known = self.edges[edge].known.get(shard);
            if known.is_some_and(|(known, _)| known >= epoch) {
                continue;
            }
            self.edges[edge]
                .known
                .insert(*shard, (*epoch, name.clone()));
            let link = self.edges[edge].sides[*shard].link;
            let to = link.and_then(|link| self.paths.get(&link));
            if let Some(link) = link
                && to.is_some_and(|path| Some(path.node) != self.newest(name))
            {
                let now = self.now;
                self.with_hub(edge, *shard, |hub, ears| hub.link_down(now, ears));
                self.edge_closed(link);
            }
        }
    }

    fn listening(&self, link: LinkId) -> Option<(usize, usize)> {
        let path = self.paths.get(&link).filter(|p| p.open_at_edge)?;
        Some((path.edge, path.shard))
    }

    pub(crate) fn edge_frame(&mut self, link: LinkId, frame: EdgeFrame) {
        let now = self.now;
        if let Some((edge, shard)) = self.listening(link) {
            self.with_hub(edge, shard, |hub, ears| hub.frame(now, frame, ears));
        }
    }

    pub(crate) fn edge_page(&mut self, link: LinkId, page: gb6_core_wire::mesh::HistoryPage) {
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
        let at = path.arrival(self.now, Stream::ToOwner, &mut self.rng);
        self.edges[edge].sides[shard].link = None;
        self.at(at, Event::OwnerDown(link));
        self.dial_soon(edge, shard);
    }

    /// A process closes its links, those of one shard or all: it is gone, or serves no more.
    pub(crate) fn close_links_of(&mut self, node: usize, shard: Option<usize>, dead: bool) {
        let ours = |path: &Path| path.node == node && shard.is_none_or(|s| path.shard == s);
        let links = self.paths.iter();
        let links: Vec<LinkId> = links
            .filter(|(_, path)| path.open_at_owner && ours(path))
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            let late = if dead && self.rng.one_in(4) {
                3_000
            } else {
                60
            };
            let delay = self.rng.range(1, late);
            if let Some(path) = self.paths.get_mut(&link) {
                path.open_at_owner = false;
                let at = path.arrival(self.now + delay, Stream::ToEdge, &mut self.rng);
                self.at(at, Event::EdgeDown(link));
            }
        }
    }

    pub(crate) fn edge_tick(&mut self, edge: usize) {
        let now = self.now;
        for shard in 0..SHARDS {
            self.with_hub(edge, shard, |hub, ears| hub.tick(now, ears));
        }
        self.at(now + TICK_MS, Event::EdgeTick(edge));
    }
}
