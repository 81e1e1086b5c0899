//! Hosts and their ports.

use std::fmt;

/// Most addresses of one engine: clients find the others by themselves, or try one after the other.
pub const ADDRESSES_MAX: usize = 32;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port; not 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// `HOST:PORT` or `[IPv6]:PORT`, with commas between; `port` is that of hosts without one.
///
/// # Errors
/// There is none, one is twice there, or there are more than [`ADDRESSES_MAX`].
pub fn addresses(list: &str, port: Option<u16>) -> Result<Vec<Address>, String> {
    if list.is_empty() {
        return Err("it names no host: HOST:PORT, several with commas between".to_owned());
    }
    let mut all: Vec<Address> = Vec::new();
    for text in list.split(',') {
        let one = address(text, port)?;
        if all.contains(&one) {
            return Err(format!("the host {one} is there twice"));
        }
        if all.len() == ADDRESSES_MAX {
            return Err(format!("it names more than {ADDRESSES_MAX} hosts"));
        }
        all.push(one);
    }
    Ok(all)
}

fn address(text: &str, default: Option<u16>) -> Result<Address, String> {
    let bad = || match default {
        Some(_) => format!("{text:?} is not HOST or HOST:PORT (IPv6 in brackets)"),
        None => format!("{text:?} is not HOST:PORT (IPv6 in brackets)"),
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(bad)?;
            let port = match port.strip_prefix(':') {
                None if !port.is_empty() => return Err(bad()),
                port => port,
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let bracketed = text.starts_with('[');
    let plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || (bracketed && b == b':')
    };
    let port = match port {
        // Not what `parse` also takes: a sign.
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok(),
        Some(_) => None,
        None => default,
    };
    match port {
        Some(port) if port > 0 && !host.is_empty() && host.bytes().all(plain) => Ok(Address {
            host: host.to_owned(),
            port,
        }),
        _ => Err(bad()),
    }
}
