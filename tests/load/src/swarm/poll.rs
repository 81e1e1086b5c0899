//! Readiness of sockets: epoll, level-triggered.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

/// Events taken at once.
const EVENTS: usize = 1024;
/// Shorter waits are kept to the microsecond: epoll itself knows milliseconds only, and a paced
/// load that polled the rest away would take the processor from what it measures.
const PRECISE_BELOW: Duration = Duration::from_millis(5);

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

    /// Waits at most `wait` for at least one ready socket. Waits of 5 ms and more may end up to a
    /// millisecond early.
    ///
    /// # Errors
    /// Waiting fails.
    pub(crate) fn wait(&mut self, wait: Duration, ready: &mut Vec<Readiness>) -> Result<()> {
        if wait.is_zero() || wait >= PRECISE_BELOW {
            // Rounded down: the call beneath would round up.
            let whole = Duration::from_millis(wait.as_millis().min(3_600_000) as u64);
            return self.take(whole, ready);
        }
        self.take(Duration::ZERO, ready)?;
        if !ready.is_empty() {
            return Ok(());
        }
        // An epoll is readable itself while it has something ready.
        let mut this = [PollFd::new(&self.epoll, PollFlags::IN)];
        match poll(&mut this, Some(&timespec(wait))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => self.take(Duration::ZERO, ready),
            Err(e) => Err(e).context("waiting for sockets"),
        }
    }

    fn take(&mut self, wait: Duration, ready: &mut Vec<Readiness>) -> Result<()> {
        self.events.clear();
        let wait = timespec(wait);
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

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    #[test]
    fn a_short_wait_sleeps_its_time_and_ends_with_the_first_socket() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut poll = Poll::new().unwrap();
        poll.add(&b, 7, false).unwrap();
        let mut ready = Vec::new();
        let start = Instant::now();
        poll.wait(Duration::from_micros(700), &mut ready).unwrap();
        assert!(ready.is_empty());
        assert!(start.elapsed() >= Duration::from_micros(700));
        a.write_all(b"x").unwrap();
        for wait in [0, 700, 60_000_000] {
            ready.clear();
            poll.wait(Duration::from_micros(wait), &mut ready).unwrap();
            assert_eq!(ready.len(), 1, "{wait}");
            assert_eq!((ready[0].token, ready[0].readable), (7, true));
        }
    }
}
