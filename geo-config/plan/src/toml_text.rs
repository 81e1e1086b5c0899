//! TOML text into a typed structure, with errors for people: line, column, and for an unknown key
//! the one that was probably meant. Several unknown keys are reported at once. A text may have
//! tables of two owners, each of whom reads its own.
//!
//! An error names the key and the place and repeats no value: it goes to logs, and somebody may have
//! written a secret under a wrong key. (What a structure's own `Deserialize` says is repeated: it keeps to
//! that too.)

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::{Problem, Problems};

/// Unknown keys reported in one go: more than that is another kind of file.
const UNKNOWN_KEYS_MAX: usize = 20;

/// Reads `text` as a `T`, whose structures should deny unknown fields.
///
/// # Errors
/// What is wrong with it.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, Problems> {
    parse_toml_without(text, &[])
}

/// As [`parse_toml`], but passes over the `others` at the top of the text: somebody else reads
/// them, and they are named to whoever wrote an unknown key.
///
/// # Errors
/// What is wrong with the rest.
pub fn parse_toml_without<T: DeserializeOwned>(text: &str, others: &[&str]) -> Result<T, Problems> {
    read(text, others, |key| !others.contains(&key))
}

/// As [`parse_toml`], of `tables` at the top of the text alone.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn parse_toml_only<T: DeserializeOwned>(
    text: &str,
    tables: &[&str],
) -> Result<T, Problems> {
    read(text, &[], |key| tables.contains(&key))
}

/// Reads those entries at the top that `ours` takes; `others` are known there too.
fn read<T: DeserializeOwned>(
    text: &str,
    others: &[&str],
    ours: impl Fn(&str) -> bool,
) -> Result<T, Problems> {
    let mut table = match DeTable::parse(text) {
        Ok(parsed) => parsed,
        Err(e) => return Err(Problems(vec![explain(text, None, &e, &[])])),
    };
    let top = table.get_mut();
    let theirs: Vec<_> = top
        .keys()
        .filter(|key| !ours(key.get_ref()))
        .cloned()
        .collect();
    for key in &theirs {
        top.remove(key);
    }
    let mut problems: Vec<Problem> = Vec::new();
    loop {
        // An unknown key is taken out and the rest read again, so that a person sees all of them.
        match T::deserialize(toml::Deserializer::from(table.clone())) {
            Ok(value) if problems.is_empty() => return Ok(value),
            Ok(_) => return Err(Problems(problems)),
            Err(e) => {
                let unknown = unknown_key(e.message()).is_some();
                let top = table.get_ref();
                let at_top = e
                    .span()
                    .is_some_and(|s| top.keys().any(|k| k.span().start == s.start));
                let also = if at_top { others } else { &[] };
                let problem = explain(text, Some(top), &e, also);
                let removed = unknown && e.span().is_some_and(|s| remove(table.get_mut(), s.start));
                if problems
                    .iter()
                    .any(|p| *p == problem || is_the_one_meant(p, e.message()))
                {
                    return Err(Problems(problems));
                }
                problems.push(problem);
                if !removed || problems.len() >= UNKNOWN_KEYS_MAX {
                    return Err(Problems(problems));
                }
            }
        }
    }
}

/// Whether `message` misses the very key that `unknown` was probably meant to be.
fn is_the_one_meant(unknown: &Problem, message: &str) -> bool {
    let missing = message.strip_prefix("missing field ");
    missing.is_some_and(|name| unknown.help == Some(format!("did you mean {name}?")))
}

/// Takes out the entry whose key starts at byte `at`.
fn remove(table: &mut DeTable<'_>, at: usize) -> bool {
    let key = table.keys().find(|k| k.span().start == at).cloned();
    if let Some(key) = key {
        return table.remove(&key).is_some();
    }
    table.iter_mut().any(|(_, v)| remove_in(v, at))
}

fn remove_in(value: &mut Spanned<DeValue<'_>>, at: usize) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => remove(table, at),
        DeValue::Array(items) => items.iter_mut().any(|v| remove_in(v, at)),
        _ => false,
    }
}

/// The error in words; `also` is known where it stands, besides what its message names. `table`: what the
/// text says, where it says something.
fn explain(
    text: &str,
    table: Option<&DeTable<'_>>,
    error: &toml::de::Error,
    also: &[&str],
) -> Problem {
    let message = error.message();
    let path = || {
        let at = error.span()?.start;
        key_of(table?, at)
    };
    let problem = if let Some((key, mut known)) = unknown_key(message) {
        known.extend(also);
        let problem = Problem::new("", format!("unknown key `{key}`"));
        match nearest(key, known.iter().copied()) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("known here: {}", known.join(", "))),
        }
    } else if let Some((value, known)) = unknown_value(message) {
        let path = path().unwrap_or_default();
        match nearest(value, known.iter().copied()) {
            // Nearly one of the words that stand here: no secret.
            Some(near) => Problem::new(path, format!("unknown value `{value}`"))
                .help(format!("did you mean `{near}`?")),
            None => Problem::new(path, "unknown value")
                .help(format!("known here: {}", known.join(", "))),
        }
    } else {
        let said = match without_value(message) {
            Some(said) => said,
            None => message.replace("missing field", "missing key"),
        };
        Problem::new(path().unwrap_or_default(), said)
    };
    match error.span() {
        Some(span) => problem.at(text, span.start),
        None => problem,
    }
}

/// The path of the value at byte `at`, as in `namespaces.room.history_ttl`; `None`: none stands there.
fn key_of(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let key: &str = key.get_ref();
        match path_in(value, at)? {
            rest if rest.is_empty() || rest.starts_with('[') => Some(format!("{key}{rest}")),
            rest => Some(format!("{key}.{rest}")),
        }
    })
}

/// The rest of the path, where byte `at` is of `value` or in it.
fn path_in(value: &Spanned<DeValue<'_>>, at: usize) -> Option<String> {
    let below = match value.get_ref() {
        DeValue::Table(table) => key_of(table, at),
        DeValue::Array(items) => {
            items
                .iter()
                .enumerate()
                .find_map(|(n, item)| match path_in(item, at)? {
                    rest if rest.is_empty() => Some(format!("[{n}]")),
                    rest => Some(format!("[{n}].{rest}")),
                })
        }
        _ => None,
    };
    below.or_else(|| value.span().contains(&at).then(String::new))
}

/// What serde says of a value that is another one than was expected, without that value; `None`: it is
/// about something else. Source: `serde::de::Error::invalid_type`, `invalid_value` and `Unexpected`.
fn without_value(message: &str) -> Option<String> {
    let (what, found) = ["invalid type", "invalid value"]
        .into_iter()
        .find_map(|what| Some((what, message.strip_prefix(what)?.strip_prefix(": ")?)))?;
    let kind = found.split(['`', '"', ',']).next().unwrap_or_default();
    // A value may have these words in it, so the last ones count.
    let expected = found
        .rsplit_once(", expected ")
        .map(|(_, expected)| expected);
    let kind = kind.trim_end();
    Some(match expected {
        Some(expected) => format!("{what}: {kind}, expected {expected}"),
        None => format!("{what}: {kind}"),
    })
}

/// The key and the known ones in serde's words for a field that a structure does not have.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    unknown_name(message.strip_prefix("unknown field `")?)
}

/// The value and the known ones in serde's words for one that an enumeration does not have.
fn unknown_value(message: &str) -> Option<(&str, Vec<&str>)> {
    unknown_name(message.strip_prefix("unknown variant `")?)
}

fn unknown_name(rest: &str) -> Option<(&str, Vec<&str>)> {
    // A name may have anything in it, so the last of these words are serde's.
    let Some((name, known)) = rest.rsplit_once("`, expected ") else {
        return Some((rest.rsplit_once('`')?.0, Vec::new()));
    };
    // What stands between every second pair of backticks is a known name.
    Some((name, known.split('`').skip(1).step_by(2).collect()))
}

/// The candidate that `word` was probably meant to be: the one with the fewest edits, if those are
/// at most a third of its length (at least one, at most three).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (distance(word, c), c))
        .filter(|(d, c)| *d <= (c.chars().count() / 3).clamp(1, 3))
        .min()
        .map(|(_, c)| c)
}

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours (optimal
/// string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // Words from a file may be long, and one that long is near to nothing.
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_nearest_word() {
        let known = ["history_size", "history_ttl", "presence", "join_leave"];
        for (word, want) in [
            ("histroy_size", Some("history_size")),
            ("history_tl", Some("history_ttl")),
            ("presense", Some("presence")),
            ("colour", None),
            ("", None),
            (&"x".repeat(10_000), None),
        ] {
            assert_eq!(nearest(word, known), want, "{word:.20}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ab", "ba"), 1);
    }
    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields, default, rename_all = "snake_case")]
    struct Written {
        max: u32,
        on: bool,
        kind: Kind,
        ttl: crate::units::Millis,
        size: crate::units::Bytes,
        inner: BTreeMap<String, Written>,
        list: Vec<Written>,
        pair: (u32, u32),
        text: String,
    }

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Stream,
        Signal,
    }

    /// The key and the place of a mistake are said, and never the value.
    #[test]
    fn what_stands_under_a_wrong_key_is_not_repeated() {
        for secret in [
            "hunter2",
            "a`b`hunter2",
            "x, expected hunter2",
            "`, expected `hunter2`",
        ] {
            let value = toml::Value::from(secret);
            for (text, key, place) in [
                (
                    format!("max = {value}"),
                    "max: invalid type: string, expected u32",
                    1,
                ),
                (
                    format!("\non = {value}"),
                    "on: invalid type: string, expected a boolean",
                    2,
                ),
                (
                    format!("kind = {value}"),
                    "kind: unknown value (known here: stream, signal)",
                    1,
                ),
                (format!("ttl = {value}"), "ttl: this is no duration", 1),
                (format!("size = {value}"), "size: this is no size", 1),
                (
                    format!("pair = {value}"),
                    "pair: invalid type: string, expected a tuple",
                    1,
                ),
                (
                    format!("pair = [1, {value}]"),
                    "pair[1]: invalid type: string",
                    1,
                ),
                (
                    format!("inner = {{ a = {value} }}"),
                    "inner.a: invalid type: string",
                    1,
                ),
                (
                    format!("[inner.a]\nlist = [{{ max = {value} }}]"),
                    "inner.a.list[0].max: invalid",
                    2,
                ),
                (
                    format!("[[list]]\n[[list]]\nmax = {value}"),
                    "list[1].max: invalid",
                    3,
                ),
                (format!("pass = {value}"), "unknown key `pass`", 1),
                (format!("text = {value} {value}"), "", 1),
                (format!("text = {value}\ntext = {value}"), "", 2),
            ] {
                let found = parse_toml::<Written>(&text).unwrap_err().to_string();
                assert!(
                    found.starts_with(&format!("line {place}: {key}")),
                    "{text}: {found}"
                );
                assert!(!found.contains("hunter2"), "{text}: {found}");
            }
        }
        for (text, want) in [
            (
                "max = 4711471147",
                "line 1: max: invalid value: integer, expected u32",
            ),
            (
                "max = \"4711\"",
                "line 1: max: invalid type: string, expected u32",
            ),
            (
                "text = 4711",
                "line 1: text: invalid type: integer, expected a string",
            ),
            (
                "text = 4711.5",
                "line 1: text: invalid type: floating point, expected a string",
            ),
            (
                "text = 4711-11-11",
                "line 1: text: invalid type: map, expected a string",
            ),
            ("max = {}", "line 1: max: invalid type: map, expected u32"),
            // Nearly one of those that are known.
            (
                "kind = \"steam\"",
                "line 1: kind: unknown value `steam` (did you mean `stream`?)",
            ),
        ] {
            let found = parse_toml::<Written>(text).unwrap_err().to_string();
            assert_eq!(found, want, "{text}");
        }
    }
}
