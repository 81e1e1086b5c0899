//! What edges know of owners, and their links to them.

use gb6_core_model::NodeId;
use gb6_region_shard::LinkId;

use super::faults::Peer;
use super::log::Asker;
use super::world::NodesWorld;
use crate::geo::Node;
use crate::network::Stream;
use crate::publishing::{Path, Traffic};

/// Whom a link leads to.
#[derive(Clone, Copy)]
pub(crate) struct Callee {
    pub(crate) node: usize,
    attempt: u64,
}

/// The owner at the end of a link, as its shard's log knows it.
pub(crate) fn asker(path: &Path<Callee>) -> Asker {
    Asker {
        node: path.owner.node,
        shard: path.shard,
        attempt: path.owner.attempt,
    }
}

impl NodesWorld {
    /// The owner of a shard that an edge knows of, if it lets edges in.
    pub(crate) fn callee(&self, edge: usize, shard: usize) -> Option<Callee> {
        let (_, name) = self.own.known[edge].get(&shard)?;
        let node = self.newest(name)?;
        let owner = self.own.processes[node].owners.get(&shard)?;
        let paused = self.own.pauses.holds(self.now, Node::Region(node));
        let reached = !paused && !self.is_cut(node, Peer::Edge(edge)) && owner.is_open();
        reached.then_some(Callee {
            node,
            attempt: owner.attempt,
        })
    }

    /// A node has told an edge who owns what.
    pub(crate) fn edge_learns(&mut self, edge: usize, owners: &[(usize, u64, NodeId)]) {
        for (shard, epoch, name) in owners {
            let known = &mut self.own.known[edge];
            if known.get(shard).is_some_and(|(known, _)| known >= epoch) {
                continue;
            }
            known.insert(*shard, (*epoch, name.clone()));
            let link = self.sides[edge][*shard].link;
            let to = link.and_then(|link| Some((link, self.paths.get(&link)?.owner.node)));
            if let Some((link, node)) = to
                && Some(node) != self.newest(name)
            {
                self.edge_down(link);
            }
        }
    }

    /// The owner learns of a link's end behind everything that was sent to it before; its edge and shard.
    pub(crate) fn owner_hears_end(&mut self, link: LinkId) -> Option<(usize, usize)> {
        let path = self.paths.get_mut(&link)?;
        let (edge, shard) = (path.edge, path.shard);
        let at = path.arrival(self.now, Stream::ToOwner, &mut self.rng);
        self.at(at, Traffic::OwnerDown(link));
        Some((edge, shard))
    }

    /// A process closes its links, those of one shard or all: it is gone, or serves no more.
    pub(crate) fn close_links_of(&mut self, node: usize, shard: Option<usize>, dead: bool) {
        let ours =
            |path: &Path<Callee>| path.owner.node == node && shard.is_none_or(|s| path.shard == s);
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
                self.at(at, Traffic::EdgeDown(link));
            }
        }
    }
}
