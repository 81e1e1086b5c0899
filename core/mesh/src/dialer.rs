//! Keeps a link to one peer alive: dials, waits for its end, and dials again with jitter, so that
//! a thousand nodes that lost the same peer do not come back in one moment.

use std::sync::Arc;
use std::time::Duration;

use gb6_core_model::NodeId;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use crate::endpoint::{DialError, Endpoint};
use crate::link::Link;

/// Exponential backoff with full jitter: the n-th wait is even between 0 and `first * 2^n`, at
/// most `longest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// Bound of the first wait.
    pub first: Duration,
    /// Bound of every wait.
    pub longest: Duration,
    /// A link that lived so long resets the backoff; one that broke sooner does not, so that a
    /// peer that accepts and closes is not dialled without pause.
    pub settled: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            longest: Duration::from_secs(5),
            settled: Duration::from_secs(5),
        }
    }
}

impl Backoff {
    /// The bound of the wait after `failures` failures in a row (from 1 on).
    pub fn bound(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }

    fn wait(&self, failures: u32, random: &mut SmallRng) -> Duration {
        even(self.bound(failures), random)
    }
}

/// A wait between 0 and `bound`.
fn even(bound: Duration, random: &mut SmallRng) -> Duration {
    let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random.random_range(0..=bound))
}

/// Keeps a link to one peer alive, in a task that ends when this is dropped.
#[derive(Debug)]
pub struct Dialer {
    node: NodeId,
    links: watch::Receiver<Option<Link>>,
    failure: Arc<Mutex<Option<DialError>>>,
    task: AbortHandle,
}

impl Dialer {
    /// Starts dialling `node` from `endpoint`. `address` is asked before every dial, so that a
    /// newer placement moves the next one. `seed` feeds the jitter: give each dialer of each
    /// process another. Within a tokio runtime.
    pub fn start(
        endpoint: Endpoint,
        node: NodeId,
        address: impl Fn() -> Option<String> + Send + Sync + 'static,
        backoff: Backoff,
        seed: u64,
    ) -> Self {
        let (current, links) = watch::channel(None);
        let failure = Arc::new(Mutex::new(None));
        let dialling = Dialling {
            endpoint,
            node: node.clone(),
            address,
            backoff,
            random: SmallRng::seed_from_u64(seed),
            current,
            failure: Arc::clone(&failure),
        };
        let task = tokio::spawn(dialling.run()).abort_handle();
        Self {
            node,
            links,
            failure,
            task,
        }
    }

    /// The peer.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The link as it comes and goes. A link in it may just have ended.
    pub fn links(&self) -> watch::Receiver<Option<Link>> {
        self.links.clone()
    }

    /// The link, where there is one.
    pub fn link(&self) -> Option<Link> {
        self.links.borrow().clone()
    }

    /// Why the last dial failed; `None` while there is a link, and before the first failure.
    pub fn failure(&self) -> Option<DialError> {
        self.failure.lock().clone()
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Dialling<A> {
    endpoint: Endpoint,
    node: NodeId,
    address: A,
    backoff: Backoff,
    random: SmallRng,
    current: watch::Sender<Option<Link>>,
    failure: Arc<Mutex<Option<DialError>>>,
}

impl<A: Fn() -> Option<String>> Dialling<A> {
    async fn run(mut self) {
        let mut failures = 0u32;
        loop {
            let mut spread = Duration::ZERO;
            let address = (self.address)();
            match self.endpoint.dial(&self.node, address.as_deref()).await {
                Ok(link) => {
                    info!(peer = %self.node, "mesh link up");
                    *self.failure.lock() = None;
                    let up = tokio::time::Instant::now();
                    self.current.send_replace(Some(link.clone()));
                    let reason = link.closed().await;
                    // What the peer wished for: it knows how many come back with us.
                    spread = Duration::from_millis(link.peer().retry_ms.into());
                    self.current.send_replace(None);
                    info!(peer = %self.node, %reason, "mesh link down");
                    if up.elapsed() >= self.backoff.settled {
                        failures = 0;
                    }
                }
                Err(DialError::EndpointClosed) => return,
                Err(error) => {
                    // Once per outage: the counters show the rest.
                    if self.failure.lock().replace(error.clone()).as_ref() != Some(&error) {
                        warn!(peer = %self.node, %error, "mesh dial failed; retrying");
                    }
                }
            }
            failures = failures.saturating_add(1);
            let wait = match spread > self.backoff.bound(failures) {
                true => even(spread, &mut self.random),
                false => self.backoff.wait(failures, &mut self.random),
            };
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::default();
        let bounds: Vec<u128> = (1..=9).map(|n| backoff.bound(n).as_millis()).collect();
        assert_eq!(bounds, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.bound(u32::MAX), backoff.longest);
    }

    #[test]
    fn waits_use_the_whole_range_and_differ_by_seed() {
        let backoff = Backoff::default();
        let waits = |seed| {
            let mut random = SmallRng::seed_from_u64(seed);
            (0..200)
                .map(|_| backoff.wait(7, &mut random))
                .collect::<Vec<_>>()
        };
        let bound = backoff.bound(7);
        assert!(waits(1).iter().all(|wait| *wait <= bound));
        assert!(waits(1).iter().any(|wait| *wait < bound / 10));
        assert!(waits(1).iter().any(|wait| *wait > bound / 10 * 9));
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
