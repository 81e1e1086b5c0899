//! What the server does to a session unasked: commands of the application's server API, and the
//! words with which a session may be ended.

use std::borrow::Cow;

use bytes::Bytes;
use gb6_core_model::{Channel, Disconnect, ErrorCode, Offset};
use gb6_core_wire::client::CLOSE_REASON_BYTES_MAX;
use serde::de::IgnoredAny;

use super::types::SubscriptionGrant;

/// A command of the application's server to one session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerCommand {
    /// Subscribes it, without asking its permissions. The client is told by a push.
    Subscribe {
        /// The channel.
        channel: Channel,
        /// What it is given there.
        grant: Box<SubscriptionGrant>,
        /// What it has already, so that it is sent the rest; `None`: from now on.
        recover_since: Option<RecoverSince>,
    },
    /// Ends a subscription, whoever began it. The client is told by a push with code 2000.
    Unsubscribe {
        /// The channel.
        channel: Channel,
    },
    /// Ends the session.
    Disconnect(CloseReason),
    /// Changes when the session expires, or what others see of it.
    Refresh {
        /// The session has expired: it ends with 3005.
        expired: bool,
        /// When it expires, Unix ms; `None`: never.
        expires_unix_ms: Option<i64>,
        /// The info about the connection that other clients see from now on, JSON or empty;
        /// `None`: as before.
        info: Option<Bytes>,
    },
}

/// A position that a client has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoverSince {
    /// The offset of the last publication that it has.
    pub offset: Offset,
    /// The stream epoch; empty: any.
    pub epoch: String,
}

/// Why a session ends, as its client is told: a code and plain words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CloseReason {
    code: u32,
    text: Cow<'static, str>,
}

impl CloseReason {
    /// A reason that the application gives: one of the protocol's codes, or 4000 to 4999. Empty
    /// `text` stands for the words of the protocol's code.
    ///
    /// # Errors
    /// 107: the code is another, or the text is no plain words. SDKs read a text that is JSON as
    /// something else, pass terminal codes over when there is none, and a close frame holds no more
    /// than 123 bytes.
    pub fn custom(code: u32, text: &str) -> Result<Self, ErrorCode> {
        let known = Disconnect::from_code(code);
        if let Some(known) = known.filter(|_| text.is_empty()) {
            return Ok(known.into());
        }
        let plain = !text.is_empty()
            && text.len() <= CLOSE_REASON_BYTES_MAX
            && !text.chars().any(char::is_control)
            && serde_json::from_str::<IgnoredAny>(text).is_err();
        let allowed = known.is_some() || (4000..=4999).contains(&code);
        match plain && allowed {
            true => Ok(Self {
                code,
                text: Cow::Owned(text.to_owned()),
            }),
            false => Err(ErrorCode::BadRequest),
        }
    }

    /// The code.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// Plain words, never empty.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether an SDK connects again by itself after it (3000 to 3499, 4000 to 4499).
    pub fn reconnect(&self) -> bool {
        matches!(self.code, 0..=3499 | 4000..=4499)
    }

    /// The protocol's own reason with this code, if it is that one.
    pub fn standard(&self) -> Option<Disconnect> {
        Disconnect::from_code(self.code).filter(|known| known.text() == self.text)
    }
}

impl From<Disconnect> for CloseReason {
    fn from(why: Disconnect) -> Self {
        Self {
            code: why.code(),
            text: Cow::Borrowed(why.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_reasons_are_plain_words_under_its_own_codes() {
        for (code, text) in [
            (3503, ""),
            (3000, "gone"),
            (3999, "gone"),
            (5000, "gone"),
            (0, "gone"),
            (4000, ""),
            (4000, "42"),
            (4500, "null"),
            (4500, "{\"reason\":\"x\"}"),
            (4999, "two\nlines"),
            (4999, &"x".repeat(124)),
        ] {
            let got = CloseReason::custom(code, text);
            let known = code == 3503;
            assert_eq!(got.is_ok(), known, "{code} {text:?}");
        }
        let banned = CloseReason::custom(4501, "you are banned").unwrap();
        assert_eq!((banned.code(), banned.text()), (4501, "you are banned"));
        assert!(!banned.reconnect() && banned.standard().is_none());
        assert!(CloseReason::custom(4001, "come back").unwrap().reconnect());
        let forced = CloseReason::custom(3503, "").unwrap();
        assert_eq!(forced.standard(), Some(Disconnect::ForceDisconnect));
        let words = CloseReason::custom(3503, "moved").unwrap();
        assert_eq!((words.code(), words.text()), (3503, "moved"));
    }
}
