//! Building and running one named test of the copy.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::copy::Copy;
use super::list::Mutant;

/// How long a test may run.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a compiler's errors that are shown.
const ERROR_LINES: usize = 20;

/// What a test said.
#[derive(Debug)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Hung,
    /// It ended in a way that no assertion does.
    Other(String),
}

/// How a build ended.
pub(crate) enum Build {
    /// The test's program.
    Done(PathBuf),
    /// The compiler's last words.
    Failed(String),
}

pub(crate) struct Runner<'a> {
    copy: &'a Copy,
    output: PathBuf,
}

impl<'a> Runner<'a> {
    pub(crate) fn new(copy: &'a Copy) -> Result<Self> {
        fs::create_dir_all(&copy.target)
            .with_context(|| format!("{} can not be made", copy.target.display()))?;
        Ok(Self {
            copy,
            output: copy.target.join("test-output.txt"),
        })
    }

    /// Builds the program that holds a mutant's test.
    pub(crate) fn build(&self, mutant: &Mutant) -> Result<Build> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .args(["test", "--no-run", "--locked", "--message-format=json"])
            .args(["-p", mutant.package])
            .current_dir(&self.copy.source)
            .env("CARGO_TARGET_DIR", &self.copy.target)
            // The same crate is built again and again with a line changed.
            .env("CARGO_INCREMENTAL", "1")
            .env("RUSTFLAGS", "--cap-lints warn");
        command.args(["--test", "it"]);
        let output = command.output().context("cargo can not be run")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let mut program = None;
        let mut errors = String::new();
        for message in said
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        {
            match message["reason"].as_str() {
                Some("compiler-artifact") if message["profile"]["test"] == true => {
                    program = message["executable"]
                        .as_str()
                        .map(PathBuf::from)
                        .or(program);
                }
                Some("compiler-message") if message["message"]["level"] == "error" => {
                    errors.push_str(message["message"]["rendered"].as_str().unwrap_or_default());
                }
                _ => {}
            }
        }
        match program {
            Some(program) if output.status.success() => Ok(Build::Done(program)),
            _ if errors.is_empty() => bail!(
                "cargo failed without an error of the compiler:\n{}",
                String::from_utf8_lossy(&output.stderr)
            ),
            _ => {
                let lines: Vec<&str> = errors.lines().take(ERROR_LINES).collect();
                Ok(Build::Failed(lines.join("\n")))
            }
        }
    }

    /// Runs a mutant's test.
    pub(crate) fn test(&self, program: &PathBuf, mutant: &Mutant) -> Result<Verdict> {
        let to = fs::File::create(&self.output)
            .with_context(|| format!("{} can not be made", self.output.display()))?;
        let folder = self.copy.source.join(mutant.file);
        let package = folder
            .ancestors()
            .find(|f| f.join("Cargo.toml").exists())
            .unwrap_or(&self.copy.source);
        let mut child = Command::new(program)
            .args(["--exact", mutant.test])
            .current_dir(package)
            // Random tests must say the same every time, and need not look for the smallest case.
            .env("PROPTEST_RNG_SEED", "1")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
            .env("RUST_BACKTRACE", "0")
            .envs(mutant.env.iter().copied())
            .stdin(Stdio::null())
            .stdout(to.try_clone().context("the output can not be shared")?)
            .stderr(to)
            .spawn()
            .with_context(|| format!("{} can not be run", program.display()))?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().context("a test can not be waited for")? {
                break status;
            }
            if began.elapsed() > TEST_TIMEOUT {
                child.kill().context("a test can not be ended")?;
                child.wait().context("a test can not be waited for")?;
                return Ok(Verdict::Hung);
            }
            sleep(LOOK_EVERY);
        };
        let output = fs::read(&self.output).context("a test's output can not be read")?;
        let output = String::from_utf8_lossy(&output);
        let ran = |result: &str| output.contains(&format!("test {} ... {result}", mutant.test));
        Ok(if status.success() && output.contains("1 passed") {
            Verdict::Passed
        } else if status.success() {
            Verdict::Other("no test has this name".into())
        } else if output.contains("test result: FAILED. 0 passed; 1 failed") || ran("FAILED") {
            Verdict::Failed
        } else {
            Verdict::Other(format!("{status}: {output}"))
        })
    }
}
