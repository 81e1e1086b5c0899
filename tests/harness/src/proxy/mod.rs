//! A TCP proxy on loopback that passes, delays, throttles, refuses, cuts, or swallows bytes without
//! closing anything, as a broken network path does; and one for UDP.

mod control;
mod pump;
mod udp;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use control::{ControlError, obey};
pub use udp::{UdpMode, UdpProxy};

/// What becomes of the bytes of every connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// They are passed on.
    Pass,
    /// They are read and thrown away, both ways; nothing is closed. A connection that lost bytes
    /// stays so when the mode changes again, since its stream has a hole.
    BlackHole,
    /// They are passed on after so long, in order.
    Delay(Duration),
    /// At most so many bytes a second pass in each direction of each connection.
    Throttle(u64),
    /// New connections are closed at once; the old ones pass.
    Refuse,
}

/// What a proxy has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are open.
    pub open: u64,
    /// Bytes passed on, both ways.
    pub passed: u64,
    /// Bytes thrown away, both ways; packets where it passes packets.
    pub swallowed: u64,
}

#[derive(Default, Debug)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    passed: AtomicU64,
    swallowed: AtomicU64,
}

/// A running proxy; dropping it ends it and its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    mode: watch::Sender<Mode>,
    /// Raised to end every connection of an earlier number.
    cut: watch::Sender<u64>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes everything to `target`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        Self::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target).await
    }

    /// As [`FaultProxy::start`], on a given address.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn listen(address: SocketAddr, target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let target = Arc::new(Mutex::new(target));
        let (mode, modes) = watch::channel(Mode::Pass);
        let (cut, cuts) = watch::channel(0);
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(accept(
            listener,
            Arc::clone(&target),
            modes,
            cuts,
            Arc::clone(&counters),
        ));
        Ok(Self {
            address,
            target,
            mode,
            cut,
            counters,
            task,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what becomes of the bytes, also on connections that are open.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Where new connections are passed to.
    pub fn set_target(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }

    /// Closes every open connection; new ones are welcome.
    pub fn close_all(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// What it has seen so far.
    pub fn stats(&self) -> ProxyStats {
        self.counters.stats()
    }
}

impl Counters {
    fn stats(&self) -> ProxyStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProxyStats {
            accepted: get(&self.accepted),
            open: get(&self.open),
            passed: get(&self.passed),
            swallowed: get(&self.swallowed),
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<SocketAddr>>,
    modes: watch::Receiver<Mode>,
    cuts: watch::Receiver<u64>,
    counters: Arc<Counters>,
) {
    // Ends with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                // Out of files for a moment: a test of that must not end the proxy.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        if *modes.borrow() == Mode::Refuse {
            continue;
        }
        let target = *target.lock();
        let (modes, mut cuts) = (modes.clone(), cuts.clone());
        let counters = Arc::clone(&counters);
        cuts.mark_unchanged();
        connections.spawn(async move {
            counters.open.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = serve(client, target, modes, &counters) => {}
                _ = cuts.changed() => {}
            }
            counters.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(
    client: TcpStream,
    target: SocketAddr,
    modes: watch::Receiver<Mode>,
    counters: &Counters,
) {
    let server = if *modes.borrow() == Mode::BlackHole {
        None
    } else {
        TcpStream::connect(target).await.ok()
    };
    let swallowing = *modes.borrow() == Mode::BlackHole;
    let Some(server) = server else {
        if swallowing {
            pump::swallow(client, counters).await;
        }
        return;
    };
    // Small messages are passed on as they come: what is measured is the server, not Nagle.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pump::pass(from_client, to_server, modes.clone(), counters),
        pump::pass(from_server, to_client, modes, counters),
    );
}
