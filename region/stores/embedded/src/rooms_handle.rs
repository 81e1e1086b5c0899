//! The open database behind the index of rooms. It is opened beside the start of a region, so that
//! nobody who needs no index waits for it. One that is damaged is put aside and begun again, as is one
//! whose files were removed. One that met a full disk is not damaged: it is read as it is, and opened again when there is space.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use gb6_core_ports::StoreError;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::rooms::RoomsConfig;

const KEYSPACE: &str = "runs";
/// Between two attempts to go on after a full disk, or after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether the users of a database are done.
const LET_GO_POLL: Duration = Duration::from_millis(1);
/// Bytes that must fit before an index that met a full disk is opened again.
const SPACE: usize = 1024 * 1024;

/// The file that is there, the same, as long as a database is.
const LOCK: &str = "lock";

/// A database and its keyspace.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) database: Database,
    pub(crate) rooms: Keyspace,
    /// Which file the lock was when it was opened.
    lock: Option<FileId>,
    /// Held by everybody who uses it.
    users: Arc<()>,
}

/// Tells files apart: device and number.
type FileId = (u64, u64);

enum State {
    /// Somebody opens it; whoever needs it waits.
    Opening,
    Open(Open),
    /// The disk was full. What is open may be read.
    Full {
        open: Option<Open>,
        again: Instant,
    },
    /// Not even an empty one could be made.
    Failed {
        error: StoreError,
        again: Instant,
    },
}

/// Why a database could not be opened.
enum OpenError {
    Full,
    /// Somebody has it open.
    Locked,
    Other(StoreError),
}

/// Holds the database, or what became of it.
pub(crate) struct Handle {
    path: PathBuf,
    config: RoomsConfig,
    /// The state, and how often one was opened.
    state: Mutex<(State, u64)>,
    /// When it was last looked whether the files are there.
    looked: Mutex<Instant>,
    changed: Condvar,
    resets: AtomicU64,
}

impl Handle {
    /// Opens the index at `path`, and answers once it is open.
    ///
    /// Errors: not even an empty one can be made.
    pub(crate) fn open(path: &Path, config: RoomsConfig) -> Result<Arc<Self>, StoreError> {
        let handle = Arc::new(Self::closed(path, config));
        handle.open_now();
        match &handle.state.lock().0 {
            State::Failed { error, .. } => return Err(error.clone()),
            State::Full { open: None, .. } => return Err(handle.full()),
            _ => {}
        }
        Ok(handle)
    }

    /// Opens the index at `path` on a thread of its own; whoever needs it waits for it.
    ///
    /// Errors: the system gives no thread.
    pub(crate) fn open_beside(path: &Path, config: RoomsConfig) -> Result<Arc<Self>, StoreError> {
        let handle = Arc::new(Self::closed(path, config));
        let opening = handle.clone();
        std::thread::Builder::new()
            .name("gb6-rooms".into())
            .spawn(move || opening.open_now())
            .map_err(|e| handle.io("start a thread for", &e))?;
        Ok(handle)
    }

    fn closed(path: &Path, config: RoomsConfig) -> Self {
        Self {
            path: path.to_owned(),
            config,
            state: Mutex::new((State::Opening, 0)),
            looked: Mutex::new(Instant::now()),
            changed: Condvar::new(),
            resets: AtomicU64::new(0),
        }
    }

    /// How often it was begun again.
    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// What can be read, and a number for [`Handle::failed`].
    ///
    /// Errors: nothing is open.
    pub(crate) fn reading(&self) -> Result<(Open, u64), StoreError> {
        let mut state = self.present()?;
        if let State::Full { open: None, again } | State::Failed { again, .. } = &state.0
            && *again <= Instant::now()
        {
            state = self.open_again(state)?;
        }
        match &state.0 {
            State::Open(open)
            | State::Full {
                open: Some(open), ..
            } => Ok((open.clone(), state.1)),
            State::Full { .. } => Err(self.full()),
            State::Failed { error, .. } => Err(error.clone()),
            State::Opening => Err(self.late()),
        }
    }

    /// What can be written, and a number for [`Handle::failed`].
    ///
    /// Errors: nothing is open; `StorageFull`.
    pub(crate) fn writing(&self) -> Result<(Open, u64), StoreError> {
        let mut state = self.present()?;
        if let State::Full { again, .. } | State::Failed { again, .. } = &state.0
            && *again <= Instant::now()
        {
            state = self.open_again(state)?;
        }
        match &state.0 {
            State::Open(open) => Ok((open.clone(), state.1)),
            State::Full { .. } => Err(self.full()),
            State::Failed { error, .. } => Err(error.clone()),
            State::Opening => Err(self.late()),
        }
    }

    /// What an operation failed with on what was `opened`: a full disk is waited for, anything
    /// else is damage, after which an empty index begins.
    pub(crate) fn failed(
        &self,
        opened: u64,
        operation: &'static str,
        error: &fjall::Error,
    ) -> StoreError {
        let mut state = self.state.lock();
        let open = match &state.0 {
            State::Open(open) if state.1 == opened => open.clone(),
            // Somebody else has met the same, or it was full and is read until there is space.
            _ => return self.lost(operation, error),
        };
        // A write behind the caller's back may have met the full disk; what was written is there.
        let behind = matches!(error, fjall::Error::Poisoned) && !self.is_gone(&open);
        if is_full(error) || behind {
            let again = Instant::now() + AGAIN;
            state.0 = State::Full {
                open: Some(open),
                again,
            };
            return self.full();
        }
        state.0 = State::Opening;
        drop(state);
        self.let_go(open);
        let next = self.begin_again();
        self.become_state(next);
        self.lost(operation, error)
    }

    /// The state once nobody is opening it, and its files were there a moment ago. An open database
    /// does not notice that they are removed: what it has open it goes on to use.
    fn present(&self) -> Result<MutexGuard<'_, (State, u64)>, StoreError> {
        let mut state = self.opened()?;
        let State::Open(open) = &state.0 else {
            return Ok(state);
        };
        {
            let mut looked = self.looked.lock();
            if looked.elapsed() < self.config.look_every {
                return Ok(state);
            }
            *looked = Instant::now();
        }
        if !self.is_gone(open) {
            return Ok(state);
        }
        let before = std::mem::replace(&mut state.0, State::Opening);
        drop(state);
        if let State::Open(open) = before {
            self.let_go(open);
        }
        let next = self.begin_again();
        self.become_state(next);
        self.opened()
    }

    /// Whether the files of `open` are not at its path any more.
    fn is_gone(&self, open: &Open) -> bool {
        match lock_id(&self.path) {
            Ok(found) => open.lock.is_some_and(|lock| lock != found),
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Closes a database, once its users are done: it must not write to where the next one is. One
    /// that is used for ever is left to itself.
    fn let_go(&self, open: Open) {
        let until = Instant::now() + self.config.open_timeout;
        while Arc::strong_count(&open.users) > 1 && Instant::now() < until {
            std::thread::sleep(LET_GO_POLL);
        }
    }

    fn lost(&self, operation: &str, error: &fjall::Error) -> StoreError {
        StoreError::Unavailable {
            cause: format!(
                "the room index failed ({operation}: {error}) and is begun again: fill it from the log"
            ),
        }
    }

    fn full(&self) -> StoreError {
        StoreError::StorageFull {
            path: self.path.display().to_string(),
        }
    }

    fn late(&self) -> StoreError {
        StoreError::Unavailable {
            cause: "the room index is being opened".into(),
        }
    }

    fn io(&self, operation: &'static str, error: &io::Error) -> StoreError {
        StoreError::Io {
            operation,
            path: self.path.display().to_string(),
            detail: error.to_string(),
        }
    }

    /// The state once nobody is opening it.
    fn opened(&self) -> Result<MutexGuard<'_, (State, u64)>, StoreError> {
        let mut state = self.state.lock();
        // Opening may take its time twice, when the first attempt does not come back.
        let patience = 2 * self.config.open_timeout;
        let waited = self.changed.wait_while_for(
            &mut state,
            |state| matches!(state.0, State::Opening),
            patience,
        );
        if waited.timed_out() {
            return Err(self.late());
        }
        Ok(state)
    }

    fn become_state(&self, next: State) {
        let mut state = self.state.lock();
        if matches!(next, State::Open(_)) {
            state.1 += 1;
        }
        state.0 = next;
        drop(state);
        self.changed.notify_all();
    }

    fn open_now(&self) {
        self.remove_put_aside();
        let next = match self.open_within() {
            Ok(open) => State::Open(open),
            Err(OpenError::Full) => self.still_full(None),
            Err(OpenError::Locked | OpenError::Other(_)) => self.begin_again(),
        };
        self.become_state(next);
    }

    fn still_full(&self, open: Option<Open>) -> State {
        State::Full {
            open,
            again: Instant::now() + AGAIN,
        }
    }

    /// Closes what is open and opens it again, where there is space for it.
    fn open_again<'a>(
        &'a self,
        mut state: MutexGuard<'a, (State, u64)>,
    ) -> Result<MutexGuard<'a, (State, u64)>, StoreError> {
        let before = std::mem::replace(&mut state.0, State::Opening);
        drop(state);
        let next = if self.has_space() {
            // Not two of them on the same files. A reader that is not done yet keeps it open: then
            // the next attempt comes soon.
            drop(before);
            match self.open_within() {
                Ok(open) => State::Open(open),
                Err(OpenError::Full | OpenError::Locked) => self.still_full(None),
                Err(OpenError::Other(_)) => self.begin_again(),
            }
        } else {
            match before {
                State::Full { open, .. } => self.still_full(open),
                _ => self.still_full(None),
            }
        };
        self.become_state(next);
        self.opened()
    }

    /// Whether a bit more than nothing fits on the disk.
    fn has_space(&self) -> bool {
        use std::io::Write;
        let path = self.path.with_extension("space");
        let written = fs::File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0x5a; SPACE])?;
            file.sync_all()
        });
        // It was there for a moment only; one that stays is overwritten by the next attempt.
        let _ = fs::remove_file(&path);
        written.is_ok()
    }

    /// Puts the index aside and begins an empty one.
    fn begin_again(&self) -> State {
        self.resets.fetch_add(1, Ordering::Relaxed);
        if self.path.exists() {
            let aside = (0_u32..)
                .map(|n| self.path.with_extension(format!("damaged-{n}")))
                .find(|p| !p.exists());
            if let Some(aside) = aside
                && let Err(e) = fs::rename(&self.path, &aside)
            {
                return State::Failed {
                    error: self.io("put aside", &e),
                    again: Instant::now() + AGAIN,
                };
            }
        }
        let mut opened = self.open_within();
        self.remove_put_aside();
        if matches!(opened, Err(OpenError::Full)) {
            // What was put aside has given its space back.
            opened = self.open_within();
        }
        match opened {
            Ok(open) => State::Open(open),
            Err(OpenError::Full) => self.still_full(None),
            Err(OpenError::Locked) => State::Failed {
                error: self.late(),
                again: Instant::now() + AGAIN,
            },
            Err(OpenError::Other(error)) => State::Failed {
                error,
                again: Instant::now() + AGAIN,
            },
        }
    }

    /// Removes indexes that were put aside. Space only: what can not be removed now (a thread
    /// that never came back may hold it) is tried again next time.
    fn remove_put_aside(&self) {
        let (Some(parent), Some(stem)) = (self.path.parent(), self.path.file_stem()) else {
            return;
        };
        let prefix = format!("{}.damaged-", stem.to_string_lossy());
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Opens under a watchdog: a recovery that does not come back in time is left to itself (its
    /// thread can not be ended), and answered as an error.
    fn open_within(&self) -> Result<Open, OpenError> {
        let failed = |detail: String| {
            OpenError::Other(StoreError::Io {
                operation: "open the room index",
                path: self.path.display().to_string(),
                detail,
            })
        };
        // overflow: one answer is ever sent.
        let (sender, receiver) = mpsc::sync_channel(1);
        let (path, config) = (self.path.clone(), self.config);
        std::thread::Builder::new()
            .name("gb6-rooms-open".into())
            .spawn(move || {
                // Nobody waits any more after the time-out.
                let _ = sender.send(open(&path, config));
            })
            .map_err(|e| failed(e.to_string()))?;
        match receiver.recv_timeout(self.config.open_timeout) {
            Ok(Ok(open)) => Ok(open),
            Ok(Err(e)) if is_full(&e) => Err(OpenError::Full),
            Ok(Err(fjall::Error::Locked)) => Err(OpenError::Locked),
            Ok(Err(e)) => Err(failed(e.to_string())),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(failed(format!(
                "no answer within {} s",
                self.config.open_timeout.as_secs_f32()
            ))),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(failed("opening it panicked".into())),
        }
    }
}

fn open(path: &Path, config: RoomsConfig) -> fjall::Result<Open> {
    let database = Database::builder(path)
        .cache_size(config.cache_bytes)
        .max_cached_files(Some(64))
        .max_journaling_size(64 * 1024 * 1024)
        .worker_threads(1)
        .open()?;
    let memtable = config.memtable_bytes;
    let rooms = database.keyspace(KEYSPACE, || {
        KeyspaceCreateOptions::default().max_memtable_size(memtable)
    })?;
    Ok(Open {
        database,
        rooms,
        // Without it nobody can tell whether it was replaced, only whether it is gone.
        lock: lock_id(path).ok(),
        users: Arc::new(()),
    })
}

fn lock_id(path: &Path) -> io::Result<FileId> {
    let lock = fs::metadata(path.join(LOCK))?;
    Ok((lock.dev(), lock.ino()))
}

/// Whether the system said that there is no space.
fn is_full(error: &fjall::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return crate::vfs::is_full(error);
        }
        cause = error.source();
    }
    false
}
