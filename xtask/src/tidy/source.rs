//! The rules about source files: purity, queues with a stated overflow, unsafe code, unfinished
//! work, lengths and names.

use super::Finding;
use super::graph::{Layer, Package};
use super::lexer::{Lexed, has_word, is_word};
use super::uses::uses;

/// Lines without tests beyond which a file is looked at, and beyond which it is refused.
const LINES_WARN: usize = 500;
const LINES_MAX: usize = 800;

/// Names that attract whatever has no home.
const MAGNETS: &[&str] = &["util", "utils", "common", "helpers", "misc"];

/// Files that may hold unsafe code, each block behind a `// SAFETY:` comment.
const UNSAFE_FILES: &[&str] = &[];

/// What makes a bounded queue.
const QUEUES: &[&str] = &["mpsc::channel", "sync_channel", "broadcast::channel"];

/// Addresses are values; sockets are not.
const ADDRESSES: &[&str] = &[
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
    "AddrParseError",
];

/// What a pure crate must not name (A1), and what to do instead.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "drivers await, machines are called"),
    ("std::time::Instant", "take `now_ms` as a parameter"),
    (
        "std::time::SystemTime",
        "take wall time in Unix ms as a parameter",
    ),
    ("Instant::now", "take `now_ms` as a parameter"),
    (
        "SystemTime::now",
        "take wall time in Unix ms as a parameter",
    ),
    ("rand", "take a seed or the random value as a parameter"),
    ("std::net", "give out what is to be sent as a value"),
    ("std::fs", "give out what is to be written as a value"),
    ("std::thread", "the driver owns the threads"),
    ("std::env", "take the setting as a parameter"),
    ("std::process", "return an error instead"),
];

/// Every rule about the file at `file` of `package`.
pub(crate) fn check(file: &str, package: &Package, lexed: &Lexed) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_head(file, lexed, &mut findings);
    check_names(file, lexed, &mut findings);
    check_unfinished(file, lexed, &mut findings);
    check_unsafe(file, lexed, &mut findings);
    if !is_test_file(file, package) {
        check_length(file, lexed, &mut findings);
        check_queues(file, lexed, &mut findings);
        if Layer::of(&package.folder).is_pure() {
            check_purity(file, lexed, &mut findings);
        }
    }
    findings
}

/// Whether the whole file belongs to tests: `tests.rs`, or below a crate's `tests` or `benches`.
fn is_test_file(file: &str, package: &Package) -> bool {
    let inside = file.strip_prefix(&package.folder).unwrap_or(file);
    let inside = inside.trim_start_matches('/');
    inside.starts_with("tests/")
        || inside.starts_with("benches/")
        || inside
            .split('/')
            .any(|part| part == "tests.rs" || part == "tests")
}

fn check_head(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    let first = lexed.comments.first().map_or("", String::as_str);
    if !first.starts_with("//!") {
        let message = "the file does not begin with `//!`: say in its first lines why it exists";
        findings.push(Finding::error(file, 1, "reason", message));
    }
}

fn check_length(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    let lines = lexed.test.iter().filter(|test| !**test).count();
    if lines > LINES_WARN {
        let message = format!(
            "{lines} lines without tests (warned above {LINES_WARN}, refused above {LINES_MAX}): look for its second reason and split there"
        );
        let mut finding = Finding::error(file, 1, "length", message);
        finding.warning = lines <= LINES_MAX;
        findings.push(finding);
    }
}

fn check_names(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    let mut refuse = |line: usize, name: &str| {
        let message = format!(
            "nothing may be named {name}: put each item where it is used, or name the reason"
        );
        findings.push(Finding::error(file, line, "names", message));
    };
    for part in file.split('/') {
        let name = part.strip_suffix(".rs").unwrap_or(part);
        if MAGNETS.contains(&name) {
            refuse(1, name);
        }
    }
    for (n, code) in lexed.code.iter().enumerate() {
        let mut words = code.split(|c: char| !is_word(c)).filter(|w| !w.is_empty());
        while let Some(word) = words.next() {
            if word == "mod"
                && let Some(name) = words.next()
                && MAGNETS.contains(&name)
            {
                refuse(n + 1, name);
            }
        }
    }
}

fn check_unfinished(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    for (n, (code, comment)) in lexed.code.iter().zip(&lexed.comments).enumerate() {
        for what in ["todo!", "unimplemented!"] {
            if code.contains(what) && has_word(code, what.trim_end_matches('!')) {
                let message =
                    format!("{what} does not belong in the repository: finish it or leave it out");
                findings.push(Finding::error(file, n + 1, "unfinished", message));
            }
        }
        // In two parts, so that this file passes its own rule.
        for what in [concat!("FIX", "ME"), concat!("TO", "DO")] {
            if has_word(comment, what) {
                let message =
                    format!("{what} does not belong in the repository: do it, or open an issue");
                findings.push(Finding::error(file, n + 1, "unfinished", message));
            }
        }
    }
}

fn check_unsafe(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    for (n, code) in lexed.code.iter().enumerate() {
        if !has_word(code, "unsafe") {
            continue;
        }
        if !UNSAFE_FILES.contains(&file) {
            let message = "unsafe code in a file that is not allowed any: use a safe crate, or add the file to UNSAFE_FILES with a reviewer's consent";
            findings.push(Finding::error(file, n + 1, "unsafe", message));
        }
        if !lexed.comments_above(n, 3).contains("SAFETY:") {
            let message = "unsafe without a `// SAFETY:` comment that says why it is sound";
            findings.push(Finding::error(file, n + 1, "unsafe", message));
        }
    }
}

/// A5: every bounded queue states its overflow policy where it is made; unbounded ones are banned.
fn check_queues(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    for (n, code) in lexed
        .code
        .iter()
        .enumerate()
        .filter(|(n, _)| !lexed.test[*n])
    {
        if has_word(code, "unbounded_channel") || has_word(code, "mpsc::unbounded") {
            let message =
                "an unbounded queue: give it a bound, a metric and an overflow policy (A5)";
            findings.push(Finding::error(file, n + 1, "queues", message));
        }
        for constructor in QUEUES {
            let Some(arguments) = call_arguments(code, constructor) else {
                continue;
            };
            if *constructor == "mpsc::channel" && arguments.starts_with(')') {
                let message = "std's mpsc::channel() is unbounded: use a bounded queue (A5)";
                findings.push(Finding::error(file, n + 1, "queues", message));
            } else if !states_overflow(lexed, n) {
                let message = format!(
                    "{constructor} without an `// overflow:` comment within 3 lines above: say what happens when the queue is full (A5)"
                );
                findings.push(Finding::error(file, n + 1, "queues", message));
            }
        }
    }
    for import in uses(lexed).iter().filter(|u| !u.test) {
        let hidden = ["mpsc::channel", "broadcast::channel"]
            .iter()
            .any(|path| import.path.ends_with(path));
        if hidden {
            let message = format!(
                "import the module, not {}: a queue must be recognisable where it is made",
                import.path
            );
            findings.push(Finding::error(file, import.line + 1, "queues", message));
        }
    }
}

/// Whether the queue on `line` has its comment within 3 lines above, or stands directly below
/// another queue that has.
fn states_overflow(lexed: &Lexed, line: usize) -> bool {
    let makes_queue = |n: usize| {
        QUEUES
            .iter()
            .any(|q| call_arguments(&lexed.code[n], q).is_some())
    };
    let mut first = line;
    while first > 0 && makes_queue(first - 1) {
        first -= 1;
    }
    lexed.comments_above(first, 3).contains("overflow:")
        || lexed.comments[first..=line]
            .iter()
            .any(|c| c.contains("overflow:"))
}

/// What follows the opening bracket where `code` calls `name`, with or without a turbofish.
fn call_arguments<'a>(code: &'a str, name: &str) -> Option<&'a str> {
    code.match_indices(name).find_map(|(at, _)| {
        if code[..at].ends_with(is_word) {
            return None;
        }
        let mut rest = code[at + name.len()..].trim_start();
        if let Some(types) = rest.strip_prefix("::<") {
            let mut depth = 1;
            let end = types.char_indices().find_map(|(i, c)| {
                depth += match c {
                    '<' => 1,
                    '>' => -1,
                    _ => 0,
                };
                (depth == 0).then_some(i + 1)
            })?;
            rest = types[end..].trim_start();
        }
        rest.strip_prefix('(').map(str::trim_start)
    })
}

/// A1: no I/O, clock or randomness.
fn check_purity(file: &str, lexed: &Lexed, findings: &mut Vec<Finding>) {
    let mut refuse = |line: usize, what: &str, instead: &str| {
        let message = format!("a pure crate must not use {what} (A1): {instead}");
        findings.push(Finding::error(file, line, "pure", message));
    };
    for import in uses(lexed).iter().filter(|u| !u.test) {
        for (what, instead) in IMPURE {
            let rest = import.path.strip_prefix(what);
            let named = match rest {
                Some("") => true,
                Some(rest) => rest
                    .strip_prefix("::")
                    .is_some_and(|r| !is_address(what, r)),
                None => import.path.split("::").any(|part| part == *what),
            };
            if named {
                refuse(import.line + 1, what, instead);
                break;
            }
        }
    }
    for (n, code) in lexed
        .code
        .iter()
        .enumerate()
        .filter(|(n, _)| !lexed.test[*n])
    {
        if code.trim_start().starts_with("use ") {
            continue;
        }
        for (what, instead) in IMPURE {
            let named = code.match_indices(what).any(|(at, _)| {
                let rest = &code[at + what.len()..];
                let whole = !code[..at].ends_with(is_word) && !rest.starts_with(is_word);
                // A name alone may be a variable; only `tokio::` is the crate.
                let path = rest.strip_prefix("::");
                whole
                    && (path.is_some() || what.contains("::"))
                    && !path.is_some_and(|r| is_address(what, r))
            });
            if named {
                refuse(n + 1, what, instead);
            }
        }
    }
}

/// Whether `rest` is an address type where `what` is the module of addresses and sockets.
fn is_address(what: &str, rest: &str) -> bool {
    let name = rest.split(|c| !is_word(c)).next().unwrap_or("");
    what == "std::net" && ADDRESSES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &str, file: &str, text: &str) -> Vec<(usize, &'static str)> {
        let package = Package {
            name: String::new(),
            folder: folder.to_owned(),
            manifest: String::new(),
            dependencies: Vec::new(),
        };
        let file = format!("{folder}/{file}");
        let mut found: Vec<_> = check(&file, &package, &Lexed::new(text))
            .into_iter()
            .map(|f| (f.line, f.rule))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    #[test]
    fn pure_crates_stay_pure() {
        let text = "//! x\nuse std::{collections::BTreeMap, time::Instant};\nuse std::time::Duration;\nfn a() { let t = std::time::SystemTime::now(); tokio::spawn(b); rand::random::<u8>(); }\nfn operand() {}\n// std::fs is not used\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(
            found("region/shard", "src/a.rs", text),
            [(2, "pure"), (4, "pure")]
        );
        assert_eq!(
            found("core/wire", "src/a.rs", text),
            [(2, "pure"), (4, "pure")]
        );
        assert!(found("region/node", "src/a.rs", text).is_empty());
        assert!(found("region/shard", "tests/it/main.rs", text).is_empty());
        let grouped =
            "//! x\nuse std::{\n    fs,\n    net::UdpSocket,\n};\nuse ring::rand::SystemRandom;\n";
        assert_eq!(
            found("edge/session", "src/a.rs", grouped),
            [(2, "pure"), (6, "pure")]
        );
    }

    #[test]
    fn queues_state_their_overflow() {
        let good = "//! x\n// overflow: the caller waits\nlet (a, b) = mpsc::channel(8);\n// overflow: refused with 111,\n// counted\nlet x = tokio::sync::mpsc::channel::<Vec<u8>>(\n    8,\n);\nlet w = watch::channel(1);\n// overflow: both wait\nlet (c, d) = mpsc::channel(1);\nlet (e, f) = mpsc::channel(1);\nlet (g, h) = mpsc::channel(1);\nlet (i, j) = mpsc::channel(1);\n";
        assert!(found("edge/node", "src/a.rs", good).is_empty());
        let bad = "//! x\nlet a = mpsc::channel(8);\nlet b = mpsc::channel::<u8>(8);\nlet c = mpsc::unbounded_channel();\nlet d = std::sync::mpsc::sync_channel(1);\nuse tokio::sync::mpsc::{channel, Sender};\n// overflow: none\nlet e = std::sync::mpsc::channel();\n";
        let lines: Vec<usize> = found("edge/node", "src/a.rs", bad)
            .into_iter()
            .map(|(line, rule)| {
                assert_eq!(rule, "queues");
                line
            })
            .collect();
        assert_eq!(lines, [2, 3, 4, 5, 6, 8]);
        assert!(found("edge/node", "tests/it/a.rs", bad).is_empty());
    }

    #[test]
    fn unsafe_needs_a_reason_and_a_place() {
        let text = "//! x\n#![deny(unsafe_code)]\n// SAFETY: it is not\nunsafe { f() }\n";
        assert_eq!(found("edge/node", "src/a.rs", text), [(4, "unsafe")]);
        assert_eq!(
            found("edge/node", "src/a.rs", "//! x\nlet s = \"unsafe\";\n"),
            []
        );
    }

    #[test]
    fn unfinished_work_is_refused() {
        let marks = [concat!("FIX", "ME"), concat!("TO", "DO")];
        let text = format!(
            "//! x\nfn a() {{ todo!() }}\nfn b() {{ unimplemented!(); }}\n// {} this\n/* {} */\nlet s = \"todo!\";\n",
            marks[0], marks[1]
        );
        let lines: Vec<usize> = found("edge/node", "src/a.rs", &text)
            .iter()
            .map(|f| f.0)
            .collect();
        assert_eq!(lines, [2, 3, 4, 5]);
    }

    #[test]
    fn files_have_a_reason_a_name_and_an_end() {
        assert_eq!(
            found("edge/node", "src/a.rs", "fn a() {}\n"),
            [(1, "reason")]
        );
        assert_eq!(
            found("edge/node", "src/utils.rs", "//! x\n"),
            [(1, "names")]
        );
        assert_eq!(
            found(
                "edge/node",
                "src/a.rs",
                "//! x\nmod common {}\nmod commonly {}\n"
            ),
            [(2, "names")]
        );
        let lines = |n: usize| format!("//! x\n{}", "fn a() {}\n".repeat(n - 1));
        let package = Package {
            name: String::new(),
            folder: "edge/node".to_owned(),
            manifest: String::new(),
            dependencies: Vec::new(),
        };
        let length = |text: &str| check("edge/node/src/a.rs", &package, &Lexed::new(text));
        assert!(length(&lines(500)).is_empty());
        assert!(length(&lines(501))[0].warning && length(&lines(800))[0].warning);
        assert!(!length(&lines(801))[0].warning);
        let tested = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            lines(400),
            lines(600)
        );
        assert!(length(&tested).is_empty());
    }
}
