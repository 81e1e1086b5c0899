//! Which instance a session belongs to, in a form that is compared for every frame it is given.

use std::sync::atomic::{AtomicU64, Ordering};

use gb6_core_model::hash::stable_hash64;

/// An instance's name as a number: equal names have equal ones. Two names with one number would
/// only leave a mistake unnoticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct InstanceTag(u64);

impl InstanceTag {
    /// The tag of the instance with this name; never that of no instance.
    pub(crate) fn of(name: &str) -> Self {
        Self(stable_hash64(&[name.as_bytes()]).max(1))
    }

    /// Its number.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// The instance of one session: none until its token is verified, then one for ever.
#[derive(Debug, Default)]
pub(crate) struct SessionInstance(AtomicU64);

impl SessionInstance {
    /// The first token decides; what later ones say is for the session to judge.
    pub(crate) fn set(&self, instance: InstanceTag) {
        // Another one being there already is what is wanted.
        let _ = self
            .0
            .compare_exchange(0, instance.0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the session belongs to this instance.
    #[inline]
    pub(crate) fn is(&self, instance: InstanceTag) -> bool {
        let ours = self.0.load(Ordering::Relaxed);
        ours != 0 && ours == instance.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_decides_and_without_one_there_is_no_instance() {
        let session = SessionInstance::default();
        assert!(!session.is(InstanceTag::default()));
        assert!(!session.is(InstanceTag::of("demo")));
        session.set(InstanceTag::of("demo"));
        session.set(InstanceTag::of("other"));
        assert!(session.is(InstanceTag::of("demo")));
        assert!(!session.is(InstanceTag::of("other")));
        assert!(!session.is(InstanceTag::default()));
    }
}
