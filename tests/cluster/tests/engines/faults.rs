//! What can be broken, and how.

use std::fmt;
use std::time::Duration;

use gb6_tests_harness::engines::Kind;
use gb6_tests_harness::process::PATIENCE;
use gb6_tests_harness::proxy::Mode;

use crate::full;
use crate::world::{NODES, World};

/// Of every byte, in each direction: a question takes a second more.
const SLOWED_BY: Duration = Duration::from_millis(500);

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Victim {
    Engine(Kind),
    Node(&'static str),
    /// The network between one node and an engine; nobody else's.
    Between(&'static str, Kind),
    /// The network between one node and all engines: as if its machine were gone, were it not that
    /// clients still reach it.
    Alone(&'static str),
    /// One of three brokers.
    Broker(u16),
    /// A node and one of three brokers, which reach each other, are cut off from all other brokers and
    /// engines, and the broker from all other nodes.
    Island(&'static str, u16),
    /// Every engine and every node of the region, at once.
    All,
}

/// How.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// SIGKILL, and started again after so long.
    Kill(Duration),
    /// SIGSTOP, for so long.
    Pause(Duration),
    /// Nothing comes through and nothing is closed, for so long.
    Cut(Duration),
    /// A second more for each question, for so long.
    Slow(Duration),
    /// No space on the disk of its data, for so long.
    Full(Duration),
    /// Nor for the next segment of PostgreSQL's WAL, which ends the server; for so long.
    FullWal(Duration),
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Victim::Engine(kind) => write!(f, "{}", kind.name()),
            Victim::Node(name) => write!(f, "node {name}"),
            Victim::Between(name, kind) => write!(f, "{name} to {}", kind.name()),
            Victim::Alone(name) => write!(f, "{name} to all engines"),
            Victim::Broker(n) => write!(f, "broker {n} of 3"),
            Victim::Island(name, n) => write!(f, "{name} with broker {n} of 3"),
            Victim::All => write!(f, "everything"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(lasts) => write!(f, "killed, {lasts:?}"),
            Fault::Pause(lasts) => write!(f, "paused, {lasts:?}"),
            Fault::Cut(lasts) => write!(f, "cut off, {lasts:?}"),
            Fault::Slow(lasts) => write!(f, "slowed by 1 s, {lasts:?}"),
            Fault::Full(lasts) => write!(f, "disk full, {lasts:?}"),
            Fault::FullWal(lasts) => write!(f, "disk full and WAL ended, {lasts:?}"),
        }
    }
}

impl Fault {
    /// For how long.
    pub(crate) fn lasts(self) -> Duration {
        match self {
            Fault::Kill(lasts)
            | Fault::Pause(lasts)
            | Fault::Cut(lasts)
            | Fault::Slow(lasts)
            | Fault::Full(lasts)
            | Fault::FullWal(lasts) => lasts,
        }
    }
}

/// Begins it.
pub(crate) async fn begin(world: &mut World, victim: Victim, fault: Fault) {
    match victim {
        Victim::Engine(kind) => {
            if let Fault::Full(_) | Fault::FullWal(_) = fault {
                return full::begin(world, kind, fault).await;
            }
            let part = world.part(kind);
            match fault {
                Fault::Kill(_) => part.engine.kill().await.unwrap(),
                Fault::Pause(_) => part.engine.pause().unwrap(),
                Fault::Cut(_) => part.front.cut(),
                Fault::Slow(_) => part.front.delay(SLOWED_BY),
                Fault::Full(_) | Fault::FullWal(_) => unreachable!("see above"),
            }
        }
        Victim::Node(name) => {
            let node = world.mesh.node(name);
            match fault {
                Fault::Kill(_) => node.kill().await.unwrap(),
                Fault::Pause(_) => node.running().pause(),
                _ => unreachable!("a node has no front"),
            }
        }
        Victim::Between(name, kind) => between(world, name, &[kind], fault),
        Victim::Alone(name) => between(world, name, &Kind::ALL, fault),
        Victim::Broker(n) => {
            let part = world.part(Kind::Kafka);
            let name = format!("broker-{n}");
            match fault {
                Fault::Kill(_) => part.engine.kill_one(&name).await.unwrap(),
                Fault::Pause(_) => part.engine.pause_one(&name).unwrap(),
                // From nodes; brokers reach each other.
                Fault::Cut(_) => part
                    .front
                    .proxy(usize::from(n) - 1)
                    .unwrap()
                    .set(Mode::BlackHole),
                _ => unreachable!("no cell has it"),
            }
        }
        Victim::Island(name, n) => {
            let node = world.mesh.node(name).running().pid();
            let kafka = world.part(Kind::Kafka);
            let broker = kafka.engine.pids()[&format!("broker-{n}")];
            let own = usize::from(n) - 1;
            // Its ports: for clients, for brokers, for controllers.
            for port in 0..9 {
                let proxy = kafka.front.proxy(port).unwrap();
                if port % 3 == own {
                    let both = [(node, Mode::Pass), (broker, Mode::Pass)];
                    proxy.set_each(Mode::BlackHole, &both);
                } else {
                    let both = [(node, Mode::BlackHole), (broker, Mode::BlackHole)];
                    proxy.set_each(Mode::Pass, &both);
                }
            }
            between(world, name, &Kind::ALL[1..], fault);
        }
        Victim::All => {
            for part in &world.parts {
                part.engine.kill().await.unwrap();
            }
            for name in NODES {
                world.mesh.node(name).kill().await.unwrap();
            }
        }
    }
}

/// Breaks the network between a node and engines.
fn between(world: &mut World, name: &str, kinds: &[Kind], fault: Fault) {
    let pid = world.mesh.node(name).running().pid();
    for kind in kinds {
        let front = &world.part(*kind).front;
        match fault {
            Fault::Cut(_) => front.cut_from(pid),
            Fault::Slow(_) => front.delay_for(pid, SLOWED_BY),
            _ => unreachable!("a network is cut or slow"),
        }
    }
}

/// Ends it.
pub(crate) async fn end(world: &mut World, victim: Victim, fault: Fault) {
    match victim {
        Victim::Engine(_) | Victim::Broker(_) => {
            let kind = match victim {
                Victim::Engine(kind) => kind,
                _ => Kind::Kafka,
            };
            let part = world.part(kind);
            match fault {
                Fault::Kill(_) => part.engine.restart().await.unwrap(),
                Fault::Pause(_) => part.engine.resume().unwrap(),
                Fault::Cut(_) | Fault::Slow(_) => part.front.heal(),
                Fault::Full(_) | Fault::FullWal(_) => full::end(world, kind).await,
            }
        }
        Victim::Node(name) => match fault {
            Fault::Kill(_) => world.node_back(name).await,
            _ => world.mesh.node(name).running().resume(),
        },
        Victim::Between(name, _) | Victim::Alone(name) | Victim::Island(name, _) => {
            let pid = world.mesh.node(name).running().pid();
            for part in &world.parts {
                match (victim, part.engine.kind()) {
                    // What brokers say to each other was cut too.
                    (Victim::Island(..), Kind::Kafka) => part.front.heal(),
                    // Connections that lost nothing stay.
                    (Victim::Between(_, cut), kind) if cut != kind => {}
                    _ => part.front.heal_for(pid),
                }
            }
        }
        Victim::All => {
            for part in &mut world.parts {
                part.engine.restart().await.unwrap();
            }
            for name in NODES {
                world.mesh.node(name).start().unwrap();
            }
            for name in NODES {
                world.mesh.node(name).ready(PATIENCE).await.unwrap();
            }
        }
    }
}
