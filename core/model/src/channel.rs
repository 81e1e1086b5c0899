//! Channel names: the grammar, the namespace, and names that this server reserves.

use std::fmt;
use std::sync::Arc;

use crate::limits;

/// A channel's full name, checked against the grammar: 1 to 255 bytes of printable ASCII without
/// spaces (0x21 to 0x7e). The namespace is what stands before the first `:`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// Why a text is no channel name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChannelError {
    /// The name is empty.
    #[error("channel name is empty")]
    Empty,
    /// The name has more than 255 bytes.
    #[error("channel name is longer than 255 bytes")]
    TooLong,
    /// The name has a byte outside 0x21 to 0x7e.
    #[error("channel name has a character outside printable ASCII")]
    BadCharacter,
}

impl Channel {
    /// Checks `name` against the grammar.
    pub fn parse(name: &str) -> Result<Self, ChannelError> {
        if name.is_empty() {
            return Err(ChannelError::Empty);
        }
        if name.len() > limits::CHANNEL_BYTES_MAX {
            return Err(ChannelError::TooLong);
        }
        if !name.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return Err(ChannelError::BadCharacter);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The full name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `:` (a leading `$` left out), or `None` for a name outside
    /// every namespace.
    pub fn namespace(&self) -> Option<&str> {
        let name = self.0.strip_prefix('$').unwrap_or(&self.0);
        name.split_once(':').map(|(ns, _)| ns)
    }

    /// Whether the name is the server's own: it begins with `!` (a leading `$` left out). Nothing
    /// that comes from outside may name one.
    pub fn is_system(&self) -> bool {
        let name = self.0.strip_prefix('$').unwrap_or(&self.0);
        name.starts_with('!')
    }

    /// Whether the channel is private: it begins with `$`, and whoever wants to subscribe has to
    /// show a token for it.
    pub fn is_private(&self) -> bool {
        self.0.starts_with('$')
    }

    /// Whether the channel is for certain users only: those that its name lists.
    pub fn is_user_limited(&self) -> bool {
        self.0.contains('#')
    }

    /// Whether the name lets `user` in: in a name with `#`, what stands behind the last one is the
    /// list of users, joined by `,`. Nobody's empty name is on no list.
    pub fn admits(&self, user: &str) -> bool {
        match self.0.rsplit_once('#') {
            None => true,
            Some((_, users)) => !user.is_empty() && users.split(',').any(|u| u == user),
        }
    }

    /// The personal channel of a user, `#user`; `None` where the user's name does not fit into a
    /// channel's, or would let others in (it has a `,` or `#`).
    pub fn personal(user: &str) -> Option<Self> {
        let unfit = user.is_empty() || user.contains([',', '#']);
        match unfit {
            true => None,
            false => Self::parse(&format!("#{user}")).ok(),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl std::borrow::Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let long = "r".repeat(256);
        for (name, err) in [
            ("", ChannelError::Empty),
            (long.as_str(), ChannelError::TooLong),
            ("room:a b", ChannelError::BadCharacter),
            ("room:\u{e4}", ChannelError::BadCharacter),
            ("room:\n", ChannelError::BadCharacter),
        ] {
            assert_eq!(Channel::parse(name), Err(err), "{name:?}");
        }
        assert_eq!(
            Channel::parse(&long[..255]).map(|c| c.as_str().len()),
            Ok(255)
        );
    }

    #[test]
    fn namespaces_and_restrictions() {
        let c = |s| Channel::parse(s).unwrap();
        assert_eq!(c("room:a:b").namespace(), Some("room"));
        assert_eq!(c("$room:a").namespace(), Some("room"));
        assert_eq!(c("plain").namespace(), None);
        assert!(c("$room:a").is_private() && !c("room:$a").is_private());
        assert!(c("!users").is_system() && c("$!users").is_system());
        assert!(!c("room:!").is_system());
        assert!(c("room:a#42,43").is_user_limited() && !c("room:a").is_user_limited());
    }

    #[test]
    fn a_name_lists_who_may_come_in() {
        let admits = |name, user| Channel::parse(name).unwrap().admits(user);
        for (name, user, want) in [
            ("room:a", "", true),
            ("room:a", "42", true),
            ("room:a#42,43", "42", true),
            ("room:a#42,43", "43", true),
            ("room:a#42,43", "4", false),
            ("room:a#42,43", "42,43", false),
            ("room:a#42,43", "", false),
            ("room:a#", "", false),
            ("room:a#1#2", "1", false),
            ("room:a#1#2", "2", true),
            ("#42", "42", true),
        ] {
            assert_eq!(admits(name, user), want, "{user:?} in {name}");
        }
    }

    #[test]
    fn a_personal_channel_lets_nobody_else_in() {
        assert_eq!(Channel::personal("42").unwrap().as_str(), "#42");
        for user in ["", "a,b", "a#b", "a b", "\u{e4}", &"x".repeat(255)] {
            assert_eq!(Channel::personal(user), None, "{user:?}");
        }
    }
}
