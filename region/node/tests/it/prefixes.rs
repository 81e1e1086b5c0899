//! Prefixes through a region: what is durable, and signals, to the edges that follow.

use gb6_core_model::snapshot::{ChannelKind, Namespace};
use gb6_core_wire::mesh::{
    Deliver, EdgeFrame, OwnerFrame, Person, PrefixFollowed, PrefixRef, Publish, RoomRef,
    SignalPublish,
};

use crate::edge::{Edge, Machine};

fn lobby(n: u64) -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: format!("room:lobby.{n}"),
    }
}

/// Follows all lobbies.
async fn follow(edge: &mut Edge) {
    edge.send(OwnerFrame::FollowPrefix(PrefixRef {
        instance: "demo".into(),
        prefix: "room:lobby.".into(),
        request: 7,
    }));
    let followed = PrefixFollowed {
        request: 7,
        error: 0,
    };
    assert_eq!(edge.next().await, Some(EdgeFrame::PrefixFollowed(followed)));
}

async fn next_of(edge: &mut Edge) -> Deliver {
    loop {
        match edge.next().await.expect("the link stays") {
            EdgeFrame::Deliver(deliver) | EdgeFrame::Signal(deliver) => return deliver,
            EdgeFrame::Refused(why) => panic!("{why:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_durable_comes_once_and_behind_a_restart_from_where_it_is_followed_again() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut writer = machine.edge("e1").await;
    let mut follower = machine.edge("e2").await;
    follow(&mut follower).await;
    follower.send(OwnerFrame::Interest(lobby(2)));
    assert!(matches!(
        follower.next().await,
        Some(EdgeFrame::Interested(_))
    ));
    let write = async |writer: &mut Edge, n: u64, number: u64| {
        let publish = Publish {
            data: format!("{n}/{number}").into(),
            session: n,
            number,
            ..Publish::default()
        };
        assert_eq!(writer.publish_as(lobby(n), publish).await, (number, 0));
    };
    for number in 1..=20 {
        for n in 1..=3 {
            write(&mut writer, n, number).await;
        }
    }
    for number in 1..=20 {
        for n in 1..=3 {
            let Deliver { room, publication } = next_of(&mut follower).await;
            assert_eq!((room, publication.offset), (lobby(n), number));
            assert_eq!(publication.data, format!("{n}/{number}"));
        }
    }
    drop((writer, follower));
    region.drain().await;
    let _region = machine.start().await;
    let mut writer = machine.edge_again("e1").await;
    let mut follower = machine.edge_again("e2").await;
    write(&mut writer, 1, 21).await;
    follow(&mut follower).await;
    write(&mut writer, 1, 22).await;
    assert_eq!(next_of(&mut follower).await.publication.offset, 22);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_come_whether_or_not_somebody_follows_their_room() {
    hand_on(ChannelKind::Signal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_what_a_stream_does_not_keep() {
    hand_on(ChannelKind::Stream).await;
}

/// Of publications that are kept nowhere each comes once to an edge that follows the prefix, and to
/// one that has interest in the room.
async fn hand_on(kind: ChannelKind) {
    let mut machine = Machine::new(Namespace {
        kind,
        ..Namespace::default()
    });
    let _region = machine.start().await;
    let mut here = machine.edge("e1").await;
    let mut there = machine.edge("e2").await;
    follow(&mut there).await;
    here.send(OwnerFrame::Interest(lobby(2)));
    assert!(matches!(here.next().await, Some(EdgeFrame::Interested(_))));
    for n in 1..=50 {
        here.send(OwnerFrame::Signal(SignalPublish {
            request: n,
            room: lobby(1 + n % 2),
            instance_epoch: 1,
            from: Person::default(),
            data: n.to_string().into(),
            unkept: kind == ChannelKind::Stream,
            ..SignalPublish::default()
        }));
    }
    for n in 1..=50 {
        let Deliver { room, publication } = next_of(&mut there).await;
        assert_eq!(
            (room, publication.data),
            (lobby(1 + n % 2), n.to_string().into())
        );
        assert!(publication.time > 0);
    }
    for n in (1..=50).filter(|n| n % 2 == 1) {
        let Deliver { room, publication } = next_of(&mut here).await;
        assert_eq!((room, publication.data), (lobby(2), n.to_string().into()));
    }
}
