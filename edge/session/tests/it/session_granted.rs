//! Server-side subscriptions of a connect: granted channels, positions, one budget, one answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::snapshot::Namespace;
use gb6_core_model::{Channel, ErrorCode, Unsubscribed, limits};
use gb6_core_wire::client::{ConnectResult, Dialect};
use gb6_edge_session::{
    Answer, Claims, HubRequest, Notice, Request, ServerCommand, SubscriptionGrant,
};

use crate::session_rooms::{recents, subscribed};
use crate::session_rules::{Desk, UNIX, claims};

fn granting(channels: &[&str]) -> Claims {
    let grant = |name: &&str| ((*name).to_owned(), SubscriptionGrant::default());
    Claims {
        subscriptions: channels.iter().map(grant).collect(),
        ..claims()
    }
}

/// A session that has sent this and whose token was good.
fn joining(dialect: Dialect, connect: &str, claims: Claims) -> Desk {
    let mut desk = Desk::opening(dialect);
    match dialect {
        Dialect::Json => desk.text(connect),
        Dialect::Protobuf => desk.binary(&[0x07, 0x08, 0x01, 0x22, 0x03, 0x0a, 0x01, b'T']),
    }
    desk.actions.clear();
    desk.verified(0, Ok(claims));
    desk
}

const CONNECT: &str = r#"{"id":1,"connect":{"token":"T"}}"#;

fn answer_of(desk: &mut Desk) -> ConnectResult {
    let mut replies = desk.replies();
    let reply = replies.remove(0);
    assert_eq!((reply.id, replies.len()), (1, 0));
    *reply.connect.unwrap()
}

fn names(requests: &[HubRequest]) -> Vec<&str> {
    requests.iter().map(|r| r.room.channel.as_str()).collect()
}

#[test]
fn the_answer_to_a_connect_waits_for_all_its_subscriptions() {
    for dialect in Dialect::ALL {
        let mut granted = granting(&["room:1", "room:2"]);
        granted.subscriptions.insert(
            "closed:1".into(),
            SubscriptionGrant {
                data: Bytes::from_static(b"{\"d\":1}"),
                info: Bytes::from_static(b"7"),
                expires_unix_ms: Some(UNIX + 30_000),
                ..SubscriptionGrant::default()
            },
        );
        let mut desk = joining(dialect, CONNECT, granted);
        let requests = desk.requests();
        assert_eq!(names(&requests), ["closed:1", "room:1", "room:2"]);
        let Request::Subscribe(query) = &requests[0].request else {
            panic!("{requests:?}");
        };
        assert_eq!(query.presence.as_ref().unwrap().chan_info, "7");
        assert!(!desk.session.is_connected() && !desk.session.wants_drain());
        for (request, offset) in requests.iter().zip([3, 4, 0]) {
            assert!(desk.actions.is_empty());
            desk.complete(request.token, subscribed(offset, false, Vec::new()));
        }
        assert!(desk.session.is_connected());
        let connect = answer_of(&mut desk);
        assert_eq!(connect.client, "client-7");
        let subs: Vec<(&str, u64)> = connect
            .subs
            .iter()
            .map(|(name, sub)| (name.as_str(), sub.offset))
            .collect();
        assert_eq!(subs, [("closed:1", 3), ("room:1", 4), ("room:2", 0)]);
        let first = &connect.subs["closed:1"];
        assert_eq!((first.expires, first.ttl), (true, 30));
        assert_eq!(first.data, "{\"d\":1}");
        assert!(first.positioned && first.recoverable && first.epoch == "abc");
    }
}

#[test]
fn commands_behind_such_a_connect_wait_for_its_answer() {
    let frame = "{\"connect\":{\"token\":\"T\"},\"id\":1}\n{\"subscribe\":{\"channel\":\"room:1\"},\"id\":2}\n{\"subscribe\":{\"channel\":\"room:2\"},\"id\":3}";
    let mut desk = joining(Dialect::Json, frame, granting(&["room:1"]));
    desk.text(r#"{"id":4,"ping":{}}"#);
    let requests = desk.requests();
    assert_eq!(names(&requests), ["room:1"]);
    assert!(desk.replies().is_empty() && !desk.session.is_behind());
    desk.complete(requests[0].token, subscribed(3, false, Vec::new()));
    let replies = desk.replies();
    assert_eq!(replies.iter().map(|r| r.id).collect::<Vec<_>>(), [1, 2, 4]);
    // What the server holds can not be subscribed to.
    assert_eq!(replies[1].error.as_ref().unwrap().code, 105);
    assert_eq!(names(&desk.requests()), ["room:2"]);
    // Who does not wait at all is bounded.
    let mut desk = joining(Dialect::Json, CONNECT, granting(&["room:1"]));
    let data = "x".repeat(60_000);
    for _ in 0..18 {
        desk.text(&format!(
            r#"{{"id":2,"publish":{{"channel":"room:1","data":"{data}"}}}}"#
        ));
    }
    assert_eq!(desk.closed().map(|c| c.code()), Some(3013));
}

#[test]
fn positions_count_for_granted_channels_only() {
    let connect = r#"{"id":1,"connect":{"token":"T","subs":{"room:1":{"recover":true,"offset":4,"epoch":"abc","flag":2},"room:2":{"recover":true,"offset":1},"$room:9":{"recover":true,"offset":1}}}}"#;
    let mut desk = joining(Dialect::Json, connect, granting(&["room:1", "room:3"]));
    let requests = desk.requests();
    let recover = |r: &HubRequest| match &r.request {
        Request::Subscribe(query) => {
            let from = query.recover.as_ref();
            from.map(|f| (f.offset, f.epoch.clone(), f.or_fail))
        }
        other => panic!("{other:?}"),
    };
    // An error in place of `recovered: false` would refuse the whole connect.
    let mut got: Vec<_> = requests
        .iter()
        .map(|r| (r.room.channel.as_str(), recover(r)))
        .collect();
    got.sort();
    let want = (4, "abc".to_owned(), false);
    assert_eq!(got, [("room:1", Some(want)), ("room:3", None)]);
    for request in &requests {
        let recovers = recover(request).is_some();
        let publications = if recovers {
            recents(5..=6, 10)
        } else {
            Vec::new()
        };
        desk.complete(request.token, subscribed(4, recovers, publications));
    }
    let connect = answer_of(&mut desk);
    assert_eq!(connect.subs.len(), 2);
    let first = &connect.subs["room:1"];
    assert!(first.recovered && first.was_recovering && first.offset == 4);
    let offsets: Vec<u64> = first.publications.iter().map(|p| p.offset).collect();
    assert_eq!(offsets, [5, 6]);
    let other = &connect.subs["room:3"];
    assert!(!other.recovered && !other.was_recovering);
}

#[test]
fn all_rooms_of_a_connect_have_one_budget_and_one_frame() {
    let names: Vec<String> = (0..40).map(|n| format!("room:{n:02}")).collect();
    let positions: Vec<String> = names
        .iter()
        .map(|n| format!(r#""{n}":{{"recover":true,"offset":0}}"#))
        .collect();
    let connect = format!(
        r#"{{"id":1,"connect":{{"token":"T","subs":{{{}}}}}}}"#,
        positions.join(",")
    );
    let mut desk = Desk::opening(Dialect::Json);
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.subscriptions_max = 40;
    desk.text(&connect);
    desk.actions.clear();
    let channels: Vec<&str> = names.iter().map(String::as_str).collect();
    desk.verified(0, Ok(granting(&channels)));
    let mut answered = 0;
    let mut least = usize::MAX;
    loop {
        // At most sixteen at once in one shard; each is offered what is left.
        let requests = desk.requests();
        if requests.is_empty() {
            break;
        }
        assert!(requests.len() <= 16);
        for request in requests {
            let Request::Subscribe(query) = &request.request else {
                panic!("{request:?}");
            };
            let bytes = query.recover.as_ref().unwrap().bytes_max;
            assert!(bytes <= least);
            least = bytes;
            answered += 1;
            desk.complete(request.token, subscribed(0, true, recents(1..=1, 20_000)));
        }
    }
    assert_eq!(answered, 40);
    let connect = answer_of(&mut desk);
    let (got, not): (Vec<_>, Vec<_>) = connect.subs.values().partition(|s| s.recovered);
    assert_eq!(got.len() + not.len(), 40);
    assert!((20..27).contains(&got.len()), "{} recovered", got.len());
    assert!(got.iter().all(|s| s.publications.len() == 1));
    // The others stand behind what they were not given, and the client is told.
    assert!(
        not.iter()
            .all(|s| s.publications.is_empty() && s.offset == 1 && s.was_recovering)
    );
    let count: usize = connect.subs.values().map(|s| s.publications.len()).sum();
    assert!(count <= limits::RECOVERY_PUBLICATIONS_MAX);
}

#[test]
fn a_thousand_long_names_leave_room_in_the_frame() {
    let names: Vec<String> = (0..1024).map(|n| format!("room:{n:0>249}")).collect();
    let mut desk = Desk::opening(Dialect::Json);
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.subscriptions_max = 1024;
    let positions: Vec<String> = names
        .iter()
        .map(|n| format!(r#""{n}":{{"recover":true,"offset":0}}"#))
        .collect();
    desk.text(&format!(
        r#"{{"id":1,"connect":{{"token":"T","subs":{{{}}}}}}}"#,
        positions.join(",")
    ));
    desk.actions.clear();
    let channels: Vec<&str> = names.iter().map(String::as_str).collect();
    desk.verified(0, Ok(granting(&channels)));
    loop {
        let requests = desk.requests();
        if requests.is_empty() {
            break;
        }
        for request in requests {
            desk.complete(request.token, subscribed(0, true, recents(1..=1, 60_000)));
        }
    }
    let bytes: usize = desk
        .actions
        .iter()
        .map(|a| match a {
            gb6_edge_session::Action::Send(frame) => frame.len(),
            _ => 0,
        })
        .sum();
    assert!(bytes <= limits::CLIENT_FRAME_OUT_BYTES_MAX, "{bytes}");
    let connect = answer_of(&mut desk);
    let recovered = connect.subs.values().filter(|s| s.recovered).count();
    assert!((3..8).contains(&recovered), "{recovered}");
}

#[test]
fn a_subscription_that_can_not_begin_refuses_the_connect_until_the_client_comes_back() {
    for code in [ErrorCode::OwnerMoving, ErrorCode::TooManyRequests] {
        let frame = "{\"connect\":{\"token\":\"T\"},\"id\":1}\n{\"subscribe\":{\"channel\":\"room:3\"},\"id\":2}";
        let mut desk = joining(Dialect::Json, frame, granting(&["room:1", "room:2"]));
        let requests = desk.requests();
        desk.complete(requests[0].token, subscribed(3, false, Vec::new()));
        desk.complete(requests[1].token, Answer::Failed(code));
        assert_eq!(desk.errors(), [(1, code.code())], "nothing behind it");
        assert!(code.temporary());
        // The hub forgets what it had begun.
        let left = desk.requests();
        assert_eq!(names(&left), ["room:1"]);
        assert!(matches!(left[0].request, Request::Unsubscribe));
        assert!(!desk.session.is_connected());
        desk.text(r#"{"id":3,"ping":{}}"#);
        desk.complete(left[0].token, Answer::Unsubscribed);
        assert!(desk.actions.is_empty());
        desk.tick_at(11_000);
        assert_eq!(desk.closed().map(|c| c.code()), Some(3502));
    }
    // So does one that nobody answers.
    let mut desk = joining(Dialect::Json, CONNECT, granting(&["room:1"]));
    assert_eq!(desk.requests().len(), 1);
    assert_eq!(desk.session.deadline(), Some(5_000));
    desk.tick_at(4_999);
    assert!(desk.actions.is_empty());
    desk.tick_at(5_000);
    assert_eq!(desk.errors(), [(1, 100)]);
    assert_eq!(names(&desk.requests()), ["room:1"]);
}

#[test]
fn the_time_of_a_connect_counts_from_its_command() {
    // What its token takes is taken off, up to a rest for hubs that answer at once.
    for (verified, until) in [
        (1_000, 5_000),
        (3_900, 5_000),
        (4_800, 5_300),
        (9_000, 9_500),
    ] {
        let mut desk = Desk::opening(Dialect::Json);
        desk.text(CONNECT);
        desk.actions.clear();
        desk.now = verified;
        desk.verified(0, Ok(granting(&["room:1"])));
        assert_eq!(desk.requests().len(), 1);
        assert_eq!(desk.session.deadline(), Some(until), "{verified}");
        desk.tick_at(until - 1);
        assert!(desk.actions.is_empty());
        desk.tick_at(until);
        assert_eq!(desk.errors(), [(1, 100)]);
    }
}

#[test]
fn channels_that_a_token_may_not_name() {
    for (channel, code) in [
        ("nowhere:1", 102),
        ("plain", 102),
        ("!users", 103),
        ("room 1", 107),
    ] {
        let mut desk = joining(Dialect::Json, CONNECT, granting(&["room:1", channel]));
        assert_eq!(desk.errors(), [(1, code)], "{channel}");
        assert!(desk.requests().is_empty());
    }
    let many = granting(&["room:1", "room:2", "room:3", "room:4"]);
    let desk = joining(Dialect::Json, CONNECT, many);
    assert_eq!(desk.closed().map(|c| c.code()), Some(3505));
    // Server-side ones count among all.
    let mut desk = joining(
        Dialect::Json,
        CONNECT,
        granting(&["room:1", "room:2", "room:3"]),
    );
    for request in desk.requests() {
        desk.complete(request.token, subscribed(0, false, Vec::new()));
    }
    desk.replies();
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:4"}}"#);
    assert_eq!(desk.errors(), [(2, 106)]);
}

#[test]
fn a_server_side_subscription_ends_with_the_connection_or_by_the_client() {
    let live = || {
        let mut granted = granting(&["room:1"]);
        let grant = granted.subscriptions.get_mut("room:1").unwrap();
        grant.expires_unix_ms = Some(UNIX + 10_000);
        let mut desk = joining(Dialect::Json, CONNECT, granted);
        let request = desk.one();
        desk.complete(request.token, subscribed(3, false, Vec::new()));
        answer_of(&mut desk);
        desk
    };
    let mut desk = live();
    let gap = Notice::Unsubscribed {
        channel: Channel::parse("room:1").unwrap(),
        why: Unsubscribed::InsufficientState,
    };
    desk.with(|s, cx, out| s.notice(cx, gap, out));
    assert_eq!(desk.closed().map(|c| c.code()), Some(3010));

    let mut desk = live();
    desk.config.pong_timeout_ms = 1_000_000;
    desk.tick_at(35_999);
    assert!(desk.closed().is_none());
    desk.tick_at(36_000);
    assert_eq!(desk.closed().map(|c| c.code()), Some(3006));

    let mut desk = live();
    desk.text(r#"{"id":2,"sub_refresh":{"channel":"room:1","token":"T"}}"#);
    assert_eq!(desk.errors(), [(2, 103)]);
    let leave = desk.ask(r#"{"id":3,"unsubscribe":{"channel":"room:1"}}"#);
    desk.complete(leave.token, Answer::Unsubscribed);
    assert!(desk.replies()[0].unsubscribe.is_some());
    desk.tick_at(36_000);
    assert!(desk.closed().is_none());
}

#[test]
fn a_user_has_a_channel_of_its_own_where_the_instance_says_so() {
    for (personal, defaults, user, want) in [
        (true, true, "alice", vec!["#alice"]),
        (false, true, "alice", vec![]),
        (true, false, "alice", vec![]),
        (true, true, "", vec![]),
        // Names that would let others in have none.
        (true, true, "a#bob", vec![]),
        (true, true, "alice,bob", vec![]),
    ] {
        let mut desk = Desk::opening(Dialect::Json);
        let instance = desk.snapshot.instances.get_mut("demo").unwrap();
        instance.personal_channel = personal;
        instance.defaults = defaults.then(Namespace::default);
        desk.text(CONNECT);
        desk.actions.clear();
        let claims = Claims {
            user: user.into(),
            ..claims()
        };
        desk.verified(0, Ok(claims));
        assert_eq!(names(&desk.requests()), want, "{user}");
    }
}

#[test]
fn what_the_server_wants_meanwhile_waits_for_the_answer() {
    let mut desk = joining(Dialect::Json, CONNECT, granting(&["room:1", "room:2"]));
    let requests = desk.requests();
    for channel in ["room:1", "room:3"] {
        let channel = Channel::parse(channel).unwrap();
        let command = match channel.as_str() {
            "room:1" => ServerCommand::Unsubscribe { channel },
            _ => ServerCommand::Subscribe {
                channel,
                grant: Box::default(),
                recover_since: None,
            },
        };
        let mut done = Err(ErrorCode::Internal);
        desk.with(|s, cx, out| done = s.command(cx, command, out));
        assert_eq!(done, Ok(()));
    }
    assert!(desk.actions.is_empty());
    for request in &requests {
        desk.complete(request.token, subscribed(3, false, Vec::new()));
    }
    let connect = answer_of(&mut desk);
    assert_eq!(connect.subs.len(), 2);
    let asked = desk.requests();
    assert_eq!(names(&asked), ["room:1", "room:3"]);
    assert!(matches!(asked[0].request, Request::Unsubscribe));
    // No more than a bound of them.
    let mut desk = joining(Dialect::Json, CONNECT, granting(&["room:1"]));
    let mut refused: BTreeMap<u32, u32> = BTreeMap::new();
    for _ in 0..200 {
        let channel = Channel::parse("room:1").unwrap();
        desk.with(|s, cx, out| {
            if let Err(code) = s.command(cx, ServerCommand::Unsubscribe { channel }, out) {
                *refused.entry(code.code()).or_default() += 1;
            }
        });
    }
    assert_eq!(refused, BTreeMap::from([(111, 72)]));
}
