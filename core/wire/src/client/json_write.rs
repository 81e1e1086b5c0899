//! Writing the JSON dialect: straight into a buffer, in the order of the schema's numbers. What is
//! absent, zero or empty is left out; a result is there even when it is empty, because SDKs look
//! at the key; an error always has its code and message.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;

use super::data::json_value_of;
use super::{
    ClientInfo, ConnectResult, HistoryResult, Publication, Push, RefreshResult, Reply,
    SubscribeResult,
};
use crate::record::ContentType;

/// A JSON object that is being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

/// Writes one object.
pub(super) fn object(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    let mut object = Object { out, empty: true };
    fields(&mut object);
    object.out.push(b'}');
}

impl Object<'_> {
    /// Writes a key of the schema, which needs no escaping.
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn separate(&mut self) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
    }

    /// A number, even when it is 0.
    pub(super) fn number_always(&mut self, name: &str, value: impl Display) {
        // Writing to a Vec can not fail.
        let _ = write!(self.key(name), "{value}");
    }

    /// A number that is left out when it is 0.
    pub(super) fn number<T: Display + Default + PartialEq>(&mut self, name: &str, value: T) {
        if value != T::default() {
            self.number_always(name, value);
        }
    }

    /// A flag that is left out when it is false.
    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.key(name).extend_from_slice(b"true");
        }
    }

    /// A string, even when it is empty.
    pub(super) fn text_always(&mut self, name: &str, value: &str) {
        string(self.key(name), value);
    }

    /// A string that is left out when it is empty.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text_always(name, value);
        }
    }

    /// A `bytes` field: see [`json_value_of`]; left out when it is empty.
    pub(super) fn data(&mut self, name: &str, value: &[u8], content_type: ContentType) {
        if !value.is_empty() {
            let value = json_value_of(value, content_type);
            self.key(name).extend_from_slice(&value);
        }
    }

    /// An object.
    pub(super) fn object(&mut self, name: &str, fields: impl FnOnce(&mut Object<'_>)) {
        object(self.key(name), fields);
    }

    /// An object that is left out when it is absent.
    fn maybe<T>(
        &mut self,
        name: &str,
        value: Option<&T>,
        fields: impl FnOnce(&T, &mut Object<'_>),
    ) {
        if let Some(value) = value {
            self.object(name, |o| fields(value, o));
        }
    }

    /// A map whose keys come from outside; left out when it is empty.
    fn map<T>(
        &mut self,
        name: &str,
        entries: &BTreeMap<String, T>,
        mut value: impl FnMut(&mut Vec<u8>, &T),
    ) {
        if entries.is_empty() {
            return;
        }
        self.object(name, |o| {
            for (key, entry) in entries {
                o.separate();
                string(o.out, key);
                o.out.push(b':');
                value(o.out, entry);
            }
        });
    }

    /// Tags or headers.
    pub(super) fn texts(&mut self, name: &str, entries: &BTreeMap<String, String>) {
        self.map(name, entries, |out, text| string(out, text));
    }

    fn publications(&mut self, name: &str, list: &[Publication]) {
        if list.is_empty() {
            return;
        }
        let out = self.key(name);
        out.push(b'[');
        for (index, item) in list.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            object(out, |o| publication(item, o));
        }
        out.push(b']');
    }
}

/// Writes a JSON string (RFC 8259 section 7).
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[copied..at]);
        copied = at + 1;
        out.extend_from_slice(escape);
        if escape.is_empty() {
            let _ = write!(out, "\\u{byte:04x}");
        }
    }
    out.extend_from_slice(&text.as_bytes()[copied..]);
    out.push(b'"');
}

/// See [`super::encode_reply`].
pub(super) fn reply(reply: &Reply, out: &mut Vec<u8>) {
    object(out, |o| {
        o.number("id", reply.id);
        o.maybe("error", reply.error.as_ref(), |e, o| {
            o.number_always("code", e.code);
            o.text_always("message", &e.message);
            o.flag("temporary", e.temporary);
        });
        o.maybe("push", reply.push.as_deref(), push);
        o.maybe("connect", reply.connect.as_deref(), connect);
        o.maybe("subscribe", reply.subscribe.as_deref(), subscribe);
        o.maybe("unsubscribe", reply.unsubscribe.as_ref(), |_, _| ());
        o.maybe("publish", reply.publish.as_ref(), |_, _| ());
        o.maybe("presence", reply.presence.as_ref(), |p, o| {
            o.map("presence", &p.presence, |out, info| {
                object(out, |o| client_info(info, o));
            });
        });
        o.maybe("presence_stats", reply.presence_stats.as_ref(), |p, o| {
            // The answer itself, so 0 is written: an SDK would show `undefined`.
            o.number_always("num_clients", p.num_clients);
            o.number_always("num_users", p.num_users);
        });
        o.maybe("history", reply.history.as_ref(), history);
        o.maybe("ping", reply.ping.as_ref(), |_, _| ());
        o.maybe("rpc", reply.rpc.as_ref(), |r, o| {
            o.data("data", &r.data, ContentType::Unspecified);
        });
        o.maybe("refresh", reply.refresh.as_ref(), refresh);
        o.maybe("sub_refresh", reply.sub_refresh.as_ref(), |s, o| {
            o.flag("expires", s.expires);
            o.number("ttl", s.ttl);
            o.publications("items", &s.items);
        });
    });
}

/// See [`super::encode_push`].
pub(super) fn push_reply(content: &Push, out: &mut Vec<u8>) {
    object(out, |o| o.object("push", |o| push(content, o)));
}

fn push(push: &Push, o: &mut Object<'_>) {
    o.number("id", push.id);
    o.text("channel", &push.channel);
    o.maybe("pub", push.publication.as_ref(), publication);
    o.maybe("join", push.join.as_ref(), |j, o| {
        o.maybe("info", j.info.as_ref(), client_info);
    });
    o.maybe("leave", push.leave.as_ref(), |l, o| {
        o.maybe("info", l.info.as_ref(), client_info);
    });
    o.maybe("unsubscribe", push.unsubscribe.as_ref(), |u, o| {
        o.number_always("code", u.code);
        o.text_always("reason", &u.reason);
    });
    o.maybe("message", push.message.as_ref(), |m, o| {
        o.data("data", &m.data, ContentType::Unspecified);
    });
    o.maybe("subscribe", push.subscribe.as_ref(), |s, o| {
        o.flag("recoverable", s.recoverable);
        o.text("epoch", &s.epoch);
        o.number("offset", s.offset);
        o.flag("positioned", s.positioned);
        o.data("data", &s.data, ContentType::Unspecified);
    });
    o.maybe("connect", push.connect.as_deref(), connect);
    o.maybe("disconnect", push.disconnect.as_ref(), |d, o| {
        o.number_always("code", d.code);
        o.text_always("reason", &d.reason);
        o.flag("reconnect", d.reconnect);
    });
    o.maybe("refresh", push.refresh.as_ref(), |r, o| {
        o.flag("expires", r.expires);
        o.number("ttl", r.ttl);
    });
}

fn connect(result: &ConnectResult, o: &mut Object<'_>) {
    // Both SDK families read `client` without asking whether it is there.
    o.text_always("client", &result.client);
    o.text("version", &result.version);
    o.flag("expires", result.expires);
    o.number("ttl", result.ttl);
    o.data("data", &result.data, ContentType::Unspecified);
    o.map("subs", &result.subs, |out, sub| {
        object(out, |o| subscribe(sub, o));
    });
    o.number("ping", result.ping);
    o.flag("pong", result.pong);
    o.text("session", &result.session);
    o.text("node", &result.node);
    o.number("time", result.time);
    o.number("flag", result.flag);
    o.maybe("dict", result.dict.as_ref(), |d, o| {
        o.text("id", &d.id);
        o.text("data_b64", &d.data_b64);
    });
}

fn subscribe(result: &SubscribeResult, o: &mut Object<'_>) {
    o.flag("expires", result.expires);
    o.number("ttl", result.ttl);
    o.flag("recoverable", result.recoverable);
    o.text("epoch", &result.epoch);
    o.publications("publications", &result.publications);
    o.flag("recovered", result.recovered);
    o.number("offset", result.offset);
    o.flag("positioned", result.positioned);
    o.data("data", &result.data, ContentType::Unspecified);
    o.flag("was_recovering", result.was_recovering);
    o.flag("delta", result.delta);
    o.number("id", result.id);
    o.number("type", result.r#type);
    o.number("phase", result.phase);
    o.text("cursor", &result.cursor);
    o.publications("state", &result.state);
    o.number("publish_debounce", result.publish_debounce);
}

fn history(result: &HistoryResult, o: &mut Object<'_>) {
    o.publications("publications", &result.publications);
    o.text("epoch", &result.epoch);
    o.number("offset", result.offset);
}

fn refresh(result: &RefreshResult, o: &mut Object<'_>) {
    o.text("client", &result.client);
    o.text("version", &result.version);
    o.flag("expires", result.expires);
    o.number("ttl", result.ttl);
}

fn client_info(info: &ClientInfo, o: &mut Object<'_>) {
    o.text("user", &info.user);
    o.text("client", &info.client);
    o.data("conn_info", &info.conn_info, ContentType::Unspecified);
    o.data("chan_info", &info.chan_info, ContentType::Unspecified);
}

fn publication(publication: &Publication, o: &mut Object<'_>) {
    o.data("data", &publication.data, ContentType::Unspecified);
    o.maybe("info", publication.info.as_ref(), client_info);
    o.number("offset", publication.offset);
    o.texts("tags", &publication.tags);
    o.flag("delta", publication.delta);
    o.number("time", publication.time);
    o.text("channel", &publication.channel);
    o.text("key", &publication.key);
    o.flag("removed", publication.removed);
    o.number("score", publication.score);
    o.text("epoch", &publication.epoch);
    o.data(
        "prev_data",
        &publication.prev_data,
        ContentType::Unspecified,
    );
    o.number("version", publication.version);
}
