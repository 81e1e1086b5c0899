//! What others see of a connection, changed by a fresh token or by the application's server.

use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceId};
use gb6_core_wire::client::Dialect;
use gb6_edge_session::{
    Action, Answer, Claims, HubRequest, Request, ServerCommand, SubscriptionClaims,
    SubscriptionGrant, TokenRef,
};

use crate::session_rooms::{recents, subscribed};
use crate::session_rules::{Desk, claims};

fn shown(info: &'static str) -> Claims {
    Claims {
        info: Bytes::from_static(info.as_bytes()),
        ..claims()
    }
}

/// Channel, info of the connection, info in the channel: what the rooms are to be told.
fn introductions(requests: &[HubRequest]) -> Vec<(&str, &str, &str)> {
    let text = |json| std::str::from_utf8(json).unwrap();
    let mut told: Vec<_> = requests
        .iter()
        .map(|r| match &r.request {
            Request::Introduce(who) => {
                assert_eq!(
                    (who.user.as_str(), who.client.as_str()),
                    ("alice", "client-7")
                );
                let name = r.room.channel.as_str();
                (name, text(&who.conn_info), text(&who.chan_info))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    told.sort_unstable();
    told
}

impl Desk {
    /// The client refreshes with a token that says this; the `n`th verification.
    fn refreshed_with(&mut self, n: u32, claims: Claims) -> Vec<HubRequest> {
        self.text(r#"{"id":9,"refresh":{"token":"U"}}"#);
        self.actions.retain(|a| !matches!(a, Action::Verify { .. }));
        self.verified(n, Ok(claims));
        assert!(self.replies().remove(0).refresh.is_some());
        self.requests()
    }

    /// Subscribes by a token with this info; the `n`th verification.
    fn subscribe_shown(&mut self, n: u32, channel: &str, info: &'static str) {
        self.text(&format!(
            r#"{{"id":2,"subscribe":{{"channel":"{channel}","token":"T"}}}}"#
        ));
        self.actions.clear();
        let told = SubscriptionClaims {
            instance: InstanceId::from("demo"),
            user: "alice".into(),
            channel: channel.to_owned(),
            client: None,
            grant: SubscriptionGrant {
                info: Bytes::from_static(info.as_bytes()),
                ..SubscriptionGrant::default()
            },
            token: TokenRef {
                id: [1; 16],
                issued_unix_ms: None,
            },
        };
        self.with(|s, cx, out| s.subscription_verified(cx, n, Ok(told), out));
        let asked = self.one();
        self.complete(asked.token, subscribed(3, false, Vec::new()));
        assert!(self.replies().remove(0).subscribe.is_some());
    }

    /// What is seen of the connection in what it publishes.
    fn seen_in(&mut self, channel: &str) -> (Bytes, Bytes) {
        let publish = format!(r#"{{"id":10,"publish":{{"channel":"{channel}","data":1}}}}"#);
        match self.ask(&publish).request {
            Request::Publish(query) => (query.from.conn_info.clone(), query.from.chan_info.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn introduced(&mut self, requests: &[HubRequest]) {
        for request in requests {
            self.complete(request.token, Answer::Introduced);
        }
        assert!(self.actions.is_empty(), "{:?}", self.actions);
    }
}

fn pair(conn: &'static str, chan: &'static str) -> (Bytes, Bytes) {
    (conn.into(), chan.into())
}

#[test]
fn a_fresh_token_brings_a_new_info_to_every_room() {
    let mut desk = Desk::live();
    desk.subscribe("room:1");
    desk.subscribe_shown(1, "room:2", "2");
    assert_eq!(desk.seen_in("room:2"), pair("{\"n\":1}", "2"));
    let told = desk.refreshed_with(2, shown("{\"n\":2}"));
    let want = [("room:1", "{\"n\":2}", ""), ("room:2", "{\"n\":2}", "2")];
    assert_eq!(introductions(&told), want);
    desk.introduced(&told);
    assert_eq!(desk.seen_in("room:1"), pair("{\"n\":2}", ""));
    assert_eq!(desk.seen_in("room:2"), pair("{\"n\":2}", "2"));
    assert_eq!(
        desk.seen_in("room:3"),
        pair("{\"n\":2}", ""),
        "no subscription"
    );
    // A room that is joined later is told the same.
    let asked = desk.ask(r#"{"id":3,"subscribe":{"channel":"room:4"}}"#);
    let Request::Subscribe(query) = &asked.request else {
        panic!("{asked:?}");
    };
    assert_eq!(query.presence.as_ref().unwrap().conn_info, "{\"n\":2}");
    // The same again, and a token without any, change nothing.
    assert!(desk.refreshed_with(3, shown("{\"n\":2}")).is_empty());
    assert!(desk.refreshed_with(4, shown("")).is_empty());
    assert_eq!(desk.seen_in("room:2"), pair("{\"n\":2}", "2"));
}

#[test]
fn the_server_changes_what_is_seen_where_a_token_gave_more() {
    let mut desk = Desk::live();
    desk.subscribe_shown(1, "room:1", "2");
    let refresh = ServerCommand::Refresh {
        expired: false,
        expires_unix_ms: None,
        info: Some(Bytes::from_static(b"7")),
    };
    desk.with(|s, cx, out| assert_eq!(s.command(cx, refresh, out), Ok(())));
    desk.replies();
    let told = desk.requests();
    assert_eq!(introductions(&told), [("room:1", "7", "2")]);
    desk.introduced(&told);
    assert_eq!(desk.seen_in("room:1"), pair("7", "2"));
}

#[test]
fn rooms_are_told_of_one_refresh_at_a_time() {
    let mut desk = Desk::live();
    desk.subscribe("room:1");
    desk.subscribe("room:2");
    let told = desk.refreshed_with(1, shown("2"));
    assert_eq!(told.len(), 2);
    for request in &told {
        desk.text(r#"{"id":3,"refresh":{"token":"V"}}"#);
        assert_eq!(desk.errors(), [(3, 111)]);
        // A room that could not be told is no error of the client's.
        desk.complete(request.token, Answer::Failed(ErrorCode::TooManyRequests));
        assert!(desk.actions.is_empty());
    }
    assert_eq!(desk.refreshed_with(2, shown("3")).len(), 2);
}

#[test]
fn who_has_not_joined_yet_joins_as_who_it_is_by_then() {
    let mut desk = Desk::live_with(Dialect::Json, shown("1"));
    // A recovering subscribe waits while the client's queue is long; one that does not is on its way.
    desk.outbox = desk.config.bulk_low_water_bytes + 1;
    desk.text(r#"{"id":2,"subscribe":{"channel":"room:1","recover":true,"offset":2}}"#);
    assert!(desk.requests().is_empty());
    let joining = desk.ask(r#"{"id":3,"subscribe":{"channel":"room:2"}}"#);
    let told = desk.refreshed_with(1, shown("2"));
    assert_eq!(introductions(&told), [("room:2", "2", "")]);
    desk.introduced(&told);
    desk.complete(joining.token, subscribed(1, false, Vec::new()));
    desk.replies();
    desk.outbox = 0;
    desk.with(|s, cx, out| s.drained(cx, out));
    let asked = desk.one();
    let Request::Subscribe(query) = &asked.request else {
        panic!("{asked:?}");
    };
    assert_eq!(query.presence.as_ref().unwrap().conn_info, "2");
    desk.complete(asked.token, subscribed(3, true, recents(3..=3, 1)));
    assert!(desk.replies()[0].subscribe.is_some());
}
