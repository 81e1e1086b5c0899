//! Who holds a port: from the kernel's table of sockets to the process that has it open.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// Listening TCP sockets.
    Tcp,
    /// Bound UDP sockets.
    Udp,
}

/// A process that holds a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    /// Its id.
    pub(crate) pid: u32,
    /// Its name, as the kernel has it.
    pub(crate) name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// The process that keeps `addr` busy, as far as this one may see it: processes of other users
/// hide theirs.
pub(crate) fn who_listens(protocol: Protocol, addr: SocketAddr) -> Option<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<u64> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| inodes_of(&text, protocol, addr))
        .collect();
    let links: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    });
    let (pid, path) = pids.into_iter().find(|(_, path)| has_open(path, &links))?;
    let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
    Some(Holder {
        pid,
        name: name.trim_end().to_owned(),
    })
}

/// Whether the process behind `proc` has one of the sockets open.
fn has_open(proc: &Path, links: &[String]) -> bool {
    let Ok(open) = fs::read_dir(proc.join("fd")) else {
        return false;
    };
    open.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .any(|target| {
            target
                .to_str()
                .is_some_and(|target| links.iter().any(|link| link == target))
        })
}

/// The inodes of the sockets in a table of the kernel that keep `addr` busy: on its port, with its
/// address or all of them. Lines read `n: local remote state …`, the inode in the tenth column.
fn inodes_of(table: &str, protocol: Protocol, addr: SocketAddr) -> Vec<u64> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
            if protocol == Protocol::Tcp && *state != LISTEN {
                return None;
            }
            let (ip, port) = local.split_once(':')?;
            let same_port = u16::from_str_radix(port, 16).ok()? == addr.port();
            let ip = address(ip)?;
            let in_the_way = ip.is_unspecified() || addr.ip().is_unspecified() || ip == addr.ip();
            (same_port && in_the_way).then(|| inode.parse().ok())?
        })
        .collect()
}

/// An address in the kernel's notation: words of four bytes in the machine's order.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..hex.len() / 8)
        .map(|n| u32::from_str_radix(hex.get(n * 8..n * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(IpAddr::from(*v4)),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (n, word) in [a, b, c, d].into_iter().enumerate() {
                bytes[n * 4..n * 4 + 4].copy_from_slice(word);
            }
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_holder_is_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = tcp.local_addr().unwrap();
        let holder = who_listens(Protocol::Tcp, addr).unwrap();
        assert_eq!(holder.pid, std::process::id());
        // Who asks for all addresses is kept out by one of them.
        let all = SocketAddr::from(([0, 0, 0, 0], addr.port()));
        assert_eq!(who_listens(Protocol::Tcp, all), Some(holder.clone()));
        assert!(
            holder
                .to_string()
                .starts_with(&format!("process {} (", holder.pid))
        );
        let other = SocketAddr::from(([127, 0, 0, 9], addr.port()));
        assert_eq!(who_listens(Protocol::Tcp, other), None);
        drop(tcp);
        // A child that another test starts has it until it runs its program.
        let began = std::time::Instant::now();
        while let Some(holder) = who_listens(Protocol::Tcp, addr) {
            assert!(began.elapsed().as_secs() < 20, "{holder} still has it");
        }

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let holder = who_listens(Protocol::Udp, udp.local_addr().unwrap());
        assert_eq!(holder.map(|h| h.pid), Some(std::process::id()));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_notation() {
        assert_eq!(address("0100007F"), "127.0.0.1".parse().ok());
        assert_eq!(
            address("00000000000000000000000001000000"),
            "::1".parse().ok()
        );
        assert_eq!(
            address("0000000000000000FFFF00000100007F"),
            "127.0.0.1".parse().ok()
        );
        assert_eq!(address("xyz"), None);
    }
}
