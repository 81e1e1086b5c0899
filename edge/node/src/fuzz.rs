//! Entry points for fuzzers: every parser of a client's bytes that is ours, fed with anything. Each
//! must return. What a fuzzer finds becomes a file in `corpus/`, which the tests replay. (Frames
//! behind the WebSocket layer are `gb6_core_wire::fuzz`; request heads are cut by hyper.)

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Instance, Key, KeyAlgorithm, KeyUse, Snapshot};
use gb6_core_wire::client::{Dialect, json_depth_within};
use ring::hmac;

use crate::auth::{Fetched, KeyTable, VerifyingKey};
use web_transport_proto::{Capsule, ConnectRequest, Settings};

use crate::connection::framing::Incoming;
use crate::hosts::Hosts;
use crate::http::{stream, upgrade};
use crate::origin::{self, Verdict};
use crate::proxies::{self, answer::Said};
use crate::stream::reader::CommandReader;
use crate::ws::reader::{FrameError, FrameReader};

static KEYS: LazyLock<KeyTable> = LazyLock::new(|| KeyTable::new(&SNAPSHOT, |_| Fetched::None));

const SECRET: &str = "a secret for fuzzing, 32 bytes and more";
const KEY: &str = "demo.main";
const LISTED: &str = "https://app.example";
/// The wall clock of every verification, Unix ms.
const NOW_MS: i64 = 1_700_000_000_000;

/// One instance with one key and one listed origin.
static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let demo = Instance {
        region: "eu".into(),
        epoch: gb6_core_model::InstanceEpoch(1),
        slots: Vec::new(),
        keys: vec![
            Key {
                id: KEY.into(),
                usage: KeyUse::Client,
                algorithm: KeyAlgorithm::HS256,
                secret: SECRET.into(),
                ..Key::default()
            },
            Key {
                id: "api".into(),
                usage: KeyUse::Api,
                secret: "gb6_demo_0123456789abcdef".into(),
                ..Key::default()
            },
        ],
        allowed_origins: vec![LISTED.into()],
        subscriptions_max: 1,
        ..Instance::default()
    };
    Snapshot {
        instances: BTreeMap::from([(InstanceId::from("demo"), demo)]),
        ..Snapshot::default()
    }
});

/// A request to the server API: a method, a query and a body, a line each.
pub fn api_request(bytes: &[u8]) {
    crate::api::read_any(&SNAPSHOT, bytes);
}

/// Bytes of a WebSocket, in pieces of several sizes and under several bounds. However they arrive,
/// the same messages and the same error come out, and none is larger than the bound.
pub fn websocket(bytes: &[u8]) {
    for max in [0, 125, 1024 * 1024] {
        let at_once = messages(bytes, usize::MAX, max);
        for piece in [1, 7] {
            assert_eq!(messages(bytes, piece, max), at_once, "in pieces of {piece}");
        }
    }
}

fn messages(bytes: &[u8], piece: usize, max: usize) -> (Vec<Incoming>, Option<FrameError>) {
    let mut reader = FrameReader::new(max);
    let mut all = Vec::new();
    for mut input in bytes.chunks(piece.min(bytes.len()).max(1)) {
        loop {
            match reader.next(&mut input) {
                Ok(Some(message)) => {
                    let size = match &message {
                        Incoming::Text(data) | Incoming::Binary(data) => data.len(),
                        Incoming::Ping(_) | Incoming::Pong | Incoming::Close(_) => 0,
                    };
                    assert!(size <= max, "a message of {size} bytes");
                    all.push(message);
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(error.close_code() > 1000 && !error.close_reason().is_empty());
                    return (all, Some(error));
                }
            }
        }
        assert!(input.is_empty(), "what is left is kept");
    }
    (all, None)
}

/// Bytes of a stream of commands: the first byte chooses the dialect. However they arrive, the same
/// commands and the same refusal come out, and none is larger than the bound.
pub fn stream(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let dialect = Dialect::ALL[usize::from(first % 2)];
    for max in [0, 125, 1024 * 1024] {
        let at_once = commands(dialect, bytes, usize::MAX, max);
        for piece in [1, 7] {
            let in_pieces = commands(dialect, bytes, piece, max);
            assert_eq!(in_pieces, at_once, "in pieces of {piece}");
        }
    }
}

fn commands(dialect: Dialect, bytes: &[u8], piece: usize, max: usize) -> (Vec<u8>, bool) {
    let mut reader = CommandReader::new(dialect, max);
    let mut all = Vec::new();
    for mut input in bytes.chunks(piece.min(bytes.len()).max(1)) {
        loop {
            match reader.next(&mut input) {
                Ok(Some(run)) => {
                    assert!(!run.is_empty());
                    all.extend_from_slice(&run);
                }
                Ok(None) => break,
                Err(_) => return (all, true),
            }
        }
        assert!(input.is_empty(), "what is left is kept");
    }
    (all, false)
}

/// What a WebTransport client says in HTTP/3: the first byte chooses settings, a request, or the
/// capsules of its session. A request that is understood names a place and a dialect.
pub fn webtransport(mut bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    bytes = rest;
    match kind % 3 {
        0 => drop(Settings::decode(&mut bytes)),
        1 => {
            if let Ok(request) = ConnectRequest::decode(&mut bytes) {
                let url = &request.url;
                let (dialect, subprotocol) = upgrade::dialect(&request.headers, url.query());
                assert!(Dialect::ALL.contains(&dialect));
                assert!(subprotocol.is_none_or(|name| dialect.subprotocol() == name));
                let page = request.headers.get(http::header::ORIGIN);
                let page = page.map(|origin| origin.to_str().unwrap_or(""));
                let verdict = origin::judge(page, Some(url.authority()), false, None);
                assert!(page.is_some() || verdict == Verdict::Allowed);
            }
        }
        _ => while Capsule::decode(&mut bytes).is_ok() {},
    }
}

/// A token as it comes: nobody without the secret is let in.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let listener = InstanceId::from("demo");
    let found = crate::auth::verify_token(&KEYS, &listener, text, NOW_MS);
    let named = crate::auth::named_token(text);
    if let Ok((_, token)) = found {
        assert_eq!(named.map(|n| n.key), Some(token.id), "it can be revoked");
        let signed = text.rsplit_once('.').is_some_and(|(head, tag)| {
            let tag = URL_SAFE_NO_PAD.decode(tag).unwrap_or_default();
            hmac::verify(&key(), head.as_bytes(), &tag).is_ok()
        });
        assert!(signed, "nobody signed this");
    }
}

/// The claims of a token whose signature is good: whoever has a key of an instance writes them.
pub fn claims(payload: &[u8]) {
    let token = signed(payload);
    let depth = gb6_core_model::limits::JSON_DEPTH_MAX;
    let shown = |json: &Bytes| assert!(json.is_empty() || json_depth_within(json, depth));
    let another = InstanceId::from("another");
    let named = crate::auth::named_token(&token).map(|n| n.key);
    if let Ok((found, by)) = crate::auth::verify_token(&KEYS, &another, &token, NOW_MS) {
        assert_eq!(named, Some(by.id), "it can be revoked by its text");
        assert_eq!(found.instance.as_str(), "demo", "the key decides");
        assert!(found.expires_unix_ms.is_none_or(|at| at > NOW_MS));
        shown(&found.info);
        for (channel, grant) in &found.subscriptions {
            assert!(gb6_core_model::Channel::parse(channel).is_ok());
            assert!(grant.expires_unix_ms.is_none_or(|at| at > NOW_MS));
            shown(&grant.info);
            shown(&grant.data);
        }
        let _ = found
            .caps
            .allows("room:1", gb6_core_model::Allow::Subscribe);
    }
    let verify = |instance| {
        crate::auth::verify_subscription_token(&KEYS, &InstanceId::from(instance), &token, NOW_MS)
    };
    if let Ok((found, by)) = verify("demo") {
        assert_eq!(named, Some(by.id), "it can be revoked by its text");
        assert!(gb6_core_model::Channel::parse(&found.channel).is_ok());
        assert!(found.grant.expires_unix_ms.is_none_or(|at| at > NOW_MS));
        shown(&found.grant.info);
        shown(&found.grant.data);
    }
    assert!(verify("another").is_err(), "a key of another instance");
}

/// A token with this payload, that the key signed.
fn signed(payload: &[u8]) -> String {
    let header = format!(r#"{{"alg":"HS256","kid":"{KEY}"}}"#);
    let head = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let tag = hmac::sign(&key(), head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A key set as a stranger's server sends it. What is taken verifies nothing that nobody signed,
/// and no token of another instance.
pub fn key_set(body: &[u8]) {
    crate::auth::install_crypto();
    let Ok(set) = crate::auth::jwks::parse_key_set(body) else {
        return;
    };
    assert!(set.keys.len() + set.refused.len() <= 64);
    for key in &set.keys {
        for algorithm in KeyAlgorithm::ALL {
            assert!(!(algorithm.is_symmetric() && key.fits(*algorithm)));
            assert!(!key.verifies(*algorithm, "a.b", ""));
        }
    }
    let keys: Arc<[VerifyingKey]> = set.keys.into();
    let mut snapshot = SNAPSHOT.clone();
    let fetches = Instance {
        jwks_url: Some("https://id.example/jwks".into()),
        ..Instance::default()
    };
    snapshot.instances.insert("fetches".into(), fetches);
    let table = KeyTable::new(&snapshot, |_| Fetched::Keys(keys.clone()));
    let token = signed(br#"{"sub":"u"}"#);
    let found = crate::auth::verify_token(&table, &"fetches".into(), &token, NOW_MS);
    assert_eq!(found.map(|(c, _)| c.instance), Ok("demo".into()));
}

/// A record of the log of revocations: what can be read is bounded and reads back.
pub fn revocation(data: &[u8]) {
    if let Some(record) = gb6_edge_session::Revocation::parse(data) {
        let again = gb6_edge_session::Revocation::parse(&record.to_json());
        assert_eq!(again, Some(record));
    }
}

/// A public key as a person writes it into a file.
pub fn public_key(text: &[u8]) {
    gb6_core_model::public_key::fuzz_public_key(text);
}

/// The answer of an application's backend. What is taken of it is bounded, is of the instance that was
/// asked about, and can be told to a client; who refuses is never taken for one who consents.
pub fn proxy_answer(body: &[u8]) {
    let refuses = serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|answer| {
        let says = |key| answer.get(key).is_some_and(|value| !value.is_null());
        says("error") || says("disconnect")
    });
    let sound = |error: &gb6_core_wire::client::Error| {
        (1..=1999).contains(&error.code) && !error.message.is_empty()
    };
    match proxies::answer::connect(&"demo".into(), body, NOW_MS) {
        Ok(Said::Result(claims)) => {
            assert!(!refuses);
            if let Some(claims) = claims {
                assert_eq!(claims.instance.as_str(), "demo");
                assert!(claims.user.len() <= 255 && !claims.client_refreshes);
                assert!(claims.expires_unix_ms.is_none_or(|end| end > NOW_MS));
                for json in [&claims.info, &claims.data, &claims.meta] {
                    assert!(json.is_empty() || json_depth_within(json, 128));
                }
            }
        }
        Ok(Said::Error(error)) => assert!(sound(&error)),
        Ok(Said::Disconnect(why)) => assert!(!why.text().is_empty()),
        Err(_) => {}
    }
    match proxies::answer::publish(body) {
        Ok(Said::Result(replacement)) => {
            assert!(!refuses);
            assert!(replacement.is_none_or(|new| new.data.len() <= body.len()));
        }
        Ok(Said::Error(error)) => assert!(sound(&error)),
        Ok(Said::Disconnect(why)) => assert!(!why.text().is_empty()),
        Err(_) => {}
    }
}

fn key() -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes())
}

/// What an upgrade is judged by: a line each with the `Host` header, the `Origin` header, the query,
/// and the subprotocols offered.
pub fn upgrade(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.lines();
    let host = lines.next();
    let origin = lines.next();
    let hosts = Hosts::of(&SNAPSHOT);
    let instance = host.and_then(|host| hosts.instance_of(host, &SNAPSHOT));
    assert!(instance.as_ref().is_none_or(|id| id.as_str() == "demo"));
    let list = instance.map(|id| SNAPSHOT.instances[&id].allowed_origins.as_slice());
    for loopback_allowed in [false, true] {
        let verdict = origin::judge(origin, host, loopback_allowed, list);
        match (&verdict, origin) {
            (Verdict::AtConnect(listed), _) => {
                assert!(list.is_none() || listed.eq_ignore_ascii_case(LISTED));
            }
            (Verdict::Allowed, Some(origin)) => {
                // Of a page that this server served, or of this machine where that is allowed.
                let authority = origin.split_once("://").map_or("", |(_, a)| a);
                let ours = host.is_some_and(|host| {
                    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
                    same(origin::host_of(authority), origin::host_of(host))
                });
                assert!(ours || (loopback_allowed && origin::is_loopback(authority)));
            }
            (Verdict::Allowed | Verdict::Refused, _) => {}
        }
    }
    let query = lines.next();
    let mut headers = http::HeaderMap::new();
    for line in lines {
        if let Ok(value) = http::HeaderValue::from_maybe_shared(Bytes::from(line.to_owned())) {
            headers.append(http::header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
    if let Some(connect) = stream::connect_of(query) {
        assert!(
            connect.len() <= 3 * bytes.len(),
            "it is decoded, not made larger"
        );
    }
    let (dialect, answered) = upgrade::dialect(&headers, query);
    if let Some(name) = answered {
        assert_eq!(dialect.subprotocol(), name);
        let offered = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
        let mut offered = offered.iter().filter_map(|v| v.to_str().ok());
        assert!(offered.any(|v| v.contains(name)), "nobody offered {name}");
    }
}
