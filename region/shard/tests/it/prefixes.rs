//! Prefixes: which edges are sent what, what is refused, and that they end with their link.

use std::collections::{BTreeMap, BTreeSet};

use gb6_core_model::snapshot::{ChannelKind, Namespace};
use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, PrefixFollowed, PrefixRef, Publication, RoomRef, SignalPublish,
};
use gb6_region_shard::{LinkId, Output};
use proptest::prelude::*;

use crate::world::{World, person, publish, rules};

fn room_of(instance: &str, channel: &str) -> RoomRef {
    RoomRef {
        instance: instance.into(),
        channel: channel.into(),
    }
}

fn key(instance: &str, prefix: &str, request: u64) -> PrefixRef {
    PrefixRef {
        instance: instance.into(),
        prefix: prefix.into(),
        request,
    }
}

fn follow(world: &mut World, link: LinkId, instance: &str, prefix: &str) -> u32 {
    world.take_sent(link);
    world.frame(link, OwnerFrame::FollowPrefix(key(instance, prefix, 9)));
    match world.take_sent(link).as_slice() {
        [EdgeFrame::PrefixFollowed(PrefixFollowed { request: 9, error })] => *error,
        other => panic!("{other:?}"),
    }
}

/// Channels of which something was sent on a link, in order.
fn delivered(world: &mut World, link: LinkId) -> Vec<String> {
    let sent = world.take_sent(link).into_iter();
    sent.filter_map(|frame| match frame {
        EdgeFrame::Deliver(d) | EdgeFrame::Signal(d) => Some(d.room.channel),
        _ => None,
    })
    .collect()
}

fn write(world: &mut World, link: LinkId, number: u64, room: RoomRef) {
    world.frame(link, OwnerFrame::Publish(publish(room, number, number, 1)));
    assert_eq!(world.commit(), 1);
}

#[test]
fn an_edge_is_sent_each_publication_once_whatever_it_follows_it_for() {
    let mut world = World::new(rules());
    let [writer, rooms, prefixes, both] = [1, 2, 3, 4].map(|edge| world.attach(edge));
    let lobby = room_of("demo", "room:lobby.1");
    for link in [rooms, both] {
        world.frame(link, OwnerFrame::Interest(lobby.clone()));
    }
    for link in [prefixes, both] {
        for prefix in ["room:lob", "room:lobby.", "room:lobby.1", "room:other"] {
            assert_eq!(follow(&mut world, link, "demo", prefix), 0);
        }
    }
    let others = [
        "room:lobby",
        "room:lo",
        "room:lobby.1#42",
        "$room:lobby.1",
        "room:other2",
    ];
    world.take_sent(rooms);
    write(&mut world, writer, 1, lobby);
    for (at, channel) in others.into_iter().enumerate() {
        write(&mut world, writer, 2 + at as u64, room_of("demo", channel));
    }
    // The same name in another instance.
    write(&mut world, writer, 20, room_of("other", "room:lobby.1"));
    assert_eq!(delivered(&mut world, rooms), ["room:lobby.1"]);
    for link in [prefixes, both] {
        let got = delivered(&mut world, link);
        assert_eq!(got, ["room:lobby.1", "room:lobby", "room:other2"]);
    }
    assert!(delivered(&mut world, writer).is_empty());
    assert_eq!(world.shard.gauges().prefixes, 4);
    // One edge has enough of it, the other's link ends.
    for prefix in ["room:lob", "room:lobby.", "room:lobby.1"] {
        world.frame(both, OwnerFrame::UnfollowPrefix(key("demo", prefix, 0)));
    }
    world.shard.link_closed(prefixes);
    assert_eq!(world.shard.gauges().prefixes, 1);
    write(&mut world, writer, 30, room_of("demo", "room:lobby.2"));
    write(&mut world, writer, 31, room_of("demo", "room:lobby.1"));
    assert_eq!(delivered(&mut world, both), ["room:lobby.1"]);
    // Who comes back says again what it follows.
    let again = world.attach(3);
    write(&mut world, writer, 32, room_of("demo", "room:lobby.2"));
    assert!(delivered(&mut world, again).is_empty());
}

#[test]
fn signals_go_to_those_that_only_follow_a_prefix_when_they_are_sent() {
    let mut world = World::new(Namespace {
        kind: ChannelKind::Signal,
        ..rules()
    });
    let [writer, room, both, prefix] = [1, 2, 3, 4].map(|edge| world.attach(edge));
    let lobby = room_of("demo", "room:lobby.1");
    for link in [room, both] {
        world.frame(link, OwnerFrame::Interest(lobby.clone()));
    }
    for link in [both, prefix] {
        assert_eq!(follow(&mut world, link, "demo", "room:lob"), 0);
    }
    let signal = SignalPublish {
        request: 1,
        room: lobby.clone(),
        instance_epoch: 1,
        from: person("u", "c"),
        data: "1".into(),
        ..SignalPublish::default()
    };
    world.frame(writer, OwnerFrame::Signal(signal));
    let sent = std::mem::take(&mut world.others).into_iter();
    let sent: Vec<Publication> = sent
        .filter_map(|output| match output {
            Output::Signal { publication, .. } => Some(publication),
            _ => None,
        })
        .collect();
    assert_eq!(sent.len(), 1);
    for link in [room, both, prefix] {
        assert!(delivered(&mut world, link).is_empty());
    }
    world.shard.signal_sent(&lobby, &sent[0]);
    world.drain();
    assert_eq!(delivered(&mut world, prefix), ["room:lobby.1"]);
    assert!(delivered(&mut world, both).is_empty());
    world.shard.signalled(&lobby, &sent[0]);
    world.drain();
    for link in [room, both] {
        assert_eq!(delivered(&mut world, link), ["room:lobby.1"]);
    }
    assert!(delivered(&mut world, prefix).is_empty());
}

#[test]
fn what_is_no_prefix_or_one_too_many_is_refused() {
    let mut world = World::new(rules());
    let [link, other] = [1, 2].map(|edge| world.attach(edge));
    for prefix in [
        "",
        "room:",
        "room:ab",
        "room",
        "$room:abc",
        "room:a#bc",
        "room:abc*",
    ] {
        let error = follow(&mut world, link, "demo", prefix);
        assert_eq!(error, ErrorCode::BadRequest.code(), "{prefix}");
    }
    let unknown = follow(&mut world, link, "nobody", "room:abc");
    assert_eq!(unknown, ErrorCode::OwnerMoving.code());
    let most = 4 * limits::PREFIXES_INSTANCE_MAX;
    for n in 0..most {
        assert_eq!(follow(&mut world, link, "demo", &format!("room:{n:04}")), 0);
    }
    let full = ErrorCode::LimitExceeded.code();
    assert_eq!(follow(&mut world, link, "demo", "room:one-more"), full);
    // What others follow already, and other instances, have their place.
    assert_eq!(follow(&mut world, other, "demo", "room:0000"), 0);
    assert_eq!(follow(&mut world, other, "other", "room:one-more"), 0);
    assert_eq!(world.shard.gauges().prefixes, most + 1);
    world.shard.link_closed(link);
    assert_eq!(world.shard.gauges().prefixes, 2);
    assert_eq!(follow(&mut world, other, "demo", "room:one-more"), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Follow(usize, usize, usize),
    Unfollow(usize, usize, usize),
    Interest(usize, usize),
    Uninterest(usize, usize),
    Publish(usize, usize),
    Again(usize),
}

const PREFIXES: [&str; 5] = [
    "room:aaa",
    "room:aaab",
    "room:aab",
    "room:aaaba",
    "room:b:c",
];
const ROOMS: [&str; 7] = [
    "room:aaa",
    "room:aaab",
    "room:aaabab",
    "room:aab1",
    "room:aa",
    "room:b:c1",
    "room:aaa#u",
];
const INSTANCES: [&str; 2] = ["demo", "other"];

fn step() -> impl Strategy<Value = Step> {
    let (edge, prefix, room, instance) = (0..3usize, 0..5usize, 0..7usize, 0..2usize);
    prop_oneof![
        3 => (edge.clone(), instance.clone(), prefix.clone()).prop_map(|(e, i, p)| Step::Follow(e, i, p)),
        2 => (edge.clone(), instance.clone(), prefix).prop_map(|(e, i, p)| Step::Unfollow(e, i, p)),
        2 => (edge.clone(), room.clone()).prop_map(|(e, r)| Step::Interest(e, r)),
        1 => (edge.clone(), room.clone()).prop_map(|(e, r)| Step::Uninterest(e, r)),
        5 => (instance, room).prop_map(|(i, r)| Step::Publish(i, r)),
        1 => edge.prop_map(Step::Again),
    ]
}

proptest! {
    #[test]
    fn edges_are_sent_what_looking_at_every_prefix_gives(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(rules());
        let writer = world.attach(100);
        let mut links: Vec<LinkId> = (1..=3).map(|edge| world.attach(edge)).collect();
        let mut followed: BTreeMap<usize, BTreeSet<(usize, usize)>> = BTreeMap::new();
        let mut wanted: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Follow(edge, instance, prefix) => {
                    let error = follow(&mut world, links[edge], INSTANCES[instance], PREFIXES[prefix]);
                    prop_assert_eq!(error, 0);
                    followed.entry(edge).or_default().insert((instance, prefix));
                }
                Step::Unfollow(edge, instance, prefix) => {
                    let key = key(INSTANCES[instance], PREFIXES[prefix], 0);
                    world.frame(links[edge], OwnerFrame::UnfollowPrefix(key));
                    followed.entry(edge).or_default().remove(&(instance, prefix));
                }
                Step::Interest(edge, room) => {
                    world.frame(links[edge], OwnerFrame::Interest(room_of("demo", ROOMS[room])));
                    wanted.entry(edge).or_default().insert(room);
                }
                Step::Uninterest(edge, room) => {
                    world.frame(links[edge], OwnerFrame::Uninterest(room_of("demo", ROOMS[room])));
                    wanted.entry(edge).or_default().remove(&room);
                }
                Step::Again(edge) => {
                    links[edge] = world.attach(edge as u64 + 1);
                    followed.remove(&edge);
                    wanted.remove(&edge);
                }
                Step::Publish(instance, room) => {
                    for link in &links {
                        world.take_sent(*link);
                    }
                    let channel = ROOMS[room];
                    write(&mut world, writer, number as u64 + 1, room_of(INSTANCES[instance], channel));
                    for (edge, link) in links.iter().enumerate() {
                        let by_prefix = followed.get(&edge).is_some_and(|f| {
                            f.iter().any(|(i, p)| {
                                *i == instance && !channel.contains('#') && channel.starts_with(PREFIXES[*p])
                            })
                        });
                        let by_room = instance == 0 && wanted.get(&edge).is_some_and(|w| w.contains(&room));
                        let got = delivered(&mut world, *link);
                        prop_assert_eq!(got.len(), usize::from(by_prefix || by_room), "{} at {}", channel, edge);
                    }
                }
            }
        }
        let different: BTreeSet<_> = followed.values().flatten().collect();
        prop_assert_eq!(world.shard.gauges().prefixes, different.len());
    }
}
