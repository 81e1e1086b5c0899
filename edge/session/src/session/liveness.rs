//! Whether the client is still there and still allowed: pings, pongs, the token's end.

use gb6_core_model::{Disconnect, ErrorCode, Unsubscribed};
use gb6_core_wire::client::{RefreshRequest, RefreshResult, Reply};

use super::Closes;
use super::live::{Live, Refreshing};
use super::reply::Turn;
use super::types::{Claims, Context, TokenError, count};

/// A time that never comes: every idle session holds several of these, so none is an `Option`.
const NEVER: u64 = u64::MAX;

/// The times of a live session, in ms of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The next ping of ours.
    next_ping: u64,
    /// When the answer to the last ping must be here.
    pong_due: u64,
    /// When the token expires.
    expires: u64,
    /// When the first of the subscriptions that expire does, or earlier.
    subscription_expires: u64,
    /// How long the session outlives its token, and a subscription its own.
    grace: u64,
}

impl Times {
    /// The first ping comes at a random point of the second half of an interval, so that clients
    /// that came together are not pinged together.
    pub(super) fn new(cx: &Context<'_>, expires_unix_ms: Option<i64>, spread: u32) -> Self {
        let half = cx.config.ping_interval_ms / 2;
        let first = half + ((half * u64::from(spread)) >> 32);
        Self {
            next_ping: match cx.config.ping_interval_ms {
                0 => NEVER,
                _ => cx.now_ms + first,
            },
            pong_due: NEVER,
            expires: expires_at(cx, expires_unix_ms).unwrap_or(NEVER),
            subscription_expires: NEVER,
            grace: cx.config.expiry_grace_ms,
        }
    }

    /// The token expires then.
    pub(super) fn expire(&mut self, at: Option<u64>) {
        self.expires = at.unwrap_or(NEVER);
    }

    /// A subscription expires then.
    pub(super) fn subscription_expires(&mut self, at: u64) {
        self.subscription_expires = self.subscription_expires.min(at);
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> u64 {
        let ends = self.end().min(self.subscription_end());
        self.next_ping.min(self.pong_due).min(ends)
    }

    fn subscription_end(&self) -> u64 {
        self.subscription_expires.saturating_add(self.grace)
    }

    fn end(&self) -> u64 {
        self.expires.saturating_add(self.grace)
    }
}

/// A time of the wall clock, Unix ms, on the monotonic one.
pub(super) fn expires_at(cx: &Context<'_>, unix_ms: Option<i64>) -> Option<u64> {
    let left = unix_ms?.saturating_sub(cx.unix_ms);
    Some(cx.now_ms.saturating_add(u64::try_from(left).unwrap_or(0)))
}

/// Seconds from `now` to `at`, at least 1: SDKs want some.
pub(super) fn seconds_until(at: u64, now: u64) -> u32 {
    let left = at.saturating_sub(now).div_ceil(1000);
    u32::try_from(left.max(1)).unwrap_or(u32::MAX)
}

impl Live {
    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) -> Closes {
        let (now, config) = (turn.cx.now_ms, turn.cx.config);
        if now >= self.times.pong_due {
            count(&turn.cx.counters.no_pong);
            return Err(Disconnect::NoPong);
        }
        if now >= self.times.end() {
            count(&turn.cx.counters.expired);
            return Err(Disconnect::ConnectionExpired);
        }
        if now >= self.times.subscription_end() {
            self.end_expired_subscriptions(turn)?;
        }
        if now >= self.times.next_ping {
            count(&turn.cx.counters.pings);
            turn.say(&Reply::ping());
            self.times.next_ping = now + config.ping_interval_ms;
            if !config.unidirectional {
                let due = now + config.pong_timeout_ms;
                self.times.pong_due = self.times.pong_due.min(due);
            }
        }
        Ok(())
    }

    /// Ends the subscriptions whose grace is over.
    fn end_expired_subscriptions(&mut self, turn: &mut Turn<'_>) -> Closes {
        let (now, grace) = (turn.cx.now_ms, self.times.grace);
        self.times.subscription_expires = NEVER;
        for at in (0..self.subscriptions.len()).rev() {
            let subscription = &self.subscriptions[at];
            let Some(end) = subscription.terms.as_ref().and_then(|t| t.expires) else {
                continue;
            };
            // One that has not begun is looked at when it has.
            if subscription.pending != 0 || now < end.saturating_add(grace) {
                let seen_again = end.max(now.saturating_sub(grace) + 1_000);
                self.times.subscription_expires(match subscription.pending {
                    0 => end,
                    _ => seen_again,
                });
                continue;
            }
            count(&turn.cx.counters.subscriptions_expired);
            if subscription.is_server_side() {
                // A client does not subscribe again to what it did not subscribe to.
                return Err(Disconnect::SubscriptionExpired);
            }
            self.unsubscribed_by_server(turn, at, Unsubscribed::Expired);
        }
        Ok(())
    }

    pub(super) fn pong(&mut self) -> Closes {
        match std::mem::replace(&mut self.times.pong_due, NEVER) {
            NEVER => Err(Disconnect::BadRequest),
            _ => Ok(()),
        }
    }

    /// Seconds until the token expires, at least 1; `None`: it does not.
    pub(super) fn ttl_seconds(&self, now: u64) -> Option<u32> {
        (self.times.expires != NEVER).then(|| seconds_until(self.times.expires, now))
    }

    pub(super) fn refresh(&mut self, turn: &mut Turn<'_>, id: u32, request: &RefreshRequest) {
        if request.token.is_empty() {
            return turn.fail(id, ErrorCode::BadRequest);
        }
        // The rooms are told by one of them at a time: there may be a thousand.
        if self.refreshing.is_some() || self.is_introducing() {
            return turn.fail(id, ErrorCode::TooManyRequests);
        }
        self.verifications += 1;
        self.refreshing = Some(Refreshing {
            request: self.verifications,
            id,
        });
        turn.verify(self.verifications, request.token.clone());
    }

    pub(super) fn refreshed(
        &mut self,
        turn: &mut Turn<'_>,
        request: u32,
        result: Result<Claims, TokenError>,
    ) -> Closes {
        let Some(refreshing) = self.refreshing.take_if(|r| r.request == request) else {
            return Ok(());
        };
        let id = refreshing.id;
        let claims = match result {
            Ok(claims) => claims,
            Err(TokenError::Unavailable) => {
                turn.fail(id, ErrorCode::Internal);
                return Ok(());
            }
            Err(TokenError::Expired) => {
                count(&turn.cx.counters.tokens_refused);
                // SDKs take an error here for a reason to go on with the old token; this they
                // answer by connecting again, with a new one where they can get it.
                return Err(Disconnect::ConnectionExpired);
            }
            Err(TokenError::Invalid) => {
                count(&turn.cx.counters.tokens_refused);
                return Err(Disconnect::InvalidToken);
            }
        };
        // A connection never becomes another person's, nor another instance's.
        if self.identity() != (&claims.instance, claims.user.as_str()) {
            count(&turn.cx.counters.tokens_refused);
            return Err(Disconnect::InvalidToken);
        }
        self.caps = claims.caps;
        if !claims.info.is_empty() {
            self.introduce(turn, claims.info);
        }
        self.times
            .expire(expires_at(turn.cx, claims.expires_unix_ms));
        let ttl = self.ttl_seconds(turn.cx.now_ms);
        let result = RefreshResult {
            client: self.person().client.clone(),
            version: turn.cx.config.version.clone(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
        };
        turn.answer(id, result);
        Ok(())
    }
}
