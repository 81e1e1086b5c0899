//! The contract of `Temporary`: what is put is there until it is taken, deleted or has ended, and is
//! nobody else's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::temporary::{TEMPORARY_NAME_MAX, TEMPORARY_VALUE_MAX, Temporary, TemporaryKey};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);
/// How long an engine may take to forget what has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the suite. The names that it uses begin with `prefix`, in instances of any name.
pub fn all(engine: &dyn Temporary, prefix: &str) {
    what_is_put_is_there(engine, prefix);
    neighbours_do_not_mix(engine, prefix);
    what_has_ended_is_gone(engine, prefix);
    one_takes_it(engine, prefix);
    sizes_are_bounded(engine, prefix);
}

fn key(instance: &str, name: String) -> TemporaryKey {
    TemporaryKey {
        instance: instance.into(),
        name,
    }
}

fn what_is_put_is_there(engine: &dyn Temporary, prefix: &str) {
    let key = key("demo", format!("{prefix}put"));
    assert_eq!(engine.get(&key).expect("get"), None);
    assert_eq!(engine.take(&key).expect("take"), None);
    engine.delete(&key).expect("that there is none is no error");
    for value in [&b"one"[..], b"", b"\0\xff\r\n"] {
        engine.put(&key, value, LONG).expect("put");
        assert_eq!(engine.get(&key).expect("get").as_deref(), Some(value));
        assert_eq!(engine.get(&key).expect("again").as_deref(), Some(value));
    }
    engine.delete(&key).expect("delete");
    assert_eq!(engine.get(&key).expect("get"), None);
    engine.put(&key, b"two", LONG).expect("put");
    engine
        .put(&key, b"", Duration::ZERO)
        .expect("put for no time");
    assert_eq!(engine.get(&key).expect("get"), None);
    engine
        .put(&key, b"three", Duration::MAX)
        .expect("put for ever");
    assert_eq!(
        engine.take(&key).expect("take").as_deref(),
        Some(&b"three"[..])
    );
    assert_eq!(engine.get(&key).expect("get"), None);
}

fn neighbours_do_not_mix(engine: &dyn Temporary, prefix: &str) {
    let names = [
        ("a", "b"),
        ("ab", ""),
        ("a", ""),
        ("a", "bb"),
        ("b", "b"),
        ("a", "b}"),
        ("a", "ä\n"),
    ];
    let keys = names.map(|(instance, name)| key(instance, format!("{prefix}{name}")));
    for (n, key) in keys.iter().enumerate() {
        engine.put(key, &[n as u8], LONG).expect("put");
    }
    for (n, key) in keys.iter().enumerate() {
        let value = engine.take(key).expect("take");
        assert_eq!(value, Some(vec![n as u8]), "{key:?}");
    }
}

fn what_has_ended_is_gone(engine: &dyn Temporary, prefix: &str) {
    let (short, long) = (
        key("demo", format!("{prefix}short")),
        key("demo", format!("{prefix}long")),
    );
    let began = Instant::now();
    let ttl = Duration::from_millis(300);
    engine.put(&short, b"s", ttl).expect("put");
    engine.put(&long, b"l", ttl).expect("put");
    // A later put has a time of its own.
    engine.put(&long, b"l", LONG).expect("put");
    while engine.get(&short).expect("get").is_some() {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::yield_now();
    }
    assert!(began.elapsed() >= ttl / 2, "it ended early");
    assert_eq!(engine.take(&short).expect("take"), None);
    assert_eq!(
        engine.take(&long).expect("take").as_deref(),
        Some(&b"l"[..])
    );
}

fn one_takes_it(engine: &dyn Temporary, prefix: &str) {
    for round in 0..20 {
        let key = key("demo", format!("{prefix}race{round}"));
        engine.put(&key, b"it", LONG).expect("put");
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    if engine.take(&key).expect("take").is_some() {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.load(Ordering::Relaxed), 1);
    }
}

fn sizes_are_bounded(engine: &dyn Temporary, prefix: &str) {
    let name = "n".repeat(TEMPORARY_NAME_MAX - prefix.len());
    let most = key("demo", format!("{prefix}{name}"));
    let value = vec![7; TEMPORARY_VALUE_MAX];
    engine.put(&most, &value, LONG).expect("the most");
    assert_eq!(engine.take(&most).expect("take"), Some(value.clone()));
    let beyond = key("demo", format!("{prefix}{name}n"));
    let refused = |done: Result<(), StoreError>| {
        assert!(matches!(done, Err(StoreError::TooLarge { .. })), "{done:?}");
    };
    refused(engine.put(&beyond, b"", LONG));
    refused(engine.put(&most, &[value, vec![7]].concat(), LONG));
    refused(engine.get(&beyond).map(drop));
    refused(engine.take(&beyond).map(drop));
    refused(engine.delete(&beyond));
    assert_eq!(engine.get(&most).expect("get"), None);
}
