//! Panics of a process, wherever they happen: of threads, of tasks, of single streams and connections.
//! Each is counted, and told in one line.
//!
//! Whoever runs the part goes on or does not, by its own rules; that a panic was caught somewhere makes
//! it no less a defect, and this is where all of them can be seen.

use std::collections::BTreeMap;
use std::panic::{Location, PanicHookInfo};

use parking_lot::Mutex;

use crate::metrics::Samples;

/// Kinds of threads that are told apart; further ones are counted as `other`.
const KINDS_MAX: usize = 64;
/// The longest name of a kind, in bytes.
const KIND_BYTES_MAX: usize = 32;
/// What threads of further kinds are counted as.
const OTHER: &str = "other";
/// What threads without a name are counted as.
const UNNAMED: &str = "unnamed";
/// The kind that is always shown, so that there is something to watch before the first panic.
const MAIN: &str = "main";

/// By kind of thread. // overflow: `OTHER`, beyond `KINDS_MAX`.
static PANICS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// From now on panics are counted in `gb6_panics_total{thread}` of every [`Metrics`](crate::Metrics) of
/// this process, and logged, or written to standard error where logs do not show errors: where, on which
/// thread, and what for where the text is written in the program. A text that was made when it happened may have data of customers in it, and is not shown,
/// unless `RUST_BACKTRACE` is set: then the standard library tells all of it as well. Call it once, when
/// logs were started.
pub fn install() {
    let all = std::env::var_os("RUST_BACKTRACE").is_some_and(|set| set != "0");
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or(UNNAMED);
        count(name);
        tell(name, panic);
        if all {
            before(panic);
        }
    }));
}

fn tell(thread: &str, panic: &PanicHookInfo<'_>) {
    let literal = panic.payload().downcast_ref::<&'static str>();
    let why = literal.copied().unwrap_or("its text may have data in it");
    let place = panic.location().map(Location::to_string);
    let place = place.as_deref().unwrap_or("an unknown place");
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(thread, place, why, "a panic, which is a defect: report it");
    } else {
        // The process may end by it, and must not do so in silence. Nobody is left to tell that this failed.
        let line =
            format!("a panic, which is a defect: report it: {why}, at {place} on {thread}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
}

/// The kind of a thread of this name: the name without a number behind it, such as that of a shard.
fn kind(name: &str) -> String {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let letters = name.trim_end_matches(['-', '_', ' ']).chars();
    let kind: String = letters
        .map(|c| if known(c) { c } else { '_' })
        .take(KIND_BYTES_MAX)
        .collect();
    match kind.is_empty() {
        true => UNNAMED.to_owned(),
        false => kind,
    }
}

fn count(name: &str) {
    add(&mut PANICS.lock(), kind(name));
}

fn add(panics: &mut BTreeMap<String, u64>, kind: String) {
    let known = panics.len() < KINDS_MAX || panics.contains_key(&kind);
    let kind = if known { kind } else { OTHER.to_owned() };
    *panics.entry(kind).or_default() += 1;
}

pub(crate) fn collect(out: &mut Samples) {
    let mut panics = PANICS.lock().clone();
    panics.entry(MAIN.to_owned()).or_default();
    for (thread, count) in panics {
        out.counter(
            "gb6_panics_total",
            "Panics of this process by kind of thread, whether or not what panicked was begun again: anything but 0 is a bug in GB6.",
            &[("thread", &thread)],
            count,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_a_kind_are_counted_together() {
        for (name, expected) in [
            ("standby-12", "standby"),
            ("assign-beat-0", "assign-beat"),
            ("tokio-rt-worker", "tokio-rt-worker"),
            ("main", "main"),
            ("producer polling thread", "producer_polling_thread"),
            ("7", "unnamed"),
            ("", "unnamed"),
            ("a\"b\n", "a_b_"),
        ] {
            assert_eq!(kind(name), expected, "{name:?}");
        }
        assert_eq!(kind(&"x".repeat(1_000)).len(), KIND_BYTES_MAX);
    }

    #[test]
    fn many_kinds_of_threads_are_bounded() {
        let mut panics = BTreeMap::new();
        for n in 0..1_000 {
            add(&mut panics, kind(&format!("of{n}x")));
            add(&mut panics, kind("of0x"));
        }
        assert_eq!(panics.len(), KINDS_MAX + 1);
        assert_eq!(panics.get("of0x"), Some(&1_001));
        assert_eq!(panics.get(OTHER), Some(&(1_000 - KINDS_MAX as u64)));
    }
}
