//! Live events on their way to every subscriber of a room: from the mesh's bytes straight to one
//! complete WebSocket frame per dialect. This is the hot path of fan-out: one buffer, nothing
//! cloned on the way into it.

use bytes::{BufMut as _, Bytes};
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::Dialect;
use super::frame::{frame_payload, websocket_frame_with};
use super::json_write::{Object, object, string};
use crate::mesh;
use crate::record::ContentType;

/// Field numbers of the schema on this path.
mod field {
    pub(super) const REPLY_PUSH: u32 = 4;
    pub(super) const PUSH_ID: u32 = 1;
    pub(super) const PUSH_CHANNEL: u32 = 2;
    pub(super) const PUSH_PUB: u32 = 4;
    pub(super) const PUSH_JOIN: u32 = 5;
    pub(super) const PUSH_LEAVE: u32 = 6;
    pub(super) const EVENT_INFO: u32 = 1;
    pub(super) const INFO_USER: u32 = 1;
    pub(super) const INFO_CLIENT: u32 = 2;
    pub(super) const INFO_CONN: u32 = 3;
    pub(super) const INFO_CHAN: u32 = 4;
    pub(super) const PUB_DATA: u32 = 4;
    pub(super) const PUB_INFO: u32 = 5;
    pub(super) const PUB_OFFSET: u32 = 6;
    pub(super) const PUB_TAGS: u32 = 7;
    pub(super) const PUB_DELTA: u32 = 8;
    pub(super) const PUB_TIME: u32 = 9;
    pub(super) const PUB_CHANNEL: u32 = 10;
}

/// How a push names its channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelRef<'a> {
    /// By its full name.
    Name(&'a str),
    /// By the number that was granted in the subscribe result (channel compaction).
    Id(i64),
}

impl<'a> From<&'a str> for ChannelRef<'a> {
    fn from(name: &'a str) -> Self {
        ChannelRef::Name(name)
    }
}

/// What a push is about.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A publication, with its data as the subscription has them.
    Publication(&'a mesh::Publication, PublicationData<'a>),
    /// A publication in the channel of this name, told to a subscription that stands for many: that
    /// one's name is the push's.
    OfPrefix(&'a mesh::Publication, &'a str),
    /// Somebody came.
    Join(&'a mesh::Person),
    /// Somebody left.
    Leave(&'a mesh::Person),
}

/// How a publication's data are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublicationData<'a> {
    /// As they are.
    Plain,
    /// Whole, in a subscription with deltas: in JSON this text ([`super::json_text_of`]) as a
    /// string, in Protobuf as they are.
    Whole(&'a str),
    /// The difference to what the subscriber was told before: in JSON this text as a string, in
    /// Protobuf these bytes. Text where the dialect is JSON; else nothing is told.
    Delta(&'a [u8]),
}

/// A complete WebSocket frame with the push of a publication.
pub fn encode_publication_push<'a>(
    dialect: Dialect,
    channel: impl Into<ChannelRef<'a>>,
    publication: &mesh::Publication,
) -> Bytes {
    let event = Event::Publication(publication, PublicationData::Plain);
    encode_live(dialect, channel.into(), event)
}

/// A complete WebSocket frame with the push that somebody came.
pub fn encode_join_push<'a>(
    dialect: Dialect,
    channel: impl Into<ChannelRef<'a>>,
    person: &mesh::Person,
) -> Bytes {
    encode_live(dialect, channel.into(), Event::Join(person))
}

/// A complete WebSocket frame with the push that somebody left.
pub fn encode_leave_push<'a>(
    dialect: Dialect,
    channel: impl Into<ChannelRef<'a>>,
    person: &mesh::Person,
) -> Bytes {
    encode_live(dialect, channel.into(), Event::Leave(person))
}

/// A complete WebSocket frame with the push of an event.
pub fn encode_live(dialect: Dialect, channel: ChannelRef<'_>, event: Event<'_>) -> Bytes {
    match dialect {
        Dialect::Json => websocket_frame_with(dialect, json_estimate(channel, event), |out| {
            object(out, |o| o.object("push", |o| json_push(channel, event, o)));
        }),
        Dialect::Protobuf => protobuf_push(channel, event_len(event), |out| put_event(event, out)),
    }
}

/// The push of an event in a channel with a name, from which those of the same event in other channels
/// are made by a copy: what is behind the name is encoded once.
#[derive(Clone, Debug)]
pub struct LiveFrame {
    dialect: Dialect,
    frame: Bytes,
    /// How many bytes at the end of `frame` are the same in every channel.
    tail: usize,
}

impl LiveFrame {
    /// Encodes the push in this channel, whose name is not empty.
    pub fn new(dialect: Dialect, channel: &str, event: Event<'_>) -> Self {
        let frame = encode_live(dialect, ChannelRef::Name(channel), event);
        let tail = match dialect {
            Dialect::Json => {
                let head = json_head(channel).len();
                frame_payload(&frame).len().saturating_sub(head)
            }
            Dialect::Protobuf => event_len(event),
        };
        Self {
            dialect,
            frame,
            tail,
        }
    }

    /// The complete WebSocket frame.
    pub fn frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// The complete WebSocket frame with the push of the same event in another channel, whose name is
    /// not empty: what [`encode_live`] makes of it.
    pub fn in_channel(&self, channel: &str) -> Bytes {
        let tail = self.frame.len().saturating_sub(self.tail);
        let tail = self.frame.get(tail..).unwrap_or_default();
        match self.dialect {
            Dialect::Json => {
                let head = json_head(channel);
                websocket_frame_with(self.dialect, head.len() + tail.len(), |out| {
                    out.extend_from_slice(&head);
                    out.extend_from_slice(tail);
                })
            }
            Dialect::Protobuf => {
                let channel = ChannelRef::Name(channel);
                protobuf_push(channel, tail.len(), |out| out.extend_from_slice(tail))
            }
        }
    }
}

/// A complete WebSocket frame with a push in Protobuf whose event has so many bytes.
fn protobuf_push(
    channel: ChannelRef<'_>,
    event: usize,
    put_event: impl FnOnce(&mut Vec<u8>),
) -> Bytes {
    let push = channel_len(channel) + event;
    let reply = nested_len(field::REPLY_PUSH, push);
    let total = encoded_len_varint(reply as u64) + reply;
    websocket_frame_with(Dialect::Protobuf, total, |out| {
        encode_varint(reply as u64, out);
        begin(field::REPLY_PUSH, push, out);
        put_channel(channel, out);
        put_event(out);
    })
}

// JSON.

/// What a push in JSON begins with: all up to the end of its channel's name.
fn json_head(channel: &str) -> Vec<u8> {
    let mut head = b"{\"push\":{\"channel\":".to_vec();
    string(&mut head, channel);
    head
}

/// Bytes that the frame will have if nothing needs escaping and the data is JSON.
fn json_estimate(channel: ChannelRef<'_>, event: Event<'_>) -> usize {
    let name = match channel {
        ChannelRef::Name(name) => name.len(),
        ChannelRef::Id(_) => 20,
    };
    let person = |p: &mesh::Person| {
        64 + p.user.len() + p.client.len() + p.conn_info.len() + p.chan_info.len()
    };
    let event = match event {
        Event::Join(p) | Event::Leave(p) => person(p),
        Event::Publication(p, data) => {
            let tags: usize = p.tags.iter().map(|(k, v)| k.len() + v.len() + 6).sum();
            let data = match data {
                PublicationData::Plain => p.data.len(),
                PublicationData::Whole(text) => text.len() + text.len() / 4,
                PublicationData::Delta(delta) => 16 + delta.len() + delta.len() / 4,
            };
            96 + data + tags + p.from.as_ref().map_or(0, person)
        }
        Event::OfPrefix(p, channel) => {
            let plain = Event::Publication(p, PublicationData::Plain);
            return json_estimate(ChannelRef::Name(channel), plain) + name;
        }
    };
    64 + name + event
}

fn json_push(channel: ChannelRef<'_>, event: Event<'_>, o: &mut Object<'_>) {
    match channel {
        ChannelRef::Name(name) => o.text("channel", name),
        ChannelRef::Id(id) => o.number("id", id),
    }
    match event {
        Event::Publication(p, data) => o.object("pub", |o| json_publication(p, data, o)),
        Event::OfPrefix(p, channel) => o.object("pub", |o| {
            json_publication(p, PublicationData::Plain, o);
            o.text("channel", channel);
        }),
        Event::Join(p) => o.object("join", |o| o.object("info", |o| json_person(p, o))),
        Event::Leave(p) => o.object("leave", |o| o.object("info", |o| json_person(p, o))),
    }
}

fn json_publication(p: &mesh::Publication, data: PublicationData<'_>, o: &mut Object<'_>) {
    match data {
        PublicationData::Plain => o.data("data", &p.data, p.content_type()),
        PublicationData::Whole(text) => o.text_always("data", text),
        PublicationData::Delta(delta) => {
            o.text_always("data", std::str::from_utf8(delta).unwrap_or_default());
        }
    }
    if let Some(from) = &p.from {
        o.object("info", |o| json_person(from, o));
    }
    o.number("offset", p.offset);
    o.texts("tags", &p.tags);
    o.flag("delta", matches!(data, PublicationData::Delta(_)));
    o.number("time", p.time);
}

fn json_person(person: &mesh::Person, o: &mut Object<'_>) {
    o.text("user", &person.user);
    o.text("client", &person.client);
    o.data("conn_info", &person.conn_info, ContentType::Unspecified);
    o.data("chan_info", &person.chan_info, ContentType::Unspecified);
}

// Protobuf. Every length is known before the first byte is written.

/// Bytes of a length-delimited field with `content` bytes in it.
fn nested_len(number: u32, content: usize) -> usize {
    key_len(number) + encoded_len_varint(content as u64) + content
}

/// The same, left out when it is empty.
fn bytes_len(number: u32, content: &[u8]) -> usize {
    if content.is_empty() {
        0
    } else {
        nested_len(number, content.len())
    }
}

fn varint_len(number: u32, value: u64) -> usize {
    if value == 0 {
        0
    } else {
        key_len(number) + encoded_len_varint(value)
    }
}

fn begin(number: u32, content: usize, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content as u64, out);
}

fn put_bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    if !content.is_empty() {
        begin(number, content.len(), out);
        out.put_slice(content);
    }
}

fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(number, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn channel_len(channel: ChannelRef<'_>) -> usize {
    match channel {
        ChannelRef::Name(name) => bytes_len(field::PUSH_CHANNEL, name.as_bytes()),
        ChannelRef::Id(id) => varint_len(field::PUSH_ID, id as u64),
    }
}

fn put_channel(channel: ChannelRef<'_>, out: &mut Vec<u8>) {
    match channel {
        ChannelRef::Name(name) => put_bytes(field::PUSH_CHANNEL, name.as_bytes(), out),
        ChannelRef::Id(id) => put_varint(field::PUSH_ID, id as u64, out),
    }
}

fn event_len(event: Event<'_>) -> usize {
    match event {
        Event::Publication(p, data) => nested_len(field::PUSH_PUB, publication_len(p, data)),
        Event::OfPrefix(p, channel) => nested_len(field::PUSH_PUB, of_prefix_len(p, channel)),
        Event::Join(p) => nested_len(
            field::PUSH_JOIN,
            nested_len(field::EVENT_INFO, person_len(p)),
        ),
        Event::Leave(p) => nested_len(
            field::PUSH_LEAVE,
            nested_len(field::EVENT_INFO, person_len(p)),
        ),
    }
}

fn put_event(event: Event<'_>, out: &mut Vec<u8>) {
    match event {
        Event::Publication(p, data) => {
            begin(field::PUSH_PUB, publication_len(p, data), out);
            put_publication(p, data, out);
        }
        Event::OfPrefix(p, channel) => {
            begin(field::PUSH_PUB, of_prefix_len(p, channel), out);
            put_publication(p, PublicationData::Plain, out);
            put_bytes(field::PUB_CHANNEL, channel.as_bytes(), out);
        }
        Event::Join(p) => {
            let info = nested_len(field::EVENT_INFO, person_len(p));
            begin(field::PUSH_JOIN, info, out);
            put_person(field::EVENT_INFO, p, out);
        }
        Event::Leave(p) => {
            let info = nested_len(field::EVENT_INFO, person_len(p));
            begin(field::PUSH_LEAVE, info, out);
            put_person(field::EVENT_INFO, p, out);
        }
    }
}

/// The bytes that stand for a publication's data, and whether they are a delta.
fn protobuf_data<'a>(p: &'a mesh::Publication, data: PublicationData<'a>) -> (&'a [u8], u64) {
    match data {
        PublicationData::Plain | PublicationData::Whole(_) => (&p.data, 0),
        PublicationData::Delta(delta) => (delta, 1),
    }
}

fn publication_len(p: &mesh::Publication, data: PublicationData<'_>) -> usize {
    let info = |person| nested_len(field::PUB_INFO, person_len(person));
    let (data, delta) = protobuf_data(p, data);
    bytes_len(field::PUB_DATA, data)
        + varint_len(field::PUB_DELTA, delta)
        + p.from.as_ref().map_or(0, info)
        + varint_len(field::PUB_OFFSET, p.offset)
        + tags_len(p)
        + varint_len(field::PUB_TIME, p.time as u64)
}

fn of_prefix_len(p: &mesh::Publication, channel: &str) -> usize {
    publication_len(p, PublicationData::Plain) + bytes_len(field::PUB_CHANNEL, channel.as_bytes())
}

fn put_publication(p: &mesh::Publication, data: PublicationData<'_>, out: &mut Vec<u8>) {
    let (data, delta) = protobuf_data(p, data);
    put_bytes(field::PUB_DATA, data, out);
    if let Some(from) = &p.from {
        put_person(field::PUB_INFO, from, out);
    }
    put_varint(field::PUB_OFFSET, p.offset, out);
    encoding::btree_map::encode(
        encoding::string::encode,
        encoding::string::encoded_len,
        encoding::string::encode,
        encoding::string::encoded_len,
        field::PUB_TAGS,
        &p.tags,
        out,
    );
    put_varint(field::PUB_DELTA, delta, out);
    put_varint(field::PUB_TIME, p.time as u64, out);
}

fn tags_len(p: &mesh::Publication) -> usize {
    encoding::btree_map::encoded_len(
        encoding::string::encoded_len,
        encoding::string::encoded_len,
        field::PUB_TAGS,
        &p.tags,
    )
}

fn person_len(p: &mesh::Person) -> usize {
    bytes_len(field::INFO_USER, p.user.as_bytes())
        + bytes_len(field::INFO_CLIENT, p.client.as_bytes())
        + bytes_len(field::INFO_CONN, &p.conn_info)
        + bytes_len(field::INFO_CHAN, &p.chan_info)
}

fn put_person(number: u32, p: &mesh::Person, out: &mut Vec<u8>) {
    begin(number, person_len(p), out);
    put_bytes(field::INFO_USER, p.user.as_bytes(), out);
    put_bytes(field::INFO_CLIENT, p.client.as_bytes(), out);
    put_bytes(field::INFO_CONN, &p.conn_info, out);
    put_bytes(field::INFO_CHAN, &p.chan_info, out);
}
