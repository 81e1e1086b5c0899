//! An address that is in use, explained: by whom, and which flag chooses another.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use gb6_edge_node::EdgeError;

use super::port_owner::{Protocol, who_listens};

/// What was to be listened on.
pub(super) struct Busy {
    pub(super) protocol: Protocol,
    pub(super) addr: SocketAddr,
    /// The flag that changes it.
    pub(super) flag: &'static str,
}

impl Busy {
    /// What an edge with this HTTP address could not listen on.
    pub(super) fn of_edge(error: &EdgeError, http: SocketAddr) -> Self {
        match error {
            EdgeError::ListenQuic { address, .. } => Self {
                protocol: Protocol::Udp,
                addr: *address,
                flag: "--quic",
            },
            EdgeError::ListenAdmin { address, .. } => Self {
                protocol: Protocol::Tcp,
                addr: *address,
                flag: "--admin",
            },
            _ => Self {
                protocol: Protocol::Tcp,
                addr: http,
                flag: "--http",
            },
        }
    }
}

/// `error` in better words if it says that the address is in use, else as it is.
pub(super) fn explain<E: Error + Send + Sync + 'static>(error: E, busy: &Busy) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    let (addr, flag) = (busy.addr, busy.flag);
    match kind {
        Some(io::ErrorKind::AddrInUse) => {
            let holder = match who_listens(busy.protocol, addr) {
                Some(holder) => format!("{holder}: end it with `kill {}`", holder.pid),
                None => "a process that this user may not see".into(),
            };
            anyhow::anyhow!("{addr} is in use by {holder}, or choose another address with {flag}, such as {flag} {}:0", addr.ip())
        }
        Some(io::ErrorKind::PermissionDenied) => error.context(format!(
            "{addr} is not allowed to this user: ports below 1024 need a privilege; choose another with {flag}"
        )),
        Some(io::ErrorKind::AddrNotAvailable) => error.context(format!(
            "{} is no address of this machine: choose another with {flag}",
            addr.ip()
        )),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_holder_and_the_flag_are_named() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = held.local_addr().unwrap();
        let error = TcpListener::bind(addr).unwrap_err();
        let busy = Busy {
            protocol: Protocol::Tcp,
            addr,
            flag: "--http",
        };
        let told = explain(error, &busy).to_string();
        assert!(
            told.contains(&format!("process {}", std::process::id())),
            "{told}"
        );
        assert!(told.contains("--http 127.0.0.1:0"), "{told}");
        let other = explain(io::Error::other("something else"), &busy).to_string();
        assert_eq!(other, "something else");
    }
}
