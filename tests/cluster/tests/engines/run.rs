//! Running a cell: what is broken, what clients see meanwhile, what is expected, and a line that says it.

use std::time::{Duration, Instant};

use gb6_tests_cluster::load::Load;
use gb6_tests_harness::engines::Kind;

use crate::cells::{Answers, Cell, Publishes};
use crate::faults::{self, Fault, Victim};
use crate::old::Old;
use crate::seen::{self, Reads};
use crate::world::{Offsets, World};

/// After what is broken, until it is looked what that does: leases have ended by then, and what was under
/// way.
const LOOK: Duration = Duration::from_secs(4);
/// While Kafka is lost it is looked before, too: until owners have tried for 3 s, they serve what they have.
const EARLY_LOOK: Duration = Duration::from_secs(1);
/// What is answered later than this after Kafka was lost may be from owners who no longer serve.
const SERVED: Duration = Duration::from_millis(2500);
/// After S3 is lost, until what was archived before is deleted from Kafka.
const SETTLED: Duration = Duration::from_secs(2);
/// How long three messages of each publisher may take while nothing is broken. A machine that takes longer
/// has too much else to do: what it answers late or not at all says nothing about what is broken.
const CALM: Duration = Duration::from_secs(2);
/// What is answered late: 100 and 1003 by an edge after 4 s, 1002 where a lease ended; 0: nothing within 5 s.
const LATE: &[u32] = &[100, 1003, 1002, 0];

/// The head of the table that cells print.
pub(crate) fn head() {
    println!(
        "matrix: | what | publishes | longest | errors | recent history | old history | sign-in | afterwards |"
    );
    println!("matrix: |---|---|---|---|---|---|---|---|");
}

/// Runs one cell, and prints its line of the table.
pub(crate) async fn run(world: &mut World, load: &Load, old: &mut Old, cell: &Cell) {
    let Cell { victim, fault, .. } = *cell;
    if let Victim::Between(name, _) | Victim::Alone(name) | Victim::Island(name, _) = victim {
        world.until_owner(name).await;
    }
    if let Victim::Node(name) = victim {
        world.until_owner(name).await;
    }
    let before = is_busy(load).await;
    let questions = match cell.is_of_archive() {
        true => old.next(),
        false => old.any(),
    };
    let from = load.recorder.len();
    let lost = Instant::now();
    faults::begin(world, victim, fault).await;
    let begun = Instant::now();
    let going_on = async {
        match cell.publishes {
            Publishes::GoOn => {
                load.progress(5).await;
                format!("go on, 5 each in {}", seconds(begun.elapsed()))
            }
            Publishes::Stall => "stall".to_owned(),
        }
    };
    let kafka_lost = victim == Victim::Engine(Kind::Kafka) && cell.publishes == Publishes::Stall;
    let looking = async {
        let archiving = Archiving::look(world, cell, begun).await;
        let mut looks = Vec::new();
        let times: &[Duration] = match victim {
            Victim::All => &[],
            _ if kafka_lost => &[EARLY_LOOK, LOOK],
            _ => &[LOOK],
        };
        for at in times {
            tokio::time::sleep((begun + *at).saturating_duration_since(Instant::now())).await;
            let settled = load.recorder.len();
            looks.push((settled, Reads::of(world, load, &questions).await));
        }
        (archiving, looks)
    };
    let (went_on, (archiving, looks)) = tokio::join!(going_on, looking);
    tokio::time::sleep((begun + fault.lasts()).saturating_duration_since(Instant::now())).await;
    if let (Publishes::Stall, Some((settled, _))) = (cell.publishes, looks.first()) {
        let meanwhile = load.recorder.since(*settled);
        let acknowledged = seen::Publishes::acknowledged(&meanwhile);
        assert_eq!(acknowledged, 0, "{cell}: nothing can be written");
    }
    archiving.stalled(world).await;
    faults::end(world, victim, fault).await;
    let healed = Instant::now();
    load.progress(20).await;
    let healed = healed.elapsed();
    world.until_mapped().await;
    let busy = before || is_busy(load).await;
    archiving.goes_on(world).await;
    let seen = seen::Publishes::of(&load.recorder.since(from));
    let reads: Vec<Reads> = looks.into_iter().map(|(_, reads)| reads).collect();
    let mut shown = reads.iter().map(shown);
    println!(
        "matrix: | {cell} | {went_on} | {} | {} | {} | 20 each in {} |",
        seconds(seen.longest),
        seen::counted(&seen.codes),
        shown.next().unwrap_or_else(|| "– | – | –".to_owned()),
        seconds(healed),
    );
    for late in shown {
        println!("matrix: | as long as it lasts | | | | {late} | |");
    }
    if busy {
        println!("matrix: the machine was busy, and late answers are excused");
    }
    let reads = reads.first();
    let served = !kafka_lost || reads.is_some_and(|reads| reads.over < lost + SERVED);
    if !served {
        println!("matrix: the machine took too long to see what owners still serve");
    }
    if let Err(wrong) = expect(cell, busy, served, &seen, reads) {
        panic!("{cell}: {wrong}; {}", load.saved());
    }
}

/// Whether the machine has too much to do without anything broken.
async fn is_busy(load: &Load) -> bool {
    let begun = Instant::now();
    load.progress(3).await;
    begun.elapsed() > CALM
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn shown(reads: &Reads) -> String {
    let signed_in = match &reads.signed_in {
        Ok(time) => seconds(*time),
        Err(error) => error.clone(),
    };
    format!(
        "{} | {} in {} | {signed_in}",
        seen::answers(&reads.recent),
        seen::answers(&reads.old),
        seconds(reads.longest),
    )
}

/// What must be so, beside what the run itself has waited for. What is read is looked at where it came while
/// owners still served.
fn expect(
    cell: &Cell,
    busy: bool,
    served: bool,
    publishes: &seen::Publishes,
    reads: Option<&Reads>,
) -> Result<(), String> {
    for code in publishes.codes.keys() {
        let excused = busy && LATE.contains(code);
        if !excused && !cell.codes.contains(code) {
            return Err(format!("publishers were answered {code}"));
        }
    }
    let Some(reads) = reads else { return Ok(()) };
    match &reads.signed_in {
        Err(error) if !busy => return Err(format!("nobody can sign in: {error}")),
        _ => {}
    }
    for (which, answers, expected) in [
        ("recent", &reads.recent, cell.recent),
        ("old", &reads.old, cell.old),
    ] {
        let expected = if served { expected } else { Answers::Any };
        let good = answers.iter().filter(|a| a.is_ok()).count();
        let late = |code: &u32| busy && LATE.contains(code);
        let excused = answers.iter().filter_map(|a| a.err()).any(|c| late(&c));
        let as_expected = match expected {
            Answers::All => good == answers.len() || excused,
            Answers::None => good == 0,
            Answers::Some => good < answers.len() && (good > 0 || excused),
            Answers::Kept => excused || answers.iter().all(|a| a.err().is_none_or(|c| c == 100)),
            Answers::Any => true,
        };
        // Whoever can not have it is told so, before SDKs give up; but for connections that stand still.
        let silent = expected != Answers::Any && !busy && answers.contains(&Err(0));
        if !as_expected || silent {
            let seen = seen::answers(answers);
            return Err(format!("{which} history: {seen}, and not {expected:?}"));
        }
    }
    Ok(())
}

/// Whether what is committed goes to the archive, where S3 is what fails.
struct Archiving {
    /// The oldest offsets of Kafka while it fails.
    oldest: Option<Vec<u64>>,
}

impl Archiving {
    async fn look(world: &World, cell: &Cell, begun: Instant) -> Self {
        let slow = matches!(cell.fault, Fault::Slow(_));
        if cell.victim != Victim::Engine(Kind::S3) || slow {
            return Self { oldest: None };
        }
        // What was archived before has been deleted by then.
        tokio::time::sleep((begun + SETTLED).saturating_duration_since(Instant::now())).await;
        let oldest = Some(world.offsets(Offsets::Oldest).await);
        Self { oldest }
    }

    /// Nothing was deleted from Kafka since: it could not be archived.
    async fn stalled(&self, world: &World) {
        if let Some(oldest) = &self.oldest {
            assert_eq!(&world.offsets(Offsets::Oldest).await, oldest);
        }
    }

    /// What could not be archived is.
    async fn goes_on(&self, world: &World) {
        if self.oldest.is_some() {
            world.until_archived().await;
        }
    }
}
