//! Thousands of client connections in one thread: epoll, one shared buffer for reading, and per
//! connection only what is not complete. A load generator shares the machine with what it
//! measures, so it must cost little.

mod connection;
mod poll;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail};

pub(crate) use poll::{Poll, Readiness};

use crate::clock::{now_ns, ns};
use crate::codec::{Codec, Event};
use crate::payload::Random;
use connection::Connection;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Connections from one source address: below the ephemeral ports that one address has.
const PER_SOURCE: usize = 4_000;
/// How long a connection may take to be set up.
pub(crate) const SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Where to connect and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The server.
    pub(crate) addr: SocketAddr,
    /// What carries the protocol.
    pub(crate) transport: Transport,
}

/// What carries a protocol.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    /// WebSocket.
    WebSocket {
        /// The `Host` header.
        host: String,
        /// The path with its query.
        path: String,
        /// The subprotocol that is asked for.
        subprotocol: Option<String>,
    },
    /// TCP as it is.
    Tcp,
}

/// All connections of one side of a run.
pub(crate) struct Swarm {
    poll: Poll,
    target: Target,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    ready: Vec<Readiness>,
    /// Connections with bytes to be written at the end of a turn.
    unflushed: Vec<usize>,
    random: Random,
    /// Reads that brought something, so that coalescing can be seen.
    pub(crate) reads: u64,
    /// Connections that ended without being asked to, and why the first did.
    pub(crate) closed: u64,
    /// The first reason.
    pub(crate) first_close: Option<String>,
}

impl Swarm {
    /// No connections yet.
    ///
    /// # Errors
    /// The system gives no epoll.
    pub(crate) fn new(target: Target) -> Result<Self> {
        Ok(Swarm {
            poll: Poll::new()?,
            target,
            connections: Vec::new(),
            buffer: vec![0; READ_BYTES],
            scratch: Vec::new(),
            ready: Vec::new(),
            unflushed: Vec::new(),
            random: Random::new(now_ns() ^ u64::from(std::process::id()) << 32),
            reads: 0,
            closed: 0,
            first_close: None,
        })
    }

    /// Connections so far, open or not.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Begins a connection. Its events carry the number that is returned.
    ///
    /// # Errors
    /// No socket, or the address refuses at once.
    pub(crate) fn open(&mut self, codec: Codec) -> Result<usize> {
        let number = self.connections.len();
        let source = source(self.target.addr.ip(), number);
        let (a, b) = (self.random.next(), self.random.next());
        let mut key = [0; 16];
        key[..8].copy_from_slice(&a.to_ne_bytes());
        key[8..].copy_from_slice(&b.to_ne_bytes());
        let connection = Connection::begin(&self.target, source, codec, key)?;
        if let Some(socket) = connection.socket() {
            self.poll.add(socket, number, true)?;
        }
        self.connections.push(connection);
        Ok(number)
    }

    /// Lets a connection's codec say something; it is written at the end of the turn or by
    /// [`Swarm::flush`].
    pub(crate) fn send(&mut self, number: usize, say: impl FnOnce(&mut Codec, &mut Vec<u8>)) {
        let connection = &mut self.connections[number];
        self.scratch.clear();
        say(&mut connection.codec, &mut self.scratch);
        let mask = (self.random.next() as u32).to_ne_bytes();
        if connection.queue(&self.scratch, mask) {
            self.unflushed.push(number);
        }
    }

    /// Writes what was said.
    pub(crate) fn flush(&mut self, on: &mut dyn FnMut(usize, u64, Event<'_>)) {
        while let Some(number) = self.unflushed.pop() {
            let connection = &mut self.connections[number];
            let had = connection.wants_write();
            if let Err(why) = connection.flush() {
                self.end(number, why, on);
                continue;
            }
            let connection = &self.connections[number];
            if connection.wants_write() != had
                && let Some(socket) = connection.socket()
                && let Err(e) = self.poll.modify(socket, number, connection.wants_write())
            {
                self.end(number, e.to_string(), on);
            }
        }
    }

    /// Writes what was said, waits at most `wait` for something to happen and tells it: the
    /// connection, the moment of reading, the event.
    ///
    /// # Errors
    /// Waiting fails.
    pub(crate) fn turn(
        &mut self,
        wait: Duration,
        on: &mut dyn FnMut(usize, u64, Event<'_>),
    ) -> Result<()> {
        self.flush(on);
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.wait(wait, &mut ready)?;
        for what in ready.drain(..) {
            self.handle(what, on);
        }
        self.ready = ready;
        self.flush(on);
        Ok(())
    }

    fn handle(&mut self, what: Readiness, on: &mut dyn FnMut(usize, u64, Event<'_>)) {
        let number = what.token;
        let connection = &mut self.connections[number];
        let had = connection.wants_write();
        let mut result = Ok(());
        if what.writable {
            result = connection.writable();
        }
        if result.is_ok() && what.readable {
            let mask = (self.random.next() as u32).to_ne_bytes();
            result = connection.readable(
                &mut self.buffer,
                &mut self.scratch,
                mask,
                &mut self.reads,
                &mut |now, event| on(number, now, event),
            );
        }
        match result {
            Err(why) => self.end(number, why, on),
            Ok(()) => {
                let connection = &self.connections[number];
                if connection.unsent() {
                    self.unflushed.push(number);
                }
                if connection.wants_write() != had
                    && let Some(socket) = connection.socket()
                    && let Err(e) = self.poll.modify(socket, number, connection.wants_write())
                {
                    self.end(number, e.to_string(), on);
                }
            }
        }
    }

    fn end(&mut self, number: usize, why: String, on: &mut dyn FnMut(usize, u64, Event<'_>)) {
        if self.connections[number].cut() {
            self.closed += 1;
            self.first_close.get_or_insert_with(|| why.clone());
            on(number, now_ns(), Event::Closed { why });
        }
    }

    /// Cuts a connection as a failing network does: the server sees a reset.
    pub(crate) fn cut(&mut self, number: usize) {
        self.connections[number].cut();
    }

    /// Cuts all connections.
    pub(crate) fn cut_all(&mut self) {
        for connection in &mut self.connections {
            connection.cut();
        }
    }

    /// Opens `count` connections, `at_once` of them being set up at any time. `codec` makes each
    /// one's codec; `rooms` says what it subscribes to. Tells every event besides.
    ///
    /// # Errors
    /// A connection fails or the time is over: with what the server said.
    pub(crate) fn open_all(
        &mut self,
        count: usize,
        at_once: usize,
        codec: &mut dyn FnMut(usize) -> Codec,
        rooms: &dyn Fn(usize) -> Vec<String>,
        on: &mut dyn FnMut(usize, u64, Event<'_>),
    ) -> Result<()> {
        let first = self.len();
        let deadline = now_ns() + ns(SETUP_TIMEOUT);
        let mut done = 0;
        // Subscriptions that are still to be answered.
        let mut missing: Vec<usize> = Vec::with_capacity(count);
        let mut ready: Vec<usize> = Vec::new();
        let mut failed: Option<String> = None;
        while done < count {
            while self.len() - first < count && self.len() - first - done < at_once {
                let n = self.len() - first;
                missing.push(rooms(n).len());
                self.open(codec(n))?;
            }
            self.turn(Duration::from_millis(100), &mut |number, now, event| {
                match &event {
                    Event::Ready if missing[number - first] > 0 => ready.push(number),
                    Event::Ready => done += 1,
                    Event::Subscribed { .. } => {
                        missing[number - first] -= 1;
                        done += usize::from(missing[number - first] == 0);
                    }
                    Event::SubscriptionLost { code, message } => {
                        failed.get_or_insert_with(|| {
                            format!("the subscription was refused: {code} {message}")
                        });
                    }
                    Event::Closed { why } => {
                        failed.get_or_insert_with(|| why.clone());
                    }
                    _ => (),
                }
                on(number, now, event);
            })?;
            for number in ready.drain(..) {
                let rooms = rooms(number - first);
                self.send(number, |codec, out| {
                    for room in &rooms {
                        codec.subscribe(room, None, out);
                    }
                });
            }
            if let Some(why) = failed {
                bail!("connection {} of {count} failed: {why}", done + 1);
            }
            if now_ns() > deadline {
                bail!(
                    "{done} of {count} connections were set up within {} s; the server is too slow \
                     or stands still",
                    SETUP_TIMEOUT.as_secs()
                );
            }
        }
        Ok(())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.cut_all();
    }
}

/// The address that connection `number` comes from: on loopback, where all of 127.0.0.0/8 is this
/// machine, another one every few thousand connections, since one has only 28,000 ports.
fn source(target: IpAddr, number: usize) -> Option<SocketAddr> {
    match target {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let nth = (number / PER_SOURCE).min(250) as u8;
            Some(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + nth), 0)))
        }
        _ => None,
    }
}
