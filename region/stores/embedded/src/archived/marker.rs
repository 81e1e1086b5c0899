//! The file that ties a log's directory to its archive: who of this directory has owned the archive, and
//! which of the log's segments lie there only.
//!
//! An ownership is written here before it begins in the archive. So an archive whose newest ownership is
//! not in this file was gone on from elsewhere, and this directory's log is not the one to copy there.

use gb6_core_model::{Incarnation, ShardEpoch};
use gb6_core_ports::StoreError;
use parking_lot::Mutex;

use crate::vfs::{Named, Vfs, read_file, replace_file};

const FILE: &str = "archived";
const FIRST_LINE: &str = "gb6 archived 1";
const BYTES_MAX: u64 = 4096;
/// The last ownership that is known to have begun, and those behind it that may have.
const OWNERS_KEPT: usize = 8;

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marker {
    /// Segments below this number that are not on the disk lie in the archive; 0: all are on the disk.
    pub(crate) before: u64,
    /// Segments below this number have been removed, whether or not the archive still has them.
    pub(crate) removed: u64,
    /// The ownerships of the archive that began here last, or were about to.
    pub(crate) owners: Vec<(ShardEpoch, Incarnation)>,
}

/// The file in its directory. What changes it does so one after the other.
pub(crate) struct MarkerFile<V> {
    vfs: V,
    changing: Mutex<()>,
}

impl<V: Vfs> MarkerFile<V> {
    pub(crate) fn new(vfs: V) -> Self {
        Self {
            vfs,
            changing: Mutex::new(()),
        }
    }

    /// Reads it; as a directory that was never archived where there is none.
    pub(crate) fn load(&self) -> Result<Marker, StoreError> {
        let vfs = &self.vfs;
        if !vfs.exists(FILE).named(vfs, "look for", FILE)? {
            return Ok(Marker::default());
        }
        let bytes = read_file(vfs, FILE, BYTES_MAX)?;
        Marker::decode(&bytes).ok_or_else(|| StoreError::Corrupt {
            segment: vfs.path(FILE),
            byte: 0,
            position: 0,
            detail:
                "the file does not say how this log and its archive belong together: restore it \
                     from a copy, or move the whole directory away to begin from the archive"
                    .into(),
        })
    }

    /// Changes it, durably, and answers what it says then.
    pub(crate) fn change(
        &self,
        edit: impl FnOnce(&Marker) -> Marker,
    ) -> Result<Marker, StoreError> {
        let _alone = self.changing.lock();
        let before = self.load()?;
        let after = edit(&before);
        if after != before {
            replace_file(&self.vfs, FILE, after.encode().as_bytes())?;
        }
        Ok(after)
    }
}

impl Marker {
    /// Whether `owner` is an ownership of this directory, or none at all.
    pub(crate) fn knows(&self, owner: (ShardEpoch, Incarnation)) -> bool {
        owner.0.0 == 0 || self.owners.contains(&owner)
    }

    /// As it is before `owner` begins in an archive that `last` owned. What was written here behind `last`
    /// may still come through.
    pub(crate) fn about_to(
        &self,
        last: (ShardEpoch, Incarnation),
        owner: (ShardEpoch, Incarnation),
    ) -> Self {
        let mut owners = vec![last];
        let behind = self.owners.iter().skip_while(|known| **known != last);
        owners.extend(behind.skip(1).filter(|known| **known != owner));
        owners.push(owner);
        let surplus = owners.len().saturating_sub(OWNERS_KEPT);
        owners.drain(..surplus);
        Self {
            owners,
            ..self.clone()
        }
    }

    /// As it is once the segments below `removed` are gone.
    pub(crate) fn without(&self, removed: u64) -> Self {
        Self {
            removed: removed.max(self.removed),
            ..self.clone()
        }
    }

    pub(crate) fn encode(&self) -> String {
        let owners = self
            .owners
            .iter()
            .map(|(epoch, owner)| format!("owner {epoch} {:016x}\n", owner.0));
        let owners = String::from_iter(owners);
        let (before, removed) = (self.before, self.removed);
        let text = format!("{FIRST_LINE}\nbefore {before}\nremoved {removed}\n{owners}");
        let crc = crc32c::crc32c(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (body, last) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let crc = u32::from_str_radix(last.strip_prefix("crc ")?, 16).ok()?;
        if crc32c::crc32c(&bytes[..body.len() + 1]) != crc {
            return None;
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let before = lines.next()?.strip_prefix("before ")?.parse().ok()?;
        let removed = lines.next()?.strip_prefix("removed ")?.parse().ok()?;
        let owners = lines.map(|line| {
            let (epoch, owner) = line.strip_prefix("owner ")?.split_once(' ')?;
            let owner = u64::from_str_radix(owner, 16).ok()?;
            Some((ShardEpoch(epoch.parse().ok()?), Incarnation(owner)))
        });
        let owners = owners.collect::<Option<Vec<_>>>()?;
        (owners.len() <= OWNERS_KEPT).then_some(Self {
            before,
            removed,
            owners,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_damage_is_seen() {
        let owner = |epoch| (ShardEpoch(epoch), Incarnation(u64::MAX - epoch));
        let marker = Marker {
            before: 12,
            removed: 7,
            owners: vec![owner(3), owner(4)],
        };
        let text = marker.encode();
        assert_eq!(Marker::decode(text.as_bytes()), Some(marker.clone()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(Marker::decode(&bytes), None, "byte {at}");
        }
        assert!(marker.knows(owner(4)) && marker.knows((ShardEpoch(0), Incarnation(0))));
        assert!(!marker.knows((ShardEpoch(4), Incarnation(1))));
        let next = marker.about_to(owner(4), owner(5));
        assert!(next.knows(owner(4)) && !next.knows(owner(3)));
        // Nobody knows yet whether 5 began.
        let after = next.about_to(owner(4), owner(6));
        assert_eq!(after.owners, [owner(4), owner(5), owner(6)]);
        assert_eq!(
            Marker::decode(Marker::default().encode().as_bytes()),
            Some(Marker::default())
        );
    }
}
