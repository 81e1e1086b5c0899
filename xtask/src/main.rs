//! Tools of the workspace, run as `cargo xtask <command>`.

mod conformance;
mod mutants;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <command>

  tidy            check the rules of the architecture and of the house; exits with 1 when one is
                  broken
  conformance [--check]
                  write docs/conformance.md from what the suites of the SDKs showed; with --check,
                  exit with 1 when the page says anything else
  mutants [NAME]  make seeded mistakes in a copy of the sources, all or those whose name contains
                  NAME; exits with 1 when one is not caught by its test
";

fn main() -> anyhow::Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy::run(),
        Some("conformance") => conformance::run(std::env::args().nth(2).as_deref()),
        Some("mutants") => mutants::run(std::env::args().nth(2).as_deref()),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        Some(other) => {
            eprint!("error: no command {other:?}\n\n{HELP}");
            Ok(ExitCode::from(2))
        }
    }
}
