//! Readiness of sockets: epoll, level-triggered.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Events taken at once.
const EVENTS: usize = 1024;

/// One epoll.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What a socket is ready for. An error or the end of the stream counts as readable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// The number it was added with.
    pub(crate) token: usize,
    /// Reading does not block.
    pub(crate) readable: bool,
    /// Writing does not block.
    pub(crate) writable: bool,
}

fn interest(write: bool) -> epoll::EventFlags {
    if write {
        epoll::EventFlags::IN | epoll::EventFlags::OUT
    } else {
        epoll::EventFlags::IN
    }
}

impl Poll {
    /// An empty one.
    ///
    /// # Errors
    /// Too many open files.
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
        Ok(Poll {
            epoll,
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Watches a socket for reading, and for writing if asked.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize, write: bool) -> Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        epoll::add(&self.epoll, socket, data, interest(write)).context("watching a socket")
    }

    /// Changes whether writing is watched for.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn modify(&self, socket: impl AsFd, token: usize, write: bool) -> Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        epoll::modify(&self.epoll, socket, data, interest(write)).context("watching a socket")
    }

    /// Waits at most `wait`, in whole milliseconds rounded down, for at least one ready socket.
    ///
    /// # Errors
    /// Waiting fails.
    pub(crate) fn wait(&mut self, wait: Duration, ready: &mut Vec<Readiness>) -> Result<()> {
        let wait = Timespec {
            tv_sec: wait.as_secs().min(3600) as i64,
            // The call beneath knows milliseconds only and rounds up.
            tv_nsec: i64::from(wait.subsec_millis()) * 1_000_000,
        };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait)) {
            Ok(_) => (),
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e).context("waiting for sockets"),
        }
        ready.extend(self.events.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Readiness {
                token: data.u64() as usize,
                readable: flags.intersects(
                    epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR,
                ),
                writable: flags.contains(epoll::EventFlags::OUT),
            }
        }));
        Ok(())
    }
}
