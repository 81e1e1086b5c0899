//! Prefixes of channel names: what one is, and a map from prefixes to values that finds every prefix
//! of a name.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::{Channel, limits};

/// What ends a channel name that stands for every channel beginning like it.
pub const MARK: char = '*';

/// Why a name stands for no prefix, where it would have to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixError {
    /// Less than [`limits::PREFIX_BYTES_MIN`] bytes stand between the namespace and the mark, or the
    /// namespace is not complete.
    #[error(
        "a prefix has a whole namespace and at least {} bytes behind it",
        limits::PREFIX_BYTES_MIN
    )]
    Short,
    /// There is another mark in it.
    #[error("a prefix has one `*`, at its end")]
    Mark,
    /// It begins with `$` or `!`, or has a `#`: such channels are no prefix's.
    #[error(
        "channels for certain users or tokens, and the server's own, are followed by no prefix"
    )]
    Reserved,
}

/// The prefix that `name` stands for: what is before its `*`.
///
/// # Errors
/// It ends in `*` and stands for none. Of a name that does not end in `*` the answer is `None`.
pub fn prefix_of(name: &str) -> Option<Result<&str, PrefixError>> {
    let prefix = name.strip_suffix(MARK)?;
    Some(checked(prefix).map(|()| prefix))
}

/// Whether `prefix` is one, without its mark.
///
/// # Errors
/// Why it is none.
pub fn checked(prefix: &str) -> Result<(), PrefixError> {
    if prefix.starts_with(['$', '!']) || prefix.contains('#') {
        return Err(PrefixError::Reserved);
    }
    if prefix.contains(MARK) {
        return Err(PrefixError::Mark);
    }
    let named = prefix.split_once(':');
    match named.is_some_and(|(_, rest)| rest.len() >= limits::PREFIX_BYTES_MIN) {
        // With its mark it is a channel name: as long as one, and of the same characters.
        true if Channel::parse(prefix).is_ok() && prefix.len() < limits::CHANNEL_BYTES_MAX => {
            Ok(())
        }
        _ => Err(PrefixError::Short),
    }
}

/// Whether the channels of a prefix include one of this name at all: lists of users stand for their
/// users alone.
pub fn may_be_followed(name: &str) -> bool {
    !name.contains('#')
}

/// A map from prefixes. Finding those of a name takes at most one search of the ordered keys, which
/// is O(log n) comparisons, for each length at which the name and a key part: so no more than the
/// name has bytes, and one where nothing matches, as a rule.
#[derive(Clone, Debug)]
pub struct PrefixMap<T>(BTreeMap<String, T>);

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> PrefixMap<T> {
    /// The value of this very prefix.
    pub fn get_mut(&mut self, prefix: &str) -> Option<&mut T> {
        self.0.get_mut(prefix)
    }

    /// The value of this very prefix, made if there is none.
    pub fn get_or_insert_with(&mut self, prefix: &str, make: impl FnOnce() -> T) -> &mut T {
        self.0.entry(prefix.to_owned()).or_insert_with(make)
    }

    /// Whether it has this very prefix.
    pub fn contains(&self, prefix: &str) -> bool {
        self.0.contains_key(prefix)
    }

    /// Takes this very prefix out.
    pub fn remove(&mut self, prefix: &str) -> Option<T> {
        self.0.remove(prefix)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every prefix with its value, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0
            .iter()
            .map(|(prefix, value)| (prefix.as_str(), value))
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.0
            .iter_mut()
            .map(|(prefix, value)| (prefix.as_str(), value))
    }

    /// Calls `each` for every key that `name` begins with, the longest first.
    pub fn for_each_of(&self, name: &str, mut each: impl FnMut(&T)) {
        let mut bound = name;
        while let Some((key, value)) = self
            .0
            .range::<str, _>((Bound::Unbounded, Bound::Included(bound)))
            .next_back()
        {
            let Some(next) = below(bound, key, || each(value)) else {
                return;
            };
            bound = next;
        }
    }

    /// The same, with values to be changed.
    pub fn for_each_of_mut(&mut self, name: &str, mut each: impl FnMut(&mut T)) {
        let mut bound = name;
        while let Some((key, value)) = self
            .0
            .range_mut::<str, _>((Bound::Unbounded, Bound::Included(bound)))
            .next_back()
        {
            let Some(next) = below(bound, key, || each(value)) else {
                return;
            };
            bound = next;
        }
    }
}

/// The bound below which the search goes on after `key`, the greatest that is not above `bound`. A
/// prefix of `bound` that is longer than what the two share would stand between them; so none is.
fn below<'a>(bound: &'a str, key: &str, found: impl FnOnce()) -> Option<&'a str> {
    let shared = bound.bytes().zip(key.bytes());
    let shared = shared.take_while(|(a, b)| a == b).count();
    let next = match shared == key.len() {
        true => {
            found();
            shared.checked_sub(1)?
        }
        false => shared,
    };
    // Keys are ASCII, and so is what the name shares with them.
    bound.get(..next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_stands_for_a_prefix() {
        let long = format!("room:{}*", "x".repeat(limits::CHANNEL_BYTES_MAX - 6));
        for (name, want) in [
            ("room:lobby.*", Some(Ok("room:lobby."))),
            ("room:abc*", Some(Ok("room:abc"))),
            ("room:a:b*", Some(Ok("room:a:b"))),
            ("room:lobby", None),
            ("room:*", Some(Err(PrefixError::Short))),
            ("room:ab*", Some(Err(PrefixError::Short))),
            ("room*", Some(Err(PrefixError::Short))),
            ("*", Some(Err(PrefixError::Short))),
            ("room:a*c*", Some(Err(PrefixError::Mark))),
            ("room:abc**", Some(Err(PrefixError::Mark))),
            ("$room:abc*", Some(Err(PrefixError::Reserved))),
            ("!room:abc*", Some(Err(PrefixError::Reserved))),
            ("room:abc#4*", Some(Err(PrefixError::Reserved))),
            (&long, Some(Ok(&long[..long.len() - 1]))),
        ] {
            assert_eq!(prefix_of(name), want, "{name}");
        }
        assert_eq!(checked("room:a bc"), Err(PrefixError::Short));
        assert_eq!(checked(&"x".repeat(300)), Err(PrefixError::Short));
        assert!(may_be_followed("room:1") && !may_be_followed("room:1#42"));
    }

    proptest! {
        #[test]
        fn finds_what_looking_at_every_key_finds(
            keys in prop::collection::btree_set("[abc*]{0,6}", 0..30),
            name in "[abc*\u{e4}]{0,8}",
        ) {
            let mut map = PrefixMap::default();
            for key in &keys {
                *map.get_or_insert_with(key, String::new) = key.clone();
            }
            let mut want: Vec<String> = keys.into_iter().filter(|k| name.starts_with(k.as_str())).collect();
            want.reverse();
            let mut got = Vec::new();
            map.for_each_of(&name, |key| got.push(key.clone()));
            prop_assert_eq!(&got, &want);
            got.clear();
            map.for_each_of_mut(&name, |key| got.push(std::mem::take(key)));
            prop_assert_eq!(got, want);
        }
    }
}
