//! The floors over sockets: a WebSocket server of one thread. For fan-out it does nothing but read
//! publications and send them to every subscriber, all that came in one wake-up with one send for
//! each; for durable publishes it writes all that came in one wake-up to a file, syncs it once, and
//! acknowledges with one send for each sender.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use gb6_core_wire::client::{Dialect, websocket_frame};
use socket2::{Domain, Protocol, Socket, Type};

use super::append::AppendFile;
use crate::codec::{SUBSCRIBE, TAG_BYTES};
use crate::swarm::{Poll, Readiness};
use crate::ws::{frame, handshake};

/// The listener's number; connections begin behind it.
const LISTENER: usize = 0;
/// Connections that may wait to be accepted: `somaxconn` of common systems.
const BACKLOG: i32 = 4096;
/// Bytes that may wait for a subscriber before it is cut off.
const UNSENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// How often the end is looked for.
const TURN: Duration = Duration::from_millis(50);

/// A listener on a free port of loopback.
///
/// # Errors
/// There is none.
pub(crate) fn listen() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

struct Connection {
    socket: TcpStream,
    open: bool,
    subscribed: bool,
    rest: Vec<u8>,
    out: Vec<u8>,
    blocked: bool,
}

struct Server {
    poll: Poll,
    connections: Vec<Option<Connection>>,
    /// Numbers of connections that have ended.
    free: Vec<usize>,
    subscribers: Vec<usize>,
    came: Came,
    /// Where publications are synced to; without one they go to the subscribers.
    log: Option<AppendFile>,
    buffer: Vec<u8>,
}

/// What came in one wake-up.
#[derive(Default)]
struct Came {
    /// Frames for every subscriber, or records for the file.
    batch: Vec<u8>,
    /// Whether they are records.
    durable: bool,
    /// Who is to be acknowledged, and by which bytes; what one sent stands together.
    acks: Vec<(usize, [u8; TAG_BYTES])>,
}

/// Serves until `stop`.
///
/// # Errors
/// The listener fails.
pub(crate) fn serve(
    listener: &TcpListener,
    stop: &AtomicBool,
    log: Option<AppendFile>,
) -> Result<()> {
    let mut server = Server {
        poll: Poll::new()?,
        connections: vec![None],
        free: Vec::new(),
        subscribers: Vec::new(),
        came: Came {
            durable: log.is_some(),
            ..Came::default()
        },
        log,
        buffer: vec![0; READ_BYTES],
    };
    server.poll.add(listener, LISTENER, false)?;
    let mut ready: Vec<Readiness> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        server.poll.wait(TURN, &mut ready)?;
        for what in ready.drain(..) {
            if what.token == LISTENER {
                server.accept(listener)?;
            } else if !server.handle(what) {
                server.drop_connection(what.token);
            }
        }
        match server.log {
            None => server.fan_out(),
            Some(_) => server.commit()?,
        }
    }
    Ok(())
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e).context("accepting a connection"),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let number = self.free.pop().unwrap_or(self.connections.len());
            self.poll.add(&socket, number, false)?;
            let connection = Some(Connection {
                socket,
                open: false,
                subscribed: false,
                rest: Vec::new(),
                out: Vec::new(),
                blocked: false,
            });
            match self.connections.get_mut(number) {
                Some(slot) => *slot = connection,
                None => self.connections.push(connection),
            }
        }
    }

    /// Whether the connection lives on.
    fn handle(&mut self, what: Readiness) -> bool {
        let Some(connection) = self
            .connections
            .get_mut(what.token)
            .and_then(Option::as_mut)
        else {
            return true;
        };
        if what.writable && !connection.write(&self.poll, what.token, &[]) {
            return false;
        }
        if what.readable {
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    let mut all = std::mem::take(&mut connection.rest);
                    all.extend_from_slice(&self.buffer[..n]);
                    let was = connection.subscribed;
                    let Some(used) =
                        connection.feed(&mut all, &self.poll, what.token, &mut self.came)
                    else {
                        return false;
                    };
                    if used < all.len() {
                        all.drain(..used);
                        connection.rest = all;
                    }
                    if connection.subscribed && !was {
                        self.subscribers.push(what.token);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => (),
                Err(_) => return false,
            }
        }
        true
    }

    fn fan_out(&mut self) {
        if self.came.batch.is_empty() {
            return;
        }
        let mut gone = Vec::new();
        for number in &self.subscribers {
            if let Some(Some(connection)) = self.connections.get_mut(*number)
                && !connection.write(&self.poll, *number, &self.came.batch)
            {
                gone.push(*number);
            }
        }
        for number in gone {
            self.drop_connection(number);
        }
        self.came.batch.clear();
    }

    fn commit(&mut self) -> Result<()> {
        let Some(log) = self.log.as_mut().filter(|_| !self.came.batch.is_empty()) else {
            return Ok(());
        };
        log.append(&self.came.batch).context("writing the log")?;
        self.came.batch.clear();
        let mut gone = Vec::new();
        let mut frames = Vec::new();
        for of_one in self.came.acks.chunk_by(|a, b| a.0 == b.0) {
            let number = of_one[0].0;
            frames.clear();
            for (_, tag) in of_one {
                frames.extend_from_slice(&websocket_frame(Dialect::Protobuf, tag));
            }
            if let Some(Some(connection)) = self.connections.get_mut(number)
                && !connection.write(&self.poll, number, &frames)
            {
                gone.push(number);
            }
        }
        self.came.acks.clear();
        for number in gone {
            self.drop_connection(number);
        }
        Ok(())
    }

    fn drop_connection(&mut self, number: usize) {
        if self.connections[number]
            .take()
            .is_some_and(|c| c.subscribed)
        {
            self.subscribers.retain(|n| *n != number);
        }
        self.free.push(number);
    }
}

impl Connection {
    /// Handles what is complete; how many bytes that is, or `None` if the client speaks something
    /// else.
    fn feed(
        &mut self,
        bytes: &mut [u8],
        poll: &Poll,
        number: usize,
        came: &mut Came,
    ) -> Option<usize> {
        let mut used = 0;
        if !self.open {
            let Some((answer, length)) = handshake::answer(bytes).ok()? else {
                return Some(0);
            };
            used = length;
            self.open = true;
            if !self.write(poll, number, &answer) {
                return None;
            }
        }
        while let Some(header) = frame::header(&bytes[used..]).ok()? {
            let (start, end) = (used + header.length, used + header.length + header.payload);
            let Some(payload) = bytes.get_mut(start..end) else {
                break;
            };
            used = end;
            if let Some(mask) = header.mask {
                frame::unmask(payload, mask);
            }
            match header.opcode {
                frame::BINARY if payload == SUBSCRIBE => {
                    self.subscribed = true;
                    let confirmed = websocket_frame(Dialect::Protobuf, SUBSCRIBE);
                    if !self.write(poll, number, &confirmed) {
                        return None;
                    }
                }
                frame::BINARY if came.durable => {
                    let (tag, record) = payload.split_first_chunk()?;
                    came.acks.push((number, *tag));
                    came.batch.extend_from_slice(record);
                }
                frame::BINARY => {
                    came.batch
                        .extend_from_slice(&websocket_frame(Dialect::Protobuf, payload));
                }
                frame::CLOSE => return None,
                _ => (),
            }
        }
        Some(used)
    }

    /// Sends `bytes` behind what waits; whether the connection lives on.
    fn write(&mut self, poll: &Poll, number: usize, bytes: &[u8]) -> bool {
        let mut direct = 0;
        if self.out.is_empty() {
            match self.socket.write(bytes) {
                Ok(n) => direct = n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => (),
                Err(_) => return false,
            }
        }
        self.out.extend_from_slice(&bytes[direct..]);
        if direct == 0 && !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => (),
                Err(_) => return false,
            }
        }
        let blocked = !self.out.is_empty();
        if blocked != self.blocked {
            self.blocked = blocked;
            if poll.modify(&self.socket, number, blocked).is_err() {
                return false;
            }
        }
        self.out.len() <= UNSENT_BYTES_MAX
    }
}
