//! Statuses of people in the memory of this process: the reference.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::people::{Hold, PeopleStatus, PersonKey, Status, StatusSink, admit};

/// How long a hold lasts.
const LEASE: Duration = Duration::from_secs(30);
/// People of whom something is said or who are followed; a few hundred bytes each beside the status.
const PEOPLE_MAX: usize = 200_000;

/// Statuses in memory.
pub struct MemoryPeople {
    state: Mutex<State>,
    lease: Duration,
}

#[derive(Default)]
struct State {
    // overflow: of a person more than fits nothing is kept, and nobody is told.
    people: HashMap<PersonKey, Person>,
    version: u64,
    swept: Option<Instant>,
}

#[derive(Default)]
struct Person {
    version: u64,
    holds: Vec<Held>,
    sinks: Vec<Weak<dyn StatusSink>>,
}

struct Held {
    holder: String,
    until: Instant,
    /// When it was said first.
    version: u64,
    said: Vec<u8>,
}

impl std::fmt::Debug for MemoryPeople {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let people = self.state().people.len();
        f.debug_struct("MemoryPeople")
            .field("people", &people)
            .finish()
    }
}

impl Default for MemoryPeople {
    fn default() -> Self {
        Self::with_lease(LEASE)
    }
}

impl MemoryPeople {
    /// One whose leases last so long.
    pub fn with_lease(lease: Duration) -> Self {
        Self {
            state: Mutex::default(),
            lease,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Person {
    fn status(&self) -> Status {
        let last = self.holds.iter().max_by_key(|held| held.version);
        Status {
            version: self.version,
            said: last.map(|held| held.said.clone()),
        }
    }

    fn is_over(&mut self, now: Instant) -> bool {
        self.holds.retain(|held| held.until > now);
        self.sinks.retain(|sink| sink.strong_count() > 0);
        self.holds.is_empty() && self.sinks.is_empty()
    }
}

impl State {
    /// Forgets people of whom nothing is said and whom nobody follows. Versions go on: one that was
    /// forgotten never has a lower one.
    fn sweep(&mut self, now: Instant, lease: Duration) {
        if self.swept.is_some_and(|swept| now < swept + lease / 2) {
            return;
        }
        self.swept = Some(now);
        self.people.retain(|_, person| !person.is_over(now));
    }

    fn person(&mut self, key: &PersonKey) -> Option<&mut Person> {
        if !self.people.contains_key(key) && self.people.len() >= PEOPLE_MAX {
            return None;
        }
        Some(self.people.entry(key.clone()).or_default())
    }
}

/// Whether it is this sink, or one that is gone.
fn is_or_gone(weak: &Weak<dyn StatusSink>, sink: &Arc<dyn StatusSink>) -> bool {
    weak.upgrade().is_none_or(|other| Arc::ptr_eq(&other, sink))
}

impl PeopleStatus for MemoryPeople {
    fn hold(&self, holder: &str, holds: &[Hold]) -> Result<Duration, StoreError> {
        admit(
            holds
                .iter()
                .map(|hold| (&hold.person, hold.status.as_ref())),
        )?;
        let now = Instant::now();
        let mut state = self.state();
        state.sweep(now, self.lease);
        for hold in holds {
            let version = state.version + 1;
            let Some(person) = state.person(&hold.person) else {
                continue;
            };
            person.holds.retain(|held| held.until > now);
            let before = person.status().said;
            let mine = person.holds.iter().position(|held| held.holder == holder);
            let mine = mine.map(|at| person.holds.swap_remove(at));
            if let Some(said) = &hold.status {
                let same = mine.filter(|mine| mine.said == *said);
                person.holds.push(Held {
                    holder: holder.to_owned(),
                    until: now + self.lease,
                    version: same.map_or(version, |same| same.version),
                    said: said.clone(),
                });
            }
            if person.status().said != before {
                person.version = version;
                let status = person.status();
                // Under the lock, so that everybody is told in one order; who is told must not block.
                for sink in person.sinks.iter().filter_map(Weak::upgrade) {
                    sink.changed(&hold.person, &status);
                }
            }
            state.version = version;
        }
        Ok(self.lease)
    }

    fn read(&self, people: &[PersonKey]) -> Result<Vec<Status>, StoreError> {
        admit(people.iter().map(|person| (person, None)))?;
        let now = Instant::now();
        let mut state = self.state();
        let read = |key| match state.people.get_mut(key) {
            None => Status::default(),
            Some(person) => {
                person.holds.retain(|held| held.until > now);
                person.status()
            }
        };
        Ok(people.iter().map(read).collect())
    }

    fn follow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        let mut state = self.state();
        let Some(followed) = state.person(person) else {
            return;
        };
        followed.sinks.retain(|weak| !is_or_gone(weak, sink));
        followed.sinks.push(Arc::downgrade(sink));
        drop(state);
        sink.live(person);
    }

    fn unfollow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        if let Some(followed) = self.state().people.get_mut(person) {
            followed.sinks.retain(|weak| !is_or_gone(weak, sink));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let people = MemoryPeople::with_lease(Duration::from_millis(800));
        crate::contract::people::all([&people, &people], "p:");
        std::thread::sleep(Duration::from_millis(900));
        people.hold("e1", &[]).unwrap();
        assert!(
            people.state().people.is_empty(),
            "what has ended is forgotten"
        );
    }
}
