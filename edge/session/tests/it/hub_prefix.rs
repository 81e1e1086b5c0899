//! Prefixes through the hubs of several shards: one answer, what is delivered between it and the
//! end, and that what may have been missed ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gb6_core_model::{ErrorCode, Incarnation, SessionId, limits};
use gb6_core_wire::client::{Dialect, FilterNode, TagsFilter, frame};
use gb6_core_wire::mesh::*;
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{Answer, FollowQuery, Following, Hub, HubConfig, HubRequest, Request};
use proptest::prelude::*;

use crate::client::replies;
use crate::hub_model::person;
use crate::hub_rules::{Said, attached_frame};

fn shards(count: u32) -> Vec<ShardRef> {
    let shard = |shard| ShardRef {
        region: "eu".into(),
        shard,
    };
    (0..count).map(shard).collect()
}

fn named(channel: &str) -> RoomRef {
    RoomRef {
        instance: "demo".into(),
        channel: channel.into(),
    }
}

fn publication(offset: u64) -> Publication {
    Publication {
        offset,
        data: offset.to_string().into(),
        content_type: ContentType::Json.into(),
        time: 9,
        ..Publication::default()
    }
}

/// The hubs of one edge, which say everything to one place.
struct Edge {
    hubs: Vec<Hub<u64>>,
    said: Said,
    /// What each owner was asked and has not answered.
    asked: Vec<Vec<(u64, String)>>,
    next: u64,
}

impl Edge {
    fn new(count: usize) -> Self {
        let mut edge = Self {
            hubs: (0..count).map(|_| Hub::new(HubConfig::default())).collect(),
            said: Said::default(),
            asked: vec![Vec::new(); count],
            next: 0,
        };
        for shard in 0..count {
            edge.attach(shard);
        }
        edge
    }

    fn attach(&mut self, shard: usize) {
        self.hubs[shard].link_up(0, Incarnation(7), 1, &mut self.said);
        self.asked[shard].clear();
        self.frame(shard, attached_frame(1));
    }

    fn frame(&mut self, shard: usize, frame: EdgeFrame) {
        self.hubs[shard].frame(0, frame, &mut self.said);
        self.collect(shard);
    }

    fn collect(&mut self, shard: usize) {
        for frame in std::mem::take(&mut self.said.owner) {
            if let OwnerFrame::FollowPrefix(key) = frame {
                self.asked[shard].push((key.request, key.prefix));
            }
        }
    }

    fn ask(&mut self, session: u64, channel: &str, request: Request) -> u64 {
        self.next += 1;
        for shard in 0..self.hubs.len() {
            let request = HubRequest {
                token: self.next,
                session: SessionId(session),
                room: named(channel),
                request: request.clone(),
            };
            self.hubs[shard].request(0, &session, request, &mut self.said);
            self.collect(shard);
        }
        self.next
    }

    fn follow(&mut self, session: u64, channel: &str) -> (u64, Arc<Following>) {
        self.follow_with(session, channel, None, None)
    }

    fn follow_with(
        &mut self,
        session: u64,
        channel: &str,
        filter: Option<TagsFilter>,
        without_own: Option<Person>,
    ) -> (u64, Arc<Following>) {
        let following = Arc::new(Following::new(shards(self.hubs.len() as u32)));
        let query = FollowQuery {
            dialect: Dialect::Json,
            filter: filter.map(Arc::new),
            without_own: without_own.map(Arc::new),
            following: following.clone(),
        };
        let token = self.ask(session, channel, Request::Follow(Box::new(query)));
        (token, following)
    }

    /// The owner of a shard answers the oldest question.
    fn answer(&mut self, shard: usize, error: u32) {
        if !self.asked[shard].is_empty() {
            let (request, _) = self.asked[shard].remove(0);
            let answer = PrefixFollowed { request, error };
            self.frame(shard, EdgeFrame::PrefixFollowed(answer));
        }
    }

    fn come(&mut self, shard: usize, channel: &str, publication: Publication) {
        let room = named(channel);
        self.frame(shard, EdgeFrame::Deliver(Deliver { room, publication }));
    }

    /// Whom a publication reached, each with the name of the subscription.
    fn reached(&mut self) -> Vec<(u64, String)> {
        let delivered = std::mem::take(&mut self.said.delivered).into_iter();
        delivered
            .map(|(to, frame)| {
                let push = replies(Dialect::Json, &frame).remove(0).push.unwrap();
                (to, push.channel)
            })
            .collect()
    }

    fn answers(&mut self) -> Vec<(u64, Result<(), ErrorCode>)> {
        let answers = std::mem::take(&mut self.said.answers).into_iter();
        answers
            .map(|(token, answer)| match answer {
                Answer::Subscribed(_) | Answer::Unsubscribed => (token, Ok(())),
                Answer::Failed(code) => (token, Err(code)),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

#[test]
fn it_begins_when_every_shard_follows_and_is_answered_first() {
    let mut edge = Edge::new(3);
    let (token, following) = edge.follow(1, "room:lob*");
    edge.answer(0, 0);
    edge.answer(2, 0);
    edge.come(0, "room:lobby", publication(1));
    assert!(edge.reached().is_empty() && edge.answers().is_empty());
    edge.answer(1, 0);
    assert_eq!(edge.answers(), [(token, Ok(()))]);
    edge.come(0, "room:lobby", publication(2));
    let payload = frame::frame_payload(&edge.said.delivered[0].1).to_vec();
    let text = String::from_utf8(payload).unwrap();
    assert!(
        text.ends_with(
            r#"{"push":{"channel":"room:lob*","pub":{"data":2,"offset":2,"tags":{"gb6.channel":"room:lobby"},"time":9,"channel":"room:lobby"}}}"#
        ),
        "{text}"
    );
    assert_eq!(edge.reached().len(), 1);
    // Who comes later is answered at once, and nobody is asked again.
    let (token, _) = edge.follow(2, "room:lob*");
    assert_eq!(edge.answers(), [(token, Ok(()))]);
    assert!(edge.asked.iter().all(Vec::is_empty));
    edge.come(1, "room:lo", publication(1));
    edge.come(1, "room:lobby#42", publication(1));
    assert!(edge.reached().is_empty());
    edge.come(1, "room:lob", publication(1));
    assert_eq!(edge.reached().len(), 2);
    // The same name in another instance is another room.
    let room = RoomRef {
        instance: "other".into(),
        channel: "room:lobby".into(),
    };
    let publication = publication(3);
    edge.frame(0, EdgeFrame::Deliver(Deliver { room, publication }));
    assert!(edge.reached().is_empty());
    let gauges = edge.hubs[0].gauges();
    assert_eq!((gauges.prefixes, gauges.prefix_subscribers), (1, 2));
    assert!(!edge.hubs[0].is_idle());
    // The last to leave is the last that the owners hear of.
    let left = edge.ask(1, "room:lob*", Request::Unfollow(following));
    assert_eq!(edge.answers(), [(left, Ok(()))]);
    for hub in &mut edge.hubs {
        hub.session_closed(0, SessionId(2), &mut edge.said);
        let told = std::mem::take(&mut edge.said.owner);
        assert!(matches!(&told[..], [OwnerFrame::UnfollowPrefix(k)] if k.prefix == "room:lob"));
        assert!(hub.is_idle());
    }
}

#[test]
fn what_was_refused_or_not_answered_fails_once() {
    let mut edge = Edge::new(2);
    let (token, following) = edge.follow(1, "room:lob*");
    edge.answer(0, ErrorCode::LimitExceeded.code());
    assert_eq!(edge.answers(), [(token, Err(ErrorCode::LimitExceeded))]);
    edge.answer(1, 0);
    assert!(edge.answers().is_empty());
    let left = edge.ask(1, "room:lob*", Request::Unfollow(following));
    assert_eq!(edge.answers(), [(left, Ok(()))]);
    assert!(edge.hubs.iter().all(Hub::is_idle));
    // Without an answer, and without an owner.
    let (token, _) = edge.follow(1, "room:lob*");
    edge.answer(0, 0);
    edge.hubs[1].link_down(0, &mut edge.said);
    let late = HubConfig::default().answer_ms;
    edge.hubs[1].tick(late - 1, &mut edge.said);
    assert!(edge.answers().is_empty());
    edge.hubs[1].tick(late, &mut edge.said);
    assert_eq!(edge.answers(), [(token, Err(ErrorCode::OwnerMoving))]);
    assert!(edge.hubs[1].is_idle());
    // Left while it waits: the subscribe fails, and what left is answered.
    let (token, following) = edge.follow(2, "room:lob*");
    let left = edge.ask(2, "room:lob*", Request::Unfollow(following));
    let failed = (token, Err(ErrorCode::Internal));
    assert_eq!(edge.answers(), [failed, (left, Ok(()))]);
}

#[test]
fn who_comes_and_goes_before_an_answer_leaves_nothing() {
    let mut edge = Edge::new(1);
    let late = HubConfig::default().answer_ms;
    for begin in [0, 10] {
        for _ in 0..1_000 {
            let (_, following) = edge.follow(1, "room:lob*");
            edge.ask(1, "room:lob*", Request::Unfollow(following));
        }
        assert_eq!(edge.hubs[0].gauges().prefixes_waiting, 1_000);
        // Whether or not somebody else is there when the time is looked at.
        if begin > 0 {
            edge.follow(2, "room:abc*");
            edge.hubs[0].tick(late - 1, &mut edge.said);
            assert_eq!(edge.hubs[0].gauges().prefixes_waiting, 1_001);
        }
        edge.hubs[0].tick(late, &mut edge.said);
        assert_eq!(edge.hubs[0].gauges().prefixes_waiting, 0);
        assert!(edge.hubs[0].is_idle());
    }
}

#[test]
fn a_cut_ends_it_at_a_pace_and_only_once() {
    let mut edge = Edge::new(2);
    for session in 1..=3 {
        edge.follow(session, "room:lob*");
    }
    for shard in 0..2 {
        edge.answer(shard, 0);
    }
    assert_eq!(edge.answers().len(), 3);
    edge.hubs[0].link_down(0, &mut edge.said);
    edge.hubs[1].link_down(0, &mut edge.said);
    edge.said.may_evict = Some(2);
    edge.hubs[0].tick(10, &mut edge.said);
    assert_eq!(edge.said.notices, [1, 2]);
    assert_eq!(edge.hubs[0].gauges().evictions_waiting, 1);
    edge.said.may_evict = Some(5);
    edge.hubs[1].tick(20, &mut edge.said);
    assert_eq!(edge.said.notices, [1, 2, 3]);
    edge.hubs[0].tick(30, &mut edge.said);
    assert_eq!(edge.said.notices.len(), 3);
    assert_eq!(edge.said.may_evict, Some(4));
    assert!(edge.hubs.iter().all(Hub::is_idle));
}

#[test]
fn another_placement_ends_what_is_in_other_shards() {
    let mut edge = Edge::new(2);
    edge.follow(1, "room:lob*");
    for shard in 0..2 {
        edge.answer(shard, 0);
    }
    edge.hubs[0].placement_changed(|instance| {
        assert_eq!(instance, "demo");
        Some(shards(2))
    });
    edge.hubs[0].tick(10, &mut edge.said);
    assert!(edge.said.notices.is_empty());
    edge.hubs[0].placement_changed(|_| None);
    edge.hubs[0].tick(20, &mut edge.said);
    assert!(edge.said.notices.is_empty());
    edge.follow(2, "room:lob*");
    edge.hubs[0].placement_of(SessionId(1), |_| Some(shards(2)));
    edge.hubs[0].placement_of(SessionId(3), |_| Some(shards(3)));
    edge.hubs[0].placement_of(SessionId(2), |_| Some(shards(3)));
    edge.hubs[0].tick(30, &mut edge.said);
    assert_eq!(edge.said.notices, [2]);
    edge.hubs[0].placement_changed(|_| Some(shards(3)));
    edge.hubs[0].tick(40, &mut edge.said);
    assert_eq!(edge.said.notices, [2, 1]);
}

#[test]
fn filters_and_ones_own_are_left_out_and_signals_are_the_first_to_go() {
    let mut edge = Edge::new(1);
    let wanted = FilterNode {
        key: "t".into(),
        cmp: "eq".into(),
        val: "a".into(),
        ..FilterNode::default()
    };
    let filter = TagsFilter::new(&wanted).unwrap();
    edge.follow_with(1, "room:lob*", Some(filter), None);
    edge.follow_with(2, "room:lob*", None, Some(person(2)));
    edge.answer(0, 0);
    assert!(edge.hubs[0].gauges().filter_bytes > 0);
    let of = |tag: &str, from: Option<Person>| Publication {
        tags: [("t".to_owned(), tag.to_owned())].into(),
        from,
        ..publication(1)
    };
    let to = |edge: &mut Edge| {
        edge.reached()
            .into_iter()
            .map(|(to, _)| to)
            .collect::<Vec<_>>()
    };
    edge.come(0, "room:lobby", of("a", Some(person(1))));
    assert_eq!(to(&mut edge), [1, 2]);
    edge.come(0, "room:lobby", of("b", Some(person(2))));
    assert!(to(&mut edge).is_empty());
    assert_eq!(edge.hubs[0].counters().unwanted, 2);
    let most = HubConfig::default().signal_backlog_bytes;
    for (backlog, reached) in [(most, 2), (most + 1, 0)] {
        edge.said.backlog = backlog;
        let deliver = Deliver {
            room: named("room:lobby"),
            publication: of("a", None),
        };
        edge.frame(0, EdgeFrame::Signal(deliver));
        assert_eq!(edge.reached().len(), reached);
    }
    edge.hubs[0].session_closed(0, SessionId(1), &mut edge.said);
    assert_eq!(edge.hubs[0].gauges().filter_bytes, 0);
}

#[test]
fn a_publication_is_encoded_once_however_many_prefixes_its_channel_has() {
    let mut edge = Edge::new(1);
    let name = "room:lobby.north.table-12";
    let prefixes: Vec<String> = (8..=name.len())
        .map(|end| format!("{}*", &name[..end]))
        .collect();
    for (session, prefix) in prefixes.iter().enumerate() {
        edge.follow(session as u64, prefix);
        edge.answer(0, 0);
    }
    let before = edge.hubs[0].counters().encoded;
    edge.come(0, name, publication(1));
    let mut reached = edge.reached();
    reached.sort();
    let want = prefixes.into_iter().enumerate();
    let want: Vec<_> = want.map(|(s, prefix)| (s as u64, prefix)).collect();
    assert_eq!(reached, want);
    assert_eq!(edge.hubs[0].counters().encoded - before, 1);
}

#[test]
fn an_instance_has_so_many_and_no_malformed_ones() {
    let mut edge = Edge::new(1);
    for n in 0..limits::PREFIXES_INSTANCE_MAX as u64 {
        edge.follow(n, &format!("room:{n:04}*"));
    }
    assert!(edge.answers().is_empty());
    let (token, _) = edge.follow(5_000, "room:one-more*");
    assert_eq!(edge.answers(), [(token, Err(ErrorCode::LimitExceeded))]);
    edge.follow(5_000, "room:0000*");
    assert!(edge.answers().is_empty());
    let (token, _) = edge.follow(5_001, "room:*");
    assert_eq!(edge.answers(), [(token, Err(ErrorCode::BadRequest))]);
    assert_eq!(
        edge.hubs[0].gauges().prefixes,
        limits::PREFIXES_INSTANCE_MAX
    );
}

const PREFIXES: [&str; 3] = ["room:aaa*", "room:aaab*", "room:aab*"];
const ROOMS: [&str; 5] = [
    "room:aaa",
    "room:aaab1",
    "room:aab",
    "room:aa",
    "room:aaa#u",
];
const SHARDS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Follow(u64, usize),
    Leave(usize),
    Close(u64),
    Answer(usize),
    Come(usize, usize),
    Cut(usize),
    Tick(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64, 0..3usize).prop_map(|(s, p)| Step::Follow(s, p)),
        2 => (0..8usize).prop_map(Step::Leave),
        1 => (1..4u64).prop_map(Step::Close),
        5 => (0..SHARDS).prop_map(Step::Answer),
        6 => (0..SHARDS, 0..5usize).prop_map(|(s, r)| Step::Come(s, r)),
        1 => (0..SHARDS).prop_map(Step::Cut),
        2 => (0..SHARDS).prop_map(Step::Tick),
    ]
}

/// A subscription as the model has it.
struct Sub {
    session: u64,
    prefix: usize,
    token: u64,
    following: Arc<Following>,
    /// Shards that have not confirmed it.
    missing: BTreeSet<usize>,
    /// Shards whose link was cut behind that.
    lost: BTreeSet<usize>,
    open: bool,
}

/// What the hubs say is what the model says, step by step.
struct Model {
    edge: Edge,
    subs: Vec<Sub>,
    /// Prefixes that each shard's owner has confirmed, and those that it was asked for, in order.
    confirmed: Vec<BTreeSet<usize>>,
    asked: Vec<Vec<usize>>,
}

impl Model {
    fn expect(&mut self, answers: Vec<(u64, Result<(), ErrorCode>)>) {
        assert_eq!(self.edge.answers(), answers);
    }

    fn forget_unused(&mut self) {
        let used: BTreeSet<usize> = self.subs.iter().map(|s| s.prefix).collect();
        for shard in 0..SHARDS {
            let here = |p: &usize, subs: &[Sub]| {
                let mut subs = subs.iter().filter(|s| s.prefix == *p);
                subs.any(|s| !s.lost.contains(&shard))
            };
            self.confirmed[shard].retain(|p| used.contains(p) && here(p, &self.subs));
            self.asked[shard].retain(|p| used.contains(p) && here(p, &self.subs));
        }
    }

    fn remove(&mut self, at: usize) -> Sub {
        let gone = self.subs.remove(at);
        self.forget_unused();
        gone
    }

    /// As a session does: what failed or was ended is left everywhere.
    fn leave(&mut self, at: usize, failed: bool) {
        let gone = self.remove(at);
        let unfollow = Request::Unfollow(gone.following.clone());
        let token = self.edge.ask(gone.session, PREFIXES[gone.prefix], unfollow);
        let mut want = Vec::new();
        if !gone.open && !failed {
            want.push((gone.token, Err(ErrorCode::Internal)));
        }
        want.push((token, Ok(())));
        self.expect(want);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Follow(session, prefix) => {
                let mine = |s: &Sub| s.session == session && s.prefix == prefix;
                if self.subs.iter().any(mine) {
                    return;
                }
                let (token, following) = self.edge.follow(session, PREFIXES[prefix]);
                let mut missing = BTreeSet::new();
                for shard in 0..SHARDS {
                    if !self.confirmed[shard].contains(&prefix) {
                        missing.insert(shard);
                        if !self.asked[shard].contains(&prefix) {
                            self.asked[shard].push(prefix);
                        }
                    }
                }
                let open = missing.is_empty();
                self.subs.push(Sub {
                    session,
                    prefix,
                    token,
                    following,
                    missing,
                    lost: BTreeSet::new(),
                    open,
                });
                self.expect(open.then_some((token, Ok(()))).into_iter().collect());
            }
            Step::Leave(at) if at < self.subs.len() => self.leave(at, false),
            Step::Leave(_) => {}
            Step::Close(session) => {
                for shard in 0..SHARDS {
                    let hub = &mut self.edge.hubs[shard];
                    hub.session_closed(0, SessionId(session), &mut self.edge.said);
                    self.edge.collect(shard);
                }
                self.subs.retain(|s| s.session != session);
                self.forget_unused();
                self.expect(Vec::new());
            }
            Step::Answer(shard) => {
                // One that was given up is answered too, and that changes nothing.
                let Some((_, text)) = self.edge.asked[shard].first().cloned() else {
                    return;
                };
                let rest = &self.edge.asked[shard][1..];
                let newest = !rest.iter().any(|(_, later)| *later == text);
                let prefix = PREFIXES.iter().position(|p| p[..p.len() - 1] == text);
                let prefix = prefix.unwrap();
                self.edge.answer(shard, 0);
                let at = self.asked[shard].iter().position(|p| *p == prefix);
                let Some(at) = at.filter(|_| newest) else {
                    return self.expect(Vec::new());
                };
                self.asked[shard].remove(at);
                self.confirmed[shard].insert(prefix);
                let mut want = BTreeMap::new();
                for sub in self.subs.iter_mut().filter(|s| s.prefix == prefix) {
                    if sub.missing.remove(&shard) && sub.missing.is_empty() {
                        sub.open = true;
                        want.insert(sub.session, (sub.token, Ok(())));
                    }
                }
                self.expect(want.into_values().collect());
            }
            Step::Come(shard, room) => {
                self.edge.come(shard, ROOMS[room], publication(1));
                let name = ROOMS[room];
                let mut want = Vec::new();
                for sub in &self.subs {
                    let prefix = PREFIXES[sub.prefix];
                    let fits = name.starts_with(&prefix[..prefix.len() - 1]);
                    if fits && !name.contains('#') && sub.open && !sub.lost.contains(&shard) {
                        want.push((sub.session, prefix.to_owned()));
                    }
                }
                let mut got = self.edge.reached();
                want.sort();
                got.sort();
                assert_eq!(got, want);
            }
            Step::Cut(shard) => {
                self.confirmed[shard].clear();
                self.asked[shard].clear();
                for sub in &mut self.subs {
                    if !sub.missing.contains(&shard) {
                        sub.lost.insert(shard);
                    }
                    let waits = sub.missing.contains(&shard);
                    if waits && !self.asked[shard].contains(&sub.prefix) {
                        self.asked[shard].push(sub.prefix);
                    }
                }
                self.edge.attach(shard);
                self.expect(Vec::new());
            }
            Step::Tick(shard) => {
                self.edge.hubs[shard].tick(0, &mut self.edge.said);
                self.edge.collect(shard);
                let lost = self.subs.iter().filter(|s| s.lost.contains(&shard));
                let (open, failed): (Vec<&Sub>, Vec<&Sub>) = lost.partition(|s| s.open);
                let mut notices: Vec<u64> = open.iter().map(|s| s.session).collect();
                let mut want: Vec<_> = failed
                    .iter()
                    .map(|s| (s.token, Err(ErrorCode::OwnerMoving)))
                    .collect();
                notices.sort_unstable();
                want.sort_by_key(|(token, _)| *token);
                let mut got = self.edge.answers();
                got.sort_by_key(|(token, _)| *token);
                assert_eq!(got, want);
                let mut told = std::mem::take(&mut self.edge.said.notices);
                told.sort_unstable();
                assert_eq!(told, notices);
                while let Some(at) = self.subs.iter().position(|s| s.lost.contains(&shard)) {
                    self.leave(at, true);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_subscription_is_told_what_comes_between_its_answer_and_its_end(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut model = Model {
            edge: Edge::new(SHARDS),
            subs: Vec::new(),
            confirmed: vec![BTreeSet::new(); SHARDS],
            asked: vec![Vec::new(); SHARDS],
        };
        for step in steps {
            model.step(step);
        }
        for session in 1..4 {
            model.step(Step::Close(session));
        }
        prop_assert!(model.edge.hubs.iter().all(Hub::is_idle));
        prop_assert!(model.edge.hubs.iter().all(|hub| hub.gauges().prefixes == 0));
    }
}
