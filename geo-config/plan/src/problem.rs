//! What is wrong with a configuration text: one problem, or all of them at once.

use std::fmt;

/// One mistake in a configuration text, for the person who wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The line, from 1; `None` where the mistake is something that is not there.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
    /// The key that it is about, as in `instances.demo.region`; empty for the whole text.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem with `path`, at no known line.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line: None,
            column: None,
            path: path.into(),
            message: message.into(),
            help: None,
        }
    }

    /// The same problem at the place in `text` where byte `at` stands.
    #[must_use]
    pub fn at(mut self, text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        self.line = Some(before.matches('\n').count() + 1);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.column = Some(before[line_start..].chars().count() + 1);
        self
    }

    /// The same problem with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// Every mistake that was found in a configuration text, in the order of its lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
