//! Consumers of the log: their stored positions, which retention waits for up to a bound.

use std::collections::BTreeMap;
use std::fmt::Write;

use gb6_core_model::Position;
use gb6_core_ports::{ConsumerState, StoreError};

use crate::vfs::{Named, Vfs, read_file, replace_file};

const FILE: &str = "consumers";
const FIRST_LINE: &str = "gb6 consumers 1";
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const CONSUMERS_MAX: usize = 256;
/// The name of an instance and what it consumes for.
const NAME_BYTES_MAX: usize = 127;

/// The consumers of one log, in memory as in the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumers(BTreeMap<String, (Position, bool)>);

impl Consumers {
    pub(crate) fn load<V: Vfs>(vfs: &V) -> Result<Self, StoreError> {
        if !vfs.exists(FILE).named(vfs, "look for", FILE)? {
            return Ok(Self::default());
        }
        let bytes = read_file(vfs, FILE, FILE_BYTES_MAX)?;
        Self::decode(&bytes).ok_or_else(|| StoreError::Corrupt {
            segment: vfs.path(FILE),
            byte: 0,
            position: 0,
            detail: "the list of consumers is damaged: remove the file, consumers then register \
                     again and start from a snapshot"
                .into(),
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (body, last) = text.trim_end().rsplit_once('\n')?;
        let crc = u32::from_str_radix(last.strip_prefix("crc ")?, 16).ok()?;
        if crc32c::crc32c(body.as_bytes()) != crc {
            return None;
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut all = BTreeMap::new();
        for line in lines {
            let mut fields = line.split(' ');
            let (name, position, state) = (fields.next()?, fields.next()?, fields.next()?);
            all.insert(name.to_owned(), (position.parse().ok()?, state == "lapsed"));
        }
        Some(Self(all))
    }

    fn encode(&self) -> String {
        let mut text = FIRST_LINE.to_owned();
        for (name, (position, lapsed)) in &self.0 {
            let state = if *lapsed { "lapsed" } else { "live" };
            // Writing to a String never fails.
            let _ = write!(text, "\n{name} {position} {state}");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "\ncrc {crc:08x}");
        text
    }

    fn save<V: Vfs>(&self, vfs: &V) -> Result<(), StoreError> {
        replace_file(vfs, FILE, self.encode().as_bytes())
    }

    /// Stores `next` and becomes it.
    fn become_stored<V: Vfs>(&mut self, vfs: &V, next: Self) -> Result<(), StoreError> {
        next.save(vfs)?;
        *self = next;
        Ok(())
    }

    pub(crate) fn register<V: Vfs>(
        &mut self,
        vfs: &V,
        name: &str,
        position: Position,
    ) -> Result<ConsumerState, StoreError> {
        let valid = (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !valid {
            return Err(StoreError::Conflict {
                what: format!(
                    "{name:?} is no consumer's name: 1 to {NAME_BYTES_MAX} of [A-Za-z0-9._-]"
                ),
            });
        }
        let stored = self.0.get(name).copied();
        let state = match stored {
            Some((position, false)) => position,
            _ if self.0.len() >= CONSUMERS_MAX && stored.is_none() => {
                return Err(StoreError::Conflict {
                    what: format!("the log has {CONSUMERS_MAX} consumers already"),
                });
            }
            _ => {
                let mut next = self.clone();
                next.0.insert(name.to_owned(), (position, false));
                self.become_stored(vfs, next)?;
                position
            }
        };
        Ok(ConsumerState {
            name: name.to_owned(),
            position: state,
            lapsed: false,
        })
    }

    pub(crate) fn set<V: Vfs>(
        &mut self,
        vfs: &V,
        name: &str,
        position: Position,
    ) -> Result<(), StoreError> {
        match self.0.get(name) {
            Some((stored, false)) if position <= *stored => Ok(()),
            Some((_, false)) => {
                let mut next = self.clone();
                next.0.insert(name.to_owned(), (position, false));
                self.become_stored(vfs, next)
            }
            Some((_, true)) => Err(StoreError::Conflict {
                what: format!("consumer {name} has lapsed: register it again from a snapshot"),
            }),
            None => Err(StoreError::Conflict {
                what: format!("consumer {name} is not registered"),
            }),
        }
    }

    pub(crate) fn remove<V: Vfs>(&mut self, vfs: &V, name: &str) -> Result<(), StoreError> {
        if !self.0.contains_key(name) {
            return Ok(());
        }
        let mut next = self.clone();
        next.0.remove(name);
        self.become_stored(vfs, next)
    }

    /// Marks those as lapsed that are behind by more than `bound` bytes.
    pub(crate) fn lapse<V: Vfs>(
        &mut self,
        vfs: &V,
        bound: u64,
        bytes_behind: impl Fn(Position) -> u64,
    ) -> Result<(), StoreError> {
        let mut next = self.clone();
        let mut changed = false;
        for (position, lapsed) in next.0.values_mut() {
            if !*lapsed && bytes_behind(*position) > bound {
                *lapsed = true;
                changed = true;
            }
        }
        if changed {
            self.become_stored(vfs, next)?;
        }
        Ok(())
    }

    /// The position that retention may not pass.
    pub(crate) fn held(&self) -> Option<Position> {
        let live = self.0.values().filter(|(_, lapsed)| !lapsed);
        live.map(|(position, _)| *position).min()
    }

    pub(crate) fn all(&self) -> Vec<ConsumerState> {
        self.0
            .iter()
            .map(|(name, (position, lapsed))| ConsumerState {
                name: name.clone(),
                position: *position,
                lapsed: *lapsed,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads_back_and_damage_is_seen() {
        let mut consumers = Consumers::default();
        consumers.0.insert("search".into(), (7, false));
        consumers.0.insert("archive".into(), (9, true));
        let text = consumers.encode();
        assert_eq!(Consumers::decode(text.as_bytes()).unwrap().0, consumers.0);
        for i in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[i] ^= 1;
            assert!(Consumers::decode(&bytes).is_none(), "byte {i}");
        }
    }
}
