//! The contract of `PeopleStatus`: what was said last counts while its lease lasts, everybody reads the
//! same, and who follows is told.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::people::{
    Hold, PeopleStatus, PersonKey, STATUS_BATCH_MAX, STATUS_BYTES_MAX, STATUS_USER_MAX, Status,
    StatusSink,
};

/// How long an engine may take to tell something, and to forget what has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the suite. `engines` are handles of one engine as different nodes have them; one of them twice is
/// one node. Their leases should be short: the suite waits for one to end. The users' names begin with
/// `prefix`.
pub fn all(engines: [&dyn PeopleStatus; 2], prefix: &str) {
    what_was_said_last_counts(engines, prefix);
    a_lease_that_is_not_renewed_ends(engines, prefix);
    neighbours_do_not_mix(engines, prefix);
    who_follows_is_told_once_and_in_order(engines, prefix);
    who_does_not_follow_is_told_nothing(engines, prefix);
    sizes_are_bounded(engines, prefix);
}

fn person(instance: &str, user: String) -> PersonKey {
    PersonKey {
        instance: instance.into(),
        user,
    }
}

fn say(engine: &dyn PeopleStatus, holder: &str, person: &PersonKey, status: &str) -> Duration {
    let hold = Hold {
        person: person.clone(),
        status: (!status.is_empty()).then(|| status.as_bytes().to_vec()),
    };
    engine.hold(holder, &[hold]).expect("hold")
}

fn read(engine: &dyn PeopleStatus, person: &PersonKey) -> (u64, String) {
    let read = engine.read(std::slice::from_ref(person)).expect("read");
    assert_eq!(read.len(), 1);
    (read[0].version, text(&read[0]))
}

fn text(status: &Status) -> String {
    let said = status.said.as_deref().unwrap_or_default();
    String::from_utf8_lossy(said).into_owned()
}

fn what_was_said_last_counts([here, there]: [&dyn PeopleStatus; 2], prefix: &str) {
    let ann = person("demo", format!("{prefix}ann"));
    assert_eq!(read(here, &ann).1, "");
    say(here, "e1", &ann, "");
    say(here, "e1", &ann, "away");
    let (first, said) = read(there, &ann);
    assert_eq!(said, "away");
    say(there, "e2", &ann, "back");
    let (second, said) = read(here, &ann);
    assert!(said == "back" && second > first);
    // Who says the same again has said it when it did so first.
    say(here, "e1", &ann, "away");
    assert_eq!(read(there, &ann), (second, "back".to_owned()));
    // Who says nothing any more leaves it to the others.
    say(there, "e2", &ann, "");
    let (third, said) = read(here, &ann);
    assert!(said == "away" && third > second);
    say(here, "e1", &ann, "");
    let (fourth, said) = read(there, &ann);
    assert!(said.is_empty() && fourth > third);
    assert_eq!(here.read(&[]).expect("nobody"), []);
    here.hold("e1", &[]).expect("nobody");
}

fn a_lease_that_is_not_renewed_ends([here, there]: [&dyn PeopleStatus; 2], prefix: &str) {
    let (ann, bob) = (
        person("demo", format!("{prefix}la")),
        person("demo", format!("{prefix}lb")),
    );
    let began = Instant::now();
    let lease = say(here, "e1", &ann, "away");
    say(here, "e1", &bob, "away");
    while read(there, &ann).1 == "away" {
        assert!(began.elapsed() < lease + PATIENCE, "the lease does not end");
        say(here, "e1", &bob, "away");
        std::thread::sleep(lease / 16);
    }
    assert!(began.elapsed() >= lease / 2, "the lease ended early");
    assert_eq!(read(there, &bob).1, "away", "it was renewed");
    say(here, "e1", &bob, "");
}

fn neighbours_do_not_mix([here, there]: [&dyn PeopleStatus; 2], prefix: &str) {
    let names = [
        ("a", "b"),
        ("ab", ""),
        ("a", ""),
        ("a", "bb"),
        ("b", "b"),
        ("a", "b}"),
        ("a", "ä\n"),
    ];
    let people = names.map(|(instance, user)| person(instance, format!("{prefix}{user}")));
    let holds: Vec<Hold> = people
        .iter()
        .enumerate()
        .map(|(n, person)| Hold {
            person: person.clone(),
            status: Some(vec![0, n as u8, b'\n', 255]),
        })
        .collect();
    here.hold("e1", &holds).expect("hold");
    let read = there.read(&people).expect("read");
    for (status, hold) in read.iter().zip(&holds) {
        assert_eq!(status.said, hold.status, "{:?}", hold.person);
    }
    let none: Vec<Hold> = people
        .iter()
        .map(|p| Hold {
            person: p.clone(),
            status: None,
        })
        .collect();
    here.hold("e1", &none).expect("hold");
    assert!(
        there
            .read(&people)
            .expect("read")
            .iter()
            .all(|status| status.said.is_none())
    );
}

/// Keeps what it is told.
#[derive(Default)]
struct Collect {
    told: Mutex<Told>,
    more: Condvar,
}

#[derive(Default)]
struct Told {
    changes: Vec<(PersonKey, Status)>,
    live: usize,
}

impl StatusSink for Collect {
    fn changed(&self, person: &PersonKey, status: &Status) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.changes.push((person.clone(), status.clone()));
        self.more.notify_all();
    }

    fn live(&self, _: &PersonKey) {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .live += 1;
        self.more.notify_all();
    }
}

impl Collect {
    fn wait(&self, what: &str, holds: impl Fn(&Told) -> bool) -> Vec<(PersonKey, Status)> {
        let until = Instant::now() + PATIENCE;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        while !holds(&told) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: {:?}", told.changes);
            let waited = self.more.wait_timeout(told, left);
            told = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        told.changes.clone()
    }

    fn follow(&self, engine: &dyn PeopleStatus, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        let before = self
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .live;
        engine.follow(person, sink);
        self.wait("live", |told| told.live > before);
    }

    fn texts(&self, count: usize) -> Vec<String> {
        let told = self.wait("changes", |told| told.changes.len() >= count);
        told.iter().map(|(_, status)| text(status)).collect()
    }
}

fn sink() -> (Arc<Collect>, Arc<dyn StatusSink>) {
    let collect = Arc::new(Collect::default());
    (collect.clone(), collect)
}

fn who_follows_is_told_once_and_in_order([here, there]: [&dyn PeopleStatus; 2], prefix: &str) {
    let ann = person("demo", format!("{prefix}told"));
    let (one, one_sink) = sink();
    let (two, two_sink) = sink();
    one.follow(here, &ann, &one_sink);
    one.follow(here, &ann, &one_sink);
    two.follow(there, &ann, &two_sink);
    let said: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
    for status in &said {
        say(here, "e1", &ann, status);
        // To say it again is no change.
        say(here, "e1", &ann, status);
    }
    assert_eq!(one.texts(50), said);
    assert_eq!(two.texts(50), said);
    let versions = |told: Vec<(PersonKey, Status)>| {
        told.into_iter().map(|(_, s)| s.version).collect::<Vec<_>>()
    };
    let got = versions(two.wait("all", |told| told.changes.len() >= 50));
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
    // What is read is not older than what was told.
    assert!(read(there, &ann).0 >= got[49]);
    // Whoever changes it: everybody is told in the order of the versions, and ends with the last.
    std::thread::scope(|scope| {
        for (engine, holder) in [(here, "e1"), (there, "e2")] {
            let ann = &ann;
            scope.spawn(move || {
                for n in 0..50 {
                    say(engine, holder, ann, &format!("{holder}:{n}"));
                }
            });
        }
    });
    let (version, last) = read(here, &ann);
    for collect in [&one, &two] {
        let told = collect.wait("the last", |told| {
            told.changes
                .last()
                .is_some_and(|(_, status)| status.version == version)
        });
        assert_eq!(
            told.last().map(|(_, status)| text(status)),
            Some(last.clone())
        );
        let versions = versions(told);
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    }
    say(here, "e1", &ann, "");
    say(there, "e2", &ann, "");
    two.wait("nobody says anything", |told| {
        told.changes
            .last()
            .is_some_and(|(_, status)| status.said.is_none())
    });
    here.unfollow(&ann, &one_sink);
    there.unfollow(&ann, &two_sink);
}

fn who_does_not_follow_is_told_nothing([here, there]: [&dyn PeopleStatus; 2], prefix: &str) {
    let ann = person("demo", format!("{prefix}quiet"));
    let other = person("demo2", format!("{prefix}quiet"));
    let (one, one_sink) = sink();
    let (two, two_sink) = sink();
    here.unfollow(&ann, &one_sink);
    one.follow(here, &ann, &one_sink);
    two.follow(here, &ann, &two_sink);
    say(there, "e1", &other, "not hers");
    say(there, "e1", &ann, "both");
    assert_eq!(
        (one.texts(1), two.texts(1)),
        (vec!["both".into()], vec!["both".into()])
    );
    here.unfollow(&ann, &one_sink);
    drop(two_sink);
    let gone = Arc::downgrade(&two);
    drop(two);
    let (three, three_sink) = sink();
    three.follow(here, &ann, &three_sink);
    say(there, "e1", &ann, "last");
    assert_eq!(three.texts(1), ["last"]);
    assert_eq!(one.texts(1), ["both"]);
    let until = Instant::now() + PATIENCE;
    while gone.upgrade().is_some() {
        assert!(Instant::now() < until, "the engine holds on to a sink");
        std::thread::yield_now();
    }
    say(there, "e1", &ann, "");
    say(there, "e1", &other, "");
    here.unfollow(&ann, &three_sink);
}

fn sizes_are_bounded([here, _]: [&dyn PeopleStatus; 2], prefix: &str) {
    let refused = |done: Result<(), StoreError>| {
        assert!(matches!(done, Err(StoreError::TooLarge { .. })), "{done:?}");
    };
    let hold = |user: String, bytes: usize| Hold {
        person: person("demo", user),
        status: Some(vec![7; bytes]),
    };
    let most = "n".repeat(STATUS_USER_MAX - prefix.len());
    let fits = hold(format!("{prefix}{most}"), STATUS_BYTES_MAX);
    here.hold("e1", std::slice::from_ref(&fits))
        .expect("the most");
    let read = here.read(std::slice::from_ref(&fits.person)).expect("read");
    assert_eq!(read[0].said, fits.status);
    let many: Vec<Hold> = (0..STATUS_BATCH_MAX)
        .map(|n| hold(format!("{prefix}m{n}"), 1))
        .collect();
    here.hold("e1", &many).expect("many");
    let people: Vec<PersonKey> = many.iter().map(|hold| hold.person.clone()).collect();
    assert!(
        here.read(&people)
            .expect("read")
            .iter()
            .all(|status| status.said.is_some())
    );
    let beyond = person("demo", format!("{prefix}{most}n"));
    refused(here.hold("e1", &[hold(beyond.user.clone(), 1)]).map(drop));
    refused(
        here.hold("e1", &[hold(prefix.to_owned(), STATUS_BYTES_MAX + 1)])
            .map(drop),
    );
    refused(here.read(&[beyond]).map(drop));
    let too_many = [people.clone(), people].concat();
    refused(here.read(&too_many).map(drop));
}
