//! A link to one peer, whichever way it runs.

use std::sync::Arc;

use bytes::Bytes;
use gb6_core_model::NodeId;
use gb6_core_wire::mesh::{Purpose, StreamOpen};
use tokio::sync::{Mutex, mpsc};

use crate::close::{CloseCell, CloseCode, Closed};
use crate::handshake;
use crate::hello::PeerInfo;
use crate::memory::MemoryTransport;
use crate::quic;
use crate::stats::MeshStats;
use crate::stream::{RawStream, Stream};
use crate::transport::{CATCH_UP_PRIORITY, DATAGRAM_BYTES_MAX, Timing};

/// Why a stream was not opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The link has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The peer has as many streams of this link as it allows, and ended none in time.
    #[error("no stream to {0} within the time limit: too many are open")]
    Timeout(NodeId),
    /// The opening says no purpose.
    #[error("a stream without a purpose can not be opened")]
    NoPurpose,
    /// Only the side that dialled opens streams.
    #[error("only the side that dialled opens streams; {0} dialled this link")]
    NotDialler(NodeId),
}

/// Why a datagram was not sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DatagramError {
    /// It is larger than [`DATAGRAM_BYTES_MAX`].
    #[error("a datagram of {bytes} bytes is larger than the limit of {DATAGRAM_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The link has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// A link to one peer. Clones are the same link; when the last handle (also of its streams) is
/// dropped, it is closed.
#[derive(Clone, Debug)]
pub struct Link {
    inner: Arc<Inner>,
}

/// What an accepted stream is for, and its bytes or values.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) open: StreamOpen,
    pub(crate) raw: RawStream,
}

#[derive(Debug)]
pub(crate) enum Transport {
    Quic(quinn::Connection),
    Memory(MemoryTransport),
}

/// What both kinds of links are made of.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) peer: PeerInfo,
    pub(crate) dialled: bool,
    pub(crate) ended: Arc<CloseCell>,
    pub(crate) stats: Arc<MeshStats>,
    pub(crate) timing: Timing,
    pub(crate) transport: Transport,
    pub(crate) opened: Mutex<mpsc::Receiver<Opened>>,
}

impl Link {
    pub(crate) fn new(inner: Inner) -> Self {
        inner.stats.links_up.add(1);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerInfo {
        &self.inner.peer
    }

    /// Whether this side dialled.
    pub fn dialled(&self) -> bool {
        self.inner.dialled
    }

    /// The counters of this side's endpoint.
    pub fn stats(&self) -> &Arc<MeshStats> {
        &self.inner.stats
    }

    /// Whether both handles are of one link (not of two links to one peer).
    pub fn same_link(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Opens a stream. Only the side that dialled may.
    ///
    /// # Errors
    /// The link has ended, too many streams are open, or the opening is not allowed.
    pub async fn open(&self, open: StreamOpen) -> Result<Stream, OpenError> {
        if open.purpose.is_none() {
            return Err(OpenError::NoPurpose);
        }
        if !self.inner.dialled {
            return Err(OpenError::NotDialler(self.peer().node.clone()));
        }
        let opening = async {
            match &self.inner.transport {
                Transport::Quic(connection) => quic::open(connection, &open).await,
                Transport::Memory(memory) => memory.open(&open).await,
            }
        };
        let raw = tokio::select! {
            biased;
            reason = self.closed() => return Err(reason.into()),
            opened = tokio::time::timeout(self.inner.timing.open, opening) => match opened {
                Err(_) => return Err(OpenError::Timeout(self.peer().node.clone())),
                Ok(Ok(raw)) => raw,
                Ok(Err(closed)) => return Err(self.close_reason().unwrap_or(closed).into()),
            },
        };
        self.inner.stats.streams_opened.add(1);
        Ok(Stream::new(self.clone(), raw))
    }

    /// The next stream that the peer opened. On the side that dialled it only waits for the end.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// The link has ended.
    pub async fn accept_stream(&self) -> Result<(StreamOpen, Stream), Closed> {
        let next = async {
            match self.inner.opened.lock().await.recv().await {
                Some(opened) => opened,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = self.closed() => Err(reason),
            Opened { open, raw } = next => {
                self.inner.stats.streams_accepted.add(1);
                Ok((open, Stream::new(self.clone(), raw)))
            }
        }
    }

    /// Sends a datagram: at most once, in no order. Where the peer or the path is too slow,
    /// datagrams are dropped.
    ///
    /// # Errors
    /// It is too large, or the link has ended.
    pub fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        if data.len() > DATAGRAM_BYTES_MAX {
            return Err(DatagramError::TooLarge { bytes: data.len() });
        }
        if let Some(reason) = self.close_reason() {
            return Err(reason.into());
        }
        match &self.inner.transport {
            Transport::Quic(connection) => {
                connection
                    .send_datagram(data)
                    .map_err(|error| match error {
                        quinn::SendDatagramError::ConnectionLost(error) => {
                            Closed::from_quic(&error)
                        }
                        other => Closed::Lost(other.to_string().into()),
                    })?;
            }
            Transport::Memory(memory) => memory.send_datagram(data),
        }
        self.inner.stats.datagrams_out.add(1);
        Ok(())
    }

    /// The next datagram. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The link has ended.
    pub async fn recv_datagram(&self) -> Result<Bytes, Closed> {
        let next = async {
            match &self.inner.transport {
                Transport::Quic(connection) => connection
                    .read_datagram()
                    .await
                    .map_err(|error| Closed::from_quic(&error)),
                Transport::Memory(memory) => Ok(memory.recv_datagram().await),
            }
        };
        let data = tokio::select! {
            biased;
            reason = self.closed() => return Err(reason),
            data = next => data.map_err(|reason| self.close_reason().unwrap_or(reason))?,
        };
        self.inner.stats.datagrams_in.add(1);
        Ok(data)
    }

    /// Waits until the link has ended, and says why.
    pub async fn closed(&self) -> Closed {
        self.inner.ended.wait().await
    }

    /// Why the link has ended; `None` while it has not.
    pub fn close_reason(&self) -> Option<Closed> {
        self.inner.ended.get().cloned()
    }

    /// Ends the link at once, with what was not yet delivered; the peer learns `code` and `text`.
    pub fn close(&self, code: CloseCode, text: &str) {
        self.inner.close(code, text);
    }
}

impl Inner {
    fn close(&self, code: CloseCode, text: &str) {
        let reason = Closed::Local {
            code,
            text: text.into(),
        };
        match &self.transport {
            Transport::Quic(connection) => {
                // Counted by the task that watches the connection.
                self.ended.set(reason);
                connection.close(handshake::code(code), text.as_bytes());
            }
            Transport::Memory(memory) => {
                if self.ended.set(reason) {
                    self.stats.links_down.add(1);
                }
                memory.close_peer(code, text);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.ended.get().is_none() {
            self.close(CloseCode::Done, "no longer needed");
        }
    }
}

/// The QUIC priority of a stream's data.
pub(crate) fn priority(open: &StreamOpen) -> i32 {
    match open.purpose {
        Some(Purpose::CatchUp(_)) => CATCH_UP_PRIORITY,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use gb6_core_wire::mesh::ShardRef;

    use super::*;

    #[test]
    fn only_catch_up_gives_way() {
        let open = |purpose| StreamOpen { purpose };
        let shard = ShardRef::default();
        let catch_up = priority(&open(Some(Purpose::CatchUp(shard.clone()))));
        assert!(catch_up < priority(&open(Some(Purpose::Shard(shard)))));
        assert!(catch_up < priority(&open(None)));
    }
}
