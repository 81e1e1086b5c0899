//! Pings of the WebSocket layer (RFC 6455 section 5.5.2), for clients that ask for them instead of
//! the protocol's own.

use bytes::Bytes;
use gb6_core_model::Disconnect;
use gb6_edge_session::SessionConfig;

/// An empty ping frame.
const PING: &[u8] = &[0x89, 0];

/// When the next ping is due, or the answer to the last.
#[derive(Debug)]
pub(crate) struct FramePing {
    interval_ms: u64,
    next: u64,
    /// Until when the last ping must be answered.
    unanswered: Option<u64>,
}

impl FramePing {
    /// Pings as often as the sessions of `config` do; the first one within an interval.
    pub(crate) fn new(now_ms: u64, config: &SessionConfig) -> Self {
        let interval_ms = config.ping_interval_ms.max(1000);
        Self {
            interval_ms,
            next: now_ms + rand::random_range(interval_ms / 2..=interval_ms),
            unanswered: None,
        }
    }

    /// The client answered.
    pub(crate) fn pong(&mut self) {
        self.unanswered = None;
    }

    /// When [`FramePing::due`] is to be asked again.
    pub(crate) fn deadline(&self) -> u64 {
        self.unanswered.unwrap_or(self.next)
    }

    /// The ping that is due now, or the end for want of an answer within `timeout_ms`.
    pub(crate) fn due(
        &mut self,
        now_ms: u64,
        timeout_ms: u64,
    ) -> Result<Option<Bytes>, Disconnect> {
        if self.unanswered.is_some_and(|until| until <= now_ms) {
            return Err(Disconnect::NoPong);
        }
        if self.unanswered.is_some() || now_ms < self.next {
            return Ok(None);
        }
        self.next = now_ms + self.interval_ms;
        self.unanswered = Some(now_ms + timeout_ms);
        Ok(Some(Bytes::from_static(PING)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_and_their_answers() {
        let config = SessionConfig {
            ping_interval_ms: 10_000,
            ..SessionConfig::default()
        };
        let mut ping = FramePing::new(0, &config);
        let first = ping.deadline();
        assert!((5_000..=10_000).contains(&first));
        assert_eq!(ping.due(first - 1, 3_000), Ok(None));
        assert_eq!(ping.due(first, 3_000), Ok(Some(Bytes::from_static(PING))));
        assert_eq!(ping.deadline(), first + 3_000);
        assert_eq!(ping.due(first + 2_999, 3_000), Ok(None));
        ping.pong();
        assert_eq!(ping.deadline(), first + 10_000);
        assert!(ping.due(first + 10_000, 3_000).is_ok_and(|p| p.is_some()));
        assert_eq!(ping.due(first + 13_000, 3_000), Err(Disconnect::NoPong));
    }
}
