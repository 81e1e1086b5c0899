//! The contract of `Temporary`: what is put is there until it is deleted or has ended, and is nobody
//! else's.

use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::temporary::{
    TEMPORARY_BATCH_MAX, TEMPORARY_NAME_MAX, TEMPORARY_VALUE_MAX, Temporary, TemporaryKey,
};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);
/// How long an engine may take to forget what has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the suite. The names that it uses begin with `prefix`, in instances of any name.
pub fn all(engine: &dyn Temporary, prefix: &str) {
    what_is_put_is_there(engine, prefix);
    many_are_answered_in_their_order(engine, prefix);
    neighbours_do_not_mix(engine, prefix);
    what_has_ended_is_gone(engine, prefix);
    sizes_are_bounded(engine, prefix);
}

fn key(instance: &str, name: String) -> TemporaryKey {
    TemporaryKey {
        instance: instance.into(),
        name,
    }
}

fn put(engine: &dyn Temporary, key: &TemporaryKey, value: &[u8], ttl: Duration) {
    let values = [(key.clone(), value.to_vec())];
    engine.put(&values, ttl).expect("put");
}

fn get(engine: &dyn Temporary, key: &TemporaryKey) -> Option<Vec<u8>> {
    let mut read = engine.get(std::slice::from_ref(key)).expect("get");
    assert_eq!(read.len(), 1);
    read.remove(0)
}

fn delete(engine: &dyn Temporary, key: &TemporaryKey) {
    engine.delete(std::slice::from_ref(key)).expect("delete");
}

fn what_is_put_is_there(engine: &dyn Temporary, prefix: &str) {
    let key = key("demo", format!("{prefix}put"));
    assert_eq!(get(engine, &key), None);
    // That there is none is no error.
    delete(engine, &key);
    for value in [&b"one"[..], b"", b"\0\xff\r\n"] {
        put(engine, &key, value, LONG);
        assert_eq!(get(engine, &key).as_deref(), Some(value));
        assert_eq!(get(engine, &key).as_deref(), Some(value));
    }
    delete(engine, &key);
    assert_eq!(get(engine, &key), None);
    put(engine, &key, b"two", LONG);
    put(engine, &key, b"", Duration::ZERO);
    assert_eq!(get(engine, &key), None, "put for no time");
    put(engine, &key, b"three", Duration::MAX);
    assert_eq!(get(engine, &key).as_deref(), Some(&b"three"[..]));
    delete(engine, &key);
}

fn many_are_answered_in_their_order(engine: &dyn Temporary, prefix: &str) {
    let name = |n: usize| key("demo", format!("{prefix}many{n}"));
    let keys: Vec<_> = (0..TEMPORARY_BATCH_MAX).map(name).collect();
    let every_second = keys.iter().enumerate().step_by(2);
    let values: Vec<_> = every_second
        .map(|(n, key)| (key.clone(), n.to_string().into_bytes()))
        .collect();
    engine.put(&values, LONG).expect("put");
    for (n, value) in engine.get(&keys).expect("get").into_iter().enumerate() {
        let wanted = (n % 2 == 0).then(|| n.to_string().into_bytes());
        assert_eq!(value, wanted, "{n}");
    }
    engine.delete(&keys).expect("delete");
    let read = engine.get(&keys).expect("get");
    assert!(read.len() == keys.len() && read.iter().all(Option::is_none));
    for nothing in [engine.put(&[], LONG), engine.delete(&[])] {
        assert_eq!(nothing, Ok(()));
    }
    assert_eq!(engine.get(&[]), Ok(Vec::new()));
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
        put(engine, key, &[n as u8], LONG);
    }
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(get(engine, key), Some(vec![n as u8]), "{key:?}");
        delete(engine, key);
    }
}

fn what_has_ended_is_gone(engine: &dyn Temporary, prefix: &str) {
    let (short, long) = (
        key("demo", format!("{prefix}short")),
        key("demo", format!("{prefix}long")),
    );
    let began = Instant::now();
    let ttl = Duration::from_millis(300);
    put(engine, &short, b"s", ttl);
    put(engine, &long, b"l", ttl);
    // A later put has a time of its own.
    put(engine, &long, b"l", LONG);
    while get(engine, &short).is_some() {
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::yield_now();
    }
    assert!(began.elapsed() >= ttl / 2, "it ended early");
    assert_eq!(get(engine, &long).as_deref(), Some(&b"l"[..]));
    delete(engine, &long);
}

fn sizes_are_bounded(engine: &dyn Temporary, prefix: &str) {
    let name = "n".repeat(TEMPORARY_NAME_MAX - prefix.len());
    let most = key("demo", format!("{prefix}{name}"));
    let value = vec![7; TEMPORARY_VALUE_MAX];
    put(engine, &most, &value, LONG);
    assert_eq!(get(engine, &most), Some(value.clone()));
    delete(engine, &most);
    let beyond = [key("demo", format!("{prefix}{name}n"))];
    let refused = |done: Result<(), StoreError>| {
        assert!(matches!(done, Err(StoreError::TooLarge { .. })), "{done:?}");
    };
    refused(engine.put(&[(beyond[0].clone(), Vec::new())], LONG));
    let large = [&value[..], &[7]].concat();
    refused(engine.put(&[(most.clone(), large)], LONG));
    refused(engine.get(&beyond).map(drop));
    refused(engine.delete(&beyond));
    let many = vec![most.clone(); TEMPORARY_BATCH_MAX + 1];
    refused(engine.get(&many).map(drop));
    refused(engine.delete(&many));
    let many: Vec<_> = many.into_iter().map(|key| (key, Vec::new())).collect();
    refused(engine.put(&many, LONG));
    assert_eq!(get(engine, &most), None);
}
