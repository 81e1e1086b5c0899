//! Publishes that are written only if they are newer, ids of the server API, removals of history.

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::{
    EdgeFrame, HistoryRemoved, OwnerFrame, Person, Publish, Published, RemoveHistory, RoomRef,
};
use gb6_core_wire::record::Kind;
use gb6_region_shard::{AppendFailure, LinkId};

use crate::world::{World, person, publish, room, rules};

fn versioned(number: u64, version: u64, epoch: &str) -> Publish {
    Publish {
        version,
        version_epoch: epoch.into(),
        ..publish(room(1), number, 1, number)
    }
}

/// The answers to publishes on `link`: (request, offset, error).
fn answers(world: &mut World, link: LinkId) -> Vec<(u64, u64, u32)> {
    let frames = world.take_sent(link).into_iter();
    let answers = frames.filter_map(|f| match f {
        EdgeFrame::Published(Published {
            request,
            offset,
            error,
            ..
        }) => Some((request, offset, error)),
        _ => None,
    });
    answers.collect()
}

#[test]
fn only_newer_versions_are_written_within_a_batch_behind_it_and_after_a_restart() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    for (number, version) in [(1, 5), (2, 4), (3, 6)] {
        let publish = versioned(number, version, "");
        world.frame(link, OwnerFrame::Publish(publish));
    }
    assert!(answers(&mut world, link).is_empty(), "nothing is durable");
    assert_eq!(world.commit(), 2);
    assert_eq!(
        answers(&mut world, link),
        [(1, 1, 0), (2, 1, 0), (3, 2, 0)],
        "what is superseded is answered with the batch"
    );
    for restart in [false, true] {
        let link = match restart {
            false => link,
            true => {
                world.checkpoint = Some(world.shard.checkpoint());
                world.start();
                world.attach(11)
            }
        };
        let old = Publish {
            request: 9,
            ..versioned(4, 6, "")
        };
        world.frame(link, OwnerFrame::Publish(old));
        assert_eq!(world.commit(), 0);
        assert_eq!(answers(&mut world, link), [(9, 2, 0)]);
    }
    assert_eq!(world.shard.counters().superseded, 1);
    // From the log alone.
    world.checkpoint = None;
    world.start();
    let link = world.attach(12);
    world.frame(link, OwnerFrame::Publish(versioned(1, 6, "")));
    world.frame(link, OwnerFrame::Publish(versioned(2, 7, "")));
    assert_eq!(world.commit(), 1);
    assert_eq!(answers(&mut world, link), [(1, 2, 0), (2, 3, 0)]);
}

#[test]
fn versions_of_another_epoch_are_not_compared_and_plain_publishes_have_none() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let mut number = 0;
    for (version, epoch, written) in [
        (7, "a", true),
        (7, "a", false),
        (3, "b", true),
        (3, "", false),
        (4, "", true),
        (0, "", true),
        (4, "", false),
        // The newest one's epoch is none, so a named one is another.
        (1, "a", true),
    ] {
        number += 1;
        let publish = versioned(number, version, epoch);
        world.frame(link, OwnerFrame::Publish(publish));
        assert_eq!(world.commit() == 1, written, "{version} {epoch:?}");
    }
}

#[test]
fn a_batch_that_fails_leaves_no_version_behind() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(versioned(1, 5, "")));
    world.frame(link, OwnerFrame::Publish(versioned(2, 5, "")));
    let batch = world.shard.next_batch(world.now_ms, 0).expect("a batch");
    assert_eq!(batch.records.len(), 1);
    world.shard.failed(world.now_ms, AppendFailure::StorageFull);
    world.drain();
    let full = ErrorCode::StorageFull.code();
    assert_eq!(answers(&mut world, link), [(1, 0, full), (2, 0, full)]);
    world.frame(link, OwnerFrame::Publish(versioned(3, 5, "")));
    assert_eq!(world.commit(), 1);
}

#[test]
fn ids_of_the_server_api_and_of_anonymous_people_are_apart() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let from = |number: u64, who: Person| Publish {
        from: who,
        id: "order-17".into(),
        ..publish(room(1), number, 1, number)
    };
    for (number, who, written) in [
        (1, Person::default(), true),
        (2, person("", "c1"), true),
        (3, person("", "c2"), false),
        (4, Person::default(), false),
        (5, person("u", "c3"), true),
    ] {
        let publish = from(number, who.clone());
        world.frame(link, OwnerFrame::Publish(publish));
        assert_eq!(world.commit() == 1, written, "{who:?}");
    }
}

fn removal(request: u64) -> OwnerFrame {
    OwnerFrame::RemoveHistory(RemoveHistory {
        request,
        room: room(1),
        instance_epoch: 1,
        first: 0,
    })
}

/// What was said of removals on `link`: (request, first, error).
fn removals(world: &mut World, link: LinkId) -> Vec<(u64, u64, u32)> {
    let frames = world.take_sent(link).into_iter();
    let said = frames.filter_map(|f| match f {
        EdgeFrame::HistoryRemoved(HistoryRemoved {
            request,
            first,
            error,
            ..
        }) => Some((request, first, error)),
        _ => None,
    });
    said.collect()
}

#[test]
fn a_removal_moves_the_first_offset_for_good_and_the_stream_goes_on() {
    let mut world = World::new(rules());
    let (link, other) = (world.attach(10), world.attach(11));
    world.frame(other, OwnerFrame::Interest(room(1)));
    world.frame(link, removal(1));
    assert_eq!(world.commit(), 0, "there is nothing to be removed");
    assert_eq!(removals(&mut world, link), [(1, 1, 0)]);
    for n in 1..=3 {
        world.frame(link, OwnerFrame::Publish(publish(room(1), n, 1, n)));
    }
    world.commit();
    world.frame(link, removal(2));
    world.frame(link, removal(3));
    // In one batch with a publish: that one stays.
    world.frame(link, OwnerFrame::Publish(publish(room(1), 4, 1, 4)));
    assert!(world.shard.wants_batch());
    assert_eq!(world.commit(), 2);
    assert_eq!(removals(&mut world, link), [(2, 4, 0), (3, 4, 0)]);
    let told = removals(&mut world, other);
    assert!(told.iter().all(|t| *t == (0, 4, 0)) && !told.is_empty());
    assert_eq!(
        world.log.iter().filter(|r| r.kind() == Kind::Trim).count(),
        1
    );
    for checkpoint in [true, false] {
        world.checkpoint = checkpoint.then(|| world.shard.checkpoint());
        world.start();
        let shard = &world.shard;
        assert_eq!(shard.first_offset(&room(1)), 4);
        assert_eq!(shard.top_offset(&room(1)), 4);
    }
}

#[test]
fn a_removal_may_leave_what_is_newer_than_an_offset() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    for n in 1..=5 {
        world.frame(link, OwnerFrame::Publish(publish(room(1), n, 1, n)));
    }
    world.commit();
    let below = |request, first| {
        OwnerFrame::RemoveHistory(RemoveHistory {
            request,
            room: room(1),
            instance_epoch: 1,
            first,
        })
    };
    // Two in one batch: the second removes nothing, the third more.
    for (request, first) in [(1, 3), (2, 2), (3, 4)] {
        world.frame(link, below(request, first));
    }
    assert_eq!(world.commit(), 2);
    let said = removals(&mut world, link);
    assert_eq!(said, [(1, 4, 0), (2, 4, 0), (3, 4, 0)]);
    world.frame(link, below(4, 2));
    assert_eq!(world.commit(), 0, "that is gone already");
    assert_eq!(removals(&mut world, link), [(4, 4, 0)]);
    // No room ends behind its newest.
    world.frame(link, below(5, u64::MAX));
    assert_eq!(world.commit(), 1);
    assert_eq!(removals(&mut world, link), [(5, 6, 0)]);
    assert_eq!(world.shard.first_offset(&room(1)), 6);
}

#[test]
fn what_is_to_follow_an_offset_is_written_there_or_not_at_all() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    let behind = |number: u64, offset: u64| Publish {
        next_after: offset + 1,
        ..publish(room(1), number, 1, number)
    };
    // In one batch: the first is the room's first, the second comes behind it, the third too late.
    for (number, offset) in [(1, 0), (2, 1), (3, 1)] {
        world.frame(link, OwnerFrame::Publish(behind(number, offset)));
    }
    assert_eq!(world.commit(), 2);
    let late = ErrorCode::UnrecoverablePosition.code();
    let mut said = answers(&mut world, link);
    said.sort_unstable();
    assert_eq!(said, [(1, 1, 0), (2, 2, 0), (3, 0, late)]);
    // What is sent again is answered as it was.
    world.frame(link, OwnerFrame::Publish(behind(2, 1)));
    world.frame(link, OwnerFrame::Publish(behind(4, 7)));
    assert_eq!(world.commit(), 0);
    let mut said = answers(&mut world, link);
    said.sort_unstable();
    assert_eq!(said, [(2, 2, 0), (4, 0, late)]);
}

#[test]
fn the_rules_of_other_channels_are_none_of_a_system_channel() {
    let mut world = World::new(rules());
    let mut snapshot = (*world.snapshot).clone();
    for instance in snapshot.instances.values_mut() {
        instance.defaults = Some(gb6_core_model::snapshot::Namespace {
            history_size: 1,
            ..rules()
        });
    }
    world.snapshot = snapshot.into();
    world.start();
    let link = world.attach(10);
    let named = |channel: &str| RoomRef {
        channel: channel.into(),
        ..room(1)
    };
    for n in 1..=40 {
        for channel in ["!revoked", "plain"] {
            world.frame(link, OwnerFrame::Publish(publish(named(channel), n, 1, n)));
        }
        world.commit();
    }
    world.commit();
    assert_eq!(world.shard.first_offset(&named("!revoked")), 1);
    assert!(world.shard.first_offset(&named("plain")) > 1);
}

#[test]
fn a_removal_that_may_not_be_written_says_why() {
    let mut world = World::new(rules());
    let link = world.attach(10);
    world.frame(link, OwnerFrame::Publish(publish(room(1), 1, 1, 1)));
    world.commit();
    world.frame(link, removal(1));
    let now = world.now_ms;
    world.shard.next_batch(now, 0).expect("a batch");
    world.shard.failed(now, AppendFailure::StorageFull);
    world.drain();
    let full = ErrorCode::StorageFull.code();
    assert_eq!(removals(&mut world, link), [(1, 0, full)]);
    assert_eq!(world.shard.first_offset(&room(1)), 1);
    // Routed by an old placement.
    let old = RemoveHistory {
        request: 2,
        room: room(1),
        instance_epoch: 0,
        first: 0,
    };
    world.frame(link, OwnerFrame::RemoveHistory(old));
    assert_eq!(world.commit(), 0);
    let moving = ErrorCode::OwnerMoving.code();
    assert_eq!(removals(&mut world, link), [(2, 0, moving)]);
    // More than may wait.
    for n in 0..1_025 {
        world.frame(link, removal(n));
    }
    let refused = removals(&mut world, link);
    assert_eq!(refused, [(1_024, 0, ErrorCode::TooManyRequests.code())]);
    // Whose link is gone asks again.
    world.shard.link_closed(link);
    assert_eq!(world.commit(), 0);
}
