//! Ports for servers that must be told one, and that come back to it after they were killed.
//!
//! A port that the kernel chooses (port 0, then closed) would do neither: it may be given out a
//! second time, and while its server is away an outgoing connection of any client may get it as its
//! own port, or even connect to itself. So these are chosen outside the range of such ports.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port that is given out.
const FIRST: u16 = 10_000;
/// Where the kernel's own choice begins if it does not say.
const KERNEL_FIRST: u16 = 32_768;
/// Ports between the first ones of two processes with neighbouring ids.
const STRIDE: u32 = 97;

/// A port of loopback, free for TCP and UDP a moment ago, and never given out twice by this process.
///
/// # Errors
/// None is free.
pub fn free_port() -> std::io::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(kernel_first().saturating_sub(FIRST).max(1));
    let first = std::process::id().wrapping_mul(STRIDE);
    let mut refused = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..span {
        let n = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % span;
        let port = FIRST.saturating_add(u16::try_from(n).unwrap_or(0));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .and_then(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)));
        match free {
            Ok(_) => return Ok(port),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The first port that the kernel chooses by itself.
fn kernel_first() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = range
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok());
    // A machine that leaves nothing below is treated like any other: better some risk than no test.
    first
        .filter(|first| *first > FIRST + 1_000)
        .unwrap_or(KERNEL_FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_not_those_of_outgoing_connections() {
        let ports: Vec<u16> = (0..100).map(|_| free_port().unwrap()).collect();
        let distinct: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), 100);
        assert!(ports.iter().all(|p| (FIRST..kernel_first()).contains(p)));
    }
}
