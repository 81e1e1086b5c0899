//! `EventSink` in memory, which can be made to fail.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::events::{EventSink, SinkEvent};

/// Most events of one call.
const EVENTS_MAX: usize = 16;

#[derive(Default)]
struct State {
    events: Vec<SinkEvent>,
    /// Calls that fail from now on.
    failures: usize,
}

/// Events that were published, in order. Cloning shares them.
#[derive(Clone, Default)]
pub struct MemoryEvents(Arc<Mutex<State>>);

impl MemoryEvents {
    /// What was published so far.
    pub fn events(&self) -> Vec<SinkEvent> {
        self.state().events.clone()
    }

    /// Lets so many calls fail, each after half of its events were published.
    pub fn fail(&self, calls: usize) {
        self.state().failures = calls;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for MemoryEvents {
    fn publish(&self, events: &[SinkEvent]) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.failures > 0 {
            state.failures -= 1;
            let half = events.iter().take(events.len() / 2).cloned();
            state.events.extend(half);
            return Err(StoreError::Unavailable {
                cause: "events are refused".into(),
            });
        }
        state.events.extend_from_slice(events);
        Ok(())
    }

    fn events_max(&self) -> usize {
        EVENTS_MAX
    }
}
