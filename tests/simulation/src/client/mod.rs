//! A client as an SDK behaves: subscribes with positions, renews its tokens, publishes with ids and
//! retries, comes back after every end of its connection.

mod tokens;

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_wire::client::{Dialect, Publication, Reply, SubscribeResult, decode_replies, frame};
use serde_json::{Value, json};

use crate::tokens::Token;

/// How long an SDK waits for a reply, in ms.
const REPLY_MS: u64 = 5_000;
/// The connect command's id.
const CONNECT: u32 = 1;

/// How a client comes to its rooms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It subscribes.
    Asked,
    /// Its connection token names them.
    Granted,
    /// It subscribes with a token for each.
    Proven,
}

/// A publish that the client wants written.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) room: String,
    /// `None`: tried once, its outcome may stay unknown.
    pub(crate) id: Option<String>,
    pub(crate) data: String,
    /// The command that carries it, and when it was sent.
    sent: Option<(u32, u64)>,
    tries: u32,
    not_before: u64,
}

/// What a publish came to.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) room: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
    pub(crate) offset: u64,
    /// The connection and its command, if it was sent once only.
    pub(crate) once: Option<(u64, u32)>,
}

/// One client.
pub(crate) struct Client {
    pub(crate) user: String,
    pub(crate) rooms: Vec<String>,
    pub(crate) way: Way,
    /// The edge that it uses, and its connection's number; `None` while it is away.
    pub(crate) connection: Option<(usize, u64)>,
    pub(crate) back_at: u64,
    /// The connection that is to begin, and since when that is waited for.
    pub(crate) entering: Option<(u64, u64)>,
    /// The token that the application gave it; `None`: it asks for one.
    pub(crate) token: Option<Token>,
    /// When its connection was lost, until all of it is back.
    lost_at: Option<u64>,
    /// The longest time for which it was away, in ms.
    pub(crate) away_ms: u64,
    /// Room → the last offset received, and the epoch.
    pub(crate) positions: BTreeMap<String, (u64, String)>,
    /// Rooms subscribed on this connection.
    live: Vec<String>,
    /// Command id → room of a subscribe.
    subscribing: BTreeMap<u32, String>,
    /// Whether the connect, which brings the rooms, is not answered.
    joining: bool,
    /// When a token is to be renewed, by room; without one it is the connection's.
    renew_at: BTreeMap<Option<String>, u64>,
    /// Command id → what it renews.
    renewing: BTreeMap<u32, Option<String>>,
    /// Renewals that were due.
    renewals: u64,
    /// Tokens that were renewed.
    pub(crate) renewed: u64,
    /// Subscriptions that ended because their token was not.
    pub(crate) expired: u64,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Rooms → what was received, in order.
    pub(crate) received: BTreeMap<String, Vec<(u64, String)>>,
    /// Whether an owner may answer that was fenced and has not noticed.
    pub(crate) contended: bool,
    /// Publishes without an id that were given up: they may or may not be in the log.
    pub(crate) unknown: u64,
    next_command: u32,
    next_data: u64,
    heard_at: u64,
}

/// What a client wants done.
pub(crate) enum Wish {
    Send(Bytes),
    Reconnect,
}

impl Client {
    pub(crate) fn new(n: usize, rooms: Vec<String>) -> Self {
        Self {
            user: format!("user{n}"),
            rooms,
            way: [Way::Asked, Way::Granted, Way::Proven][n % 3],
            joining: false,
            renew_at: BTreeMap::new(),
            renewing: BTreeMap::new(),
            renewals: 0,
            renewed: 0,
            expired: 0,
            connection: None,
            back_at: 0,
            entering: None,
            token: None,
            lost_at: None,
            away_ms: 0,
            positions: BTreeMap::new(),
            contended: false,
            live: Vec::new(),
            subscribing: BTreeMap::new(),
            wanted: Vec::new(),
            acknowledged: Vec::new(),
            received: BTreeMap::new(),
            unknown: 0,
            next_command: 1,
            next_data: 1,
            heard_at: 0,
        }
    }

    fn command(&mut self, mut body: Value) -> (u32, String) {
        let id = self.next_command;
        self.next_command += 1;
        body["id"] = json!(id);
        (id, body.to_string())
    }

    /// The first frame of a connection: connect and every subscribe, as the JS SDK sends it.
    pub(crate) fn hello(&mut self, now: u64) -> Bytes {
        self.next_command = 1;
        self.live.clear();
        self.subscribing.clear();
        self.heard_at = now;
        self.renew_at.clear();
        self.renewing.clear();
        self.joining = self.way == Way::Granted;
        let token = match &self.token {
            Some(token) => token.text(),
            None => self.fresh_token(now),
        };
        let mut connect = json!({"token": token});
        if self.joining {
            let subs = self
                .rooms
                .iter()
                .map(|room| (room.clone(), self.wish_for(room)));
            connect["subs"] = Value::Object(subs.collect());
        }
        let mut lines = vec![self.command(json!({"connect": connect})).1];
        if !self.joining {
            for room in self.rooms.clone() {
                lines.push(self.subscribe(now, &room));
            }
        }
        Bytes::from(lines.join("\n"))
    }

    /// Whether it waits for a connection to begin; not for longer than `patience` ms.
    pub(crate) fn is_entering(&mut self, now: u64, patience: u64) -> bool {
        self.entering.take_if(|(_, since)| now > *since + patience);
        self.entering.is_some()
    }

    /// A subscribe to a room, from where the client is.
    fn subscribe(&mut self, now: u64, room: &str) -> String {
        let mut subscribe = self.wish_for(room);
        subscribe["channel"] = json!(room);
        if self.way == Way::Proven {
            subscribe["token"] = json!(self.user);
        }
        let (id, line) = self.command(json!({"subscribe": subscribe}));
        self.subscribing.insert(id, room.to_owned());
        self.heard_at = now;
        line
    }

    /// From where a room is wanted.
    fn wish_for(&self, room: &str) -> Value {
        let mut wish = json!({"flag": 1});
        if let Some((offset, epoch)) = self.positions.get(room) {
            wish["recover"] = json!(true);
            wish["epoch"] = json!(epoch);
            if *offset > 0 {
                wish["offset"] = json!(offset);
            }
        }
        wish
    }

    /// The connection is gone: what was sent without an answer is sent again, or given up.
    pub(crate) fn lost(&mut self, now: u64, back_at: u64) {
        self.connection = None;
        self.back_at = back_at;
        self.lost_at.get_or_insert(now);
        let unknown = &mut self.unknown;
        self.wanted.retain_mut(|w| {
            if w.sent.is_some() && w.id.is_none() {
                *unknown += 1;
                return false;
            }
            w.sent = None;
            w.not_before = now;
            true
        });
    }

    /// Wants one more message written.
    pub(crate) fn want(&mut self, room: usize, with_id: bool, now: u64) {
        let n = self.next_data;
        self.next_data += 1;
        let room = self.rooms[room % self.rooms.len()].clone();
        self.wanted.push(Wanted {
            room,
            id: with_id.then(|| format!("{}-{n}", self.user)),
            data: format!("{{\"from\":\"{}\",\"n\":{n}}}", self.user),
            sent: None,
            tries: 0,
            not_before: now,
        });
    }

    /// Sends what is due; leaves a connection that gives no answers.
    pub(crate) fn step(&mut self, now: u64) -> Vec<Wish> {
        let mut wishes = Vec::new();
        if self.connection.is_none() {
            return wishes;
        }
        let waits = |sent: u64| now > sent + REPLY_MS;
        let silent = self
            .wanted
            .iter()
            .any(|w| w.sent.is_some_and(|(_, at)| waits(at)))
            || (self.begins() && waits(self.heard_at));
        if silent {
            return vec![Wish::Reconnect];
        }
        wishes.extend(self.renew(now));
        if self.begins() {
            return wishes;
        }
        for at in 0..self.wanted.len() {
            let w = self.wanted[at].clone();
            if w.sent.is_some() || w.not_before > now {
                continue;
            }
            let data: Value = serde_json::from_str(&w.data).unwrap_or_default();
            let body = match &w.id {
                Some(id) => json!({"rpc": {
                    "method": "room.publish",
                    "data": {"room": w.room, "id": id, "data": data},
                }}),
                None => json!({"publish": {"channel": w.room, "data": data}}),
            };
            let (id, line) = self.command(body);
            self.wanted[at].sent = Some((id, now));
            self.wanted[at].tries += 1;
            wishes.push(Wish::Send(Bytes::from(line)));
        }
        wishes
    }

    /// Whether something that it waits for has not begun.
    fn begins(&self) -> bool {
        self.joining || !self.subscribing.is_empty()
    }

    /// A WebSocket frame of the server came.
    pub(crate) fn receive(&mut self, now: u64, bytes: &Bytes) -> Vec<Wish> {
        let payload = frame::frame_payload(bytes);
        let replies = match decode_replies(Dialect::Json, payload) {
            Ok(replies) => replies,
            Err(error) => panic!("{}: the server sent what is no frame: {error}", self.user),
        };
        let mut wishes = Vec::new();
        for reply in replies {
            if let Some(wish) = self.reply(now, reply) {
                wishes.push(wish);
            }
        }
        wishes
    }

    fn reply(&mut self, now: u64, reply: Reply) -> Option<Wish> {
        if let Some(push) = reply.push {
            if let Some(publication) = push.publication {
                self.publication(&push.channel, &publication);
            }
            let ended = push.unsubscribe.map(|why| why.code)?;
            assert!(
                ended == 2501 && self.way == Way::Proven,
                "{}: {ended}: the log could have continued {}",
                self.user,
                push.channel
            );
            self.expired += 1;
            self.live.retain(|room| *room != push.channel);
            self.renew_at.remove(&Some(push.channel.clone()));
            let again = self.subscribe(now, &push.channel);
            return Some(Wish::Send(Bytes::from(again)));
        }
        if reply.id == 0 {
            return Some(Wish::Send(Bytes::from_static(b"{}")));
        }
        if reply.id == CONNECT {
            return self.connected(now, reply);
        }
        if let Some(what) = self.renewing.remove(&reply.id) {
            self.renewed(now, what, &reply);
            return None;
        }
        if let Some(room) = self.subscribing.remove(&reply.id) {
            let Some(result) = reply.subscribe else {
                // A temporary error, or an expired token: an SDK tries again; here the connection
                // begins anew.
                return Some(Wish::Reconnect);
            };
            self.subscribed(now, room, &result);
            return None;
        }
        let sent = |w: &Wanted| w.sent.is_some_and(|(id, _)| id == reply.id);
        let at = self.wanted.iter().position(sent)?;
        if let Some(error) = reply.error {
            let wanted = &mut self.wanted[at];
            assert!(error.temporary, "{}: {error:?}", self.user);
            if wanted.id.is_none() {
                if error.code == 1003 {
                    self.unknown += 1;
                }
                self.wanted.remove(at);
            } else {
                wanted.sent = None;
                wanted.not_before = now + 200;
            }
            return None;
        }
        let wanted = self.wanted.remove(at);
        let offset = match reply.rpc {
            Some(rpc) => {
                let result: Value = serde_json::from_slice(&rpc.data).unwrap_or_default();
                result["offset"].as_u64().unwrap_or(0)
            }
            // A plain publish is acknowledged without its offset.
            None => 0,
        };
        let connection = self.connection.map(|(_, connection)| connection);
        let once = connection.filter(|_| wanted.tries == 1);
        self.acknowledged.push(Acknowledged {
            once: once.map(|connection| (connection, reply.id)),
            room: wanted.room,
            id: wanted.id,
            data: wanted.data,
            offset,
        });
        None
    }

    fn connected(&mut self, now: u64, reply: Reply) -> Option<Wish> {
        let Some(result) = reply.connect else {
            let error = reply.error.unwrap_or_default();
            assert!(
                error.temporary || error.code == 109,
                "{}: {error:?}",
                self.user
            );
            if error.code == 109 {
                self.refused();
            }
            return Some(Wish::Reconnect);
        };
        self.lasts(now, None, result.expires, result.ttl);
        if std::mem::take(&mut self.joining) {
            assert!(result.subs.keys().eq(&self.sorted_rooms()));
        }
        for (room, sub) in result.subs {
            self.subscribed(now, room, &sub);
        }
        None
    }

    fn sorted_rooms(&self) -> Vec<String> {
        let mut rooms = self.rooms.clone();
        rooms.sort();
        rooms
    }

    fn subscribed(&mut self, now: u64, room: String, result: &SubscribeResult) {
        if result.was_recovering {
            // Such an owner has an older top than the client: it begins again from there, and is
            // sent the rest a second time.
            let had = self.positions.get(&room).map_or(0, |p| p.0);
            let older = self.contended && result.offset < had;
            assert!(
                result.recovered || older,
                "{}: {room} was not recovered at {now}: {had} of {}",
                self.user,
                result.offset
            );
        }
        if !result.recovered {
            self.positions
                .insert(room.clone(), (result.offset, result.epoch.clone()));
        }
        let known = self.positions.get(&room).map(|p| p.1.clone());
        assert_eq!(known.as_ref(), Some(&result.epoch), "the epoch of {room}");
        self.live.push(room.clone());
        for publication in &result.publications {
            self.publication(&room, publication);
        }
        if self.way == Way::Proven {
            self.lasts(now, Some(room), result.expires, result.ttl);
        }
        if !self.begins()
            && let Some(lost_at) = self.lost_at.take()
        {
            self.away_ms = self.away_ms.max(now - lost_at);
        }
    }

    fn publication(&mut self, room: &str, publication: &Publication) {
        assert!(
            self.live.iter().any(|r| r == room),
            "{}: a publication of {room} before its subscribe reply",
            self.user
        );
        let Some((position, _)) = self.positions.get_mut(room) else {
            panic!("{}: no position in {room}", self.user);
        };
        assert_eq!(
            publication.offset,
            *position + 1,
            "{}: {room} skips or repeats",
            self.user
        );
        *position = publication.offset;
        let data = String::from_utf8_lossy(&publication.data).into_owned();
        let received = self.received.entry(room.to_owned()).or_default();
        received.push((publication.offset, data));
    }
}
