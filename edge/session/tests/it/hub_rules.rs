//! Rules of the hub, one by one.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{ErrorCode, Incarnation, InstanceId, SessionId, hash};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::*;
use gb6_edge_session::{
    Answer, Detach, HistoryQuery, Hub, HubConfig, HubOut, HubRequest, Notice, RecoverFrom, Request,
    SubscribeAnswer, SubscribeQuery,
};

use crate::client::{Question, replies, room};
use crate::hub_model::{World, person};

/// Everything that a hub says, as it comes.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) delivered: Vec<(u64, Bytes)>,
    pub(crate) answers: Vec<(u64, Answer)>,
    pub(crate) notices: Vec<u64>,
    pub(crate) owner: Vec<OwnerFrame>,
    pub(crate) history: Vec<HistoryRequest>,
    pub(crate) detached: Vec<Detach>,
    /// Frames to the owner from which on it takes no more.
    pub(crate) owner_max: Option<usize>,
    /// The last number given to a channel, if any are given.
    pub(crate) numbers: Option<i64>,
    /// Bytes that wait for every session's client.
    pub(crate) backlog: usize,
    /// Subscriptions that may be ended; `None`: any number.
    pub(crate) may_evict: Option<usize>,
}

impl HubOut<u64> for Said {
    fn deliver(&mut self, to: &u64, frame: Bytes) {
        self.delivered.push((*to, frame));
    }
    fn complete(&mut self, _to: &u64, token: u64, answer: Answer) {
        self.answers.push((token, answer));
    }
    fn notice(&mut self, to: &u64, _notice: Notice) {
        self.notices.push(*to);
    }
    fn backlog(&self, _to: &u64) -> usize {
        self.backlog
    }
    fn channel_number(&mut self, _instance: &str) -> i64 {
        self.numbers.as_mut().map_or(0, |last| {
            *last += 1;
            *last
        })
    }
    fn may_evict(&mut self) -> bool {
        let Some(left) = &mut self.may_evict else {
            return true;
        };
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }
    fn to_owner(&mut self, frame: OwnerFrame) {
        self.owner.push(frame);
    }
    fn owner_full(&self) -> bool {
        self.owner_max.is_some_and(|max| self.owner.len() >= max)
    }
    fn to_history(&mut self, request: HistoryRequest) {
        self.history.push(request);
    }
    fn detach(&mut self, why: Detach) {
        self.detached.push(why);
    }
}

pub(crate) struct Bench {
    pub(crate) hub: Hub<u64>,
    pub(crate) said: Said,
}

pub(crate) fn attached_frame(shard_epoch: u64) -> EdgeFrame {
    EdgeFrame::Attached(Attached {
        shard_epoch,
        owner_incarnation: 1,
        lease_ms: 10_000,
        credit: 2,
        credit_bytes: 100,
    })
}

impl Bench {
    pub(crate) fn detached(config: HubConfig) -> Self {
        Self {
            hub: Hub::new(config),
            said: Said::default(),
        }
    }

    pub(crate) fn new() -> Self {
        let mut bench = Self::detached(HubConfig::default());
        bench.attach(0, 1);
        bench.said = Said::default();
        bench
    }

    pub(crate) fn attach(&mut self, now: u64, epoch: u64) {
        self.hub.link_up(now, Incarnation(7), 1, &mut self.said);
        self.frame(now, attached_frame(epoch));
    }

    pub(crate) fn frame(&mut self, now: u64, frame: EdgeFrame) {
        self.hub.frame(now, frame, &mut self.said);
    }

    /// The session's number is the token too.
    pub(crate) fn ask(&mut self, now: u64, session: u64, request: Request) {
        let request = HubRequest {
            token: session,
            session: SessionId(session),
            room: room(1),
            request,
        };
        self.hub.request(now, &session, request, &mut self.said);
    }

    pub(crate) fn subscribe(&mut self, session: u64, recover: Option<RecoverFrom>) {
        self.subscribe_with(session, recover, Dialect::Json, false);
    }

    pub(crate) fn subscribe_with(
        &mut self,
        session: u64,
        recover: Option<RecoverFrom>,
        dialect: Dialect,
        join_leave: bool,
    ) {
        let query = SubscribeQuery {
            dialect,
            join_leave,
            presence: None,
            recover,
            delivery: Default::default(),
        };
        self.ask(0, session, Request::Subscribe(Box::new(query)));
    }

    pub(crate) fn interested(&mut self, top: u64, first: u64) {
        let frame = Interested {
            room: room(1),
            top,
            first,
            generation: 0,
            erasures: 0,
        };
        self.frame(0, EdgeFrame::Interested(frame));
    }

    pub(crate) fn deliver(&mut self, offset: u64) {
        let frame = Deliver {
            room: room(1),
            publication: publication(offset),
        };
        self.frame(0, EdgeFrame::Deliver(frame));
    }

    pub(crate) fn answered(&mut self, session: u64) -> SubscribeAnswer {
        let at = self.said.answers.iter().position(|(t, _)| *t == session);
        match self.said.answers.remove(at.expect("an answer")).1 {
            Answer::Subscribed(answer) => *answer,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn failed(&mut self, session: u64) -> ErrorCode {
        let at = self.said.answers.iter().position(|(t, _)| *t == session);
        match self.said.answers.remove(at.expect("an answer")).1 {
            Answer::Failed(code) => code,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn publishes(&mut self) -> Vec<Publish> {
        let frames = std::mem::take(&mut self.said.owner);
        let only = |f| match f {
            OwnerFrame::Publish(p) => Some(p),
            _ => None,
        };
        frames.into_iter().filter_map(only).collect()
    }

    pub(crate) fn publish(&mut self, now: u64, token: u64, bytes: usize) {
        let query = gb6_edge_session::PublishQuery {
            instance_epoch: gb6_core_model::InstanceEpoch(1),
            from: Arc::new(person(5)),
            id: Bytes::new(),
            data: Bytes::from(vec![b'1'; bytes]),
            content_type: gb6_core_wire::record::ContentType::Json,
            tags: Default::default(),
            traceparent: String::new(),
            version: None,
            after: None,
            signal: false,
            unkept: false,
        };
        let request = HubRequest {
            token,
            session: SessionId(5),
            room: room(1),
            request: Request::Publish(Box::new(query)),
        };
        self.hub.request(now, &5, request, &mut self.said);
    }

    pub(crate) fn published(&mut self, request: u64, offset: u64) {
        let frame = Published {
            request,
            offset,
            ..Published::default()
        };
        self.frame(0, EdgeFrame::Published(frame));
    }
}

pub(crate) fn publication(offset: u64) -> Publication {
    Publication {
        offset,
        time: 1,
        data: Bytes::from(format!("{{\"o\":{offset}}}")),
        content_type: 1,
        ..Publication::default()
    }
}

pub(crate) fn from(offset: u64) -> Option<RecoverFrom> {
    Some(RecoverFrom {
        offset,
        epoch: String::new(),
        publications_max: 100,
        bytes_max: 100_000,
        newest_only: false,
        or_fail: false,
    })
}

pub(crate) fn page(
    request: &HistoryRequest,
    offsets: impl IntoIterator<Item = u64>,
    top: u64,
) -> HistoryPage {
    HistoryPage {
        request: request.request,
        publications: offsets.into_iter().map(publication).collect(),
        top,
        first: 1,
        ..HistoryPage::default()
    }
}

#[test]
fn a_publication_is_encoded_once_per_dialect_and_its_bytes_are_shared() {
    let mut b = Bench::new();
    for session in 0..40 {
        let dialect = Dialect::ALL[session as usize % 2];
        b.subscribe_with(session, None, dialect, false);
    }
    b.interested(4, 1);
    b.said.delivered.clear();
    b.deliver(5);
    assert_eq!(b.said.delivered.len(), 40);
    for parity in 0..2 {
        let mut frames = b.said.delivered.iter().filter(|(s, _)| s % 2 == parity);
        let first = &frames.next().unwrap().1;
        assert!(frames.all(|(_, f)| f.as_ptr() == first.as_ptr()));
        let push = replies(Dialect::ALL[parity as usize], first).remove(0).push;
        assert_eq!(push.unwrap().publication.unwrap().offset, 5);
    }
    assert_eq!(b.hub.counters().encoded, 2);
    assert_eq!(b.hub.counters().fan_out, 40);
}

#[test]
fn ten_thousand_that_come_back_at_once_cost_a_handful_of_reads() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(50, 1);
    for session in 1..=10_000 {
        b.subscribe(session, from(50 - session % 30));
    }
    // Whoever waits: reads come one after the other, from the lowest position asked for.
    let mut reads = 0;
    while let Some(read) = b.said.history.pop() {
        reads += 1;
        let to = (read.since + u64::from(read.limit)).min(50);
        let page = page(&read, read.since + 1..=to, 50);
        b.hub.history_page(0, page, &mut b.said);
    }
    assert!(reads <= 3, "{reads} reads");
    for session in 1..=10_000 {
        let answer = b.answered(session);
        assert!(answer.recovered);
        assert_eq!(answer.publications.len() as u64, session % 30);
    }
    // What was read is remembered: the next one costs nothing.
    b.subscribe(20_000, from(25));
    assert!(b.answered(20_000).recovered && b.said.history.is_empty());
    b.deliver(51);
    assert_eq!(b.said.delivered.len(), 10_002);
}

#[test]
fn recovery_table() {
    let epoch = hash::stream_epoch(&InstanceId::from("i1"), "room:1", 0);
    let with = |offset, epoch: &str, publications_max, bytes_max| RecoverFrom {
        offset,
        epoch: epoch.into(),
        publications_max,
        bytes_max,
        newest_only: false,
        or_fail: false,
    };
    let cases = [
        (with(20, &epoch, 0, 0), Some(0), "at the top"),
        (with(18, &epoch, 2, 10_000), Some(2), "within the budget"),
        (with(18, "", 2, 10_000), Some(2), "any epoch"),
        (with(18, "_", 2, 10_000), None, "no epoch of ours"),
        (with(18, "other", 2, 10_000), None, "another epoch"),
        (with(17, &epoch, 2, 10_000), None, "one too many"),
        (with(18, &epoch, 2, 60), None, "too many bytes"),
        (with(9, &epoch, 100, 100_000), None, "below the oldest kept"),
        (with(10, &epoch, 100, 100_000), Some(10), "the oldest kept"),
    ];
    for (recover, want, what) in cases {
        let mut b = Bench::new();
        b.subscribe(0, None);
        b.interested(10, 11);
        (11..=20).for_each(|o| b.deliver(o));
        b.subscribe(1, Some(recover.clone()));
        let answer = b.answered(1);
        assert_eq!(*answer.epoch, *epoch);
        assert_eq!(answer.recovered, want.is_some(), "{what}");
        assert_eq!(answer.publications.len(), want.unwrap_or(0), "{what}");
        let offset = if want.is_some() { recover.offset } else { 20 };
        assert_eq!(answer.offset, offset, "{what}");
        // Whoever wants an error instead gets one, and no subscription.
        b.subscribe(
            2,
            Some(RecoverFrom {
                newest_only: false,
                or_fail: true,
                ..recover
            }),
        );
        b.said.delivered.clear();
        if want.is_none() {
            assert_eq!(b.failed(2), ErrorCode::UnrecoverablePosition, "{what}");
        }
        b.deliver(21);
        let got = b.said.delivered.iter().any(|(to, _)| *to == 2);
        assert_eq!(got, want.is_some(), "{what}");
    }
}

#[test]
fn a_position_that_has_not_come_here_yet_is_waited_for_one_that_does_not_exist_is_refused() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(5, 1);
    b.subscribe(2, from(90));
    b.subscribe(1, from(7));
    let probe = b.said.history.pop().unwrap();
    assert_eq!((probe.limit, b.said.history.len()), (0, 0));
    let answer = page(&probe, [], 8);
    b.hub.history_page(0, answer, &mut b.said);
    assert!(!b.answered(2).recovered);
    (6..=8).for_each(|o| b.deliver(o));
    let answer = b.answered(1);
    assert!(answer.recovered && answer.publications.is_empty());
    let got: Vec<u64> = b.said.delivered.iter().map(|(to, _)| *to).collect();
    assert_eq!(got, [0, 2, 0, 2, 0, 2, 1], "1 has 7 already");
}

#[test]
fn an_offset_far_above_the_top_is_refused_at_once_the_highest_of_all_too() {
    for offset in [8, 1 << 63, u64::MAX - 1, u64::MAX] {
        let mut b = Bench::new();
        b.subscribe(0, None);
        b.interested(7, 1);
        b.subscribe(1, from(offset));
        let probe = b.said.history.pop().expect("the owner is asked");
        b.hub.history_page(0, page(&probe, [], 7), &mut b.said);
        let answer = b.answered(1);
        assert_eq!((answer.recovered, answer.offset), (false, 7), "{offset}");
        b.deliver(8);
        assert_eq!(b.said.delivered.len(), 2);
        // The first of a room: the owner's first word about it is not enough, its next is.
        let mut b = Bench::new();
        b.subscribe(1, from(offset));
        b.interested(7, 1);
        let probe = b.said.history.pop().expect("the owner is asked");
        b.hub.history_page(0, page(&probe, [], 7), &mut b.said);
        assert!(!b.answered(1).recovered);
    }
}

#[test]
fn the_answer_to_an_earlier_question_for_the_top_says_nothing_of_a_later_joiner() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(7, 1);
    b.subscribe(1, from(90));
    let probe = b.said.history.pop().unwrap();
    b.subscribe(2, from(9));
    b.said.answers.clear();
    b.hub.history_page(0, page(&probe, [], 7), &mut b.said);
    assert!(!b.answered(1).recovered);
    assert!(b.said.answers.is_empty(), "9 may have been written since");
    let probe = b.said.history.pop().expect("asked again");
    b.hub.history_page(0, page(&probe, [], 9), &mut b.said);
    (8..=9).for_each(|o| b.deliver(o));
    assert!(b.answered(2).recovered);
}

#[test]
fn a_failed_question_for_the_top_is_asked_again_after_a_while() {
    let mut b = Bench::new();
    b.subscribe(0, None);
    b.interested(7, 1);
    b.subscribe(1, from(9));
    let probe = b.said.history.pop().unwrap();
    let failed = HistoryPage {
        error: ErrorCode::Internal.code(),
        ..page(&probe, [], 0)
    };
    b.said.answers.clear();
    b.hub.history_page(100, failed, &mut b.said);
    b.hub.tick(349, &mut b.said);
    assert!(b.said.history.is_empty() && b.said.answers.is_empty());
    b.hub.tick(350, &mut b.said);
    let probe = b.said.history.pop().expect("asked again");
    b.hub.history_page(351, page(&probe, [], 7), &mut b.said);
    assert!(!b.answered(1).recovered);
}

#[test]
fn equal_history_questions_are_asked_once() {
    let mut b = Bench::new();
    let query = |limit| {
        Request::History(HistoryQuery {
            since: None,
            reverse: true,
            limit,
            bytes: 1_000,
        })
    };
    // One instance leaves a quarter of the places to others.
    let at_once = HubConfig::default().reads_in_flight as u64 / 4 * 3;
    (0..at_once).for_each(|s| b.ask(0, s, query(s as u32)));
    assert_eq!(b.said.history.len() as u64, at_once);
    (100..1_100).for_each(|s| b.ask(0, s, query(50)));
    assert_eq!(b.said.history.len() as u64, at_once, "bounded");
    let read = b.said.history.remove(0);
    b.hub.history_page(0, page(&read, 1..=1, 9), &mut b.said);
    let read = b.said.history.pop().unwrap();
    assert_eq!((read.limit, read.from_end, read.reverse), (50, true, true));
    b.said.answers.clear();
    b.hub.history_page(0, page(&read, 1..=2, 9), &mut b.said);
    assert_eq!(b.said.answers.len(), 1_000);
    assert_eq!(b.hub.counters().reads_shared, 999);
}

#[test]
fn publishes_wait_at_the_door_for_credit_and_keep_order_and_number_over_a_break() {
    let mut b = Bench::new();
    (1..=4).for_each(|token| b.publish(0, token, 10));
    let sent = b.publishes();
    assert_eq!(sent.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2]);
    b.published(sent[0].request, 1);
    assert_eq!(b.publishes()[0].number, 3);
    b.hub.link_down(10, &mut b.said);
    b.publish(20, 5, 10);
    b.attach(30, 1);
    let again = b.publishes();
    assert_eq!(again.iter().map(|p| p.number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(again[0].request, sent[1].request);
    assert_eq!(again[0].settled_below, 2);
    b.published(again[0].request, 2);
    b.published(again[1].request, 3);
    let rest = b.publishes();
    assert_eq!(rest.iter().map(|p| p.number).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(rest[1].settled_below, 4);
    assert_eq!(b.hub.counters().resent, 2);
    // A second answer to the same request belongs to nothing.
    b.published(again[0].request, 9);
    assert_eq!(b.hub.counters().stray_frames, 1);
}

#[test]
fn credit_counts_bytes_too_but_one_publish_always_goes() {
    let mut b = Bench::new();
    b.publish(0, 1, 500);
    assert_eq!(b.publishes().len(), 1);
    b.publish(0, 2, 1);
    assert_eq!(b.publishes().len(), 0, "500 of 100 bytes are unanswered");
}

#[test]
fn a_publish_without_an_answer_is_1003_after_four_seconds_and_never_sent_again() {
    let mut b = Bench::new();
    (1..=3).for_each(|token| b.publish(0, token, 10));
    let sent = b.publishes();
    b.hub.tick(3_999, &mut b.said);
    assert!(b.said.answers.is_empty());
    b.hub.tick(4_000, &mut b.said);
    assert_eq!([1, 2].map(|t| b.failed(t)), [ErrorCode::OutcomeUnknown; 2]);
    // The third was never sent: that nothing was written is known.
    assert_eq!(b.failed(3), ErrorCode::TooManyRequests);
    // The owner still counts them: their credit comes back with their answers.
    b.publish(4_001, 4, 10);
    assert!(b.publishes().is_empty());
    b.published(sent[0].request, 1);
    let next = b.publishes();
    assert_eq!((next[0].number, next[0].settled_below), (3, 3));
    b.hub.link_down(4_100, &mut b.said);
    b.publish(4_100, 5, 10);
    b.hub.tick(8_100, &mut b.said);
    assert_eq!(b.failed(4), ErrorCode::OutcomeUnknown);
    assert_eq!(b.failed(5), ErrorCode::OwnerMoving);
    b.attach(8_200, 1);
    assert!(b.publishes().is_empty());
}

#[test]
fn a_session_has_not_ended_for_the_owner_while_a_publish_given_up_may_still_be_answered() {
    let ended = |b: &mut Bench| {
        let said = std::mem::take(&mut b.said.owner);
        let end = OwnerFrame::SessionEnded(SessionEnded { session: 5 });
        said.iter().filter(|f| **f == end).count()
    };
    let mut b = Bench::new();
    (1..=2).for_each(|token| b.publish(0, token, 10));
    let sent = b.publishes();
    b.hub.tick(4_000, &mut b.said);
    b.hub.session_closed(4_001, SessionId(5), &mut b.said);
    assert_eq!(ended(&mut b), 0, "two answers may still come");
    b.published(sent[0].request, 1);
    assert_eq!(ended(&mut b), 0, "one answer may still come");
    b.published(sent[1].request, 2);
    assert_eq!(ended(&mut b), 1);
    // Closed first, given up later, and the link breaks instead of an answer: told once attached.
    let mut b = Bench::new();
    b.publish(0, 1, 10);
    b.hub.session_closed(1, SessionId(5), &mut b.said);
    b.hub.tick(4_000, &mut b.said);
    assert_eq!(ended(&mut b), 0, "not while the answer may come");
    b.hub.link_down(4_100, &mut b.said);
    assert_eq!(ended(&mut b), 0, "nobody can be told");
    b.attach(4_200, 1);
    assert_eq!(ended(&mut b), 1);
}

#[test]
fn a_full_door_refuses_its_instance_only() {
    let config = HubConfig {
        door_max: 3,
        ..HubConfig::default()
    };
    let mut b = Bench::detached(config);
    (1..=4).for_each(|token| b.publish(0, token, 10));
    assert_eq!(b.failed(4), ErrorCode::TooManyRequests);
    let other = room(2);
    assert_ne!(other.instance, room(1).instance);
    let mut world = World::new(
        HubConfig {
            door_max: 1,
            ..HubConfig::default()
        },
        1,
    );
    world.publish(0, room(1));
    world.publish(0, room(1));
    world.publish(0, other);
    assert_eq!(world.clients.failures, [ErrorCode::TooManyRequests]);
}

#[test]
fn an_ended_lease_is_a_new_incarnation_and_answers_what_was_sent() {
    let mut b = Bench::new();
    b.publish(9_000, 1, 10);
    assert_eq!(b.publishes().len(), 1);
    b.hub.tick(9_999, &mut b.said);
    assert!(b.said.detached.is_empty());
    b.hub.tick(10_000, &mut b.said);
    assert_eq!(b.said.detached, [Detach::LeaseEnded]);
    assert_eq!(b.failed(1), ErrorCode::OutcomeUnknown);
    b.said.owner.clear();
    b.hub.link_up(10_001, Incarnation(8), 2, &mut b.said);
    let attach = Attach {
        edge_incarnation: 8,
        revision: 2,
        // That of the owner that served it before.
        shard_epoch: 1,
    };
    assert_eq!(b.said.owner, [OwnerFrame::Attach(attach.clone())]);
    // While the lease lasts, a break changes nothing.
    b.frame(10_002, attached_frame(1));
    b.said.owner.clear();
    b.hub.link_up(11_000, Incarnation(9), 2, &mut b.said);
    assert_eq!(b.said.owner, [OwnerFrame::Attach(attach)]);
}

#[test]
fn a_stale_owner_is_left() {
    let mut b = Bench::new();
    b.attach(10, 5);
    b.attach(20, 4);
    assert_eq!(b.said.detached, [Detach::StaleOwner]);
    assert!(!b.hub.gauges().attached);
    b.attach(30, 5);
    assert!(b.hub.gauges().attached);
}

#[test]
fn a_gap_that_the_log_can_not_fill_ends_subscriptions_at_a_pace() {
    let mut b = Bench::detached(HubConfig::default());
    b.said.may_evict = Some(0);
    b.attach(0, 1);
    (0..50).for_each(|s| b.subscribe(s, None));
    b.interested(3, 1);
    b.hub.link_down(0, &mut b.said);
    b.attach(0, 1);
    b.interested(9, 8);
    let read = b.said.history.pop().unwrap();
    let mut gone = page(&read, [], 9);
    (gone.error, gone.first) = (112, 8);
    b.hub.history_page(0, gone, &mut b.said);
    b.deliver(10);
    assert!(b.said.delivered.is_empty(), "nothing is skipped in silence");
    b.hub.tick(1_000, &mut b.said);
    assert_eq!(b.said.notices.len(), 0, "the pace is the driver's");
    b.said.may_evict = Some(10);
    b.hub.tick(1_100, &mut b.said);
    assert_eq!((b.said.notices.len(), b.said.may_evict), (10, Some(0)));
    // One that leaves by itself need not be told.
    b.ask(1_000, 49, Request::Unsubscribe);
    b.said.may_evict = Some(100);
    b.hub.tick(1_200, &mut b.said);
    assert_eq!(b.said.notices.len(), 49);
    assert_eq!(b.said.may_evict, Some(61), "nothing is asked for in vain");
    b.subscribe(60, None);
    assert_eq!(b.answered(60).offset, 10);
}

#[test]
fn joins_and_leaves_reach_those_who_asked_for_them() {
    let mut b = Bench::new();
    b.subscribe_with(1, None, Dialect::Json, true);
    b.subscribe_with(2, None, Dialect::Json, false);
    b.subscribe_with(3, None, Dialect::Protobuf, true);
    b.interested(0, 1);
    let who = Presence {
        room: room(1),
        person: person(9),
    };
    b.frame(0, EdgeFrame::Join(who.clone()));
    b.frame(0, EdgeFrame::Leave(who));
    let to: Vec<u64> = b.said.delivered.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [1, 3, 1, 3]);
    let push = |at: usize, d| replies(d, &b.said.delivered[at].1).remove(0).push.unwrap();
    assert_eq!(
        push(0, Dialect::Json).join.unwrap().info.unwrap().user,
        "u9"
    );
    assert!(push(3, Dialect::Protobuf).leave.is_some());
}

#[test]
fn the_set_of_all_present_is_cut_by_number_and_by_bytes() {
    use prost::Message as _;
    // So many people with so much information each.
    for (people, info) in [(0, 0), (1_200, 10), (300, 30_000), (3, 2_000_000)] {
        let mut b = Bench::new();
        b.interested(0, 1);
        for n in 0..people {
            let who = Person {
                conn_info: Bytes::from(vec![b'1'; info]),
                ..person(n)
            };
            let query = SubscribeQuery {
                dialect: Dialect::Json,
                join_leave: false,
                presence: Some(Arc::new(who)),
                recover: None,
                delivery: Default::default(),
            };
            b.ask(0, n, Request::Subscribe(Box::new(query)));
            b.interested(0, 1);
        }
        b.said.owner.clear();
        b.attach(10, 1);
        let only = |f: OwnerFrame| match f {
            OwnerFrame::PresenceSet(part) => Some(part),
            _ => None,
        };
        let parts: Vec<PresenceSet> = b.said.owner.drain(..).filter_map(only).collect();
        for part in &parts {
            let fits = part.encoded_len() <= 1024 * 1024 || part.entries.len() == 1;
            assert!(fits && part.entries.len() <= 500);
        }
        let last: Vec<bool> = parts.iter().map(|p| p.last).collect();
        let expected = parts.len() - 1;
        assert!(last[..expected].iter().all(|l| !l) && last[expected]);
        let named = parts.iter().map(|p| p.entries.len() as u64).sum::<u64>();
        assert_eq!(named, people);
        assert!(parts.len() as u64 <= people / 30 + 3, "{}", parts.len());
    }
}

#[test]
fn a_room_lingers_so_that_who_comes_back_costs_no_trip() {
    let mut b = Bench::new();
    b.subscribe(1, None);
    b.interested(5, 1);
    b.deliver(6);
    b.hub.session_closed(0, SessionId(1), &mut b.said);
    b.deliver(7);
    b.subscribe(2, from(5));
    let answer = b.answered(2);
    assert_eq!((answer.recovered, answer.publications.len()), (true, 2));
    assert!(b.said.history.is_empty());
    b.hub.session_closed(0, SessionId(2), &mut b.said);
    b.hub.tick(1_999, &mut b.said);
    assert_eq!(b.hub.gauges().rooms, 1);
    b.hub.tick(2_000, &mut b.said);
    assert_eq!(b.hub.gauges().rooms, 0);
    assert!(b.said.owner.contains(&OwnerFrame::Uninterest(room(1))));
    assert!(b.hub.is_idle());
}

#[test]
fn a_second_subscribe_of_a_session_and_one_that_gets_no_answer_fail() {
    let mut b = Bench::new();
    b.subscribe(1, None);
    b.subscribe(1, None);
    assert_eq!(b.failed(1), ErrorCode::AlreadySubscribed);
    b.hub.tick(4_000, &mut b.said);
    assert_eq!(b.failed(1), ErrorCode::Internal);
    b.hub.link_down(4_000, &mut b.said);
    let mut world = World::new(HubConfig::default(), 1);
    world.ask(0, room(1), Question::Other, Request::Trace { offset: 1 });
    world.pass(4_000);
    assert_eq!(world.clients.failures, [ErrorCode::OwnerMoving]);
}

#[test]
fn what_is_remembered_stays_within_its_bounds() {
    let config = HubConfig {
        ring_room_bytes: 3_000,
        ring_bytes: 10_000,
        ..HubConfig::default()
    };
    let mut world = World::new(config, 20);
    world.up();
    for n in 0..20 {
        world.subscribe(u64::from(n), room(n), None);
        world.flow();
        for _ in 0..30 {
            world.owner.write(
                &room(n),
                Bytes::from_static(b"\"0123456789\""),
                None,
                Default::default(),
            );
        }
        world.flow();
        let bytes = world.hub.gauges().ring_bytes;
        assert!(bytes <= 10_000 && bytes > 0, "{bytes}");
    }
}

#[test]
fn a_gap_is_filled_before_anything_behind_it() {
    let mut b = Bench::new();
    b.subscribe(1, None);
    b.interested(4, 1);
    b.said.answers.clear();
    (5..=5).chain(8..=9).for_each(|o| b.deliver(o));
    assert_eq!(b.said.delivered.len(), 1);
    let read = b.said.history.pop().unwrap();
    assert_eq!((read.since, b.said.history.len()), (5, 0));
    // A failed read is tried again, not taken for the end.
    let failed = HistoryPage {
        request: read.request,
        error: ErrorCode::Internal.code(),
        ..HistoryPage::default()
    };
    b.hub.history_page(0, failed, &mut b.said);
    b.hub.tick(250, &mut b.said);
    let read = b.said.history.pop().unwrap();
    b.hub.history_page(250, page(&read, 6..=8, 9), &mut b.said);
    b.deliver(9);
    b.deliver(10);
    let offset = |frame: &Bytes| {
        let push = replies(Dialect::Json, frame).remove(0).push.unwrap();
        push.publication.unwrap().offset
    };
    let got: Vec<u64> = b.said.delivered.iter().map(|(_, f)| offset(f)).collect();
    assert_eq!(got, [5, 6, 7, 8, 9, 10]);
    assert_eq!(b.hub.counters().gaps, 1);
}

#[test]
fn a_room_that_was_deleted_and_made_again_begins_again() {
    let mut b = Bench::new();
    b.subscribe(1, None);
    b.interested(4, 1);
    let old = b.answered(1).epoch;
    let mut first = publication(1);
    first.generation = 1;
    let frame = Deliver {
        room: room(1),
        publication: first,
    };
    b.frame(0, EdgeFrame::Deliver(frame));
    b.hub.tick(1_000, &mut b.said);
    assert_eq!(
        (b.said.notices.as_slice(), b.said.delivered.len()),
        (&[1][..], 0)
    );
    let epoch = Some(RecoverFrom {
        epoch: old.to_string(),
        ..from(1).unwrap()
    });
    b.subscribe(1, epoch);
    let answer = b.answered(1);
    assert!(!answer.recovered && answer.epoch != old);
    assert_eq!(answer.offset, 1);
}

#[test]
fn a_page_that_was_asked_for_before_a_break_is_asked_for_again() {
    let mut b = Bench::new();
    let query = HistoryQuery {
        since: Some(3),
        reverse: false,
        limit: 5,
        bytes: 9,
    };
    b.ask(0, 1, Request::History(query));
    let before = b.said.history.pop().unwrap();
    b.hub.link_down(10, &mut b.said);
    b.attach(20, 1);
    let after = b.said.history.pop().unwrap();
    assert_eq!((after.since, after.limit, after.bytes), (3, 5, 9));
    b.hub.history_page(30, page(&before, 4..=5, 5), &mut b.said);
    assert!(b.said.answers.is_empty(), "a page of the old link");
    b.hub.history_page(30, page(&after, 4..=5, 5), &mut b.said);
    assert_eq!(b.said.answers.len(), 1);
}
