//! A `BlobStore` whose calls fail as those of a real one may: nothing done, done and not known, done later.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gb6_core_ports::contract::Random;
use gb6_core_ports::{
    BlobKey, BlobMeta, BlobStore, BlobWriter, Presigned, PutIf, StoreError, memory::MemoryBlobs,
};
use parking_lot::Mutex;

/// What becomes of calls.
#[derive(Clone, Debug)]
pub(crate) enum Faults {
    /// One in so many fails, by chance.
    Chance(Random, u64),
    /// The call after so many others is the last of this owner's: done or not, its answer is not heard.
    Crash { calls: u64, done: bool },
    /// None fails.
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    /// Nothing happens, and that is known.
    Refused,
    /// It happens, and nobody knows.
    Unheard,
    /// It does not happen, and nobody knows.
    Lost,
    /// It happens later, and nobody knows.
    Late,
}

/// A put on its way.
type Put = (BlobKey, Bytes, PutIf);

struct State {
    faults: Faults,
    calls: u64,
    dead: bool,
    late: Vec<Put>,
}

/// The store as one owner sees it. Owners share the objects and nothing else.
#[derive(Clone)]
pub(crate) struct FaultyBlobs {
    objects: MemoryBlobs,
    state: Arc<Mutex<State>>,
}

impl FaultyBlobs {
    pub(crate) fn new(objects: MemoryBlobs, faults: Faults) -> Self {
        let state = State {
            faults,
            calls: 0,
            dead: false,
            late: Vec::new(),
        };
        Self {
            objects,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Whether the crash has happened.
    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Lets what is still on its way come through.
    pub(crate) fn settle(&self) {
        let late = std::mem::take(&mut self.state.lock().late);
        for (key, body, when) in late {
            // Whatever it comes to, nobody hears of it.
            let _ = self.objects.put(&key, body, when);
        }
    }

    fn fate(&self) -> Fate {
        let mut state = self.state.lock();
        if state.dead {
            return Fate::Refused;
        }
        state.calls += 1;
        let calls = state.calls;
        match &mut state.faults {
            Faults::Never => Fate::Works,
            Faults::Crash { calls: last, done } if calls > *last => {
                let done = *done;
                state.dead = true;
                if done { Fate::Unheard } else { Fate::Refused }
            }
            Faults::Crash { .. } => Fate::Works,
            Faults::Chance(random, one_in) => match random.below(*one_in) {
                0 => {
                    [Fate::Refused, Fate::Unheard, Fate::Lost, Fate::Late][random.below(4) as usize]
                }
                _ => Fate::Works,
            },
        }
    }

    fn put_with(&self, put: Put) -> Result<BlobMeta, StoreError> {
        let fate = self.fate();
        if fate == Fate::Works && self.state.lock().late.len() > 2 {
            self.settle();
        }
        let (key, body, when) = put;
        match fate {
            Fate::Works => self.objects.put(&key, body, when),
            Fate::Refused => Err(refused()),
            Fate::Unheard => {
                // Nobody hears what it came to.
                let _ = self.objects.put(&key, body, when);
                Err(unknown())
            }
            Fate::Lost => Err(unknown()),
            Fate::Late => {
                self.state.lock().late.push((key, body, when));
                Err(unknown())
            }
        }
    }

    fn read<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.fate() {
            Fate::Works => read(),
            _ => Err(refused()),
        }
    }
}

fn refused() -> StoreError {
    StoreError::Unavailable {
        cause: "no answer".into(),
    }
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown {
        cause: "no answer to a put".into(),
    }
}

struct Writer {
    store: FaultyBlobs,
    key: BlobKey,
    body: BytesMut,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.body.extend_from_slice(&bytes);
        self.store.read(|| Ok(()))
    }

    fn finish(self: Box<Self>) -> Result<BlobMeta, StoreError> {
        self.store
            .put_with((self.key, self.body.freeze(), PutIf::Always))
    }
}

impl BlobStore for FaultyBlobs {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        self.put_with((key.clone(), body, when))
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        Ok(Box::new(Writer {
            store: self.clone(),
            key: key.clone(),
            body: BytesMut::new(),
        }))
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.read(|| self.objects.get(key, bytes_max))
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.read(|| self.objects.get_range(key, range))
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        self.read(|| self.objects.head(key))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        self.read(|| self.objects.list(prefix, after, limit))
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        match self.fate() {
            Fate::Works => self.objects.delete(key),
            Fate::Unheard => {
                self.objects.delete(key)?;
                Err(refused())
            }
            _ => Err(refused()),
        }
    }

    fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError> {
        self.objects.presign(key, what, valid)
    }
}
