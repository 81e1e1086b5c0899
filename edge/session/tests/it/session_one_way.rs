//! Sessions of clients that say nothing behind their connect.

use gb6_core_model::Disconnect;
use gb6_core_wire::client::Dialect;
use gb6_edge_session::TokenError;

use crate::session_rules::{Desk, claims};

fn desk() -> Desk {
    let mut desk = Desk::opening(Dialect::Json);
    desk.config.unidirectional = true;
    desk.text(r#"{"id":1,"connect":{"token":"T"}}"#);
    desk
}

fn closed(desk: &mut Desk) -> Option<Disconnect> {
    let said = desk.replies();
    assert!(said.is_empty(), "nobody reads replies: {said:?}");
    desk.closed()
}

#[test]
fn pings_need_no_answer() {
    let mut desk = desk();
    desk.verified(0, Ok(claims()));
    let connect = desk.replies().remove(0).connect.unwrap();
    assert_eq!((connect.ping, connect.pong), (25, false));
    for _ in 0..5 {
        desk.now = desk.session.deadline().unwrap();
        desk.actions.clear();
        desk.with(|s, cx, out| s.tick(cx, out));
        assert!(desk.replies()[0].is_ping());
    }
    assert!(!desk.session.is_closed());
}

#[test]
fn an_error_of_the_connect_is_a_disconnect() {
    for (error, want) in [
        (TokenError::Expired, Disconnect::ConnectionExpired),
        (TokenError::Unavailable, Disconnect::ServerError),
        (TokenError::Invalid, Disconnect::InvalidToken),
    ] {
        let mut desk = desk();
        desk.actions.clear();
        desk.verified(0, Err(error));
        assert_eq!(closed(&mut desk), Some(want));
        assert!(desk.session.is_closed());
    }
}

/// Who can not subscribe later names its rooms in the connect; what it may not have is absent.
#[test]
fn rooms_of_the_connect_are_subscribed_as_far_as_it_may() {
    let subs = r#""room:1":{"recover":true,"offset":4,"epoch":""},"closed:1":{},"none:1":{},"!sys":{},"$room:x":{},"room:d#bob":{}"#;
    let connect = format!(r#"{{"id":1,"connect":{{"token":"T","subs":{{{subs}}}}}}}"#);
    for unidirectional in [true, false] {
        let mut desk = Desk::opening(Dialect::Json);
        desk.config.unidirectional = unidirectional;
        desk.text(&connect);
        desk.actions.clear();
        desk.verified(0, Ok(claims()));
        let asked: Vec<String> = desk
            .requests()
            .into_iter()
            .map(|request| request.room.channel)
            .collect();
        match unidirectional {
            true => {
                assert_eq!(asked, ["room:1"]);
                assert!(desk.replies().is_empty(), "the answer waits for it");
            }
            // Elsewhere only what is granted counts.
            false => {
                assert!(asked.is_empty());
                assert!(desk.replies()[0].connect.as_ref().unwrap().subs.is_empty());
            }
        }
    }
}

#[test]
fn rooms_of_the_connect_count_against_the_limit() {
    let mut desk = Desk::opening(Dialect::Json);
    desk.config.unidirectional = true;
    let subs: Vec<String> = (0..4).map(|n| format!(r#""room:{n}":{{}}"#)).collect();
    let subs = subs.join(",");
    desk.text(&format!(
        r#"{{"id":1,"connect":{{"token":"T","subs":{{{subs}}}}}}}"#
    ));
    desk.actions.clear();
    desk.verified(0, Ok(claims()));
    assert_eq!(closed(&mut desk), Some(Disconnect::ChannelLimit));
}
