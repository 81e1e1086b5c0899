//! Gaps are closed no faster than subscribers read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use gb6_core_model::{Incarnation, SessionId, limits};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::*;
use gb6_edge_session::{
    Answer, Detach, Hub, HubConfig, HubOut, HubRequest, Notice, Request, SubscribeQuery,
};

use crate::client::replies;
use crate::hub_rules::attached_frame;

const ROOMS: u64 = 5;
/// Of one message's data: a page holds 500 KB.
const DATA: usize = 5_000;
const PAGE: u64 = 100;
/// Offsets: subscribers stand at the first, live ones are kept from the second on.
const STANDS: u64 = 10;
const KEPT_FROM: u64 = 411;
const LAST: u64 = 600;

/// Queues of sessions, as an edge has them.
#[derive(Default)]
struct Queues {
    waiting: BTreeMap<u64, usize>,
    most: usize,
    seen: BTreeMap<(u64, String), Vec<u64>>,
    overflowed: BTreeSet<u64>,
    history: Vec<HistoryRequest>,
}

impl Queues {
    /// Every session but those in `not` reads everything.
    fn read(&mut self, not: &[u64]) {
        self.waiting.retain(|session, _| not.contains(session));
    }
}

impl HubOut<u64> for Queues {
    fn deliver(&mut self, to: &u64, frame: Bytes) {
        if self.overflowed.contains(to) {
            return;
        }
        let waiting = self.waiting.entry(*to).or_default();
        *waiting += frame.len();
        if *waiting > limits::SESSION_QUEUE_BYTES_MAX {
            self.overflowed.insert(*to);
            *waiting = 0;
            return;
        }
        self.most = self.most.max(*waiting);
        let push = replies(Dialect::Json, &frame).remove(0).push.unwrap();
        let seen = self.seen.entry((*to, push.channel)).or_default();
        seen.push(push.publication.unwrap().offset);
    }
    fn backlog(&self, to: &u64) -> usize {
        self.waiting.get(to).copied().unwrap_or(0)
    }
    fn complete(&mut self, _to: &u64, _token: u64, _answer: Answer) {}
    fn notice(&mut self, _to: &u64, _notice: Notice) {
        panic!("the log continues every room");
    }
    fn to_owner(&mut self, _frame: OwnerFrame) {}
    fn to_history(&mut self, request: HistoryRequest) {
        self.history.push(request);
    }
    fn detach(&mut self, why: Detach) {
        panic!("{why:?}");
    }
}

fn room(n: u64) -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: format!("room:{n}"),
    }
}

fn publication(offset: u64) -> Publication {
    Publication {
        offset,
        time: 1,
        data: Bytes::from(format!("\"{}\"", "x".repeat(DATA))),
        content_type: 1,
        ..Publication::default()
    }
}

/// A hub with sessions that are subscribed to all rooms, each of which then has a gap.
fn with_gaps(sessions: &[u64]) -> (Hub<u64>, Queues) {
    let (mut hub, mut out) = (Hub::new(HubConfig::default()), Queues::default());
    hub.link_up(0, Incarnation(7), 1, &mut out);
    hub.frame(0, attached_frame(1), &mut out);
    for n in 0..ROOMS {
        for session in sessions {
            let query = SubscribeQuery {
                dialect: Dialect::Json,
                join_leave: false,
                presence: None,
                recover: None,
                delivery: Default::default(),
            };
            let request = HubRequest {
                token: n,
                session: SessionId(*session),
                room: room(n),
                request: Request::Subscribe(Box::new(query)),
            };
            hub.request(0, session, request, &mut out);
        }
        let interested = Interested {
            room: room(n),
            top: STANDS,
            first: 1,
            generation: 0,
            erasures: 0,
        };
        hub.frame(0, EdgeFrame::Interested(interested), &mut out);
    }
    for offset in KEPT_FROM..=LAST {
        for n in 0..ROOMS {
            let deliver = Deliver {
                room: room(n),
                publication: publication(offset),
            };
            hub.frame(0, EdgeFrame::Deliver(deliver), &mut out);
        }
    }
    assert!(hub.gauges().ahead_bytes > 4_500_000);
    (hub, out)
}

/// All pages that the log is asked for come at once.
fn pages(hub: &mut Hub<u64>, out: &mut Queues, now: u64) {
    for read in std::mem::take(&mut out.history) {
        let to = (read.since + PAGE.min(read.limit.into())).min(LAST);
        let page = HistoryPage {
            request: read.request,
            publications: (read.since + 1..=to).map(publication).collect(),
            top: LAST,
            first: 1,
            ..HistoryPage::default()
        };
        hub.history_page(now, page, out);
    }
}

#[test]
fn a_session_that_reads_is_never_handed_more_than_its_queue_holds() {
    let (mut hub, mut out) = with_gaps(&[1, 2]);
    let mut now = 0;
    loop {
        pages(&mut hub, &mut out, now);
        assert!(hub.gauges().ready_bytes <= 5 * 600_000);
        if out.history.is_empty() && !hub.fills_wait() {
            break;
        }
        out.read(&[]);
        now += 5;
        assert!(now < 10_000, "it goes on");
        hub.continue_fills(now, &mut out);
    }
    assert!(out.overflowed.is_empty());
    assert!(
        out.most < limits::SESSION_QUEUE_BYTES_MAX / 2,
        "{}",
        out.most
    );
    // Half of the queue is enough to keep several rooms busy.
    assert!(out.most > 200_000, "{}", out.most);
    assert_eq!(out.seen.len() as u64, 2 * ROOMS);
    for seen in out.seen.values() {
        assert_eq!(*seen, (STANDS + 1..=LAST).collect::<Vec<_>>());
    }
    let gauges = hub.gauges();
    assert_eq!((gauges.ahead_bytes, gauges.ready_bytes), (0, 0));
}

#[test]
fn a_session_that_does_not_read_is_waited_for_once() {
    let (mut hub, mut out) = with_gaps(&[1, 2]);
    let mut now = 0;
    while hub.fills_wait() || !out.history.is_empty() || now == 0 {
        pages(&mut hub, &mut out, now);
        out.read(&[2]);
        now += 5;
        hub.continue_fills(now, &mut out);
        assert!(now < 6_000, "{now} ms for what others wait for");
    }
    assert!(now > 1_900, "it had a chance");
    assert_eq!(out.overflowed, [2].into());
    for n in 0..ROOMS {
        let seen = &out.seen[&(1, format!("room:{n}"))];
        assert_eq!(*seen, (STANDS + 1..=LAST).collect::<Vec<_>>());
    }
}

#[test]
fn a_break_in_the_middle_begins_where_it_stands_and_erased_messages_stay_erased() {
    let (mut hub, mut out) = with_gaps(&[1]);
    pages(&mut hub, &mut out, 0);
    assert!(hub.gauges().ready_bytes > 0);
    // Read and not yet handed out.
    let erased = Erased {
        room: room(0),
        offset: 105,
        erasures: 1,
    };
    hub.frame(0, EdgeFrame::Erased(erased), &mut out);
    hub.link_down(10, &mut out);
    assert!(!hub.fills_wait() && hub.gauges().ready_bytes == 0);
    hub.continue_fills(10, &mut out);
    out.history.clear();
    hub.link_up(20, Incarnation(7), 1, &mut out);
    hub.frame(20, attached_frame(1), &mut out);
    for n in 0..ROOMS {
        let interested = Interested {
            room: room(n),
            top: LAST,
            first: 1,
            generation: 0,
            erasures: 0,
        };
        hub.frame(20, EdgeFrame::Interested(interested), &mut out);
    }
    let mut now = 20;
    while hub.fills_wait() || !out.history.is_empty() {
        pages(&mut hub, &mut out, now);
        out.read(&[]);
        now += 50;
        hub.tick(now, &mut out);
    }
    for n in 0..ROOMS {
        let seen = &out.seen[&(1, format!("room:{n}"))];
        assert_eq!(*seen, (STANDS + 1..=LAST).collect::<Vec<_>>());
    }
}
