//! A session under random commands and answers in any order: every command gets exactly one reply,
//! and nothing that a client or a hub does makes it fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::{Channel, ErrorCode, Unsubscribed};
use gb6_core_wire::client::Dialect;
use gb6_core_wire::mesh::Publication;
use gb6_edge_session::{
    Answer, FrameKind, HistoryAnswer, HubRequest, Notice, PresenceAnswer, PublishAnswer, Recent,
    Request, SubscribeAnswer, TraceAnswer,
};
use proptest::prelude::*;

use crate::session_rules::Desk;

/// An answer as a hub would give it, or a failure.
fn answer_to(request: &HubRequest, luck: u8) -> Answer {
    if luck.is_multiple_of(4) && !request.request.leaves() {
        return Answer::Failed(ErrorCode::OwnerMoving);
    }
    match &request.request {
        Request::Subscribe(query) => {
            let publications = (0..u64::from(luck % 3)).map(|o| {
                Arc::new(Recent::new(Publication {
                    offset: o + 1,
                    data: Bytes::from(vec![b'1'; 200_000]),
                    ..Publication::default()
                }))
            });
            let recovered = query.recover.is_some() && luck % 2 == 1;
            Answer::Subscribed(Box::new(SubscribeAnswer {
                epoch: Arc::from("e"),
                offset: 0,
                recovered,
                publications: publications.filter(|_| recovered).collect(),
                number: 0,
            }))
        }
        Request::Unsubscribe | Request::Unfollow(_) => Answer::Unsubscribed,
        Request::Introduce(_) => Answer::Introduced,
        Request::Follow(_) => unreachable!("no namespace of this test has prefixes"),
        Request::Publish(_) => Answer::Published(PublishAnswer {
            offset: 1,
            generation: 0,
            time: 1,
            duplicate: false,
        }),
        Request::Presence { .. } => Answer::Presence(Box::new(PresenceAnswer {
            entries: [].into(),
            clients: 0,
            users: 0,
        })),
        Request::History(_) => Answer::History(Box::new(HistoryAnswer {
            publications: Arc::from([]),
            top: 3,
            first: 1,
            generation: 0,
            error: None,
        })),
        Request::RemoveHistory { .. } => Answer::HistoryRemoved,
        Request::Trace { .. } => Answer::Traced(TraceAnswer {
            shard: 0,
            shard_epoch: 1,
            sync_us: 1,
            batch: 1,
        }),
        // No session asks it.
        Request::EdgesOf { .. } => Answer::Failed(ErrorCode::Internal),
        Request::UserStatus { .. } => Answer::UserStatus(Arc::default()),
    }
}

fn command(kind: u8, room: u8) -> String {
    let channel = format!("room:{}", room % 5);
    match kind {
        0..=2 => format!(r#""subscribe":{{"channel":"{channel}"}}"#),
        3..=5 => format!(
            r#""subscribe":{{"channel":"{channel}","recover":true,"offset":0,"flag":{}}}"#,
            room % 4
        ),
        6..=9 => format!(r#""unsubscribe":{{"channel":"{channel}"}}"#),
        10 => format!(r#""publish":{{"channel":"{channel}","data":1}}"#),
        11 => format!(r#""rpc":{{"method":"room.publish","data":{{"room":"{room}","data":1}}}}"#),
        12 => format!(r#""rpc":{{"method":"room.trace","data":{{"room":"{room}","offset":1}}}}"#),
        13 => format!(r#""presence":{{"channel":"{channel}"}}"#),
        14 => format!(r#""history":{{"channel":"{channel}","limit":{room}}}"#),
        15 => r#""rpc":{"method":"update_user_status","data":{"state":"busy"}}"#.to_owned(),
        _ => format!(r#""presence_stats":{{"channel":"{channel}"}}"#),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_command_gets_one_reply(
        steps in prop::collection::vec((0u8..26, any::<u8>(), any::<u8>()), 1..120),
    ) {
        let mut desk = Desk::live();
        let mut waiting: Vec<HubRequest> = Vec::new();
        let mut replied: BTreeMap<u32, usize> = BTreeMap::new();
        let mut asked = 0;
        let mut take = |desk: &mut Desk, waiting: &mut Vec<HubRequest>| {
            waiting.extend(desk.requests());
            for reply in desk.replies().iter().filter(|r| r.id != 0) {
                *replied.entry(reply.id).or_default() += 1;
            }
        };
        for (kind, a, b) in steps {
            match kind {
                0..=15 => {
                    asked += 1;
                    desk.text(&format!(r#"{{"id":{asked},{}}}"#, command(kind, a)));
                }
                16..=22 if !waiting.is_empty() => {
                    // Hubs keep the order of one room; this is any order, which is harder.
                    let request = waiting.remove(usize::from(a) % waiting.len());
                    let answer = answer_to(&request, b);
                    desk.with(|s, cx, out| s.complete(cx, request.token, answer, out));
                }
                23 => desk.outbox = usize::from(a) * 1_000,
                24 => {
                    let notice = Notice::Unsubscribed {
                        channel: Channel::parse(&format!("room:{}", a % 5)).unwrap(),
                        why: Unsubscribed::InsufficientState,
                    };
                    desk.with(|s, cx, out| s.notice(cx, notice, out));
                }
                _ => desk.with(|s, cx, out| s.drained(cx, out)),
            }
            prop_assert!(desk.closed().is_none());
            take(&mut desk, &mut waiting);
        }
        desk.outbox = 0;
        desk.with(|s, cx, out| s.drained(cx, out));
        take(&mut desk, &mut waiting);
        while !waiting.is_empty() {
            let request = waiting.remove(0);
            let answer = answer_to(&request, 1);
            desk.with(|s, cx, out| s.complete(cx, request.token, answer, out));
            take(&mut desk, &mut waiting);
            // What that wrote has left.
            desk.with(|s, cx, out| s.drained(cx, out));
            take(&mut desk, &mut waiting);
        }
        let want: BTreeMap<u32, usize> = (1..=asked).map(|id| (id, 1)).collect();
        prop_assert_eq!(replied, want);
        prop_assert!(!desk.session.wants_drain());
    }

    #[test]
    fn no_bytes_make_it_fail(
        live in any::<bool>(),
        dialect in 0usize..2,
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..6),
    ) {
        let dialect = Dialect::ALL[dialect];
        let mut desk = match live {
            true => Desk::live_with(dialect, crate::session_rules::claims()),
            false => Desk::opening(dialect),
        };
        for frame in frames {
            let kind = match dialect {
                Dialect::Json => FrameKind::Text,
                Dialect::Protobuf => FrameKind::Binary,
            };
            desk.with(|s, cx, out| s.frame(cx, kind, frame.into(), out));
        }
        if desk.session.is_closed() {
            let before = desk.actions.len();
            desk.tick_at(1_000_000);
            desk.text("{}");
            prop_assert_eq!(desk.actions.len(), before);
        }
    }
}
