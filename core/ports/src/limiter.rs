//! The port `RateLimiter`: limits that several edges keep together. An edge asks in advance for its
//! share of a limit and keeps to that by itself, so that a command costs no question.
//!
//! A share is a part of the limit, not a number of commands: an edge that has a user to itself has
//! the whole of the user's rate and burst at hand, and how much the limit is need not be known here.

use gb6_core_model::InstanceId;

use crate::error::StoreError;

/// The whole of a limit, in the parts that a [`Share`] counts.
pub const WHOLE: u32 = 1_000_000;

/// What a limit is about.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LimitKey {
    /// The instance.
    pub instance: InstanceId,
    /// Its user; `None`: all of the instance.
    pub user: Option<String>,
}

/// What an edge would use of a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// Which limit.
    pub key: LimitKey,
    /// Thousandths of a command that were asked for a second, refused ones included. 0: it is used
    /// no more, and the share is given back.
    pub demand: u64,
}

/// What an edge may use of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// So many of [`WHOLE`] parts, of rate and burst.
    pub parts: u32,
    /// How long the share lasts, in ms from the answer on.
    pub valid_ms: u64,
    /// After how long it should be asked for again while it is used, in ms.
    pub renew_ms: u64,
}

/// How long a share lasts where an engine is not told otherwise, in ms.
pub const VALID_MS: u64 = 30_000;
/// After how long one who is alone should ask again, in ms.
const RENEW_ALONE_MS: u64 = 5_000;
/// After how long one of several should, in ms: so long may they have too much together.
const RENEW_TOGETHER_MS: u64 = 1_000;

impl Share {
    /// The whole of a limit.
    pub fn whole(valid_ms: u64) -> Self {
        Self::of(1, 1, 1, valid_ms)
    }

    /// The share of one of `holders` who wants `demand` where all of them want `all`: half of the
    /// limit goes in equal parts, so that who comes can begin, the other half by what each wants.
    pub fn of(demand: u64, all: u128, holders: u64, valid_ms: u64) -> Self {
        let half = u128::from(WHOLE / 2);
        let equal = half / u128::from(holders.max(1));
        let parts = equal + half * u128::from(demand) / all.max(1);
        let renew_ms = match holders {
            0 | 1 => RENEW_ALONE_MS,
            _ => RENEW_TOGETHER_MS,
        };
        Self {
            parts: u32::try_from(parts).map_or(WHOLE, |parts| parts.clamp(1, WHOLE)),
            valid_ms,
            renew_ms: renew_ms.min(valid_ms / 2).max(1),
        }
    }
}

/// Shares out limits. Calls may block the calling thread.
///
/// Once every edge that holds a share has asked again after the last change of who holds one and
/// of what they want, the shares of a limit come to [`WHOLE`] at most. Who holds a share has at
/// least half of an equal one, whatever the others want; who is alone has the whole. A share that
/// was not asked for again goes to the others when it has ended.
pub trait RateLimiter: Send + Sync {
    /// The shares of `holder` (an edge's node id) in what it wants, in that order. `now_ms` is the
    /// caller's monotonic clock, for engines that live in its process; others go by a clock of
    /// their own, since those of two nodes can not be compared.
    ///
    /// # Errors
    /// `Unavailable`: nobody can say now; shares that were given last until their end.
    fn lease(&self, holder: &str, wants: &[Want], now_ms: u64) -> Result<Vec<Share>, StoreError>;
}
