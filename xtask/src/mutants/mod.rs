//! `cargo xtask mutants`: seeded mistakes in the code that promises durability and order, each of
//! which a named test must catch. A test that nothing can make fail proves nothing.
//!
//! The sources are copied to `target/mutants/src` and built there into a target directory of their
//! own, so that neither the working tree nor its build is touched. One mistake at a time is made
//! in the copy; its test must still compile and must fail.

mod copy;
mod list;
mod nodes;
mod runner;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use copy::Copy;
use list::{Mutant, all};
use runner::{Build, Runner, Verdict};

/// Checks the mutants whose name contains `filter`, or all.
pub(crate) fn run(filter: Option<&str>) -> Result<ExitCode> {
    let mutants: Vec<Mutant> = all()
        .into_iter()
        .filter(|m| filter.is_none_or(|f| m.name.contains(f)))
        .collect();
    if mutants.is_empty() {
        bail!(
            "no mutant is named {:?}; there are: {}",
            filter.unwrap_or_default(),
            all().iter().map(|m| m.name).collect::<Vec<_>>().join(", ")
        );
    }
    let began = Instant::now();
    let copy = Copy::make(&workspace_root()?)?;
    let runner = Runner::new(&copy)?;
    for mutant in &mutants {
        // Said before anything is built: a patch that no longer fits is found at once.
        patched(&copy, mutant)?;
    }
    check_unchanged(&runner, &mutants)?;
    let width = mutants.iter().map(|m| m.name.len()).max().unwrap_or(0);
    let mut survivors = 0;
    for mutant in &mutants {
        let since = Instant::now();
        let said = check(&copy, &runner, mutant)?;
        let took = since.elapsed().as_secs_f32();
        let (word, more) = match said {
            Verdict::Failed => ("caught", String::new()),
            Verdict::Passed => ("SURVIVED", format!(": {}", mutant.about)),
            Verdict::Hung => ("HUNG", ": its test did not end".to_owned()),
            Verdict::Other(why) => ("BROKEN", format!(": {why}")),
        };
        if word != "caught" {
            survivors += 1;
        }
        println!(
            "{:width$}  {word:8}  {took:5.1} s  {} {}{more}",
            mutant.name, mutant.package, mutant.test
        );
    }
    println!(
        "mutants: {} of {} caught in {:.0} s",
        mutants.len() - survivors,
        mutants.len(),
        began.elapsed().as_secs_f32()
    );
    Ok(if survivors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn workspace_root() -> Result<std::path::PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("xtask lies in no workspace")?;
    Ok(root.to_path_buf())
}

/// Every test must pass before anything is changed: else it catches nothing.
fn check_unchanged(runner: &Runner<'_>, mutants: &[Mutant]) -> Result<()> {
    let mut done = BTreeSet::new();
    for mutant in mutants {
        if !done.insert((mutant.package, mutant.test)) {
            continue;
        }
        let exe = match runner.build(mutant)? {
            Build::Done(exe) => exe,
            Build::Failed(errors) => bail!("{} does not build:\n{errors}", mutant.package),
        };
        match runner.test(&exe, mutant)? {
            Verdict::Passed => {}
            other => bail!(
                "{} {} must pass without a mutant: {other:?}",
                mutant.package,
                mutant.test
            ),
        }
    }
    println!(
        "mutants: {} tests pass on the sources as they are",
        done.len()
    );
    Ok(())
}

fn patched(copy: &Copy, mutant: &Mutant) -> Result<String> {
    let text = copy.read(mutant.file)?;
    match text.matches(mutant.old).count() {
        1 => Ok(text.replacen(mutant.old, mutant.new, 1)),
        n => bail!(
            "mutant {}: its old text is found {n} times in {}, not once; adapt xtask/src/mutants/list.rs",
            mutant.name,
            mutant.file
        ),
    }
}

fn check(copy: &Copy, runner: &Runner<'_>, mutant: &Mutant) -> Result<Verdict> {
    let original = copy.read(mutant.file)?;
    copy.write(mutant.file, &patched(copy, mutant)?)?;
    let said = match runner.build(mutant) {
        Ok(Build::Done(exe)) => runner.test(&exe, mutant),
        Ok(Build::Failed(errors)) => Ok(Verdict::Other(format!("does not compile:\n{errors}"))),
        Err(error) => Err(error),
    };
    copy.write(mutant.file, &original)?;
    said
}
