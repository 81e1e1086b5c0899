//! The task of a shard's statuses, on engines that get stuck and panic.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use gb6_core_obs::{Health, Metrics};
use gb6_core_ports::{Hold, Status, StatusSink, StoreError};
use gb6_core_wire::mesh::{RoomRef, UserStatusAction, UserStatusQuery};
use parking_lot::Condvar;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const NOON_MS: i64 = 1_700_000_000_000;

/// An engine that can be stopped, and have a defect.
#[derive(Default)]
struct Engine {
    people: MemoryPeople,
    stuck: Mutex<bool>,
    freed: Condvar,
    panics: AtomicBool,
    holds: AtomicUsize,
}

impl Engine {
    #[allow(clippy::panic, reason = "a defect is what is met")]
    fn meet(&self) {
        let mut stuck = self.stuck.lock();
        while *stuck {
            self.freed.wait(&mut stuck);
        }
        if self.panics.load(Ordering::SeqCst) {
            panic!("a defect of the engine's client");
        }
    }

    fn free(&self) {
        *self.stuck.lock() = false;
        self.freed.notify_all();
    }
}

impl PeopleStatus for Engine {
    fn hold(&self, holder: &str, holds: &[Hold]) -> Result<Duration, StoreError> {
        self.meet();
        self.holds.fetch_add(1, Ordering::SeqCst);
        self.people.hold(holder, holds)
    }

    fn read(&self, people: &[PersonKey]) -> Result<Vec<Status>, StoreError> {
        self.meet();
        self.people.read(people)
    }

    fn follow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        self.people.follow(person, sink);
    }

    fn unfollow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        self.people.unfollow(person, sink);
    }
}

struct World {
    engine: Arc<Engine>,
    metrics: Metrics,
    statuses: ShardStatuses,
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that fails waits for nobody.
        self.engine.free();
    }
}

impl World {
    fn new() -> Self {
        // Holds are renewed in the middle of the lease: often.
        let engine = Arc::new(Engine {
            people: MemoryPeople::with_lease(Duration::from_millis(400)),
            ..Engine::default()
        });
        let engines = StatusEngines {
            people: engine.clone(),
            ..StatusEngines::in_memory()
        };
        let (metrics, health) = (Metrics::bare(), Health::new());
        let panics = Panics::new(&metrics, &health);
        let region = RegionMetrics::new(&metrics);
        let statuses = ShardStatuses::start(&engines, "r1/0".into(), region, panics);
        Self {
            engine,
            metrics,
            statuses,
        }
    }

    fn ask(&self, instance: &str, request: u64) -> Option<UserStatusAnswer> {
        let query = UserStatusQuery {
            request,
            room: RoomRef {
                instance: instance.into(),
                channel: "#ann".into(),
            },
            instance_epoch: 1,
            action: UserStatusAction::Get.into(),
            state: String::new(),
        };
        let asked = StatusAsked {
            link: LinkId(1),
            query,
            here: false,
            ttl_ms: 60_000,
        };
        let refused = self.statuses.ask(asked, NOON_MS);
        refused.map(|(_, answer)| answer)
    }

    /// The answers, until one is to this request.
    async fn until(&self, request: u64) -> Vec<UserStatusAnswer> {
        let mut all = Vec::new();
        let answered = async {
            loop {
                let answers = self.statuses.answers();
                all.extend(answers.into_iter().map(|(_, answer)| answer));
                if all.iter().any(|answer| answer.request == request) {
                    return;
                }
                self.statuses.answered().await;
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        assert!(answered.is_ok(), "{}", self.metrics.text());
        all
    }

    async fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn come(&self, user: &str) {
        let person = PersonKey {
            instance: "a".into(),
            user: user.to_owned(),
        };
        self.statuses.here(person, true, 60_000, NOON_MS);
    }

    fn is_held(&self, user: &str) -> bool {
        let person = PersonKey {
            instance: "a".into(),
            user: user.to_owned(),
        };
        let read = self.engine.people.read(&[person]).expect("read");
        read[0].said.is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_asks_too_much_is_refused_and_keeps_no_other_waiting() {
    let world = World::new();
    *world.engine.stuck.lock() = true;
    let refused = ErrorCode::TooManyRequests.code();
    let asked = 2 * ASKED_MAX as u64;
    let answers = (1..=asked).filter_map(|n| world.ask("flood", n));
    let answers: Vec<_> = answers.collect();
    assert!(answers.iter().all(|answer| answer.error == refused));
    // What is under way may have made some room.
    let waiting = asked as usize - answers.len();
    let half = ASKED_MAX / 2;
    assert!((half..=half + TOGETHER_MAX).contains(&waiting), "{waiting}");
    for n in 1..=100 {
        assert_eq!(world.ask("calm", asked + n), None);
    }
    world.engine.free();
    let before = world.until(asked + 100).await;
    assert!(before.iter().all(|answer| answer.error == 0));
    let last = before.iter().rposition(|answer| answer.request > asked);
    let before = &before[..last.expect("an answer")];
    let of_flood = before.iter().filter(|answer| answer.request <= asked);
    // A turn each, and what was taken before the other one asked.
    let (turns, taken) = (TOGETHER_MAX, TOGETHER_MAX);
    let of_flood = of_flood.count();
    assert!(of_flood <= turns + taken, "{of_flood}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_panic_everybody_is_held_again_and_who_asked_is_told() {
    let world = World::new();
    world.come("ann");
    world.wait("ann is held", || world.is_held("ann")).await;
    world.engine.panics.store(true, Ordering::SeqCst);
    assert_eq!(world.ask("a", 1), None);
    let answers = world.until(1).await;
    assert_eq!(answers[0].error, ErrorCode::Internal.code());
    // Who comes meanwhile is not forgotten either.
    world.come("bob");
    let panics = |least: u64| {
        let name = r#"gb6_region_panics_total{part="statuses"} "#;
        let text = world.metrics.text();
        let count = text.lines().find_map(|line| line.strip_prefix(name));
        count.is_some_and(|count| count.parse::<u64>().is_ok_and(|n| n >= least))
    };
    world.wait("it panics when it holds", || panics(2)).await;
    world
        .wait("its lease is over", || !world.is_held("ann"))
        .await;
    world.engine.panics.store(false, Ordering::SeqCst);
    world
        .wait("all are held", || {
            ["ann", "bob"].iter().all(|u| world.is_held(u))
        })
        .await;
    // And again, in time.
    let holds = world.engine.holds.load(Ordering::SeqCst);
    let renewed = || world.engine.holds.load(Ordering::SeqCst) >= holds + 3;
    world.wait("holds are renewed", renewed).await;
    assert_eq!(world.ask("a", 2), None);
    assert_eq!(world.until(2).await[0].error, 0);
}
