//! Patterns of names as shells have them, for lists of channels.

use regex::bytes::{Regex, RegexBuilder};

use crate::limits;

/// Bytes that a compiled pattern may take.
const COMPILED_BYTES_MAX: usize = 64 * 1024;

/// A pattern for whole names: `*` stands for any run of characters, `?` for one, `[a-z]` and `[!a-z]`
/// for one of or none of these, `{a,b}` for either, and `\` takes the meaning of what follows it.
/// Matching takes time in proportion to the name, whatever the pattern.
#[derive(Clone, Debug)]
pub struct Glob(Regex);

/// Why a text is no pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GlobError {
    /// It is longer than a channel's name may be.
    #[error("a pattern has at most {} bytes", limits::CHANNEL_BYTES_MAX)]
    TooLong,
    /// A bracket or brace is not closed, a range is none, or it is too large when it is compiled.
    #[error("it is no pattern: `*`, `?`, `[a-z]`, `[!a-z]`, `{{a,b}}` and `\\` have a meaning")]
    Malformed,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.len() > limits::CHANNEL_BYTES_MAX {
            return Err(GlobError::TooLong);
        }
        let expression = expression(text).ok_or(GlobError::Malformed)?;
        RegexBuilder::new(&expression)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .unicode(false)
            .build()
            .map(Self)
            .map_err(|_| GlobError::Malformed)
    }

    /// Whether the whole name fits.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name.as_bytes())
    }
}

/// The regular expression that says the same.
fn expression(text: &str) -> Option<String> {
    let mut out = String::from("(?s-u)\\A(?:");
    let mut open = 0u32;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '\\' => literal(chars.next()?, &mut out)?,
            '{' => {
                open += 1;
                out.push_str("(?:");
            }
            '}' if open > 0 => {
                open -= 1;
                out.push(')');
            }
            ',' if open > 0 => out.push('|'),
            '[' => class(&mut chars, &mut out)?,
            ']' | '}' => return None,
            c => literal(c, &mut out)?,
        }
    }
    out.push_str(")\\z");
    (open == 0).then_some(out)
}

/// A set of characters, behind its bracket.
fn class(chars: &mut std::str::Chars<'_>, out: &mut String) -> Option<()> {
    out.push('[');
    let mut first = true;
    loop {
        match chars.next()? {
            ']' if !first => break,
            '!' | '^' if first => {
                out.push('^');
                // What is not wanted follows.
                let next = chars.next()?;
                member(next, chars, out)?;
            }
            '-' => out.push('-'),
            c => member(c, chars, out)?,
        }
        first = false;
    }
    out.push(']');
    Some(())
}

fn member(c: char, chars: &mut std::str::Chars<'_>, out: &mut String) -> Option<()> {
    match c {
        '\\' => literal(chars.next()?, out),
        ']' => None,
        c => literal(c, out),
    }
}

/// A character that stands for itself. Names have no others than these.
fn literal(c: char, out: &mut String) -> Option<()> {
    if !c.is_ascii_graphic() {
        return None;
    }
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits() {
        for (pattern, name, fits) in [
            ("*", "room:1", true),
            ("**", "", true),
            ("", "", true),
            ("", "room:1", false),
            ("room:*", "room:1", true),
            ("room:*", "rooms:1", false),
            ("room:?", "room:12", false),
            ("*:1", "room:1", true),
            ("room:[0-9]", "room:7", true),
            ("room:[!0-9]", "room:7", false),
            ("room:[!0-9]", "room:x", true),
            ("{room,chat}:*", "chat:1", true),
            ("{room,chat}:*", "news:1", false),
            ("a{b,c{d,e}}f", "acef", true),
            ("a{b,c{d,e}}f", "acf", false),
            ("room:a.c", "room:abc", false),
            ("room:\\*", "room:*", true),
            ("room:\\*", "room:x", false),
            ("a,b", "a,b", true),
            ("room:(a|b)+", "room:a", false),
            ("room:#1", "room:#1", true),
        ] {
            let glob = Glob::parse(pattern).expect(pattern);
            assert_eq!(glob.matches(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_none() {
        let long = "*".repeat(256);
        for (pattern, why) in [
            ("[a", GlobError::Malformed),
            ("[]", GlobError::Malformed),
            ("[z-a]", GlobError::Malformed),
            ("{a", GlobError::Malformed),
            ("a}", GlobError::Malformed),
            ("a]", GlobError::Malformed),
            ("a\\", GlobError::Malformed),
            ("\u{e4}", GlobError::Malformed),
            ("a b", GlobError::Malformed),
            (&long, GlobError::TooLong),
        ] {
            assert_eq!(Glob::parse(pattern).err(), Some(why), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(pattern in ".{0,40}", name in "[!-~]{0,20}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = glob.matches(&name);
            }
        }

        #[test]
        fn a_name_fits_itself(name in "[a-z0-9:_.+$-]{0,40}") {
            let glob = Glob::parse(&name).unwrap();
            prop_assert!(glob.matches(&name));
            let longer = format!("{name}x");
            prop_assert!(!glob.matches(&longer));
        }
    }
}
