//! Questions about statuses of users: which go to the driver, and which are answered at once.

use std::sync::Arc;

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, RefusedReason, RoomRef, UserChange, UserStatusAction, UserStatusQuery,
    UsersHere,
};
use gb6_region_shard::{LinkId, Output, StatusAsked};

use crate::world::{World, rules};

const TTL_MS: u64 = 60_000;

fn world() -> World {
    let mut world = World::new(rules());
    let mut snapshot = Snapshot::clone(&world.snapshot);
    for (id, instance) in &mut snapshot.instances {
        instance.user_status_ttl_ms = u64::from(id.as_str() == "demo") * TTL_MS;
    }
    world.snapshot = Arc::new(snapshot);
    world.shard.set_snapshot(world.snapshot.clone());
    world
}

fn query(instance: &str, channel: &str) -> UserStatusQuery {
    UserStatusQuery {
        request: 7,
        room: RoomRef {
            instance: instance.into(),
            channel: channel.into(),
        },
        instance_epoch: 1,
        action: UserStatusAction::Update.into(),
        state: "busy".into(),
    }
}

/// What the driver is asked.
fn asked(world: &mut World, link: LinkId, query: UserStatusQuery) -> Option<StatusAsked> {
    world.others.clear();
    world.frame(link, OwnerFrame::UserStatus(query));
    world.others.drain(..).find_map(|output| match output {
        Output::Status(asked) => Some(*asked),
        _ => None,
    })
}

/// The code of what was answered at once.
fn refused(world: &mut World, link: LinkId, query: UserStatusQuery) -> u32 {
    assert_eq!(asked(world, link, query), None);
    match &world.take_sent(link)[..] {
        [EdgeFrame::UserStatusAnswer(answer)] => answer.error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_driver_is_asked_and_told_whether_the_user_is_here() {
    let mut world = world();
    let link = world.attach(1);
    let found = asked(&mut world, link, query("demo", "#alice")).expect("it is asked");
    assert_eq!(
        (found.link, found.user(), found.here),
        (link, "alice", false)
    );
    assert_eq!((found.ttl_ms, found.query.state.as_str()), (TTL_MS, "busy"));
    let come = UserChange {
        instance: "demo".into(),
        user: "alice".into(),
        left: false,
    };
    let report = UsersHere {
        changes: vec![come],
        ..UsersHere::default()
    };
    world.frame(link, OwnerFrame::UsersHere(report));
    assert!(asked(&mut world, link, query("demo", "#alice")).is_some_and(|found| found.here));
    assert!(asked(&mut world, link, query("demo", "#bob")).is_some_and(|found| !found.here));
}

#[test]
fn what_can_not_be_here_is_answered_at_once() {
    let mut world = world();
    let link = world.attach(1);
    world.take_sent(link);
    let none = ErrorCode::NotAvailable.code();
    assert_eq!(refused(&mut world, link, query("other", "#alice")), none);
    let moving = ErrorCode::OwnerMoving.code();
    assert_eq!(refused(&mut world, link, query("nobody", "#alice")), moving);
    let old = UserStatusQuery {
        instance_epoch: 0,
        ..query("demo", "#alice")
    };
    assert_eq!(refused(&mut world, link, old), moving);
}

#[test]
fn out_of_bounds_is_a_violation() {
    let large = UserStatusQuery {
        state: "x".repeat(257),
        ..query("demo", "#alice")
    };
    let long = format!("#{}", "x".repeat(255));
    for wrong in [
        query("demo", "#"),
        query("demo", "alice"),
        query("demo", &long),
        large,
    ] {
        let mut world = world();
        let link = world.attach(1);
        world.take_sent(link);
        assert_eq!(asked(&mut world, link, wrong), None);
        let EdgeFrame::Refused(refused) = &world.take_sent(link)[0] else {
            panic!("it goes on");
        };
        assert_eq!(refused.reason(), RefusedReason::Violation);
    }
}
