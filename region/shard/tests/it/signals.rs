//! Signals: who is told, what is refused, and that nothing of them is kept.

use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::{ChannelKind, Namespace};
use gb6_core_wire::mesh::{
    Deliver, EdgeFrame, OwnerFrame, Publication, Published, RoomRef, SignalPublish,
};
use gb6_region_shard::{LinkId, Output};

use crate::world::{World, person, publish, room, rules, snapshot};

fn signals() -> Namespace {
    Namespace {
        kind: ChannelKind::Signal,
        ..rules()
    }
}

fn signal(room: RoomRef, request: u64) -> OwnerFrame {
    OwnerFrame::Signal(SignalPublish {
        request,
        room,
        instance_epoch: 1,
        from: person("u", "c"),
        data: format!("{request}").into(),
        ..SignalPublish::default()
    })
}

/// The same, which a stream takes too.
fn unkept(room: RoomRef, request: u64) -> OwnerFrame {
    let OwnerFrame::Signal(signal) = signal(room, request) else {
        panic!("a signal");
    };
    OwnerFrame::Signal(SignalPublish {
        unkept: true,
        ..signal
    })
}

fn answers(world: &mut World, link: LinkId) -> Vec<(u64, u64, u32)> {
    let sent = world.take_sent(link).into_iter();
    sent.filter_map(|frame| match frame {
        EdgeFrame::Published(Published {
            request,
            offset,
            error,
            ..
        }) => Some((request, offset, error)),
        _ => None,
    })
    .collect()
}

/// What the machine asks of the engine: followed (`+`) and left (`-`) rooms, and signals; and what
/// is to be handed on without it (`!`).
fn asked(world: &mut World) -> Vec<String> {
    let others = std::mem::take(&mut world.others).into_iter();
    others
        .filter_map(|output| match output {
            Output::FollowSignals { room, status_of } => {
                let of = status_of.map_or(String::new(), |user| format!("({user})"));
                Some(format!("+{}{of}", room.channel))
            }
            Output::UnfollowSignals { room } => Some(format!("-{}", room.channel)),
            Output::Signal { room, publication } => {
                assert_eq!((publication.offset, publication.time), (0, 0));
                Some(format!(
                    "{}:{}",
                    room.channel,
                    String::from_utf8_lossy(&publication.data)
                ))
            }
            Output::Unkept { room, publication } => {
                assert_eq!((publication.offset, publication.time), (0, 0));
                Some(format!(
                    "!{}:{}",
                    room.channel,
                    String::from_utf8_lossy(&publication.data)
                ))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_signal_is_answered_at_once_and_handed_to_the_engine_in_order() {
    let mut world = World::new(signals());
    let link = world.attach(7);
    world.take_sent(link);
    for request in 1..=3 {
        world.frame(link, signal(room(1), request));
    }
    assert_eq!(answers(&mut world, link), [(1, 0, 0), (2, 0, 0), (3, 0, 0)]);
    assert_eq!(asked(&mut world), ["room:1:1", "room:1:2", "room:1:3"]);
    assert_eq!(world.commit(), 0, "nothing is written");
    let gauges = world.shard.gauges();
    assert_eq!((gauges.rooms, gauges.numbers, gauges.unanswered), (0, 0, 0));
    assert_eq!(world.shard.counters().signals, 3);
}

#[test]
fn every_edge_with_interest_gets_one_copy() {
    let mut world = World::new(signals());
    let links: Vec<LinkId> = (1..=3).map(|edge| world.attach(edge)).collect();
    for link in &links[..2] {
        world.frame(*link, OwnerFrame::Interest(room(1)));
    }
    assert_eq!(asked(&mut world), ["+room:1"], "once for all edges");
    for link in &links {
        world.take_sent(*link);
    }
    let publication = Publication {
        data: "x".into(),
        time: 5,
        ..Publication::default()
    };
    world.shard.signalled(&room(1), &publication);
    world.shard.signalled(&room(2), &publication);
    world.drain();
    for (n, link) in links.iter().enumerate() {
        let got: Vec<_> = world.take_sent(*link);
        let delivered = |f: &EdgeFrame| matches!(f, EdgeFrame::Signal(d) if d.room == room(1) && d.publication == publication);
        assert_eq!(
            got.iter().filter(|f| delivered(f)).count(),
            usize::from(n < 2)
        );
        assert_eq!(got.len(), usize::from(n < 2));
    }
    // The last one that goes ends it, whether it says so or breaks off.
    world.frame(links[0], OwnerFrame::Uninterest(room(1)));
    assert!(asked(&mut world).is_empty());
    world.shard.link_closed(links[1]);
    world.drain();
    assert_eq!(asked(&mut world), ["-room:1"]);
    assert_eq!(world.shard.gauges().rooms, 0);
    world.frame(links[2], OwnerFrame::Interest(room(1)));
    world.shard.stop_serving();
    world.drain();
    assert_eq!(asked(&mut world), ["+room:1", "-room:1"]);
}

#[test]
fn what_is_not_owned_or_no_signal_here_is_refused() {
    let moving = ErrorCode::OwnerMoving.code();
    let mut world = World::new(signals());
    let link = world.attach(7);
    let unknown = RoomRef {
        instance: "demo".into(),
        channel: "nowhere:1".into(),
    };
    let foreign = RoomRef {
        instance: "nobody".into(),
        channel: "room:1".into(),
    };
    world.frame(link, signal(unknown, 1));
    world.frame(link, signal(foreign, 2));
    let OwnerFrame::Signal(mut late) = signal(room(1), 3) else {
        panic!("a signal");
    };
    late.instance_epoch = 0;
    world.frame(link, OwnerFrame::Signal(late.clone()));
    assert_eq!(
        answers(&mut world, link),
        [(1, 0, moving), (2, 0, moving), (3, 0, moving)]
    );
    let mut streams = World::new(rules());
    let other = streams.attach(7);
    streams.frame(other, signal(room(1), 4));
    assert_eq!(answers(&mut streams, other), [(4, 0, moving)]);
    assert!(asked(&mut streams).is_empty() && asked(&mut world).is_empty());
    late.data = vec![b'x'; 2 << 20].into();
    world.frame(link, OwnerFrame::Signal(late));
    assert!(world.closed.contains(&link), "out of bounds");
    // Before attach nothing is taken.
    let early = world.link();
    world.frame(early, signal(room(1), 5));
    assert!(world.closed.contains(&early));
}

#[test]
fn another_snapshot_may_turn_a_namespace_round() {
    let mut world = World::new(rules());
    let link = world.attach(7);
    world.frame(link, OwnerFrame::Interest(room(1)));
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 1, 1)));
    assert_eq!(world.commit(), 1);
    assert!(asked(&mut world).is_empty());
    world.shard.set_snapshot(snapshot(signals()));
    world.drain();
    assert_eq!(asked(&mut world), ["+room:1"]);
    // With the status of the user that it names, and without.
    let telling = Namespace {
        user_status: true,
        ..signals()
    };
    world.shard.set_snapshot(snapshot(telling));
    world.drain();
    assert_eq!(asked(&mut world), ["-room:1", "+room:1(1)"]);
    world.shard.set_snapshot(snapshot(signals()));
    world.drain();
    assert_eq!(asked(&mut world), ["-room:1", "+room:1"]);
    world.shard.set_snapshot(Arc::clone(&world.snapshot));
    world.drain();
    assert_eq!(asked(&mut world), ["-room:1"]);
    assert_eq!(world.shard.top_offset(&room(1)), 1);
}

#[test]
fn a_stream_hands_on_what_it_is_not_to_keep_and_stands_where_it_stood() {
    let mut world = World::new(rules());
    let links: Vec<LinkId> = (1..=2).map(|edge| world.attach(edge)).collect();
    world.frame(links[1], OwnerFrame::Interest(room(1)));
    world.frame(links[0], OwnerFrame::Publish(publish(room(1), 1, 1, 1)));
    assert_eq!(world.commit(), 1);
    links.iter().for_each(|link| drop(world.take_sent(*link)));
    world.frame(links[0], unkept(room(1), 7));
    world.frame(links[0], unkept(room(2), 8));
    assert_eq!(answers(&mut world, links[0]), [(7, 0, 0), (8, 0, 0)]);
    assert_eq!(asked(&mut world), ["!room:1:7", "!room:2:8"]);
    assert_eq!(world.commit(), 0, "nothing is written");
    assert_eq!(world.shard.top_offset(&room(1)), 1);
    assert_eq!(world.shard.counters().signals, 2);
    let publication = Publication {
        data: "7".into(),
        time: 5,
        ..Publication::default()
    };
    world.shard.signalled(&room(1), &publication);
    world.drain();
    let deliver = Deliver {
        room: room(1),
        publication,
    };
    assert_eq!(world.take_sent(links[1]), [EdgeFrame::Signal(deliver)]);
    assert_eq!(world.take_sent(links[0]), []);
    // In a channel that keeps nothing it is a signal like others; who is not the owner refuses it.
    let mut signals = World::new(signals());
    let link = signals.attach(7);
    signals.frame(link, unkept(room(1), 9));
    assert_eq!(asked(&mut signals), ["room:1:9"]);
    world.shard.stop_serving();
    world.drain();
    world.others.clear();
    let late = world.attach(3);
    world.take_sent(late);
    world.frame(late, unkept(room(1), 10));
    assert!(asked(&mut world).is_empty());
}
