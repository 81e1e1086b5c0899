//! The rules about documentation: the invariants are listed, links and paths lead somewhere, and the
//! commands that the README shows exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::lexer::Lexed;
use super::{Finding, files_below, relative};

const ARCHITECTURE: &str = "docs/architecture.md";
const INVARIANTS: usize = 8;

/// Every rule about the documentation below `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let read = |file: &str| {
        fs::read_to_string(root.join(file)).with_context(|| format!("{file} can not be read"))
    };
    let mut findings = check_invariants(&read(ARCHITECTURE)?);
    findings.extend(check_commands(
        "README.md",
        &read("README.md")?,
        &read("Makefile")?,
    ));
    let mut pages = files_below(&root.join("docs"), &|_| true)?;
    for entry in fs::read_dir(root)? {
        pages.push(entry?.path());
    }
    pages.push(root.join("console/README.md"));
    for entry in fs::read_dir(root.join("tests"))? {
        let page = entry?.path().join("README.md");
        pages.extend(page.exists().then_some(page));
    }
    pages.sort();
    for page in pages
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
    {
        let file = relative(root, page);
        let text = read(&file)?;
        findings.extend(check_links(root, &file, &text));
        findings.extend(check_paths(root, &file, &text));
    }
    Ok(findings)
}

/// Each of A1 to A8 begins exactly one list item.
fn check_invariants(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for n in 1..=INVARIANTS {
        let name = format!("A{n}");
        let items: Vec<usize> = text
            .lines()
            .enumerate()
            .filter(|(_, l)| {
                let item = l.trim_start().strip_prefix("- ").unwrap_or("");
                let item = item.trim_start_matches('*');
                item.strip_prefix(&name)
                    .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
            })
            .map(|(line, _)| line + 1)
            .collect();
        if items.len() != 1 {
            let message = format!(
                "invariant {name} begins {} list items and should begin one: `- **{name}** …`",
                items.len()
            );
            let line = items.get(1).copied().unwrap_or(1);
            findings.push(Finding::error(ARCHITECTURE, line, "invariants", message));
        }
    }
    findings
}

/// Every `make` command of the README, in a code block or in backticks, is a target that
/// `make help` shows.
fn check_commands(file: &str, readme: &str, makefile: &str) -> Vec<Finding> {
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|l| l.contains(":") && l.contains("## "))
        .filter_map(|l| l.split(':').next())
        .collect();
    let mut findings = Vec::new();
    let mut fenced = false;
    for (n, line) in readme.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let commands: Vec<&str> = if fenced {
            vec![line.trim_start().trim_start_matches("$ ")]
        } else {
            line.split('`').skip(1).step_by(2).collect()
        };
        for command in commands {
            let Some(target) = command
                .strip_prefix("make ")
                .and_then(|c| c.split_whitespace().next())
            else {
                continue;
            };
            if !targets.contains(target) {
                let message = format!("`make {target}` is no target that `make help` shows");
                findings.push(Finding::error(file, n + 1, "commands", message));
            }
        }
    }
    findings
}

/// Every relative link leads to a file, and to a heading of it if it names one.
fn check_links(root: &Path, file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (n, target) in links(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, heading) = target.split_once('#').unwrap_or((target, ""));
        let here = root.join(file);
        let to = match path {
            "" => here.clone(),
            path => here.parent().unwrap_or(root).join(path),
        };
        if !to.exists() {
            let message = format!("the link to {target} leads nowhere");
            findings.push(Finding::error(file, n, "links", message));
        } else if !heading.is_empty() {
            let page = fs::read_to_string(&to).unwrap_or_default();
            if !headings(&page).contains(heading) {
                let message = format!("the link to {target} names a heading that is not there");
                findings.push(Finding::error(file, n, "links", message));
            }
        }
    }
    findings
}

/// Folders whose files the documentation names by their paths from the root.
const FOLDERS: [&str; 11] = [
    ".ci",
    "console",
    "core",
    "docs",
    "edge",
    "gb6",
    "geo-config",
    "region",
    "scripts",
    "tests",
    "xtask",
];

/// Paths of the repository that stand in backticks exist.
fn check_paths(root: &Path, file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (n, line) in unfenced(text) {
        for code in line.split('`').skip(1).step_by(2) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let ours = code
                .split_once('/')
                .is_some_and(|(folder, _)| FOLDERS.contains(&folder));
            if ours && code.chars().all(plain) && !root.join(code).exists() {
                let message = format!("`{code}` is no path of the repository");
                findings.push(Finding::error(file, n, "paths", message));
            }
        }
    }
    findings
}

/// Pages that source comments point at exist.
pub(crate) fn check_mentions(root: &Path, file: &str, lexed: &Lexed) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (n, comment) in lexed.comments.iter().enumerate() {
        for word in comment.split(|c: char| c.is_whitespace() || "`()<>\"',;:#".contains(c)) {
            let page = word.trim_end_matches('.');
            if page.starts_with("docs/") && page.ends_with(".md") && !root.join(page).exists() {
                let message = format!("the comment points at {page}, which does not exist");
                findings.push(Finding::error(file, n + 1, "links", message));
            }
        }
    }
    findings
}

/// The lines of a page (from 1) outside blocks of code. The line that ends a block is among them.
fn unfenced(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced
    })
}

/// The links of a page with their lines (from 1): `[text](target)`, outside code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (n, line) in unfenced(text) {
        for prose in line.split('`').step_by(2) {
            for (at, _) in prose.match_indices("](") {
                if let Some((target, _)) = prose[at + 2..].split_once(')') {
                    found.push((n, target.split_whitespace().next().unwrap_or("")));
                }
            }
        }
    }
    found
}

/// The anchors of a page's headings: lower case, blanks as `-`, other punctuation left out.
fn headings(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|l| l.starts_with('#'))
        .map(|l| {
            l.trim_start_matches('#')
                .trim()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || c == '-' || c == '_' => {
                        Some(c.to_ascii_lowercase())
                    }
                    _ => None,
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_invariants_are_listed_once() {
        let all: String = (1..=8).map(|n| format!("- **A{n}** holds\n")).collect();
        assert!(check_invariants(&all).is_empty());
        assert_eq!(check_invariants(&all.replace("A7", "A10")).len(), 1);
        let twice = format!("{all}- **A3** again\n");
        assert_eq!(check_invariants(&twice)[0].line, 9);
    }

    #[test]
    fn shown_commands_exist() {
        let makefile = "help: ## List\nrun: ## Run\nhidden:\n\ttrue\n";
        let readme =
            "Type `make run` or `make fly`.\n```\n$ make help\nmake hidden\nmakeshift\n```\n";
        let lines: Vec<usize> = check_commands("README.md", readme, makefile)
            .iter()
            .map(|f| f.line)
            .collect();
        assert_eq!(lines, [1, 4]);
    }

    #[test]
    fn links_lead_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = "# A heading, here\n[a](Cargo.toml) [b](src/main.rs#x)\n[c](nowhere.md)\n`[d](code.md)` [e](https://x.invalid/y) [f](#a-heading-here)\n```\n[g](fenced.md)\n```\n";
        assert_eq!(links(text).len(), 5);
        let page = root.join("Cargo.toml");
        assert!(page.exists());
        // The page is not a file of its own here: its links are resolved beside Cargo.toml.
        let lines: Vec<usize> = check_links(root, "Cargo.toml", text)
            .iter()
            .map(|f| f.line)
            .collect();
        assert_eq!(lines, [2, 3, 4]);
        assert!(headings(text).contains("a-heading-here"));
    }

    #[test]
    fn paths_in_backticks_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = "`core/model` `xtask/src/main.rs` `core/*` `gb6/none stands here`\n\
                    `gb6-mesh/1` `/readyz` `target/debug/gb6`\n`core/wire/src/gone.rs`\n\
                    ```\n`docs/gone.md`\n```\n`docs/gone.md` and `scripts/gone`\n";
        let lines: Vec<usize> = check_paths(root, "a.md", text)
            .iter()
            .map(|f| f.line)
            .collect();
        assert_eq!(lines, [3, 7, 7]);
    }

    #[test]
    fn mentioned_pages_exist() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let lexed = Lexed::new("//! See `docs/nowhere.md`.\nlet x = \"docs/other.md\";\n");
        let found = check_mentions(root, "a.rs", &lexed);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 1);
    }
}
