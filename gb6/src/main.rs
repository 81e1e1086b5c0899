//! `gb6`, the one binary: every role of GB6 and the commands around them.

mod assemble;
mod cli;
mod config;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before there are threads, which take it over. A huge page is cleared as a whole when it is
    // first touched, which takes milliseconds in the middle of whatever touches it. Where the system
    // knows no such thing there is nothing to turn off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}
