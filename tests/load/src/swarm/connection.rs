//! One client connection: from the first SYN over the handshake to the messages of its codec.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Target, Transport};
use crate::clock::now_ns;
use crate::codec::{Codec, Event};
use crate::ws::{frame, handshake};

/// Bytes that may wait to be written; a run that publishes faster than the server reads ends.
const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The longest message in several frames, in bytes.
const FRAGMENTED_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The SYN is on its way.
    Connecting,
    /// The WebSocket handshake is on its way.
    Handshake,
    /// Messages flow.
    Open,
}

pub(super) struct Connection {
    socket: Option<TcpStream>,
    stage: Stage,
    pub(super) codec: Codec,
    websocket: bool,
    key: [u8; 16],
    /// Bytes to be written, from `written` on.
    out: Vec<u8>,
    written: usize,
    blocked: bool,
    /// Bytes of a frame that is not complete yet.
    rest: Vec<u8>,
    /// A message whose last frame has not come yet.
    fragments: Vec<u8>,
}

impl Connection {
    pub(super) fn begin(
        target: &Target,
        source: Option<SocketAddr>,
        codec: Codec,
        key: [u8; 16],
    ) -> Result<Self> {
        let socket = Socket::new(
            Domain::for_address(target.addr),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )
        .context("opening a socket")?;
        socket
            .set_tcp_nodelay(true)
            .context("setting TCP_NODELAY")?;
        // Cut connections leave no TIME_WAIT behind, of which ten thousand would be left a round.
        socket
            .set_linger(Some(Duration::ZERO))
            .context("setting SO_LINGER")?;
        if let Some(source) = source {
            socket
                .bind(&source.into())
                .with_context(|| format!("connecting from {source}"))?;
        }
        match socket.connect(&target.addr.into()) {
            Ok(()) => (),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => (),
            Err(e) => return Err(e).with_context(|| format!("connecting to {}", target.addr)),
        }
        let mut connection = Connection {
            socket: Some(socket.into()),
            stage: Stage::Connecting,
            codec,
            websocket: matches!(target.transport, Transport::WebSocket { .. }),
            key,
            out: Vec::new(),
            written: 0,
            blocked: true,
            rest: Vec::new(),
            fragments: Vec::new(),
        };
        match &target.transport {
            Transport::WebSocket {
                host,
                path,
                subprotocol,
            } => connection.out = handshake::request(host, path, subprotocol.as_deref(), key),
            Transport::Tcp => connection.codec.hello(&mut connection.out),
        }
        Ok(connection)
    }

    pub(super) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    /// Whether epoll must say when writing is possible.
    pub(super) fn wants_write(&self) -> bool {
        self.blocked
    }

    /// Whether bytes wait that writing was not tried for.
    pub(super) fn unsent(&self) -> bool {
        !self.blocked && self.written < self.out.len()
    }

    /// Queues one message; whether it must be flushed.
    pub(super) fn queue(&mut self, message: &[u8], mask: [u8; 4]) -> bool {
        if self.socket.is_none() || message.is_empty() {
            return false;
        }
        let first = self.out.is_empty();
        if self.websocket {
            let opcode = match self.codec.is_text() {
                true => frame::TEXT,
                false => frame::BINARY,
            };
            frame::write(opcode, message, mask, &mut self.out);
        } else {
            self.out.extend_from_slice(message);
        }
        first && !self.blocked
    }

    /// Writes what is queued as far as the socket takes it.
    pub(super) fn flush(&mut self) -> Result<(), String> {
        let Some(socket) = self.socket.as_mut() else {
            return Ok(());
        };
        while self.written < self.out.len() {
            match socket.write(&self.out[self.written..]) {
                Ok(0) => return Err("the socket takes nothing any more".to_owned()),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    if self.out.len() - self.written > UNSENT_BYTES_MAX {
                        return Err(format!(
                            "the server does not read: {UNSENT_BYTES_MAX} bytes wait for it"
                        ));
                    }
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(e) => return Err(format!("writing: {e}")),
            }
        }
        self.written = 0;
        self.out.clear();
        self.blocked = false;
        Ok(())
    }

    /// The socket takes bytes again, or is connected.
    pub(super) fn writable(&mut self) -> Result<(), String> {
        if self.stage == Stage::Connecting {
            if let Some(socket) = &self.socket
                && let Ok(Some(e)) = socket.take_error()
            {
                return Err(format!("connecting: {e}"));
            }
            self.stage = if self.websocket {
                Stage::Handshake
            } else {
                Stage::Open
            };
        }
        self.flush()
    }

    /// Reads everything that is there.
    pub(super) fn readable(
        &mut self,
        buffer: &mut [u8],
        scratch: &mut Vec<u8>,
        mask: [u8; 4],
        reads: &mut u64,
        on: &mut dyn FnMut(u64, Event<'_>),
    ) -> Result<(), String> {
        loop {
            let Some(socket) = self.socket.as_mut() else {
                return Ok(());
            };
            let n = match socket.read(buffer) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("reading: {e}")),
            };
            *reads += 1;
            let now = now_ns();
            let mut on = |event: Event<'_>| on(now, event);
            if self.rest.is_empty() {
                let used = self.feed(&buffer[..n], scratch, mask, &mut on)?;
                self.rest.extend_from_slice(&buffer[used..n]);
            } else {
                let mut all = std::mem::take(&mut self.rest);
                all.extend_from_slice(&buffer[..n]);
                let used = self.feed(&all, scratch, mask, &mut on)?;
                all.drain(..used);
                self.rest = all;
            }
            if self.rest.is_empty() {
                // Ten thousand connections each keep what they once needed, otherwise.
                self.rest = Vec::new();
            }
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Handles what is complete in `bytes`; how many bytes that is.
    fn feed(
        &mut self,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        mask: [u8; 4],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<usize, String> {
        let mut used = 0;
        if self.stage != Stage::Open {
            match handshake::read_response(bytes, self.key).map_err(|e| e.to_string())? {
                None => return Ok(0),
                Some(length) => used = length,
            }
            self.stage = Stage::Open;
            if self.codec.ready_at_once() {
                on(Event::Ready);
            } else {
                scratch.clear();
                self.codec.hello(scratch);
                self.queue(scratch, mask);
            }
        }
        if !self.websocket {
            self.message(bytes, scratch, mask, on)?;
            return Ok(bytes.len());
        }
        while let Some(frame) = frame::read(&bytes[used..]).map_err(|e| e.to_string())? {
            used += frame.length;
            match frame.opcode {
                frame::PING => frame::write(frame::PONG, frame.payload, mask, &mut self.out),
                frame::PONG => (),
                frame::CLOSE => {
                    let (code, reason) = frame::close_reason(frame.payload);
                    return Err(format!("the server closed the connection: {code} {reason}"));
                }
                _ if frame.last && self.fragments.is_empty() => {
                    self.message(frame.payload, scratch, mask, on)?;
                }
                _ => {
                    self.fragments.extend_from_slice(frame.payload);
                    if self.fragments.len() > FRAGMENTED_BYTES_MAX {
                        return Err("a message in several frames does not end".to_owned());
                    }
                    if frame.last {
                        let whole = std::mem::take(&mut self.fragments);
                        self.message(&whole, scratch, mask, on)?;
                    }
                }
            }
        }
        Ok(used)
    }

    fn message(
        &mut self,
        message: &[u8],
        scratch: &mut Vec<u8>,
        mask: [u8; 4],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), String> {
        scratch.clear();
        self.codec
            .read(message, scratch, on)
            .map_err(|e| e.to_string())?;
        self.queue(scratch, mask);
        Ok(())
    }

    /// Closes the socket at once; whether it was open.
    pub(super) fn cut(&mut self) -> bool {
        self.out = Vec::new();
        self.rest = Vec::new();
        self.written = 0;
        self.socket.take().is_some()
    }
}
