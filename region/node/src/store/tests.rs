//! Tests of the threads that talk to the store.

use std::time::Instant;

use gb6_core_obs::Health;
use gb6_core_ports::MapLayer;
use gb6_core_ports::memory::MemoryMap;

use super::*;

#[test]
fn a_list_says_what_was_removed_meanwhile() {
    let entry = |key: &str, value: Option<&[u8]>, revision| MapEntry {
        key: key.to_owned(),
        value: value.map(<[u8]>::to_vec),
        revision,
    };
    let page = |entries, revision| MapPage { entries, revision };
    let mut known = Known::default();
    let list = page(
        vec![entry("a", Some(b"1"), 3), entry("b", Some(b"2"), 5)],
        7,
    );
    assert!(!known.is_ahead_of(&list));
    known.told(&list);
    let later = page(vec![entry("a", Some(b"1"), 3)], 9);
    assert!(!known.is_ahead_of(&later));
    assert_eq!(
        known.all(later).entries,
        [entry("a", Some(b"1"), 3), entry("b", None, 9)]
    );
    assert!(known.is_ahead_of(&page(Vec::new(), 6)), "it went back");
    let past = page(vec![entry("b", Some(b"0"), 4)], 20);
    assert!(
        known.is_ahead_of(&past),
        "it went back and has gone on since"
    );
}

/// A store whose client has a defect, in every call or in none.
#[derive(Default)]
struct Defective {
    map: MemoryMap,
    panics: AtomicBool,
    /// Changes that were made before the call panicked.
    made: AtomicBool,
}

impl Defective {
    #[allow(clippy::panic, reason = "a defect is what is met")]
    fn defect(&self) {
        if self.panics.load(Ordering::SeqCst) {
            panic!("a defect of the store's client");
        }
    }
}

impl MapLayer for Defective {
    fn below(&self) -> &dyn MapStore {
        &self.map
    }

    fn reach(&self) -> Result<&dyn MapStore, StoreError> {
        self.defect();
        Ok(&self.map)
    }

    fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
        let put = self.map.put(key, value, expect);
        self.made.store(true, Ordering::SeqCst);
        self.defect();
        put
    }
}

#[test]
fn a_client_that_panics_stops_neither_looks_nor_changes_for_good() {
    let map = Arc::new(Defective::default());
    let (metrics, health) = (Metrics::bare(), Health::new());
    let other = health.register("other");
    other.ready();
    let news = Arc::<NewsBox>::default();
    let lease = Arc::new(NodeLease::new(Duration::from_secs(1)));
    let stop = Arc::<AtomicBool>::default();
    let store = Store::start(
        map.clone(),
        "regions/eu/".into(),
        (news.clone(), lease),
        stop.clone(),
        (&metrics, &Panics::new(&metrics, &health)),
    );
    let store = store.expect("threads");
    let mut heard = Vec::new();
    let mut until = |what: &str, done: &dyn Fn(&[News]) -> bool| {
        let late = Instant::now() + Duration::from_secs(20);
        while !done(&heard) {
            assert!(Instant::now() < late, "{what}: {heard:?}");
            heard.extend(news.take(Duration::from_millis(20)));
        }
        heard.clear();
    };
    let looks = |news: &[News]| news.iter().any(|n| matches!(n, News::Looked { .. }));
    until("it looks", &looks);
    map.panics.store(true, Ordering::SeqCst);
    let change = |key: &str| Change {
        key: key.to_owned(),
        value: Some(b"v".to_vec()),
        expected: Expected::Absent,
    };
    assert!(store.change(true, change("regions/eu/nodes/r1")));
    assert!(store.change(false, change("regions/eu/shards/1")));
    let unknown = |news: &[News]| {
        let unknown = |n: &&News| {
            let outcome = Written::Unknown;
            matches!(n, News::Written { outcome: o, .. } if *o == outcome)
        };
        news.iter().filter(unknown).count() == 2
    };
    until("nobody knows what became of the changes", &unknown);
    assert!(map.made.load(Ordering::SeqCst));
    let panics = |part: &str| {
        let name = format!("gb6_region_panics_total{{part=\"{part}\"}} ");
        let text = metrics.text();
        let count = text
            .lines()
            .find_map(|l| l.strip_prefix(&name)?.parse::<u64>().ok());
        count.unwrap_or(0)
    };
    let late = Instant::now() + Duration::from_secs(20);
    while panics("assignments_look") < 2 || panics("assignments_write") < 4 {
        assert!(Instant::now() < late, "{}", metrics.text());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!health.now().is_ready());
    map.panics.store(false, Ordering::SeqCst);
    // What was made is read, and the looks go on.
    let reads = |news: &[News]| {
        let read = |n: &&News| {
            matches!(
                n,
                News::Read {
                    record: Some(_),
                    ..
                }
            )
        };
        news.iter().filter(read).count() == 2 && looks(news)
    };
    until("it goes on", &reads);
    until("it looks", &looks);
    let late = Instant::now() + Duration::from_secs(20);
    while !health.now().is_ready() {
        assert!(Instant::now() < late, "{:?}", health.now());
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::SeqCst);
}
