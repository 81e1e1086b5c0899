//! Who may do what: the four rules of a namespace, channels by their names, connections without a
//! token.

use bytes::Bytes;
use gb6_core_model::caps::Match;
use gb6_core_model::snapshot::{Anonymous, ChannelKind, Namespace, Who};
use gb6_core_model::{Allow, Capability, Caps, InstanceId, Offset};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{Action, Claims, Request};

use crate::session_rooms::subscribed;
use crate::session_rules::{Desk, claims, demo};

fn capability(channels: &str, allow: Allow) -> Capability {
    Capability {
        channels: vec![channels.to_owned()],
        matching: Match::Wildcard,
        allow: vec![allow],
    }
}

/// A session whose instance has rooms by this rule, and names outside every namespace.
fn desk(who: Who, user: &str, caps: Caps) -> Desk {
    let mut desk = Desk::live_with(
        Dialect::Json,
        Claims {
            user: user.into(),
            caps,
            ..claims()
        },
    );
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    let rules = Namespace {
        presence: true,
        allow_subscribe: who,
        allow_publish: who,
        allow_presence: who,
        allow_history: who,
        ..Namespace::default()
    };
    instance.defaults = Some(rules.clone());
    instance.namespaces.insert("room".into(), rules);
    desk
}

/// What each of the four verbs is answered in a channel; 0: a hub is asked.
fn verdicts(desk: &mut Desk, channel: &str) -> [u32; 4] {
    let commands = [
        format!(r#""subscribe":{{"channel":"{channel}"}}"#),
        format!(r#""publish":{{"channel":"{channel}","data":1}}"#),
        format!(r#""presence_stats":{{"channel":"{channel}"}}"#),
        format!(r#""history":{{"channel":"{channel}"}}"#),
    ];
    commands.map(|command| {
        desk.text(&format!(r#"{{"id":2,{command}}}"#));
        assert!(desk.closed().is_none(), "{command}");
        let errors = desk.errors();
        let asked = desk.requests();
        assert_eq!(errors.len() + asked.len(), 1, "{command}");
        for request in asked {
            let failed = gb6_edge_session::Answer::Failed(gb6_core_model::ErrorCode::Internal);
            desk.with(|s, cx, out| s.complete(cx, request.token, failed, out));
            desk.replies();
        }
        errors.first().map_or(0, |(_, code)| *code)
    })
}

#[test]
fn each_rule_lets_in_whom_it_says() {
    const NO: [u32; 4] = [103; 4];
    const YES: [u32; 4] = [0; 4];
    let all = || Caps(None);
    let none = || Caps(Some(Vec::new()));
    let publish = || Caps(Some(vec![capability("room:*", Allow::Publish)]));
    let cases = [
        (Who::Member, "alice", all(), "room:1", YES),
        (Who::Member, "alice", none(), "room:1", NO),
        (
            Who::Member,
            "alice",
            publish(),
            "room:1",
            [103, 0, 103, 103],
        ),
        (Who::Member, "", all(), "room:1", NO),
        (Who::Member, "", publish(), "room:1", [103, 0, 103, 103]),
        (Who::Anyone, "", none(), "room:1", YES),
        (Who::Anyone, "alice", none(), "room:1", YES),
        (Who::Nobody, "alice", all(), "room:1", NO),
        (Who::Token, "alice", all(), "room:1", NO),
        // To be on a channel's list is as good as a token; not to be is to be nobody.
        (Who::Token, "alice", all(), "room:1#bob,alice", YES),
        (Who::Token, "alice", none(), "room:1#alice", YES),
        (Who::Member, "alice", all(), "room:1#alice", YES),
        (
            Who::Member,
            "alice",
            none(),
            "room:1#alice",
            [0, 103, 103, 103],
        ),
        (Who::Anyone, "alice", all(), "room:1#bob", NO),
        (Who::Anyone, "", all(), "room:1#", NO),
        (Who::Nobody, "alice", all(), "room:1#alice", NO),
        (Who::Member, "alice", all(), "#alice", YES),
        (Who::Anyone, "alice", all(), "#bob", NO),
        // Private channels want a token, whatever else is allowed.
        (Who::Anyone, "alice", all(), "$room:1", NO),
        (Who::Member, "alice", all(), "$room:1", NO),
        (Who::Member, "alice", all(), "$room:1#alice", NO),
        // Names outside every namespace, and the server's own.
        (Who::Member, "alice", all(), "plain", YES),
        (Who::Anyone, "alice", all(), "!users", NO),
        (Who::Anyone, "alice", all(), "$!users", NO),
        (Who::Anyone, "alice", all(), "nowhere:1", [102; 4]),
        (Who::Anyone, "alice", all(), "$nowhere:1", [102; 4]),
    ];
    for (who, user, caps, channel, want) in cases {
        let mut desk = desk(who, user, caps.clone());
        let got = verdicts(&mut desk, channel);
        assert_eq!(got, want, "{who:?} {user:?} {caps:?} {channel}");
    }
}

#[test]
fn without_rules_for_plain_names_there_are_none() {
    let mut desk = desk(Who::Anyone, "alice", Caps(None));
    desk.snapshot.instances.get_mut("demo").unwrap().defaults = None;
    for channel in ["plain", "#alice", "$plain", "x#alice"] {
        assert_eq!(verdicts(&mut desk, channel), [102; 4], "{channel}");
    }
}

#[test]
fn signals_have_no_positions_and_no_history() {
    let mut desk = desk(Who::Member, "alice", Caps(None));
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.namespaces.get_mut("room").unwrap().kind = ChannelKind::Signal;
    let request = desk.ask(
        r#"{"id":2,"subscribe":{"channel":"room:1","recover":true,"offset":4,"epoch":"e","positioned":true,"recoverable":true,"flag":2}}"#,
    );
    let Request::Subscribe(query) = &request.request else {
        panic!("{request:?}");
    };
    assert_eq!(query.recover, None);
    desk.complete(request.token, subscribed(0, false, Vec::new()));
    let result = desk.replies().remove(0).subscribe.unwrap();
    assert!(!result.positioned && !result.recoverable && !result.was_recovering);
    let position: (Offset, &str) = (result.offset, &result.epoch);
    assert_eq!(position, (0, ""));
    desk.text(r#"{"id":3,"history":{"channel":"room:1"}}"#);
    desk.text(r#"{"id":4,"rpc":{"method":"room.trace","data":{"room":"1","offset":1}}}"#);
    assert_eq!(desk.errors(), [(3, 108), (4, 108)]);
    desk.text(r#"{"id":5,"presence":{"channel":"room:1"}}"#);
    desk.text(r#"{"id":6,"publish":{"channel":"room:1","data":1}}"#);
    assert_eq!(desk.requests().len(), 2);
}

#[test]
fn a_connection_without_a_token_is_let_in_where_its_instance_says_so() {
    let connect = r#"{"id":1,"connect":{}}"#;
    let mut desk = Desk::opening(Dialect::Json);
    desk.text(connect);
    assert_eq!(desk.closed().map(|c| c.code()), Some(3501));

    let mut desk = Desk::opening(Dialect::Json);
    let instance = desk.snapshot.instances.get_mut("demo").unwrap();
    instance.anonymous = Anonymous {
        allow: true,
        caps: vec![capability("room:*", Allow::Subscribe)],
    };
    desk.text(connect);
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1"}}"#);
    let Some(Action::Admit { request, claims }) = desk.actions.pop() else {
        panic!("{:?}", desk.actions);
    };
    assert_eq!(claims.instance, InstanceId::from("demo"));
    assert_eq!((claims.user.as_str(), &claims.info), ("", &Bytes::new()));
    assert!(desk.replies().is_empty() && desk.requests().is_empty());
    desk.verified(request, Ok(*claims));
    assert!(desk.replies().remove(0).connect.is_some());
    let asked = desk.one();
    assert_eq!(asked.room.channel, "room:1");
    desk.complete(asked.token, subscribed(0, false, Vec::new()));
    desk.replies();
    desk.text(r#"{"id":3,"publish":{"channel":"room:1","data":1}}"#);
    assert_eq!(desk.errors(), [(3, 103)]);
    // A token makes nobody else of it.
    desk.text(r#"{"id":4,"refresh":{"token":"T"}}"#);
    desk.actions.clear();
    desk.verified(1, Ok(crate::session_rules::claims()));
    assert_eq!(desk.closed().map(|c| c.code()), Some(3500));
}

#[test]
fn an_instance_that_is_not_served_lets_nobody_in_without_a_token() {
    let mut desk = Desk::opening(Dialect::Json);
    let mut other = demo();
    other.anonymous.allow = true;
    desk.snapshot.instances.clear();
    desk.snapshot.instances.insert("other".into(), other);
    desk.text(r#"{"id":1,"connect":{}}"#);
    assert_eq!(desk.closed().map(|c| c.code()), Some(3501));
}
