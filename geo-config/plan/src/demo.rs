//! The snapshot of `gb6 dev`: one region, every role in one process, and the instance `demo` or
//! those of its file.

use std::collections::BTreeMap;

use gb6_core_model::snapshot::{
    ChannelKind, Instance, Key, KeyAlgorithm, KeyUse, Namespace, Node, Region, Snapshot, Who,
};
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId, Role, limits};

use crate::slots::{SLOTS_DEFAULT, choose_slots};

/// The instance of `gb6 dev` where its file names none.
pub const DEMO_INSTANCE: &str = "demo";
/// The region of `gb6 dev`.
pub const DEMO_REGION: &str = "local";
/// Shards of that region.
pub const DEMO_SHARDS: u32 = 4;

/// What differs between two runs of `gb6 dev`.
#[derive(Clone)]
pub struct DemoMesh<'a> {
    /// The snapshot's revision.
    pub revision: u64,
    /// The id of the key that signs tokens.
    pub key_id: &'a str,
    /// Its secret, at least [`SECRET_BYTES_MIN`](crate::SECRET_BYTES_MIN) bytes.
    pub secret: &'a str,
    /// The node that has the role region and owns every shard.
    pub region_node: &'a NodeId,
    /// The node that has the role edge; it may be the same.
    pub edge_node: &'a NodeId,
}

/// The nodes of `gb6 dev`.
#[derive(Clone, Debug)]
pub struct DevMesh<'a> {
    /// The node that has the role region and owns every shard.
    pub region_node: &'a NodeId,
    /// The node that has the role edge; it may be the same.
    pub edge_node: &'a NodeId,
}

/// The instance `demo` without a rate limit, whose namespace `room` has presence, forced join and
/// leave pushes, forced recovery and positioning, deltas, filters by tags, and keeps its history for
/// ever; channels of `signal` are the same and keep nothing. Statuses of users are kept, and channels of `status` tell
/// of them. It has no key.
pub fn demo_instance() -> Instance {
    let room = Namespace {
        presence: true,
        join_leave: true,
        force_join_leave: true,
        delta: true,
        tags_filter: true,
        ..Namespace::default()
    };
    let signal = Namespace {
        kind: ChannelKind::Signal,
        ..room.clone()
    };
    let status = Namespace {
        user_status: true,
        allow_publish: Who::Nobody,
        ..signal.clone()
    };
    Instance {
        region: DEMO_REGION.into(),
        epoch: InstanceEpoch(1),
        slots: choose_slots(&InstanceId::from(DEMO_INSTANCE), SLOTS_DEFAULT),
        namespaces: BTreeMap::from([
            ("room".into(), room),
            ("signal".into(), signal),
            ("status".into(), status),
        ]),
        subscriptions_max: limits::SUBSCRIPTIONS_MAX,
        user_status_ttl_ms: limits::USER_STATUS_TTL_MS_MAX,
        ..Instance::default()
    }
}

/// The snapshot of `gb6 dev` with the instance of [`demo_instance`] alone.
pub fn demo_snapshot(mesh: &DemoMesh<'_>) -> Snapshot {
    let key = Key {
        id: mesh.key_id.into(),
        usage: KeyUse::Client,
        algorithm: KeyAlgorithm::HS256,
        secret: mesh.secret.into(),
        ..Key::default()
    };
    let demo = Instance {
        keys: vec![key],
        ..demo_instance()
    };
    let nodes = DevMesh {
        region_node: mesh.region_node,
        edge_node: mesh.edge_node,
    };
    let instances = BTreeMap::from([(DEMO_INSTANCE.into(), demo)]);
    dev_snapshot(mesh.revision, instances, &nodes)
}

/// The snapshot of `gb6 dev` with these instances, all in its one region.
pub fn dev_snapshot(
    revision: u64,
    instances: BTreeMap<InstanceId, Instance>,
    mesh: &DevMesh<'_>,
) -> Snapshot {
    let region = Region {
        shards: DEMO_SHARDS,
        slots: BTreeMap::new(),
        owners: vec![mesh.region_node.clone(); DEMO_SHARDS as usize],
        ..Default::default()
    };
    let mut nodes = BTreeMap::new();
    let mut add = |node: &NodeId, role, region: Option<&str>| {
        let entry = nodes.entry(node.clone()).or_insert(Node {
            roles: Vec::new(),
            mesh: None,
            region: None,
        });
        entry.roles.push(role);
        if let Some(region) = region {
            entry.region = Some(region.into());
        }
    };
    add(mesh.region_node, Role::Region, Some(DEMO_REGION));
    add(mesh.edge_node, Role::Edge, None);
    Snapshot {
        revision,
        instances,
        regions: BTreeMap::from([(DEMO_REGION.into(), region)]),
        nodes,
    }
}
