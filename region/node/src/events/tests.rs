//! Events are published at least once and in order, whoever fails meanwhile.

use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use gb6_core_model::snapshot::Instance;
use gb6_core_obs::Health;
use gb6_core_ports::contract::log::{acquire, append, fence, messages};
use gb6_core_ports::memory::{MemoryEvents, MemoryLogConfig, MemoryStorage};
use gb6_core_wire::record::Record;

use super::*;
use crate::bodies::KeySource;
use crate::panics::Panics;
use crate::positions::{ListPlaces, StoreEvery};

const PATIENCE: Duration = Duration::from_secs(20);

/// Events that are published, and how far they are.
struct Started {
    events: ShardEvents,
    positions: Arc<Positions>,
}

impl Started {
    fn stop(self) {
        self.events.stop();
        self.positions.store().expect("stored");
    }
}

struct World {
    storage: MemoryStorage,
    sink: MemoryEvents,
    metrics: Metrics,
}

impl World {
    fn new() -> Self {
        Self {
            storage: MemoryStorage::new(MemoryLogConfig {
                consumer_lag_bytes_max: 2000,
                segment_records: 8,
                ..MemoryLogConfig::default()
            }),
            sink: MemoryEvents::default(),
            metrics: Metrics::bare(),
        }
    }

    fn start(&self, events: &Events) -> Started {
        let waits = (watch::channel(Arc::default()).1, KeyWaits::default());
        self.start_with(events, Arc::default(), waits)
    }

    fn start_with(
        &self,
        events: &Events,
        keys: Arc<RecordKeys>,
        waits: (watch::Receiver<Arc<Snapshot>>, KeyWaits),
    ) -> Started {
        let places = ListPlaces::new(&self.metrics);
        let log = Arc::new(self.storage.open());
        let positions = Positions::new(3, log, places, StoreEvery::default());
        let guard = Panics::new(&self.metrics, &Health::new()).guard("events", "events".into());
        let told = (&self.metrics, guard);
        let of = positions.clone();
        let started = ShardEvents::start_with(ShardId(3), of, keys, events, waits, told);
        Started {
            events: started.expect("a thread"),
            positions,
        }
    }

    fn events(&self) -> Events {
        Events::to(Arc::new(self.sink.clone()))
    }

    fn until(&self, what: &str, done: impl Fn(&[Position]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let positions: Vec<_> = self.sink.events().iter().map(|e| e.position).collect();
            if done(&positions) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {positions:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn what_is_committed_is_published_from_where_it_began() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    append(&log, &fence(1), messages(1, "room:a", 3)).expect("appended");
    let events = world.start(&world.events());
    // It is new: from now on. When that is, its registration says.
    let deadline = Instant::now() + PATIENCE;
    while log.consumers().expect("listed").is_empty() {
        assert!(Instant::now() < deadline, "it registers");
        std::thread::sleep(Duration::from_millis(2));
    }
    append(&log, &fence(1), messages(4, "room:a", 40)).expect("appended");
    world.until("all", |positions| *positions == (4..44).collect::<Vec<_>>());
    events.stop();
    assert_eq!(log.consumers().expect("listed")[0].position, 44);
    // Whoever goes on begins there.
    append(&log, &fence(1), messages(44, "room:a", 2)).expect("appended");
    let events = world.start(&world.events());
    world.until("the rest", |positions| positions.ends_with(&[43, 44, 45]));
    events.stop();
    // Nobody wants them any more: nobody is waited for.
    world.start(&Events::default()).stop();
    assert_eq!(log.consumers().expect("listed"), []);
}

#[test]
fn a_sink_that_fails_gets_everything_again_and_nothing_is_left_out() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    world.sink.fail(2);
    append(&log, &fence(1), messages(1, "room:a", 40)).expect("appended");
    let events = world.start(&world.events());
    world.until("all", |positions| positions.last() == Some(&40));
    events.stop();
    let mut newest = 0;
    for event in world.sink.events() {
        // Who drops what it has by position gets every event once, in order.
        if event.position > newest {
            assert_eq!(event.position, newest + 1);
            newest = event.position;
        }
    }
    assert!(world.sink.events().len() > 40, "some were repeated");
    assert!(world.metrics.text().contains("gb6_events_failures_total 2"));
}

/// A sink with a defect, some times.
struct Defective {
    sink: MemoryEvents,
    panics: AtomicUsize,
}

impl EventSink for Defective {
    #[allow(clippy::panic, reason = "a defect is what is met")]
    fn publish(&self, events: &[SinkEvent]) -> Result<(), StoreError> {
        let one_less = |left: usize| left.checked_sub(1);
        let panics = &self.panics;
        if panics
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
            .is_ok()
        {
            panic!("a defect of the sink");
        }
        self.sink.publish(events)
    }

    fn events_max(&self) -> usize {
        self.sink.events_max()
    }
}

#[test]
fn a_sink_that_panics_gets_everything_all_the_same() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    append(&log, &fence(1), messages(1, "room:a", 4)).expect("appended");
    let events = world.start(&Events::to(Arc::new(Defective {
        sink: world.sink.clone(),
        panics: AtomicUsize::new(2),
    })));
    world.until("all", |positions| *positions == [1, 2, 3, 4]);
    events.stop();
    let text = world.metrics.text();
    let told = r#"gb6_region_panics_total{part="events"} 2"#;
    assert!(text.contains(told), "{text}");
}

#[test]
fn who_falls_too_far_behind_begins_where_the_log_does_and_says_so() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    append(&log, &fence(1), messages(1, "room:a", 60)).expect("appended");
    assert!(log.trim(&fence(1), 50).expect("trimmed") > 0);
    let first = log.range().expect("range").first;
    let events = world.start(&world.events());
    world.until("the kept ones", |positions| positions.last() == Some(&60));
    events.stop();
    assert_eq!(world.sink.events()[0].position, first);
    assert!(world.metrics.text().contains("gb6_events_lapsed_total 1"));
}

/// Records from `first` on, sealed with this key of their instance.
fn sealed(first: Position, count: u64, key_id: u32) -> Vec<Record> {
    let keys = RecordKeys::default();
    let records = messages(first, "room:a", count);
    keys.add(&records[0].instance, key_id, [9; 32]);
    keys.for_log(&records).expect("sealed")
}

#[test]
fn what_is_sealed_with_a_key_that_is_not_here_yet_waits_for_it_in_order() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    let instance = messages(1, "room:a", 1)[0].instance.clone();
    let keys = RecordKeys::default();
    append(&log, &fence(1), messages(1, "room:a", 2)).expect("appended");
    append(&log, &fence(1), sealed(3, 2, 7)).expect("appended");
    append(&log, &fence(1), messages(5, "room:b", 1)).expect("appended");
    let waits = (watch::channel(Arc::default()).1, KeyWaits::default());
    let events = world.start_with(&world.events(), Arc::new(keys.clone()), waits);
    let waiting = "gb6_events_waits_for_key{shard=\"3\"} 1";
    world.until("those before it", |positions| {
        positions == [1, 2] && world.metrics.text().contains(waiting)
    });
    // Whoever goes on meanwhile waits for it too.
    events.stop();
    assert_eq!(log.consumers().expect("listed")[0].position, 3);
    let waits = (watch::channel(Arc::default()).1, KeyWaits::default());
    let events = world.start_with(&world.events(), Arc::new(keys.clone()), waits);
    keys.add(&instance, 7, [9; 32]);
    world.until("all", |positions| positions == [1, 2, 3, 4, 5]);
    events.stop();
    let text = world.metrics.text();
    assert!(text.contains("gb6_events_unreadable_total 0"), "{text}");
    assert!(!text.contains(waiting), "{text}");
}

#[test]
fn a_key_that_does_not_come_is_waited_for_once_and_longer_where_its_instance_is_known() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    append(&log, &fence(1), sealed(1, 3, 7)).expect("appended");
    append(&log, &fence(1), messages(4, "room:b", 1)).expect("appended");
    let instance = sealed(1, 1, 7)[0].instance.as_str().into();
    let mut snapshot = Snapshot::default();
    snapshot.instances.insert(instance, Instance::default());
    let key_waits = KeyWaits {
        known: Duration::from_secs(3600),
        unknown: Duration::from_millis(300),
    };
    let (tell, told) = watch::channel(Arc::new(snapshot));
    let events = world.start_with(&world.events(), Arc::default(), (told, key_waits));
    std::thread::sleep(Duration::from_secs(1));
    assert!(world.sink.events().is_empty(), "the instance is known");
    // It is gone.
    tell.send_replace(Arc::default());
    world.until("what is behind", |positions| positions == [4]);
    events.stop();
    let text = world.metrics.text();
    assert!(text.contains("gb6_events_unreadable_total 3"), "{text}");
}

/// Where keys lie; `None` while it does not answer.
#[derive(Default)]
struct KeyPlace(Mutex<Option<BTreeSet<u32>>>);

impl KeySource for KeyPlace {
    fn key(&self, _: &str, key_id: u32) -> Result<Option<[u8; 32]>, StoreError> {
        match &*self.0.lock() {
            Some(there) => Ok(there.contains(&key_id).then_some([9; 32])),
            None => Err(StoreError::Unavailable {
                cause: "away".into(),
            }),
        }
    }
}

#[test]
fn a_destroyed_key_is_waited_for_by_nobody_and_one_that_is_there_is_fetched() {
    let world = World::new();
    let log = world.storage.open();
    acquire(&log, &fence(1)).expect("acquired");
    log.register_consumer(CONSUMER, 0).expect("registered");
    append(&log, &fence(1), messages(1, "room:a", 1)).expect("appended");
    append(&log, &fence(1), sealed(2, 2, 7)).expect("appended");
    append(&log, &fence(1), sealed(4, 1, 8)).expect("appended");
    append(&log, &fence(1), messages(5, "room:b", 1)).expect("appended");
    let instance = sealed(1, 1, 7)[0].instance.as_str().into();
    let mut snapshot = Snapshot::default();
    snapshot.instances.insert(instance, Instance::default());
    let told = watch::channel(Arc::new(snapshot)).1;
    // Nobody waits for what is known to be gone, however long they would for what is not.
    let key_waits = KeyWaits {
        known: Duration::from_secs(3600),
        unknown: Duration::from_secs(3600),
    };
    let place = Arc::new(KeyPlace::default());
    let keys = Arc::new(RecordKeys::of(place.clone()));
    let events = world.start_with(&world.events(), keys, (told, key_waits));
    let waiting = "gb6_events_waits_for_key{shard=\"3\"} 1";
    world.until("those before it", |positions| {
        positions == [1] && world.metrics.text().contains(waiting)
    });
    *place.0.lock() = Some(BTreeSet::from([8]));
    world.until("all that can be read", |positions| positions == [1, 4, 5]);
    events.stop();
    let text = world.metrics.text();
    assert!(text.contains("gb6_events_unreadable_total 2"), "{text}");
    assert!(!text.contains(waiting), "{text}");
}
