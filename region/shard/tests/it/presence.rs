//! Presence: leases, sets, restarts, large rooms.

use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, Presence, PresenceQuery, PresenceSet, RefusedReason, Renew,
};
use gb6_region_shard::LinkId;

use crate::world::{World, person, room, rules};

fn present(user: &str, client: &str) -> Presence {
    Presence {
        room: room(1),
        person: person(user, client),
    }
}

fn clients(world: &mut World, link: LinkId) -> (u32, u32) {
    let query = PresenceQuery {
        request: 1,
        room: room(1),
        entries: false,
    };
    world.frame(link, OwnerFrame::PresenceQuery(query));
    world
        .take_sent(link)
        .into_iter()
        .find_map(|f| match f {
            EdgeFrame::PresenceAnswer(a) => Some((a.clients, a.users)),
            _ => None,
        })
        .expect("an answer")
}

fn pushes(world: &mut World, link: LinkId) -> Vec<String> {
    world
        .take_sent(link)
        .into_iter()
        .filter_map(|f| match f {
            EdgeFrame::Join(p) => Some(format!("+{}", p.person.client)),
            EdgeFrame::Leave(p) => Some(format!("-{}", p.person.client)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_dead_edges_people_are_gone_with_its_lease() {
    let mut world = World::new(rules());
    let (a, b) = (world.attach(10), world.attach(11));
    world.frame(b, OwnerFrame::Interest(room(1)));
    world.frame(a, OwnerFrame::Present(present("u", "c1")));
    world.frame(b, OwnerFrame::Present(present("u", "c2")));
    assert_eq!(pushes(&mut world, b), ["+c1", "+c2"]);
    world.shard.link_closed(a);
    for _ in 0..9 {
        world.tick(1_000);
        world.frame(b, OwnerFrame::Renew(Renew { sequence: 1 }));
    }
    assert_eq!(clients(&mut world, b), (2, 1), "the lease still runs");
    world.tick(1_500);
    assert_eq!(clients(&mut world, b).0, 1);
    let again = world.attach(10);
    let refused = world
        .take_sent(again)
        .into_iter()
        .any(|f| matches!(f, EdgeFrame::Refused(r) if r.reason() == RefusedReason::LeaseEnded));
    assert!(refused, "it must come back as a new incarnation");
}

#[test]
fn a_restarted_owner_takes_sets_without_pushes() {
    let mut world = World::new(rules());
    world.start();
    let (a, b) = (world.attach(10), world.attach(11));
    world.frame(b, OwnerFrame::Interest(room(1)));
    for (client, last) in [("c1", false), ("c2", true)] {
        let part = PresenceSet {
            entries: vec![present("u", client)],
            last,
        };
        world.frame(a, OwnerFrame::PresenceSet(part));
    }
    assert_eq!(pushes(&mut world, b), Vec::<String>::new());
    assert_eq!(clients(&mut world, b), (2, 1));
}

#[test]
fn a_later_set_pushes_what_changed_behind_a_broken_link() {
    let mut world = World::new(rules());
    let mut a = world.attach(10);
    world.frame(a, OwnerFrame::Interest(room(1)));
    world.frame(a, OwnerFrame::Present(present("u", "gone")));
    world.frame(a, OwnerFrame::Present(present("u", "stays")));
    for _ in 0..11 {
        world.tick(1_000);
        world.frame(a, OwnerFrame::Renew(Renew { sequence: 1 }));
    }
    world.shard.link_closed(a);
    a = world.attach(10);
    world.frame(a, OwnerFrame::Interest(room(1)));
    let part = PresenceSet {
        entries: vec![present("u", "stays"), present("v", "new")],
        last: true,
    };
    world.frame(a, OwnerFrame::PresenceSet(part));
    assert_eq!(pushes(&mut world, a), ["+new", "-gone"]);
    assert_eq!(clients(&mut world, a), (2, 2));
}

#[test]
fn large_rooms_push_no_joins() {
    let mut world = World::new(Namespace {
        join_leave_max: 3,
        ..rules()
    });
    let a = world.attach(10);
    world.frame(a, OwnerFrame::Interest(room(1)));
    for n in 0..5 {
        world.frame(a, OwnerFrame::Present(present("u", &format!("c{n}"))));
    }
    assert_eq!(pushes(&mut world, a), ["+c0", "+c1", "+c2"]);
    for n in (0..5).rev() {
        world.frame(a, OwnerFrame::Absent(present("u", &format!("c{n}"))));
    }
    assert_eq!(pushes(&mut world, a), ["-c2", "-c1", "-c0"]);
    assert_eq!(world.shard.gauges().rooms, 1, "interest keeps the room");
    world.frame(a, OwnerFrame::Uninterest(room(1)));
    assert_eq!(
        world.shard.gauges().rooms,
        0,
        "an unused name costs nothing"
    );
}

#[test]
fn a_paused_owner_does_not_end_leases() {
    let mut world = World::new(rules());
    let a = world.attach(10);
    world.frame(a, OwnerFrame::Present(present("u", "c1")));
    world.tick(60_000);
    assert_eq!(clients(&mut world, a).0, 1);
}

#[test]
fn what_an_edges_older_life_says_late_takes_nobody_along_with_its_lease() {
    let mut world = World::new(rules());
    let old = world.attach(7);
    world.tick(4_000);
    let new = world.attach(8);
    let set = PresenceSet {
        entries: vec![present("alice", "c1")],
        last: true,
    };
    world.frame(new, OwnerFrame::PresenceSet(set));
    // It was on its way while the edge's lease ended and it attached as another.
    world.frame(old, OwnerFrame::Present(present("alice", "c1")));
    assert_eq!(clients(&mut world, new), (1, 1));
    for n in 1..=16 {
        world.frame(new, OwnerFrame::Renew(Renew { sequence: n }));
        world.tick(500);
    }
    assert_eq!(world.shard.counters().leases_ended, 1);
    assert_eq!(clients(&mut world, new), (1, 1), "she never left");
}
