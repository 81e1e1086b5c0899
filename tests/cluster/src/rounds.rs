//! How often and with which chance: set by the environment, printed so that a run can be repeated.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The rounds of a randomised test and the chance in them.
#[derive(Debug)]
pub struct Rounds {
    /// How many: `GB6_ROUNDS`, or the test's default.
    pub count: u32,
    /// The seed: `GB6_SEED`, or by chance.
    pub seed: u64,
    /// The chance.
    pub random: StdRng,
}

impl Rounds {
    /// Reads the environment and prints the line that repeats the run.
    pub fn new(test: &str, default: u32) -> Self {
        // The same tests run a second time on engines.
        match std::env::var_os("GB6_ENGINES_BIN") {
            None => Self::of(test, default, "scripts/test.sh crash"),
            Some(_) => {
                let script = "SUITES=crash scripts/test-engines.sh end-to-end";
                Self::of(test, default, script)
            }
        }
    }

    /// As [`Rounds::new`], of a test on real engines.
    pub fn on_engines(test: &str, default: u32) -> Self {
        Self::of(test, default, "scripts/test-engines.sh crash")
    }

    fn of(test: &str, default: u32, script: &str) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
        let count = number("GB6_ROUNDS").map_or(default, |n| n as u32);
        let seed = number("GB6_SEED").unwrap_or_else(|| rand::rng().random());
        println!("repeat with: FILTER={test} GB6_SEED={seed} GB6_ROUNDS={count} {script}");
        Rounds {
            count,
            seed,
            random: StdRng::seed_from_u64(seed),
        }
    }
}

/// Lets this process open so many files, where the system allows it.
///
/// # Errors
/// It does not: what to do.
pub fn raise_file_limit(files: u64) -> Result<(), String> {
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|n| n >= files) {
        return Ok(());
    }
    let wanted = Rlimit {
        current: Some(files),
        maximum: Some(now.maximum.unwrap_or(files).max(files)),
    };
    setrlimit(Resource::Nofile, wanted).map_err(|e| {
        format!(
            "this test opens {files} files and may open {:?} ({e}): run it as root, or after `ulimit -n {files}`",
            now.current
        )
    })
}
