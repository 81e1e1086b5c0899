//! The state of a shard's index: one small value for each shard, changed by every write to it, so
//! that of two writers one fails.

use gb6_core_model::Position;

/// The format that is written, and the newest that is read.
pub(crate) const FORMAT: u8 = 1;
const LEN: usize = 33;

/// How far the index of a shard is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Applied {
    /// Which entries are the index's: a clear begins a new generation, and what is left of old ones
    /// nobody sees. A timestamp of the cluster, so that none comes again, not even after this
    /// value was lost.
    pub(crate) generation: u64,
    /// The first position that is not in the index, for whoever has seen that the write which says so was
    /// made as a whole.
    pub(crate) position: Position,
    /// The same for all others: where that write began.
    pub(crate) from: Position,
    /// The start timestamp of the transaction that wrote this: no other transaction has it, so that
    /// whoever reads it back knows whether it was its own.
    pub(crate) writer: u64,
}

/// Why a value is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreadable {
    /// A newer program wrote it: the format's number.
    Newer(u8),
    Damaged,
}

impl Applied {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(FORMAT);
        for number in [self.generation, self.position, self.from, self.writer] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        match bytes.first() {
            Some(&FORMAT) if bytes.len() == LEN => {}
            Some(&format) if format > FORMAT => return Err(Unreadable::Newer(format)),
            _ => return Err(Unreadable::Damaged),
        }
        let number = |at: usize| {
            let word = bytes.get(at..).and_then(|b| b.first_chunk::<8>());
            word.map(|word| u64::from_be_bytes(*word))
                .ok_or(Unreadable::Damaged)
        };
        Ok(Self {
            generation: number(1)?,
            position: number(9)?,
            from: number(17)?,
            writer: number(25)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_newer_format_is_told_from_damage() {
        assert_eq!(Applied::decode(&[2, 0]), Err(Unreadable::Newer(2)));
        assert_eq!(Applied::decode(&[1, 0]), Err(Unreadable::Damaged));
        assert_eq!(Applied::decode(&[0; LEN]), Err(Unreadable::Damaged));
        assert_eq!(Applied::decode(&[]), Err(Unreadable::Damaged));
    }

    proptest! {
        #[test]
        fn what_is_written_comes_back(generation: u64, position: u64, from: u64, writer: u64) {
            let applied = Applied { generation, position, from, writer };
            prop_assert_eq!(Applied::decode(&applied.encode()), Ok(applied));
        }

        #[test]
        fn any_bytes_are_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(applied) = Applied::decode(&bytes) {
                prop_assert_eq!(applied.encode(), bytes);
            }
        }
    }
}
