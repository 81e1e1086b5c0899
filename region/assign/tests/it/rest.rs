//! What must take its exact course: starts, deaths, additions, drains, moves by hand.

use gb6_core_model::NodeId;
use gb6_region_assign::{Input, moved, released};

use crate::world::World;

fn counts(world: &World) -> Vec<usize> {
    world.counts().into_values().collect()
}

/// A region whose nodes have alike, at rest.
fn rested(seed: u64, nodes: usize, shards: u32) -> World {
    let mut world = World::new(seed, nodes, shards);
    world.run(20_000);
    assert_eq!(world.unserved(), [0u32; 0]);
    world
}

#[test]
fn a_region_that_starts_shares_its_shards_at_once() {
    for seed in 0..20 {
        let mut world = World::new(seed, 3, 9);
        world.run(2_500);
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed}");
        assert_eq!(counts(&world), [3, 3, 3], "seed {seed}");
        assert_eq!(world.begun.len(), 9, "seed {seed}: nothing is moved");
    }
}

#[test]
fn the_shards_of_a_node_that_dies_are_served_by_their_standbys_within_the_lease_and_little_more() {
    let mut longest = 0;
    for seed in 0..40 {
        let mut world = rested(seed, 3, 9);
        let standbys: Vec<NodeId> = (0..9)
            .map(|s| {
                world
                    .record(s)
                    .expect("a record")
                    .standby
                    .expect("a standby")
            })
            .collect();
        let died = world.now;
        let owned: Vec<u32> = (0..9)
            .filter(|s| world.server(*s).is_some_and(|n| n.as_str() == "r1"))
            .collect();
        world.begun.clear();
        world.kill("r1");
        world.run(4_000);
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed}");
        for (at, shard, node) in &world.begun {
            if owned.contains(shard) && *at < died + 2_500 {
                assert_eq!(
                    *node, standbys[*shard as usize],
                    "seed {seed}: shard {shard}"
                );
                longest = longest.max(at - died);
            }
        }
        assert!(world.begun.len() >= owned.len());
    }
    // The lease by a clock 5 % slow, from the last beat; a look, the claim, the takeover.
    assert!((1_200..2_300).contains(&longest), "{longest} ms");
}

#[test]
fn a_node_that_dies_and_comes_back_is_waited_for_no_longer_than_one_that_stays_away() {
    let mut longest = 0;
    for (seed, away_ms) in (0..10).flat_map(|seed| [(seed, 30), (seed, 700), (seed, 1_400)]) {
        let mut world = rested(seed, 3, 9);
        let owned: Vec<u32> = (0..9)
            .filter(|s| world.server(*s).is_some_and(|n| n.as_str() == "r1"))
            .collect();
        let died = world.now;
        world.begun.clear();
        world.kill("r1");
        world.run(away_ms);
        world.start("r1");
        world.run(3_000 - away_ms);
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed}, away {away_ms}");
        let first = |shard: &u32| world.begun.iter().find(|(_, s, _)| s == shard);
        let begun = owned.iter().filter_map(first).map(|(at, ..)| at - died);
        longest = longest.max(begun.max().expect("it had some"));
    }
    assert!((1_200..2_300).contains(&longest), "{longest} ms");
}

#[test]
fn a_node_that_comes_takes_its_part_and_nothing_else_moves() {
    for seed in 0..10 {
        let mut world = rested(seed, 2, 12);
        assert_eq!(counts(&world), [6, 6]);
        world.begun.clear();
        world.start("r2");
        world.run(40_000);
        assert_eq!(counts(&world), [4, 4, 4], "seed {seed}");
        assert_eq!(world.begun.len(), 4, "seed {seed}: as few as can be");
        assert!(world.begun.iter().all(|(_, _, node)| node.as_str() == "r2"));
    }
}

#[test]
fn a_node_that_drains_gives_everything_to_others_that_have_caught_up_and_leaves() {
    for seed in 0..10 {
        let mut world = rested(seed, 3, 12);
        world.begun.clear();
        world.tell("r0", Input::Drain);
        world.run(10_000);
        let index = world.index("r0").expect("it runs");
        assert!(world.nodes[index].drained, "seed {seed}");
        world.kill("r0");
        assert_eq!(counts(&world), [6, 6], "seed {seed}");
        assert_eq!(world.begun.len(), 4, "seed {seed}");
        assert!(world.store.get("regions/eu/nodes/r0").is_none());
    }
}

#[test]
fn the_last_node_that_drains_gives_its_shards_up_and_they_are_taken_at_once_when_one_starts() {
    let mut world = rested(1, 1, 4);
    world.tell("r0", Input::Drain);
    world.run(1_000);
    assert!(world.nodes[0].drained);
    world.kill("r0");
    for shard in 0..4 {
        assert_eq!(world.record(shard).expect("a record").node, None);
    }
    world.start("r0");
    world.run(1_300);
    assert_eq!(world.unserved(), [0u32; 0]);
}

#[test]
fn a_shard_that_is_moved_by_hand_stays_and_comes_back_after_its_node_was_away() {
    let mut world = rested(3, 3, 9);
    world.edit(0, |record| moved(record, &"r2".into()).expect("a move"));
    world.run(1_500);
    assert_eq!(world.server(0), Some(&"r2".into()));
    world.edit(1, |record| moved(record, &"r2".into()).expect("a move"));
    world.edit(4, |record| moved(record, &"r2".into()).expect("a move"));
    world.run(30_000);
    for shard in [0, 1, 4] {
        assert_eq!(
            world.server(shard),
            Some(&"r2".into()),
            "balancing leaves it"
        );
    }
    assert_eq!(counts(&world), [3, 3, 3], "others went instead");
    world.kill("r2");
    world.run(4_000);
    assert_eq!(world.unserved(), [0u32; 0], "a pin keeps nobody waiting");
    world.start("r2");
    world.run(10_000);
    for shard in [0, 1, 4] {
        assert_eq!(world.server(shard), Some(&"r2".into()), "it goes back");
        world.edit(shard, |record| released(record).expect("a release"));
    }
    let before = world.begun.len();
    world.run(20_000);
    assert_eq!(world.begun.len(), before, "there is no reason to move it");
}

#[test]
fn losing_the_store_moves_nothing() {
    let mut world = rested(5, 3, 9);
    let before = world.begun.len();
    let until = world.now + 20_000;
    for node in &mut world.nodes {
        node.cut_until = until;
    }
    world.run(30_000);
    assert_eq!(world.begun.len(), before);
    assert_eq!(counts(&world), [3, 3, 3]);
}

#[test]
fn a_store_that_is_full_moves_nothing_then_or_later() {
    for seed in 0..50 {
        let mut world = rested(seed, 3, 9);
        let before = world.begun.len();
        world.full_until = world.now + world.rng.range(1_000, 20_000);
        world.run(30_000);
        assert_eq!(world.begun.len(), before, "seed {seed}");
        assert_eq!(counts(&world), [3, 3, 3], "seed {seed}");
    }
}

#[test]
fn who_dies_while_the_store_is_slow_is_replaced_all_the_same() {
    for (seed, put_ms) in (0..20).flat_map(|seed| [(seed, 700), (seed, 1_000)]) {
        let mut world = rested(seed, 3, 9);
        world.put_ms = put_ms;
        world.run(10_000);
        world.kill("r1");
        // The lease since its last beat was seen, a beat of the others, and their claims.
        world.run(2 * 1_500 + 4 * put_ms);
        assert_eq!(world.unserved(), [] as [u32; 0], "seed {seed}, {put_ms} ms");
    }
}

#[test]
fn who_died_while_the_store_was_full_is_replaced_when_it_is_not() {
    for seed in 0..50 {
        let mut world = rested(seed, 3, 9);
        world.full_until = world.now + 10_000;
        world.kill("r1");
        world.run(10_000);
        assert_eq!(
            world.unserved().len(),
            3,
            "seed {seed}: nobody can take them"
        );
        // The lease, and what a claim takes.
        world.run(3_000);
        assert_eq!(world.unserved(), [] as [u32; 0], "seed {seed}");
    }
}

#[test]
fn a_store_that_was_emptied_is_filled_again_above_what_the_logs_say() {
    let mut world = rested(6, 3, 9);
    // Without a trace of what was removed, as after a restore of an old copy.
    let revision = world.store.revision;
    for (value, changed) in world.store.entries.values_mut() {
        *value = None;
        *changed = revision + 1;
    }
    world.store.revision += 1;
    let begun = world.begun.len();
    world.run(8_000);
    assert_eq!(world.unserved(), [0u32; 0]);
    assert_eq!(world.begun.len(), begun, "whoever serves goes on");
    for shard in 0..9 {
        let record = world.record(shard).expect("a record");
        assert_eq!(record.node.as_ref(), world.server(shard));
    }
}

#[test]
fn a_node_that_can_not_serve_a_shard_gives_it_to_the_standby_that_can() {
    let mut world = rested(8, 3, 9);
    let shard = (0..9).find(|s| world.server(*s).is_some_and(|n| n.as_str() == "r0"));
    let shard = shard.expect("r0 serves a shard");
    let standby = world.record(shard).expect("a record").standby;
    world.tell("r0", Input::Unable { shard });
    world.run(200);
    assert_eq!(world.record(shard).expect("a record").node, standby);
    world.run(5_000);
    assert_eq!(
        world.server(shard),
        standby.as_ref(),
        "it is not given back"
    );
    world.run(60_000);
    assert_eq!(counts(&world), [3, 3, 3], "another time it may do better");
}

#[test]
fn a_node_that_takes_long_to_read_a_shard_gives_it_to_the_standby_that_has_read_it_and_follows_it()
{
    let mut world = rested(8, 3, 9);
    let shard = (0..9).find(|s| world.server(*s).is_some_and(|n| n.as_str() == "r0"));
    let shard = shard.expect("r0 serves a shard");
    let standby = world.record(shard).expect("a record").standby;
    world.tell("r0", Input::Slow { shard });
    world.run(200);
    let given = world.record(shard).expect("a record");
    assert_eq!(given.node, standby);
    assert_eq!(given.standby, Some("r0".into()), "it reaches the log");
    world.run(15_000);
    assert_eq!(counts(&world), [3, 3, 3], "it is given others meanwhile");
}

#[test]
fn a_store_that_went_back_is_told_again_who_owns_what() {
    for (seed, lost_ms) in (0..2).flat_map(|seed| [(seed, 400), (seed, 30_000), (seed, 90_000)]) {
        let mut world = World::new(seed, 3, 9);
        // Of 90 seconds ago: before anything was written.
        let mut copy = world.store.clone();
        world.run(70_000);
        if lost_ms <= 30_000 {
            copy = world.store.clone();
            world.edit(0, |record| {
                moved(record, &"r2".into()).unwrap_or_else(|_| record.clone())
            });
            world.edit(3, |record| {
                moved(record, &"r1".into()).unwrap_or_else(|_| record.clone())
            });
        }
        world.run(lost_ms);
        if lost_ms == 30_000 {
            // Its records of then have it, the copy has the life before.
            world.kill("r0");
            world.start("r0");
            world.run(20_000);
        }
        let begun = world.begun.len();
        assert!(copy.revision < world.store.revision);
        world.store = copy;
        world.run(5_000);
        assert!(world.nodes.iter().all(|node| !node.replaced), "seed {seed}");
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed} after {lost_ms}");
        let anew = &world.begun[begun..];
        match lost_ms {
            400 => assert!(anew.len() <= 4, "what was moved may go back: {anew:?}"),
            90_000 => assert_eq!(anew, [], "whoever serves goes on"),
            // Those of a life that has ended go wherever it had them.
            _ => {}
        }
        for shard in 0..9 {
            let record = world.record(shard).expect("a record");
            assert_eq!(record.node.as_ref(), world.server(shard), "seed {seed}");
        }
        // It lives on as any other.
        world.kill("r1");
        world.run(4_000);
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed} after {lost_ms}");
    }
}

#[test]
fn of_two_processes_of_one_name_the_newer_one_stays() {
    let mut world = rested(7, 2, 4);
    world.start("r1");
    world.run(5_000);
    assert!(world.nodes[1].replaced, "the older one");
    world.nodes.remove(1);
    assert_eq!(world.unserved(), [0u32; 0]);
    assert_eq!(counts(&world), [2, 2]);
}

/// The shards that a node owns by the records.
fn owned_by(world: &World, name: &str) -> Vec<u32> {
    let is_its = |shard: &u32| world.record(*shard).and_then(|r| r.node) == Some(name.into());
    (0..world.shards).filter(is_its).collect()
}

/// Cuts a node off from all logs, for so long.
fn cut_log(world: &mut World, name: &str, ms: u64) {
    let until = world.now + ms;
    let index = world.index(name).expect("it runs");
    world.nodes[index].lose_log(until);
}

#[test]
fn a_node_that_loses_the_log_alone_gives_everything_on_and_is_given_nothing() {
    for seed in 0..4 {
        let mut world = rested(seed, 3, 9);
        cut_log(&mut world, "r0", 90_000);
        world.run(6_000);
        assert_eq!(owned_by(&world, "r0"), [0u32; 0], "seed {seed}");
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed}");
        // Others are better standbys. Now and then it is looked whether it reaches the log again.
        world.run(14_000);
        let follows = (0..9).filter(|s| world.record(*s).unwrap().standby == Some("r0".into()));
        assert_eq!(follows.count(), 0, "seed {seed}");
        world.begun.clear();
        world.edit(0, |record| moved(record, &"r0".into()).expect("a move"));
        world.run(60_000);
        let its = world
            .begun
            .iter()
            .filter(|(_, _, node)| node.as_str() == "r0");
        assert_eq!(its.count(), 0, "seed {seed}: it can not serve");
        assert_eq!(owned_by(&world, "r0"), [0u32; 0], "seed {seed}");
        world.run(90_000);
        assert_eq!(
            counts(&world),
            [3, 3, 3],
            "seed {seed}: it reaches it again"
        );
        assert_eq!(world.server(0), Some(&"r0".into()), "seed {seed}");
    }
}

#[test]
fn losing_the_log_everywhere_moves_no_shard_and_no_standby() {
    for (seed, ms) in (0..4).flat_map(|seed| [(seed, 2_000), (seed, 5_000), (seed, 60_000)]) {
        let mut world = rested(seed, 3, 9);
        let (assigned, begun) = (world.assigned, world.begun.len());
        for name in ["r0", "r1", "r2"] {
            cut_log(&mut world, name, ms);
        }
        world.run(ms + 20_000);
        assert_eq!(
            (world.assigned, world.begun.len()),
            (assigned, begun),
            "seed {seed}, {ms} ms"
        );
    }
}

#[test]
fn a_shard_whose_owner_and_standby_lose_the_log_goes_to_who_reaches_it() {
    for seed in 0..4 {
        let mut world = rested(seed, 3, 9);
        cut_log(&mut world, "r0", 60_000);
        cut_log(&mut world, "r1", 60_000);
        world.run(25_000);
        assert_eq!(counts(&world), [0, 0, 9], "seed {seed}");
    }
}

#[test]
fn a_standby_that_lost_the_log_does_not_take_what_another_can_serve() {
    for seed in 0..4 {
        let mut world = rested(seed, 4, 12);
        cut_log(&mut world, "r1", 60_000);
        world.run(3_600);
        world.begun.clear();
        world.kill("r0");
        world.run(4_000);
        let its = world
            .begun
            .iter()
            .filter(|(_, _, node)| node.as_str() == "r1");
        assert_eq!(its.count(), 0, "seed {seed}");
        assert_eq!(world.unserved(), [0u32; 0], "seed {seed}");
    }
}
