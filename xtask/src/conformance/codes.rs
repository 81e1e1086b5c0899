//! Every code that a client can see has a test that makes the server say it, named in
//! `tests/conformance/codes.json`, or a reason why it is never said. Those that are said stand in
//! the page on protocols.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Where the codes stand.
const CODES: &str = "core/model/src/codes.rs";
const LIST: &str = "tests/conformance/codes.json";
/// Where people read what they mean.
const PAGE: &str = "docs/protocol.md";

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Row {
    Shown {
        code: u32,
        file: String,
        test: String,
    },
    Never {
        code: u32,
        never: String,
    },
}

/// What is wrong with the list; nothing if every code is shown.
pub(super) fn problems(root: &Path) -> Result<Vec<String>> {
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).with_context(|| format!("{path} can not be read"))
    };
    let mut wanted = codes(&read(CODES)?);
    let rows: Vec<Row> =
        serde_json::from_str(&read(LIST)?).with_context(|| format!("{LIST} is malformed"))?;
    let page = read(PAGE)?;
    let (_, page) = page
        .split_once("\n### Codes\n")
        .with_context(|| format!("{PAGE} has no section Codes"))?;
    let page = page.split("\n### ").next().unwrap_or_default();
    let mut problems = Vec::new();
    for row in rows {
        let (Row::Shown { code, .. } | Row::Never { code, .. }) = row;
        let Some(name) = wanted.remove(&code) else {
            problems.push(format!("{LIST}: {code} is no code, or there twice"));
            continue;
        };
        match row {
            Row::Shown { .. } if !says(page, code, &name) => {
                problems.push(format!(
                    "{PAGE}: {code} is said, and its codes have no {code}"
                ));
            }
            Row::Shown { file, test, .. } => {
                let text = fs::read_to_string(root.join(&file)).unwrap_or_default();
                match body_of(&text, &test) {
                    None => problems.push(format!("{LIST}: {code}: {file} has no test {test}")),
                    Some(body) if says(body, code, &name) => {}
                    Some(_) => {
                        problems.push(format!("{LIST}: {test} in {file} does not name {code}"));
                    }
                }
            }
            Row::Never { never, .. } if never.is_empty() => {
                problems.push(format!("{LIST}: {code}: say why it is never said"));
            }
            Row::Never { .. } => {}
        }
    }
    let missing = wanted.keys();
    problems.extend(missing.map(|code| format!("{LIST}: no row for {code} of {CODES}")));
    Ok(problems)
}

/// The codes of the tables in a source file, with their names.
fn codes(source: &str) -> BTreeMap<u32, String> {
    let lines = source.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" = ")?;
        let (code, _) = rest.split_once(", \"")?;
        Some((code.parse().ok()?, name.to_owned()))
    });
    lines.collect()
}

/// The text from the beginning of a test to that of the next item.
fn body_of<'a>(text: &'a str, test: &str) -> Option<&'a str> {
    let begin = text.find(&format!("fn {test}("))?;
    let attributes = text[..begin].trim_end_matches("async ");
    let is_test = attributes.trim_end().ends_with(']');
    let body = &text[begin..];
    let end = body.find("\n}\n").unwrap_or(body.len());
    is_test.then(|| &body[..end])
}

/// Whether a text names a code, by its number or by its name.
fn says(text: &str, code: u32, name: &str) -> bool {
    let number = code.to_string();
    let is_number = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + number.len()..].chars().next();
        let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        apart(before) && apart(after)
    };
    text.match_indices(&number).any(|(at, _)| is_number(at)) || text.contains(&format!("::{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_test_or_a_reason() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = problems(&root).unwrap();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn what_is_wrong_is_found() {
        let source = "    Internal = 100, \"internal\";\n    Slow = 3008, \"slow\";\n";
        let found = codes(source);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [100, 3008]);
        let text = "#[test]\nfn a() {\n    is(3008);\n}\n\nfn b() {\n    is(100);\n}\n";
        let body = body_of(text, "a").unwrap();
        assert!(says(body, 3008, "Slow") && !says(body, 300, "Other") && !says(body, 100, "X"));
        assert!(says("Disconnect::Slow", 3008, "Slow"));
        assert!(body_of(text, "b").is_none(), "no test");
        assert!(body_of(text, "c").is_none());
    }
}
