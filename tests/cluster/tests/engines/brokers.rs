//! A region on three brokers, with three copies of everything: one may be lost at any time.

use gb6_tests_cluster::Rounds;
use gb6_tests_harness::engines::Kind;

use crate::cells;
use crate::old::Old;
use crate::run::{head, run};
use crate::world::{LOG, World};

/// The broker that leads the partition of the shard 0.
pub(crate) async fn leader(world: &mut World) -> u16 {
    let kafka = &world.part(Kind::Kafka).engine;
    let said = kafka
        .tool("TopicCommand", &["--describe", "--topic", LOG])
        .await
        .unwrap();
    let leader = said.lines().find_map(|line| {
        let (_, rest) = line.split_once("Partition: 0")?;
        let (_, rest) = rest.split_once("Leader: ")?;
        rest.split_whitespace().next()?.parse().ok()
    });
    leader.unwrap_or_else(|| panic!("TopicCommand said: {said}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: GB6_MATRIX=all scripts/test-engines.sh crash runs it"]
async fn one_of_three_brokers_is_lost() {
    let rounds = Rounds::on_engines("one_of_three_brokers_is_lost", 1);
    let mut world = World::on_three_brokers("brokers").await;
    let load = world.load("brokers", rounds.seed).await;
    load.progress(20).await;
    head();
    // Shards are on their way to other owners: what their readers are told depends on the moment.
    let mut old = Old::default();
    for _ in 0..rounds.count {
        let leader = leader(&mut world).await;
        let cells = cells::chosen(cells::of_brokers(leader));
        for cell in &cells {
            run(&mut world, &load, &mut old, cell).await;
        }
    }
    load.progress(20).await;
    load.finish(&world.mesh).await;
}
