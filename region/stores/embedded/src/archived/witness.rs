//! Bearing witness that a log's owner lives, to whoever wants to go on from the log's archive; and learning
//! that somebody has.

use std::time::{Duration, Instant};

use gb6_core_ports::StoreError;
use gb6_region_archive::Archive;

use super::Archiving;
use super::archiver::Archiver;
use crate::vfs::Vfs;

/// How often it is looked whether a question is answered.
const ANSWER_LOOK: Duration = Duration::from_secs(1);

impl<V: Vfs> Archiver<V> {
    /// Looks every now and then whether somebody asks for the archive, until it is stopped.
    pub(super) fn bear_witness(&self) {
        // Whoever asked while nothing was looked at may have gone on: the archive itself says so.
        let mut sure: Option<Instant> = None;
        while self.pause(self.look) {
            let unsure = sure.is_none_or(|at| at.elapsed() > 2 * self.look);
            let begun = Instant::now();
            match self.caught("look", || self.answer(unsure)) {
                Ok(()) => sure = Some(begun),
                // The store is away: it is told by what copies.
                Err(error) => {
                    tracing::debug!(%error, "it is not known whether somebody goes on from this log's archive");
                }
            }
        }
    }

    /// Waits; `false`: it is to end.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.stop && !self.wake.wait_until(&mut state, until).timed_out() {}
        !state.stop
    }

    /// Answers those who ask, as long as the archive is this log's; where it is another's, this log is not
    /// written any more.
    fn answer(&self, unsure: bool) -> Result<(), StoreError> {
        let answered = self.try_answer(unsure);
        if answered.is_err() {
            self.archive.count_failure("look");
        }
        answered
    }

    fn try_answer(&self, unsure: bool) -> Result<(), StoreError> {
        let questions = self.archive.questions()?;
        if questions.is_empty() && !unsure {
            return Ok(());
        }
        self.archive.refresh()?;
        let owner = self.archive.owner();
        if !self.marker.load()?.knows(owner) {
            let mut state = self.state.lock();
            if state.superseded.replace(owner.0).is_none() {
                tracing::error!(
                    current = owner.0.0,
                    "another start has gone on from this log's archive: this one is not written any more"
                );
            }
            return Ok(());
        }
        for question in &questions {
            tracing::warn!(
                ?question,
                "another start wants to go on from the archive of this log, and is told that this one lives"
            );
        }
        self.archive.answer(questions)
    }
}

/// Asks whether the archive's owner lives, before this start goes on from what it has archived.
///
/// # Errors
/// `Conflict`: it does.
pub(super) fn ask(archive: &Archive, archiving: &Archiving) -> Result<(), StoreError> {
    let question = archive.ask(&archiving.node)?;
    let until = Instant::now() + archiving.ask;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(ANSWER_LOOK));
        let answered = match archive.is_answered(&question) {
            Ok(answered) => answered,
            Err(error) => {
                // Whom it would reach later has nobody to answer.
                let _ = archive.withdraw(question);
                return Err(error);
            }
        };
        if answered {
            let node = archive.node();
            return Err(StoreError::Conflict {
                what: format!(
                    "this disk holds no log, and the process of node {node} that owns the archive still runs: \
                     stop that one first, else what it acknowledges from now on is lost"
                ),
            });
        }
        if left.is_zero() {
            return archive.withdraw(question);
        }
    }
}
