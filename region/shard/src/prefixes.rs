//! Prefixes that edges follow: which edges want a publication because of how its room's name begins.
//! They belong to an attachment, as interest does, and nothing of them is in the log.

use std::borrow::Cow;
use std::collections::HashMap;

use gb6_core_model::prefix::{self, PrefixMap};
use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::mesh::{Deliver, EdgeFrame, PrefixFollowed, PrefixRef, Publication, RoomRef};

use crate::machine::{LinkId, Shard};

/// Different prefixes of one instance, over all edges.
const INSTANCE_MAX: usize = 4 * limits::PREFIXES_INSTANCE_MAX;

/// The prefixes of each instance, with the edges that follow them, ascending.
#[derive(Debug, Default)]
pub(crate) struct Prefixes(HashMap<String, PrefixMap<Vec<usize>>>);

impl Prefixes {
    /// The edges of `wanted`, ascending, and those that follow a prefix of the room's name. Without
    /// any prefix it costs one look.
    pub(crate) fn with_edges<'a>(&self, room: &RoomRef, wanted: &'a [usize]) -> Cow<'a, [usize]> {
        if self.0.is_empty() || !prefix::may_be_followed(&room.channel) {
            return Cow::Borrowed(wanted);
        }
        let mut edges = Cow::Borrowed(wanted);
        if let Some(prefixes) = self.0.get(&room.instance) {
            prefixes.for_each_of(&room.channel, |followers| {
                for edge in followers {
                    if let Err(at) = edges.binary_search(edge) {
                        edges.to_mut().insert(at, *edge);
                    }
                }
            });
        }
        edges
    }

    /// Different prefixes of all instances.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(PrefixMap::len).sum()
    }

    // overflow: the edge is answered 106, and its sessions are.
    fn insert(&mut self, edge: usize, key: &PrefixRef) -> Result<(), ErrorCode> {
        prefix::checked(&key.prefix).map_err(|_| ErrorCode::BadRequest)?;
        let prefixes = self.0.entry(key.instance.clone()).or_default();
        if prefixes.len() >= INSTANCE_MAX && !prefixes.contains(&key.prefix) {
            return Err(ErrorCode::LimitExceeded);
        }
        let followers = prefixes.get_or_insert_with(&key.prefix, Vec::new);
        if let Err(at) = followers.binary_search(&edge) {
            followers.insert(at, edge);
        }
        Ok(())
    }

    fn remove(&mut self, edge: usize, key: &PrefixRef) {
        let Some(prefixes) = self.0.get_mut(&key.instance) else {
            return;
        };
        if let Some(followers) = prefixes.get_mut(&key.prefix) {
            followers.retain(|e| *e != edge);
            if followers.is_empty() {
                prefixes.remove(&key.prefix);
            }
        }
        if prefixes.is_empty() {
            self.0.remove(&key.instance);
        }
    }
}

impl Shard {
    /// An edge wants every publication of rooms whose names begin so.
    pub(crate) fn follow_prefix(&mut self, link: LinkId, edge: usize, key: PrefixRef) {
        let known = self.snapshot.instances.contains_key(key.instance.as_str());
        let followed = match known {
            true => self.prefixes.insert(edge, &key),
            // The edge has another snapshot.
            false => Err(ErrorCode::OwnerMoving),
        };
        let request = key.request;
        if followed.is_ok() {
            self.edges.list[edge].prefixes.insert(without_number(key));
        }
        let error = followed.err().map_or(0, ErrorCode::code);
        self.send(
            link,
            EdgeFrame::PrefixFollowed(PrefixFollowed { request, error }),
        );
    }

    /// It does not any more.
    pub(crate) fn unfollow_prefix(&mut self, edge: usize, key: PrefixRef) {
        let key = without_number(key);
        self.edges.list[edge].prefixes.remove(&key);
        self.prefixes.remove(edge, &key);
    }

    /// The link of an edge is gone, and what it followed with it.
    pub(crate) fn forget_prefixes(&mut self, edge: usize) {
        for key in std::mem::take(&mut self.edges.list[edge].prefixes) {
            self.prefixes.remove(edge, &key);
        }
    }

    /// A signal of this shard was handed to the engine, or is handed to the edges without it. What
    /// comes back from there is for the edges with interest in the room; those that only follow a
    /// prefix of its name are sent it now.
    pub fn signal_sent(&mut self, room: &RoomRef, publication: &Publication) {
        let wanted = self.rooms.find(room).map(|ix| &self.rooms.get(ix).edges);
        let wanted = wanted.map_or(&[][..], Vec::as_slice);
        let edges = self.prefixes.with_edges(room, wanted);
        let others = edges.iter().filter(|e| wanted.binary_search(e).is_err());
        let links = others.filter_map(|e| self.edges.list[*e].link);
        let links: Vec<LinkId> = links.collect();
        for link in links {
            let room = room.clone();
            let publication = publication.clone();
            self.send(link, EdgeFrame::Signal(Deliver { room, publication }));
        }
    }
}

fn without_number(key: PrefixRef) -> PrefixRef {
    PrefixRef { request: 0, ..key }
}
