//! Which instance a host name names: one that lists it, else the one whose name is its first
//! label.

use std::collections::HashMap;

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::Snapshot;

use crate::origin::host_of;

/// Longest host name that is looked at, in bytes (RFC 1035 section 2.3.4), brackets of an IPv6
/// address and a final dot included.
const HOST_BYTES_MAX: usize = 255;

/// The host names of a snapshot's instances. It is made once for each snapshot, so that a
/// connection costs one look-up however many instances there are.
#[derive(Debug, Default)]
pub(crate) struct Hosts(HashMap<String, InstanceId>);

impl Hosts {
    /// Those that the instances of `snapshot` list.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let listed = snapshot.instances.iter().flat_map(|(id, instance)| {
            let hosts = instance.hosts.iter();
            hosts.map(|host| (host.to_ascii_lowercase(), id.clone()))
        });
        Self(listed.collect())
    }

    /// The instance that `host[:port]` names in `snapshot`; `None`: none.
    pub(crate) fn instance_of(&self, host: &str, snapshot: &Snapshot) -> Option<InstanceId> {
        let name = host_of(host);
        if name.len() > HOST_BYTES_MAX {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(id) = self.0.get(&name) {
            return Some(id.clone());
        }
        let label = name.split('.').next()?;
        let (id, _) = snapshot.instances.get_key_value(label)?;
        Some(id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::Instance;
    use std::collections::BTreeMap;

    #[test]
    fn a_listed_name_goes_before_a_first_label() {
        let listing = |hosts: &[&str]| Instance {
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            ..Instance::default()
        };
        let snapshot = Snapshot {
            instances: BTreeMap::from([
                ("acme".into(), listing(&["shop.example.org", "[::1]"])),
                ("shop".into(), listing(&[])),
            ]),
            ..Snapshot::default()
        };
        let hosts = Hosts::of(&snapshot);
        let named = |host: &str| hosts.instance_of(host, &snapshot);
        for (host, want) in [
            ("shop.example.org", Some("acme")),
            ("SHOP.example.org.:8443", Some("acme")),
            ("[::1]:8080", Some("acme")),
            ("shop.example.net", Some("shop")),
            ("Acme.example.org:80", Some("acme")),
            ("shop", Some("shop")),
            ("example.org", None),
            ("127.0.0.1:8080", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(named(host), want.map(InstanceId::from), "{host}");
        }
        assert_eq!(named(&format!("acme.{}", "x".repeat(300))), None);
    }
}
