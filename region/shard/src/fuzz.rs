//! Entry points for fuzzers: what a machine reads of what a disk may hold. Each must return.

use std::sync::Arc;

use gb6_core_wire::mesh::ShardRef;

use crate::{Shard, ShardConfig};

/// A checkpoint's state. What is taken is given again, and taken again with the same end.
pub fn checkpoint(bytes: &[u8]) {
    let of = ShardRef {
        region: "eu".into(),
        shard: 0,
    };
    let fresh = || Shard::new(ShardConfig::new(of.clone()), Arc::default());
    let mut shard = fresh();
    match shard.restore(bytes) {
        Ok(next) => {
            let (_, state) = shard.checkpoint();
            let again = fresh().restore(&state);
            assert_eq!(again.ok(), Some(next));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
