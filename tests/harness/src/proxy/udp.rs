//! A UDP proxy on loopback that passes, swallows, loses, doubles and delays packets: what a network
//! does to the links of a mesh.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};

use super::{Counters, ProxyStats};

/// Peers of one proxy at a time: those of a test are few.
const PEERS_MAX: usize = 256;
/// Packets that are being delayed at a time; what comes beyond them is lost, as in a router.
const DELAYED_MAX: usize = 4_096;
/// The largest packet of UDP.
const PACKET_BYTES: usize = 65_536;

/// What becomes of the packets, both ways.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum UdpMode {
    /// They are passed on.
    Pass,
    /// They are thrown away.
    BlackHole,
    /// By chance they are lost or doubled, and every one is delayed by up to so long, so that they
    /// overtake each other.
    Rough {
        /// The chance of each to be lost, 0 to 1.
        loss: f64,
        /// The chance of each to be passed on twice.
        double: f64,
        /// The longest delay.
        delay: Duration,
    },
}

struct State {
    mode: UdpMode,
    target: Option<SocketAddr>,
    random: StdRng,
}

/// A running proxy between any number of peers and one target; dropping it ends it.
pub struct UdpProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl UdpProxy {
    /// Listens on a free port of 127.0.0.1; `seed` decides what chance does. Packets are thrown
    /// away until it has a target.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(seed: u64) -> std::io::Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = front.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            mode: UdpMode::Pass,
            target: None,
            random: StdRng::seed_from_u64(seed),
        }));
        let counters = Arc::new(Counters::default());
        let path = Path {
            front: Arc::new(front),
            state: Arc::clone(&state),
            counters: Arc::clone(&counters),
        };
        Ok(Self {
            address,
            state,
            counters,
            task: tokio::spawn(path.run()),
        })
    }

    /// Where peers send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where their packets go.
    pub fn set_target(&self, target: SocketAddr) {
        self.state.lock().target = Some(target);
    }

    /// Sets the target from elsewhere, for who knows it only when the proxy is in use.
    pub fn target_setter(&self) -> impl Fn(SocketAddr) + Send + 'static {
        let state = Arc::clone(&self.state);
        move |target| state.lock().target = Some(target)
    }

    /// Changes what becomes of the packets.
    pub fn set(&self, mode: UdpMode) {
        self.state.lock().mode = mode;
    }

    /// What it has seen so far; `accepted` and `open` count peers.
    pub fn stats(&self) -> ProxyStats {
        self.counters.stats()
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Path {
    front: Arc<UdpSocket>,
    state: Arc<Mutex<State>>,
    counters: Arc<Counters>,
}

impl Path {
    async fn run(self) {
        // Each peer has a socket towards the target, by which its answers are known.
        let mut peers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut answers = JoinSet::new();
        let mut delayed = JoinSet::new();
        let mut packet = vec![0; PACKET_BYTES];
        loop {
            let Ok((bytes, from)) = self.front.recv_from(&mut packet).await else {
                // The answer to a packet that nobody took.
                continue;
            };
            let Some(target) = self.state.lock().target else {
                continue;
            };
            let back = match peers.get(&from) {
                Some(back) => back.clone(),
                None if peers.len() >= PEERS_MAX => continue,
                None => {
                    let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else {
                        continue;
                    };
                    let back = Arc::new(back);
                    self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                    self.counters.open.fetch_add(1, Ordering::Relaxed);
                    answers.spawn(self.clone().answer(back.clone(), from));
                    peers.insert(from, back.clone());
                    back
                }
            };
            self.pass(&mut delayed, &back, target, &packet[..bytes])
                .await;
        }
    }

    /// Passes what the target sends to one peer.
    async fn answer(self, back: Arc<UdpSocket>, peer: SocketAddr) {
        let mut delayed = JoinSet::new();
        let mut packet = vec![0; PACKET_BYTES];
        loop {
            if let Ok((bytes, _)) = back.recv_from(&mut packet).await {
                self.pass(&mut delayed, &self.front, peer, &packet[..bytes])
                    .await;
            }
        }
    }

    async fn pass(
        &self,
        delayed: &mut JoinSet<()>,
        by: &Arc<UdpSocket>,
        to: SocketAddr,
        packet: &[u8],
    ) {
        while delayed.try_join_next().is_some() {}
        for wait in self.fates() {
            if wait.is_zero() {
                // A packet that can not be sent is lost, as packets are.
                let _ = by.send_to(packet, to).await;
            } else if delayed.len() < DELAYED_MAX {
                let (by, packet) = (Arc::clone(by), packet.to_vec());
                delayed.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _ = by.send_to(&packet, to).await;
                });
            }
            let bytes = packet.len() as u64;
            self.counters.passed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// How long each copy of a packet waits: none is sent where there is none.
    fn fates(&self) -> Vec<Duration> {
        let mut state = self.state.lock();
        let mode = state.mode;
        let fates = match mode {
            UdpMode::Pass => vec![Duration::ZERO],
            UdpMode::BlackHole => Vec::new(),
            UdpMode::Rough { loss, .. } if state.random.random_bool(loss) => Vec::new(),
            UdpMode::Rough { double, delay, .. } => {
                let copies = 1 + usize::from(state.random.random_bool(double));
                (0..copies)
                    .map(|_| delay.mul_f64(state.random.random_range(0.0..1.0)))
                    .collect()
            }
        };
        if fates.is_empty() {
            self.counters.swallowed.fetch_add(1, Ordering::Relaxed);
        }
        fates
    }
}
