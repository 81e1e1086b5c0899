//! The cells of the matrix, and what is expected of each.

use std::fmt;
use std::time::Duration;

use gb6_tests_harness::engines::Kind;

use crate::faults::{Fault, Victim};

/// One of the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) victim: Victim,
    pub(crate) fault: Fault,
    /// Of publishes, while it lasts.
    pub(crate) publishes: Publishes,
    /// Codes that publishers may be answered with; 0: no answer within 5 s, which is when SDKs give up.
    pub(crate) codes: &'static [u32],
    /// Of the newest messages of each room, while it lasts.
    pub(crate) recent: Answers,
    /// Of messages that only the index and the archive lead to, one of each shard.
    pub(crate) old: Answers,
}

/// Whether publishes to every room are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Publishes {
    /// Yes, after a moment at the most.
    GoOn,
    /// None is.
    Stall,
}

/// What is answered to who asks for history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answers {
    /// All that is asked for.
    All,
    /// That it is not possible now.
    None,
    /// What is asked for, or that it is not possible now, depending on the shard; and both are seen.
    Some,
    /// What is asked for, where a node still has it in memory, and otherwise that it is not possible now (100).
    Kept,
    /// Any of it: shards are on their way to other owners.
    Any,
}

const S: fn(u64) -> Duration = Duration::from_secs;

/// Nobody may notice.
const NONE: &[u32] = &[];
/// Whether it was written is not known (1003); a shard changes its owner (1002); and no answer (0), where
/// connections stand still because their instance's revocations, which are in the log, can not be read.
const STANDS_STILL: &[u32] = &[1003, 1002, 0];
/// And that nothing was written (100), where a node finds that it reaches no broker at all.
const NO_BROKER: &[u32] = &[1003, 1002, 0, 100];

/// For how many of them old messages must be such that nobody has asked for.
pub(crate) fn unread(cells: &[Cell]) -> u64 {
    cells.iter().filter(|cell| cell.is_of_archive()).count() as u64
}

/// The engines whose disks the cells fill.
pub(crate) fn disks(cells: &[Cell]) -> Vec<Kind> {
    let of = |cell: &Cell| match (cell.victim, cell.fault) {
        (Victim::Engine(kind), Fault::Full(_) | Fault::FullWal(_)) => Some(kind),
        _ => None,
    };
    cells.iter().filter_map(of).collect()
}

/// All cells of a region with one of each engine.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    let kinds = [
        Kind::Kafka,
        Kind::Postgres,
        Kind::Redis,
        Kind::Tikv,
        Kind::S3,
    ];
    for kind in kinds {
        // Of Kafka: until shards have been given on in vain.
        let lasts = if kind == Kind::Kafka { 9 } else { 7 };
        for fault in [
            Fault::Kill(S(lasts)),
            Fault::Pause(S(lasts)),
            Fault::Cut(S(lasts)),
            Fault::Slow(S(lasts)),
        ] {
            cells.push(of_engine(kind, fault));
        }
    }
    for (kind, fault) in [
        (Kind::Postgres, Fault::Full(S(7))),
        (Kind::Postgres, Fault::FullWal(S(7))),
        (Kind::Redis, Fault::Full(S(7))),
        (Kind::Tikv, Fault::Full(S(7))),
        (Kind::S3, Fault::Full(S(7))),
    ] {
        cells.push(of_disk(kind, fault));
    }
    for (name, fault) in [("r1", Fault::Kill(S(6))), ("r2", Fault::Pause(S(8)))] {
        cells.push(Cell {
            victim: Victim::Node(name),
            fault,
            publishes: Publishes::GoOn,
            codes: STANDS_STILL,
            recent: Answers::Any,
            old: Answers::Any,
        });
    }
    for kind in kinds {
        for fault in [Fault::Cut(S(10)), Fault::Slow(S(7))] {
            cells.push(of_way(kind, fault));
        }
    }
    cells.push(Cell {
        victim: Victim::Alone("r1"),
        fault: Fault::Cut(S(10)),
        publishes: Publishes::GoOn,
        codes: NO_BROKER,
        recent: Answers::Any,
        old: Answers::Any,
    });
    cells.push(Cell {
        victim: Victim::All,
        fault: Fault::Kill(S(1)),
        publishes: Publishes::Stall,
        codes: NO_BROKER,
        recent: Answers::Any,
        old: Answers::Any,
    });
    cells
}

/// An engine is lost, or slow, for everybody.
fn of_engine(kind: Kind, fault: Fault) -> Cell {
    let slow = matches!(fault, Fault::Slow(_));
    let (publishes, codes) = match kind {
        Kind::Kafka if !slow => (Publishes::Stall, NO_BROKER),
        // Leases end, and begin again: shards may change their owners. When it is over, connections are
        // closed, and for a moment there is no broker.
        Kind::Kafka => (Publishes::GoOn, NO_BROKER),
        Kind::Postgres if slow => (Publishes::GoOn, STANDS_STILL),
        _ => (Publishes::GoOn, NONE),
    };
    let (recent, old) = match kind {
        Kind::Kafka | Kind::Postgres if slow => (Answers::Any, Answers::Any),
        // Where it lies, and it itself; several questions of a second each may take too long.
        Kind::Tikv | Kind::S3 if slow => (Answers::All, Answers::Any),
        Kind::Tikv => (Answers::All, Answers::None),
        // What a node has read of the archive lately, after a takeover too, it has in memory.
        Kind::S3 => (Answers::All, Answers::Kept),
        _ => (Answers::All, Answers::All),
    };
    Cell {
        victim: Victim::Engine(kind),
        fault,
        publishes,
        codes,
        recent,
        old,
    }
}

/// The disk of an engine is full.
fn of_disk(kind: Kind, fault: Fault) -> Cell {
    Cell {
        victim: Victim::Engine(kind),
        fault,
        publishes: Publishes::GoOn,
        codes: NONE,
        recent: Answers::All,
        old: Answers::All,
    }
}

/// An engine is lost, or slow, for one node.
fn of_way(kind: Kind, fault: Fault) -> Cell {
    let slow = matches!(fault, Fault::Slow(_));
    let (codes, recent, old) = match kind {
        // Its shards are given to others, by itself or by them.
        Kind::Kafka => (NO_BROKER, Answers::Any, Answers::Any),
        Kind::Postgres => (STANDS_STILL, Answers::Any, Answers::Any),
        Kind::Tikv | Kind::S3 if slow => (NONE, Answers::All, Answers::Any),
        Kind::Tikv => (NONE, Answers::All, Answers::Some),
        Kind::S3 => (NONE, Answers::All, Answers::Kept),
        Kind::Redis => (NONE, Answers::All, Answers::All),
    };
    Cell {
        victim: Victim::Between("r1", kind),
        fault,
        publishes: Publishes::GoOn,
        codes,
        recent,
        old,
    }
}

/// The cells of a region with three brokers; `leader` leads a shard.
pub(crate) fn of_brokers(leader: u16) -> Vec<Cell> {
    let other = leader % 3 + 1;
    let cell = |victim: Victim, fault: Fault| Cell {
        victim,
        fault,
        publishes: Publishes::GoOn,
        codes: NO_BROKER,
        recent: Answers::Any,
        old: Answers::Any,
    };
    vec![
        cell(Victim::Broker(leader), Fault::Kill(S(12))),
        cell(Victim::Broker(other), Fault::Pause(S(12))),
        cell(Victim::Broker(other), Fault::Cut(S(12))),
        cell(Victim::Island("r1", 1), Fault::Cut(S(15))),
        cell(Victim::Island("r1", 2), Fault::Cut(S(15))),
    ]
}

/// Those of the cells that `GB6_MATRIX` asks for: `all`, or those whose name has this in it. Without it
/// those of [`Cell::is_brief`].
pub(crate) fn chosen(mut cells: Vec<Cell>) -> Vec<Cell> {
    let asked = std::env::var("GB6_MATRIX").unwrap_or_default();
    cells.retain(|cell| match asked.as_str() {
        "" => cell.is_brief(),
        "all" => true,
        part => cell.to_string().contains(part),
    });
    assert!(!cells.is_empty(), "no cell has {asked:?} in its name");
    cells
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.victim, self.fault)
    }
}

impl Cell {
    /// Whether it is the archive that fails.
    pub(crate) fn is_of_archive(&self) -> bool {
        matches!(
            self.victim,
            Victim::Engine(Kind::S3) | Victim::Between(_, Kind::S3)
        )
    }

    /// One for each engine, a full disk and one of a node: what every run has.
    pub(crate) fn is_brief(&self) -> bool {
        matches!(
            (self.victim, self.fault),
            (Victim::Engine(Kind::Kafka | Kind::Tikv), Fault::Kill(_))
                | (Victim::Engine(Kind::Postgres | Kind::S3), Fault::Pause(_))
                | (Victim::Engine(Kind::Redis), Fault::Cut(_))
                | (Victim::Engine(Kind::Postgres), Fault::FullWal(_))
                | (Victim::Node("r2"), Fault::Pause(_))
                | (Victim::Between("r1", Kind::Kafka), Fault::Cut(_))
                | (Victim::All, _)
        )
    }
}
