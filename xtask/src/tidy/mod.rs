//! `cargo xtask tidy`: the rules of `docs/architecture.md` and of the house, as far as a machine
//! can check them. Each finding names file, line and rule.

mod docs;
mod graph;
mod lexer;
mod source;
mod uses;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use graph::Workspace;
use lexer::Lexed;

/// One broken rule, or one that is nearly broken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Finding {
    /// Path from the workspace root.
    file: String,
    /// From 1.
    line: usize,
    /// Short name of the rule.
    rule: &'static str,
    /// What is wrong and what to do.
    message: String,
    /// Whether it is only a warning.
    warning: bool,
}

impl Finding {
    fn error(
        file: impl Into<String>,
        line: usize,
        rule: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            file: file.into(),
            line,
            rule,
            message: message.into(),
            warning: false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.warning { "warning" } else { "error" };
        write!(
            f,
            "{}:{}: {level} [{}] {}",
            self.file, self.line, self.rule, self.message
        )
    }
}

/// Runs every check and prints what it finds.
pub(crate) fn run() -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let mut findings = graph::check(&workspace);
    let mut files = 0;
    for package in &workspace.packages {
        for path in rust_files(&workspace.root.join(&package.folder))? {
            let file = relative(&workspace.root, &path);
            let text =
                fs::read_to_string(&path).with_context(|| format!("{file} can not be read"))?;
            let lexed = Lexed::new(&text);
            findings.extend(source::check(&file, package, &lexed));
            findings.extend(docs::check_mentions(&workspace.root, &file, &lexed));
            files += 1;
        }
    }
    findings.extend(docs::check(&workspace.root)?);
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    let warnings = findings.iter().filter(|f| f.warning).count();
    let errors = findings.len() - warnings;
    println!("tidy: {errors} errors, {warnings} warnings in {files} source files");
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every Rust file of a package, without what is generated or belongs to other packages below it.
fn rust_files(package: &Path) -> Result<Vec<PathBuf>> {
    files_below(package, &|path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        name != "target" && name != "node_modules" && !path.join("Cargo.toml").exists()
    })
    .map(|files| {
        files
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "rs"))
            .collect()
    })
}

/// Every file below `dir`, in order, in the directories that `enter` accepts.
pub(crate) fn files_below(dir: &Path, enter: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![dir.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        let entries =
            fs::read_dir(&dir).with_context(|| format!("{} can not be listed", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_symlink() {
                continue;
            }
            if !path.is_dir() {
                files.push(path);
            } else if enter(&path) {
                waiting.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `path` from `root`, with `/` on every system.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<_> = path
        .components()
        .map(|c| c.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}
