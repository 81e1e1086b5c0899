//! Ends of sessions: each is in the log once, whatever breaks; and who is lost with its edge is told
//! of by the owner.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, RefusedReason, Renew, SessionEnd, SessionHere, SessionsReport,
};
use gb6_core_wire::record::{Kind, Record, SessionBody, SessionEvent};
use gb6_region_shard::{Admin, AppendFailure, LinkId, Shard, ShardConfig};
use proptest::prelude::*;

use crate::world::{World, rules};

const PROCESS: u64 = 77;

fn here(session: u64) -> SessionHere {
    SessionHere {
        session,
        instance: "demo".into(),
        user: "alice".into(),
        client: format!("c{session}"),
    }
}

fn end(number: u64, session: u64) -> SessionEnd {
    SessionEnd {
        number,
        of: here(session),
        instance_epoch: 1,
        event: SessionEvent::Disconnect.into(),
        code: 3001,
        reason: "shutdown".into(),
        ..SessionEnd::default()
    }
}

fn unsubscribed(number: u64, session: u64) -> SessionEnd {
    SessionEnd {
        event: SessionEvent::Unsubscribe.into(),
        channel: "room:1".into(),
        code: 2000,
        ..end(number, session)
    }
}

fn report(world: &mut World, link: LinkId, here: &[u64], complete: bool, ended: &[SessionEnd]) {
    let report = SessionsReport {
        process: PROCESS,
        here: here.iter().map(|n| self::here(*n)).collect(),
        complete,
        ended: ended.to_vec(),
        elsewhere: Vec::new(),
    };
    world.frame(link, OwnerFrame::Sessions(report));
}

/// Numbers that were answered on a link, and those that have moved.
fn answered(world: &mut World, link: LinkId) -> (Vec<u64>, Vec<u64>) {
    let (mut numbers, mut moved) = (Vec::new(), Vec::new());
    for frame in world.take_sent(link) {
        if let EdgeFrame::SessionsWritten(written) = frame {
            numbers.extend(written.numbers);
            moved.extend(written.moved);
        }
    }
    (numbers, moved)
}

/// The ends in the log: event id, code and reason.
fn ends(world: &World) -> Vec<(String, u32, String)> {
    let records = world.log.iter().filter(|r| r.kind() == Kind::Session);
    let ends = records.map(|record: &Record| {
        assert_eq!((record.offset, record.channel.as_str()), (0, "#alice"));
        let body = SessionBody::parse(&record.body).expect("a body");
        let id = body.event_id(record).expect("an id");
        (id, body.code, body.reason)
    });
    ends.collect()
}

#[test]
fn an_end_is_answered_when_it_is_durable_and_written_once() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    report(&mut world, link, &[1, 2], true, &[]);
    let both = [unsubscribed(1, 1), end(2, 1)];
    report(&mut world, link, &[], false, &both);
    assert!(world.shard.wants_batch());
    assert!(answered(&mut world, link).0.is_empty());
    assert_eq!(world.commit(), 2);
    assert_eq!(answered(&mut world, link).0, [1, 2]);
    // Said again behind a break: it is answered again.
    world.shard.link_closed(link);
    let link = world.attach(10);
    report(&mut world, link, &[2], true, &both);
    assert_eq!(answered(&mut world, link).0, [1, 2]);
    assert_eq!(world.commit(), 0);
    let written = ends(&world);
    let id = format!("{PROCESS:016x}-1");
    assert_eq!(written[0].0, format!("{id}-u1"));
    assert_eq!(written[1], (format!("{id}-d"), 3001, "shutdown".into()));
    let gauges = world.shard.gauges();
    assert_eq!(
        (gauges.rooms, gauges.session_ends, gauges.sessions),
        (0, 0, 1)
    );
}

#[test]
fn nobody_sees_an_end_in_the_channel() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let own = gb6_core_wire::mesh::RoomRef {
        instance: "demo".into(),
        channel: "#alice".into(),
    };
    world.frame(link, OwnerFrame::Interest(own.clone()));
    report(&mut world, link, &[1], true, &[end(1, 1)]);
    world.commit();
    let sent = world.take_sent(link);
    assert!(!sent.iter().any(|f| matches!(f, EdgeFrame::Deliver(_))));
    assert_eq!(world.shard.top_offset(&own), 0);
    world.start();
    assert_eq!(world.shard.top_offset(&own), 0);
    assert_eq!(
        world.shard.gauges().rooms,
        0,
        "a log of ends makes no rooms"
    );
}

/// The edge's life goes by, renewed by nobody.
fn wait(world: &mut World, ms: u64) {
    for _ in 0..ms / 1_000 {
        world.tick(1_000);
        world.commit();
    }
}

#[test]
fn sessions_of_an_edge_that_is_lost_are_told_of_by_the_owner() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    report(&mut world, link, &[1, 2, 3], true, &[]);
    report(&mut world, link, &[], false, &[end(1, 2)]);
    world.shard.link_closed(link);
    wait(&mut world, 9_000);
    assert_eq!(ends(&world).len(), 1, "its lease lasts");
    wait(&mut world, 2_000);
    let id = |session: u64, code, reason: &str| {
        let id = format!("{PROCESS:016x}-{session}-d");
        (id, code, reason.to_owned())
    };
    let lost = [
        id(2, 3001, "shutdown"),
        id(1, 0, "edge lost"),
        id(3, 0, "edge lost"),
    ];
    assert_eq!(ends(&world), lost);
    assert_eq!(world.shard.gauges().sessions, 0);
}

#[test]
fn who_comes_back_in_time_or_as_another_has_lost_nobody() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    report(&mut world, link, &[1, 2], true, &[]);
    world.shard.link_closed(link);
    wait(&mut world, 8_000);
    let link = world.attach(10);
    report(&mut world, link, &[1, 2], true, &[]);
    wait(&mut world, 4_000);
    assert!(ends(&world).is_empty());
    // By its own clock the lease has ended earlier: it attaches as another incarnation.
    world.shard.link_closed(link);
    let link = world.attach(11);
    report(&mut world, link, &[2], false, &[]);
    wait(&mut world, 7_000);
    world.frame(link, OwnerFrame::Renew(Renew { sequence: 1 }));
    wait(&mut world, 4_000);
    assert!(ends(&world).is_empty(), "{:?}", ends(&world));
    // It has still to say whom it has: session 1 might be among them.
    assert_eq!(world.shard.gauges().sessions, 2);
    world.frame(link, OwnerFrame::Renew(Renew { sequence: 2 }));
    report(&mut world, link, &[], true, &[]);
    assert_eq!(world.shard.gauges().sessions, 1);
    wait(&mut world, 11_000);
    let ids: Vec<String> = ends(&world).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, [format!("{PROCESS:016x}-2-d")]);
}

#[test]
fn a_session_that_is_another_shards_is_nobodys_loss_here() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    // One of them while not all are named yet.
    report(&mut world, link, &[1, 2], false, &[]);
    for (session, complete) in [(1, false), (3, true)] {
        let report = SessionsReport {
            process: PROCESS,
            here: vec![here(3)],
            complete,
            elsewhere: vec![session],
            ..SessionsReport::default()
        };
        world.frame(link, OwnerFrame::Sessions(report));
    }
    assert_eq!(world.shard.gauges().sessions, 1);
    world.shard.link_closed(link);
    wait(&mut world, 11_000);
    let ids: Vec<String> = ends(&world).into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, [format!("{PROCESS:016x}-2-d")]);
}

#[test]
fn an_instance_with_many_sessions_leaves_a_part_to_others() {
    let mut world = World::new(rules());
    let config = ShardConfig {
        sessions_max: 8,
        ..world.shard.config().clone()
    };
    world.shard = Shard::new(config, world.snapshot.clone());
    world.shard.serve(world.now_ms, 1, 101, 1);
    let link = world.attach(10);
    let dropped = |world: &World| world.shard.counters().session_ends_dropped;
    let many: Vec<u64> = (1..=20).collect();
    report(&mut world, link, &many, false, &[]);
    let sessions = |world: &World| world.shard.gauges().sessions;
    assert_eq!((sessions(&world), dropped(&world)), (6, 14));
    // Who is known is not one more.
    report(&mut world, link, &many[..6], true, &[]);
    assert_eq!((sessions(&world), dropped(&world)), (6, 14));
    let others = (101..=105).map(|session| SessionHere {
        instance: "other".into(),
        ..here(session)
    });
    let others = SessionsReport {
        process: PROCESS,
        here: others.collect(),
        ..SessionsReport::default()
    };
    world.frame(link, OwnerFrame::Sessions(others));
    assert_eq!((sessions(&world), dropped(&world)), (8, 17));
    // What has ended gives its place back.
    report(
        &mut world,
        link,
        &[],
        false,
        &[end(1, 1), end(2, 2), end(3, 3)],
    );
    report(&mut world, link, &[21, 22], false, &[]);
    assert_eq!((sessions(&world), dropped(&world)), (6, 18));
    world.shard.link_closed(link);
    wait(&mut world, 11_000);
    assert_eq!(sessions(&world), 0);
}

#[test]
fn an_instance_that_has_moved_is_told_of_elsewhere() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let seal = Admin::Seal {
        instance: "demo".into(),
        epoch: 2,
        slots: Vec::new(),
    };
    world.shard.admin(1, seal);
    world.commit();
    report(&mut world, link, &[1], true, &[end(1, 1)]);
    world.commit();
    assert_eq!(answered(&mut world, link), (vec![], vec![1]));
    assert!(ends(&world).is_empty());
    let mut other = end(2, 2);
    other.of.instance = "other".into();
    report(&mut world, link, &[], false, &[other]);
    assert_eq!(world.commit(), 1, "another instance's goes on");
}

#[test]
fn reports_out_of_bounds_end_the_link() {
    let long = SessionEnd {
        reason: "x".repeat(1_025),
        ..end(1, 1)
    };
    let nothing = SessionEnd {
        event: 0,
        ..end(1, 1)
    };
    let many: Vec<SessionEnd> = (1..=1_025).map(|n| end(n, n)).collect();
    for ended in [vec![end(0, 1)], vec![long], vec![nothing], many] {
        let mut world = World::new(rules());
        let link = world.attach(10);
        report(&mut world, link, &[], true, &ended);
        let refused = world
            .take_sent(link)
            .into_iter()
            .any(|f| matches!(f, EdgeFrame::Refused(r) if r.reason() == RefusedReason::Violation));
        assert!(refused);
    }
}

#[test]
fn a_full_disk_loses_nothing_and_is_not_asked_all_the_time() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    report(
        &mut world,
        link,
        &[1],
        true,
        &[end(1, 1), unsubscribed(2, 2)],
    );
    let unix = world.unix();
    let batch = world.shard.next_batch(world.now_ms, unix);
    assert_eq!(batch.map(|b| b.records.len()), Some(2));
    world.shard.failed(world.now_ms, AppendFailure::StorageFull);
    assert!(!world.shard.wants_batch());
    world.tick(1_000);
    assert!(world.shard.wants_batch());
    assert_eq!(world.commit(), 2);
    assert_eq!(answered(&mut world, link).0, [1, 2]);
}

#[derive(Clone, Debug)]
enum Op {
    End,
    Unsubscribe,
    Attach,
    Drop,
    Send(usize),
    Commit,
    Full,
    Restart(bool),
    Tick(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::End),
        3 => Just(Op::Unsubscribe),
        3 => Just(Op::Attach),
        1 => Just(Op::Drop),
        6 => (1..4usize).prop_map(Op::Send),
        4 => Just(Op::Commit),
        1 => Just(Op::Full),
        1 => any::<bool>().prop_map(Op::Restart),
        2 => (1..1_900u64).prop_map(Op::Tick),
    ]
}

/// An edge that says again what was not answered, in order.
struct Edge {
    link: Option<LinkId>,
    next: u64,
    unanswered: BTreeMap<u64, SessionEnd>,
    sent: BTreeSet<u64>,
}

impl Edge {
    fn take(&mut self, world: &mut World) {
        if let Some(link) = self.link {
            let (numbers, moved) = answered(world, link);
            assert!(moved.is_empty());
            for number in numbers {
                self.unanswered.remove(&number);
                let name = |e: &(String, u32, String)| e.0.clone();
                let written: BTreeSet<String> = ends(world).iter().map(name).collect();
                let of = |kind| format!("{PROCESS:016x}-{number}-{kind}");
                let id = [of("d".to_owned()), of(format!("u{number}"))];
                assert!(id.iter().any(|id| written.contains(id)), "{number}");
            }
        }
    }

    fn send(&mut self, world: &mut World, count: usize) {
        let Some(link) = self.link else { return };
        let unsent = self.unanswered.iter();
        let unsent = unsent.filter(|(number, _)| !self.sent.contains(number));
        let ended: Vec<SessionEnd> = unsent.take(count).map(|(_, end)| end.clone()).collect();
        self.sent.extend(ended.iter().map(|end| end.number));
        report(world, link, &[], false, &ended);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn every_end_is_in_the_log_once(ops in proptest::collection::vec(op(), 1..80)) {
        let mut world = World::new(rules());
        let mut edge = Edge {
            link: None,
            next: 0,
            unanswered: BTreeMap::new(),
            sent: BTreeSet::new(),
        };
        let last = [Op::Attach, Op::Send(1_000), Op::Tick(1_500), Op::Commit];
        for op in ops.into_iter().chain(last) {
            match op {
                Op::End | Op::Unsubscribe => {
                    edge.next += 1;
                    // Its session has the same number.
                    let end = match op {
                        Op::End => end(edge.next, edge.next),
                        _ => unsubscribed(edge.next, edge.next),
                    };
                    edge.unanswered.insert(edge.next, end);
                }
                Op::Attach | Op::Drop => {
                    if let Some(link) = edge.link.take() {
                        world.shard.link_closed(link);
                    }
                    edge.sent.clear();
                    if matches!(op, Op::Attach) {
                        edge.link = Some(world.attach(10));
                    }
                }
                Op::Send(count) => edge.send(&mut world, count),
                Op::Commit => {
                    world.commit();
                }
                Op::Full => {
                    let unix = world.unix();
                    if world.shard.next_batch(world.now_ms, unix).is_some() {
                        world.shard.failed(world.now_ms, AppendFailure::StorageFull);
                    }
                    world.drain();
                }
                Op::Restart(checkpoint) => {
                    if checkpoint {
                        world.checkpoint = Some(world.shard.checkpoint());
                    }
                    edge.link = None;
                    edge.sent.clear();
                    world.start();
                }
                Op::Tick(ms) => {
                    world.tick(ms);
                    if let Some(link) = edge.link {
                        world.frame(link, OwnerFrame::Renew(Renew { sequence: 1 }));
                    }
                }
            }
            edge.take(&mut world);
        }
        prop_assert!(edge.unanswered.is_empty(), "{:?}", edge.unanswered);
        let ids: Vec<String> = ends(&world).into_iter().map(|(id, ..)| id).collect();
        let different: BTreeSet<&String> = ids.iter().collect();
        prop_assert_eq!((different.len(), ids.len()), (edge.next as usize, edge.next as usize));
        prop_assert_eq!(world.shard.gauges().rooms, 0);
    }
}
