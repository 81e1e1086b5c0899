//! The matrix of faults: every engine and a node of the region, each killed, paused, cut off and slowed
//! down. For each cell: whether publishes go on meanwhile, and that all goes on afterwards. `GB6_MATRIX=all`
//! runs all cells, otherwise those of [`Cell::is_brief`].

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use gb6_tests_cluster::load::Load;
use gb6_tests_cluster::{Disk, Rounds, Volume};
use gb6_tests_harness::engines::Kind;
use gb6_tests_harness::process::{PATIENCE, target_dir};

use crate::world::{self, World};

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Engine(Kind),
    Node(&'static str),
    /// Every engine and every node of the region, at once.
    All,
}

/// How.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// SIGKILL, and started again after so long.
    Kill(Duration),
    /// SIGSTOP, for so long.
    Pause(Duration),
    /// Nothing comes through and nothing is closed, for so long.
    Cut(Duration),
    /// A second more for each question, for so long.
    Slow(Duration),
}

struct Cell {
    victim: Victim,
    fault: Fault,
}

const S: fn(u64) -> Duration = Duration::from_secs;

impl Cell {
    fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for kind in [Kind::Kafka, Kind::Postgres, Kind::Redis, Kind::Tikv] {
            for fault in [
                Fault::Kill(S(3)),
                Fault::Pause(S(6)),
                Fault::Cut(S(6)),
                Fault::Slow(S(8)),
            ] {
                let victim = Victim::Engine(kind);
                cells.push(Cell { victim, fault });
            }
        }
        for (name, fault) in [("r1", Fault::Kill(S(3))), ("r2", Fault::Pause(S(6)))] {
            let victim = Victim::Node(name);
            cells.push(Cell { victim, fault });
        }
        cells.push(Cell {
            victim: Victim::All,
            fault: Fault::Kill(S(1)),
        });
        cells
    }

    /// One for each engine and one of a node: what every run has.
    fn is_brief(&self) -> bool {
        matches!(
            (self.victim, self.fault),
            (Victim::Engine(Kind::Kafka | Kind::Tikv), Fault::Kill(_))
                | (Victim::Engine(Kind::Postgres), Fault::Pause(_))
                | (Victim::Engine(Kind::Redis), Fault::Cut(_))
                | (Victim::Node("r2"), Fault::Pause(_))
                | (Victim::All, _)
        )
    }

    /// Whether publishes to every room must go on meanwhile. The log is what they wait for.
    fn goes_on(&self) -> bool {
        match (self.victim, self.fault) {
            (Victim::Engine(Kind::Kafka), Fault::Slow(_)) => true,
            (Victim::Engine(Kind::Kafka), _) | (Victim::All, _) => false,
            (Victim::Engine(_), _) => true,
            // Another node takes over.
            (Victim::Node(_), _) => true,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_of_the_matrix() {
    let rounds = Rounds::on_engines("every_cell_of_the_matrix", 1);
    let all = std::env::var("GB6_MATRIX").is_ok_and(|which| which == "all");
    let mut world = World::start("matrix").await;
    let load = world.load("matrix", rounds.seed).await;
    load.progress(20).await;
    for _ in 0..rounds.count {
        for cell in Cell::all() {
            if all || cell.is_brief() {
                run(&mut world, &load, &cell).await;
            }
        }
    }
    load.progress(20).await;
    load.finish(&world.mesh).await;
}

/// A broker whose disk is full ends itself. Publishes wait for it, and nothing is lost when there is space
/// again and it was started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_kafka_is_full() {
    let disk = match Disk::new(Volume::Tmpfs { mib: 256 }, &target_dir().join("test-data")) {
        Ok(disk) => disk,
        Err(error) => panic!("{error}"),
    };
    let place = disk.path().join("kafka");
    let mut world = World::with_kafka_in("kafka-full", Some(&place)).await;
    let load = world.load("kafka-full", 1).await;
    load.progress(20).await;
    let ballast = disk.path().join("ballast");
    let mut file = File::create(&ballast).unwrap();
    let block = vec![b'x'; 1 << 16];
    // Ends at a full disk.
    while file.write_all(&block).is_ok() {}
    let begun = Instant::now();
    while !world.part(Kind::Kafka).engine.pids().is_empty() {
        assert!(begun.elapsed() < S(60), "the broker goes on without space");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("disk full: the broker ended after {:?}", begun.elapsed());
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    world.part(Kind::Kafka).engine.restart().await.unwrap();
    load.progress(20).await;
    load.finish(&world.mesh).await;
    drop(world);
}

async fn run(world: &mut World, load: &Load, cell: &Cell) {
    let Cell { victim, fault } = cell;
    let begun = Instant::now();
    let lasts = begin(world, *victim, *fault).await;
    let until = begun + lasts;
    let went_on = if cell.goes_on() {
        load.progress(5).await;
        format!("5 more each after {:?}", begun.elapsed())
    } else {
        "nothing is expected".to_owned()
    };
    tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
    end(world, *victim, *fault).await;
    let healed = Instant::now();
    load.progress(20).await;
    println!(
        "matrix: {victim:?} {fault:?}: meanwhile {went_on}; afterwards 20 more each within {:?}",
        healed.elapsed()
    );
}

async fn begin(world: &mut World, victim: Victim, fault: Fault) -> Duration {
    match victim {
        Victim::Engine(kind) => {
            let part = world.part(kind);
            match fault {
                Fault::Kill(_) => part.engine.kill().await.unwrap(),
                Fault::Pause(_) => part.engine.pause().unwrap(),
                Fault::Cut(_) => part.front.cut(),
                Fault::Slow(_) => part.front.delay(Duration::from_millis(500)),
            }
        }
        Victim::Node(name) => {
            let node = world.mesh.node(name);
            match fault {
                Fault::Kill(_) => node.kill().await.unwrap(),
                _ => node.running().pause(),
            }
        }
        Victim::All => {
            for part in &world.parts {
                part.engine.kill().await.unwrap();
            }
            for name in world::NODES {
                world.mesh.node(name).kill().await.unwrap();
            }
        }
    }
    match fault {
        Fault::Kill(lasts) | Fault::Pause(lasts) | Fault::Cut(lasts) | Fault::Slow(lasts) => lasts,
    }
}

async fn end(world: &mut World, victim: Victim, fault: Fault) {
    match victim {
        Victim::Engine(kind) => {
            let part = world.part(kind);
            match fault {
                Fault::Kill(_) => part.engine.restart().await.unwrap(),
                Fault::Pause(_) => part.engine.resume().unwrap(),
                Fault::Cut(_) | Fault::Slow(_) => part.front.heal(),
            }
        }
        Victim::Node(name) => match fault {
            Fault::Kill(_) => world.node_back(name).await,
            _ => world.mesh.node(name).running().resume(),
        },
        Victim::All => {
            for part in &mut world.parts {
                part.engine.restart().await.unwrap();
            }
            for name in world::NODES {
                world.mesh.node(name).start().unwrap();
            }
            for name in world::NODES {
                world.mesh.node(name).ready(PATIENCE).await.unwrap();
            }
        }
    }
}
