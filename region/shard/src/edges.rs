//! Edges: attachments, leases, interest, and the presence that they report.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use gb6_core_wire::mesh::{
    Attach, Attached, EdgeFrame, Interested, Person, PrefixRef, Presence, PresenceAnswer,
    PresenceQuery, PresenceSet, Refused, RefusedReason, Renew, RoomRef,
};
use slab::Slab;

use crate::machine::{LinkId, Output, Shard};
use crate::presence::RoomPresence;
use crate::room::RoomIx;
use crate::sessions::Live;
use crate::users::Reported;

/// Edges of one shard at a time.
const EDGES_MAX: usize = 4096;
/// Ended incarnations that are remembered, so that they are refused by name.
const ENDED_MAX: usize = 10_000;

/// One life of an edge.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) incarnation: u64,
    /// Counts on with every incarnation that attaches.
    life: u64,
    pub(crate) link: Option<LinkId>,
    /// Monotonic ms.
    lease_until: u64,
    /// Rooms that it wants deliveries of.
    wanted: BTreeSet<RoomIx>,
    /// Rooms where it reports people; each of them has people, if only of other edges.
    present: BTreeSet<RoomIx>,
    /// Prefixes that it follows on the current link, without request numbers.
    pub(crate) prefixes: BTreeSet<PrefixRef>,
    /// The presence set that is coming in, until its last part: who it reports by now.
    set: Option<BTreeSet<(RoomIx, String)>>,
    /// Its sessions of which somebody wants to hear the end.
    pub(crate) live: Live,
    /// The users that it has reported on the current link.
    pub(crate) reported: Reported,
    /// Unanswered publishes of the current link, by instance: (number, bytes).
    pub(crate) unanswered: HashMap<String, (u32, u64)>,
}

/// Every edge that holds a lease.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    pub(crate) list: Slab<Edge>,
    /// Incarnations that have attached so far.
    lives: u64,
    by_incarnation: BTreeMap<u64, usize>,
    by_link: HashMap<LinkId, usize>,
    ended: BTreeSet<u64>,
    /// The same, oldest first.
    ended_order: VecDeque<u64>,
}

impl Edges {
    /// The edge that is attached through `link`.
    pub(crate) fn by_link(&self, link: LinkId) -> Option<usize> {
        self.by_link.get(&link).copied()
    }

    /// Publishes of every edge that are not answered.
    pub(crate) fn unanswered(&self) -> usize {
        let counts = self.list.iter().flat_map(|(_, e)| e.unanswered.values());
        counts.map(|(count, _)| *count as usize).sum()
    }

    pub(crate) fn holds_lease(&self, incarnation: u64) -> bool {
        self.by_incarnation.contains_key(&incarnation)
    }

    /// Moves every lease by `ms`: the owner itself was not running.
    pub(crate) fn extend_leases(&mut self, ms: u64) {
        for (_, edge) in &mut self.list {
            edge.lease_until += ms;
        }
    }

    fn remember_ended(&mut self, incarnation: u64) {
        self.ended.insert(incarnation);
        self.ended_order.push_back(incarnation);
        if self.ended_order.len() > ENDED_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }
}

impl Edge {
    /// Nobody is in the room any more: its index may soon be another room's.
    fn forget_room(&mut self, room: RoomIx) {
        self.present.remove(&room);
        if let Some(set) = &mut self.set {
            let named = set.range((room, String::new())..(room + 1, String::new()));
            for gone in named.cloned().collect::<Vec<_>>() {
                set.remove(&gone);
            }
        }
    }
}

impl Shard {
    pub(crate) fn attach(&mut self, link: LinkId, attach: &Attach) {
        let Some(serving) = self.serving else {
            return self.refuse(link, RefusedReason::Recovering, "the owner reads its log");
        };
        if attach.shard_epoch > serving.epoch {
            self.stop_serving();
            let text = "an owner with a newer epoch has served this edge";
            return self.refuse(link, RefusedReason::NotOwner, text);
        }
        let incarnation = attach.edge_incarnation;
        if incarnation == 0 {
            return self.refuse(link, RefusedReason::Violation, "edge incarnation 0");
        }
        if self.edges.ended.contains(&incarnation) {
            return self.refuse(
                link,
                RefusedReason::LeaseEnded,
                "the edge's lease has ended",
            );
        }
        if let Some(other) = self.edges.by_link(link) {
            let same = self.edges.list[other].incarnation == incarnation;
            let text = if same {
                "attached twice"
            } else {
                "two edges on one link"
            };
            return self.refuse(link, RefusedReason::Violation, text);
        }
        let lease_until = self.now_ms + self.config.lease_ms;
        let ix = match self.edges.by_incarnation.get(&incarnation).copied() {
            Some(ix) => {
                if let Some(old) = self.edges.list[ix].link {
                    self.out.push_back(Output::Close { link: old });
                    self.link_closed(old);
                }
                ix
            }
            None if self.edges.list.len() >= EDGES_MAX => {
                return self.refuse(link, RefusedReason::Recovering, "too many edges");
            }
            None => {
                self.edges.lives += 1;
                let ix = self.edges.list.insert(Edge {
                    incarnation,
                    life: self.edges.lives,
                    link: None,
                    lease_until,
                    wanted: BTreeSet::new(),
                    present: BTreeSet::new(),
                    prefixes: BTreeSet::new(),
                    set: None,
                    live: Live::default(),
                    reported: Reported::default(),
                    unanswered: HashMap::new(),
                });
                self.edges.by_incarnation.insert(incarnation, ix);
                ix
            }
        };
        let edge = &mut self.edges.list[ix];
        edge.link = Some(link);
        edge.lease_until = lease_until;
        edge.live.begin();
        self.edges.by_link.insert(link, ix);
        self.send(
            link,
            EdgeFrame::Attached(Attached {
                shard_epoch: serving.epoch,
                owner_incarnation: serving.incarnation,
                lease_ms: self.config.lease_ms as u32,
                credit: self.config.credit,
                credit_bytes: self.config.credit_bytes,
            }),
        );
    }

    /// Tells an edge why it can not go on here, and ends the link.
    pub(crate) fn refuse(&mut self, link: LinkId, reason: RefusedReason, text: &str) {
        self.refuse_to(link, reason, text, "");
    }

    /// Refuses a link and names the node to go to.
    pub(crate) fn refuse_to(
        &mut self,
        link: LinkId,
        reason: RefusedReason,
        text: &str,
        owner: &str,
    ) {
        self.counters.refused += 1;
        self.send(
            link,
            EdgeFrame::Refused(Refused {
                reason: reason.into(),
                owner: owner.to_owned(),
                text: text.to_owned(),
            }),
        );
        self.out.push_back(Output::Close { link });
        self.link_closed(link);
    }

    /// A link is gone. Its edge keeps its lease, its people and its publish numbers; what waits in
    /// the inbox is dropped, because the edge sends it again.
    pub fn link_closed(&mut self, link: LinkId) {
        let Some(ix) = self.edges.by_link.remove(&link) else {
            return;
        };
        self.inbox.purge(link);
        self.removals.retain(|(asked, _)| *asked != link);
        self.users_forgotten(ix);
        let edge = &mut self.edges.list[ix];
        edge.link = None;
        edge.set = None;
        edge.unanswered.clear();
        self.forget_prefixes(ix);
        for room in std::mem::take(&mut self.edges.list[ix].wanted) {
            self.rooms.get_mut(room).edges.retain(|e| *e != ix);
            self.follow_signals(room);
            self.rooms.drop_if_unused(room);
        }
    }

    /// An edge reads too slowly for its deliveries to be queued: it attaches again and refills
    /// from the log.
    pub fn link_lagging(&mut self, link: LinkId) {
        if self.edges.by_link(link).is_some() {
            self.counters.lagging += 1;
            self.refuse(link, RefusedReason::Lagging, "the edge reads too slowly");
        }
    }

    pub(crate) fn renew(&mut self, ix: usize, renew: Renew) {
        let edge = &mut self.edges.list[ix];
        edge.lease_until = self.now_ms + self.config.lease_ms;
        if let Some(link) = edge.link {
            self.send(link, EdgeFrame::Renewed(renew));
        }
    }

    pub(crate) fn expire_leases(&mut self) {
        let now = self.now_ms;
        let ended: Vec<usize> = self
            .edges
            .list
            .iter()
            .filter(|(_, e)| e.lease_until <= now)
            .map(|(ix, _)| ix)
            .collect();
        for ix in ended {
            self.end_edge(ix);
        }
    }

    fn end_edge(&mut self, ix: usize) {
        self.counters.leases_ended += 1;
        let incarnation = self.edges.list[ix].incarnation;
        self.edges.remember_ended(incarnation);
        if let Some(link) = self.edges.list[ix].link {
            self.refuse(
                link,
                RefusedReason::LeaseEnded,
                "the edge's lease has ended",
            );
        }
        for room in std::mem::take(&mut self.edges.list[ix].present) {
            let clients = self
                .rooms
                .get(room)
                .presence
                .as_ref()
                .map(|p| p.clients_of(ix))
                .unwrap_or_default();
            for client in clients {
                self.absent_client(ix, room, &client);
            }
        }
        self.sessions_lost(ix);
        self.edges.by_incarnation.remove(&incarnation);
        self.edges.list.remove(ix);
        self.numbers.end_edge(incarnation);
        self.ending.retain(|(edge, _)| *edge != incarnation);
    }

    pub(crate) fn interest(&mut self, ix: usize, key: RoomRef) {
        let room_ix = self.rooms.ensure(&key);
        self.edges.list[ix].wanted.insert(room_ix);
        let first = self.first_kept(room_ix);
        let room = self.rooms.get_mut(room_ix);
        if let Err(at) = room.edges.binary_search(&ix) {
            room.edges.insert(at, ix);
        }
        let interested = Interested {
            room: key,
            top: room.head,
            first,
            generation: room.generation,
            erasures: room.erasures,
        };
        if let Some(link) = self.edges.list[ix].link {
            self.send(link, EdgeFrame::Interested(interested));
        }
        self.follow_signals(room_ix);
    }

    pub(crate) fn uninterest(&mut self, ix: usize, key: &RoomRef) {
        if let Some(room_ix) = self.rooms.find(key) {
            self.edges.list[ix].wanted.remove(&room_ix);
            self.rooms.get_mut(room_ix).edges.retain(|e| *e != ix);
            self.follow_signals(room_ix);
            self.rooms.drop_if_unused(room_ix);
        }
    }

    pub(crate) fn present(&mut self, ix: usize, presence: Presence) {
        let client = presence.person.client.clone();
        let room_ix = self.insert_person(ix, presence, true);
        if let Some(set) = &mut self.edges.list[ix].set {
            set.insert((room_ix, client));
        }
    }

    fn insert_person(&mut self, ix: usize, presence: Presence, push: bool) -> RoomIx {
        let room_ix = self.rooms.ensure(&presence.room);
        self.edges.list[ix].present.insert(room_ix);
        let room = self.rooms.get_mut(room_ix);
        let people = room.presence.get_or_insert_with(Box::default);
        // Two lives of one edge report the same client while the older lease lasts. What the older
        // one said comes late, and must not take along with its lease who is there.
        let list = &self.edges.list;
        let newer = |by: usize| list.get(by).is_some_and(|edge| edge.life > list[ix].life);
        if people
            .reported_by(&presence.person.client)
            .is_some_and(newer)
        {
            return room_ix;
        }
        let is_new = people.insert(presence.person.clone(), ix);
        if is_new && push {
            self.push_membership(room_ix, presence.person, true);
        }
        room_ix
    }

    pub(crate) fn absent(&mut self, ix: usize, presence: &Presence) {
        if let Some(room_ix) = self.rooms.find(&presence.room) {
            let client = &presence.person.client;
            if let Some(set) = &mut self.edges.list[ix].set {
                set.remove(&(room_ix, client.clone()));
            }
            self.absent_client(ix, room_ix, client);
        }
    }

    fn absent_client(&mut self, ix: usize, room_ix: RoomIx, client: &str) {
        let Some(people) = self.rooms.get_mut(room_ix).presence.as_mut() else {
            return;
        };
        let Some(person) = people.remove(client, ix) else {
            return;
        };
        self.push_membership(room_ix, person, false);
        let room = self.rooms.get_mut(room_ix);
        if room.presence.as_ref().is_some_and(|p| p.is_empty()) {
            room.presence = None;
            for (_, edge) in &mut self.edges.list {
                edge.forget_room(room_ix);
            }
            self.rooms.drop_if_unused(room_ix);
        }
    }

    /// Tells the room's edges that somebody came or left, unless the room is too large for that
    /// or its namespace does not want it.
    fn push_membership(&mut self, room_ix: RoomIx, person: Person, came: bool) {
        let room = self.rooms.get(room_ix);
        let members = room.presence.as_ref().map_or(0, |p| p.len()) + usize::from(!came);
        let Some(rules) = self.rules(&room.key) else {
            return;
        };
        if !(rules.join_leave || rules.force_join_leave) || members > rules.join_leave_max {
            return;
        }
        let presence = Presence {
            room: room.key.clone(),
            person,
        };
        for ix in room.edges.clone() {
            if let Some(link) = self.edges.list[ix].link {
                let presence = presence.clone();
                let frame = if came {
                    EdgeFrame::Join(presence)
                } else {
                    EdgeFrame::Leave(presence)
                };
                self.send(link, frame);
            }
        }
    }

    /// Takes a part of the set of all people of an edge. While this owner has served for less
    /// than a lease, who comes with a set was there before and causes no push; later a set only
    /// follows a broken link, and what changed meanwhile is pushed.
    pub(crate) fn presence_set(&mut self, ix: usize, part: PresenceSet) {
        let settled = self
            .serving
            .is_some_and(|s| self.now_ms >= s.since_ms + self.config.lease_ms);
        let mut named = self.edges.list[ix].set.take().unwrap_or_default();
        for presence in part.entries {
            let client = presence.person.client.clone();
            let room_ix = self.insert_person(ix, presence, settled);
            named.insert((room_ix, client));
        }
        if !part.last {
            self.edges.list[ix].set = Some(named);
            return;
        }
        let rooms: Vec<RoomIx> = self.edges.list[ix].present.iter().copied().collect();
        for room_ix in rooms {
            let clients = self
                .rooms
                .get(room_ix)
                .presence
                .as_ref()
                .map(|p| p.clients_of(ix))
                .unwrap_or_default();
            for client in clients {
                if !named.contains(&(room_ix, client.clone())) {
                    self.absent_client(ix, room_ix, &client);
                }
            }
        }
        // Of what is named only what is still there: a room may have emptied meanwhile.
        let named: BTreeSet<RoomIx> = named.into_iter().map(|(room, _)| room).collect();
        let present = &mut self.edges.list[ix].present;
        present.retain(|room| named.contains(room));
    }

    pub(crate) fn presence_query(&mut self, link: LinkId, query: &PresenceQuery) {
        let people: Option<&RoomPresence> = self
            .rooms
            .find(&query.room)
            .and_then(|ix| self.rooms.get(ix).presence.as_deref());
        let answer = match people {
            Some(people) => people.answer(query.request, query.entries),
            None => PresenceAnswer {
                request: query.request,
                ..PresenceAnswer::default()
            },
        };
        self.send(link, EdgeFrame::PresenceAnswer(answer));
    }

    /// The rules of a room's namespace in the current snapshot.
    pub(crate) fn rules(&self, key: &RoomRef) -> Option<&gb6_core_model::snapshot::Namespace> {
        let instance = self.snapshot.instances.get(key.instance.as_str())?;
        // What an instance's namespaces say is about channels of its clients, which none of these is.
        if key.channel.starts_with('!') {
            return None;
        }
        let name = key.channel.strip_prefix('$').unwrap_or(&key.channel);
        match name.split_once(':') {
            Some((namespace, _)) => instance.namespaces.get(namespace),
            None => instance.defaults.as_ref(),
        }
    }
}
