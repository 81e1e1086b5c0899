//! A TCP proxy on loopback that passes, delays, throttles, refuses, cuts, or swallows bytes without
//! closing anything, as a broken network path does, for everybody or for single processes; and one for
//! UDP.

mod control;
mod owner;
mod pump;
mod udp;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use control::{ControlError, obey};
use owner::Owner;
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

/// What becomes of whose bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Modes {
    /// Of everybody who is not in `of`.
    all: Mode,
    /// Of single processes of this machine.
    of: BTreeMap<u32, Mode>,
    /// Connections with lower numbers lose every byte, whatever the mode.
    lost_below: u64,
}

/// Connections that were to end: how often those of everybody, and those of single processes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Cuts {
    all: u64,
    of: BTreeMap<u32, u64>,
}

/// A running proxy; dropping it ends it and its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    modes: watch::Sender<Modes>,
    /// Raised to end the connections of an earlier number.
    cuts: watch::Sender<Cuts>,
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
        let pass = Modes {
            all: Mode::Pass,
            of: BTreeMap::new(),
            lost_below: 0,
        };
        let (modes, those) = watch::channel(pass);
        let (cuts, cut) = watch::channel(Cuts::default());
        let counters = Arc::new(Counters::default());
        let accepting = Accepting {
            listener,
            address,
            target: Arc::clone(&target),
            modes: those,
            cuts: cut,
            counters: Arc::clone(&counters),
        };
        let task = tokio::spawn(accepting.run());
        Ok(Self {
            address,
            target,
            modes,
            cuts,
            counters,
            task,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what becomes of everybody's bytes, also on connections that are open.
    pub fn set(&self, mode: Mode) {
        self.set_each(mode, &[]);
    }

    /// Changes what becomes of the bytes: of everybody's, but for the processes of this machine that are
    /// named, of whose connections each has a mode of its own.
    pub fn set_each(&self, all: Mode, of: &[(u32, Mode)]) {
        let of = of.iter().copied().collect();
        self.modes
            .send_modify(|modes| (modes.all, modes.of) = (all, of));
    }

    /// From now on every connection that is open swallows what it is given, for ever, and is not closed, as
    /// where a router on the way has forgotten it; new ones are as the mode is.
    pub fn lose_open(&self) {
        let accepted = self.counters.accepted.load(Ordering::Relaxed);
        self.modes.send_modify(|modes| modes.lost_below = accepted);
    }

    /// Where new connections are passed to.
    pub fn set_target(&self, target: SocketAddr) {
        *self.target.lock() = target;
    }

    /// Closes every open connection; new ones are welcome.
    pub fn close_all(&self) {
        self.cuts.send_modify(|cuts| cuts.all += 1);
    }

    /// Closes the open connections of one process.
    pub fn close_of(&self, pid: u32) {
        self.cuts
            .send_modify(|cuts| *cuts.of.entry(pid).or_default() += 1);
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

/// What becomes of the bytes of one connection.
#[derive(Clone)]
struct Link {
    /// How many were accepted before it.
    number: u64,
    modes: watch::Receiver<Modes>,
    owner: Arc<Owner>,
}

impl Link {
    fn mode(&self) -> Mode {
        let modes = self.modes.borrow();
        if self.number < modes.lost_below {
            return Mode::BlackHole;
        }
        // Whose connection it is costs a look at the kernel's tables, once for each process that is named.
        let own = modes.of.iter().find(|(pid, _)| self.owner.is(**pid));
        own.map_or(modes.all, |(_, mode)| *mode)
    }

    /// Waits until this connection is to end.
    async fn ended(&self, mut cuts: watch::Receiver<Cuts>) {
        let begun = cuts.borrow_and_update().clone();
        loop {
            if cuts.changed().await.is_err() {
                return;
            }
            let now = cuts.borrow_and_update().clone();
            let own = now.of.iter().any(|(pid, n)| {
                begun.of.get(pid).copied().unwrap_or_default() < *n && self.owner.is(*pid)
            });
            if now.all > begun.all || own {
                return;
            }
        }
    }
}

/// What takes connections.
struct Accepting {
    listener: TcpListener,
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    modes: watch::Receiver<Modes>,
    cuts: watch::Receiver<Cuts>,
    counters: Arc<Counters>,
}

impl Accepting {
    async fn run(self) {
        // Ends with this task, and every connection with it.
        let mut connections = JoinSet::new();
        loop {
            let (client, from) = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Out of files for a moment: a test of that must not end the proxy.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next() => continue,
            };
            let link = Link {
                number: self.counters.accepted.fetch_add(1, Ordering::Relaxed),
                modes: self.modes.clone(),
                owner: Arc::new(Owner::of(from, self.address)),
            };
            if link.mode() == Mode::Refuse {
                continue;
            }
            let target = *self.target.lock();
            let cuts = self.cuts.clone();
            let counters = Arc::clone(&self.counters);
            connections.spawn(async move {
                counters.open.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    () = serve(client, target, &link, &counters) => {}
                    () = link.ended(cuts) => {}
                }
                counters.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

async fn serve(client: TcpStream, target: SocketAddr, link: &Link, counters: &Counters) {
    let swallowing = link.mode() == Mode::BlackHole;
    let server = if swallowing {
        None
    } else {
        TcpStream::connect(target).await.ok()
    };
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
        pump::pass(from_client, to_server, link, counters),
        pump::pass(from_server, to_client, link, counters),
    );
}
