//! Generated values of the client protocol's types.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_wire::client::*;
use gb6_core_wire::mesh;
use gb6_core_wire::record::ContentType;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z:#$]{0,12}",
        1 => vec(any::<char>(), 0..12).prop_map(|c| c.into_iter().collect()),
    ]
}

pub(crate) fn json() -> impl Strategy<Value = Bytes> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        text().prop_map(|t| serde_json::to_string(&t).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(", "))),
            vec((text(), inner), 0..4).prop_map(|v| {
                let field = |(k, v)| format!("{}:{v}", serde_json::to_string(&k).unwrap());
                format!(
                    "{{{}}}",
                    v.into_iter().map(field).collect::<Vec<_>>().join(",")
                )
            }),
        ]
    })
    .prop_map(Bytes::from)
}

/// Data of a client: absent, JSON, or bytes.
pub(crate) fn data() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        json(),
        vec(any::<u8>(), 0..40).prop_map(Bytes::from),
    ]
}

pub(crate) fn info(
    data: impl Strategy<Value = Bytes> + Clone,
) -> impl Strategy<Value = ClientInfo> {
    (text(), text(), data.clone(), data).prop_map(|(user, client, conn_info, chan_info)| {
        ClientInfo {
            user,
            client,
            conn_info,
            chan_info,
        }
    })
}

pub(crate) fn tags() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..3)
}

pub(crate) fn publication() -> impl Strategy<Value = Publication> {
    (
        (
            json(),
            option::of(info(json().boxed())),
            any::<u64>(),
            tags(),
        ),
        (any::<bool>(), any::<i64>(), text(), text()),
        (any::<bool>(), any::<i64>(), text(), json(), any::<u64>()),
    )
        .prop_map(|(a, b, c)| Publication {
            data: a.0,
            info: a.1,
            offset: a.2,
            tags: a.3,
            delta: b.0,
            time: b.1,
            channel: b.2,
            key: b.3,
            removed: c.0,
            score: c.1,
            epoch: c.2,
            prev_data: c.3,
            version: c.4,
        })
}

pub(crate) fn subscribe_result() -> impl Strategy<Value = SubscribeResult> {
    (
        (any::<bool>(), any::<u32>(), any::<bool>(), text()),
        (
            vec(publication(), 0..3),
            any::<bool>(),
            any::<u64>(),
            any::<bool>(),
        ),
        (
            json(),
            any::<bool>(),
            any::<bool>(),
            any::<i64>(),
            any::<i32>(),
        ),
        (any::<i32>(), text(), vec(publication(), 0..2), any::<u32>()),
    )
        .prop_map(|(a, b, c, d)| SubscribeResult {
            expires: a.0,
            ttl: a.1,
            recoverable: a.2,
            epoch: a.3,
            publications: b.0,
            recovered: b.1,
            offset: b.2,
            positioned: b.3,
            data: c.0,
            was_recovering: c.1,
            delta: c.2,
            id: c.3,
            r#type: c.4,
            phase: d.0,
            cursor: d.1,
            state: d.2,
            publish_debounce: d.3,
        })
}

pub(crate) fn connect_result() -> impl Strategy<Value = ConnectResult> {
    (
        (text(), text(), any::<bool>(), any::<u32>(), json()),
        (
            btree_map(text(), subscribe_result(), 0..3),
            any::<u32>(),
            any::<bool>(),
            text(),
        ),
        (
            text(),
            any::<i64>(),
            any::<i64>(),
            option::of((text(), text())),
        ),
    )
        .prop_map(|(a, b, c)| ConnectResult {
            client: a.0,
            version: a.1,
            expires: a.2,
            ttl: a.3,
            data: a.4,
            subs: b.0,
            ping: b.1,
            pong: b.2,
            session: b.3,
            node: c.0,
            time: c.1,
            flag: c.2,
            dict: c.3.map(|(id, data_b64)| Dictionary {
                id,
                data: Bytes::new(),
                data_b64,
            }),
        })
}

pub(crate) fn push() -> impl Strategy<Value = Push> {
    let empty = |channel: String| Push {
        channel,
        ..Push::default()
    };
    prop_oneof![
        (text(), any::<i64>(), publication()).prop_map(move |(c, id, p)| Push {
            id,
            publication: Some(p),
            ..empty(c)
        }),
        (text(), info(json().boxed())).prop_map(move |(c, i)| Push {
            join: Some(Join {
                info: Some(i.clone())
            }),
            leave: Some(Leave { info: Some(i) }),
            ..empty(c)
        }),
        (text(), any::<u32>(), text()).prop_map(move |(c, code, reason)| Push {
            unsubscribe: Some(Unsubscribe {
                code,
                reason: reason.clone()
            }),
            disconnect: Some(Disconnect {
                code,
                reason,
                reconnect: code % 2 == 0
            }),
            ..empty(c)
        }),
        (text(), json(), text(), any::<u64>()).prop_map(move |(c, data, epoch, offset)| Push {
            message: Some(Message { data: data.clone() }),
            subscribe: Some(Subscribe {
                recoverable: offset % 2 == 0,
                epoch,
                offset,
                positioned: offset % 3 == 0,
                data
            }),
            ..empty(c)
        }),
        (connect_result(), any::<bool>(), any::<u32>()).prop_map(|(c, expires, ttl)| Push {
            connect: Some(Box::new(c)),
            refresh: Some(Refresh { expires, ttl }),
            ..Push::default()
        }),
    ]
}

pub(crate) fn reply() -> impl Strategy<Value = Reply> {
    let answer = prop_oneof![
        (any::<u32>(), text(), any::<bool>()).prop_map(|(code, message, temporary)| {
            Answer::from(Error {
                code,
                message,
                temporary,
            })
        }),
        connect_result().prop_map(Answer::from),
        subscribe_result().prop_map(Answer::from),
        Just(Answer::from(UnsubscribeResult {})),
        Just(Answer::from(PublishResult {})),
        btree_map(text(), info(json().boxed()), 0..3)
            .prop_map(|presence| Answer::from(PresenceResult { presence })),
        (any::<u32>(), any::<u32>()).prop_map(|(num_clients, num_users)| {
            Answer::from(PresenceStatsResult {
                num_clients,
                num_users,
            })
        }),
        (vec(publication(), 0..4), text(), any::<u64>()).prop_map(
            |(publications, epoch, offset)| {
                Answer::from(HistoryResult {
                    publications,
                    epoch,
                    offset,
                })
            }
        ),
        Just(Answer::from(PingResult {})),
        json().prop_map(|data| Answer::from(RpcResult { data })),
        (text(), text(), any::<bool>(), any::<u32>()).prop_map(
            |(client, version, expires, ttl)| {
                Answer::from(RefreshResult {
                    client,
                    version,
                    expires,
                    ttl,
                })
            }
        ),
        (any::<bool>(), any::<u32>(), vec(publication(), 0..2)).prop_map(
            |(expires, ttl, items)| {
                Answer::from(SubRefreshResult {
                    expires,
                    ttl,
                    items,
                })
            }
        ),
    ];
    prop_oneof![
        5 => (any::<u32>(), answer).prop_map(|(id, answer)| Reply::answer(id, answer)),
        5 => push().prop_map(Reply::push),
        1 => Just(Reply::ping()),
    ]
}

pub(crate) fn subscribe_request() -> impl Strategy<Value = SubscribeRequest> {
    (
        (text(), text(), any::<bool>(), text(), any::<u64>(), data()),
        (any::<bool>(), any::<bool>(), any::<bool>(), text(), data()),
        (
            any::<i64>(),
            any::<i32>(),
            any::<i32>(),
            text(),
            any::<i32>(),
            any::<bool>(),
        ),
    )
        .prop_map(|(a, b, c)| SubscribeRequest {
            channel: a.0,
            token: a.1,
            recover: a.2,
            epoch: a.3,
            offset: a.4,
            data: a.5,
            positioned: b.0,
            recoverable: b.1,
            join_leave: b.2,
            delta: b.3,
            tf: b.4,
            flag: c.0,
            r#type: c.1,
            phase: c.2,
            cursor: c.3,
            limit: c.4,
            asc: c.5,
        })
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    (
        (
            any::<u32>(),
            option::of((
                text(),
                data(),
                btree_map(text(), subscribe_request(), 0..3),
                tags(),
            )),
        ),
        (
            option::of(subscribe_request()),
            option::of(text()),
            option::of((text(), data(), text())),
        ),
        (
            option::of(text()),
            option::of((any::<i32>(), option::of((any::<u64>(), text())))),
        ),
        (
            any::<bool>(),
            option::of(data()),
            option::of((data(), text())),
        ),
        (
            option::of(text()),
            option::of(vec((text(), any::<u64>()), 0..3)),
        ),
    )
        .prop_map(|(a, b, c, d, e)| Command {
            id: a.0,
            connect: a.1.map(|(token, data, subs, headers)| {
                Box::new(ConnectRequest {
                    token,
                    data,
                    subs,
                    headers,
                    ..Default::default()
                })
            }),
            subscribe: b.0.map(Box::new),
            unsubscribe: b.1.clone().map(|channel| UnsubscribeRequest { channel }),
            publish: b.2.map(|(channel, data, key)| PublishRequest {
                channel,
                data,
                r#type: 1,
                key,
                removed: true,
            }),
            presence: c.0.clone().map(|channel| PresenceRequest { channel }),
            presence_stats: c.0.map(|channel| PresenceStatsRequest { channel }),
            history: c.1.map(|(limit, since)| HistoryRequest {
                channel: "c".into(),
                limit,
                since: since.map(|(offset, epoch)| StreamPosition { offset, epoch }),
                reverse: limit % 2 == 0,
            }),
            ping: d.0.then_some(PingRequest {}),
            send: d.1.map(|data| SendRequest { data }),
            rpc: d.2.map(|(data, method)| RpcRequest { data, method }),
            refresh: e.0.map(|token| RefreshRequest { token }),
            sub_refresh: e.1.map(|items| SubRefreshRequest {
                channel: "c".into(),
                token: "t".into(),
                r#type: 1,
                track: vec![TrackBatch {
                    signature: "s".into(),
                    items: items
                        .into_iter()
                        .map(|(key, version)| KeyedItem { key, version })
                        .collect(),
                }],
                untrack: vec!["k".into()],
            }),
        })
}

pub(crate) fn person() -> impl Strategy<Value = mesh::Person> {
    info(data().boxed()).prop_map(|info| mesh::Person {
        user: info.user,
        client: info.client,
        conn_info: info.conn_info,
        chan_info: info.chan_info,
    })
}

pub(crate) fn mesh_publication() -> impl Strategy<Value = mesh::Publication> {
    (
        any::<u64>(),
        any::<i64>(),
        option::of(person()),
        data(),
        tags(),
    )
        .prop_map(|(offset, time, from, data, tags)| {
            let is_json = json_data_kind(&data, ContentType::Unspecified) == JsonData::Raw;
            let content_type = match is_json {
                true => ContentType::Json,
                false => ContentType::Bytes,
            };
            mesh::Publication {
                offset,
                time,
                from,
                data,
                tags,
                content_type: content_type.into(),
                ..Default::default()
            }
        })
}
