//! How much a history holds, for the line that a test prints.

use std::fmt;

/// What a history that breaks nothing holds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Events read.
    pub events: u64,
    /// Clients that took part.
    pub clients: u64,
    /// Rooms, of all instances.
    pub rooms: u64,
    /// Different messages that were sent.
    pub messages: u64,
    /// Attempts to publish, retries counted.
    pub attempts: u64,
    /// Acknowledgements.
    pub acknowledged: u64,
    /// Acknowledgements that said that the id was known.
    pub duplicates: u64,
    /// Publications delivered to subscribers.
    pub delivered: u64,
    /// Publications read in pages.
    pub paged: u64,
    /// Connections lost.
    pub lost: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events of {} clients in {} rooms: {} messages in {} attempts, {} acknowledged ({} as duplicates), {} delivered, {} read in pages, {} connections lost",
            self.events,
            self.clients,
            self.rooms,
            self.messages,
            self.attempts,
            self.acknowledged,
            self.duplicates,
            self.delivered,
            self.paged,
            self.lost
        )
    }
}
