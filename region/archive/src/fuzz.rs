//! Entry points for fuzzers: what a store of objects may hold. Each must return.

use crate::consumers::Consumers;
use crate::manifest::Manifest;

/// A manifest. What is taken is given again, and taken again as the same.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else {
        return;
    };
    let again = Manifest::decode(&manifest.encode());
    assert_eq!(again.as_ref(), Ok(&manifest));
    // What it says can be asked for.
    for position in [0, manifest.first, manifest.next, u64::MAX] {
        let index = manifest.index_of(position);
        assert!(index.is_none_or(|at| manifest.segments[at].first <= position));
    }
    let _ = manifest.bytes();
}

/// A list of consumers. What is taken is given again, and taken again as the same.
pub fn consumers(bytes: &[u8]) {
    if let Some(list) = Consumers::decode(bytes) {
        assert_eq!(Consumers::decode(list.encode().as_bytes()), Some(list));
    }
}
