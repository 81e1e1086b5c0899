//! Who waits for whom on the way to the log: instances take turns, and the hub's own reads wait for
//! none of them.

use gb6_core_model::{ErrorCode, SessionId};
use gb6_core_wire::mesh::*;
use gb6_edge_session::{Answer, HistoryQuery, HubConfig, HubRequest, Request};

use crate::hub_rules::{Bench, page};

fn ask(b: &mut Bench, token: u64, instance: &str) {
    let query = HistoryQuery {
        since: Some(token),
        reverse: false,
        limit: 10,
        bytes: 1_000,
    };
    let request = HubRequest {
        token,
        session: SessionId(token),
        room: RoomRef {
            instance: instance.to_owned(),
            channel: "room:1".to_owned(),
        },
        request: Request::History(query),
    };
    b.hub.request(0, &token, request, &mut b.said);
}

fn bench(reads_in_flight: usize, reads_waiting: usize) -> Bench {
    let mut b = Bench::detached(HubConfig {
        reads_in_flight,
        reads_waiting,
        ..HubConfig::default()
    });
    b.attach(0, 1);
    b.said.owner.clear();
    b
}

/// Who asked for what has been sent since the last look.
fn sent(b: &mut Bench) -> Vec<(String, u64, HistoryRequest)> {
    let reads = b.said.history.drain(..);
    reads
        .map(|r| (r.room.instance.clone(), r.since, r))
        .collect()
}

#[test]
fn a_flood_of_deep_reads_leaves_places_and_turns_to_others() {
    let mut b = bench(8, 50);
    (0..100).for_each(|token| ask(&mut b, token, "flood"));
    // Six are under way, fifty wait, the rest is refused.
    let flood = sent(&mut b);
    assert_eq!(flood.len(), 6);
    let refused: Vec<u64> = b.said.answers.drain(..).map(|(token, _)| token).collect();
    assert_eq!(refused, (56..100).collect::<Vec<_>>());
    // Another instance neither waits for those that the log has not answered nor is refused.
    ask(&mut b, 1_000, "calm");
    ask(&mut b, 1_001, "calm");
    ask(&mut b, 1_002, "calm");
    let calm = sent(&mut b);
    assert_eq!(calm.len(), 2);
    assert!(calm.iter().all(|(instance, ..)| instance == "calm"));
    // One place becomes free: it is the next instance's turn.
    b.hub.history_page(0, page(&flood[0].2, [], 9), &mut b.said);
    let next: Vec<String> = sent(&mut b).into_iter().map(|(i, ..)| i).collect();
    assert_eq!(next, ["flood"]);
    b.hub.history_page(0, page(&flood[1].2, [], 9), &mut b.said);
    let next: Vec<String> = sent(&mut b).into_iter().map(|(i, ..)| i).collect();
    assert_eq!(next, ["calm"]);
    // After a break all are asked again, and every one is answered once.
    b.said.answers.clear();
    b.hub.link_down(10, &mut b.said);
    b.attach(20, 1);
    let mut open = sent(&mut b);
    while let Some((_, _, read)) = open.pop() {
        b.hub.history_page(20, page(&read, [], 9), &mut b.said);
        open.extend(sent(&mut b));
    }
    assert_eq!(b.said.answers.len(), 54 + 3);
    assert!(b.hub.is_idle());
}

#[test]
fn reads_that_take_long_leave_their_places_to_others_up_to_a_bound() {
    let mut b = bench(8, 100);
    (0..100).for_each(|token| ask(&mut b, token, "deep"));
    let mut deep = sent(&mut b);
    assert_eq!(deep.len(), 6);
    b.hub.tick(499, &mut b.said);
    assert_eq!(sent(&mut b).len(), 0);
    // Nothing is answered: six more of it each time, until there are four for each of its places.
    for (now, under_way) in [
        (500, 12),
        (1_000, 18),
        (1_500, 24),
        (2_000, 24),
        (2_500, 24),
    ] {
        b.hub.tick(now, &mut b.said);
        deep.extend(sent(&mut b));
        assert_eq!(deep.len(), under_way, "at {now}");
    }
    // Another instance has all places meanwhile but for the last quarter.
    (200..210).for_each(|token| ask(&mut b, token, "calm"));
    b.hub.tick(2_600, &mut b.said);
    let calm = sent(&mut b);
    assert_eq!(calm.len(), 6);
    assert!(calm.iter().all(|(instance, ..)| instance == "calm"));
    // What is answered late is answered.
    b.said.answers.clear();
    b.hub
        .history_page(2_700, page(&deep[0].2, [], 9), &mut b.said);
    assert_eq!(b.said.answers.len(), 1);
}

#[test]
fn a_gap_is_closed_behind_recoveries_that_take_long() {
    let config = HubConfig {
        own_reads_in_flight: 1,
        ..HubConfig::default()
    };
    let mut b = Bench::detached(config);
    b.attach(0, 1);
    b.subscribe(1, None);
    b.interested(4, 1);
    b.subscribe(2, crate::hub_rules::from(1));
    assert_eq!(sent(&mut b).len(), 1, "the recovery has the only place");
    b.deliver(7);
    assert_eq!(sent(&mut b).len(), 0);
    b.hub.tick(500, &mut b.said);
    let fill = sent(&mut b);
    assert_eq!((fill.len(), fill[0].1), (1, 4));
}

#[test]
fn a_gap_is_closed_while_sessions_wait_for_deep_reads() {
    let mut b = bench(4, 100);
    b.subscribe(1, None);
    b.interested(4, 1);
    // Every place of the sessions is taken, and nothing is answered.
    for token in 100..120 {
        ask(&mut b, token, "i1");
        ask(&mut b, token + 100, "i2");
    }
    assert_eq!(sent(&mut b).len(), 4);
    b.deliver(7);
    let fill = sent(&mut b);
    assert_eq!((fill.len(), fill[0].1), (1, 4));
    b.hub
        .history_page(0, page(&fill[0].2, 5..=7, 7), &mut b.said);
    assert_eq!(b.said.delivered.len(), 3);
    // Nor does a recovery wait.
    b.subscribe(2, crate::hub_rules::from(1));
    let backfill = sent(&mut b);
    assert_eq!((backfill.len(), backfill[0].1), (1, 1));
    let refused = |a: &(u64, Answer)| matches!(a.1, Answer::Failed(ErrorCode::TooManyRequests));
    assert!(!b.said.answers.iter().any(refused));
}
