//! Rules of a session: opening, tokens, expiry, pings, rate, and what ends it.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::snapshot::{CommandRate, Instance, Namespace, Snapshot, Who};
use gb6_core_model::{
    Allow, Capability, Caps, Disconnect, ErrorCode, InstanceEpoch, InstanceId, SessionId, Slot,
};
use gb6_core_wire::client::{Dialect, Reply};
use gb6_edge_session::{
    Action, Claims, Context, FrameKind, HubRequest, Session, SessionConfig, SessionCounters,
    SessionSeed, TokenError,
};

use crate::client::replies;

/// A session with its surroundings, driven by hand.
pub(crate) struct Desk {
    pub(crate) session: Session,
    pub(crate) snapshot: Snapshot,
    pub(crate) config: SessionConfig,
    pub(crate) counters: SessionCounters,
    pub(crate) now: u64,
    pub(crate) outbox: usize,
    pub(crate) dialect: Dialect,
    pub(crate) actions: Vec<Action>,
}

pub(crate) const UNIX: i64 = 1_800_000_000_000;

pub(crate) fn demo() -> Instance {
    let closed = Namespace {
        presence: true,
        allow_subscribe: Who::Nobody,
        allow_publish: Who::Nobody,
        allow_presence: Who::Nobody,
        allow_history: Who::Nobody,
        ..Namespace::default()
    };
    let room = Namespace {
        presence: true,
        join_leave: true,
        ..Namespace::default()
    };
    let bare = Namespace {
        force_recovery: false,
        force_positioning: false,
        max_message_bytes: 20,
        ..Namespace::default()
    };
    Instance {
        region: "eu".into(),
        epoch: InstanceEpoch(3),
        slots: vec![Slot(1)],
        namespaces: BTreeMap::from([
            ("room".into(), room),
            ("closed".into(), closed),
            ("bare".into(), bare),
        ]),
        subscriptions_max: 3,
        user_status_ttl_ms: 60_000,
        ..Instance::default()
    }
}

pub(crate) fn claims() -> Claims {
    Claims {
        instance: InstanceId::from("demo"),
        user: "alice".into(),
        info: Bytes::from_static(b"{\"n\":1}"),
        caps: Caps(None),
        expires_unix_ms: None,
        subscriptions: Default::default(),
        data: Bytes::new(),
        meta: Bytes::new(),
        client_refreshes: true,
    }
}

impl Desk {
    pub(crate) fn opening(dialect: Dialect) -> Self {
        let snapshot = Snapshot {
            revision: 1,
            instances: BTreeMap::from([(InstanceId::from("demo"), demo())]),
            ..Snapshot::default()
        };
        let config = SessionConfig {
            version: "gb6 test".into(),
            node: "e1".into(),
            bulk_waiting_max: 2,
            ..SessionConfig::default()
        };
        let counters = SessionCounters::default();
        let seed = SessionSeed {
            session: SessionId(7),
            secret: 0x5e55_1077,
            client: "client-7".into(),
            dialect,
            instance: InstanceId::from("demo"),
            spread: 0,
        };
        let session = Session::new(&context(&snapshot, &config, &counters, 1_000, 0), seed);
        Self {
            session,
            snapshot,
            config,
            counters,
            now: 1_000,
            outbox: 0,
            dialect,
            actions: Vec::new(),
        }
    }

    pub(crate) fn live() -> Self {
        Self::live_with(Dialect::Json, claims())
    }

    pub(crate) fn live_with(dialect: Dialect, claims: Claims) -> Self {
        let mut desk = Self::opening(dialect);
        match dialect {
            Dialect::Json => desk.text(r#"{"id":1,"connect":{"token":"T"}}"#),
            // connect {token: "T"} with id 1
            Dialect::Protobuf => desk.binary(&[0x07, 0x08, 0x01, 0x22, 0x03, 0x0a, 0x01, b'T']),
        }
        desk.verified(0, Ok(claims));
        let reply = desk.replies().remove(0);
        assert_eq!(reply.connect.unwrap().client, "client-7");
        desk.actions.clear();
        desk
    }

    pub(crate) fn with(&mut self, f: impl FnOnce(&mut Session, &Context<'_>, &mut Vec<Action>)) {
        let cx = context(
            &self.snapshot,
            &self.config,
            &self.counters,
            self.now,
            self.outbox,
        );
        f(&mut self.session, &cx, &mut self.actions);
    }

    pub(crate) fn text(&mut self, frame: &str) {
        let frame = Bytes::from(frame.to_owned());
        self.with(|s, cx, out| s.frame(cx, FrameKind::Text, frame, out));
    }

    pub(crate) fn binary(&mut self, frame: &[u8]) {
        let frame = Bytes::copy_from_slice(frame);
        self.with(|s, cx, out| s.frame(cx, FrameKind::Binary, frame, out));
    }

    pub(crate) fn verified(&mut self, request: u32, result: Result<Claims, TokenError>) {
        self.with(|s, cx, out| s.verified(cx, request, result, out));
    }

    pub(crate) fn tick_at(&mut self, now: u64) {
        self.now = now;
        self.with(|s, cx, out| s.tick(cx, out));
    }

    /// Takes the replies out of the actions.
    pub(crate) fn replies(&mut self) -> Vec<Reply> {
        let dialect = self.dialect;
        let (sent, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.actions)
            .into_iter()
            .partition(|a| matches!(a, Action::Send(_)));
        self.actions = rest;
        let frames = sent.into_iter().filter_map(|a| match a {
            Action::Send(frame) => Some(frame),
            _ => None,
        });
        frames.flat_map(|f| replies(dialect, &f)).collect()
    }

    pub(crate) fn errors(&mut self) -> Vec<(u32, u32)> {
        let code = |r: Reply| (r.id, r.error.map_or(0, |e| e.code));
        self.replies().into_iter().map(code).collect()
    }

    pub(crate) fn requests(&mut self) -> Vec<HubRequest> {
        let mut requests = Vec::new();
        self.actions.retain(|a| match a {
            Action::Hub(request) => {
                requests.push(request.clone());
                false
            }
            _ => true,
        });
        requests
    }

    pub(crate) fn closed(&self) -> Option<Disconnect> {
        match self.actions.last() {
            Some(Action::Close(why)) => {
                assert!(self.session.is_closed() && self.session.deadline().is_none());
                why.standard()
            }
            _ => None,
        }
    }
}

fn context<'a>(
    snapshot: &'a Snapshot,
    config: &'a SessionConfig,
    counters: &'a SessionCounters,
    now_ms: u64,
    outbox_bytes: usize,
) -> Context<'a> {
    Context {
        now_ms,
        unix_ms: UNIX + now_ms as i64 - 1_000,
        snapshot,
        config,
        counters,
        outbox_bytes,
        limits: None,
    }
}

#[test]
fn what_breaks_the_protocol_ends_the_session() {
    let connect = r#"{"id":1,"connect":{"token":"T"}}"#;
    let opening = [
        ("", 3501),
        ("garbage", 3501),
        ("{}", 3501),
        (r#"{"id":1,"subscribe":{"channel":"room:1"}}"#, 3501),
        (r#"{"connect":{"token":"T"}}"#, 3501),
        (r#"{"id":1,"connect":{}}"#, 3501),
        (
            r#"{"id":1,"connect":{"token":"T"},"subscribe":{"channel":"room:1"}}"#,
            3501,
        ),
    ];
    for (frame, code) in opening {
        let mut desk = Desk::opening(Dialect::Json);
        desk.text(frame);
        assert_eq!(desk.closed().map(|c| c.code()), Some(code), "{frame}");
        desk.text(connect);
        assert_eq!(desk.actions.len(), 1, "nothing comes behind the close");
    }
    let live = [
        (connect, 3501),
        ("{}", 3501),
        (r#"{"id":5}"#, 3501),
        (r#"{"subscribe":{"channel":"room:1"}}"#, 3501),
        (r#"{"id":0,"rpc":{"method":"x"}}"#, 3501),
        (r#"{"send":{"data":{}}}"#, 3508),
        (r#"{"id":4,"send":{"data":{}}}"#, 3508),
        (r#"{"id":5,"ping":{},"send":{"data":{}}}"#, 3501),
        ("{\"id\":5,\"ping\":{}}\n\n", 0),
        ("{\"id\":5,\"ping\":{}}\n\n{\"id\":6,\"ping\":{}}", 3501),
    ];
    for (frame, code) in live {
        let mut desk = Desk::live();
        desk.text(frame);
        assert_eq!(desk.closed().map_or(0, |c| c.code()), code, "{frame}");
    }
    let mut desk = Desk::live();
    desk.binary(&[0]);
    assert_eq!(desk.closed(), Some(Disconnect::InappropriateProtocol));
    let mut desk = Desk::live();
    desk.text(&" ".repeat(1024 * 1024 + 1));
    assert_eq!(desk.closed(), Some(Disconnect::BadRequest));
}

#[test]
fn commands_behind_a_connect_wait_for_it_and_keep_their_order() {
    let mut desk = Desk::opening(Dialect::Json);
    desk.text(
        "{\"connect\":{\"token\":\"T\",\"name\":\"js\"},\"id\":1}\n{\"subscribe\":{\"channel\":\"room:1\"},\"id\":2}\n{\"subscribe\":{\"channel\":\"room:2\"},\"id\":3}",
    );
    desk.text(r#"{"id":4,"ping":{}}"#);
    let [Action::Verify { request: 0, token }] = desk.actions.as_slice() else {
        panic!("{:?}", desk.actions);
    };
    assert_eq!(token, "T");
    desk.actions.clear();
    desk.verified(9, Ok(claims()));
    assert!(desk.actions.is_empty(), "nobody asked under 9");
    desk.verified(0, Ok(claims()));
    let rooms: Vec<String> = desk
        .requests()
        .into_iter()
        .map(|r| r.room.channel)
        .collect();
    assert_eq!(rooms, ["room:1", "room:2"]);
    let got = desk.replies();
    assert_eq!(got.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 4]);
    let connect = got[0].connect.clone().unwrap();
    assert_eq!((connect.ping, connect.pong), (25, true));
    assert_eq!(
        (connect.expires, connect.ttl, connect.time),
        (false, 0, UNIX)
    );
    assert_eq!(
        (connect.node.as_str(), connect.session.as_str()),
        ("e1", "0000000000000000000000005e551077")
    );
    assert_eq!(connect.version, "gb6 test");
}

#[test]
fn a_client_that_does_not_wait_for_its_connect_is_bounded() {
    let mut desk = Desk::opening(Dialect::Json);
    desk.text(r#"{"id":1,"connect":{"token":"T"}}"#);
    let data = "x".repeat(60_000);
    for _ in 0..18 {
        desk.text(&format!(
            r#"{{"id":2,"publish":{{"channel":"room:1","data":"{data}"}}}}"#
        ));
    }
    assert_eq!(desk.closed(), Some(Disconnect::TooManyRequests));
}

#[test]
fn commands_wait_while_the_queue_is_long_and_keep_their_order() {
    let mut desk = Desk::live();
    desk.config.commands_high_water_bytes = 10_000;
    let pings = |ids: std::ops::Range<u32>| {
        let lines = ids.map(|id| format!(r#"{{"id":{id},"ping":{{}}}}"#));
        lines.collect::<Vec<_>>().join("\n")
    };
    desk.text(&pings(1..900));
    let mut seen: Vec<u32> = desk.replies().iter().map(|r| r.id).collect();
    assert!((300..600).contains(&seen.len()), "{} at once", seen.len());
    assert!(desk.session.is_behind() && desk.session.wants_drain());
    // What comes meanwhile stays behind it, whatever becomes of the queue.
    desk.text(&pings(900..1_000));
    assert!(desk.replies().is_empty());
    desk.outbox = 10_001;
    desk.with(|s, cx, out| s.drained(cx, out));
    assert!(desk.replies().is_empty());
    desk.outbox = 0;
    while desk.session.is_behind() {
        desk.with(|s, cx, out| s.drained(cx, out));
        seen.extend(desk.replies().iter().map(|r| r.id));
    }
    assert_eq!(seen, (1..1_000).collect::<Vec<_>>());
    assert!(!desk.session.wants_drain());
    // A thousand commands are a turn, however short their replies.
    desk.config.commands_high_water_bytes = 1 << 20;
    desk.text(&pings(1..2_000));
    assert_eq!(desk.replies().len(), 1_024);
    desk.with(|s, cx, out| s.drained(cx, out));
    assert_eq!(desk.replies().len(), 975);
    assert!(!desk.session.is_behind());
}

#[test]
fn what_waits_for_the_queue_is_bounded_and_gone_at_the_end() {
    let mut desk = Desk::live();
    desk.outbox = 300 * 1024;
    let frame = format!("{}{{\"id\":1,\"ping\":{{}}}}", "{}\n".repeat(300_000));
    desk.text(&frame);
    desk.text(&frame);
    assert!(desk.closed().is_none() && desk.session.is_behind());
    desk.text(&frame);
    assert_eq!(desk.closed(), Some(Disconnect::TooManyRequests));
    assert!(!desk.session.is_behind());
}

#[test]
fn what_was_wrong_with_a_frame_is_told_without_what_it_held() {
    let mut desk = Desk::live();
    desk.text("{\"id\":2,\"ping\":{}}\n{\"secret\":");
    assert_eq!(desk.closed(), Some(Disconnect::BadRequest));
    let fault = desk.session.fault().unwrap().to_string();
    assert!(fault.starts_with("command 1 of the frame"), "{fault}");
    assert!(!fault.contains("secret"));
    // The command before it was carried out.
    assert_eq!(desk.errors(), [(2, 0)]);
}

#[test]
fn a_refused_connect_makes_the_connection_unusable() {
    let with_more = "{\"id\":1,\"connect\":{\"token\":\"T\"}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room:1\"}}";
    let foreign = Claims {
        instance: InstanceId::from("gone"),
        ..claims()
    };
    for (result, code) in [
        (Err(TokenError::Expired), 109),
        (Err(TokenError::Unavailable), 100),
        (Ok(foreign), 100),
    ] {
        let mut desk = Desk::opening(Dialect::Json);
        desk.text(with_more);
        desk.actions.clear();
        desk.verified(0, result);
        desk.text(r#"{"id":3,"ping":{}}"#);
        assert_eq!(desk.errors(), [(1, code)]);
        assert!(desk.actions.is_empty());
        desk.tick_at(11_000);
        assert_eq!(desk.closed(), Some(Disconnect::Stale));
    }
    let mut desk = Desk::opening(Dialect::Json);
    desk.text(with_more);
    desk.verified(0, Err(TokenError::Invalid));
    assert_eq!(desk.closed(), Some(Disconnect::InvalidToken));
}

#[test]
fn a_connection_without_connect_is_stale_after_ten_seconds() {
    let mut desk = Desk::opening(Dialect::Json);
    assert_eq!(desk.session.deadline(), Some(11_000));
    desk.tick_at(10_999);
    assert!(desk.closed().is_none());
    desk.tick_at(11_000);
    assert_eq!(desk.closed(), Some(Disconnect::Stale));
}

#[test]
fn pings_and_pongs() {
    for dialect in Dialect::ALL {
        let mut desk = Desk::live_with(dialect, claims());
        let pong = |desk: &mut Desk| match dialect {
            Dialect::Json => desk.text("{}"),
            Dialect::Protobuf => desk.binary(&[0]),
        };
        // A spread of 0 is the earliest: half an interval.
        assert_eq!(desk.session.deadline(), Some(13_500));
        desk.tick_at(13_500);
        let Some(Action::Send(ping)) = desk.actions.first() else {
            panic!("no ping");
        };
        let want: &[u8] = match dialect {
            Dialect::Json => b"\x81\x02{}",
            Dialect::Protobuf => &[0x82, 1, 0],
        };
        assert_eq!(&ping[..], want);
        desk.actions.clear();
        assert_eq!(desk.session.deadline(), Some(21_500));
        desk.now = 21_499;
        pong(&mut desk);
        assert_eq!(desk.session.deadline(), Some(38_500));
        desk.tick_at(38_500);
        // Other data is no pong.
        if dialect == Dialect::Json {
            desk.text(r#"{"id":9,"ping":{}}"#);
        }
        desk.tick_at(46_500);
        assert_eq!(desk.closed(), Some(Disconnect::NoPong));
    }
    let mut late = Desk::opening(Dialect::Json);
    late.config.ping_interval_ms = 0;
    late.text(r#"{"id":1,"connect":{"token":"T"}}"#);
    late.verified(0, Ok(claims()));
    let connect = late.replies().remove(0).connect.unwrap();
    assert_eq!((connect.ping, connect.pong), (0, false));
    assert_eq!(late.session.deadline(), Some(u64::MAX));
}

#[test]
fn a_refresh_with_an_expired_token_ends_the_connection_so_that_the_client_comes_back() {
    let mut desk = Desk::live();
    desk.text(r#"{"id":2,"refresh":{"token":"U"}}"#);
    desk.verified(1, Err(TokenError::Expired));
    assert_eq!(desk.closed(), Some(Disconnect::ConnectionExpired));
    assert!(desk.errors().is_empty());
}

#[test]
fn a_token_expires_is_refreshed_and_expires_again() {
    let expiring = |ms: i64| Claims {
        expires_unix_ms: Some(UNIX + ms),
        ..claims()
    };
    let mut desk = Desk::opening(Dialect::Json);
    desk.config.ping_interval_ms = 0;
    desk.text(r#"{"id":1,"connect":{"token":"T"}}"#);
    desk.verified(0, Ok(expiring(59_001)));
    let connect = desk.replies().remove(0).connect.unwrap();
    assert_eq!((connect.expires, connect.ttl), (true, 60));
    assert_eq!(desk.session.deadline(), Some(1_000 + 59_001 + 25_000));
    desk.actions.clear();
    desk.now = 70_000;
    desk.text("{\"id\":2,\"refresh\":{\"token\":\"U\"}}\n{\"id\":3,\"refresh\":{\"token\":\"V\"}}\n{\"id\":4,\"refresh\":{}}");
    assert_eq!(desk.errors(), [(3, 111), (4, 107)]);
    let Some(Action::Verify { request: 1, token }) = desk.actions.pop() else {
        panic!("{:?}", desk.actions);
    };
    assert_eq!(token, "U");
    desk.verified(1, Err(TokenError::Unavailable));
    assert_eq!(desk.errors(), [(2, 100)]);
    desk.text(r#"{"id":5,"refresh":{"token":"W"}}"#);
    desk.actions.clear();
    desk.verified(2, Ok(expiring(100_000)));
    let refreshed = desk.replies().remove(0).refresh.unwrap();
    assert_eq!((refreshed.expires, refreshed.ttl), (true, 31));
    assert_eq!(refreshed.client, "client-7");
    desk.tick_at(125_999);
    assert!(desk.closed().is_none());
    desk.tick_at(126_000);
    assert_eq!(desk.closed(), Some(Disconnect::ConnectionExpired));
}

#[test]
fn a_connection_never_becomes_another_persons_or_instances() {
    let bob = Claims {
        user: "bob".into(),
        ..claims()
    };
    let elsewhere = Claims {
        instance: InstanceId::from("other"),
        ..claims()
    };
    for result in [Ok(bob), Ok(elsewhere), Err(TokenError::Invalid)] {
        let mut desk = Desk::live();
        desk.text(r#"{"id":2,"refresh":{"token":"U"}}"#);
        desk.verified(1, result);
        assert_eq!(desk.closed(), Some(Disconnect::InvalidToken));
    }
}

#[test]
fn a_refresh_replaces_what_the_connection_may_do() {
    let mut desk = Desk::live();
    desk.text(r#"{"id":2,"refresh":{"token":"U"}}"#);
    let nothing = Claims {
        caps: Caps(Some(Vec::new())),
        ..claims()
    };
    desk.verified(1, Ok(nothing));
    desk.text(r#"{"id":3,"subscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.errors().pop(), Some((3, 103)));
}

#[test]
fn commands_over_the_rate_are_refused_then_the_session_ends() {
    let mut desk = Desk::live();
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.command_rate = Some(CommandRate {
        per_second: 100,
        burst: 10,
    });
    let ping = |id: u32| format!("{{\"id\":{id},\"ping\":{{}}}}");
    let many: Vec<String> = (2..=20).map(ping).collect();
    desk.text(&many.join("\n"));
    let errors = desk.errors();
    assert_eq!(errors.iter().filter(|(_, code)| *code == 0).count(), 10);
    assert_eq!(errors.iter().filter(|(_, code)| *code == 111).count(), 9);
    // After a pause it may go on.
    desk.now += 500;
    desk.text(&ping(30));
    assert_eq!(desk.errors(), [(30, 0)]);
    let flood: Vec<String> = (40..=80).map(ping).collect();
    desk.text(&flood.join("\n"));
    assert_eq!(desk.closed(), Some(Disconnect::TooManyRequests));
}

#[test]
fn an_unsubscribe_succeeds_whatever_the_rate_and_counts() {
    let mut desk = Desk::live();
    desk.config.in_flight_max = 1;
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.command_rate = Some(CommandRate {
        per_second: 1,
        burst: 3,
    });
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.requests().len(), 1);
    // The only place for a request is taken; then the rate is used up too.
    desk.text(r#"{"id":3,"ping":{}}"#);
    desk.text(r#"{"id":4,"ping":{}}"#);
    assert_eq!(desk.errors(), [(3, 111), (4, 111)]);
    desk.text(r#"{"id":5,"unsubscribe":{"channel":"room:1"}}"#);
    assert!(desk.replies().is_empty());
    let leave = desk.requests().remove(0);
    assert!(matches!(
        leave.request,
        gb6_edge_session::Request::Unsubscribe
    ));
    let left = gb6_edge_session::Answer::Unsubscribed;
    desk.with(|s, cx, out| s.complete(cx, leave.token, left, out));
    assert_eq!(desk.errors(), [(5, 0)]);
    // A flood of them is over the rate like any other.
    desk.text(r#"{"id":6,"unsubscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.errors(), [(6, 0)]);
    desk.text(r#"{"id":7,"unsubscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.closed(), Some(Disconnect::TooManyRequests));
}

#[test]
fn shutdown_says_why() {
    let mut desk = Desk::live();
    desk.with(|s, cx, out| s.shutdown(cx, Disconnect::Shutdown, out));
    assert_eq!(desk.closed(), Some(Disconnect::Shutdown));
}

#[test]
fn errors_of_channels_and_permissions() {
    let caps = |list: &[(&str, Allow)]| {
        let capability = |(pattern, allow): &(&str, Allow)| Capability {
            channels: vec![(*pattern).to_owned()],
            matching: gb6_core_model::caps::Match::Wildcard,
            allow: vec![*allow],
        };
        Caps(Some(list.iter().map(capability).collect()))
    };
    let all = Caps(None);
    let only_sub = caps(&[("room:*", Allow::Subscribe)]);
    let only_history = caps(&[("room:1", Allow::History)]);
    let long = format!("room:{}", "x".repeat(251));
    let sub = |channel: &str| format!(r#""subscribe":{{"channel":"{channel}"}}"#);
    let publish =
        |channel: &str, data: &str| format!(r#""publish":{{"channel":"{channel}","data":{data}}}"#);
    let big = format!("\"{}\"", "x".repeat(70_000));
    let cases = [
        (&all, sub(""), 107),
        (&all, sub("room: 1"), 107),
        (&all, sub(&long), 107),
        (&all, sub("plain"), 102),
        (&all, sub("nowhere:1"), 102),
        (&all, sub("$room:1"), 103),
        (&all, sub("#alice"), 102),
        (&all, sub("room:x#bob"), 103),
        (&all, sub("room:x#bob,alice"), 0),
        (&all, sub("!users"), 103),
        (&all, sub("closed:1"), 103),
        (&all, sub("room:1"), 0),
        (&only_sub, sub("room:1"), 0),
        (&only_sub, sub("bare:1"), 103),
        (&only_history, sub("room:1"), 103),
        (
            &all,
            r#""subscribe":{"channel":"room:1","type":1}"#.into(),
            108,
        ),
        (
            &all,
            r#""subscribe":{"channel":"room:1","tf":{"key":"a","cmp":"eq","val":"b"}}"#.into(),
            107,
        ),
        (&all, publish("room:1", "{}"), 0),
        (&only_sub, publish("room:1", "{}"), 103),
        (&all, publish("closed:1", "{}"), 103),
        (&all, publish("bare:1", "\"0123456789012345678\""), 107),
        (&all, publish("bare:1", "\"012345678901234567\""), 0),
        (&all, publish("room:1", &big), 107),
        (&all, r#""publish":{"channel":"room:1"}"#.into(), 107),
        (
            &all,
            r#""publish":{"channel":"room:1","data":1,"type":1,"key":"k"}"#.into(),
            108,
        ),
        (&all, r#""presence":{"channel":"room:1"}"#.into(), 0),
        (&all, r#""presence":{"channel":"bare:1"}"#.into(), 108),
        (&all, r#""presence_stats":{"channel":"bare:1"}"#.into(), 108),
        (
            &only_sub,
            r#""presence_stats":{"channel":"room:1"}"#.into(),
            103,
        ),
        (
            &all,
            r#""history":{"channel":"room:1","limit":1}"#.into(),
            0,
        ),
        (&only_sub, r#""history":{"channel":"room:1"}"#.into(), 103),
        (&only_history, r#""history":{"channel":"room:1"}"#.into(), 0),
        (
            &all,
            r#""history":{"channel":"room:1","reverse":true,"since":{"epoch":"e"}}"#.into(),
            107,
        ),
        (&all, r#""rpc":{"method":"nothing","data":{}}"#.into(), 104),
        (&all, r#""rpc":{"method":"room.publish"}"#.into(), 107),
        (
            &all,
            r#""rpc":{"method":"room.publish","data":{"room":"1"}}"#.into(),
            107,
        ),
        (
            &all,
            r#""rpc":{"method":"room.publish","data":{"room":"1","id":"","data":1}}"#.into(),
            107,
        ),
        (
            &all,
            r#""rpc":{"method":"room.publish","data":{"room":"x y","data":1}}"#.into(),
            107,
        ),
        (
            &all,
            r#""rpc":{"method":"room.publish","data":{"room":"1","data":1}}"#.into(),
            0,
        ),
        (
            &all,
            r#""rpc":{"method":"room.publish","data":{"room":"no:1","data":1}}"#.into(),
            102,
        ),
        (
            &only_sub,
            r#""rpc":{"method":"room.publish","data":{"room":"1","data":1}}"#.into(),
            103,
        ),
        (
            &all,
            r#""rpc":{"method":"room.trace","data":{"room":"1","offset":0}}"#.into(),
            107,
        ),
        (
            &all,
            r#""sub_refresh":{"channel":"room:1","token":"t"}"#.into(),
            103,
        ),
    ];
    for (caps, command, code) in cases {
        let mut desk = Desk::live_with(
            Dialect::Json,
            Claims {
                caps: caps.clone(),
                ..claims()
            },
        );
        desk.actions.clear();
        desk.text(&format!(r#"{{"id":2,{command}}}"#));
        assert!(desk.closed().is_none(), "{command}");
        let errors = desk.errors();
        match code {
            0 => assert_eq!((errors.len(), desk.requests().len()), (0, 1), "{command}"),
            code => assert_eq!(errors, [(2, code)], "{command}"),
        }
    }
    // Without capabilities only somebody is a member.
    let nobody = Claims {
        user: String::new(),
        ..claims()
    };
    let mut desk = Desk::live_with(Dialect::Json, nobody);
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1"}}"#);
    assert_eq!(desk.errors(), [(2, ErrorCode::PermissionDenied.code())]);
}
