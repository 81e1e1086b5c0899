//! Where clients of one test write their events: kept in memory for the checker, and written to a
//! file when a test fails, so that the history can be looked at.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::{Checker, Event, Summary, Violation, What};

/// The history of one test. Clones write to the same one.
#[derive(Clone, Default, Debug)]
pub struct Recorder {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event that happens now.
    pub fn record(&self, client: &str, what: What) {
        let event = Event {
            client: client.to_owned(),
            what,
            at: now_ms(),
        };
        self.events.lock().push(event);
    }

    /// Events so far.
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Whether nothing happened yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the events.
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// A copy of the events behind the first `n`.
    pub fn since(&self, n: usize) -> Vec<Event> {
        let events = self.events.lock();
        events.get(n..).unwrap_or_default().to_vec()
    }

    /// Checks what was recorded so far.
    ///
    /// # Errors
    /// The broken promises.
    pub fn check(&self) -> Result<Summary, Vec<Violation>> {
        let mut checker = Checker::new();
        for event in self.events.lock().iter() {
            checker.add(event);
        }
        checker.finish()
    }

    /// Writes the events as JSON lines.
    ///
    /// # Errors
    /// The file can not be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut out = BufWriter::new(std::fs::File::create(path)?);
        for event in self.events.lock().iter() {
            serde_json::to_writer(&mut out, event)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// Checks the history; where a promise is broken, writes it to `path` and ends the test with
    /// the first broken promises.
    ///
    /// # Panics
    /// A promise is broken.
    pub fn assert_kept(&self, path: &Path) -> Summary {
        match self.check() {
            Ok(summary) => summary,
            Err(violations) => {
                let place = match self.write(path) {
                    Ok(()) => format!("the history is in {}", path.display()),
                    Err(e) => format!("the history can not be written to {}: {e}", path.display()),
                };
                let shown: Vec<String> =
                    violations.iter().take(20).map(|v| v.to_string()).collect();
                panic!(
                    "{} broken promises; {place}\n{}",
                    violations.len(),
                    shown.join("\n")
                );
            }
        }
    }
}

/// Unix time in ms.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
