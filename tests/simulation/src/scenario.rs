//! What a run is about, and what it has come to.

use std::collections::BTreeMap;

use crate::fault::FaultKind;

/// What a run is about.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Decides everything else.
    pub seed: u64,
    /// How long things go wrong, in virtual ms.
    pub chaos_ms: u64,
    /// What goes wrong.
    pub faults: Vec<FaultKind>,
    /// The mean time between two faults, in virtual ms.
    pub fault_every_ms: u64,
    /// Clients.
    pub clients: usize,
    /// The chance that a client publishes when it looks what to do, of 100: some twelve times a second.
    pub publish_percent: u64,
    /// Sessions that may begin in a second at each edge.
    pub connects_per_second: u32,
}

impl Scenario {
    /// Everything that can go wrong, for fifteen virtual seconds; with every fourth seed in quicker
    /// succession, so that one fault meets what another has left, and with every eighth so quickly
    /// that hardly anything comes to its end.
    pub fn everything(seed: u64) -> Self {
        Self {
            seed,
            chaos_ms: 15_000,
            faults: FaultKind::ALL.to_vec(),
            fault_every_ms: match seed % 8 {
                0 => 400,
                4 => 1_000,
                _ => 1_200,
            },
            clients: 5,
            publish_percent: 60,
            connects_per_second: 3,
        }
    }

    /// Nothing breaks but connections of clients: who is in contact stays so.
    pub fn in_contact(seed: u64) -> Self {
        Self {
            faults: vec![
                FaultKind::Revokes,
                FaultKind::Revokes,
                FaultKind::ClientLeaves,
                FaultKind::EdgeDrains,
                FaultKind::Storm,
            ],
            fault_every_ms: 600,
            ..Self::everything(seed)
        }
    }

    /// Many people, who publish little, and come back all at once.
    pub fn crowd(seed: u64) -> Self {
        Self {
            seed,
            chaos_ms: 30_000,
            faults: vec![FaultKind::Storm],
            fault_every_ms: 15_000,
            clients: 120,
            publish_percent: 1,
            connects_per_second: 20,
        }
    }
}

/// What a run that ended well has done. Equal for equal scenarios.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Messages in the log at the end.
    pub records: usize,
    /// Publishes acknowledged to clients.
    pub acknowledged: usize,
    /// Publishes without an id whose outcome stayed unknown.
    pub unknown: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Edges and regions that started by a placement that was no longer the newest.
    pub stale_starts: u64,
    /// Tokens that clients renewed, of connections and of subscriptions.
    pub renewed: u64,
    /// Connections and subscriptions that ended because theirs was not renewed.
    pub expired: u64,
    /// Revocations that became durable.
    pub revoked: u64,
    /// Open connections that they cut off.
    pub cut: u64,
    /// How often expired ones were removed from their log.
    pub removed: u64,
    /// Records of it that were written anew at its end.
    pub anew: u64,
    /// Drains that came to their end.
    pub drained: u64,
    /// Connects that were told to come back later.
    pub refused: u64,
    /// The longest time from the loss of a client's connection until all of its rooms were back, in ms.
    pub away_ms: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual ms.
    pub took_ms: u64,
    /// A digest of everything that happened, in order.
    pub digest: u64,
}
