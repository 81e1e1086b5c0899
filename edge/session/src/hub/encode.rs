//! Encoding once per form: dialect, number or name of the channel, and whole or as a difference.
//! Transports of one direction cut the bare push out of the same bytes.

use bytes::Bytes;
use gb6_core_wire::client::{self, ChannelRef, Dialect, Event, LiveFrame};

/// The form of one subscriber's pushes, as the lowest bits of a place among [`Frames`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Form(u8);

const PROTOBUF: u8 = 1;
/// The channel's number stands for its name.
const COMPACT: u8 = 2;
/// Forms that there are.
const FORMS: usize = 4;

impl Form {
    pub(super) fn new(dialect: Dialect, compact: bool) -> Self {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        Self(bit(dialect == Dialect::Protobuf, PROTOBUF) | bit(compact, COMPACT))
    }

    pub(super) fn dialect(self) -> Dialect {
        match self.0 & PROTOBUF {
            0 => Dialect::Json,
            _ => Dialect::Protobuf,
        }
    }

    pub(super) fn is_compact(self) -> bool {
        self.0 & COMPACT != 0
    }
}

/// How an event is told to one that has this form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// As it is.
    Plain,
    /// Whole, where differences are told.
    Whole,
    /// As a difference.
    Delta,
}

/// The frames of one event, each made when the first subscriber of its form needs it.
pub(super) struct Frames<'a> {
    channel: &'a str,
    number: i64,
    made: [Option<Bytes>; FORMS * 3],
}

impl<'a> Frames<'a> {
    /// For an event in this channel, which has this number.
    pub(super) fn new(channel: &'a str, number: i64) -> Self {
        Self {
            channel,
            number,
            made: Default::default(),
        }
    }

    /// The frame of the event, which is the same in every call that tells it so. Once for every
    /// subscriber: what was made before costs a look and a count.
    #[inline]
    pub(super) fn get<'e>(
        &mut self,
        form: Form,
        told: Told,
        event: impl FnOnce() -> Event<'e>,
    ) -> Bytes {
        let key = told as usize * FORMS + usize::from(form.0);
        match self.made.get(key) {
            Some(Some(frame)) => frame.clone(),
            _ => self.make(key, form, event()),
        }
    }

    #[cold]
    fn make(&mut self, key: usize, form: Form, event: Event<'_>) -> Bytes {
        let channel = match form.is_compact() {
            true => ChannelRef::Id(self.number),
            false => ChannelRef::Name(self.channel),
        };
        let frame = client::encode_live(form.dialect(), channel, event);
        if let Some(place) = self.made.get_mut(key) {
            *place = Some(frame.clone());
        }
        frame
    }

    /// Bytes of the longest.
    pub(super) fn longest(&self) -> usize {
        let made = self.made.iter().flatten();
        made.map(Bytes::len).max().unwrap_or(0)
    }

    /// How many were made.
    pub(super) fn made(&self) -> u64 {
        self.made.iter().flatten().count() as u64
    }
}

/// What followers of several prefixes are told of one publication. It is encoded once for each dialect,
/// however many prefixes its channel has; each further one costs a copy behind its own name.
pub(super) struct PrefixFrames<'e> {
    event: Event<'e>,
    /// By dialect, as it was encoded for the first prefix.
    encoded: [Option<LiveFrame>; 2],
}

/// The frames of one prefix, by dialect.
pub(super) type OfPrefix = [Option<Bytes>; 2];

impl<'e> PrefixFrames<'e> {
    pub(super) fn new(event: Event<'e>) -> Self {
        Self {
            event,
            encoded: [None, None],
        }
    }

    /// The frame for the subscribers of this dialect that follow `prefix`, of which `made` has what was
    /// made before.
    pub(super) fn get(&mut self, made: &mut OfPrefix, dialect: Dialect, prefix: &str) -> Bytes {
        let ([made_json, made_protobuf], [json, protobuf]) = (made, &mut self.encoded);
        let (made, encoded) = match dialect {
            Dialect::Json => (made_json, json),
            Dialect::Protobuf => (made_protobuf, protobuf),
        };
        let frame = made.get_or_insert_with(|| match encoded {
            Some(encoded) => encoded.in_channel(prefix),
            None => {
                let first = LiveFrame::new(dialect, prefix, self.event);
                encoded.insert(first).frame()
            }
        });
        frame.clone()
    }

    /// How often it was encoded.
    pub(super) fn made(&self) -> u64 {
        self.encoded.iter().flatten().count() as u64
    }
}
