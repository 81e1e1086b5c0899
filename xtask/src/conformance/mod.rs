//! `cargo xtask conformance`: the table in `docs/conformance.md`, made from what the suites of the
//! SDKs proved when they ran. `--check` compares the committed page with it.
//!
//! `tests/conformance/features.json` says what is to be shown, on what, and where it can not be and
//! why; `codes.json` beside it names a test for each code; each suite writes its results to `target/conformance`. A cell without a proof and without a
//! reason is an error, and so is a reason that a proof contradicts.

mod codes;
mod page;
mod plan;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use plan::{Plan, Proof};

const PLAN: &str = "tests/conformance/features.json";
const PAGE: &str = "docs/conformance.md";

/// Writes the page, or compares the committed one with the results.
pub(crate) fn run(argument: Option<&str>) -> Result<ExitCode> {
    let check = match argument {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("no option {other:?}: there is only --check"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(PLAN)).with_context(|| format!("{PLAN} is missing"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("{PLAN} is malformed"))?;
    let mut problems = codes::problems(&root)?;
    let page = match plan.tables(&proofs(&results_folder(&root))?) {
        Ok(tables) if problems.is_empty() => page::render(&plan, &tables),
        tables => {
            problems.extend(tables.err().into_iter().flatten());
            for problem in &problems {
                println!("conformance: {problem}");
            }
            println!("conformance: {} problems", problems.len());
            return Ok(ExitCode::FAILURE);
        }
    };
    if !check {
        fs::write(root.join(PAGE), page).with_context(|| format!("{PAGE} can not be written"))?;
        println!("conformance: {PAGE} is written");
        return Ok(ExitCode::SUCCESS);
    }
    let committed = fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    if committed == page {
        println!("conformance: {PAGE} says what the tests showed");
        return Ok(ExitCode::SUCCESS);
    }
    let line = (1..)
        .zip(page.lines().zip(committed.lines().chain([""])))
        .find_map(|(n, (new, old))| (new != old).then_some((n, new)));
    if let Some((n, new)) = line {
        println!("conformance: {PAGE}:{n} should be: {new}");
    }
    println!(
        "conformance: {PAGE} is not what the tests showed: write it anew with `cargo xtask conformance`"
    );
    Ok(ExitCode::FAILURE)
}

/// Where the suites write: below the directory of builds, like they choose it.
fn results_folder(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root.join(target).join("conformance")
}

/// Every result in the files of `folder`, which may be absent.
fn proofs(folder: &Path) -> Result<Vec<Proof>> {
    let mut files: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?,
        Err(_) => Vec::new(),
    };
    files.sort();
    let mut proofs = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let results: Vec<Proof> = serde_json::from_str(&text)
            .with_context(|| format!("{} is malformed", file.display()))?;
        proofs.extend(results);
    }
    Ok(proofs)
}
