//! Which process a connection of this machine belongs to, by what the kernel says in `/proc` (proc(5)):
//! the socket of a client has an inode, and the process that has it open a file descriptor with it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

use parking_lot::Mutex;

/// The client's side of a connection.
#[derive(Debug)]
pub(super) struct Owner {
    client: SocketAddr,
    proxy: SocketAddr,
    /// The inode of the client's socket; looked for when it is first asked for, while it is open.
    inode: OnceLock<Option<u64>>,
    /// What was found out: whether it belongs to these processes.
    known: Mutex<BTreeMap<u32, bool>>,
}

impl Owner {
    pub(super) fn of(client: SocketAddr, proxy: SocketAddr) -> Self {
        Self {
            client,
            proxy,
            inode: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// Whether the connection is one of this process.
    pub(super) fn is(&self, pid: u32) -> bool {
        if let Some(known) = self.known.lock().get(&pid) {
            return *known;
        }
        let inode = self.inode.get_or_init(|| inode(self.client, self.proxy));
        let is = inode.is_some_and(|inode| has_open(pid, inode));
        self.known.lock().insert(pid, is);
        is
    }
}

/// The inode of the socket that is bound to `local` and connected to `remote`; `None` for addresses that
/// are not IPv4, and where there is none.
fn inode(local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (shown(local)?, shown(remote)?);
    // A socket of IPv6 may be connected to an address of IPv4; it is shown behind 24 more digits.
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| {
            let text = std::fs::read_to_string(table).ok()?;
            text.lines().skip(1).find_map(|line| {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                let matches = fields.get(1)?.ends_with(&local) && fields.get(2)?.ends_with(&remote);
                matches.then(|| fields.get(9)?.parse().ok()).flatten()
            })
        })
}

/// An address as the kernel's tables show it: the bytes of the address in the machine's order, and the port.
fn shown(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let ip: &Ipv4Addr = address.ip();
    let ip = u32::from_ne_bytes(ip.octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

fn has_open(pid: u32, inode: u64) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let socket = format!("socket:[{inode}]");
    let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    links.into_iter().any(|link| link.to_str() == Some(&socket))
}
