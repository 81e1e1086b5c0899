//! TOML text into a typed structure, with errors for people: line, column, and for an unknown key
//! the one that was probably meant. Several unknown keys are reported at once. A text may have
//! tables of two owners, each of whom reads its own.

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
    let explain = |error: &toml::de::Error, at_top: bool| {
        explain(text, error, if at_top { others } else { &[] })
    };
    let mut table = match DeTable::parse(text) {
        Ok(parsed) => parsed,
        Err(e) => return Err(Problems(vec![explain(&e, false)])),
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
                let removed = unknown && e.span().is_some_and(|s| remove(table.get_mut(), s.start));
                let problem = explain(&e, at_top);
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

/// The error in words; `also` is known where it stands, besides what its message names.
fn explain(text: &str, error: &toml::de::Error, also: &[&str]) -> Problem {
    let message = error.message();
    let unknown = unknown_key(message)
        .map(|found| ("key", found))
        .or_else(|| {
            Some((
                "value",
                unknown_name(message.strip_prefix("unknown variant `")?)?,
            ))
        });
    let problem = match unknown {
        Some((what, (word, mut known))) => {
            known.extend(also);
            let problem = Problem::new("", format!("unknown {what} `{word}`"));
            match nearest(word, known.iter().copied()) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem.help(format!("known here: {}", known.join(", "))),
            }
        }
        None => Problem::new("", message.replace("missing field", "missing key")),
    };
    match error.span() {
        Some(span) => problem.at(text, span.start),
        None => problem,
    }
}

/// The key and the known ones in serde's words for a field that a structure does not have.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    unknown_name(message.strip_prefix("unknown field `")?)
}

fn unknown_name(rest: &str) -> Option<(&str, Vec<&str>)> {
    let (name, rest) = rest.split_once('`')?;
    // What stands between every second pair of backticks is a known name.
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
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
}
