//! The matrix of faults of a region with one of each engine: every engine and a node of the region, each
//! killed, paused, cut off and slowed down; engines whose disks are full; and one node cut off from one
//! engine alone, or from all. For each cell: what publishers and readers see meanwhile, and that all goes
//! on afterwards. [`cells::chosen`] says which of them run.

use gb6_tests_cluster::Rounds;

use crate::cells;
use crate::old::Old;
use crate::run::{head, run};
use crate::world::{Extras, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_of_the_matrix() {
    let rounds = Rounds::on_engines("every_cell_of_the_matrix", 1);
    let cells = cells::chosen(cells::all());
    let extras = Extras {
        disks: cells::disks(&cells),
        ..Extras::default()
    };
    let mut world = World::with("matrix", extras).await;
    let load = world.load("matrix", rounds.seed).await;
    load.progress(20).await;
    head();
    for round in 0..rounds.count {
        // New ones each time: those of before may be in memory.
        let name = format!("matrix-{round}");
        let mut old = Old::publish(&world, &name, cells::unread(&cells)).await;
        for cell in &cells {
            run(&mut world, &load, &mut old, cell).await;
        }
        old.check(&world).await;
    }
    load.progress(20).await;
    load.finish(&world.mesh).await;
}
