//! Any frames in any order: what a peer sends is outside bytes. Nothing panics, and who is present
//! is as a naive model says.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::limits;
use gb6_core_wire::mesh::{
    Attach, EdgeFrame, OwnerFrame, Presence, PresenceQuery, PresenceSet, Refused, RefusedReason,
    Renew, RoomRef, SessionEnded, TraceQuery,
};
use gb6_region_shard::{AppendFailure, LinkId};
use proptest::prelude::*;

use crate::world::{World, person, publish, room, rules};

const ROOMS: u32 = 4;
const EDGES: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Frame(usize, Frame),
    Attach(usize),
    DropLink(usize),
    Lag(usize),
    Commit,
    Fail(bool),
    Tick(u64),
}

#[derive(Clone, Debug)]
enum Frame {
    AttachAgain(u64),
    Interest(u32),
    Uninterest(u32),
    Present(u32, u8),
    Absent(u32, u8),
    Set(Vec<(u32, u8)>, bool),
    Query(u32),
    Renew,
    SessionEnded(u64),
    Trace(u32, u64),
    Publish(u32, u64, u64, u64),
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 1..6u64, 1 => Just(0), 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn frame() -> impl Strategy<Value = Frame> {
    let room = || 0..ROOMS;
    let client = || 0..3u8;
    prop_oneof![
        1 => (0..20u64).prop_map(Frame::AttachAgain),
        3 => room().prop_map(Frame::Interest),
        3 => room().prop_map(Frame::Uninterest),
        8 => (room(), client()).prop_map(|(r, c)| Frame::Present(r, c)),
        8 => (room(), client()).prop_map(|(r, c)| Frame::Absent(r, c)),
        12 => (proptest::collection::vec((room(), client()), 0..4), any::<bool>())
            .prop_map(|(people, last)| Frame::Set(people, last)),
        1 => room().prop_map(Frame::Query),
        4 => Just(Frame::Renew),
        2 => number().prop_map(Frame::SessionEnded),
        1 => (room(), number()).prop_map(|(r, n)| Frame::Trace(r, n)),
        4 => (room(), number(), number(), number())
            .prop_map(|(r, session, n, settled)| Frame::Publish(r, session, n, settled)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let edge = || 0..EDGES;
    prop_oneof![
        40 => (edge(), frame()).prop_map(|(edge, frame)| Op::Frame(edge, frame)),
        6 => edge().prop_map(Op::Attach),
        2 => edge().prop_map(Op::DropLink),
        1 => edge().prop_map(Op::Lag),
        3 => Just(Op::Commit),
        1 => any::<bool>().prop_map(Op::Fail),
        3 => (1..1900u64).prop_map(Op::Tick),
    ]
}

/// The last room is of an instance that nobody knows, and its name is none.
fn name(n: u32) -> RoomRef {
    match n {
        3 => RoomRef {
            instance: "nobody".into(),
            channel: String::new(),
        },
        n => room(n),
    }
}

fn presence(room: u32, client: u8) -> Presence {
    Presence {
        room: name(room),
        person: person(&format!("u{}", client % 2), &format!("c{client}")),
    }
}

#[derive(Default)]
struct EdgeModel {
    incarnation: u64,
    link: Option<LinkId>,
    lease_until: u64,
    set: Option<BTreeSet<(u32, u8)>>,
}

struct Model {
    world: World,
    edges: Vec<EdgeModel>,
    /// Who is where, and which edge says so.
    members: BTreeMap<(u32, u8), usize>,
    next_incarnation: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            world: World::new(rules()),
            edges: (0..EDGES).map(|_| EdgeModel::default()).collect(),
            members: BTreeMap::new(),
            next_incarnation: 100,
        }
    }

    fn attach(&mut self, edge: usize) {
        let model = &mut self.edges[edge];
        if model.incarnation == 0 {
            self.next_incarnation += 1;
            model.incarnation = self.next_incarnation;
        }
        let incarnation = model.incarnation;
        let link = self.world.attach(incarnation);
        let model = &mut self.edges[edge];
        model.link = Some(link);
        model.set = None;
        model.lease_until = self.world.now_ms + limits::EDGE_LEASE_MS;
    }

    fn frame(&mut self, edge: usize, frame: Frame) {
        // Without an attachment it is refused, and changes nothing.
        let link = match self.edges[edge].link {
            Some(link) => link,
            None => self.world.link(),
        };
        let attached = self.edges[edge].link.is_some();
        if attached {
            self.expect(edge, &frame);
        }
        let frame = match frame {
            Frame::AttachAgain(edge_incarnation) => OwnerFrame::Attach(Attach {
                // Of nobody who is attached.
                edge_incarnation,
                revision: 1,
                shard_epoch: 0,
            }),
            Frame::Interest(r) => OwnerFrame::Interest(name(r)),
            Frame::Uninterest(r) => OwnerFrame::Uninterest(name(r)),
            Frame::Present(r, c) => OwnerFrame::Present(presence(r, c)),
            Frame::Absent(r, c) => OwnerFrame::Absent(presence(r, c)),
            Frame::Set(people, last) => OwnerFrame::PresenceSet(PresenceSet {
                entries: people.iter().map(|(r, c)| presence(*r, *c)).collect(),
                last,
            }),
            Frame::Query(r) => OwnerFrame::PresenceQuery(PresenceQuery {
                request: 1,
                room: name(r),
                entries: true,
            }),
            Frame::Renew => OwnerFrame::Renew(Renew { sequence: 1 }),
            Frame::SessionEnded(session) => OwnerFrame::SessionEnded(SessionEnded { session }),
            Frame::Trace(r, offset) => OwnerFrame::Trace(TraceQuery {
                request: 1,
                room: name(r),
                offset,
            }),
            Frame::Publish(r, session, number, settled_below) => {
                let mut publish = publish(name(r), 1, session, number);
                publish.settled_below = settled_below;
                OwnerFrame::Publish(publish)
            }
        };
        self.world.frame(link, frame);
    }

    /// What an attached edge's frame means for who is present.
    fn expect(&mut self, edge: usize, frame: &Frame) {
        let model = &mut self.edges[edge];
        match frame {
            Frame::Renew => model.lease_until = self.world.now_ms + limits::EDGE_LEASE_MS,
            Frame::Present(r, c) => {
                if let Some(set) = &mut model.set {
                    set.insert((*r, *c));
                }
                self.report(edge, (*r, *c));
            }
            Frame::Absent(r, c) => {
                if self.members.get(&(*r, *c)) == Some(&edge) {
                    self.members.remove(&(*r, *c));
                }
                if let Some(set) = &mut model.set {
                    set.remove(&(*r, *c));
                }
            }
            Frame::Set(people, last) => {
                let set = model.set.get_or_insert_default();
                set.extend(people);
                for person in people {
                    self.report(edge, *person);
                }
                if *last {
                    let set = self.edges[edge].set.take().unwrap_or_default();
                    self.members
                        .retain(|person, by| *by != edge || set.contains(person));
                }
            }
            _ => {}
        }
    }

    /// An edge says that somebody is there: whoever came later knows better.
    fn report(&mut self, edge: usize, person: (u32, u8)) {
        let since = |edge: usize| self.edges[edge].incarnation;
        let by = self.members.get(&person).copied();
        if by.is_none_or(|by| since(by) <= since(edge)) {
            self.members.insert(person, edge);
        }
    }

    /// Attachments that the shard has ended, and leases that ran out.
    fn settle(&mut self) {
        let ended: Vec<LinkId> = std::mem::take(&mut self.world.closed);
        for edge in 0..EDGES {
            let model = &mut self.edges[edge];
            if model.link.is_some_and(|link| ended.contains(&link)) {
                model.link = None;
                model.set = None;
            }
            if model.incarnation != 0 && model.lease_until <= self.world.now_ms {
                model.incarnation = 0;
                self.members.retain(|_, by| *by != edge);
            }
        }
        for (link, frame) in std::mem::take(&mut self.world.sent) {
            if let EdgeFrame::Refused(Refused { reason, .. }) = frame
                && reason == RefusedReason::LeaseEnded as i32
            {
                let edge = self.edges.iter().find(|e| e.link == Some(link));
                assert!(edge.is_none(), "a lease ended early");
            }
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Frame(edge, frame) => self.frame(edge, frame),
            Op::Attach(edge) => self.attach(edge),
            Op::DropLink(edge) => {
                if let Some(link) = self.edges[edge].link.take() {
                    self.edges[edge].set = None;
                    self.world.shard.link_closed(link);
                }
            }
            Op::Lag(edge) => {
                if let Some(link) = self.edges[edge].link {
                    self.world.shard.link_lagging(link);
                    self.world.drain();
                }
            }
            Op::Commit => {
                self.world.commit();
            }
            Op::Fail(full) => {
                let (now, unix) = (self.world.now_ms, self.world.unix());
                if self.world.shard.next_batch(now, unix).is_some() {
                    let failure = match full {
                        true => AppendFailure::StorageFull,
                        false => AppendFailure::Refused,
                    };
                    self.world.shard.failed(now, failure);
                }
                self.world.drain();
            }
            Op::Tick(ms) => self.world.tick(ms),
        }
        self.settle();
    }

    fn check(&self) {
        for n in 0..ROOMS {
            let wanted = self.members.keys().filter(|(r, _)| *r == n).count();
            let found = self.world.shard.present_clients(&name(n));
            assert_eq!(found, wanted, "room {n}: {:?}", self.members);
        }
    }
}

fn run(ops: Vec<Op>) {
    let mut model = Model::new();
    for edge in 0..EDGES {
        model.attach(edge);
    }
    for op in ops {
        model.apply(op);
        model.check();
    }
    // Every lease ends at last.
    for _ in 0..8 {
        model.world.tick(1_900);
    }
    model.settle();
    model.check();
    assert!(model.members.is_empty());
    assert_eq!(model.world.shard.gauges().edges, 0);
}

/// The room is gone when the set ends that named somebody in it.
#[test]
fn a_room_that_empties_while_a_set_comes_in_is_forgotten() {
    let set = |people: &[(u32, u8)], last| Op::Frame(0, Frame::Set(people.to_vec(), last));
    let absent = |edge, client| Op::Frame(edge, Frame::Absent(0, client));
    run(vec![
        set(&[(0, 0)], false),
        absent(0, 0),
        set(&[], true),
        set(&[(1, 1)], true),
    ]);
    // Somebody else's report of the same client takes it along.
    run(vec![
        set(&[(0, 0)], false),
        Op::Frame(1, Frame::Present(0, 0)),
        absent(1, 0),
        set(&[], true),
        set(&[(1, 1)], true),
    ]);
    // The last part itself empties it.
    run(vec![
        Op::Frame(0, Frame::Present(0, 1)),
        set(&[(0, 0)], false),
        absent(0, 0),
        set(&[(1, 1)], true),
        set(&[], true),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn any_frames_in_any_order_harm_nobody(ops in proptest::collection::vec(op(), 1..120)) {
        run(ops);
    }
}
