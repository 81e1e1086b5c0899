//! Capabilities: what a token allows, on which channels. The claim `caps` of a connection token is
//! a list of [`Capability`].

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// Literally.
    #[default]
    #[serde(rename = "")]
    Exact,
    /// `*` stands for any run of characters, also an empty one.
    Wildcard,
}

/// Permissions on a list of channels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capability {
    /// Names or patterns.
    pub channels: Vec<String>,
    /// How they are compared; absent: literally.
    #[serde(default, rename = "match", skip_serializing_if = "is_exact")]
    pub matching: Match,
    /// What is allowed there.
    pub allow: Vec<Allow>,
}

fn is_exact(m: &Match) -> bool {
    *m == Match::Exact
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
            Some(list) => list.iter().any(|c| {
                c.allow.contains(&what)
                    && c.channels.iter().any(|p| match c.matching {
                        Match::Exact => p == channel,
                        Match::Wildcard => wildcard(p, channel),
                    })
            }),
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
