//! What a backend is asked: bodies and headers of its requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gb6_core_model::snapshot::Proxy;
use gb6_core_wire::client::ConnectRequest;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;

/// Longest value of a header that a client names in its connect command, in bytes.
const EMULATED_BYTES_MAX: usize = 8 * 1024;

/// Who it is about.
#[derive(Clone, Copy)]
pub(crate) struct About<'a> {
    /// The client id.
    pub(crate) client: &'a str,
    /// The name of what carries the connection.
    pub(crate) transport: &'a str,
    /// `json` or `protobuf`.
    pub(crate) protocol: &'a str,
}

#[derive(Serialize)]
struct Connect<'a> {
    client: &'a str,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<&'a str>,
}

#[derive(Serialize)]
struct Publish<'a> {
    client: &'a str,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'static str,
    user: &'a str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

/// Data as a backend is sent them: as they are where they are JSON and it does not want them in
/// base 64.
struct Data<'a> {
    encoding: &'static str,
    json: Option<&'a RawValue>,
    b64: Option<String>,
}

impl<'a> Data<'a> {
    fn of(proxy: &Proxy, data: &'a [u8]) -> Self {
        let json = json(data).filter(|_| !proxy.binary_encoding);
        let binary = proxy.binary_encoding || (json.is_none() && !data.is_empty());
        Self {
            encoding: if binary { "binary" } else { "json" },
            json,
            b64: (binary && !data.is_empty()).then(|| STANDARD.encode(data)),
        }
    }
}

fn json(text: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(text).ok()
}

/// The body of a connect request. `None`: it can not be written, which these types never are.
pub(crate) fn connect(proxy: &Proxy, about: About<'_>, connect: &ConnectRequest) -> Option<Bytes> {
    let data = Data::of(proxy, &connect.data);
    let body = serde_json::to_vec(&Connect {
        client: about.client,
        transport: about.transport,
        protocol: about.protocol,
        encoding: data.encoding,
        data: data.json,
        b64data: data.b64,
        name: &connect.name,
        version: &connect.version,
        channels: connect.subs.keys().map(String::as_str).collect(),
    });
    body.ok().map(Bytes::from)
}

/// The body of a publish request. `None`: as above.
pub(crate) fn publish(
    proxy: &Proxy,
    about: About<'_>,
    user: &str,
    channel: &str,
    data: &[u8],
    meta: &[u8],
) -> Option<Bytes> {
    let data = Data::of(proxy, data);
    let body = serde_json::to_vec(&Publish {
        client: about.client,
        transport: about.transport,
        protocol: about.protocol,
        encoding: data.encoding,
        user,
        channel,
        data: data.json,
        b64data: data.b64,
        meta: json(meta).filter(|_| proxy.include_meta),
    });
    body.ok().map(Bytes::from)
}

/// The headers of a request: those that every one has, and of the client's those that are to be
/// passed on. What its HTTP request has goes before what it says in its connect command.
pub(crate) fn headers(
    proxy: &Proxy,
    real: Option<&HeaderMap>,
    emulated: Option<&ConnectRequest>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("gb6"));
    for name in &proxy.headers {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        if let Some(real) = real.filter(|real| real.contains_key(&name)) {
            headers.remove(&name);
            for value in real.get_all(&name) {
                headers.append(&name, value.clone());
            }
            continue;
        }
        let said = emulated.into_iter().flat_map(|connect| &connect.headers);
        let mut said = said.filter(|(said, _)| said.eq_ignore_ascii_case(name.as_str()));
        let value = said.next().map(|(_, value)| value);
        let value = value.filter(|value| value.len() <= EMULATED_BYTES_MAX);
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &proxy.static_headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(mut value)) = (name, HeaderValue::from_str(value)) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json.clone());
    headers.insert(header::ACCEPT, json);
    headers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gb6_core_model::snapshot::OnFailure;
    use serde_json::{Value, json};

    use super::*;

    fn proxy() -> Proxy {
        Proxy {
            url: "https://app.example/".into(),
            timeout_ms: 1000,
            headers: vec!["cookie".into(), "user-agent".into(), "x-trace".into()],
            static_headers: BTreeMap::from([("authorization".into(), "Bearer x".into())]),
            binary_encoding: false,
            include_meta: true,
            on_failure: OnFailure::Refuse,
        }
    }

    const ABOUT: About<'static> = About {
        client: "c1",
        transport: "websocket",
        protocol: "json",
    };

    fn read(body: Option<Bytes>) -> Value {
        serde_json::from_slice(&body.unwrap()).unwrap()
    }

    #[test]
    fn bodies_are_those_of_centrifugo() {
        let mut asked = ConnectRequest {
            data: Bytes::from_static(b"{\"k\":1}"),
            name: "js".into(),
            ..ConnectRequest::default()
        };
        asked.subs.insert("room:1".into(), Default::default());
        assert_eq!(
            read(connect(&proxy(), ABOUT, &asked)),
            json!({"client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json",
                   "data": {"k": 1}, "name": "js", "channels": ["room:1"]})
        );
        asked = ConnectRequest::default();
        assert_eq!(
            read(connect(&proxy(), ABOUT, &asked)),
            json!({"client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json"})
        );
        let body = |proxy: &Proxy, data: &[u8]| {
            read(publish(
                proxy,
                ABOUT,
                "alice",
                "room:1",
                data,
                b"{\"plan\":1}",
            ))
        };
        assert_eq!(
            body(&proxy(), b"[1]"),
            json!({"client": "c1", "transport": "websocket", "protocol": "json", "encoding": "json",
                   "user": "alice", "channel": "room:1", "data": [1], "meta": {"plan": 1}})
        );
        let bytes = body(&proxy(), b"\x01\x02");
        assert_eq!(
            (&bytes["encoding"], &bytes["b64data"]),
            (&json!("binary"), &json!("AQI="))
        );
        let binary = Proxy {
            binary_encoding: true,
            include_meta: false,
            ..proxy()
        };
        let body = body(&binary, b"[1]");
        assert_eq!(
            (&body["encoding"], &body["b64data"]),
            (&json!("binary"), &json!("WzFd"))
        );
        assert!(body["data"].is_null() && body["meta"].is_null());
    }

    #[test]
    fn only_listed_headers_are_passed_on_and_real_ones_first() {
        let mut real = HeaderMap::new();
        real.append(header::COOKIE, HeaderValue::from_static("a=1"));
        real.append(header::COOKIE, HeaderValue::from_static("b=2"));
        real.insert("x-secret", HeaderValue::from_static("no"));
        real.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Bearer client"),
        );
        let mut asked = ConnectRequest::default();
        for (name, value) in [
            ("Cookie", "emulated"),
            ("X-Trace", "t1"),
            ("X-Other", "no"),
            ("User-Agent", "bad\nvalue"),
        ] {
            asked.headers.insert(name.into(), value.into());
        }
        let sent = headers(&proxy(), Some(&real), Some(&asked));
        let all = |name: &str| {
            let values = sent.get_all(name).iter();
            values.map(|v| v.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(all("cookie"), ["a=1", "b=2"]);
        assert_eq!(all("x-trace"), ["t1"]);
        assert_eq!(all("user-agent"), ["gb6"]);
        assert_eq!(all("authorization"), ["Bearer x"]);
        assert_eq!(all("content-type"), ["application/json"]);
        assert!(all("x-secret").is_empty() && all("x-other").is_empty());
    }
}
