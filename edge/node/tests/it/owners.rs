//! Regions whose nodes decide who owns what: the edge goes where it is told.

use gb6_core_mesh::{Endpoint, Timing};
use gb6_core_model::snapshot::{Assigned, Snapshot};
use gb6_core_model::{NodeId, Role};
use gb6_core_wire::mesh::{OwnersNow, ShardOwner};
use serde_json::json;

use crate::client::Client;
use crate::owner::Owner;
use crate::world::{World, config, eventually, local, snapshot};

/// A region of two nodes, of which the first is where its shard is looked for.
fn placement() -> Snapshot {
    let mut placement = snapshot();
    placement.regions.get_mut("r").unwrap().assigned = Assigned::Region;
    let node = placement.nodes["r1"].clone();
    placement.nodes.insert(NodeId::from("r2"), node);
    placement
}

/// The second node.
fn second(world: &World) -> (Owner, Endpoint) {
    let owner = Owner::default();
    owner.place(world.snapshot.clone());
    let local = local("r2", Role::Region);
    let endpoint = world.network.bind(local, Timing::default()).unwrap();
    owner.serve(endpoint.clone());
    (owner, endpoint)
}

fn tell(by: &Owner, epoch: u64, node: &str) {
    let node = node.to_owned();
    let shard = ShardOwner {
        shard: 0,
        epoch,
        node,
    };
    let shards = vec![shard];
    by.owners.send_replace(OwnersNow { shards });
}

async fn publish(client: &mut Client, id: u64) {
    let reply = client
        .call(json!({"id": id, "publish": {"channel": "room:1", "data": id}}))
        .await;
    assert!(reply["error"].is_null(), "{reply}");
}

#[tokio::test]
async fn what_the_nodes_of_a_region_tell_is_where_the_edge_goes() {
    let world = World::start_placed(config(), placement()).unwrap();
    let (r1, (r2, _endpoint)) = (world.owner.clone(), second(&world));
    let mut alice = Client::connect(world.address, &world.token("alice")).await;
    publish(&mut alice, 2).await;
    assert_eq!((r1.published().len(), r2.published().len()), (1, 0));
    tell(&r1, 5, "r2");
    // The shard's task goes there, and what relays between edges does.
    eventually("relay", || world.metric("gb6_edge_relays") >= 1.0).await;
    let attached = "gb6_edge_attached_total{region=\"r\",shard=\"0\"}";
    world.metric_reaches(attached, 2.0).await;
    publish(&mut alice, 3).await;
    assert_eq!((r1.published().len(), r2.published().len()), (1, 1));
    // What is older than what it knows is passed over.
    tell(&r2, 4, "r1");
    publish(&mut alice, 4).await;
    assert_eq!((r1.published().len(), r2.published().len()), (1, 2));
    // A newer placement keeps what was told.
    let mut newer = placement();
    newer.revision = 2;
    world.place(newer);
    r2.place(world.snapshot.clone());
    publish(&mut alice, 5).await;
    tell(&r2, 7, "r1");
    world.metric_reaches(attached, 3.0).await;
    publish(&mut alice, 6).await;
    assert_eq!((r1.published().len(), r2.published().len()), (2, 3));
}
