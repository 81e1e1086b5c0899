//! The first frame of a peer.

#![no_main]

use std::sync::LazyLock;

use gb6_core_mesh::{LocalNode, NodeIdentity, fuzz};
use gb6_core_model::{Incarnation, Role};

/// A region that is greeted by an edge whose certificate is in order.
static NODES: LazyLock<(LocalNode, NodeIdentity)> = LazyLock::new(|| {
    let identity = |name, role| NodeIdentity::new(name, [role]).expect("a good name");
    let local = LocalNode::new(identity("r1", Role::Region), Incarnation(7));
    (local, identity("e1", Role::Edge))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::hello(data, &NODES.0, &NODES.1));
