//! Regular expressions for channel names that come from outside: bounded in number and size,
//! matched in time linear in the name, compiled once.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use crate::caps::CapabilityError;

/// Regular expressions of one capability at most.
pub const PATTERNS_MAX: usize = 16;
/// Longest regular expression in bytes.
const PATTERN_BYTES_MAX: usize = 256;
/// Largest compiled regular expression in bytes: it stays for as long as the connection.
const COMPILED_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of groups.
const NESTING_MAX: u32 = 16;

/// Compiled regular expressions. Clones share them.
#[derive(Clone, Debug)]
pub struct Patterns(Arc<[Regex]>);

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        let texts = |p: &Self| {
            p.0.iter()
                .map(|r| r.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        texts(self) == texts(other)
    }
}

impl Eq for Patterns {}

impl Patterns {
    /// Compiles each of them to match whole names.
    ///
    /// # Errors
    /// There are too many, or one is no regular expression within the bounds.
    pub fn compile(patterns: &[String]) -> Result<Self, CapabilityError> {
        if patterns.len() > PATTERNS_MAX {
            return Err(CapabilityError::TooMany);
        }
        patterns
            .iter()
            .map(|p| whole(p))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether one of them matches the whole of `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|p| p.is_match(name.as_bytes()))
    }
}

fn whole(pattern: &str) -> Result<Regex, CapabilityError> {
    let refused = || CapabilityError::Pattern(pattern.chars().take(64).collect());
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(refused());
    }
    // By itself first: `a)|(b` would leave the group that holds it to the whole name.
    build(pattern).ok_or_else(refused)?;
    build(&format!(r"\A(?:{pattern})\z")).ok_or_else(refused)
}

fn build(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern)
        // Names are ASCII.
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .nest_limit(NESTING_MAX)
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(pattern: &str) -> Result<Patterns, CapabilityError> {
        Patterns::compile(&[pattern.to_owned()])
    }

    #[test]
    fn nothing_gets_out_of_the_whole_name() {
        for pattern in ["a)|(b", "a)|.*(?:", "(?x)a #", "(?x:a) # \n"] {
            if let Ok(compiled) = compile(pattern) {
                assert!(
                    !compiled.matches("xxa") && !compiled.matches("bxx"),
                    "{pattern}"
                );
            }
        }
        assert!(compile("a)|(b").is_err());
        let lines = compile("(?m)^a$").unwrap();
        assert!(lines.matches("a") && !lines.matches("ab"));
    }

    #[test]
    fn bounds() {
        let many = vec!["a".to_owned(); PATTERNS_MAX + 1];
        assert_eq!(Patterns::compile(&many), Err(CapabilityError::TooMany));
        assert!(Patterns::compile(&many[1..]).is_ok());
        assert!(compile(&"a".repeat(PATTERN_BYTES_MAX)).is_ok());
        let uuid = compile("room:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
        assert!(uuid.matches("room:0123abcd-0123-4567-89ab-0123456789ab"));
        for bad in [
            "a".repeat(PATTERN_BYTES_MAX + 1),
            // Small as a text and huge as a program.
            "((a{99}){99}){99}".to_owned(),
            format!("{}a{}", "(".repeat(40), ")".repeat(40)),
            r"\p{Greek}".to_owned(),
            "(".to_owned(),
        ] {
            assert!(
                matches!(compile(&bad), Err(CapabilityError::Pattern(_))),
                "{bad}"
            );
        }
    }
}
