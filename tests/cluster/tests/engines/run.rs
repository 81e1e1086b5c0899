//! Running a cell: what is broken, what clients see meanwhile, what is expected, and a line that says it.

use std::time::{Duration, Instant};

use gb6_tests_cluster::load::Load;
use gb6_tests_harness::engines::Kind;

use crate::cells::{Answers, Cell, Publishes};
use crate::faults::{self, Fault, Victim};
use crate::old::Old;
use crate::seen::{self, Reads};
use crate::world::{Offsets, World};

/// After what is broken, until it is looked what that does: what was under way has ended.
const MOMENT: Duration = Duration::from_millis(1500);
/// How long a new connection may take, whatever is broken.
const SIGN_IN: Duration = Duration::from_secs(4);

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
    // The first one is before anything is broken: a publisher that waits then is not counted.
    load.progress(1).await;
    let (questions, from, begun) = (old.next(), load.recorder.len(), Instant::now());
    faults::begin(world, victim, fault).await;
    let going_on = async {
        match cell.publishes {
            Publishes::GoOn => {
                load.progress(5).await;
                format!("go on, 5 each in {}", seconds(begun.elapsed()))
            }
            Publishes::Stall => "stall".to_owned(),
        }
    };
    let looking = async {
        if victim == Victim::All {
            return None;
        }
        tokio::time::sleep(MOMENT).await;
        let settled = load.recorder.len();
        Some((settled, Reads::of(world, load, questions).await))
    };
    let (went_on, looked) = tokio::join!(going_on, looking);
    let archiving = Archiving::look(world, victim, fault).await;
    tokio::time::sleep((begun + fault.lasts()).saturating_duration_since(Instant::now())).await;
    if let (Publishes::Stall, Some((settled, _))) = (cell.publishes, &looked) {
        let meanwhile = load.recorder.since(*settled);
        let acknowledged = seen::Publishes::acknowledged(&meanwhile);
        assert_eq!(acknowledged, 0, "{cell}: nothing can be written");
    }
    archiving.stalled(world).await;
    faults::end(world, victim, fault).await;
    let healed = Instant::now();
    load.progress(20).await;
    let healed = healed.elapsed();
    archiving.goes_on(world).await;
    let seen = seen::Publishes::of(&load.recorder.since(from));
    let reads = looked.map(|(_, reads)| reads);
    println!(
        "matrix: | {cell} | {went_on} | {} | {} | {} | 20 each in {} |",
        seconds(seen.longest),
        seen::counted(&seen.codes),
        reads.as_ref().map_or_else(|| "– | – | –".to_owned(), shown),
        seconds(healed),
    );
    expect(cell, &seen, reads.as_ref());
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

/// What must be so, beside what the run itself has waited for.
fn expect(cell: &Cell, publishes: &seen::Publishes, reads: Option<&Reads>) {
    let what = cell.to_string();
    for code in publishes.codes.keys() {
        let allowed = cell.codes.iter().any(|c| c.code() == *code);
        assert!(allowed, "{what}: publishers were answered {code}");
    }
    let Some(reads) = reads else { return };
    match &reads.signed_in {
        Ok(time) => assert!(*time < SIGN_IN, "{what}: a sign-in took {time:?}"),
        Err(error) => panic!("{what}: nobody can sign in: {error}"),
    }
    for (which, answers, expected) in [
        ("recent", &reads.recent, cell.recent),
        ("old", &reads.old, cell.old),
    ] {
        let good = answers.iter().filter(|a| a.is_ok()).count();
        let as_expected = match expected {
            Answers::All => good == answers.len(),
            Answers::None => good == 0,
            Answers::Some => good > 0 && good < answers.len(),
            Answers::Any => true,
        };
        let codes = seen::answers(answers);
        assert!(
            as_expected,
            "{what}: {which} history: {codes}, not {expected:?}"
        );
        // Whoever can not have it is told so, before SDKs give up.
        assert!(
            !answers.contains(&Err(0)),
            "{what}: {which} history: {codes}"
        );
    }
}

/// Whether what is committed goes to the archive, where S3 is what fails.
struct Archiving {
    /// The oldest offsets of Kafka while it fails.
    oldest: Option<Vec<u64>>,
}

impl Archiving {
    async fn look(world: &mut World, victim: Victim, fault: Fault) -> Self {
        let lost = victim == Victim::Engine(Kind::S3) && !matches!(fault, Fault::Slow(_));
        let oldest = match lost {
            true => Some(world.offsets(Offsets::Oldest).await),
            false => None,
        };
        Self { oldest }
    }

    /// Nothing was deleted from Kafka since: it could not be archived.
    async fn stalled(&self, world: &mut World) {
        if let Some(oldest) = &self.oldest {
            assert_eq!(&world.offsets(Offsets::Oldest).await, oldest);
        }
    }

    /// What could not be archived is.
    async fn goes_on(&self, world: &mut World) {
        if self.oldest.is_some() {
            world.until_archived().await;
        }
    }
}
