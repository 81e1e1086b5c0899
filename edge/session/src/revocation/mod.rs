//! What is revoked in one instance, as an edge follows it: the log of revocations is read in order
//! up to its top, and what was read says something of now only while the way to it was never lost.
//!
//! A driver asks the shard for what [`RevocationFollower::query`] wants, hands in each page, cuts
//! off the connections that it names, and only then says that the read is finished. While
//! [`RevocationFollower::is_current`] is false, connections of the instance are held still.

mod record;
mod set;

use std::collections::HashSet;

use gb6_core_model::{Disconnect, ErrorCode, Offset, limits};

use crate::request::{HistoryAnswer, HistoryQuery};
use set::RevokedSet;

pub use record::{Revocation, id_of_client, id_of_user};
pub use set::Identity;

/// The revocations of one instance, as far as one edge knows them.
pub struct RevocationFollower {
    set: RevokedSet,
    /// The last offset that was applied.
    applied: Offset,
    /// How often the way to the log was lost: what was read before says nothing of now.
    losses: u64,
    current: bool,
}

/// A read of the log from what is applied up to its top.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RevocationRead {
    /// How often the way had been lost when it began.
    losses: u64,
}

/// What a page of the log has brought. It is applied already: tokens are held against it.
#[derive(Debug)]
pub struct RevocationPage {
    /// Its revocations, in the order of the log.
    pub records: Vec<Revocation>,
    /// The offsets of records of kinds that this edge does not know.
    pub unreadable: Vec<Offset>,
    /// Whether there is more to be read before the top is reached.
    pub more: bool,
    /// Connections that it names by their client id.
    clients: HashSet<[u8; 16]>,
}

impl RevocationPage {
    /// Whether it can cut off any connection.
    pub fn cuts(&self) -> bool {
        let cuts = |record: &Revocation| !matches!(record, Revocation::Unblock { .. });
        self.records.iter().any(cuts)
    }
}

impl RevocationFollower {
    /// The system channel of revocations.
    pub const CHANNEL: &'static str = "!revoked";
    /// Tokens and users of one instance that are remembered at most.
    pub const ENTRIES_MAX: usize = 200_000;
    /// Between two looks at the log without being told that there is something, in ms.
    pub const LOOK_MS: u64 = 1_000;
    /// Before the next look where one failed, in ms.
    pub const RETRY_MS: u64 = 200;

    /// Of an instance of which nothing is known, with at most `entries_max` tokens and users.
    pub fn new(entries_max: usize) -> Self {
        Self {
            set: RevokedSet::new(entries_max),
            applied: 0,
            losses: 0,
            current: false,
        }
    }

    /// Whether nothing that was revoked a moment ago can be missing.
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// The last offset of the log that was applied.
    pub fn applied(&self) -> Offset {
        self.applied
    }

    /// The way to the log was lost, or a read of it failed.
    pub fn lost(&mut self) {
        self.losses += 1;
        self.current = false;
    }

    /// A read begins: [`RevocationFollower::query`] says what is asked for first.
    pub fn begin(&self) -> RevocationRead {
        RevocationRead {
            losses: self.losses,
        }
    }

    /// The next page to ask for.
    pub fn query(&self) -> HistoryQuery {
        HistoryQuery {
            since: (self.applied > 0).then_some(self.applied),
            reverse: false,
            limit: limits::HISTORY_PAGE_MAX as u32,
            bytes: limits::HISTORY_PAGE_BYTES_MAX as u64,
        }
    }

    /// Takes in the page that was asked for, at `unix_ms`. Open connections are to be judged by
    /// [`RevocationFollower::verdict_behind`] next.
    ///
    /// # Errors
    /// Why the log could not be read: call [`RevocationFollower::lost`].
    pub fn page(
        &mut self,
        page: &HistoryAnswer,
        unix_ms: i64,
    ) -> Result<RevocationPage, ErrorCode> {
        let mut taken = RevocationPage {
            records: Vec::new(),
            unreadable: Vec::new(),
            more: true,
            clients: HashSet::new(),
        };
        let gone = page.error == Some(ErrorCode::UnrecoverablePosition) && self.applied > 0;
        if gone || (page.error.is_none() && page.top < self.applied) {
            // Older ones are gone, or the channel is another than before: all that there are.
            self.applied = 0;
            return Ok(taken);
        }
        if let Some(error) = page.error {
            return Err(error);
        }
        for publication in page.publications.iter() {
            match Revocation::parse(&publication.data) {
                Some(record) => {
                    self.set.apply(&record, unix_ms, &mut taken.clients);
                    taken.records.push(record);
                }
                None => taken.unreadable.push(publication.offset),
            }
            self.applied = publication.offset;
        }
        taken.more = !page.publications.is_empty() && self.applied < page.top;
        Ok(taken)
    }

    /// Everything up to the top is applied, and everybody is cut off whom it names. `true`: it has
    /// become current by that; not where the way was lost since the read began.
    pub fn finished(&mut self, read: RevocationRead) -> bool {
        if self.current || self.losses != read.losses {
            return false;
        }
        self.current = true;
        true
    }

    /// Why a connection may not be at `unix_ms`, if it may not.
    pub fn verdict(&self, identity: &Identity, unix_ms: i64) -> Option<Disconnect> {
        self.set.verdict(identity, unix_ms)
    }

    /// The same of a connection that was open when this page came.
    pub fn verdict_behind(
        &self,
        page: &RevocationPage,
        identity: &Identity,
        unix_ms: i64,
    ) -> Option<Disconnect> {
        match page.clients.contains(&identity.client) {
            true => Some(Disconnect::ForceDisconnect),
            false => self.verdict(identity, unix_ms),
        }
    }

    /// Whether the token with this key is taken back at `unix_ms`.
    pub fn has_token(&self, id: &[u8; 16], unix_ms: i64) -> bool {
        self.set.has_token(id, unix_ms)
    }

    /// Whether one more token or user can be remembered, behind the ones that have not expired at
    /// `unix_ms`.
    pub fn has_room(&mut self, unix_ms: i64) -> bool {
        if self.set.is_full() {
            self.set.expire(unix_ms);
        }
        !self.set.is_full()
    }

    /// Tokens and users that are remembered.
    pub fn entries(&self) -> usize {
        self.set.len()
    }

    /// Revocations that were forgotten before their time, because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.set.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::mesh::Publication;

    const NOW: i64 = 1_000;

    fn block(user: &str) -> Revocation {
        Revocation::Block {
            user: user.to_owned(),
            until: None,
        }
    }

    /// A page of these records from `first` on, of a log up to `top`.
    fn page(first: Offset, top: Offset, records: &[&[u8]]) -> HistoryAnswer {
        let publication = |(offset, data): (Offset, &&[u8])| Publication {
            offset,
            data: data.to_vec().into(),
            ..Publication::default()
        };
        HistoryAnswer {
            publications: (first..).zip(records).map(publication).collect(),
            top,
            first: 1,
            generation: 0,
            error: None,
        }
    }

    fn identity(user: &str) -> Identity {
        Identity {
            token: Some([7; 16]),
            issued_unix_ms: None,
            user: id_of_user(user),
            client: id_of_client("c"),
        }
    }

    #[test]
    fn it_reads_page_by_page_to_the_top_and_passes_over_what_it_does_not_know() {
        let mut follower = RevocationFollower::new(10);
        let read = follower.begin();
        assert_eq!(follower.query().since, None);
        let (a, b) = (block("a").to_json(), block("b").to_json());
        let first = follower.page(&page(1, 3, &[&a, b"{}"]), NOW).unwrap();
        assert!(first.more && first.cuts());
        assert_eq!(
            (first.records, first.unreadable),
            (vec![block("a")], vec![2])
        );
        assert_eq!(follower.query().since, Some(2));
        let second = follower.page(&page(3, 3, &[&b]), NOW).unwrap();
        assert!(!second.more && !follower.is_current());
        assert!(follower.finished(read) && follower.is_current());
        for (user, revoked) in [("a", true), ("b", true), ("c", false)] {
            let verdict = follower.verdict(&identity(user), NOW);
            assert_eq!(verdict.is_some(), revoked, "{user}");
        }
        let nothing = follower.page(&page(4, 3, &[]), NOW).unwrap();
        assert!(!nothing.more && !nothing.cuts());
        assert!(!follower.finished(follower.begin()), "it was so already");
    }

    #[test]
    fn a_read_that_began_before_a_loss_says_nothing_of_now() {
        let mut follower = RevocationFollower::new(10);
        let before = follower.begin();
        follower.lost();
        assert!(!follower.page(&page(1, 0, &[]), NOW).unwrap().more);
        assert!(!follower.finished(before) && !follower.is_current());
        assert!(follower.finished(follower.begin()));
        follower.lost();
        assert!(!follower.is_current());
    }

    #[test]
    fn a_log_that_does_not_continue_is_read_from_its_beginning() {
        let mut follower = RevocationFollower::new(10);
        let record = block("a").to_json();
        follower.page(&page(1, 1, &[&record]), NOW).unwrap();
        let mut gone = page(0, 9, &[]);
        gone.error = Some(ErrorCode::UnrecoverablePosition);
        assert!(follower.page(&gone, NOW).unwrap().more);
        assert_eq!(follower.query().since, None);
        let again = follower.page(&gone, NOW).map(|page| page.more);
        assert_eq!(again, Err(ErrorCode::UnrecoverablePosition));
        follower.page(&page(1, 1, &[&record]), NOW).unwrap();
        assert!(follower.page(&page(0, 0, &[]), NOW).unwrap().more);
        assert_eq!(follower.applied(), 0);
        assert!(!follower.page(&page(0, 0, &[]), NOW).unwrap().more);
    }

    #[test]
    fn a_connection_is_named_by_its_client_id_once() {
        let mut follower = RevocationFollower::new(10);
        let session = Revocation::Session {
            client: "c".to_owned(),
        };
        let record = session.to_json();
        let page = follower.page(&page(1, 1, &[&record]), NOW).unwrap();
        let verdict = follower.verdict_behind(&page, &identity("a"), NOW);
        assert_eq!(verdict, Some(Disconnect::ForceDisconnect));
        assert_eq!(follower.verdict(&identity("a"), NOW), None);
    }

    #[test]
    fn there_is_room_again_when_something_has_expired() {
        let mut follower = RevocationFollower::new(1);
        let record = Revocation::of_token([1; 16], NOW + 5).to_json();
        follower.page(&page(1, 1, &[&record]), NOW).unwrap();
        assert!(!follower.has_room(NOW + 4));
        assert!(follower.has_room(NOW + 5));
        assert_eq!((follower.entries(), follower.forgotten()), (0, 0));
    }
}
