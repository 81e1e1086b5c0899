//! The audit: what was done to an organization, each entry bound to the one before by its hash, so that
//! none can be changed, left out or put in unseen (OWASP ASVS 5.0, 16.4.2). Whoever keeps the newest hash
//! elsewhere also sees that the end was cut off.

use gb6_core_model::hash::digest256;

use super::records::OrgId;

/// The hash before the first entry.
pub const AUDIT_GENESIS: [u8; 32] = [0; 32];
/// What the hashed bytes begin with: another layout gets another one.
const LAYOUT: &[u8] = b"gb6.audit.1";

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditEntry {
    /// The customer.
    pub root: OrgId,
    /// The organization whose chain it is in.
    pub org: OrgId,
    /// Its number in the chain, from 1, without gaps.
    pub number: u64,
    /// When, in ms since 1970, by the clock of who did it.
    pub at_ms: u64,
    /// Who did it.
    pub actor: String,
    /// What, such as `key.create`.
    pub action: String,
    /// To what.
    pub target: String,
    /// The version of the target that it made; 0 where it made none.
    pub version: u64,
    /// Why, from where, by which request.
    pub detail: String,
    /// The hash of the entry before.
    pub previous: [u8; 32],
    /// [`AuditEntry::digest`].
    pub hash: [u8; 32],
}

impl AuditEntry {
    /// SHA-256 over the layout's name and every field up to `previous`, in their order, each behind its
    /// length in four bytes; numbers are eight bytes, big-endian.
    pub fn digest(&self) -> [u8; 32] {
        digest256(&[
            LAYOUT,
            self.root.as_str().as_bytes(),
            self.org.as_str().as_bytes(),
            &self.number.to_be_bytes(),
            &self.at_ms.to_be_bytes(),
            self.actor.as_bytes(),
            self.action.as_bytes(),
            self.target.as_bytes(),
            &self.version.to_be_bytes(),
            self.detail.as_bytes(),
            &self.previous,
        ])
    }
}

/// Whether `entries` go on where a chain had `number` entries and ended with `hash`; answers its new end.
///
/// # Errors
/// The number of the first entry that does not fit.
pub fn verify(
    (mut number, mut hash): (u64, [u8; 32]),
    entries: &[AuditEntry],
) -> Result<(u64, [u8; 32]), u64> {
    for entry in entries {
        number += 1;
        if entry.number != number || entry.previous != hash || entry.hash != entry.digest() {
            return Err(entry.number);
        }
        hash = entry.hash;
    }
    Ok((number, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: u64) -> Vec<AuditEntry> {
        let org = OrgId::parse("org_01J00000000000000000000001").unwrap();
        let mut previous = AUDIT_GENESIS;
        (1..=count)
            .map(|number| {
                let mut entry = AuditEntry {
                    root: org.clone(),
                    org: org.clone(),
                    number,
                    at_ms: 1_800_000_000_000 + number,
                    actor: "usr".into(),
                    action: "key.create".into(),
                    target: "key demo/1".into(),
                    version: 1,
                    detail: String::new(),
                    previous,
                    hash: [0; 32],
                };
                entry.hash = entry.digest();
                previous = entry.hash;
                entry
            })
            .collect()
    }

    #[test]
    fn what_was_changed_is_found() {
        let good = chain(5);
        let end = verify((0, AUDIT_GENESIS), &good).unwrap();
        assert_eq!(end, (5, good[4].hash));
        let two = (2, good[1].hash);
        assert_eq!(verify(two, &good[2..]), Ok(end));
        let mut changed = good.clone();
        changed[2].actor.push('x');
        assert_eq!(verify((0, AUDIT_GENESIS), &changed), Err(3));
        // Hashed anew, it no longer fits the one behind it.
        changed[2].hash = changed[2].digest();
        assert_eq!(verify((0, AUDIT_GENESIS), &changed), Err(4));
        let mut cut = good.clone();
        cut.remove(1);
        assert_eq!(verify((0, AUDIT_GENESIS), &cut), Err(3));
        let mut swapped = good;
        swapped.swap(1, 2);
        assert_eq!(verify((0, AUDIT_GENESIS), &swapped), Err(3));
    }

    /// Computed by an independent program (Python's hashlib) from the description above.
    #[test]
    fn the_layout_never_changes() {
        let hex: String = chain(1)[0]
            .hash
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            "2cf3ad7ea6ad43e2f1d4c65761a1c12eb3c7f90b69506657a99469da2e7096c0"
        );
    }
}
