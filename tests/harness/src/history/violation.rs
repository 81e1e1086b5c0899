//! What a history can break, and how that is told.

use std::fmt;

/// A promise of the system, as a history shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// The history itself makes sense.
    WellFormed,
    /// What was acknowledged is in the log.
    AcknowledgedIsKept,
    /// A subscriber gets each offset once.
    DeliveredOnce,
    /// A subscriber gets every offset after its position, in order.
    NothingSkipped,
    /// A room's offsets are consecutive from 1, and never fall.
    Consecutive,
    /// All readers, and the acknowledgements, agree on what stands at an offset.
    OneOrder,
    /// A message stands at one offset.
    OneOffset,
    /// A retry is answered with the first offset, and as a duplicate.
    RetryReturnsFirst,
    /// What one client sent in order stands in order.
    SenderOrder,
    /// Only what was sent to a room is in it.
    SentBefore,
    /// Nothing crosses instances.
    InstanceKept,
    /// What was refused is not in the log.
    RefusedIsAbsent,
    /// A room has one stream epoch.
    OneEpoch,
    /// A page of history has no holes and the direction that was asked for.
    PageOrder,
    /// Who takes itself to be up to date is.
    CaughtUp,
}

impl Rule {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rule::WellFormed => "well-formed",
            Rule::AcknowledgedIsKept => "acknowledged-is-kept",
            Rule::DeliveredOnce => "delivered-once",
            Rule::NothingSkipped => "nothing-skipped",
            Rule::Consecutive => "consecutive",
            Rule::OneOrder => "one-order",
            Rule::OneOffset => "one-offset",
            Rule::RetryReturnsFirst => "retry-returns-first",
            Rule::SenderOrder => "sender-order",
            Rule::SentBefore => "sent-before",
            Rule::InstanceKept => "instance-kept",
            Rule::RefusedIsAbsent => "refused-is-absent",
            Rule::OneEpoch => "one-epoch",
            Rule::PageOrder => "page-order",
            Rule::CaughtUp => "caught-up",
        }
    }
}

/// A broken promise, with the evidence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Violation {
    /// Which promise.
    pub rule: Rule,
    /// The instance and room, as `instance/room`; empty where none is concerned.
    pub room: String,
    /// Who saw what.
    pub evidence: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.rule.name())?;
        if !self.room.is_empty() {
            write!(f, " {}:", self.room)?;
        }
        write!(f, " {}", self.evidence)
    }
}
