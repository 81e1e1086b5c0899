//! A session against the naive model: the same commands, tokens and answers of hubs go to both, and
//! both must say the same, in the same order, and ask hubs for the same.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{
    Allow, Capability, Caps as Claimed, Channel, ErrorCode, Unsubscribed, caps::Match, hash,
};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::{Person, Publication};
use gb6_edge_session::{
    Action, Answer, Claims, HistoryAnswer, HubRequest, Notice, PresenceAnswer, PublishAnswer,
    Recent, Request, ServerCommand, SubscribeAnswer, SubscriptionClaims, SubscriptionGrant,
    TokenError, TokenRef, TraceAnswer,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::session_naive::{
    Ask, Caps, Heard, IN_FLIGHT, Naive, PAGES, Proof, Rights, SUBSCRIPTIONS, Said, Wanted, said,
};
use crate::session_rules::{Desk, claims};

/// Names that are allowed, restricted, unknown, or no names.
const CHANNELS: [&str; 15] = [
    "room:1",
    "room:2",
    "room:3",
    "$room:4",
    "bare:1",
    "room:4#alice,bob",
    "$room:5#alice",
    "!room:1",
    "bare:2",
    "closed:1",
    "nowhere:1",
    "plain",
    "$nowhere:1",
    "room:1#42",
    "room: 1",
];

fn claims_of(rights: Rights) -> Claims {
    let list = |channels: &str, matching, allow: &[Allow]| {
        Some(vec![Capability {
            channels: vec![channels.to_owned()],
            matching,
            allow: allow.to_vec(),
        }])
    };
    let all = [
        Allow::Subscribe,
        Allow::Publish,
        Allow::Presence,
        Allow::History,
    ];
    let caps = match rights.caps {
        Caps::Absent => None,
        Caps::Nothing => Some(Vec::new()),
        Caps::Rooms => list("room:*", Match::Wildcard, &all),
        Caps::ReadOne => list("room:1", Match::Exact, &[Allow::Subscribe, Allow::History]),
        Caps::WriteBare => list("bare:*", Match::Wildcard, &[Allow::Publish]),
    };
    Claims {
        user: rights.user.into(),
        caps: Claimed(caps),
        ..claims()
    }
}

/// A command as JSON.
fn json(id: u32, ask: &Ask) -> String {
    let data = |bytes: usize| "1".repeat(bytes);
    let text = |channel: &str| format!("{{\"channel\":\"{channel}\"}}");
    let body = match ask {
        Ask::Subscribe {
            channel,
            recover,
            map,
            token,
        } => format!(
            r#""subscribe":{{"channel":"{channel}","recover":{recover},"type":{},"token":"{}"}}"#,
            u8::from(*map),
            if *token { "T" } else { "" },
        ),
        Ask::Unsubscribe(channel) => format!(r#""unsubscribe":{}"#, text(channel)),
        Ask::Publish { channel, bytes: 0 } => format!(r#""publish":{}"#, text(channel)),
        Ask::Publish { channel, bytes } => format!(
            r#""publish":{{"channel":"{channel}","data":{}}}"#,
            data(*bytes)
        ),
        Ask::RoomPublish { room, id, bytes } => {
            let mut argument = format!(r#"{{"room":"{room}""#);
            if let Some(bytes) = id {
                argument += &format!(r#","id":"{}""#, "m".repeat(*bytes));
            }
            if *bytes > 0 {
                argument += &format!(r#","data":{}"#, data(*bytes));
            }
            format!(r#""rpc":{{"method":"room.publish","data":{argument}}}}}"#)
        }
        Ask::Trace { room, offset } => format!(
            r#""rpc":{{"method":"room.trace","data":{{"room":"{room}","offset":{offset}}}}}"#
        ),
        Ask::Presence(channel) => format!(r#""presence":{}"#, text(channel)),
        Ask::Stats(channel) => format!(r#""presence_stats":{}"#, text(channel)),
        Ask::History {
            channel,
            limit,
            before,
        } => {
            let before = before.map_or(String::new(), |offset| {
                format!(r#","reverse":true,"since":{{"offset":{offset},"epoch":""}}"#)
            });
            format!(r#""history":{{"channel":"{channel}","limit":{limit}{before}}}"#)
        }
        Ask::Refresh { empty: true } => r#""refresh":{"token":""}"#.to_owned(),
        Ask::Refresh { empty: false } => r#""refresh":{"token":"T"}"#.to_owned(),
        Ask::Ping => r#""ping":{}"#.to_owned(),
        Ask::SubRefresh(channel) => {
            format!(r#""sub_refresh":{{"channel":"{channel}","token":"T"}}"#)
        }
        Ask::UnknownMethod => r#""rpc":{"method":"room.explode","data":1}"#.to_owned(),
    };
    format!("{{\"id\":{id},{body}}}")
}

/// What a hub says, as it says it.
fn answer(heard: Heard) -> Answer {
    let publication = |offset| Publication {
        offset,
        data: Bytes::from_static(b"1"),
        ..Publication::default()
    };
    match heard {
        Heard::Failed(code) => Answer::Failed(code),
        Heard::Subscribed(recovered) => Answer::Subscribed(Box::new(SubscribeAnswer {
            epoch: Arc::from(hash::stream_epoch(&"demo".into(), "room:1", 0)),
            offset: 0,
            recovered: recovered.is_some(),
            publications: (1..=recovered.unwrap_or(0) as u64)
                .map(|offset| Arc::new(Recent::new(publication(offset))))
                .collect(),
            number: 0,
        })),
        Heard::Unsubscribed => Answer::Unsubscribed,
        Heard::Published => Answer::Published(PublishAnswer {
            offset: 1,
            generation: 0,
            time: 1,
            duplicate: false,
        }),
        Heard::People(count) => Answer::Presence(Box::new(PresenceAnswer {
            entries: (0..count)
                .map(|n| Person {
                    client: format!("c{n}"),
                    ..Person::default()
                })
                .collect(),
            clients: count,
            users: count,
        })),
        Heard::Page(page) => {
            let (count, top) = page.unwrap_or_default();
            Answer::History(Box::new(HistoryAnswer {
                publications: (1..=count as u64).map(publication).collect(),
                top,
                first: 1,
                generation: 0,
                error: page.is_none().then_some(ErrorCode::UnrecoverablePosition),
            }))
        }
        Heard::Traced => Answer::Traced(TraceAnswer {
            shard: 0,
            shard_epoch: 1,
            sync_us: 1,
            batch: 1,
        }),
    }
}

/// What a hub may answer to what it was asked.
fn heard(wanted: Wanted, luck: u8) -> Heard {
    let codes = [
        ErrorCode::OwnerMoving,
        ErrorCode::StorageFull,
        ErrorCode::OutcomeUnknown,
        ErrorCode::TooManyRequests,
    ];
    if luck.is_multiple_of(5) && !matches!(wanted, Wanted::Unsubscribe | Wanted::End(_)) {
        return Heard::Failed(codes[usize::from(luck / 5) % 4]);
    }
    match wanted {
        Wanted::Subscribe { recover, .. } => {
            let recovered = recover && luck.is_multiple_of(2);
            Heard::Subscribed(recovered.then_some(usize::from(luck % 4)))
        }
        Wanted::Unsubscribe | Wanted::End(_) => Heard::Unsubscribed,
        Wanted::Publish { .. } => Heard::Published,
        Wanted::Presence { .. } => Heard::People(u32::from(luck % 4)),
        Wanted::History => Heard::Page((luck % 7 != 1).then_some((usize::from(luck % 3), 9))),
        Wanted::Trace => Heard::Traced,
    }
}

/// A hub's request as the model names it.
fn wanted(request: &HubRequest) -> (String, &'static str) {
    let what = match &request.request {
        Request::Subscribe(query) if query.recover.is_some() => "recover",
        Request::Subscribe(_) => "subscribe",
        Request::Unsubscribe => "unsubscribe",
        Request::Introduce(_) => "introduce",
        Request::Follow(_) => "follow",
        Request::Unfollow(_) => "unfollow",
        Request::Publish(_) => "publish",
        Request::Presence { entries: true } => "presence",
        Request::Presence { entries: false } => "stats",
        Request::History(_) => "history",
        Request::RemoveHistory { .. } => "remove",
        Request::Trace { .. } => "trace",
        Request::EdgesOf { .. } => "edges",
        Request::UserStatus { .. } => "status",
    };
    (request.room.channel.clone(), what)
}

fn named(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Subscribe { recover: true, .. } => "recover",
        Wanted::Subscribe { recover: false, .. } => "subscribe",
        Wanted::Unsubscribe | Wanted::End(_) => "unsubscribe",
        Wanted::Publish { .. } => "publish",
        Wanted::Presence { entries: true } => "presence",
        Wanted::Presence { entries: false } => "stats",
        Wanted::History => "history",
        Wanted::Trace => "trace",
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(Ask),
    /// Somebody who changes their mind: subscribes, gives up, and subscribes again.
    Again(&'static str),
    /// A hub answers one of what it was asked: of one room in order, of several in any.
    Answer(u8, u8),
    /// A hub ends a subscription.
    End(&'static str),
    /// The token of a refresh was looked at.
    Token(Result<Rights, TokenError>),
    /// One of the subscription tokens was looked at.
    Proof(u8, Proof),
    /// The application's server begins a subscription.
    Begin(&'static str),
    /// The application's server ends one.
    Finish(&'static str),
}

/// What a verifier says of a subscription token.
fn proof_of(proof: Proof, channel: &str, user: &str) -> Result<SubscriptionClaims, TokenError> {
    let claims = |channel: &str| SubscriptionClaims {
        instance: "demo".into(),
        user: user.into(),
        channel: channel.to_owned(),
        client: None,
        grant: SubscriptionGrant::default(),
        token: TokenRef {
            id: [1; 16],
            issued_unix_ms: None,
        },
    };
    match proof {
        Proof::Good => Ok(claims(channel)),
        Proof::Foreign => Ok(claims("room:other")),
        Proof::Expired => Err(TokenError::Expired),
        Proof::Invalid => Err(TokenError::Invalid),
        Proof::Unavailable => Err(TokenError::Unavailable),
    }
}

fn channel() -> impl Strategy<Value = &'static str> {
    // Mostly those where something happens.
    prop_oneof![3 => select(&CHANNELS[..7]), 1 => select(&CHANNELS[..])]
}

fn rights() -> impl Strategy<Value = Rights> {
    let caps = select(vec![
        Caps::Absent,
        Caps::Absent,
        Caps::Rooms,
        Caps::Nothing,
        Caps::ReadOne,
        Caps::WriteBare,
    ]);
    (select(vec!["alice", "alice", "alice", ""]), caps)
        .prop_map(|(user, caps)| Rights { user, caps })
}

fn ask() -> impl Strategy<Value = Ask> {
    let room = || select(vec!["1", "room:1", "bare:1", "closed:1", "2", "x y", "$1"]);
    prop_oneof![
        6 => (channel(), any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.4))
            .prop_map(|(channel, recover, map, token)| {
                Ask::Subscribe { channel, recover, map, token }
            }),
        4 => channel().prop_map(Ask::Unsubscribe),
        3 => (channel(), select(vec![0usize, 1, 20, 21, 65_536, 65_537])).prop_map(
            |(channel, bytes)| Ask::Publish { channel, bytes }
        ),
        3 => (room(), prop::option::of(select(vec![0usize, 1, 128, 129])), select(vec![0usize, 1, 20, 21]))
            .prop_map(|(room, id, bytes)| Ask::RoomPublish { room, id, bytes }),
        1 => (room(), 0u64..3).prop_map(|(room, offset)| Ask::Trace { room, offset }),
        1 => channel().prop_map(Ask::Presence),
        1 => channel().prop_map(Ask::Stats),
        4 => (channel(), select(vec![-1i32, 0, 1, 300, 5000]), prop::option::of(0u64..3))
            .prop_map(|(channel, limit, before)| Ask::History { channel, limit, before }),
        1 => prop::bool::weighted(0.2).prop_map(|empty| Ask::Refresh { empty }),
        1 => Just(Ask::Ping),
        1 => channel().prop_map(Ask::SubRefresh),
        1 => Just(Ask::UnknownMethod),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let token = prop_oneof![
        6 => rights().prop_map(Ok),
        1 => Just(Err(TokenError::Expired)),
        1 => Just(Err(TokenError::Unavailable)),
        1 => Just(Err(TokenError::Invalid)),
    ];
    let proof = prop_oneof![
        12 => Just(Proof::Good),
        2 => Just(Proof::Expired),
        1 => Just(Proof::Invalid),
        1 => Just(Proof::Unavailable),
        1 => Just(Proof::Foreign),
    ];
    prop_oneof![
        5 => (any::<u8>(), proof).prop_map(|(at, proof)| Step::Proof(at, proof)),
        1 => channel().prop_map(Step::Begin),
        1 => channel().prop_map(Step::Finish),
        10 => ask().prop_map(Step::Ask),
        3 => select(&CHANNELS[..3]).prop_map(Step::Again),
        8 => (any::<u8>(), any::<u8>()).prop_map(|(at, luck)| Step::Answer(at, luck)),
        1 => select(&CHANNELS[..7]).prop_map(Step::End),
        1 => token.prop_map(Step::Token),
    ]
}

/// Both, side by side.
struct Pair {
    desk: Desk,
    naive: Naive,
    /// What hubs were asked, as the model's list.
    waiting: VecDeque<HubRequest>,
    commands: u32,
    /// The number under which the token of the refresh is looked at.
    refresh: u32,
    /// Those of the subscription tokens, as the model's list, with their channels.
    looking: Vec<(u32, String)>,
}

impl Pair {
    fn ask(&mut self, ask: &Ask) {
        self.commands += 1;
        self.desk.text(&json(self.commands, ask));
        self.naive.ask(self.commands, ask);
    }

    /// A hub answers: never before what it was asked earlier about the same room.
    fn answer(&mut self, at: u8, luck: u8) {
        if self.waiting.is_empty() {
            return;
        }
        let chosen = usize::from(at) % self.waiting.len();
        let room = &self.waiting[chosen].room;
        let first = self.waiting.iter().position(|r| r.room == *room);
        let at = first.unwrap_or(chosen);
        let Some(request) = self.waiting.remove(at) else {
            return;
        };
        let heard = heard(self.naive.asked[at].2, luck);
        self.desk
            .with(|s, cx, out| s.complete(cx, request.token, answer(heard), out));
        self.naive.hear(at, heard);
    }

    /// Compares what both have said and asked since the last look.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let ours: Vec<(u32, Said)> = self.desk.replies().iter().map(said).collect();
        let theirs = std::mem::take(&mut self.naive.said);
        prop_assert_eq!(ours, theirs);
        self.waiting.extend(self.desk.requests());
        let ours: Vec<(String, &str)> = self.waiting.iter().map(wanted).collect();
        let theirs = self.naive.asked.iter();
        let theirs: Vec<(String, &str)> = theirs.map(|(_, c, w)| (c.clone(), named(*w))).collect();
        prop_assert_eq!(ours, theirs);
        for action in std::mem::take(&mut self.desk.actions) {
            match action {
                Action::Verify { request, .. } if request > 0 => self.refresh = request,
                Action::VerifySubscription {
                    request, channel, ..
                } => self.looking.push((request, channel.as_str().to_owned())),
                other => prop_assert!(matches!(other, Action::Verify { .. }), "{:?}", other),
            }
        }
        // What was given up is looked at for nothing.
        let naive = &self.naive;
        let wanted: Vec<&str> = (0..naive.looking()).map(|at| naive.looked_at(at)).collect();
        while self.looking.len() > wanted.len() {
            let shown = self.looking.iter().map(|(_, c)| c.as_str());
            let given_up = shown
                .zip(&wanted)
                .position(|(ours, theirs)| ours != *theirs);
            let given_up = self.looking.remove(given_up.unwrap_or(wanted.len()));
            let told = Ok(proof_of(Proof::Good, &given_up.1, "alice").unwrap());
            self.desk.with(|s, cx, out| {
                s.subscription_verified(cx, given_up.0, told, out);
            });
        }
        let ours: Vec<&str> = self.looking.iter().map(|(_, c)| c.as_str()).collect();
        prop_assert_eq!(ours, wanted);
        prop_assert!(self.desk.actions.is_empty());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_session_says_what_the_model_says(
        rights in rights(),
        early in prop::collection::vec(ask(), 0..4),
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut desk = Desk::opening(Dialect::Json);
        desk.config.in_flight_max = IN_FLIGHT;
        assert_eq!(desk.config.bulk_waiting_max, PAGES);
        assert_eq!(desk.snapshot.instances["demo"].subscriptions_max, SUBSCRIPTIONS);
        let mut pair = Pair {
            desk,
            naive: Naive::new(rights),
            waiting: VecDeque::new(),
            commands: 1,
            refresh: 0,
            looking: Vec::new(),
        };
        // What comes behind the connect is done when its token was looked at, in order.
        pair.desk.text(r#"{"id":1,"connect":{"token":"T"}}"#);
        pair.naive.said.push((1, Said::Connect));
        for ask in &early {
            pair.ask(ask);
        }
        prop_assert!(pair.desk.replies().is_empty() && pair.desk.requests().is_empty());
        pair.desk.actions.clear();
        pair.desk.verified(0, Ok(claims_of(rights)));
        pair.compare()?;
        for step in steps {
            match step {
                Step::Ask(ask) => pair.ask(&ask),
                Step::Again(channel) => {
                    let subscribe = Ask::Subscribe {
                        channel,
                        recover: false,
                        map: false,
                        token: false,
                    };
                    pair.ask(&subscribe);
                    pair.ask(&Ask::Unsubscribe(channel));
                    pair.ask(&subscribe);
                }
                Step::Answer(at, luck) => pair.answer(at, luck),
                Step::End(channel) => {
                    let notice = Notice::Unsubscribed {
                        channel: Channel::parse(channel).unwrap(),
                        why: Unsubscribed::InsufficientState,
                    };
                    pair.desk.with(|s, cx, out| s.notice(cx, notice, out));
                    if let Some(end) = pair.naive.ended(channel) {
                        prop_assert_eq!(pair.desk.closed().map(|why| why.code()), Some(end));
                        return Ok(());
                    }
                }
                Step::Proof(at, proof) => {
                    if pair.looking.is_empty() {
                        continue;
                    }
                    let at = usize::from(at) % pair.looking.len();
                    let (request, channel) = pair.looking.remove(at);
                    let told = proof_of(proof, &channel, rights.user);
                    pair.desk
                        .with(|s, cx, out| s.subscription_verified(cx, request, told, out));
                    if let Some(end) = pair.naive.looked(at, proof) {
                        prop_assert_eq!(pair.desk.closed().map(|why| why.code()), Some(end));
                        return Ok(());
                    }
                }
                Step::Begin(name) => {
                    let Ok(channel) = Channel::parse(name) else { continue };
                    let command = ServerCommand::Subscribe {
                        channel,
                        grant: Box::default(),
                        recover_since: None,
                    };
                    let mut done = Ok(());
                    pair.desk.with(|s, cx, out| done = s.command(cx, command, out));
                    prop_assert_eq!(done, pair.naive.server_subscribe(name));
                }
                Step::Finish(name) => {
                    let Ok(channel) = Channel::parse(name) else { continue };
                    let command = ServerCommand::Unsubscribe { channel };
                    let mut done = Ok(());
                    pair.desk.with(|s, cx, out| done = s.command(cx, command, out));
                    prop_assert_eq!(done, Ok(()));
                    pair.naive.server_unsubscribe(name);
                }
                Step::Token(result) => {
                    if pair.naive.is_refreshing() {
                        let request = pair.refresh;
                        let told = result.map(claims_of);
                        pair.desk.verified(request, told);
                    }
                    let end = pair.naive.refreshed(result.map_err(|e| match e {
                        TokenError::Expired => ErrorCode::TokenExpired,
                        TokenError::Unavailable => ErrorCode::Internal,
                        TokenError::Invalid => ErrorCode::PermissionDenied,
                    }));
                    if end.is_some() {
                        prop_assert_eq!(pair.desk.closed().map(|why| why.code()), end);
                        return Ok(());
                    }
                }
            }
            prop_assert!(pair.desk.closed().is_none());
            pair.compare()?;
        }
        // In the end nobody waits for a reply.
        while !(pair.waiting.is_empty() && pair.looking.is_empty()) {
            if pair.looking.is_empty() {
                pair.answer(0, 1);
            } else {
                let (request, _) = pair.looking.remove(0);
                pair.desk.with(|s, cx, out| {
                    s.subscription_verified(cx, request, Err(TokenError::Invalid), out);
                });
                pair.naive.looked(0, Proof::Invalid);
            }
            pair.compare()?;
        }
    }
}
