//! The bounded queue in front of a log's writer thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use gb6_core_ports::{Acquire, Acquired, Commit, Completion, Fence, StoreError};
use gb6_core_wire::record::Record;
use parking_lot::{Condvar, Mutex};

use crate::log::{JobDone, SegmentedLog};
use crate::vfs::Vfs;

/// One batch that waits.
pub(crate) struct Append {
    pub(crate) fence: Fence,
    pub(crate) batch: Vec<Record>,
    pub(crate) bytes: usize,
    pub(crate) since: Instant,
    pub(crate) done: Completion<Commit>,
}

type Call<V> = Box<dyn FnOnce(&mut SegmentedLog<V>) + Send>;

/// What a writer thread is told.
pub(crate) enum Command<V: Vfs> {
    Append(Append),
    Acquire(Fence, Acquire, Completion<Acquired>),
    /// Something rare on the writer's thread.
    Call(Call<V>),
    /// Boxed, because it is far larger than the others.
    JobDone(Box<JobDone<V>>),
}

/// The queue. Overflow: an append that does not fit is answered `Backpressure` at once; the other
/// commands are few and always fit.
pub(crate) struct Inbox<V: Vfs> {
    queue: Mutex<Queue<V>>,
    wake: Condvar,
    bytes_max: usize,
}

struct Queue<V: Vfs> {
    commands: VecDeque<Command<V>>,
    bytes: usize,
    closed: bool,
}

impl<V: Vfs> Inbox<V> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                commands: VecDeque::new(),
                bytes: 0,
                closed: false,
            }),
            wake: Condvar::new(),
            bytes_max,
        }
    }

    /// Bytes of batches that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.lock().bytes
    }

    pub(crate) fn append(&self, append: Append) {
        let refused = {
            let mut queue = self.queue.lock();
            if queue.closed {
                Some((append, StoreError::Closed))
            } else if queue.bytes > 0 && queue.bytes + append.bytes > self.bytes_max {
                let waiting = queue.bytes as u64;
                let limit = self.bytes_max as u64;
                Some((append, StoreError::Backpressure { waiting, limit }))
            } else {
                queue.bytes += append.bytes;
                queue.commands.push_back(Command::Append(append));
                None
            }
        };
        match refused {
            Some((append, error)) => append.done.finish(Err(error)),
            None => {
                self.wake.notify_one();
            }
        }
    }

    /// Puts a command that is no batch; gives it back when the writer has ended.
    pub(crate) fn put(&self, command: Command<V>) -> Result<(), Command<V>> {
        {
            let mut queue = self.queue.lock();
            if queue.closed {
                return Err(command);
            }
            queue.commands.push_back(command);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for the next command; `None` once the inbox is closed and empty.
    pub(crate) fn next(&self) -> Option<Command<V>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(command) = queue.commands.pop_front() {
                if let Command::Append(append) = &command {
                    queue.bytes -= append.bytes;
                }
                return Some(command);
            }
            if queue.closed {
                return None;
            }
            self.wake.wait(&mut queue);
        }
    }

    /// The next batch, when the next command is one and it fits beside what was taken already.
    pub(crate) fn next_append(&self, records: usize, bytes: usize) -> Option<Append> {
        let mut queue = self.queue.lock();
        match queue.commands.front() {
            Some(Command::Append(a)) if a.batch.len() <= records && a.bytes <= bytes => {}
            _ => return None,
        }
        match queue.commands.pop_front() {
            Some(Command::Append(append)) => {
                queue.bytes -= append.bytes;
                Some(append)
            }
            _ => None,
        }
    }

    /// Takes no more commands; the writer ends when it has done what waits.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_all();
    }

    /// Takes no more commands, and drops those that wait: their completions answer.
    fn end(&self) {
        let left = {
            let mut queue = self.queue.lock();
            queue.closed = true;
            queue.bytes = 0;
            std::mem::take(&mut queue.commands)
        };
        // Behind the lock: what is told may ask for more at once.
        drop(left);
    }
}

/// Held by the writer thread: however that ends, nobody waits for it any more.
pub(crate) struct EndOfWriter<V: Vfs>(pub(crate) Arc<Inbox<V>>);

impl<V: Vfs> Drop for EndOfWriter<V> {
    fn drop(&mut self) {
        self.0.end();
    }
}
