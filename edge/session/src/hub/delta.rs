//! Deltas: what a publication is against the one before it, made once for a room and format.
//!
//! All subscribers of a room stand at one place, so that the publication which each of them was
//! handed last is the room's last one: there is one base. Who was not handed it (it came before the
//! subscription, or was not wanted) gets the next one whole.

use bytes::Bytes;
use gb6_core_wire::client::{Dialect, json_text_of};
use gb6_core_wire::fossil;
use gb6_core_wire::mesh::Publication;
use gb6_core_wire::record::flags;

use super::room::Room;

/// What subscribers with deltas were handed last. It shares its memory with the publication where
/// that is kept.
pub(super) struct Base {
    /// The number of the delivery, as [`Room::sent`] counts.
    at: u64,
    /// The data, for Protobuf.
    data: Bytes,
    /// The text of the data, for JSON: mostly the same bytes.
    text: Bytes,
}

impl Base {
    fn of(at: u64, publication: &Publication) -> Self {
        let data = publication.data.clone();
        let text = match json_text_of(&data, publication.content_type()) {
            std::borrow::Cow::Borrowed(text) if text.len() == data.len() => data.clone(),
            text => Bytes::copy_from_slice(text.as_bytes()),
        };
        Self { at, data, text }
    }

    /// Bytes of memory that it holds on to.
    fn bytes(&self) -> usize {
        match self.is_one() {
            true => self.data.len(),
            false => self.data.len() + self.text.len(),
        }
    }

    fn is_one(&self) -> bool {
        self.data.as_ptr() == self.text.as_ptr() && self.data.len() == self.text.len()
    }
}

/// The deltas of one publication, each made when the first subscriber needs it.
pub(super) struct Deltas<'a> {
    base: Option<&'a Base>,
    next: Base,
    data: Option<Option<Bytes>>,
    text: Option<Option<Bytes>>,
    made: u64,
}

impl<'a> Deltas<'a> {
    /// For the publication of delivery `at`, behind what `base` says was handed out last.
    pub(super) fn new(base: Option<&'a Base>, at: u64, publication: &Publication) -> Self {
        Self {
            base,
            next: Base::of(at, publication),
            data: None,
            text: None,
            made: 0,
        }
    }

    /// The delta for a subscriber that was handed everything behind delivery `since`; `None`: it
    /// has no base, or the whole is shorter.
    pub(super) fn get(&mut self, dialect: Dialect, since: u64) -> Option<Bytes> {
        let base = self.base.filter(|base| base.at > since)?;
        if dialect == Dialect::Protobuf {
            return self.data(base);
        }
        if let Some(made) = &self.text {
            return made.clone();
        }
        let made = match base.is_one() && self.next.is_one() {
            true => self.data(base),
            false => {
                self.made += 1;
                fossil::make(&base.text, &self.next.text).map(Bytes::from)
            }
        };
        // A JSON string can not carry a part of a character.
        let made = made.filter(|delta| std::str::from_utf8(delta).is_ok());
        self.text = Some(made.clone());
        made
    }

    fn data(&mut self, base: &Base) -> Option<Bytes> {
        if let Some(made) = &self.data {
            return made.clone();
        }
        self.made += 1;
        let made = fossil::make(&base.data, &self.next.data).map(Bytes::from);
        self.data.insert(made).clone()
    }

    /// The whole publication as JSON subscribers with deltas are told it.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.next.text).unwrap_or_default()
    }

    /// How many deltas were made.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// The base of the next publication.
    pub(super) fn into_base(self) -> Base {
        self.next
    }
}

impl<S> Room<S> {
    /// Bytes that the base of deltas holds on to.
    pub(super) fn base_bytes(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.bytes())
    }

    /// Keeps what was handed out last, within `bytes` of memory.
    // overflow: it is not kept, and the next publication is handed out whole.
    pub(super) fn keep_base(&mut self, base: Option<Base>, bytes: usize) {
        self.base = base.filter(|base| base.bytes() <= bytes).map(Box::new);
    }

    /// The recovered publications of one that subscribes now end with `last`: a base for it, if it
    /// is what the others were handed last. Returns the delivery behind which it was handed
    /// everything.
    pub(super) fn base_of_recovered(&mut self, last: Option<&Publication>, bytes: usize) -> u64 {
        let kept = |p: &&Publication| p.flags & flags::ERASED == 0 && p.offset == self.position;
        if let Some(last) = last.filter(kept) {
            if self.base.is_none() {
                self.keep_base(Some(Base::of(self.sent, last)), bytes);
            }
            if self.base.is_some() {
                return self.sent - 1;
            }
        }
        self.sent
    }
}
