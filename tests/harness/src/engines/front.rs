//! Proxies before an engine, one for each of its ports, which break together.

use std::net::SocketAddr;
use std::time::Duration;

use crate::proxy::{FaultProxy, Mode};

/// The network between clients and an engine.
#[derive(Debug)]
pub struct Front {
    proxies: Vec<FaultProxy>,
}

impl Front {
    /// A proxy before each of these ports of 127.0.0.1.
    pub(super) async fn start(ports: &[u16]) -> std::io::Result<Self> {
        let mut proxies = Vec::new();
        for port in ports {
            proxies.push(FaultProxy::start(SocketAddr::from(([127, 0, 0, 1], *port))).await?);
        }
        Ok(Self { proxies })
    }

    /// Where clients reach each port.
    pub fn addresses(&self) -> Vec<String> {
        let text = |proxy: &FaultProxy| proxy.address().to_string();
        self.proxies.iter().map(text).collect()
    }

    /// A partition: bytes are swallowed both ways and nothing is closed, until [`Front::heal`].
    pub fn cut(&self) {
        self.set(Mode::BlackHole);
    }

    /// Every byte takes so long, in each direction.
    pub fn delay(&self, by: Duration) {
        self.set(Mode::Delay(by));
    }

    /// Bytes pass again. Connections that lost some are closed, since their streams have holes: a client
    /// connects anew.
    pub fn heal(&self) {
        self.set(Mode::Pass);
        self.close();
    }

    /// A partition between one process of this machine and the engine; others reach it.
    pub fn cut_from(&self, pid: u32) {
        self.set_each(Mode::Pass, &[(pid, Mode::BlackHole)]);
    }

    /// Every byte between one process of this machine and the engine takes so long, in each direction.
    pub fn delay_for(&self, pid: u32, by: Duration) {
        self.set_each(Mode::Pass, &[(pid, Mode::Delay(by))]);
    }

    /// Everybody's bytes pass again. Connections of that process, which may have lost some, are closed.
    pub fn heal_for(&self, pid: u32) {
        self.set(Mode::Pass);
        for proxy in &self.proxies {
            proxy.close_of(pid);
        }
    }

    /// As [`FaultProxy::lose_open`].
    pub fn lose_open(&self) {
        for proxy in &self.proxies {
            proxy.lose_open();
        }
    }

    /// Closes every connection; new ones are welcome.
    pub fn close(&self) {
        for proxy in &self.proxies {
            proxy.close_all();
        }
    }

    /// Any mode of the proxies.
    pub fn set(&self, mode: Mode) {
        for proxy in &self.proxies {
            proxy.set(mode);
        }
    }

    /// As [`FaultProxy::set_each`].
    pub fn set_each(&self, all: Mode, of: &[(u32, Mode)]) {
        for proxy in &self.proxies {
            proxy.set_each(all, of);
        }
    }

    /// One of the proxies, in the order of the engine's ports.
    pub fn proxy(&self, n: usize) -> Option<&FaultProxy> {
        self.proxies.get(n)
    }
}
