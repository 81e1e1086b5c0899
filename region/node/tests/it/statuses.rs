//! Statuses of users as an edge asks for them: kept in engines that may be lost or stuck, which costs nothing
//! but themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gb6_core_model::ErrorCode;
use gb6_core_model::snapshot::Namespace;
use gb6_core_ports::{StoreError, Temporary, TemporaryKey};
use gb6_core_wire::mesh::{
    EdgeFrame, OwnerFrame, Renew, RoomRef, UserChange, UserStatusAction, UserStatusAnswer,
    UserStatusQuery, UsersHere,
};
use gb6_region_node::StatusEngines;
use parking_lot::{Condvar, Mutex};

use crate::edge::{Edge, Machine, PATIENCE, room};
use crate::signals::{next_publication, signals};

fn query(edge: &Edge, request: u64, user: &str, action: UserStatusAction, state: &str) {
    edge.send(OwnerFrame::UserStatus(UserStatusQuery {
        request,
        room: RoomRef {
            instance: "demo".into(),
            channel: format!("#{user}"),
        },
        instance_epoch: 1,
        action: action.into(),
        state: state.into(),
    }));
}

async fn answer(edge: &mut Edge) -> UserStatusAnswer {
    loop {
        match edge.next().await.expect("the link stays") {
            EdgeFrame::UserStatusAnswer(answer) => return answer,
            EdgeFrame::Refused(why) => panic!("{why:?}"),
            _ => {}
        }
    }
}

async fn ask(
    edge: &mut Edge,
    user: &str,
    action: UserStatusAction,
    state: &str,
) -> UserStatusAnswer {
    query(edge, 7, user, action, state);
    let answer = answer(edge).await;
    assert_eq!(answer.request, 7);
    answer
}

async fn get(edge: &mut Edge, user: &str) -> UserStatusAnswer {
    let answer = ask(edge, user, UserStatusAction::Get, "").await;
    assert_eq!(answer.error, 0);
    answer
}

async fn update(edge: &mut Edge, user: &str, state: &str) {
    let answer = ask(edge, user, UserStatusAction::Update, state).await;
    assert_eq!(answer.error, 0);
}

fn here(edge: &Edge, user: &str, left: bool) {
    edge.send(OwnerFrame::UsersHere(UsersHere {
        changes: vec![UserChange {
            instance: "demo".into(),
            user: user.into(),
            left,
        }],
        ..UsersHere::default()
    }));
}

fn unix_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs() as i64
}

fn is_now(seconds: i64) -> bool {
    seconds.abs_diff(unix_s()) < 60
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_user_is_there_until_it_is_deleted_also_for_the_next_owner() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let nothing = get(&mut edge, "alice").await;
    assert_eq!(
        nothing,
        UserStatusAnswer {
            request: 7,
            ..UserStatusAnswer::default()
        }
    );
    update(&mut edge, "alice", "busy").await;
    // What is not said stays.
    update(&mut edge, "alice", "").await;
    let alice = get(&mut edge, "alice").await;
    assert!(
        is_now(alice.active) && alice.online == 0 && alice.state == "busy",
        "{alice:?}"
    );
    assert_eq!(get(&mut edge, "bob").await, nothing);
    drop(edge);
    region.drain().await;

    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    assert_eq!(get(&mut edge, "alice").await, alice);
    let done = ask(&mut edge, "alice", UserStatusAction::Delete, "").await;
    assert_eq!(done.error, 0);
    assert_eq!(get(&mut edge, "alice").await, nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_here_is_online_now_and_who_has_left_was_when_it_left() {
    let mut machine = Machine::new(Namespace::default());
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    here(&edge, "alice", false);
    let alice = get(&mut edge, "alice").await;
    assert!(is_now(alice.online) && alice.active == 0, "{alice:?}");
    let held = "gb6_region_statuses_held";
    let until = |wanted: f64, machine: &Machine| {
        let began = Instant::now();
        while machine.metric(held) != wanted {
            assert!(began.elapsed() < PATIENCE, "{wanted} are not held in time");
            std::thread::yield_now();
        }
    };
    until(1.0, &machine);
    here(&edge, "alice", true);
    until(0.0, &machine);
    let left = get(&mut edge, "alice").await.online;
    assert!(is_now(left));
    // It stands still from now on.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(get(&mut edge, "alice").await.online, left);
}

/// An engine of values that can be lost, or hold up whoever asks.
struct Faulty {
    values: Arc<dyn Temporary>,
    lost: AtomicBool,
    stuck: Mutex<bool>,
    goes_on: Condvar,
}

impl Faulty {
    fn pass(&self) -> Result<(), StoreError> {
        let mut stuck = self.stuck.lock();
        while *stuck {
            self.goes_on.wait(&mut stuck);
        }
        match self.lost.load(Ordering::Relaxed) {
            true => Err(StoreError::Unavailable {
                cause: "lost".into(),
            }),
            false => Ok(()),
        }
    }

    /// Holds up whoever asks until what is returned is dropped.
    fn stick(self: &Arc<Self>) -> Stuck {
        *self.stuck.lock() = true;
        Stuck(self.clone())
    }
}

struct Stuck(Arc<Faulty>);

impl Drop for Stuck {
    fn drop(&mut self) {
        *self.0.stuck.lock() = false;
        self.0.goes_on.notify_all();
    }
}

impl Temporary for Faulty {
    fn put(&self, values: &[(TemporaryKey, Vec<u8>)], ttl: Duration) -> Result<(), StoreError> {
        self.pass()?;
        self.values.put(values, ttl)
    }

    fn get(&self, keys: &[TemporaryKey]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.pass()?;
        self.values.get(keys)
    }

    fn delete(&self, keys: &[TemporaryKey]) -> Result<(), StoreError> {
        self.pass()?;
        self.values.delete(keys)
    }
}

fn faulty(machine: &mut Machine) -> Arc<Faulty> {
    let faulty = Arc::new(Faulty {
        values: machine.statuses.values.clone(),
        lost: AtomicBool::new(false),
        stuck: Mutex::new(false),
        goes_on: Condvar::new(),
    });
    machine.statuses = StatusEngines {
        values: faulty.clone(),
        ..machine.statuses.clone()
    };
    faulty
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_engine_fails_questions_alone_and_heals() {
    let mut machine = Machine::new(Namespace::default());
    let engine = faulty(&mut machine);
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    engine.lost.store(true, Ordering::Relaxed);
    here(&edge, "alice", false);
    for action in [
        UserStatusAction::Get,
        UserStatusAction::Update,
        UserStatusAction::Delete,
    ] {
        let answer = ask(&mut edge, "alice", action, "").await;
        assert_eq!(answer.error, ErrorCode::Internal.code(), "{action:?}");
    }
    assert_eq!(edge.publish(1, 1, "1".into()).await, (1, 0));
    engine.lost.store(false, Ordering::Relaxed);
    update(&mut edge, "alice", "busy").await;
    let alice = get(&mut edge, "alice").await;
    assert!(is_now(alice.online) && alice.state == "busy", "{alice:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_engine_holds_up_no_publish_and_old_questions_fail() {
    let mut machine = Machine::new(Namespace::default());
    let engine = faulty(&mut machine);
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let stuck = engine.stick();
    query(&edge, 1, "alice", UserStatusAction::Update, "first");
    let began = Instant::now();
    let mut number = 0;
    // Behind the first, which the engine has by then.
    query(&edge, 2, "alice", UserStatusAction::Update, "second");
    while began.elapsed() < Duration::from_millis(3_200) {
        number += 1;
        assert_eq!(edge.publish(1, number, "1".into()).await, (number, 0));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(stuck);
    let mut codes = [u32::MAX; 3];
    for _ in 0..2 {
        let answer = answer(&mut edge).await;
        codes[answer.request as usize] = answer.error;
    }
    // The second may have come to the engine together with the first.
    let late = [0, ErrorCode::Internal.code()];
    assert!(codes[1] == 0 && late.contains(&codes[2]), "{codes:?}");
    let state = get(&mut edge, "alice").await.state;
    assert_eq!(state, if codes[2] == 0 { "second" } else { "first" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_questions_that_wait_are_refused_and_the_others_answered() {
    let mut machine = Machine::new(Namespace::default());
    let engine = faulty(&mut machine);
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let stuck = engine.stick();
    // More than wait, with those that the engine has.
    const ASKED: u64 = 4_096 + 256 + 100;
    let (mut done, mut refused) = (0, 0);
    for n in 1..=ASKED {
        query(&edge, n, "alice", UserStatusAction::Update, "");
        // The lane to the owner has a bound of its own.
        if n % 512 != 0 && n != ASKED {
            continue;
        }
        edge.send(OwnerFrame::Renew(Renew { sequence: n }));
        loop {
            match edge.next().await.expect("the link stays") {
                EdgeFrame::Renewed(renewed) if renewed.sequence == n => break,
                EdgeFrame::UserStatusAnswer(answer) => {
                    assert_eq!(answer.error, ErrorCode::TooManyRequests.code());
                    refused += 1;
                }
                EdgeFrame::Refused(why) => panic!("{why:?}"),
                _ => {}
            }
        }
    }
    drop(stuck);
    while done + refused < ASKED {
        match answer(&mut edge).await.error {
            0 => done += 1,
            code => {
                assert_eq!(code, ErrorCode::TooManyRequests.code());
                refused += 1;
            }
        }
    }
    assert!((100..=ASKED - 4_096).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_tells_of_its_users_status_as_it_changes() {
    let rules = Namespace {
        user_status: true,
        ..signals()
    };
    let mut machine = Machine::new(rules);
    let _region = machine.start().await;
    let mut edge = machine.edge("e1").await;
    let mut reader = machine.edge("e2").await;
    reader.send(OwnerFrame::Interest(room()));
    let interested = reader.next().await;
    assert!(
        matches!(interested, Some(EdgeFrame::Interested(_))),
        "{interested:?}"
    );
    // The user that the channel room:1 names, and another one.
    here(&edge, "2", false);
    here(&edge, "1", false);
    update(&mut edge, "2", "busy").await;
    let told = next_publication(&mut reader).await;
    assert_eq!(
        (told.offset, &told.data[..]),
        (0, &br#"{"user":"1","online":true}"#[..])
    );
    assert!(is_now(told.time / 1_000) && told.from.is_none());
    update(&mut edge, "1", "busy").await;
    // What changes nothing is not told.
    update(&mut edge, "1", "").await;
    update(&mut edge, "1", "busy").await;
    update(&mut edge, "1", "away").await;
    for state in ["busy", "away"] {
        let told = next_publication(&mut reader).await;
        let wanted = format!(r#"{{"user":"1","online":true,"state":"{state}"}}"#);
        assert_eq!(told.data, wanted);
    }
    here(&edge, "1", true);
    let told = next_publication(&mut reader).await;
    assert_eq!(&told.data[..], br#"{"user":"1","online":false}"#);
}
