//! Threads that the shards of a node share for what takes longer than a moment: moving what is committed
//! to the archive, and finding out where a partition goes on.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_ports::StoreError;
use parking_lot::{Condvar, Mutex};

/// Threads of a node.
const THREADS: usize = 4;
/// When a chore that panicked is done again.
const AFTER_PANIC: Duration = Duration::from_secs(5);

/// What is done again and again.
pub(crate) trait Chore: Send + Sync {
    /// Does what is due; answers after how long to look again.
    fn work(&self) -> Duration;
}

/// Those of a node. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Chores(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Something is due, or done.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    chores: Vec<Entry>,
    threads: usize,
    ids: u64,
}

struct Entry {
    id: u64,
    due: Instant,
    /// A thread does it.
    busy: bool,
    chore: Arc<dyn Chore>,
}

thread_local! {
    /// The chore that this thread does.
    static DOES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A chore that is done until this is dropped, which waits for it where it is being done.
pub(crate) struct Done {
    chores: Chores,
    id: u64,
}

impl Chores {
    /// Does something from now on.
    ///
    /// # Errors
    /// `Io`: there is no thread for it.
    pub(crate) fn begin(&self, chore: Arc<dyn Chore>) -> Result<Done, StoreError> {
        let mut state = self.0.state.lock();
        // overflow: none; there are as many as open handles.
        if state.threads < THREADS.min(state.chores.len() + 1) {
            let queue = self.0.clone();
            let name = "kafka-chores";
            let thread = std::thread::Builder::new().name(name.into());
            let started = thread.spawn(move || run(&queue));
            started.map_err(|error| StoreError::Io {
                operation: "start the thread",
                path: name.into(),
                detail: error.to_string(),
            })?;
            state.threads += 1;
        }
        let id = state.ids;
        state.ids += 1;
        state.chores.push(Entry {
            id,
            due: Instant::now(),
            busy: false,
            chore,
        });
        self.0.changed.notify_all();
        Ok(Done {
            chores: self.clone(),
            id,
        })
    }
}

impl Done {
    /// It is due now.
    pub(crate) fn hurry(&self) {
        let mut state = self.chores.0.state.lock();
        if let Some(entry) = state.chores.iter_mut().find(|entry| entry.id == self.id) {
            entry.due = Instant::now();
        }
        self.chores.0.changed.notify_all();
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let queue = &self.chores.0;
        let mut state = queue.state.lock();
        // What it does itself it does not wait for.
        let own = DOES.get() == Some(self.id);
        let is_busy = |state: &State| state.chores.iter().any(|e| e.id == self.id && e.busy);
        while !own && is_busy(&state) {
            queue.changed.wait(&mut state);
        }
        let at = state.chores.iter().position(|entry| entry.id == self.id);
        let entry = at.map(|at| state.chores.swap_remove(at));
        queue.changed.notify_all();
        drop(state);
        // It may be the last to hold what it is about.
        drop(entry);
    }
}

/// Runs while there are chores.
fn run(queue: &Queue) {
    let mut state = queue.state.lock();
    loop {
        if state.chores.is_empty() {
            state.threads -= 1;
            return;
        }
        let now = Instant::now();
        let idle = state.chores.iter_mut().filter(|entry| !entry.busy);
        let Some(next) = idle.min_by_key(|entry| entry.due) else {
            queue.changed.wait(&mut state);
            continue;
        };
        if next.due > now {
            let due = next.due;
            queue.changed.wait_until(&mut state, due);
            continue;
        }
        next.busy = true;
        // What hurries it meanwhile is done after it.
        next.due = now + Duration::from_secs(u64::from(u32::MAX));
        let (id, chore) = (next.id, next.chore.clone());
        drop(state);
        DOES.set(Some(id));
        let done = catch_unwind(AssertUnwindSafe(|| chore.work()));
        let again = done.unwrap_or_else(|_| {
            tracing::error!(
                "what looks after a shard's archive panicked, which is a defect: it is tried again"
            );
            AFTER_PANIC
        });
        drop(chore);
        DOES.set(None);
        state = queue.state.lock();
        if let Some(entry) = state.chores.iter_mut().find(|entry| entry.id == id) {
            entry.busy = false;
            entry.due = entry.due.min(Instant::now() + again);
        }
        queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// Counts how often it is done, and how many such are done at once.
    struct Counts {
        done: AtomicUsize,
        now: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        panics: bool,
    }

    impl Chore for Counts {
        fn work(&self) -> Duration {
            let now = self.now.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(now, SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            self.now.fetch_sub(1, SeqCst);
            self.done.fetch_add(1, SeqCst);
            assert!(!self.panics, "a defect");
            Duration::from_millis(5)
        }
    }

    #[test]
    fn many_are_done_by_few_threads_and_none_after_its_end() {
        let chores = Chores::default();
        let (now, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let all: Vec<Arc<Counts>> = (0..64)
            .map(|n| {
                Arc::new(Counts {
                    done: AtomicUsize::new(0),
                    now: now.clone(),
                    most: most.clone(),
                    panics: n == 7,
                })
            })
            .collect();
        let done: Vec<Done> = all
            .iter()
            .map(|counts| chores.begin(counts.clone()).expect("a thread"))
            .collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        while all.iter().any(|c| !c.panics && c.done.load(SeqCst) < 3) {
            assert!(Instant::now() < deadline, "some are not done");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(most.load(SeqCst) <= THREADS, "{most:?}");
        assert!(all[7].done.load(SeqCst) >= 1);
        drop(done);
        let counted = || all.iter().map(|c| c.done.load(SeqCst)).sum::<usize>();
        let before = counted();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(counted(), before);
        while chores.0.state.lock().threads > 0 {
            assert!(Instant::now() < deadline, "the threads end");
            std::thread::sleep(Duration::from_millis(1));
        }
        // They begin again.
        let again = chores.begin(all[0].clone()).expect("a thread");
        while counted() == before {
            assert!(Instant::now() < deadline, "it is not done");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(again);
    }
}
