//! Limits that the edges keep together: the commands of a user and of an instance. Each edge has a
//! share of them, which it is given in advance, so that a command asks nobody.

mod bucket;
mod leases;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Instance, Snapshot};
use gb6_core_obs::Samples;
use gb6_edge_session::SharedLimits;
use parking_lot::Mutex;

use bucket::Bucket;
pub(crate) use leases::run;

/// What a limit is about: an instance, and one of its users; an empty name: all of the instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct LimitName {
    instance: InstanceId,
    user: Box<str>,
}

/// The limits in use at this edge. Bounded by its sessions: one that no session holds is given up
/// when its share has been given back.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: Mutex<HashMap<LimitName, Arc<Mutex<Bucket>>>>,
    /// Whether any instance of the placement has such limits.
    wanted: AtomicBool,
}

impl Limits {
    /// Works by `snapshot` from now on.
    pub(crate) fn place(&self, snapshot: &Snapshot) {
        let limited =
            |i: &Instance| i.user_command_rate.is_some() || i.instance_command_rate.is_some();
        let wanted = snapshot.instances.values().any(limited);
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether any instance has such limits.
    pub(crate) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn bucket(&self, name: LimitName, now_ms: u64) -> Arc<Mutex<Bucket>> {
        let mut buckets = self.buckets.lock();
        let fresh = || Arc::new(Mutex::new(Bucket::new(now_ms)));
        buckets.entry(name).or_insert_with(fresh).clone()
    }

    /// What is to be told to owners now, by limit.
    fn reports(&self, now_ms: u64) -> Vec<(LimitName, u64)> {
        let mut reports = Vec::new();
        self.buckets.lock().retain(|name, bucket| {
            let held = Arc::strong_count(bucket) > 1;
            let mut bucket = bucket.lock();
            if let Some(demand) = bucket.report(now_ms) {
                reports.push((name.clone(), demand));
            }
            held || !bucket.is_idle()
        });
        reports
    }

    /// An owner gave a share.
    fn shared(&self, name: &LimitName, now_ms: u64, parts: u32, valid_ms: u64, renew_ms: u64) {
        if let Some(bucket) = self.buckets.lock().get(name) {
            bucket.lock().shared(now_ms, parts, valid_ms, renew_ms);
        }
    }

    /// Adds the state to a reading of the metrics.
    pub(crate) fn collect(&self, now_ms: u64, out: &mut Samples<'_>) {
        let buckets = self.buckets.lock();
        let alone = buckets.values().filter(|b| b.lock().is_alone(now_ms));
        let alone = alone.count() as f64;
        out.gauge(
            "gb6_edge_shared_limits",
            "Limits of users and instances in use at this edge.",
            &[],
            buckets.len() as f64,
        );
        out.gauge(
            "gb6_edge_shared_limits_alone",
            "Those of which the owner has given no share for so long that the edge keeps to the whole limit by itself.",
            &[],
            alone,
        );
    }
}

/// The limits of one session: those of its user and of its instance.
#[derive(Debug)]
pub(crate) struct SessionLimits {
    limits: Arc<Limits>,
    instance: InstanceId,
    user: Box<str>,
    of_instance: OnceLock<Arc<Mutex<Bucket>>>,
    of_user: OnceLock<Arc<Mutex<Bucket>>>,
}

impl SessionLimits {
    /// Those of a session of `user` in `instance`.
    pub(crate) fn new(limits: Arc<Limits>, instance: &InstanceId, user: &str) -> Self {
        Self {
            limits,
            instance: instance.clone(),
            user: user.into(),
            of_instance: OnceLock::new(),
            of_user: OnceLock::new(),
        }
    }

    fn bucket<'a>(
        &self,
        place: &'a OnceLock<Arc<Mutex<Bucket>>>,
        user: &str,
        now_ms: u64,
    ) -> &'a Mutex<Bucket> {
        place.get_or_init(|| {
            let name = LimitName {
                instance: self.instance.clone(),
                user: user.into(),
            };
            self.limits.bucket(name, now_ms)
        })
    }
}

impl SharedLimits for SessionLimits {
    fn take(&self, now_ms: u64, instance: &Instance) -> bool {
        // Whoever has no name is one of many, who share the instance's limit only.
        let user = match instance.user_command_rate {
            Some(rate) if !self.user.is_empty() => {
                let bucket = self.bucket(&self.of_user, &self.user, now_ms);
                if !bucket.lock().take(now_ms, rate) {
                    return false;
                }
                Some(bucket)
            }
            _ => None,
        };
        let Some(rate) = instance.instance_command_rate else {
            return true;
        };
        let bucket = self.bucket(&self.of_instance, "", now_ms);
        let taken = bucket.lock().take(now_ms, rate);
        if let (false, Some(user)) = (taken, user) {
            user.lock().give_back();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::CommandRate;

    fn rate(burst: u32) -> Option<CommandRate> {
        Some(CommandRate {
            per_second: 1,
            burst,
        })
    }

    #[test]
    fn users_and_instances_are_told_apart_and_a_refusal_takes_nothing() {
        let limits = Arc::new(Limits::default());
        let session =
            |instance: &str, user| SessionLimits::new(limits.clone(), &instance.into(), user);
        let rules = Instance {
            user_command_rate: rate(3),
            instance_command_rate: rate(4),
            ..Instance::default()
        };
        let (alice, alices_other) = (session("demo", "alice"), session("demo", "alice"));
        let (bob, elsewhere) = (session("demo", "bob"), session("acme", "alice"));
        let take = |s: &SessionLimits| s.take(0, &rules);
        assert!(take(&alice) && take(&alices_other) && take(&alice));
        assert!(!take(&alice) && !take(&alices_other), "her limit");
        assert!(take(&bob), "his own");
        assert!(!take(&bob), "the instance's");
        assert!(take(&elsewhere));
        // What the instance refused was not his: he has two left when it has room.
        let alone = Instance {
            instance_command_rate: None,
            ..rules.clone()
        };
        assert!(bob.take(0, &alone) && bob.take(0, &alone) && !bob.take(0, &alone));
        let nobody = session("demo", "");
        assert!(nobody.take(0, &alone), "without a name there is no user");
        assert!(!nobody.take(0, &rules));
    }

    #[test]
    fn what_no_session_holds_is_forgotten_when_its_share_is_back() {
        let limits = Arc::new(Limits::default());
        let rules = Instance {
            user_command_rate: rate(3),
            ..Instance::default()
        };
        let session = SessionLimits::new(limits.clone(), &"demo".into(), "alice");
        assert!(session.take(0, &rules));
        let name = limits.reports(10).pop().unwrap().0;
        limits.shared(&name, 20, 1_000_000, 30_000, 5_000);
        drop(session);
        assert_eq!(limits.reports(100), []);
        assert_eq!(limits.reports(6_000), [(name, 0)]);
        assert!(limits.buckets.lock().is_empty());
    }
}
