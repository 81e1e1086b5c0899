//! What clients see while something is broken.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use gb6_core_wire::client::Dialect;
use gb6_tests_cluster::load::{Load, target};
use gb6_tests_harness::client::{ANSWER, Session, Target};
use gb6_tests_harness::history::{Event, What, fingerprint};

use crate::old::Question;
use crate::world::World;

/// What publishers saw.
#[derive(Default)]
pub(crate) struct Publishes {
    /// The longest time from a message's first attempt to its acknowledgement.
    pub(crate) longest: Duration,
    /// How often an attempt failed with which code; 0: no answer, or no connection.
    pub(crate) codes: BTreeMap<u32, usize>,
}

impl Publishes {
    /// Of these events.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut seen = Self::default();
        let mut begun: HashMap<&str, u64> = HashMap::new();
        for event in events {
            let id = |message: &'_ gb6_tests_harness::history::Message| message.id.clone();
            let client = event.client.as_str();
            match &event.what {
                What::Sent(message) if id(message).is_some() => {
                    // A publisher has one message under way.
                    begun.entry(client).or_insert(event.at);
                }
                What::Acknowledged { .. } => {
                    if let Some(at) = begun.remove(client) {
                        let waited = Duration::from_millis(event.at.saturating_sub(at));
                        seen.longest = seen.longest.max(waited);
                    }
                }
                What::Failed { code, .. } => *seen.codes.entry(*code).or_default() += 1,
                _ => {}
            }
        }
        seen
    }

    /// How many messages were acknowledged.
    pub(crate) fn acknowledged(events: &[Event]) -> usize {
        let acknowledged = |e: &&Event| matches!(e.what, What::Acknowledged { .. });
        events.iter().filter(acknowledged).count()
    }
}

/// What others saw, who came in the midst of it.
pub(crate) struct Reads {
    /// How long a new connection took.
    pub(crate) signed_in: Result<Duration, String>,
    /// The newest messages of each room: read, or the code; 0: no answer within 5 s.
    pub(crate) recent: Vec<Result<(), u32>>,
    /// An old message of each shard.
    pub(crate) old: Vec<Result<(), u32>>,
    /// How long the slowest of these answers took.
    pub(crate) longest: Duration,
    /// When the last of them had come.
    pub(crate) over: Instant,
}

impl Reads {
    /// Connects, and reads.
    pub(crate) async fn of(world: &World, load: &Load, questions: &[Question]) -> Self {
        let target = target(&world.mesh, "e1", "looks", Dialect::Protobuf);
        let begun = Instant::now();
        let signed_in = match Session::connect(&target).await {
            Ok(_) => Ok(begun.elapsed()),
            Err(error) => Err(error.to_string()),
        };
        let newest = load.rooms.iter().map(|room| Question::newest(room));
        let (mut recent, mut old) = (Vec::new(), Vec::new());
        for question in newest {
            recent.push(tokio::spawn(ask(target.clone(), question)));
        }
        for question in questions.iter().cloned() {
            old.push(tokio::spawn(ask(target.clone(), question)));
        }
        let mut seen = Self {
            signed_in,
            recent: Vec::new(),
            old: Vec::new(),
            longest: Duration::ZERO,
            over: begun,
        };
        for (answers, tasks) in [(&mut seen.recent, recent), (&mut seen.old, old)] {
            for task in tasks {
                let (answer, took) = task.await.unwrap();
                answers.push(answer);
                seen.longest = seen.longest.max(took);
            }
        }
        seen.over = Instant::now();
        seen
    }
}

/// Asks on a connection of its own, since pages of one wait for each other; the answer, and how long it took.
async fn ask(target: Target, question: Question) -> (Result<(), u32>, Duration) {
    let Ok((session, _pushes)) = Session::connect(&target).await else {
        return (Err(0), ANSWER);
    };
    let begun = Instant::now();
    let epoch = question.epoch.as_str();
    let page = match &question.data {
        Some(_) => {
            let since = Some((question.offset - 1, epoch));
            session.history(&question.room, 1, since, false).await
        }
        None => session.history(&question.room, 5, None, true).await,
    };
    let took = begun.elapsed();
    let page = match page {
        Ok(page) => page,
        Err(error) => return (Err(error.code()), took),
    };
    if question.data.is_some() {
        let data = page.publications.first().map(|p| fingerprint(&p.data));
        assert_eq!(data, question.data, "{}", question.room);
    }
    (Ok(()), took)
}

/// Answers in words: how many were good, and the codes of the others.
pub(crate) fn answers(answers: &[Result<(), u32>]) -> String {
    let mut codes: BTreeMap<u32, usize> = BTreeMap::new();
    for code in answers.iter().filter_map(|a| a.err()) {
        *codes.entry(code).or_default() += 1;
    }
    let good = answers.iter().filter(|a| a.is_ok()).count();
    match codes.is_empty() {
        true if answers.is_empty() => "–".to_owned(),
        true => "yes".to_owned(),
        false => format!("{good} of {}; {}", answers.len(), counted(&codes)),
    }
}

/// Codes in words.
pub(crate) fn counted(codes: &BTreeMap<u32, usize>) -> String {
    let mut text = String::new();
    for (code, count) in codes {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = match code {
            0 => write!(text, "{comma}{count} × none"),
            code => write!(text, "{comma}{count} × {code}"),
        };
    }
    if text.is_empty() {
        text.push('–');
    }
    text
}
