//! What is erased is never shown from what a hub remembers.

use gb6_core_model::ErrorCode;
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::flags;
use gb6_edge_session::{Answer, HistoryQuery, HubConfig, Request};

use crate::client::room;
use crate::hub_model::World;
use crate::hub_rules::{Bench, from, page};

fn erase(b: &mut Bench, offset: u64, erasures: u64) {
    let room = room(1);
    b.frame(
        0,
        EdgeFrame::Erased(Erased {
            room,
            offset,
            erasures,
        }),
    );
}

fn interested(b: &mut Bench, top: u64, erasures: u64) {
    let frame = Interested {
        room: room(1),
        top,
        first: 1,
        generation: 0,
        erasures,
    };
    b.frame(0, EdgeFrame::Interested(frame));
}

/// What a client that comes back gets behind `offset`: offset and whether it shows anything.
fn recovered(b: &mut Bench, session: u64, offset: u64) -> Vec<(u64, bool)> {
    b.subscribe(session, from(offset));
    let answer = b.answered(session);
    assert!(answer.recovered);
    let shown = answer.publications.iter().map(|recent| {
        let p = &recent.publication;
        assert_eq!(p.data.is_empty(), p.flags & flags::ERASED != 0);
        (p.offset, !p.data.is_empty())
    });
    shown.collect()
}

#[test]
fn what_the_room_remembers_is_blanked() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    interested(&mut b, 4, 0);
    (5..=7).for_each(|o| b.deliver(o));
    erase(&mut b, 6, 1);
    assert_eq!(recovered(&mut b, 1, 4), [(5, true), (6, false), (7, true)]);
    // What is not remembered, and rooms that are not known, are no harm.
    erase(&mut b, 2, 2);
    erase(&mut b, 900, 3);
    b.hub.frame(
        0,
        EdgeFrame::Erased(Erased {
            room: room(2),
            offset: 1,
            erasures: 1,
        }),
        &mut b.said,
    );
    assert_eq!(recovered(&mut b, 2, 6), [(7, true)]);
    assert_eq!(b.hub.counters().erased, 4);
}

#[test]
fn what_is_kept_behind_a_gap_and_what_is_on_its_way_from_the_log_is_blanked() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    interested(&mut b, 4, 0);
    b.deliver(7);
    let read = b.said.history.pop().unwrap();
    erase(&mut b, 7, 1);
    erase(&mut b, 5, 2);
    // The page was read before.
    b.hub.history_page(0, page(&read, 5..=6, 7), &mut b.said);
    assert_eq!(b.said.delivered.len(), 3);
    let shows = |frame: &bytes::Bytes| frame.windows(4).any(|w| w == b"\"o\":");
    let shown: Vec<bool> = b.said.delivered.iter().map(|(_, f)| shows(f)).collect();
    assert_eq!(shown, [false, true, false]);
    assert_eq!(recovered(&mut b, 1, 4), [(5, false), (6, true), (7, false)]);
}

#[test]
fn what_is_read_for_one_that_comes_back_is_blanked() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    interested(&mut b, 600, 0);
    b.subscribe(1, from(590));
    let read = b.said.history.pop().unwrap();
    let first = page(&read, 591..=595, 600);
    b.hub.history_page(0, first, &mut b.said);
    // One that has come and one that is on its way.
    let read = b.said.history.pop().unwrap();
    erase(&mut b, 592, 1);
    erase(&mut b, 599, 2);
    b.hub
        .history_page(0, page(&read, 596..=600, 600), &mut b.said);
    let answer = b.answered(1);
    let blank = |r: &&std::sync::Arc<gb6_edge_session::Recent>| r.publication.data.is_empty();
    let blanks = answer.publications.iter().filter(blank);
    let offsets: Vec<u64> = blanks.map(|r| r.publication.offset).collect();
    assert_eq!((answer.publications.len(), offsets), (10, vec![592, 599]));
}

#[test]
fn a_page_for_a_session_is_blanked_and_fails_where_too_much_was_erased_meanwhile() {
    for (erasures, fails) in [(1, false), (1_024, false), (1_025, true)] {
        let mut b = Bench::new();
        let query = HistoryQuery {
            since: Some(0),
            reverse: false,
            limit: 5,
            bytes: 9_000,
        };
        b.ask(0, 1, Request::History(query));
        let read = b.said.history.pop().unwrap();
        (1..=erasures).for_each(|n| erase(&mut b, 2 + n, n));
        b.hub.history_page(0, page(&read, 1..=5, 9), &mut b.said);
        if fails {
            assert_eq!(b.failed(1), ErrorCode::Internal);
            continue;
        }
        let (_, Answer::History(page)) = b.said.answers.remove(0) else {
            panic!("no page");
        };
        let shown: Vec<bool> = page
            .publications
            .iter()
            .map(|p| !p.data.is_empty())
            .collect();
        assert_eq!(shown[..3], [true, true, false]);
    }
}

#[test]
fn what_was_erased_during_a_break_is_not_remembered_behind_it() {
    // (erased while there was a link, the count after the break, whether the memory is good).
    for (before, after, same) in [(0, 0, true), (0, 1, false), (2, 2, true), (2, 3, false)] {
        let mut b = Bench::new();
        b.subscribe(0, None);
        interested(&mut b, 4, 0);
        (5..=9).for_each(|o| b.deliver(o));
        (1..=before).for_each(|n| erase(&mut b, 4 + n, n));
        b.hub.link_down(10, &mut b.said);
        b.attach(20, 1);
        interested(&mut b, 9, after);
        b.said.history.clear();
        b.subscribe(1, from(6));
        assert_eq!(b.said.history.is_empty(), same, "read again unless good");
    }
    // Another life of the owner counts anew.
    let mut b = Bench::new();
    b.subscribe(0, None);
    interested(&mut b, 4, 0);
    (5..=9).for_each(|o| b.deliver(o));
    b.hub.link_down(10, &mut b.said);
    let next = Attached {
        shard_epoch: 2,
        owner_incarnation: 2,
        lease_ms: 10_000,
        credit: 2,
        credit_bytes: 100,
    };
    b.hub
        .link_up(20, gb6_core_model::Incarnation(8), 1, &mut b.said);
    b.frame(20, EdgeFrame::Attached(next));
    interested(&mut b, 9, 0);
    b.subscribe(1, from(6));
    assert_eq!(b.said.history.len(), 1);
}

#[test]
fn a_whole_life_with_erasures_shows_nothing_of_them() {
    let mut world = World::new(HubConfig::default(), 3);
    world.up();
    world.subscribe(0, room(0), None);
    world.flow();
    for _ in 0..6 {
        world.publish(0, room(0));
        world.flow();
    }
    world.owner.erase(&room(0), 2);
    world.flow();
    world.down();
    world.owner.erase(&room(0), 4);
    world.up();
    world.flow();
    world.subscribe(1, room(0), Some(0));
    world.flow();
    assert_eq!((world.clients.gone.len(), world.clients.blanks), (2, 2));
}

#[test]
fn what_a_removal_takes_is_not_remembered_whoever_asked_for_it() {
    for (request, from_here) in [(0, false), (1, true)] {
        let mut b = Bench::new();
        b.subscribe(0, None);
        interested(&mut b, 4, 0);
        (5..=9).for_each(|o| b.deliver(o));
        let mut removed = HistoryRemoved {
            request,
            room: room(1),
            first: 8,
            error: 0,
        };
        if from_here {
            let instance_epoch = gb6_core_model::InstanceEpoch(3);
            b.ask(
                0,
                7,
                Request::RemoveHistory {
                    instance_epoch,
                    first: None,
                },
            );
            let asked = b.said.owner.iter().find_map(|f| match f {
                OwnerFrame::RemoveHistory(r) => Some(r.clone()),
                _ => None,
            });
            let asked = asked.expect("the owner was asked");
            assert_eq!((&asked.room, asked.instance_epoch), (&room(1), 3));
            removed.request = asked.request;
        }
        b.frame(0, EdgeFrame::HistoryRemoved(removed));
        if from_here {
            let done = |a: &(u64, Answer)| matches!(a, (7, Answer::HistoryRemoved));
            assert!(b.said.answers.iter().any(done), "{:?}", b.said.answers);
        }
        assert_eq!(recovered(&mut b, 1, 7), [(8, true), (9, true)]);
        b.subscribe(2, from(6));
        assert!(!b.answered(2).recovered, "7 is gone");
        assert!(b.said.history.is_empty(), "and is not looked for");
    }
}

#[test]
fn a_removal_that_fails_changes_nothing_and_says_so() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    interested(&mut b, 4, 0);
    (5..=9).for_each(|o| b.deliver(o));
    let instance_epoch = gb6_core_model::InstanceEpoch(1);
    b.ask(
        0,
        7,
        Request::RemoveHistory {
            instance_epoch,
            first: None,
        },
    );
    let request = b.said.owner.iter().find_map(|f| match f {
        OwnerFrame::RemoveHistory(r) => Some(r.request),
        _ => None,
    });
    let failed = HistoryRemoved {
        request: request.expect("the owner was asked"),
        room: room(1),
        first: 0,
        error: ErrorCode::StorageFull.code(),
    };
    b.frame(0, EdgeFrame::HistoryRemoved(failed));
    assert_eq!(b.failed(7), ErrorCode::StorageFull);
    assert_eq!(recovered(&mut b, 1, 7), [(8, true), (9, true)]);
}
