//! Entry points for fuzzers: every parser of outside bytes, fed with anything. Each must return.
//! What a fuzzer finds becomes a file in `corpus/`, which the tests replay.

use bytes::Bytes;
use gb6_core_model::snapshot::Snapshot;
use gb6_core_wire::mesh::{Hello, HistoryPage, SnapshotPush, StreamOpen, ToEdge, ToOwner};
use prost::Message;

use crate::frame::FrameReader;
use crate::hello::LocalNode;
use crate::identity::NodeIdentity;

/// Bytes of a stream, cut into frames of every kind, in pieces of several sizes and under several
/// limits. However the bytes arrive, the same frames and the same error come out.
pub fn stream(bytes: &[u8]) {
    for limit in [0, 100, 4 * 1024 * 1024] {
        same_in_pieces::<Hello>(bytes, limit);
        same_in_pieces::<StreamOpen>(bytes, limit);
        same_in_pieces::<ToOwner>(bytes, limit);
        same_in_pieces::<ToEdge>(bytes, limit);
        same_in_pieces::<HistoryPage>(bytes, limit);
    }
}

/// A peer's hello, beside a certificate that is in order.
pub fn hello(bytes: &[u8], local: &LocalNode, certified: &NodeIdentity) {
    if let Ok(hello) = Hello::decode(bytes) {
        match local.check(certified, &hello) {
            Ok(peer) => {
                assert_eq!(peer.node, certified.node);
                assert!(peer.roles.iter().all(|role| certified.has_role(*role)));
                assert!((local.version_min..=local.version_max).contains(&peer.version));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// A certificate in DER.
pub fn certificate(der: &[u8]) {
    if let Err(error) = NodeIdentity::from_certificate(&der.into()) {
        assert!(!error.to_string().is_empty());
    }
}

/// A pushed snapshot's JSON. One that is taken over is called by its own revision, names an owner
/// for every room, and is read again from what is kept of it.
pub fn snapshot(json: &[u8]) {
    let read = |revision, json: &[u8]| {
        let json = Bytes::copy_from_slice(json);
        crate::snapshot::read(&SnapshotPush { revision, json }).ok()
    };
    let Ok(written) = serde_json::from_slice::<Snapshot>(json) else {
        return assert_eq!(read(1, json), None);
    };
    let revision = written.revision;
    assert_eq!(read(revision.wrapping_add(1), json), None);
    let Some(taken) = read(revision, json) else {
        return assert!(written.check().is_err());
    };
    for instance in taken.instances.keys() {
        let owner = taken
            .shard_of(instance, "room:1")
            .and_then(|(region, shard)| taken.regions.get(region)?.owners.get(shard.0 as usize));
        assert!(owner.is_some(), "a room of {instance} has no owner");
    }
    if let Ok(kept) = serde_json::to_vec(&taken) {
        assert_eq!(read(revision, &kept), Some(taken));
    }
}

fn same_in_pieces<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8], limit: usize) {
    let at_once = read::<M>(bytes, usize::MAX, limit);
    for piece in [1, 7] {
        let pieces = read::<M>(bytes, piece, limit);
        assert!(
            pieces == at_once,
            "{pieces:?} in pieces, {at_once:?} at once"
        );
    }
}

/// The frames in `bytes`, given in pieces of at most `piece` bytes, and how it ended.
fn read<M: Message + Default>(
    bytes: &[u8],
    piece: usize,
    limit: usize,
) -> (Vec<M>, Result<(), crate::FrameError>) {
    let mut reader = FrameReader::new(limit);
    let mut frames = Vec::new();
    let mut rest = bytes;
    loop {
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        if rest.is_empty() {
            return (frames, reader.finish());
        }
        let space = reader.space();
        assert!(!space.is_empty(), "there is always room for what comes");
        let n = piece.min(rest.len()).min(space.len());
        space[..n].copy_from_slice(&rest[..n]);
        reader.filled(n);
        rest = &rest[n..];
    }
}
