//! Places that are counted by what they belong to: connections of one address, of one instance.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// How many places of each owner are taken. Bounded by the connections of the edge: an owner
/// without one is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<u64, usize>>);

/// A taken place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    owner: u64,
}

impl Places {
    /// Takes a place for `owner`, of which it may have `max`; with it how many it has now. `None`:
    /// it has them all.
    pub(crate) fn take(self: &Arc<Self>, owner: u64, max: usize) -> Option<(Place, usize)> {
        let mut taken = self.0.lock();
        let before = taken.get(&owner).copied().unwrap_or(0);
        if before >= max {
            return None;
        }
        taken.insert(owner, before + 1);
        let places = self.clone();
        Some((Place { places, owner }, before + 1))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        match taken.get_mut(&self.owner) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.owner);
            }
        }
        if taken.len() < taken.capacity() / 8 {
            taken.shrink_to_fit();
        }
    }
}

/// Whom an address belongs to: itself where it is IPv4, its /64 where it is IPv6, of which one
/// customer of a network has at least one (RFC 6177).
pub(crate) fn owner_of(address: IpAddr) -> u64 {
    match address.to_canonical() {
        // Among the multicast addresses of IPv6, from which nobody connects.
        IpAddr::V4(v4) => 0xffff_ffff << 32 | u64::from(v4.to_bits()),
        // The machine's own is no network of anybody's.
        IpAddr::V6(Ipv6Addr::LOCALHOST) => 0,
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let places = Arc::new(Places::default());
        let first = places.take(7, 2).unwrap();
        let second = places.take(7, 2).unwrap();
        assert_eq!((first.1, second.1), (1, 2));
        assert!(places.take(7, 2).is_none());
        assert!(places.take(8, 2).is_some(), "another's places are its own");
        drop(first);
        assert_eq!(places.take(7, 2).unwrap().1, 2);
        // A bound that was lowered takes nothing away.
        assert!(places.take(7, 1).is_none());
        drop(second);
        assert!(places.0.lock().is_empty());
    }

    #[test]
    fn an_ipv6_customer_is_one_owner_and_ipv4_is_told_apart() {
        let owner = |text: &str| owner_of(text.parse().unwrap());
        assert_eq!(owner("2001:db8:1:2::1"), owner("2001:db8:1:2:ffff::9"));
        assert_ne!(owner("2001:db8:1:2::1"), owner("2001:db8:1:3::1"));
        assert_ne!(owner("192.0.2.1"), owner("192.0.2.2"));
        assert_eq!(owner("192.0.2.1"), owner("::ffff:192.0.2.1"));
        assert_ne!(owner("::1"), owner("127.0.0.1"));
    }
}
