//! What a backend answers, read: bytes of somebody's server, of which nothing is trusted.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gb6_core_model::{ErrorCode, InstanceId, limits};
use gb6_core_wire::client::{self, json_depth_within};
use gb6_core_wire::record::ContentType;
use gb6_edge_session::{Claims, CloseReason, Replacement};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::{Refusal, claims_of_backend, object};

/// Bytes of an answer at most: more than the largest publication in base 64, and more than a token
/// may have.
pub(crate) const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// Codes of errors that a backend may answer with.
const ERROR_CODES: std::ops::RangeInclusive<u32> = 1..=1999;
/// Longest message of an error in bytes.
const MESSAGE_BYTES_MAX: usize = 255;
/// The words of a refusal for which the backend has none.
const NO_WORDS: &str = "refused by the application";

/// What a backend said.
#[derive(Debug)]
pub(crate) enum Said<T> {
    /// It may be, and this is its result; `None`: it has none.
    Result(Option<T>),
    /// The command is to be answered with this error.
    Error(client::Error),
    /// The connection is to end.
    Disconnect(CloseReason),
}

/// Why an answer can not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the answer {0}")]
pub(crate) struct Garbage(&'static str);

#[derive(Deserialize)]
struct RawAnswer<'a> {
    #[serde(default, borrow)]
    result: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
    #[serde(default, borrow)]
    disconnect: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawError {
    code: u32,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    temporary: Option<bool>,
}

#[derive(Deserialize)]
struct RawDisconnect {
    code: u32,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct RawPublish {
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    b64data: Option<String>,
}

/// The answer of a connect proxy of `instance`, at `unix_ms`.
pub(crate) fn connect(
    instance: &InstanceId,
    body: &[u8],
    unix_ms: i64,
) -> Result<Said<Claims>, Garbage> {
    let result = match open(body)? {
        Said::Result(Some(result)) => result,
        Said::Result(None) => return Ok(Said::Result(None)),
        Said::Error(error) => return Ok(Said::Error(error)),
        Said::Disconnect(why) => return Ok(Said::Disconnect(why)),
    };
    match claims_of_backend(instance.clone(), result, unix_ms) {
        Ok(claims) => Ok(Said::Result(Some(claims))),
        Err(Refusal::Expired) => Ok(Said::Error(ErrorCode::Expired.into())),
        Err(_) => Err(Garbage("has a result that says nothing of a connection")),
    }
}

/// The answer of a publish proxy; `None`: the data stay as they are.
pub(crate) fn publish(body: &[u8]) -> Result<Said<Replacement>, Garbage> {
    let result = match open(body)? {
        Said::Result(Some(result)) => result,
        Said::Result(None) => return Ok(Said::Result(None)),
        Said::Error(error) => return Ok(Said::Error(error)),
        Said::Disconnect(why) => return Ok(Said::Disconnect(why)),
    };
    let bad = Garbage("has a result that says nothing of a publication");
    let raw: RawPublish = object(result.get().as_bytes()).ok_or(bad)?;
    let b64 = raw.b64data.filter(|text| !text.is_empty());
    let replacement = match (raw.data, b64) {
        (Some(data), _) => {
            let data = Bytes::copy_from_slice(data.get().as_bytes());
            if !json_depth_within(&data, limits::JSON_DEPTH_MAX) {
                return Err(Garbage("has data that nest too deep"));
            }
            Replacement {
                data,
                content_type: ContentType::Json,
            }
        }
        (None, Some(b64)) => Replacement {
            data: STANDARD.decode(b64).map_err(|_| bad)?.into(),
            content_type: ContentType::Unspecified,
        },
        (None, None) => return Ok(Said::Result(None)),
    };
    Ok(Said::Result(Some(replacement)))
}

fn open(body: &[u8]) -> Result<Said<&RawValue>, Garbage> {
    let raw: RawAnswer<'_> = object(body).ok_or(Garbage("is no JSON object as proxies give it"))?;
    Ok(match (raw.disconnect, raw.error) {
        (Some(why), _) => match disconnect(why) {
            Some(why) => Said::Disconnect(why),
            None => Said::Error(unreadable()),
        },
        (None, Some(why)) => Said::Error(error(why).unwrap_or_else(unreadable)),
        (None, None) => Said::Result(raw.result),
    })
}

/// What stands for a refusal that can not be read: it must not become a consent where its instance
/// lets everything through that its backend has not decided about.
fn unreadable() -> client::Error {
    ErrorCode::Internal.into()
}

fn error(raw: &RawValue) -> Option<client::Error> {
    let raw: RawError = object(raw.get().as_bytes())?;
    let ours = ErrorCode::from_code(raw.code);
    let words = ours.map_or(NO_WORDS, ErrorCode::text);
    let message = raw.message.filter(|m| !m.is_empty());
    let message = message.unwrap_or_else(|| words.to_owned());
    let fits = ERROR_CODES.contains(&raw.code) && message.len() <= MESSAGE_BYTES_MAX;
    fits.then(|| client::Error {
        code: raw.code,
        message,
        temporary: raw
            .temporary
            .unwrap_or_else(|| ours.is_some_and(ErrorCode::temporary)),
    })
}

fn disconnect(raw: &RawValue) -> Option<CloseReason> {
    let raw: RawDisconnect = object(raw.get().as_bytes())?;
    let reason = raw.reason.unwrap_or_default();
    // Words that no client can be told are left out: that the connection ends counts.
    CloseReason::custom(raw.code, &reason)
        .or_else(|_| CloseReason::custom(raw.code, NO_WORDS))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn connect_of(body: &str) -> Result<Said<Claims>, Garbage> {
        connect(&"demo".into(), body.as_bytes(), NOW)
    }

    #[test]
    fn a_connection_is_what_its_backend_says() {
        let Ok(Said::Result(Some(claims))) = connect_of(
            r##"{"result":{"user":"56","expire_at":1700000060,"info":{"n":1},"data":{"hi":1},
                "channels":["room:1"],"subs":{"room:2":{"data":{"x":1}}},"meta":{"plan":"free"},
                "caps":[{"channels":["room:*"],"match":"wildcard","allow":["sub"]}],"node":1},
                "error":null,"disconnect":null}"##,
        ) else {
            panic!("a good answer");
        };
        assert_eq!(
            (claims.instance.as_str(), claims.user.as_str()),
            ("demo", "56")
        );
        assert_eq!(claims.expires_unix_ms, Some(NOW + 60_000));
        assert_eq!(
            (&claims.info[..], &claims.data[..]),
            (&b"{\"n\":1}"[..], &b"{\"hi\":1}"[..])
        );
        assert_eq!(&claims.meta[..], b"{\"plan\":\"free\"}");
        assert_eq!(claims.subscriptions.len(), 2);
        assert!(claims.caps.0.is_some() && !claims.client_refreshes);

        // What a server in Go or PHP writes where it has nothing to say.
        let Ok(Said::Result(Some(claims))) = connect_of(
            r#"{"result":{"user":null,"expire_at":0,"info":null,"b64info":"","data":null,"b64data":"",
                "channels":null,"subs":null,"caps":null,"meta":null}}"#,
        ) else {
            panic!("an empty answer");
        };
        assert_eq!((claims.user.as_str(), claims.expires_unix_ms), ("", None));
        let subs = r#"{"result":{"user":"1","subs":{"room:1":null,"room:2":{"override":null}}}}"#;
        let Ok(Said::Result(Some(claims))) = connect_of(subs) else {
            panic!("subscriptions without options");
        };
        assert_eq!(claims.subscriptions.len(), 2);
        let data = r#"{"result":{"user":"1","b64data":"eyJhIjoxfQ=="}}"#;
        let Ok(Said::Result(Some(claims))) = connect_of(data) else {
            panic!("data in base 64");
        };
        assert_eq!(&claims.data[..], b"{\"a\":1}");
        for nothing in ["{}", r#"{"result":null}"#] {
            assert!(matches!(connect_of(nothing), Ok(Said::Result(None))));
        }
    }

    #[test]
    fn garbage_is_garbage() {
        let long = format!(r#"{{"result":{{"user":"{}"}}}}"#, "x".repeat(256));
        let deep = format!(
            r#"{{"result":{{"meta":{}{}}}}}"#,
            "[".repeat(200),
            "]".repeat(200)
        );
        let large = format!(r#"{{"result":{{"meta":"{}"}}}}"#, "x".repeat(17_000));
        for body in [
            "",
            "null",
            "[]",
            "<html>",
            "{\"result\":",
            r#"{"result":[]}"#,
            r#"["result"]"#,
            r#"{"result":{"user":56}}"#,
            r#"{"result":{"user":"1","channels":["no\tchannel"]}}"#,
            r#"{"result":{"user":"1","channels":"room:1"}}"#,
            r#"{"result":{"user":"1","b64info":"%"}}"#,
            r#"{"result":{"user":"1","expire_at":"soon"}}"#,
            r#"{"result":{"user":"1","caps":[{"channels":["("],"match":"regex","allow":["sub"]}]}}"#,
            long.as_str(),
            deep.as_str(),
            large.as_str(),
            "{\"result\":{\"user\":\"\u{fffd}",
        ] {
            assert!(connect_of(body).is_err(), "{body}");
        }
        assert!(connect(&"demo".into(), b"{\"result\":{\"user\":\"\xff\"}}", NOW).is_err());
        for body in ["", "[]", r#"{"result":1}"#, r#"{"result":{"b64data":"%"}}"#] {
            assert!(publish(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn who_refuses_is_never_taken_for_one_who_consents() {
        let code = |body: &str| match connect_of(body).unwrap() {
            Said::Error(error) => (error.code, error.temporary),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            code(r#"{"error":{"code":1000,"message":"no"}}"#),
            (1000, false)
        );
        let both =
            r#"{"error":{"code":1000,"message":"no","temporary":true},"result":{"user":"1"}}"#;
        assert_eq!(code(both), (1000, true));
        assert_eq!(code(r#"{"error":{"code":111}}"#), (111, true));
        assert_eq!(
            code(r#"{"result":{"user":"1","expire_at":1}}"#),
            (110, false)
        );
        let long = format!(
            r#"{{"error":{{"code":1000,"message":"{}"}}}}"#,
            "x".repeat(256)
        );
        for unreadable in [
            r#"{"error":{}}"#,
            r#"{"error":"no"}"#,
            r#"{"error":{"code":0}}"#,
            r#"{"error":{"code":2000}}"#,
            r#"{"error":{"code":-1}}"#,
            r#"{"disconnect":{}}"#,
            r#"{"disconnect":{"code":99}}"#,
            r#"{"disconnect":{"code":4600000}}"#,
            long.as_str(),
        ] {
            assert_eq!(code(unreadable), (100, true), "{unreadable}");
        }
        let close = |body: &str| match publish(body.as_bytes()).unwrap() {
            Said::Disconnect(why) => (why.code(), why.text().to_owned()),
            other => panic!("{other:?}"),
        };
        let old =
            r#"{"disconnect":{"code":4500,"reason":"spam","reconnect":false},"error":{"code":1}}"#;
        assert_eq!(close(old), (4500, "spam".into()));
        for reason in ["", "{}", &"x".repeat(200)] {
            let body = format!(r#"{{"disconnect":{{"code":4001,"reason":{reason:?}}}}}"#);
            assert_eq!(close(&body), (4001, NO_WORDS.into()));
        }
        assert_eq!(
            close(r#"{"disconnect":{"code":3503}}"#).1,
            "force disconnect"
        );
    }

    #[test]
    fn a_publication_becomes_what_its_backend_makes_of_it() {
        let data = |body: &str| match publish(body.as_bytes()).unwrap() {
            Said::Result(replacement) => replacement.map(|r| (r.data, r.content_type)),
            other => panic!("{other:?}"),
        };
        assert_eq!(data("{}"), None);
        assert_eq!(data(r#"{"result":{}}"#), None);
        assert_eq!(data(r#"{"result":{"data":null,"b64data":""}}"#), None);
        let json = Some((Bytes::from_static(b"{\"a\":1}"), ContentType::Json));
        assert_eq!(data(r#"{"result":{"data":{"a":1}}}"#), json);
        let bytes = Some((Bytes::from_static(b"\x01\x02"), ContentType::Unspecified));
        assert_eq!(data(r#"{"result":{"b64data":"AQI="}}"#), bytes);
    }
}
