//! Subscription tokens: whose they may be, what they give, when they end.

use bytes::Bytes;
use gb6_core_model::snapshot::Who;
use gb6_core_model::{Allow, Capability, Caps, ErrorCode, InstanceId};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{
    Action, Answer, Claims, HubRequest, Overrides, Request, SubscriptionClaims, SubscriptionGrant,
    TokenError, TokenRef,
};

use crate::session_rooms::{recents, subscribed};
use crate::session_rules::{Desk, UNIX, claims};

fn token(n: u8) -> TokenRef {
    TokenRef {
        id: [n; 16],
        issued_unix_ms: Some(i64::from(n)),
    }
}

fn proof(channel: &str) -> SubscriptionClaims {
    SubscriptionClaims {
        instance: InstanceId::from("demo"),
        user: "alice".into(),
        channel: channel.to_owned(),
        client: None,
        grant: SubscriptionGrant::default(),
        token: token(1),
    }
}

impl Desk {
    /// Takes the tokens that are to be verified.
    fn tokens(&mut self) -> Vec<(u32, String, String)> {
        let mut tokens = Vec::new();
        self.actions.retain(|action| match action {
            Action::VerifySubscription {
                request,
                channel,
                token,
            } => {
                tokens.push((*request, channel.as_str().to_owned(), token.clone()));
                false
            }
            _ => true,
        });
        tokens
    }

    fn proven(&mut self, request: u32, result: Result<SubscriptionClaims, TokenError>) {
        self.with(|s, cx, out| s.subscription_verified(cx, request, result, out));
    }

    /// Subscribes by a token that gives this.
    fn subscribe_by(&mut self, channel: &str, grant: SubscriptionGrant) -> Request {
        self.text(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"{channel}","token":"T"}}}}"#
        ));
        let (request, ..) = self.tokens().remove(0);
        let told = SubscriptionClaims {
            grant,
            ..proof(channel)
        };
        self.proven(request, Ok(told));
        let asked = self.one();
        self.complete(asked.token, subscribed(3, false, Vec::new()));
        asked.request
    }
}

#[test]
fn a_token_opens_a_channel_and_says_what_it_is_there() {
    let none = Caps(Some(Vec::new()));
    let mut desk = Desk::live_with(
        Dialect::Json,
        Claims {
            caps: none,
            ..claims()
        },
    );
    desk.snapshot
        .instances
        .get_mut("demo")
        .unwrap()
        .namespaces
        .get_mut("room")
        .unwrap()
        .publish_debounce_ms = 250;
    desk.text(
        r#"{"id":2,"subscribe":{"channel":"$room:1","token":"T1","recover":true,"offset":2}}"#,
    );
    assert_eq!(desk.tokens(), [(1, "$room:1".to_owned(), "T1".to_owned())]);
    let grant = SubscriptionGrant {
        info: Bytes::from_static(b"{\"role\":\"host\"}"),
        data: Bytes::from_static(b"{\"d\":1}"),
        expires_unix_ms: Some(UNIX + 60_500),
        ..SubscriptionGrant::default()
    };
    let claims = SubscriptionClaims {
        grant,
        client: Some("client-7".into()),
        ..proof("$room:1")
    };
    desk.proven(1, Ok(claims));
    let asked = desk.one();
    let Request::Subscribe(query) = &asked.request else {
        panic!("{asked:?}");
    };
    assert_eq!(query.recover.as_ref().unwrap().offset, 2);
    let person = query.presence.as_ref().unwrap();
    assert_eq!(person.chan_info, "{\"role\":\"host\"}");
    assert_eq!(
        (person.user.as_str(), &person.conn_info[..]),
        ("alice", &b"{\"n\":1}"[..])
    );
    desk.complete(asked.token, subscribed(2, true, recents(3..=3, 1)));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert_eq!((result.expires, result.ttl), (true, 61));
    assert_eq!(
        (&result.data[..], result.publish_debounce),
        (&b"{\"d\":1}"[..], 250)
    );
    assert!(result.recovered && result.publications.len() == 1);
    assert_eq!(
        desk.counters
            .subscribed
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[test]
fn a_token_that_is_not_for_this_session_and_channel_ends_it() {
    let others = [
        SubscriptionClaims {
            user: "bob".into(),
            ..proof("room:1")
        },
        SubscriptionClaims {
            user: String::new(),
            ..proof("room:1")
        },
        SubscriptionClaims {
            instance: InstanceId::from("other"),
            ..proof("room:1")
        },
        SubscriptionClaims {
            client: Some("client-8".into()),
            ..proof("room:1")
        },
        proof("room:2"),
        proof(""),
    ];
    for other in others {
        for refresh in [false, true] {
            let mut desk = Desk::live();
            if refresh {
                desk.subscribe_by("room:1", SubscriptionGrant::default());
                desk.text(r#"{"id":3,"sub_refresh":{"channel":"room:1","token":"T"}}"#);
            } else {
                desk.text(r#"{"id":2,"subscribe":{"channel":"room:1","token":"T"}}"#);
            }
            let (request, ..) = desk.tokens().remove(0);
            desk.proven(request, Ok(other.clone()));
            assert_eq!(desk.closed().map(|c| c.code()), Some(3500), "{other:?}");
        }
    }
}

#[test]
fn a_token_that_is_refused_is_an_error_and_leaves_nothing() {
    for (error, code) in [
        (TokenError::Invalid, 103),
        (TokenError::Expired, 109),
        (TokenError::Unavailable, 100),
    ] {
        let mut desk = Desk::live();
        desk.text(r#"{"id":2,"subscribe":{"channel":"room:1","token":"T"}}"#);
        let (request, ..) = desk.tokens().remove(0);
        desk.proven(request, Err(error));
        assert_eq!(desk.errors(), [(2, code)]);
        assert!(desk.requests().is_empty());
        // A verdict that comes twice says nothing.
        desk.proven(request, Ok(proof("room:1")));
        assert!(desk.actions.is_empty());
        desk.subscribe("room:1");
    }
}

#[test]
fn where_nobody_may_subscribe_a_token_is_not_looked_at() {
    let mut desk = Desk::live();
    for channel in ["closed:1", "room:1#bob", "!users"] {
        desk.text(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"{channel}","token":"T"}}}}"#
        ));
        assert_eq!(desk.errors(), [(2, 103)], "{channel}");
        assert!(desk.actions.is_empty());
    }
    // Rules that changed while it was looked at count.
    desk.text(r#"{"id":3,"subscribe":{"channel":"room:1","token":"T"}}"#);
    let (request, ..) = desk.tokens().remove(0);
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.namespaces.remove("room");
    desk.proven(request, Ok(proof("room:1")));
    assert_eq!(desk.errors(), [(3, 102)]);
}

#[test]
fn commands_about_the_channel_wait_for_its_token_and_others_do_not() {
    let mut desk = Desk::live();
    desk.text(
        "{\"id\":2,\"subscribe\":{\"channel\":\"room:1\",\"token\":\"T\"}}\n{\"id\":3,\"publish\":{\"channel\":\"room:1\",\"data\":1}}\n{\"id\":4,\"rpc\":{\"method\":\"room.publish\",\"data\":{\"room\":\"1\",\"data\":2}}}\n{\"id\":5,\"history\":{\"channel\":\"room:1\"}}\n{\"id\":6,\"publish\":{\"channel\":\"room:2\",\"data\":1}}\n{\"id\":7,\"ping\":{}}",
    );
    let (request, ..) = desk.tokens().remove(0);
    assert_eq!(desk.one().room.channel, "room:2");
    assert_eq!(desk.replies().len(), 1);
    // The same channel again is told what it would be behind it.
    desk.text(r#"{"id":8,"subscribe":{"channel":"room:1"}}"#);
    assert!(desk.actions.is_empty());
    desk.proven(request, Ok(proof("room:1")));
    let asked = desk.requests();
    assert!(matches!(asked[0].request, Request::Subscribe(_)));
    let publishes = |r: &&gb6_edge_session::HubRequest| matches!(r.request, Request::Publish(_));
    assert_eq!(asked[1..3].iter().filter(publishes).count(), 2);
    assert!(matches!(asked[3].request, Request::History(_)));
    assert_eq!(desk.errors(), [(8, 105)]);

    // Without the token the others are done all the same.
    let mut desk = Desk::live();
    desk.text(
        "{\"id\":2,\"subscribe\":{\"channel\":\"$room:1\",\"token\":\"T\"}}\n{\"id\":3,\"publish\":{\"channel\":\"$room:1\",\"data\":1}}\n{\"id\":4,\"subscribe\":{\"channel\":\"$room:1\",\"token\":\"T2\"}}\n{\"id\":5,\"publish\":{\"channel\":\"$room:1\",\"data\":1}}",
    );
    let (request, ..) = desk.tokens().remove(0);
    desk.proven(request, Err(TokenError::Invalid));
    assert_eq!(desk.errors(), [(2, 103), (3, 103)]);
    let (request, _, token) = desk.tokens().remove(0);
    assert_eq!(token, "T2");
    desk.proven(request, Ok(proof("$room:1")));
    assert_eq!(desk.requests().len(), 2);
}

#[test]
fn what_waits_for_a_token_is_bounded() {
    let mut desk = Desk::live();
    desk.config.verifying_waiting_max = 3;
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1","token":"T"}}"#);
    let (request, ..) = desk.tokens().remove(0);
    for id in 3..7 {
        desk.text(&format!(
            r#"{{"id":{id},"publish":{{"channel":"room:1","data":1}}}}"#
        ));
    }
    assert_eq!(desk.errors(), [(6, 111)]);
    desk.proven(request, Ok(proof("room:1")));
    assert_eq!(desk.requests().len(), 4);
    // In bytes too.
    let mut desk = Desk::live();
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1","token":"T"}}"#);
    let data = "x".repeat(60_000);
    for id in 3..25 {
        desk.text(&format!(
            r#"{{"id":{id},"publish":{{"channel":"room:1","data":"{data}"}}}}"#
        ));
    }
    let refused = desk.errors();
    assert!((4..6).contains(&refused.len()), "{refused:?}");
    assert!(refused.iter().all(|(_, code)| *code == 111));
    // They count among what has no answer.
    let mut desk = Desk::live();
    desk.config.in_flight_max = 2;
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1","token":"T"}}"#);
    desk.text(r#"{"id":3,"publish":{"channel":"room:1","data":1}}"#);
    desk.text(r#"{"id":4,"publish":{"channel":"room:2","data":1}}"#);
    assert_eq!(desk.errors(), [(4, 111)]);
}

#[test]
fn an_unsubscribe_waits_for_no_token() {
    let mut desk = Desk::live();
    desk.text(
        "{\"id\":2,\"subscribe\":{\"channel\":\"room:1\",\"token\":\"T\"}}\n{\"id\":3,\"publish\":{\"channel\":\"room:1\",\"data\":1}}\n{\"id\":4,\"unsubscribe\":{\"channel\":\"room:1\"}}",
    );
    let (request, ..) = desk.tokens().remove(0);
    assert!(matches!(desk.one().request, Request::Publish(_)));
    let replies = desk.replies();
    assert_eq!(replies[0].error.as_ref().unwrap().code, 100);
    assert!(replies[1].id == 4 && replies[1].unsubscribe.is_some());
    desk.proven(request, Ok(proof("room:1")));
    assert!(desk.actions.is_empty());
}

#[test]
fn while_subscribed_by_a_token_the_rest_is_open_too() {
    let mut desk = Desk::live();
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    let room = instance.namespaces.get_mut("room").unwrap();
    room.allow_subscribe = Who::Token;
    room.allow_publish = Who::Token;
    room.allow_history = Who::Token;
    let publish = r#"{"id":5,"publish":{"channel":"room:1","data":1}}"#;
    desk.text(publish);
    desk.text(r#"{"id":6,"history":{"channel":"room:1"}}"#);
    assert_eq!(desk.errors(), [(5, 103), (6, 103)]);
    let grant = SubscriptionGrant {
        info: Bytes::from_static(b"7"),
        ..SubscriptionGrant::default()
    };
    desk.subscribe_by("room:1", grant);
    desk.replies();
    let Request::Publish(query) = desk.ask(publish).request else {
        panic!("no publish");
    };
    assert_eq!(query.from.chan_info, "7");
    desk.ask(r#"{"id":6,"history":{"channel":"room:1"}}"#);
    // No longer than that, and in no other channel.
    desk.text(r#"{"id":7,"publish":{"channel":"room:2","data":1}}"#);
    assert_eq!(desk.errors(), [(7, 103)]);
    desk.ask(r#"{"id":8,"unsubscribe":{"channel":"room:1"}}"#);
    desk.text(publish);
    assert_eq!(desk.errors(), [(5, 103)]);
    // For members a token is no capability.
    let caps = Caps(Some(vec![Capability {
        channels: vec!["room:2".into()],
        matching: Default::default(),
        allow: vec![Allow::Publish],
    }]));
    let mut desk = Desk::live_with(Dialect::Json, Claims { caps, ..claims() });
    desk.subscribe_by("room:1", SubscriptionGrant::default());
    desk.replies();
    desk.text(publish);
    assert_eq!(desk.errors(), [(5, 103)]);
}

#[test]
fn a_token_overrides_the_namespace() {
    let overrides = |o: Overrides| SubscriptionGrant {
        overrides: o,
        ..SubscriptionGrant::default()
    };
    let none = Overrides::default();
    let cases = [
        // Name, override; then: present, told of others, positioned, recoverable.
        ("room:1", none, [true, false, true, true]),
        ("bare:1", none, [false, false, false, false]),
        (
            "bare:1",
            Overrides {
                presence: Some(true),
                ..none
            },
            [true, false, false, false],
        ),
        (
            "bare:1",
            Overrides {
                join_leave: Some(true),
                force_push_join_leave: Some(true),
                ..none
            },
            [true, true, false, false],
        ),
        (
            "bare:1",
            Overrides {
                force_positioning: Some(true),
                ..none
            },
            [false, false, true, false],
        ),
        (
            "bare:1",
            Overrides {
                force_recovery: Some(true),
                ..none
            },
            [false, false, true, true],
        ),
        (
            "room:1",
            Overrides {
                presence: Some(false),
                join_leave: Some(false),
                force_recovery: Some(false),
                force_positioning: Some(false),
                force_push_join_leave: None,
            },
            [false, false, false, false],
        ),
    ];
    for (channel, o, want) in cases {
        let mut desk = Desk::live();
        let Request::Subscribe(query) = desk.subscribe_by(channel, overrides(o)) else {
            panic!("no subscribe");
        };
        let result = desk.replies().remove(0).subscribe.unwrap();
        let got = [
            query.presence.is_some(),
            query.join_leave,
            result.positioned,
            result.recoverable,
        ];
        assert_eq!(got, want, "{channel} {o:?}");
    }
}

fn ends_in(ms: i64) -> SubscriptionGrant {
    SubscriptionGrant {
        expires_unix_ms: Some(UNIX + ms),
        ..SubscriptionGrant::default()
    }
}

#[test]
fn a_subscription_outlives_its_token_by_the_grace_and_can_be_refreshed() {
    let mut desk = Desk::live();
    desk.subscribe_by("room:1", ends_in(1_000));
    desk.subscribe_by("room:2", ends_in(5_000));
    desk.replies();
    // The clock began at 1,000.
    assert_eq!(desk.session.deadline(), Some(13_500), "the first ping");
    desk.config.ping_interval_ms = 1_000_000;
    desk.tick_at(13_500);
    desk.text("{}");
    desk.replies();
    desk.tick_at(26_999);
    assert!(desk.actions.is_empty());
    desk.text(r#"{"id":5,"sub_refresh":{"channel":"room:2","token":"T2"}}"#);
    let (request, channel, token) = desk.tokens().remove(0);
    assert_eq!((channel.as_str(), token.as_str()), ("room:2", "T2"));
    desk.text(r#"{"id":6,"sub_refresh":{"channel":"room:2","token":"T3"}}"#);
    assert_eq!(desk.errors(), [(6, 111)]);
    let told = SubscriptionClaims {
        grant: ends_in(100_000),
        ..proof("room:2")
    };
    desk.proven(request, Ok(told));
    let reply = desk.replies().remove(0);
    let result = reply.sub_refresh.unwrap();
    assert_eq!((reply.id, result.expires, result.ttl), (5, true, 75));
    desk.tick_at(27_000);
    let leave = desk.one();
    assert_eq!(leave.room.channel, "room:1");
    assert!(matches!(leave.request, Request::Unsubscribe));
    assert!(
        desk.replies().is_empty(),
        "behind what the room still sends"
    );
    desk.complete(leave.token, Answer::Unsubscribed);
    let push = desk.replies().remove(0).push.unwrap();
    let why = push.unsubscribe.unwrap();
    assert_eq!((push.channel.as_str(), why.code), ("room:1", 2501));
    assert!(!why.reason.is_empty());
    desk.tick_at(125_000);
    assert!(desk.requests().is_empty());
    desk.tick_at(126_000);
    assert_eq!(desk.one().room.channel, "room:2");
}

#[test]
fn who_subscribes_again_meanwhile_is_not_told_that_the_old_one_expired() {
    let mut desk = Desk::live();
    desk.subscribe_by("room:1", ends_in(1_000));
    desk.replies();
    desk.tick_at(27_000);
    let leave = desk.one();
    let again = desk.ask(r#"{"id":3,"subscribe":{"channel":"room:1"}}"#);
    desk.replies();
    desk.complete(leave.token, Answer::Unsubscribed);
    assert!(desk.replies().is_empty());
    desk.complete(again.token, subscribed(3, false, Vec::new()));
    assert!(desk.replies()[0].subscribe.is_some());
}

#[test]
fn refreshes_that_can_not_be() {
    let mut desk = Desk::live();
    desk.subscribe_by("room:1", ends_in(60_000));
    desk.replies();
    for (command, code) in [
        (r#"{"channel":"room:1","token":""}"#, 107),
        (r#"{"channel":"room 1","token":"T"}"#, 107),
        (r#"{"channel":"room:2","token":"T"}"#, 103),
        (r#"{"channel":"room:1","type":1}"#, 108),
    ] {
        desk.text(&format!(r#"{{"id":3,"sub_refresh":{command}}}"#));
        assert_eq!(desk.errors(), [(3, code)], "{command}");
    }
    for (error, code) in [(TokenError::Invalid, 103), (TokenError::Unavailable, 100)] {
        desk.text(r#"{"id":4,"sub_refresh":{"channel":"room:1","token":"T"}}"#);
        let (request, ..) = desk.tokens().remove(0);
        desk.proven(request, Err(error));
        assert_eq!(desk.errors(), [(4, code)]);
    }
    // An expired one ends the subscription, so that the SDK comes back with a new one.
    desk.text(r#"{"id":5,"sub_refresh":{"channel":"room:1","token":"T"}}"#);
    let (request, ..) = desk.tokens().remove(0);
    desk.proven(request, Err(TokenError::Expired));
    let leave = desk.one();
    assert!(matches!(leave.request, Request::Unsubscribe));
    desk.complete(leave.token, Answer::Unsubscribed);
    let replies = desk.replies();
    let push = replies[0].push.as_ref().unwrap();
    assert_eq!(push.unsubscribe.as_ref().unwrap().code, 2501);
    assert_eq!(
        (replies[1].id, replies[1].error.as_ref().unwrap().code),
        (5, 109)
    );
}

#[test]
fn a_refresh_brings_a_new_info_and_what_is_seen_of_it() {
    let mut desk = Desk::live();
    let shown = |info: &'static str| SubscriptionGrant {
        info: Bytes::from_static(info.as_bytes()),
        ..SubscriptionGrant::default()
    };
    desk.subscribe_by("room:1", shown("1"));
    desk.replies();
    let refresh = |desk: &mut Desk, grant: SubscriptionGrant| {
        desk.text(r#"{"id":9,"sub_refresh":{"channel":"room:1","token":"T2"}}"#);
        let (request, ..) = desk.tokens().remove(0);
        let told = SubscriptionClaims {
            grant,
            ..proof("room:1")
        };
        desk.proven(request, Ok(told));
        assert!(desk.replies().remove(0).sub_refresh.is_some());
        let requests = desk.requests();
        for request in &requests {
            desk.complete(request.token, Answer::Introduced);
        }
        requests
    };
    let seen = |desk: &mut Desk| {
        let publish = desk.ask(r#"{"id":10,"publish":{"channel":"room:1","data":1}}"#);
        let Request::Publish(query) = publish.request else {
            panic!("{publish:?}");
        };
        String::from_utf8(query.from.chan_info.to_vec()).unwrap()
    };
    let asked = refresh(&mut desk, shown("2"));
    let [
        HubRequest {
            room,
            request: Request::Introduce(person),
            ..
        },
    ] = &asked[..]
    else {
        panic!("{asked:?}");
    };
    assert_eq!(
        (room.channel.as_str(), &person.chan_info[..]),
        ("room:1", &b"2"[..])
    );
    assert_eq!(person.client, "client-7");
    assert_eq!(seen(&mut desk), "2");
    // The same again, and a token without any, change nothing.
    assert!(refresh(&mut desk, shown("2")).is_empty());
    assert!(refresh(&mut desk, SubscriptionGrant::default()).is_empty());
    assert_eq!(seen(&mut desk), "2");
}

#[test]
fn a_revoked_token_ends_the_subscription_that_is_by_it() {
    let mut desk = Desk::live();
    let by = |desk: &mut Desk, channel: &str, token: u8| {
        desk.text(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"{channel}","token":"T"}}}}"#
        ));
        let (request, ..) = desk.tokens().remove(0);
        let told = SubscriptionClaims {
            token: self::token(token),
            ..proof(channel)
        };
        desk.proven(request, Ok(told));
        desk.one().token
    };
    let revoke = |desk: &mut Desk, token: u8| {
        desk.with(|s, cx, out| s.tokens_revoked(cx, |shown| *shown == self::token(token), out));
    };
    for (channel, token) in [("room:1", 1), ("room:2", 2)] {
        let asked = by(&mut desk, channel, token);
        desk.complete(asked, subscribed(3, false, Vec::new()));
    }
    desk.replies();
    assert!(desk.session.has_revoked_token(|shown| *shown == token(2)));
    assert!(!desk.session.has_revoked_token(|shown| *shown == token(3)));
    revoke(&mut desk, 3);
    assert!(desk.actions.is_empty());
    revoke(&mut desk, 1);
    let leave = desk.one();
    assert!(matches!(leave.request, Request::Unsubscribe));
    desk.complete(leave.token, Answer::Unsubscribed);
    let push = desk.replies().remove(0).push.unwrap();
    assert_eq!(
        (push.channel.as_str(), push.unsubscribe.unwrap().code),
        ("room:1", 2000)
    );
    // A fresh one is what counts from then on.
    desk.text(r#"{"id":9,"sub_refresh":{"channel":"room:2","token":"T2"}}"#);
    let (request, ..) = desk.tokens().remove(0);
    let told = SubscriptionClaims {
        token: token(4),
        ..proof("room:2")
    };
    desk.proven(request, Ok(told));
    desk.replies();
    revoke(&mut desk, 2);
    assert!(desk.actions.is_empty());
    // One that has not begun is refused.
    let asked = by(&mut desk, "room:3", 5);
    revoke(&mut desk, 5);
    let leave = desk.one();
    desk.complete(asked, Answer::Failed(ErrorCode::Internal));
    assert_eq!(desk.errors().len(), 1);
    desk.complete(leave.token, Answer::Unsubscribed);
    assert_eq!(
        desk.counters
            .subscriptions_revoked
            .load(std::sync::atomic::Ordering::Relaxed),
        2
    );
}
