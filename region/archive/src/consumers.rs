//! The consumers of a log and the rules of their positions, which retention waits for up to a bound.
//! The text that they are stored as is described in `docs/log-format.md`.

use std::collections::BTreeMap;
use std::fmt::Write;

use gb6_core_model::Position;
use gb6_core_ports::{ConsumerState, StoreError};

const FIRST_LINE: &str = "gb6 consumers 1";
/// Largest text in bytes.
pub const CONSUMERS_BYTES_MAX: u64 = 1024 * 1024;
const CONSUMERS_MAX: usize = 256;
/// The name of an instance and what it consumes for.
const NAME_BYTES_MAX: usize = 127;

/// The consumers of one log. What changes them answers how they would be then: whoever stores them
/// goes on with that once it is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Consumers(BTreeMap<String, (Position, bool)>);

impl Consumers {
    /// Reads the text; `None` where it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
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

    /// Their text.
    pub fn encode(&self) -> String {
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

    fn with(&self, name: &str, position: Position) -> Self {
        let mut next = self.clone();
        next.0.insert(name.to_owned(), (position, false));
        next
    }

    /// Registers a consumer at `position`, or finds it; a lapsed one begins again.
    ///
    /// # Errors
    /// `Conflict`: the name is none, or there are too many.
    pub fn register(
        &self,
        name: &str,
        position: Position,
    ) -> Result<(ConsumerState, Option<Self>), StoreError> {
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
        let (position, next) = match stored {
            Some((position, false)) => (position, None),
            _ if self.0.len() >= CONSUMERS_MAX && stored.is_none() => {
                return Err(StoreError::Conflict {
                    what: format!("the log has {CONSUMERS_MAX} consumers already"),
                });
            }
            _ => (position, Some(self.with(name, position))),
        };
        let state = ConsumerState {
            name: name.to_owned(),
            position,
            lapsed: false,
        };
        Ok((state, next))
    }

    /// Sets a consumer's position; `None` where nothing changes, because it never goes back.
    ///
    /// # Errors
    /// `Conflict`: it is not registered, or has lapsed.
    pub fn set(&self, name: &str, position: Position) -> Result<Option<Self>, StoreError> {
        match self.0.get(name) {
            Some((stored, false)) if position <= *stored => Ok(None),
            Some((_, false)) => Ok(Some(self.with(name, position))),
            Some((_, true)) => Err(StoreError::Conflict {
                what: format!("consumer {name} has lapsed: register it again from a snapshot"),
            }),
            None => Err(StoreError::Conflict {
                what: format!("consumer {name} is not registered"),
            }),
        }
    }

    /// Sets the positions of several, as [`Consumers::set`] does; with them, the names of those that are
    /// not registered or have lapsed, which are left as they are.
    pub fn set_all(&self, positions: &[(String, Position)]) -> (Option<Self>, Vec<String>) {
        let (mut next, mut refused) = (None::<Self>, Vec::new());
        for (name, position) in positions {
            match next.as_ref().unwrap_or(self).set(name, *position) {
                Ok(None) => {}
                Ok(changed) => next = changed,
                Err(_) => refused.push(name.clone()),
            }
        }
        (next, refused)
    }

    /// The same, none ahead of `end`: for a log that lost what lay behind.
    pub fn not_ahead_of(&self, end: Position) -> Self {
        let mut all = self.clone();
        for (position, _) in all.0.values_mut() {
            *position = (*position).min(end);
        }
        all
    }

    /// Forgets a consumer; `None` where it is not known.
    pub fn remove(&self, name: &str) -> Option<Self> {
        let mut next = self.clone();
        next.0.remove(name).map(|_| next)
    }

    /// Marks those as lapsed that are behind by more than `bound` bytes; `None` where nothing changes.
    pub fn lapse(&self, bound: u64, bytes_behind: impl Fn(Position) -> u64) -> Option<Self> {
        let mut next = self.clone();
        let mut changed = false;
        for (position, lapsed) in next.0.values_mut() {
            if !*lapsed && bytes_behind(*position) > bound {
                *lapsed = true;
                changed = true;
            }
        }
        changed.then_some(next)
    }

    /// The position that retention may not pass.
    pub fn held(&self) -> Option<Position> {
        let live = self.0.values().filter(|(_, lapsed)| !lapsed);
        live.map(|(position, _)| *position).min()
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<ConsumerState> {
        self.0
            .iter()
            .map(|(name, (position, lapsed))| ConsumerState {
                name: name.clone(),
                position: *position,
                lapsed: *lapsed,
            })
            .collect()
    }

    /// The names of those that a trim to `to` waits for.
    pub fn waits_for(&self, to: Position) -> Vec<String> {
        let behind =
            |(_, (position, lapsed)): &(&String, &(Position, bool))| !*lapsed && *position < to;
        let waiting = self.0.iter().filter(behind);
        waiting.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_reads_back_and_damage_is_seen() {
        let consumers = Consumers::default();
        let (_, next) = consumers.register("search", 7).unwrap();
        let (_, next) = next.unwrap().register("archive", 9).unwrap();
        let consumers = next.unwrap().lapse(0, |p| u64::from(p == 9)).unwrap();
        let text = consumers.encode();
        assert_eq!(Consumers::decode(text.as_bytes()), Some(consumers));
        for i in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[i] ^= 1;
            assert!(Consumers::decode(&bytes).is_none(), "byte {i}");
        }
    }
}
