//! How a command ends: what it prints, and the process's exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked makes no sense as it stands: exit code 2, as for a wrong flag.
    Usage(anyhow::Error),
    /// It could not be done: exit code 1.
    Failed(anyhow::Error),
    /// Everything was said already; exit code 1.
    Said,
}

impl Failure {
    /// A usage failure.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Failure::Usage(error.into())
    }

    /// Tells the person, and gives the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        let (error, code) = match self {
            Failure::Usage(error) => (error, 2),
            Failure::Failed(error) => (error, 1),
            Failure::Said => return ExitCode::from(1),
        };
        eprintln!("{}", Told(error));
        ExitCode::from(code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(error.into())
    }
}

/// An error with what caused it, one line each, nothing said twice.
struct Told<'a>(&'a anyhow::Error);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        write!(f, "error: {}", last.replace('\n', "\n       "))?;
        for cause in self.0.chain().skip(1) {
            let text = cause.to_string();
            // Most of our errors name their cause in their own words.
            if !last.contains(&text) {
                write!(f, "\n  because: {}", text.replace('\n', "\n           "))?;
            }
            last = text;
        }
        Ok(())
    }
}

/// Prints to standard output. A reader that has gone away, as `head` does, is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("no room: {0}")]
        struct Full(#[source] std::io::Error);
        let error =
            anyhow::Error::from(Full(std::io::Error::other("disk full"))).context("starting");
        assert_eq!(
            Told(&error).to_string(),
            "error: starting\n  because: no room: disk full"
        );
    }
}
