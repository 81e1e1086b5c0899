//! How revocations are followed and kept.

use std::time::Duration;

use gb6_edge_session::RevocationFollower;

/// How an edge follows the revocations of its instances, and keeps their logs small.
#[derive(Clone, Debug)]
pub struct RevocationConfig {
    /// How long an instance stands still whose newest revocations can not be read, before it is
    /// served by those that are known; `None`: for as long as it takes.
    pub hold_max: Option<Duration>,
    /// How often what has expired is taken out of memory and log, half to one and a half times so
    /// long, so that not all edges do it at once.
    pub upkeep_every: Duration,
    /// How long something is kept behind its end: by so much the clocks of edges may differ.
    pub grace: Duration,
    /// Records that a log may have beyond twice what is revoked. Above that, what still matters of
    /// its oldest ones is written anew at its end.
    pub records_spare: u64,
}

impl Default for RevocationConfig {
    fn default() -> Self {
        Self {
            hold_max: None,
            upkeep_every: Duration::from_secs(60),
            grace: Duration::from_millis(RevocationFollower::GRACE_MS.unsigned_abs()),
            records_spare: RevocationFollower::RECORDS_SPARE,
        }
    }
}
