//! Encoding once per form: dialect, number or name of the channel, and whole or as a difference.
//! Transports of one direction cut the bare push out of the same bytes.

use bytes::Bytes;
use gb6_core_wire::client::{self, ChannelRef, Dialect, Event, PublicationData};

/// The form of one subscriber's pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Form {
    pub(super) dialect: Dialect,
    /// Whether the channel's number stands for its name.
    pub(super) compact: bool,
}

/// Forms that there are, times the three ways of telling data.
const KEYS: usize = 2 * 2 * 3;

/// The frames of one event, each made when the first subscriber of its form needs it.
pub(super) struct Frames<'a> {
    channel: &'a str,
    number: i64,
    made: [Option<Bytes>; KEYS],
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

    /// The frame of `event`, which is the same event in every call.
    pub(super) fn get(&mut self, form: Form, event: Event<'_>) -> Bytes {
        let told = match event {
            Event::Publication(_, PublicationData::Whole(_)) => 1,
            Event::Publication(_, PublicationData::Delta(_)) => 2,
            _ => 0,
        };
        let bit = |set: bool| usize::from(set);
        let key = (told * 2 + bit(form.compact)) * 2 + bit(form.dialect == Dialect::Protobuf);
        let channel = match form.compact {
            true => ChannelRef::Id(self.number),
            false => ChannelRef::Name(self.channel),
        };
        let frame = &mut self.made[key];
        frame
            .get_or_insert_with(|| client::encode_live(form.dialect, channel, event))
            .clone()
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
