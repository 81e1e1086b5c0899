//! How many requests of the server API are in hand at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use gb6_core_model::InstanceId;
use parking_lot::Mutex;

/// Requests of one instance in hand at one edge.
const OF_INSTANCE_MAX: usize = 64;
/// Requests of all instances in hand at one edge.
const MAX: usize = 256;

/// Counts requests in hand.
#[derive(Default)]
pub(crate) struct Gate {
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    by_instance: BTreeMap<InstanceId, usize>,
    all: usize,
    /// No more are let in.
    closed: bool,
}

/// Why a request is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shut {
    /// Too many are in hand.
    Full,
    /// The edge drains.
    Draining,
}

/// A request in hand, until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    gate: Arc<Gate>,
    instance: InstanceId,
}

impl Gate {
    /// Lets a request of an instance in.
    // overflow: the newest is refused with 111, so that one instance's requests cost it alone.
    pub(super) fn admit(self: &Arc<Self>, instance: &InstanceId) -> Result<Admitted, Shut> {
        let mut inside = self.inside.lock();
        if inside.closed {
            return Err(Shut::Draining);
        }
        let its = inside.by_instance.get(instance).copied().unwrap_or(0);
        if its >= OF_INSTANCE_MAX || inside.all >= MAX {
            return Err(Shut::Full);
        }
        inside.by_instance.insert(instance.clone(), its + 1);
        inside.all += 1;
        Ok(Admitted {
            gate: Arc::clone(self),
            instance: instance.clone(),
        })
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.inside.lock().closed = true;
    }

    /// Requests in hand.
    pub(crate) fn inside(&self) -> usize {
        self.inside.lock().all
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock();
        inside.all -= 1;
        if let Some(its) = inside.by_instance.get_mut(&self.instance) {
            *its -= 1;
            if *its == 0 {
                inside.by_instance.remove(&self.instance);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instance_leaves_room_for_others_and_a_drain_for_nobody() {
        let gate = Arc::new(Gate::default());
        let (demo, acme) = (InstanceId::from("demo"), InstanceId::from("acme"));
        let its: Vec<_> = (0..OF_INSTANCE_MAX).map(|_| gate.admit(&demo)).collect();
        assert!(its.iter().all(Result::is_ok));
        assert_eq!(gate.admit(&demo).unwrap_err(), Shut::Full);
        let other = gate.admit(&acme);
        assert!(other.is_ok());
        drop(its);
        assert_eq!(gate.inside(), 1);
        assert!(gate.admit(&demo).is_ok());
        gate.close();
        assert_eq!(gate.admit(&demo).unwrap_err(), Shut::Draining);
        drop(other);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn all_together_have_a_bound() {
        let gate = Arc::new(Gate::default());
        let name = |n: usize| InstanceId::from(format!("i{n}").as_str());
        let its: Vec<_> = (0..MAX).map(|n| gate.admit(&name(n)).unwrap()).collect();
        assert_eq!(gate.admit(&name(MAX)).unwrap_err(), Shut::Full);
        drop(its);
    }
}
