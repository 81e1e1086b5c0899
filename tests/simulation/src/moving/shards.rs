//! The two shards of a move, and the links to them.

use gb6_core_wire::mesh::{HistoryRequest, OwnerFrame};
use gb6_region_shard::{Admin, LinkId, Output};
use gb6_region_stores_embedded::sim_disk::SimDisk;

use super::world::{Event, MoveWorld};
use crate::network::Stream;
use crate::publishing::Traffic;
use crate::region::{Append, Owner};

/// A shard: its disk, and its owner while one runs.
pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) life: u64,
    pub(crate) up: Option<Owner>,
}

impl MoveWorld {
    pub(crate) fn start_shard(&mut self, shard: usize) {
        let (now, unix, incarnation) = (self.now, self.unix(), self.rng.next().max(1));
        let node = &mut self.own.shards[shard];
        let started = Owner::start(
            &node.disk,
            shard as u32,
            &self.snapshot,
            now,
            unix,
            incarnation,
        );
        match started {
            Ok(owner) => node.up = Some(owner),
            Err(error) => panic!("shard {shard} does not start: {error}"),
        }
        let life = node.life;
        self.at(now + 250, Event::ShardTick { shard, life });
    }

    /// The owner's process is gone, and with the power what was not synced.
    pub(crate) fn shard_dies(&mut self, shard: usize) {
        let power_too = self.rng.one_in(2);
        let node = &mut self.own.shards[shard];
        node.up = None;
        node.life += 1;
        if power_too {
            node.disk = node.disk.power_cut();
        }
        let links: Vec<LinkId> = self
            .paths
            .iter()
            .filter(|(_, p)| p.shard == shard && p.open_at_owner)
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            if let Some(path) = self.paths.get_mut(&link) {
                path.open_at_owner = false;
            }
            self.soon(1, 60, Traffic::EdgeDown(link));
        }
        self.soon(30, 500, Event::StartShard(shard));
    }

    fn served(&mut self, link: LinkId) -> Option<(usize, &mut Owner)> {
        let path = self.paths.get(&link).filter(|p| p.open_at_owner)?;
        let owner = self.own.shards[path.shard].up.as_mut()?;
        Some((path.shard, owner))
    }

    pub(crate) fn owner_frame(&mut self, link: LinkId, frame: OwnerFrame) {
        let now = self.now;
        if let Some((shard, owner)) = self.served(link) {
            owner.shard.frame(now, link, frame);
            self.pump(shard);
        }
    }

    pub(crate) fn owner_asked(&mut self, link: LinkId, request: HistoryRequest) {
        let now = self.now;
        if let Some((shard, owner)) = self.served(link) {
            owner.shard.history(now, link, request);
            self.pump(shard);
        }
    }

    pub(crate) fn owner_down(&mut self, link: LinkId) {
        if let Some((shard, owner)) = self.served(link) {
            owner.shard.link_closed(link);
            self.pump(shard);
        }
        if let Some(path) = self.paths.get_mut(&link) {
            path.open_at_owner = false;
        }
    }

    /// Asks a shard for something; `false` when nobody serves it.
    pub(crate) fn admin(&mut self, shard: usize, token: u64, admin: Admin) -> bool {
        let Some(owner) = &mut self.own.shards[shard].up else {
            return false;
        };
        owner.shard.admin(token, admin);
        self.pump(shard);
        true
    }

    pub(crate) fn shard_tick(&mut self, shard: usize, life: u64) {
        if self.own.shards[shard].life != life {
            return;
        }
        let (now, unix, save) = (self.now, self.unix(), self.rng.one_in(3));
        if let Some(owner) = &mut self.own.shards[shard].up {
            owner.shard.tick(now, unix);
            if save {
                owner.checkpoint();
            }
        }
        self.pump(shard);
        self.at(now + 250, Event::ShardTick { shard, life });
    }

    pub(crate) fn sync_done(&mut self, shard: usize, life: u64) {
        if self.own.shards[shard].life != life {
            return;
        }
        let now = self.now;
        if let Some(owner) = &mut self.own.shards[shard].up {
            owner.sync(now);
        }
        self.pump(shard);
    }

    /// Lets a shard append and send what it has to.
    fn pump(&mut self, shard: usize) {
        let (now, unix) = (self.now, self.unix());
        let Some(owner) = &mut self.own.shards[shard].up else {
            return;
        };
        let appended = owner.append(now, unix);
        let mut outputs = Vec::new();
        while let Some(output) = owner.shard.poll_output() {
            outputs.push(match output {
                Output::Read(read) => Output::Page {
                    link: read.link,
                    page: owner.read(&read),
                },
                other => other,
            });
        }
        assert!(owner.shard.is_serving(), "nothing fails a sync here");
        for output in outputs {
            match self.owner_says(output) {
                Some(Output::Page { link, page }) => {
                    self.send_edge(link, Stream::Page, Event::Page(link, page));
                }
                Some(Output::AdminDone { token, outcome }) => {
                    self.soon(1, 5, Event::MoverHears(token, outcome));
                }
                _ => {}
            }
        }
        if matches!(appended, Append::Writing) {
            let life = self.own.shards[shard].life;
            self.soon(1, 4, Event::SyncDone { shard, life });
        }
    }

    /// A link breaks; both sides learn it at different times.
    pub(crate) fn break_link(&mut self) {
        let (edge, shard) = (self.rng.range(0, 2), self.rng.range(0, 2));
        if let Some(link) = self.sides[edge as usize][shard as usize].link {
            if self.rng.one_in(2) {
                // What is on its way to the edge is lost, what it sent arrives.
                self.edge_down(link);
            } else {
                self.owner_down(link);
                self.soon(1, 100, Traffic::EdgeDown(link));
            }
        }
    }
}
