//! How long publishers wait while a shard changes its owner: after a crash, and in a hand-over. Measured and
//! printed; asserted is only what no slow machine excuses: that nothing fails in a hand-over.

use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_cluster::Rounds;
use gb6_tests_cluster::load::target;
use gb6_tests_harness::client::Session;
use gb6_tests_harness::process::PATIENCE;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::World;

/// Rooms, so that each of the four shards has some.
const ROOMS: usize = 16;

/// Somebody who publishes to one room without a pause, and remembers the longest wait.
struct Prober {
    stop: watch::Sender<bool>,
    task: JoinHandle<(Duration, Vec<String>)>,
}

impl Prober {
    async fn start(world: &World, room: String) -> Self {
        let target = target(
            &world.mesh,
            "e1",
            &format!("prober-{room}"),
            Dialect::Protobuf,
        );
        let (session, _pushes) = Session::connect(&target).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let (mut longest, mut failed) = (Duration::ZERO, Vec::new());
            let mut last = Instant::now();
            let mut n = 0;
            while !*stopped.borrow() {
                n += 1;
                let id = format!("{room}-{n}");
                loop {
                    match session.room_publish(&room, Some(&id), "{}").await {
                        Ok(_) => break,
                        Err(error) => failed.push(error.to_string()),
                    }
                    // Who was closed is refused at once, for ever.
                    if *stopped.borrow() || failed.len() > 1_000 {
                        return (longest.max(last.elapsed()), failed);
                    }
                }
                longest = longest.max(last.elapsed());
                last = Instant::now();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (longest, failed)
        });
        Self { stop, task }
    }

    async fn stop(self) -> (Duration, Vec<String>) {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

async fn probers(world: &World) -> Vec<Prober> {
    let mut all = Vec::new();
    for n in 0..ROOMS {
        all.push(Prober::start(world, format!("room:pause-{n}")).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    all
}

async fn longest(probers: Vec<Prober>) -> (Duration, Vec<String>) {
    let (mut longest, mut failed) = (Duration::ZERO, Vec::new());
    for prober in probers {
        let (wait, errors) = prober.stop().await;
        longest = longest.max(wait);
        failed.extend(errors);
    }
    (longest, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_and_a_drain() {
    let rounds = Rounds::on_engines("a_crash_and_a_drain", 3);
    let mut world = World::start("pauses").await;
    let (mut crashes, mut drains) = (Vec::new(), Vec::new());
    for round in 0..rounds.count {
        let victim = ["r1", "r2", "r3"][round as usize % 3];
        let asking = probers(&world).await;
        world.mesh.node(victim).kill().await.unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (wait, failed) = longest(asking).await;
        println!(
            "{victim} killed: longest wait {wait:?}, {} answered with an error",
            failed.len()
        );
        crashes.push(wait);
        world.node_back(victim).await;
        // Until shards are even again, which is a hand-over too.
        tokio::time::sleep(Duration::from_secs(8)).await;

        let asking = probers(&world).await;
        let process = world.mesh.node(victim).running();
        process.terminate();
        let ended = process.wait(PATIENCE).await.unwrap();
        assert!(ended.success(), "{victim} ended with {ended}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (wait, failed) = longest(asking).await;
        println!(
            "{victim} drained: longest wait {wait:?}, {} answered with an error",
            failed.len()
        );
        assert_eq!(failed, [""; 0], "a hand-over fails nobody");
        drains.push(wait);
        world.node_back(victim).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    crashes.sort();
    drains.sort();
    println!("longest waits after a crash {crashes:?}, in a drain {drains:?}");
}
