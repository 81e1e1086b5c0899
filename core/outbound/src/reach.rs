//! Which addresses may be reached: public ones, and those that an operator opened.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    address: IpAddr,
    bits: u32,
}

/// A text is no range of addresses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no range of addresses such as 10.0.0.0/8, fd00::/8 or 127.0.0.1")]
pub struct BadRange(String);

impl Range {
    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, plain(address)) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Range {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|b| *b <= most).ok_or_else(bad)?,
        };
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Which addresses may be reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Ranges that are no public addresses and may be reached all the same. Plain HTTP, without
    /// TLS, is spoken only to these.
    pub opened: Vec<Range>,
}

impl Reach {
    /// Public addresses, and this machine's own: for a node that serves only this machine.
    pub fn with_loopback() -> Self {
        let loopback = |address: IpAddr, bits| Range { address, bits };
        Self {
            opened: vec![
                loopback(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
                loopback(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
            ],
        }
    }

    /// Whether an operator opened the address.
    pub fn is_opened(&self, address: IpAddr) -> bool {
        self.opened.iter().any(|range| range.contains(address))
    }

    /// Whether the address may be reached; `tls`: whether TLS is spoken.
    pub fn allows(&self, address: IpAddr, tls: bool) -> bool {
        self.is_opened(address) || (tls && is_public(address))
    }
}

/// An IPv4 address in an IPv6 one's clothes as itself.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Whether an address is one of the public internet (IANA's registries of special-purpose
/// addresses, RFC 6890). Addresses that carry an IPv4 address within are judged by it.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => public_v4(v4),
        IpAddr::V6(v6) => public_v6(v6),
    }
}

fn public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_unspecified()
        || v4.is_loopback()
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation()
        // This network, shared address space, IETF protocol assignments, 6to4 relays, benchmarks,
        // reserved.
        || a == 0
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240)
}

fn public_v6(v6: Ipv6Addr) -> bool {
    let s = v6.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        // 64:ff9b::/96, translation (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => public_v4(embedded(high, low)),
        // 2002::/16, 6to4 (RFC 3056).
        [0x2002, high, low, ..] => public_v4(embedded(high, low)),
        // 2001::/23, IETF protocol assignments with Teredo; 2001:db8::/32 and 3fff::/20,
        // documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // 2000::/3 is all that is assigned as global unicast.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_public() {
        for public in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.255.255",
            "192.0.1.1",
            "2606:4700::1111",
            "2001:4860::8888",
            "2002:101:101::1",
            "64:ff9b::101:101",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(ip(public)), "{public}");
        }
        for inside in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.1.2.3",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip(inside)), "{inside}");
        }
    }

    #[test]
    fn ranges_are_read_and_refused() {
        let range = |text: &str| text.parse::<Range>();
        assert!(range("10.0.0.0/8").unwrap().contains(ip("10.255.0.1")));
        assert!(!range("10.0.0.0/8").unwrap().contains(ip("11.0.0.1")));
        assert!(range("10.1.2.3").unwrap().contains(ip("::ffff:10.1.2.3")));
        assert!(!range("10.1.2.3").unwrap().contains(ip("10.1.2.4")));
        assert!(range("0.0.0.0/0").unwrap().contains(ip("8.8.8.8")));
        assert!(range("fd00::/8").unwrap().contains(ip("fdff::1")));
        assert!(!range("::/0").unwrap().contains(ip("1.1.1.1")));
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "a/1",
            "10.0.0.1/-1",
        ] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn plain_http_only_goes_where_an_operator_opened() {
        let closed = Reach::default();
        assert!(closed.allows(ip("1.1.1.1"), true));
        assert!(!closed.allows(ip("1.1.1.1"), false));
        assert!(!closed.allows(ip("127.0.0.1"), true));
        let own = Reach::with_loopback();
        assert!(own.allows(ip("127.0.0.1"), false));
        assert!(own.allows(ip("::1"), false));
        assert!(!own.allows(ip("10.0.0.1"), true));
    }

    proptest! {
        #[test]
        fn mapped_addresses_are_judged_as_what_they_carry(bits: u32) {
            let v4 = Ipv4Addr::from_bits(bits);
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            prop_assert_eq!(is_public(mapped), is_public(IpAddr::V4(v4)));
        }
    }
}
