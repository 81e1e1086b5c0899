//! Which connections may stay: a bound on all of them, and a tighter one on those that have not
//! shown who they are, whose oldest makes room for a newer one. Somebody who opens connections
//! and says nothing pushes out only others of that kind.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gb6_core_model::Disconnect;
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::metrics::EdgeMetrics;
use crate::places::{Place, Places, owner_of};

/// How often an address may have the connections that its sessions may have: those between are
/// told that there are too many, further ones are dropped.
const TOLD_FACTOR: usize = 2;

/// The bounds and what is counted against them.
pub(crate) struct Admission {
    live: AtomicUsize,
    live_max: usize,
    /// Connections of one address; `None`: any number.
    address_max: Option<usize>,
    addresses: Arc<Places>,
    half_open: Mutex<HalfOpen>,
    half_open_max: usize,
    metrics: EdgeMetrics,
}

#[derive(Default)]
struct HalfOpen {
    /// By order of arrival.
    waiting: BTreeMap<u64, Waiting>,
    /// Those that make room for nobody at the moment, by their numbers. Bounded by how many may wait
    /// for the turn of their session.
    aside: HashMap<u64, Waiting>,
    arrivals: u64,
}

struct Waiting {
    /// Until when it must have sent a request, or the next one; `None`: its session keeps its own
    /// deadline.
    until: Option<Instant>,
    /// Empty for the moment in which the task is being started: then it is not evicted.
    task: Arc<OnceLock<AbortHandle>>,
}

/// The place of one connection among all that are open, and among those of its address.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    _place: Option<Place>,
    /// Its address has too many.
    too_many: bool,
}

/// The place of one connection among the half-open ones, given up when it is dropped.
pub(crate) struct Unproven {
    admission: Arc<Admission>,
    /// Changed under the lock of the table.
    number: AtomicU64,
}

/// A half-open connection that makes room for nobody until this is dropped.
pub(crate) struct Aside<'a> {
    unproven: &'a Unproven,
    since: Instant,
}

impl Admission {
    /// Bounds for `live_max` connections, `half_open_max` of them half-open, and `address_max` of
    /// one address.
    pub(crate) fn new(
        live_max: usize,
        half_open_max: usize,
        address_max: Option<usize>,
        metrics: EdgeMetrics,
    ) -> Arc<Self> {
        metrics
            .connections_max
            .set(i64::try_from(live_max).unwrap_or(i64::MAX));
        Arc::new(Self {
            live: AtomicUsize::new(0),
            live_max: live_max.max(1),
            address_max,
            addresses: Arc::default(),
            half_open: Mutex::default(),
            half_open_max: half_open_max.max(1),
            metrics,
        })
    }

    /// A place for a new connection from `address`: where all are taken, the oldest half-open
    /// connection is dropped for it. `None`: all are taken by connections that have shown who they
    /// are, or far too many by its own address.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        let (place, too_many) = match self.address_max {
            None => (None, false),
            Some(max) => {
                let owner = owner_of(address);
                let taken = self.addresses.take(owner, max.saturating_mul(TOLD_FACTOR));
                let too_many = taken.as_ref().is_none_or(|(_, count)| *count > max);
                if too_many {
                    self.metrics.over_limit.with(&["address"]).inc();
                }
                (Some(taken?.0), too_many)
            }
        };
        // The evicted task gives its permit back when it is dropped, a moment later: for that
        // moment there is one more than allowed, which the reserve of files covers.
        if self.live.load(Ordering::Relaxed) >= self.live_max && !self.evict_oldest() {
            self.metrics.refused_full.inc();
            return None;
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        Some(Permit {
            admission: self.clone(),
            _place: place,
            too_many,
        })
    }

    /// Starts `spawn`'s task as a half-open connection that must send a request within `timeout`.
    pub(crate) fn start(
        self: &Arc<Self>,
        timeout: Duration,
        spawn: impl FnOnce(Unproven) -> AbortHandle,
    ) {
        let started = Arc::<OnceLock<_>>::default();
        let waiting = Waiting {
            until: Some(Instant::now() + timeout),
            task: started.clone(),
        };
        let number = {
            let mut half_open = self.half_open.lock();
            while half_open.waiting.len() >= self.half_open_max && self.drop_first(&mut half_open) {
            }
            half_open.arrives(waiting)
        };
        self.metrics.half_open.inc();
        let task = spawn(Unproven {
            admission: self.clone(),
            number: AtomicU64::new(number),
        });
        // Never under the lock of the table: a runtime that is shutting down drops a new task where
        // it is spawned, and that takes the lock. It is the only one that is put there.
        let _ = started.set(task);
    }

    /// Drops the oldest half-open connection. `false`: there is none.
    pub(crate) fn evict_oldest(&self) -> bool {
        self.drop_first(&mut self.half_open.lock())
    }

    /// Drops half-open connections whose time is up. Costs a walk over them.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut half_open = self.half_open.lock();
        let before = half_open.waiting.len();
        half_open.waiting.retain(|_, waiting| {
            let Some(task) = waiting.task.get() else {
                return true;
            };
            let stays = waiting.until.is_none_or(|until| now < until);
            if !stays {
                task.abort();
            }
            stays
        });
        let dropped = (before - half_open.waiting.len()) as u64;
        if dropped > 0 {
            self.metrics.half_open.sub(dropped as i64);
            self.metrics
                .half_open_dropped
                .with(&["timeout"])
                .inc_by(dropped);
        }
    }

    /// Connections open now.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    fn drop_first(&self, half_open: &mut HalfOpen) -> bool {
        let first = half_open
            .waiting
            .iter()
            .find_map(|(number, waiting)| Some((*number, waiting.task.get()?.clone())));
        match first {
            Some((number, task)) => {
                half_open.waiting.remove(&number);
                task.abort();
                self.metrics.half_open.dec();
                self.metrics.half_open_dropped.with(&["evicted"]).inc();
                true
            }
            None => false,
        }
    }
}

impl HalfOpen {
    /// The newest one; its number.
    fn arrives(&mut self, waiting: Waiting) -> u64 {
        let number = self.arrivals;
        self.arrivals += 1;
        self.waiting.insert(number, waiting);
        number
    }
}

impl Permit {
    /// Why no session may begin on this connection; `None`: one may.
    pub(crate) fn refused(&self) -> Option<Disconnect> {
        self.too_many.then_some(Disconnect::ConnectionLimit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.live.fetch_sub(1, Ordering::Relaxed);
        self.admission.metrics.connections.dec();
    }
}

impl Unproven {
    /// Has `timeout` from now on: it sent a request. It stays half-open, because anybody can send
    /// a request.
    pub(crate) fn prolong(&self, timeout: Duration) {
        if let Some(waiting) = self
            .admission
            .half_open
            .lock()
            .waiting
            .get_mut(&self.number())
        {
            waiting.until = Some(Instant::now() + timeout);
        }
    }

    /// Goes on as half-open in another task, which keeps its own deadline.
    pub(crate) fn hand_over(self, spawn: impl FnOnce(Unproven) -> AbortHandle) {
        let admission = self.admission.clone();
        let started = Arc::<OnceLock<_>>::default();
        match admission.half_open.lock().waiting.get_mut(&self.number()) {
            Some(waiting) => {
                *waiting = Waiting {
                    until: None,
                    task: started.clone(),
                }
            }
            // Evicted a moment ago: this task is about to be dropped, and starts no other.
            None => return,
        }
        let task = spawn(self);
        let _ = started.set(task);
    }

    /// Makes room for nobody, and loses no time, until what is given back is dropped: it waits for
    /// its turn, and whoever comes later waits behind it.
    pub(crate) fn aside(&self) -> Aside<'_> {
        let mut half_open = self.admission.half_open.lock();
        let number = self.number();
        if let Some(waiting) = half_open.waiting.remove(&number) {
            half_open.aside.insert(number, waiting);
        }
        Aside {
            unproven: self,
            since: Instant::now(),
        }
    }

    fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        let mut half_open = self.unproven.admission.half_open.lock();
        if let Some(mut waiting) = half_open.aside.remove(&self.unproven.number()) {
            waiting.until = waiting.until.map(|until| until + self.since.elapsed());
            // Like one that has just come: it would be the next to go otherwise.
            let number = half_open.arrives(waiting);
            self.unproven.number.store(number, Ordering::Relaxed);
        }
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        let number = self.number();
        let mut half_open = self.admission.half_open.lock();
        let waiting = half_open.waiting.remove(&number);
        let aside = half_open.aside.remove(&number);
        if waiting.or(aside).is_some() {
            self.admission.metrics.half_open.dec();
        }
    }
}
