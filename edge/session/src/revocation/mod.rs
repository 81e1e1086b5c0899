//! What is revoked in one instance, as an edge follows it: the log of revocations is read in order
//! up to its top, and what was read says something of now only while the way to it was never lost.
//!
//! A driver asks the shard for what [`RevocationFollower::query`] wants, hands in each page, cuts
//! off the connections that it names, and only then says that the read is finished. While
//! [`RevocationFollower::is_current`] is false, connections of the instance are held still.
//!
//! The log is kept as small as what it says: what has expired goes, from memory and from the log's
//! beginning, and what holds it back there is written anew at its end. Every edge that follows a log
//! does so, whenever it knows all of it, and none needs to know of the others: a removal only takes
//! records that nobody needs, and a record is only written anew where the log is just as its writer
//! knows it, so that it never says anything that was true no more.

mod record;
mod set;

use gb6_core_model::{Disconnect, ErrorCode, Offset, limits};
use gb6_core_wire::mesh::Publication;

use crate::request::{HistoryAnswer, HistoryQuery};
use set::RevokedSet;

pub use record::{Revocation, id_of_client, id_of_user};
pub use set::{Identity, TokenRef};

/// The revocations of one instance, as far as one edge knows them.
pub struct RevocationFollower {
    set: RevokedSet,
    /// The last offset that was applied.
    applied: Offset,
    /// How often the way to the log was lost: what was read before says nothing of now.
    losses: u64,
    current: bool,
    /// Up to how many entries others are accepted.
    entries_max: usize,
    /// When it was last looked for what has expired, Unix ms.
    expired_unix_ms: i64,
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
    /// Whether nothing that was known before counts any more, and the log is read from its beginning
    /// by another read, which begins now.
    pub restarts: bool,
}

impl RevocationPage {
    /// Whether it names tokens, or all of a user's, which may be those of subscriptions.
    pub fn names_tokens(&self) -> bool {
        use Revocation::{Token, UserTokens};
        let names = |record: &Revocation| matches!(record, Token { .. } | UserTokens { .. });
        self.records.iter().any(names)
    }

    /// Whether it can cut off any connection.
    pub fn cuts(&self) -> bool {
        let cuts = |record: &Revocation| !matches!(record, Revocation::Unblock { .. });
        self.records.iter().any(cuts)
    }
}

/// What is to be done so that a log has only what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RevocationUpkeep {
    /// Remove everything below this offset.
    pub remove_below: Option<Offset>,
    /// Write anew at the log's end what a page behind this offset says and is needed:
    /// [`RevocationFollower::anew`].
    pub write_anew_behind: Option<Offset>,
}

impl RevocationFollower {
    /// The system channel of revocations.
    pub const CHANNEL: &'static str = "!revoked";
    /// Tokens, users and connections of one instance up to which more are accepted. A tenth more is
    /// remembered: of what others write meanwhile an edge hears a moment later.
    pub const ENTRIES_MAX: usize = 200_000;
    /// Between two looks for what has expired where there is no room, in ms.
    const EXPIRE_MS: u64 = 1_000;
    /// For how long something is kept behind its end, in ms: by so much the clocks of edges may
    /// differ.
    pub const GRACE_MS: i64 = 300_000;
    /// Records that a log may have beyond twice what is revoked.
    pub const RECORDS_SPARE: u64 = 1_000;
    /// Between two looks at the log without being told that there is something, in ms.
    pub const LOOK_MS: u64 = 1_000;
    /// Before the next look where one failed, in ms.
    pub const RETRY_MS: u64 = 200;

    /// Of an instance of which nothing is known, that accepts up to `entries_max` tokens, users and
    /// connections, each kept [`RevocationFollower::GRACE_MS`] behind its end.
    pub fn new(entries_max: usize) -> Self {
        Self::with_grace(entries_max, Self::GRACE_MS)
    }

    /// The same with another time, in ms.
    pub fn with_grace(entries_max: usize, grace_ms: i64) -> Self {
        Self {
            set: RevokedSet::new(entries_max + entries_max / 10, grace_ms),
            applied: 0,
            losses: 0,
            current: false,
            entries_max,
            expired_unix_ms: i64::MIN,
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
    /// [`RevocationFollower::verdict`] next.
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
            restarts: false,
        };
        let gone = page.error == Some(ErrorCode::UnrecoverablePosition) && self.applied > 0;
        if gone || (page.error.is_none() && page.top < self.applied) {
            // What was to come next is gone, or the channel is another than before.
            self.lost();
            self.set.clear();
            self.applied = 0;
            taken.restarts = true;
            return Ok(taken);
        }
        if let Some(error) = page.error {
            return Err(error);
        }
        for publication in page.publications.iter() {
            match Revocation::parse(&publication.data) {
                Some(record) => {
                    self.set.apply(&record, publication.offset, unix_ms);
                    taken.records.push(record);
                }
                None => {
                    self.set.could_not_read(publication.offset);
                    taken.unreadable.push(publication.offset);
                }
            }
            self.applied = publication.offset;
        }
        taken.more = !page.publications.is_empty() && self.applied < page.top;
        if !taken.more {
            // Also where nothing of it is left.
            self.applied = page.top;
        }
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

    /// Whether this token, which is of the user with the key `user`, is taken back at `unix_ms`,
    /// alone or with others of the user.
    pub fn has_token(&self, token: &TokenRef, user: &[u8; 16], unix_ms: i64) -> bool {
        self.set.has_token(token, user, unix_ms)
    }

    /// Forgets at `unix_ms` what has expired, and says what is to be done about the log, whose first
    /// record is `first` and all of which is applied. With more than `spare` records beyond twice what
    /// is revoked, the oldest that are needed are to be written anew.
    pub fn upkeep(&mut self, first: Offset, unix_ms: i64, spare: u64) -> RevocationUpkeep {
        self.expire(unix_ms);
        if !self.current || !self.set.is_whole() {
            // Others know what it is that this edge does not.
            return RevocationUpkeep::default();
        }
        let needed = self.set.first_needed(self.applied + 1);
        let records = self.applied + 1 - needed;
        let many = records > 2 * self.set.len() as u64 + spare;
        RevocationUpkeep {
            remove_below: (needed > first).then_some(needed),
            write_anew_behind: many.then_some(needed - 1),
        }
    }

    /// The record that is to be written behind the newest one so that this one is needed no more;
    /// `None`: it is not needed.
    pub fn anew(&self, publication: &Publication) -> Option<Revocation> {
        let record = Revocation::parse(&publication.data)?;
        self.set.anew(&record, publication.offset)
    }

    /// Whether this may be written at `unix_ms`: what it names is remembered already, or there is room
    /// for one more. It is found out once a second at most what has expired.
    pub fn has_room(&mut self, revocation: &Revocation, unix_ms: i64) -> bool {
        if self.set.len() < self.entries_max || self.set.has_place_for(revocation) {
            return true;
        }
        if unix_ms.abs_diff(self.expired_unix_ms) >= Self::EXPIRE_MS {
            self.expire(unix_ms);
        }
        self.set.len() < self.entries_max
    }

    fn expire(&mut self, unix_ms: i64) {
        self.expired_unix_ms = unix_ms;
        self.set.expire(unix_ms);
    }

    /// Tokens, users and connections that are remembered.
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
    fn a_log_that_does_not_continue_is_read_from_its_beginning_and_nothing_else_counts() {
        let mut follower = RevocationFollower::new(10);
        let (a, b) = (block("a").to_json(), block("b").to_json());
        let read = follower.begin();
        follower.page(&page(1, 1, &[&a]), NOW).unwrap();
        assert!(follower.finished(read));
        let mut gone = page(0, 9, &[]);
        gone.error = Some(ErrorCode::UnrecoverablePosition);
        let read = follower.begin();
        let taken = follower.page(&gone, NOW).unwrap();
        assert!(taken.more && taken.restarts && !follower.is_current());
        assert!(!follower.finished(read), "it began before");
        assert_eq!(follower.query().since, None);
        let again = follower.page(&gone, NOW).map(|page| page.more);
        assert_eq!(again, Err(ErrorCode::UnrecoverablePosition));
        let read = follower.begin();
        follower.page(&page(9, 9, &[&b]), NOW).unwrap();
        assert!(follower.finished(read));
        assert!(follower.verdict(&identity("a"), NOW).is_none());
        assert!(follower.verdict(&identity("b"), NOW).is_some());
        // Another channel than before.
        assert!(follower.page(&page(0, 0, &[]), NOW).unwrap().restarts);
        assert_eq!(follower.applied(), 0);
        assert!(!follower.page(&page(0, 0, &[]), NOW).unwrap().more);
    }

    #[test]
    fn a_log_of_which_nothing_is_left_is_known_to_its_top() {
        let mut follower = RevocationFollower::new(10);
        assert!(!follower.page(&page(9, 8, &[]), NOW).unwrap().more);
        assert_eq!(follower.applied(), 8);
    }

    #[test]
    fn expired_records_go_and_needed_ones_are_written_anew_where_there_are_many() {
        let mut follower = RevocationFollower::with_grace(10, 5);
        let token = |n: u8, until| Revocation::of_token([n; 16], until).to_json();
        let (a, one, two) = (block("a").to_json(), token(1, NOW), token(2, NOW + 1));
        let read = follower.begin();
        let log = page(1, 4, &[&one, &a, &one, &two]);
        follower.page(&log, NOW).unwrap();
        assert_eq!(follower.upkeep(1, NOW + 9, 0), RevocationUpkeep::default());
        follower.finished(read);
        // The block alone is needed, of three records.
        let upkeep = follower.upkeep(1, NOW + 9, 0);
        assert_eq!(upkeep.remove_below, Some(2));
        assert_eq!(upkeep.write_anew_behind, Some(1));
        assert_eq!(follower.upkeep(2, NOW + 9, 1), RevocationUpkeep::default());
        let anew: Vec<_> = log.publications.iter().map(|p| follower.anew(p)).collect();
        assert_eq!(anew, [None, Some(block("a")), None, None]);
        follower.page(&page(5, 5, &[&a]), NOW + 9).unwrap();
        let upkeep = follower.upkeep(2, NOW + 9, 0);
        assert_eq!(upkeep.remove_below, Some(5));
        assert_eq!(upkeep.write_anew_behind, None);
        // Who does not know all of it does nothing.
        follower.page(&page(6, 6, &[b"{}"]), NOW + 9).unwrap();
        assert_eq!(follower.upkeep(2, NOW + 9, 0), RevocationUpkeep::default());
    }

    #[test]
    fn there_is_room_again_when_something_has_expired() {
        let mut follower = RevocationFollower::with_grace(1, 0);
        let (one, two) = (
            Revocation::of_token([1; 16], NOW + 5),
            Revocation::of_token([2; 16], NOW + 5),
        );
        let log = page(1, 1, &[&one.to_json()]);
        follower.page(&log, NOW).unwrap();
        assert!(!follower.has_room(&two, NOW + 4));
        // It is not looked again at once.
        assert!(!follower.has_room(&two, NOW + 5));
        assert_eq!(follower.entries(), 1);
        assert!(follower.has_room(&one, NOW + 5), "it is there already");
        let unblock = Revocation::Unblock {
            user: "u".to_owned(),
        };
        assert!(follower.has_room(&unblock, NOW + 5));
        assert!(follower.has_room(&two, NOW + 1_004));
        assert_eq!((follower.entries(), follower.forgotten()), (0, 0));
    }

    #[test]
    fn what_others_write_meanwhile_has_a_place_where_no_more_is_accepted() {
        let mut follower = RevocationFollower::with_grace(10, 0);
        let records: Vec<Vec<u8>> = (0..12).map(|n| block(&n.to_string()).to_json()).collect();
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let user = |n: usize| identity(&n.to_string());
        follower.page(&page(1, 10, &records[..10]), NOW).unwrap();
        assert!(!follower.has_room(&block("x"), NOW));
        follower.page(&page(11, 11, &records[10..11]), NOW).unwrap();
        assert_eq!((follower.entries(), follower.forgotten()), (11, 0));
        assert!(follower.verdict(&user(0), NOW).is_some());
        // Beyond that one goes for one.
        follower.page(&page(12, 12, &records[11..]), NOW).unwrap();
        assert_eq!((follower.entries(), follower.forgotten()), (11, 1));
        assert!(follower.verdict(&user(0), NOW).is_none());
        assert!((1..12).all(|n| follower.verdict(&user(n), NOW).is_some()));
    }
}
