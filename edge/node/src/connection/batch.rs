//! What a connection's task has taken to be written and has not yet written.

use std::collections::VecDeque;

use bytes::Bytes;

/// What stands around each unit of a framing. It is added when bytes are written, so that the unit
/// itself stays shared by everybody who is sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Envelope {
    /// Nothing: the unit says itself where it ends.
    #[default]
    Bare,
    /// A line: ends with a newline.
    Line,
    /// An event of an event stream (HTML Standard, section 9.2.5).
    Event,
}

impl Envelope {
    fn before(self) -> &'static [u8] {
        match self {
            Envelope::Bare | Envelope::Line => b"",
            Envelope::Event => b"data: ",
        }
    }

    fn after(self) -> &'static [u8] {
        match self {
            Envelope::Bare => b"",
            Envelope::Line => b"\n",
            Envelope::Event => b"\n\n",
        }
    }

    fn len(self) -> usize {
        self.before().len() + self.after().len()
    }
}

/// Units in order, each of which is written whole or, if it was not begun, can be dropped.
#[derive(Default)]
pub(crate) struct Batch {
    units: VecDeque<Bytes>,
    /// Bytes of the first unit that are written, its envelope's included.
    done: usize,
    /// Bytes of all units that are not written, with their envelopes.
    left: usize,
    envelope: Envelope,
}

impl Batch {
    /// Nothing yet; every unit will have this envelope.
    pub(crate) fn new(envelope: Envelope) -> Self {
        Self {
            envelope,
            ..Self::default()
        }
    }

    /// Puts a unit behind the others.
    pub(crate) fn push(&mut self, unit: Bytes) {
        self.left += unit.len() + self.envelope.len();
        self.units.push_back(unit);
    }

    /// Puts units behind the others.
    pub(crate) fn append(&mut self, mut units: VecDeque<Bytes>) {
        self.left += units.iter().map(Bytes::len).sum::<usize>();
        self.left += units.len() * self.envelope.len();
        if self.units.is_empty() {
            self.units = units;
        } else {
            self.units.append(&mut units);
        }
    }

    /// Whether everything is written.
    pub(crate) fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Bytes that are not written yet.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// What is left to write, piece by piece; none is empty.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (before, after) = (self.envelope.before(), self.envelope.after());
        let mut skip = self.done;
        self.units
            .iter()
            .flat_map(move |unit| [before, &unit[..], after])
            .filter_map(move |piece| {
                let rest = piece.get(skip..);
                skip = skip.saturating_sub(piece.len());
                rest.filter(|rest| !rest.is_empty())
            })
    }

    /// Forgets the first `n` bytes: they are written. Memory goes back when nothing is left.
    pub(crate) fn advance(&mut self, mut n: usize) {
        self.left = self.left.saturating_sub(n);
        while let Some(front) = self.units.front() {
            let rest = front.len() + self.envelope.len() - self.done;
            if n < rest {
                self.done += n;
                return;
            }
            n -= rest;
            self.done = 0;
            self.units.pop_front();
        }
        self.units = VecDeque::new();
    }

    /// Drops every unit of which nothing is written yet: what is half written must be finished,
    /// or nothing could follow it.
    pub(crate) fn keep_half_written(&mut self) {
        let half = if self.done > 0 {
            self.units.pop_front()
        } else {
            None
        };
        let whole = |unit: &Bytes| unit.len() + self.envelope.len();
        self.left = half.as_ref().map_or(0, |unit| whole(unit) - self.done);
        self.units = half.into_iter().collect();
    }

    /// Memory that is kept for units, as a count of them.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.units.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(batch: &Batch) -> Vec<u8> {
        batch.pieces().flatten().copied().collect()
    }

    #[test]
    fn envelopes_stand_around_each_unit_and_are_counted() {
        for (envelope, want) in [
            (Envelope::Bare, &b"onetwo"[..]),
            (Envelope::Line, b"one\ntwo\n"),
            (Envelope::Event, b"data: one\n\ndata: two\n\n"),
        ] {
            // However the bytes leave, the same ones do.
            for step in 1..=want.len() {
                let mut batch = Batch::new(envelope);
                batch.push(Bytes::from_static(b"one"));
                batch.append(VecDeque::from([Bytes::from_static(b"two")]));
                let mut written = Vec::new();
                while !batch.is_empty() {
                    let all = rest(&batch);
                    assert_eq!(all.len(), batch.left());
                    let n = step.min(all.len());
                    written.extend_from_slice(&all[..n]);
                    batch.advance(n);
                }
                assert_eq!(written, want, "{envelope:?} in steps of {step}");
                assert_eq!((batch.left(), batch.capacity()), (0, 0));
            }
        }
    }

    #[test]
    fn a_unit_that_was_begun_is_finished_with_its_envelope() {
        let mut batch = Batch::new(Envelope::Event);
        batch.push(Bytes::from_static(b"one"));
        batch.push(Bytes::from_static(b"two"));
        batch.advance(8);
        batch.keep_half_written();
        batch.push(Bytes::from_static(b"end"));
        assert_eq!(rest(&batch), b"e\n\ndata: end\n\n");
        assert_eq!(batch.left(), rest(&batch).len());
        batch.advance(3);
        batch.keep_half_written();
        assert!(batch.is_empty());
        assert_eq!(batch.left(), 0);
    }
}
