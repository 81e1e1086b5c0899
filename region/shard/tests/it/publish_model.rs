//! Publishing against a naive model: edges that lose links and resend, an owner that crashes and
//! fails, checkpoints at any moment.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_wire::mesh::{EdgeFrame, OwnerFrame, Publish, RefusedReason, RoomRef};
use gb6_core_wire::record::Kind;
use gb6_region_shard::{AppendFailure, LinkId};
use proptest::prelude::*;

use crate::world::{World, publish, room, rules};

#[derive(Clone, Debug)]
enum Op {
    Publish {
        edge: usize,
        session: u64,
        room: u32,
        id: Option<u8>,
    },
    DropLink(usize),
    Commit,
    StorageFull,
    /// The owner dies with a batch in flight, which reached the disk or not.
    Crash {
        durable: bool,
    },
    Checkpoint,
    Tick(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3usize, 1..3u64, 0..3u32, proptest::option::of(0..4u8))
            .prop_map(|(edge, session, room, id)| Op::Publish { edge, session, room, id }),
        1 => (0..3usize).prop_map(Op::DropLink),
        4 => Just(Op::Commit),
        1 => Just(Op::StorageFull),
        1 => any::<bool>().prop_map(|durable| Op::Crash { durable }),
        1 => Just(Op::Checkpoint),
        1 => (1..900u64).prop_map(Op::Tick),
    ]
}

/// An edge that does what the protocol asks.
#[derive(Default)]
struct EdgeModel {
    incarnation: u64,
    link: Option<LinkId>,
    next_request: u64,
    next_number: BTreeMap<(u64, u32), u64>,
    /// In order: the publish, and its room.
    unanswered: Vec<(Publish, u32)>,
    /// Position per room.
    seen: BTreeMap<String, u64>,
}

struct Model {
    world: World,
    edges: Vec<EdgeModel>,
    /// (edge, session, room, number) → (offset, duplicate), of successful answers.
    answers: BTreeMap<(u64, u64, u32, u64), (u64, bool)>,
    /// Numbers that were refused: no record may ever carry them.
    refused: BTreeSet<(u64, u64, u32, u64)>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self {
            world: World::new(rules()),
            edges: Vec::new(),
            answers: BTreeMap::new(),
            refused: BTreeSet::new(),
        };
        for n in 0..3 {
            model.edges.push(EdgeModel {
                incarnation: 10 + n,
                ..EdgeModel::default()
            });
            model.attach(n as usize);
        }
        model
    }

    fn attach(&mut self, edge: usize) {
        let link = self.world.attach(self.edges[edge].incarnation);
        self.edges[edge].link = Some(link);
        for n in 0..3 {
            self.world.frame(link, OwnerFrame::Interest(room(n)));
        }
        let again = self.edges[edge].unanswered.clone();
        self.edges[edge].unanswered.clear();
        self.receive();
        for (publish, room) in again {
            self.send(edge, publish, room);
        }
    }

    fn send(&mut self, edge: usize, mut publish: Publish, room: u32) {
        let e = &mut self.edges[edge];
        e.next_request += 1;
        publish.request = e.next_request;
        let first = e
            .unanswered
            .iter()
            .find(|(p, r)| *r == room && p.session == publish.session);
        publish.settled_below = first.map_or(publish.number, |(p, _)| p.number);
        e.unanswered.push((publish.clone(), room));
        if let Some(link) = e.link {
            self.world.frame(link, OwnerFrame::Publish(publish));
        }
        self.receive();
    }

    fn receive(&mut self) {
        for edge in &mut self.edges {
            let Some(link) = edge.link else { continue };
            for frame in self.world.take_sent(link) {
                match frame {
                    EdgeFrame::Published(answer) => {
                        let at = edge
                            .unanswered
                            .iter()
                            .position(|(p, _)| p.request == answer.request)
                            .expect("an answer to something unanswered");
                        let (publish, room) = edge.unanswered.remove(at);
                        let name = (edge.incarnation, publish.session, room, publish.number);
                        if answer.error == 0 {
                            self.answers.insert(name, (answer.offset, answer.duplicate));
                        } else {
                            assert_eq!(answer.error, 1001, "only a full disk refuses here");
                            self.refused.insert(name);
                        }
                    }
                    EdgeFrame::Interested(i) => {
                        // The rest is filled from the log: the model skips to the top.
                        edge.seen.insert(i.room.channel, i.top);
                    }
                    EdgeFrame::Deliver(d) => {
                        let seen = edge.seen.get_mut(&d.room.channel).expect("interested");
                        assert_eq!(d.publication.offset, *seen + 1, "consecutive deliveries");
                        *seen += 1;
                    }
                    EdgeFrame::Attached(_) | EdgeFrame::Renewed(_) => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
        self.world.sent.clear();
        assert!(self.world.closed.is_empty(), "nobody broke a rule");
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish {
                edge,
                session,
                room: n,
                id,
            } => {
                let e = &mut self.edges[edge];
                let number = e.next_number.entry((session, n)).or_default();
                *number += 1;
                let mut p = publish(room(n), 0, session, *number);
                if let Some(id) = id {
                    p.id = vec![id + 1].into();
                }
                self.send(edge, p, n);
            }
            Op::DropLink(edge) => {
                if let Some(link) = self.edges[edge].link.take() {
                    self.world.shard.link_closed(link);
                }
                self.attach(edge);
            }
            Op::Commit => {
                self.world.commit();
                self.receive();
            }
            Op::StorageFull => {
                if self
                    .world
                    .shard
                    .next_batch(self.world.now_ms, self.world.unix())
                    .is_some()
                {
                    let now = self.world.now_ms;
                    self.world.shard.failed(now, AppendFailure::StorageFull);
                }
                self.world.drain();
                self.receive();
            }
            Op::Crash { durable } => {
                let (now, unix) = (self.world.now_ms, self.world.unix());
                if let Some(batch) = self.world.shard.next_batch(now, unix)
                    && durable
                {
                    self.world.log.extend(batch.records.iter().cloned());
                }
                self.world.sent.clear();
                self.world.start();
                for edge in 0..self.edges.len() {
                    self.edges[edge].link = None;
                    self.attach(edge);
                }
            }
            Op::Checkpoint => self.world.checkpoint = Some(self.world.shard.checkpoint()),
            Op::Tick(ms) => {
                self.world.tick(ms);
                for edge in 0..self.edges.len() {
                    if let Some(link) = self.edges[edge].link {
                        let renew = gb6_core_wire::mesh::Renew { sequence: 1 };
                        self.world.frame(link, OwnerFrame::Renew(renew));
                    }
                }
                self.receive();
            }
        }
    }

    fn finish(mut self) {
        while self.world.commit() > 0 {
            self.receive();
        }
        self.receive();
        for edge in &self.edges {
            assert!(edge.unanswered.is_empty(), "every publish has its answer");
        }
        let mut heads: BTreeMap<String, u64> = BTreeMap::new();
        let mut by_number: BTreeMap<(u64, u64, String), u64> = BTreeMap::new();
        let mut by_id: BTreeMap<(String, Vec<u8>), u64> = BTreeMap::new();
        let mut offsets: BTreeMap<(u64, u64, String, u64), u64> = BTreeMap::new();
        for record in self.world.log.iter().filter(|r| r.kind() == Kind::Message) {
            let head = heads.entry(record.channel.clone()).or_default();
            assert_eq!(record.offset, *head + 1, "consecutive offsets");
            *head += 1;
            let o = record.origin.as_ref().expect("an origin");
            let stream = (o.edge_incarnation, o.session, record.channel.clone());
            let last = by_number.entry(stream.clone()).or_default();
            assert!(o.number > *last, "neither doubled nor reordered");
            *last = o.number;
            offsets.insert((stream.0, stream.1, stream.2, o.number), record.offset);
            if !record.client_id.is_empty() {
                let id = (record.channel.clone(), record.client_id.to_vec());
                let before = by_id.insert(id, record.offset);
                assert_eq!(before, None, "an id is written once");
            }
        }
        for ((edge, session, room_n, number), (offset, duplicate)) in &self.answers {
            let RoomRef { channel, .. } = room(*room_n);
            let at = offsets.get(&(*edge, *session, channel, *number));
            if *duplicate {
                assert_eq!(at, None, "a duplicate writes nothing");
            } else {
                assert_eq!(at, Some(offset), "an acknowledged publish is at its offset");
            }
        }
        for (edge, session, room_n, number) in &self.refused {
            let RoomRef { channel, .. } = room(*room_n);
            assert!(!offsets.contains_key(&(*edge, *session, channel, *number)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_lost_doubled_or_reordered(ops in proptest::collection::vec(op(), 1..120)) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
        }
        model.finish();
    }
}

#[test]
fn a_duplicate_in_the_open_batch_waits_for_its_commit() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    for (request, session) in [(1, 1), (2, 2)] {
        let mut p = publish(room(1), request, session, 1);
        p.id = "same".into();
        world.frame(link, OwnerFrame::Publish(p));
    }
    assert!(
        !world
            .take_sent(link)
            .iter()
            .any(|f| matches!(f, EdgeFrame::Published(_))),
        "nothing is answered before the commit"
    );
    assert_eq!(world.commit(), 1, "one record for both");
    let answers: Vec<(u64, u64, bool)> = world
        .take_sent(link)
        .into_iter()
        .filter_map(|f| match f {
            EdgeFrame::Published(p) => Some((p.request, p.offset, p.duplicate)),
            _ => None,
        })
        .collect();
    assert_eq!(answers, [(1, 1, false), (2, 1, true)]);
}

#[test]
fn an_id_survives_a_restart_and_an_outage() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let with_id = |request, session| {
        let mut p = publish(room(1), request, session, 1);
        p.id = "once".into();
        OwnerFrame::Publish(p)
    };
    world.frame(link, with_id(1, 1));
    world.commit();
    world.now_ms += 24 * 3600 * 1000;
    world.start();
    let link = world.attach(11);
    world.frame(link, with_id(1, 1));
    assert_eq!(world.commit(), 0, "the outage did not shorten the window");
    for _ in 0..605 {
        world.tick(1_000);
    }
    let link = world.attach(12);
    world.frame(link, with_id(1, 1));
    assert_eq!(world.commit(), 1, "ten served minutes later the id is free");
}

#[test]
fn publishes_beyond_the_credit_end_the_link() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    for n in 1..=1025 {
        world.frame(link, OwnerFrame::Publish(publish(room(1), n, 1, n)));
    }
    assert_eq!(world.closed, [link]);
    assert_eq!(world.commit(), 0, "what it sent is gone with the link");
}

fn answers(world: &mut World, link: LinkId) -> Vec<(u64, u64, u32)> {
    world
        .take_sent(link)
        .into_iter()
        .filter_map(|f| match f {
            EdgeFrame::Published(p) => Some((p.request, p.offset, p.error)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_batch_never_exceeds_what_the_log_takes() {
    use prost::Message;
    let mut world = World::new(rules());
    let link = world.attach(10);
    for n in 1..=40 {
        let mut p = publish(room(1), n, n, 1);
        p.data = vec![b'x'; 64 * 1024].into();
        p.from.conn_info = vec![b'i'; 12 * 1024].into();
        world.frame(link, OwnerFrame::Publish(p));
    }
    let mut written = 0;
    while let Some(batch) = world.shard.next_batch(world.now_ms, world.unix()) {
        let bytes: usize = batch.records.iter().map(|r| r.encoded_len() + 40).sum();
        assert!(bytes < 1024 * 1024, "{bytes} bytes in a batch");
        written += batch.records.len();
        world.log.extend(batch.records.iter().cloned());
        let now = world.now_ms;
        world
            .shard
            .committed(now, gb6_region_shard::SyncStats::default());
    }
    assert_eq!(written, 40);
}

#[test]
fn the_end_of_a_session_waits_for_what_came_before_it() {
    use gb6_core_wire::mesh::SessionEnded;
    let mut world = World::new(rules());
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 7, 1)));
    world.commit();
    // The answer is lost with the link; the resend waits when the session ends.
    world.shard.link_closed(link);
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 7, 1)));
    world.frame(link, OwnerFrame::SessionEnded(SessionEnded { session: 7 }));
    assert_eq!(world.commit(), 0, "the resend is not written again");
    assert_eq!(answers(&mut world, link), [(1, 1, 0)]);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 2, 8, 1)));
    world.commit();
    assert_eq!(
        world.shard.gauges().numbers,
        1,
        "the ended session is forgotten"
    );
}

/// Each end looks at everything that waits: many that come together are looked at once.
#[test]
fn sessions_that_end_together_are_forgotten_with_the_next_tick() {
    use gb6_core_wire::mesh::SessionEnded;
    let mut world = World::new(rules());
    let link = world.attach(10);
    for session in 1..=200 {
        let publish = publish(room(1), session, session, 1);
        world.frame(link, OwnerFrame::Publish(publish));
    }
    while world.commit() > 0 {}
    world.frame(link, OwnerFrame::Publish(publish(room(1), 201, 1, 2)));
    for session in 1..=200 {
        let ended = SessionEnded { session };
        world.frame(link, OwnerFrame::SessionEnded(ended));
    }
    let numbers = |world: &World| world.shard.gauges().numbers;
    assert_eq!(numbers(&world), 200, "not one by one");
    world.tick(1);
    assert_eq!(numbers(&world), 1, "one still waits");
    world.commit();
    assert_eq!(numbers(&world), 0);
}

#[test]
fn what_is_written_is_acknowledged_even_after_a_seal() {
    use gb6_region_shard::Admin;
    let mut world = World::new(rules());
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 7, 1)));
    world.commit();
    let seal = Admin::Seal {
        instance: "demo".into(),
        epoch: 2,
        slots: Vec::new(),
    };
    world.shard.admin(1, seal);
    world.commit();
    world.shard.link_closed(link);
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 7, 1)));
    world.frame(link, OwnerFrame::Publish(publish(room(1), 2, 7, 2)));
    world.commit();
    assert_eq!(answers(&mut world, link), [(1, 1, 0), (2, 0, 1002)]);
}

#[test]
fn a_room_that_the_snapshot_places_elsewhere_is_not_written() {
    let mut world = World::new(rules());
    let mut moved = (*world.snapshot).clone();
    moved.revision += 1;
    if let Some(eu) = moved.regions.get_mut("eu") {
        eu.shards = 2;
        eu.slots = [(1, 1), (2, 1)]
            .map(|(s, n)| (s, gb6_core_model::ShardId(n)))
            .into();
        eu.owners.push(gb6_core_model::NodeId::from("r2"));
    }
    world.shard.set_snapshot(std::sync::Arc::new(moved));
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 7, 1)));
    assert_eq!(world.commit(), 0);
    assert_eq!(answers(&mut world, link), [(1, 0, 1002)]);
}

#[test]
fn an_id_survives_a_pause_of_its_owner() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let with_id = |request, session| {
        let mut p = publish(room(1), request, session, 1);
        p.id = "once".into();
        OwnerFrame::Publish(p)
    };
    world.frame(link, with_id(1, 1));
    world.commit();
    world.now_ms += 24 * 3600 * 1000;
    world.frame(link, with_id(2, 2));
    assert_eq!(world.commit(), 0, "nobody served it meanwhile");
}

#[test]
fn a_number_that_was_passed_over_is_never_written() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    for (request, number) in [(1, 1), (2, 3), (3, 2)] {
        world.frame(
            link,
            OwnerFrame::Publish(publish(room(1), request, 7, number)),
        );
        world.commit();
    }
    assert_eq!(
        answers(&mut world, link),
        [(1, 1, 0), (2, 2, 0), (3, 0, 1003)]
    );
}

#[test]
fn an_owner_that_was_replaced_while_nothing_was_written_learns_it_from_an_edge() {
    let mut world = World::new(rules());
    let old = world.attach(7);
    let same = world.attach_from(8, world.epoch);
    for link in [old, same] {
        let sent = world.take_sent(link);
        assert!(matches!(sent[..], [EdgeFrame::Attached(_)]), "{sent:?}");
    }
    let newer = world.attach_from(9, world.epoch + 1);
    for link in [old, same, newer] {
        let sent = world.take_sent(link);
        let [EdgeFrame::Refused(refused)] = &sent[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(refused.reason(), RefusedReason::NotOwner);
    }
    assert!(!world.shard.is_serving(), "it reads its log again");
}
