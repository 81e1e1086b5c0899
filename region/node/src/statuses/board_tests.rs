//! A board on the engines in memory, with time as it likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gb6_core_obs::Health;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::memory::{MemoryPeople, MemoryTemporary};
use gb6_core_ports::{Hold, PeopleStatus, PersonKey, Status, StatusSink, StoreError, TemporaryKey};
use gb6_core_wire::mesh::{RoomRef, UserStatusAction, UserStatusAnswer, UserStatusQuery};
use gb6_region_shard::{LinkId, StatusAsked};

use super::board::Board;
use super::{Presence, Question, StatusEngines, Work};
use crate::metrics::RegionMetrics;
use crate::panics::Panics;

const TTL: Duration = Duration::from_secs(3_600);
const LINGER: Duration = Duration::from_secs(3);
/// When everything here happens, in Unix seconds.
const NOON: i64 = 1_700_000_000;

struct World {
    engines: StatusEngines,
    metrics: RegionMetrics,
    began: Instant,
}

impl World {
    fn new(lease: Duration) -> Self {
        Self {
            engines: StatusEngines {
                people: Arc::new(MemoryPeople::with_lease(lease)),
                values: Arc::new(MemoryTemporary::default()),
            },
            metrics: RegionMetrics::new(&Metrics::bare()),
            began: Instant::now(),
        }
    }

    fn board(&self, holder: &str) -> Board {
        let panics = Panics::new(&Metrics::bare(), &Health::new());
        let (engines, metrics) = (self.engines.clone(), self.metrics.clone());
        Board::new(engines, holder.into(), metrics, panics)
    }

    /// Runs rounds until nothing more is due.
    fn run(&self, board: &mut Board, after: Duration, work: Work) -> Vec<UserStatusAnswer> {
        let now = self.began + after;
        let (mut answers, mut more) = board.round(work, now);
        while more {
            let (further, again) = board.round(Work::default(), now);
            answers.extend(further);
            more = again;
        }
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    fn presence(&self, after: Duration, users: &[&str], here: bool) -> Work {
        let presence = Presence {
            here,
            at: self.began + after,
            unix_s: NOON + after.as_secs() as i64,
            ttl: TTL,
        };
        let presences = users.iter().map(|user| (person(user), presence));
        Work {
            presences: presences.collect(),
            questions: Vec::new(),
        }
    }

    fn question(
        &self,
        after: Duration,
        user: &str,
        action: UserStatusAction,
        state: &str,
    ) -> Question {
        let query = UserStatusQuery {
            request: 1,
            room: RoomRef {
                instance: "demo".into(),
                channel: format!("#{user}"),
            },
            instance_epoch: 1,
            action: action.into(),
            state: state.into(),
        };
        Question {
            asked: StatusAsked {
                link: LinkId(1),
                query,
                here: false,
                ttl_ms: TTL.as_millis() as u64,
            },
            at: self.began + after,
            unix_s: NOON + after.as_secs() as i64,
        }
    }

    fn ask(&self, board: &mut Board, after: Duration, question: Question) -> UserStatusAnswer {
        let work = Work {
            questions: vec![question],
            ..Work::default()
        };
        self.run(board, after, work).remove(0)
    }

    fn get(&self, board: &mut Board, after: Duration, user: &str) -> UserStatusAnswer {
        let question = self.question(after, user, UserStatusAction::Get, "");
        self.ask(board, after, question)
    }

    fn said(&self, user: &str) -> Option<Vec<u8>> {
        let people = [person(user)];
        self.engines.people.read(&people).expect("read")[0]
            .said
            .clone()
    }
}

fn person(user: &str) -> PersonKey {
    PersonKey {
        instance: "demo".into(),
        user: user.to_owned(),
    }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn another_owner_sees_who_was_held_and_what_they_say() {
    let world = World::new(s(30));
    let mut before = world.board("r1/0");
    world.run(&mut before, s(0), world.presence(s(0), &["ann"], true));
    assert_eq!(world.said("ann"), Some(Vec::new()));
    let busy = world.question(s(1), "ann", UserStatusAction::Update, "busy");
    world.ask(&mut before, s(1), busy);
    assert_eq!(
        world.said("ann"),
        Some(b"busy".to_vec()),
        "it is told at once"
    );
    drop(before);
    // It has not heard yet that she is here.
    let mut after = world.board("r2/0");
    let ann = world.get(&mut after, s(2), "ann");
    assert_eq!((ann.active, ann.online), (NOON + 1, NOON + 2));
    assert_eq!((ann.state.as_str(), ann.error), ("busy", 0));
    // Her state is hers for it, too.
    world.run(&mut after, s(3), world.presence(s(3), &["ann"], true));
    assert_eq!(world.said("ann"), Some(b"busy".to_vec()));
    assert_eq!(world.metrics.statuses_held.get(), 1);
}

#[test]
fn who_comes_back_at_once_was_never_away() {
    let world = World::new(s(30));
    let mut board = world.board("r1/0");
    world.run(
        &mut board,
        s(0),
        world.presence(s(0), &["ann", "bob"], true),
    );
    world.run(
        &mut board,
        s(10),
        world.presence(s(10), &["ann", "bob"], false),
    );
    world.run(&mut board, s(11), world.presence(s(11), &["ann"], true));
    world.run(&mut board, s(10) + LINGER, Work::default());
    assert!(world.said("ann").is_some() && world.said("bob").is_none());
    assert_eq!(world.get(&mut board, s(20), "ann").online, NOON + 20);
    assert_eq!(
        world.get(&mut board, s(20), "bob").online,
        NOON + 10,
        "when he left"
    );
    // Away again, by the later time.
    world.run(&mut board, s(12), world.presence(s(12), &["ann"], false));
    world.run(&mut board, s(12) + LINGER, Work::default());
    assert_eq!(world.get(&mut board, s(20), "ann").online, NOON + 12);
    assert_eq!(world.metrics.statuses_held.get(), 0);
}

#[test]
fn who_came_and_went_between_two_rounds_was_online() {
    let world = World::new(s(30));
    let mut board = world.board("r1/0");
    // The later of both is what a round is told.
    world.run(&mut board, s(5), world.presence(s(4), &["ann"], false));
    world.run(&mut board, s(4) + LINGER, Work::default());
    assert!(world.said("ann").is_none());
    assert_eq!(world.get(&mut board, s(20), "ann").online, NOON + 4);
    // As above, where the round comes late.
    world.run(&mut board, s(30), world.presence(s(22), &["ann"], false));
    assert_eq!(world.get(&mut board, s(40), "ann").online, NOON + 22);
    assert_eq!(world.metrics.statuses_held.get(), 0);
    // Away and back is here.
    world.run(&mut board, s(51), world.presence(s(51), &["ann"], false));
    world.run(&mut board, s(52), world.presence(s(52), &["ann"], true));
    world.run(&mut board, s(52) + 2 * LINGER, Work::default());
    assert!(world.said("ann").is_some());
}

#[test]
fn holds_are_renewed_as_long_as_people_are_here_however_many() {
    // Of the real clock, by which the engine ends leases.
    let lease = Duration::from_millis(600);
    let world = World::new(lease);
    let mut board = world.board("r1/0");
    let users: Vec<String> = (0..3_000).map(|n| format!("u{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    world.run(&mut board, s(0), world.presence(s(0), &users, true));
    // And whether that was looked at in time: while a machine stands still leases end, whoever renews them.
    let all = |board: &mut Board| {
        let at = world.began.elapsed();
        world.run(board, at, Work::default());
        let held = users.iter().all(|user| world.said(user).is_some());
        (held, world.began.elapsed() - at < lease / 4)
    };
    let mut seen = 0;
    while world.began.elapsed() < 3 * lease || seen == 0 {
        let (held, in_time) = all(&mut board);
        assert!(held || !in_time, "after {seen} rounds");
        seen += u32::from(in_time);
        std::thread::yield_now();
    }
    drop(board);
    // Nobody renews: it ends by itself.
    let ended = Instant::now();
    while world.said("u2999").is_some() {
        assert!(ended.elapsed() < s(10));
        std::thread::yield_now();
    }
}

/// An engine that takes nobody while it is lost, and counts attempts.
struct Lost {
    people: MemoryPeople,
    lost: AtomicBool,
    holds: AtomicUsize,
}

impl PeopleStatus for Lost {
    fn hold(&self, holder: &str, holds: &[Hold]) -> Result<Duration, StoreError> {
        self.holds.fetch_add(1, Ordering::Relaxed);
        if self.lost.load(Ordering::Relaxed) {
            let cause = "lost".to_owned();
            return Err(StoreError::Unavailable { cause });
        }
        self.people.hold(holder, holds)
    }

    fn read(&self, people: &[PersonKey]) -> Result<Vec<Status>, StoreError> {
        self.people.read(people)
    }

    fn follow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        self.people.follow(person, sink);
    }

    fn unfollow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        self.people.unfollow(person, sink);
    }
}

#[test]
fn a_lost_engine_is_tried_once_a_second_however_many_are_here() {
    let mut world = World::new(s(30));
    let lost = Arc::new(Lost {
        people: MemoryPeople::default(),
        lost: AtomicBool::new(true),
        holds: AtomicUsize::new(0),
    });
    world.engines.people = lost.clone();
    let mut board = world.board("r1/0");
    let users: Vec<String> = (0..3_000).map(|n| format!("u{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    world.run(&mut board, s(0), world.presence(s(0), &users, true));
    assert!(!board.is_due(world.began + Duration::from_millis(900)));
    world.run(&mut board, Duration::from_millis(900), Work::default());
    assert_eq!(lost.holds.load(Ordering::Relaxed), 1);
    assert!(board.is_due(world.began + s(1)));
    lost.lost.store(false, Ordering::Relaxed);
    // Those that were not tried at once, the others a second after they were.
    world.run(&mut board, s(1), Work::default());
    world.run(&mut board, s(2), Work::default());
    assert!(users.iter().all(|user| world.said(user).is_some()));
    assert!(!board.is_due(world.began + s(2)));
}

#[test]
fn what_is_deleted_is_gone_and_who_is_here_stays_so() {
    let world = World::new(s(30));
    let mut board = world.board("r1/0");
    world.run(&mut board, s(0), world.presence(s(0), &["ann"], true));
    let questions = [
        (UserStatusAction::Update, "busy"),
        (UserStatusAction::Update, "away"),
        (UserStatusAction::Get, ""),
        (UserStatusAction::Delete, ""),
        (UserStatusAction::Get, ""),
        (UserStatusAction::Unspecified, ""),
    ];
    let questions = questions.map(|(action, state)| world.question(s(1), "ann", action, state));
    let work = Work {
        questions: questions.into(),
        ..Work::default()
    };
    let answers = world.run(&mut board, s(1), work);
    assert_eq!(answers[2].state, "away", "in the order in which they came");
    let deleted = &answers[4];
    assert_eq!((deleted.active, deleted.online), (0, NOON + 1));
    assert_eq!(deleted.state, "");
    assert_eq!(answers[5].error, 107);
    assert_eq!(world.said("ann"), Some(Vec::new()));
}

#[test]
fn what_an_engine_holds_by_these_names_need_not_be_ours() {
    let world = World::new(s(30));
    let mut board = world.board("r1/0");
    let names = ["active", "online", "state"].map(|what| TemporaryKey {
        instance: "demo".into(),
        name: format!("status/{what}:ann"),
    });
    let values = names.map(|key| (key, b"\xff1".to_vec()));
    world.engines.values.put(&values, TTL).expect("put");
    let ann = world.get(&mut board, s(1), "ann");
    assert_eq!((ann.active, ann.online, ann.error), (0, 0, 0));
    assert_eq!(ann.state, "");
    world.run(&mut board, s(2), world.presence(s(2), &["ann"], true));
    assert_eq!(world.get(&mut board, s(3), "ann").online, NOON + 3);
}
