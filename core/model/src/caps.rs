//! Capabilities: what a token allows, on which channels. The claim `caps` of a connection token is
//! a list of [`Capability`].

use serde::{Deserialize, Serialize};

pub use crate::patterns::{PATTERNS_MAX, Patterns};

/// One permission on a channel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Allow {
    /// Subscribe.
    #[serde(rename = "sub")]
    Subscribe,
    /// Publish.
    #[serde(rename = "pub")]
    Publish,
    /// Presence and presence statistics.
    #[serde(rename = "prs")]
    Presence,
    /// History.
    #[serde(rename = "hst")]
    History,
}

impl Allow {
    /// The permission with this short name (`sub`, `pub`, `prs`, `hst`).
    pub fn parse(s: &str) -> Option<Self> {
        match s {
            "sub" => Some(Allow::Subscribe),
            "pub" => Some(Allow::Publish),
            "prs" => Some(Allow::Presence),
            "hst" => Some(Allow::History),
            _ => None,
        }
    }
}

/// How the channels of a capability are compared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Match {
    /// Literally.
    #[default]
    Exact,
    /// `*` stands for any run of characters, also an empty one.
    Wildcard,
    /// As regular expressions, which must match the whole name: made by [`Capability::regex`].
    Regex(Patterns),
}

/// Permissions on a list of channels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Capability {
    /// Names or patterns.
    pub channels: Vec<String>,
    /// How they are compared; absent: literally.
    pub matching: Match,
    /// What is allowed there.
    pub allow: Vec<Allow>,
}

/// A capability as tokens and files carry it.
#[derive(Serialize, Deserialize)]
struct Written {
    channels: Vec<String>,
    #[serde(default, rename = "match", skip_serializing_if = "String::is_empty")]
    matching: String,
    allow: Vec<Allow>,
}

/// Why a text is no capability.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CapabilityError {
    /// `match` is none of the known ones.
    #[error("match is \"wildcard\", \"regex\" or left out")]
    Match,
    /// There are too many patterns.
    #[error("a capability has at most {PATTERNS_MAX} regular expressions")]
    TooMany,
    /// A pattern is no regular expression, or too large as one.
    #[error("`{0}` is no regular expression for channel names, or too large")]
    Pattern(String),
}

impl TryFrom<Written> for Capability {
    type Error = CapabilityError;

    fn try_from(written: Written) -> Result<Self, CapabilityError> {
        let matching = match written.matching.as_str() {
            "" => Match::Exact,
            "wildcard" => Match::Wildcard,
            "regex" => return Capability::regex(written.channels, written.allow),
            _ => return Err(CapabilityError::Match),
        };
        Ok(Self {
            channels: written.channels,
            matching,
            allow: written.allow,
        })
    }
}

impl From<Capability> for Written {
    fn from(capability: Capability) -> Self {
        let matching = match capability.matching {
            Match::Exact => "",
            Match::Wildcard => "wildcard",
            Match::Regex(_) => "regex",
        };
        Written {
            channels: capability.channels,
            matching: matching.to_owned(),
            allow: capability.allow,
        }
    }
}

impl Capability {
    /// Permissions on the channels whose whole name one of these regular expressions matches.
    ///
    /// # Errors
    /// There are more than [`PATTERNS_MAX`], or one does not compile within its bounds.
    pub fn regex(channels: Vec<String>, allow: Vec<Allow>) -> Result<Self, CapabilityError> {
        Ok(Self {
            matching: Match::Regex(Patterns::compile(&channels)?),
            channels,
            allow,
        })
    }

    /// Whether one of its names or patterns is that of `channel`.
    fn covers(&self, channel: &str) -> bool {
        match &self.matching {
            Match::Exact => self.channels.iter().any(|name| name == channel),
            Match::Wildcard => self.channels.iter().any(|p| wildcard(p, channel)),
            Match::Regex(patterns) => patterns.matches(channel),
        }
    }
}

impl Capability {
    /// Whether it covers every channel whose name begins with `prefix`: a wildcard pattern that ends
    /// in `*` and matches the prefix itself does. Of a regular expression that is not known.
    fn covers_prefix(&self, prefix: &str) -> bool {
        let mut patterns = self.channels.iter();
        self.matching == Match::Wildcard
            && patterns.any(|p| p.ends_with('*') && wildcard(p, prefix))
    }
}

/// What a connection may do: `None` where its token has no `caps` claim, then any member of the
/// instance's rules apply; otherwise exactly what the list allows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caps(pub Option<Vec<Capability>>);

impl Caps {
    /// Whether these capabilities cover `what` on `channel`. Without a list every member is
    /// covered.
    pub fn allows(&self, channel: &str, what: Allow) -> bool {
        match &self.0 {
            None => true,
            Some(list) => list
                .iter()
                .any(|c| c.allow.contains(&what) && c.covers(channel)),
        }
    }
}

impl Caps {
    /// Whether these capabilities cover subscribing to every channel whose name begins with
    /// `prefix`. Without a list every member is covered.
    pub fn allow_prefix(&self, prefix: &str) -> bool {
        match &self.0 {
            None => true,
            Some(list) => list
                .iter()
                .any(|c| c.allow.contains(&Allow::Subscribe) && c.covers_prefix(prefix)),
        }
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of bytes. Linear in
/// `text` × the number of stars at worst, with no recursion: the pattern comes from outside.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let (p, t) = (pattern.as_bytes(), text.as_bytes());
    let (mut pi, mut ti) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while ti < t.len() {
        if pi < p.len() && p[pi] == b'*' {
            star = Some((pi, ti));
            pi += 1;
        } else if pi < p.len() && p[pi] == t[ti] {
            pi += 1;
            ti += 1;
        } else if let Some((star_pi, star_ti)) = star {
            pi = star_pi + 1;
            ti = star_ti + 1;
            star = Some((star_pi, ti));
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (p, t, want) in [
            ("room:*", "room:1", true),
            ("room:*", "room:", true),
            ("room:*", "rooms:1", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("room:1", "room:12", false),
            ("**", "x", true),
        ] {
            assert_eq!(wildcard(p, t), want, "{p} against {t}");
        }
    }

    fn parse(json: &str) -> Result<Capability, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn regular_expressions_match_whole_names() {
        let text = r#"{"channels":["room:[0-9]+","a|b"],"match":"regex","allow":["sub"]}"#;
        let capability = parse(text).unwrap();
        assert_eq!(serde_json::to_string(&capability).unwrap(), text);
        let caps = Caps(Some(vec![capability.clone()]));
        for (channel, want) in [
            ("room:42", true),
            ("room:42x", false),
            ("xroom:42", false),
            ("room:", false),
            ("b", true),
            ("ab", false),
        ] {
            assert_eq!(caps.allows(channel, Allow::Subscribe), want, "{channel}");
        }
        assert!(!caps.allows("room:42", Allow::Publish));
        assert_eq!(parse(text).unwrap(), capability);
        assert!(parse(r#"{"channels":["("],"match":"regex","allow":[]}"#).is_err());
        assert!(parse(r#"{"channels":[],"match":"glob","allow":[]}"#).is_err());
    }

    #[test]
    fn prefixes_are_covered_by_wildcards_that_match_all_of_their_channels() {
        let caps = |channels: &str, matching: &str, allow: &str| {
            let text =
                format!(r#"{{"channels":[{channels}],"match":"{matching}","allow":["{allow}"]}}"#);
            Caps(Some(vec![parse(&text).unwrap()]))
        };
        for (channels, matching, allow, want) in [
            (r#""room:*""#, "wildcard", "sub", true),
            (r#""room:lobby.*""#, "wildcard", "sub", true),
            (r#""x","*""#, "wildcard", "sub", true),
            (r#""room:lobby.*""#, "wildcard", "pub", false),
            (r#""room:lobby.a*""#, "wildcard", "sub", false),
            (r#""room:lobby.""#, "wildcard", "sub", false),
            (r#""*.""#, "wildcard", "sub", false),
            (r#""room:lobby.*""#, "", "sub", false),
            (r#""room:.*""#, "regex", "sub", false),
        ] {
            let got = caps(channels, matching, allow).allow_prefix("room:lobby.");
            assert_eq!(got, want, "{channels} {matching} {allow}");
        }
        assert!(Caps(None).allow_prefix("room:lobby."));
        assert!(!Caps(Some(Vec::new())).allow_prefix("room:lobby."));
    }

    #[test]
    fn claim_as_tokens_carry_it() {
        let caps: Vec<Capability> = serde_json::from_str(
            r#"[{"channels":["room:*"],"match":"wildcard","allow":["sub","hst"]},{"channels":["news:x*"],"allow":["pub"]}]"#,
        )
        .unwrap();
        let caps = Caps(Some(caps));
        assert!(caps.allows("room:1", Allow::Subscribe));
        assert!(!caps.allows("room:1", Allow::Publish));
        assert!(caps.allows("news:x*", Allow::Publish));
        assert!(!caps.allows("news:xy", Allow::Publish));
        assert!(Caps(None).allows("anything", Allow::Publish));
        assert!(!Caps(Some(Vec::new())).allows("anything", Allow::Publish));
    }
}
