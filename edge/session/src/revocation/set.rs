//! What is revoked in one instance: compact, bounded, and in the order of the log.

use std::collections::HashMap;

use gb6_core_model::Disconnect;

use super::record::{Revocation, id_of_client, id_of_user, token_id};

/// By what one connection can be cut off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The key of its token; `None`: it has none.
    pub token: Option<[u8; 16]>,
    /// When that was issued, Unix ms; `None`: it does not say.
    pub issued_unix_ms: Option<i64>,
    /// The key of its user.
    pub user: [u8; 16],
    /// The key of its client id.
    pub client: [u8; 16],
}

/// By what a token can be taken back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TokenRef {
    /// The key that it is remembered by: of its `jti` where it has one that is not empty, else of
    /// its text.
    pub id: [u8; 16],
    /// When it was issued, Unix ms; `None`: it does not say.
    pub issued_unix_ms: Option<i64>,
}

/// How long something is revoked, and the newest record that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Until {
    /// Unix ms; `i64::MAX`: for good.
    unix_ms: i64,
    /// The record's offset: without it the log would not say all of this.
    offset: u64,
}

/// In which order things end: when, Unix ms, and the offset of the record that says so, which no other
/// has.
type End = (i64, u64);

impl Until {
    fn end(&self) -> End {
        (self.unix_ms, self.offset)
    }

    /// Takes in that another record says the same, until some time.
    fn prolong(&mut self, other: Until) {
        if other.unix_ms >= self.unix_ms {
            *self = other;
        }
    }
}

/// What is revoked of a user.
#[derive(Clone, Copy, Default)]
struct User {
    /// Tokens issued before (Unix ms) are not valid, and until when that matters.
    tokens: Option<(i64, Until)>,
    /// Until when the user is blocked.
    blocked: Option<Until>,
}

impl User {
    /// When the last of it ends; `None`: nothing is revoked.
    fn end(&self) -> Option<End> {
        let tokens = self.tokens.as_ref().map(|(_, until)| until.end());
        tokens.max(self.blocked.as_ref().map(Until::end))
    }

    /// Takes in that tokens issued before some time are not valid.
    fn revoke_tokens(&mut self, before: i64, until: Until) {
        let Some((known, known_until)) = self.tokens else {
            self.tokens = Some((before, until));
            return;
        };
        // Where the newer record alone does not say all of it, the older one is needed too.
        let says_all = before >= known && until.unix_ms >= known_until.unix_ms;
        let all = Until {
            unix_ms: until.unix_ms.max(known_until.unix_ms),
            offset: match says_all {
                true => until.offset,
                false => known_until.offset,
            },
        };
        self.tokens = Some((before.max(known), all));
    }
}

/// The revocations of one instance.
#[derive(Default)]
pub(super) struct RevokedSet {
    tokens: HashMap<[u8; 16], Until>,
    users: HashMap<[u8; 16], User>,
    /// Connections by the keys of their client ids.
    sessions: HashMap<[u8; 16], Until>,
    /// Revocations that were forgotten before their time, because there were too many.
    pub(super) forgotten: u64,
    /// When the last of what was forgotten since the log was read from its beginning ends, Unix ms.
    missing_until: Option<i64>,
    /// The first record that could not be read: nobody here knows how long it matters.
    unread: Option<u64>,
    max: usize,
    /// For how long something is remembered behind its end, in ms.
    grace_ms: i64,
}

impl RevokedSet {
    /// A set of at most `max` tokens, users and connections, each remembered `grace_ms` longer than
    /// it matters.
    pub(super) fn new(max: usize, grace_ms: i64) -> Self {
        Self {
            max,
            grace_ms,
            ..Self::default()
        }
    }

    /// Forgets everything, since the log is read from its beginning again. The count of what was
    /// forgotten before its time goes on.
    pub(super) fn clear(&mut self) {
        *self = Self {
            forgotten: self.forgotten,
            ..Self::new(self.max, self.grace_ms)
        };
    }

    /// Tokens, users and connections in it.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() + self.users.len() + self.sessions.len()
    }

    /// Whether this names a token, user or connection that has a place already, or needs none.
    pub(super) fn has_place_for(&self, revocation: &Revocation) -> bool {
        match revocation {
            Revocation::Token { id, .. } => {
                token_id(id).is_none_or(|id| self.tokens.contains_key(&id))
            }
            Revocation::UserTokens { user, .. } | Revocation::Block { user, .. } => {
                self.users.contains_key(&id_of_user(user))
            }
            Revocation::Unblock { .. } => true,
            Revocation::Session { client, .. } => self.sessions.contains_key(&id_of_client(client)),
        }
    }

    /// The record at `offset` can not be read.
    pub(super) fn could_not_read(&mut self, offset: u64) {
        self.unread.get_or_insert(offset);
    }

    /// Whether the set is all that the log says and is not over.
    pub(super) fn is_whole(&self) -> bool {
        self.unread.is_none() && self.missing_until.is_none()
    }

    /// The first record without which the log would not say all that is in here; `next` where all
    /// before that one can go.
    pub(super) fn first_needed(&self, next: u64) -> u64 {
        let users = self.users.values();
        let users = users.flat_map(|u| {
            u.tokens
                .map(|(_, until)| until)
                .into_iter()
                .chain(u.blocked)
        });
        let untils = self.tokens.values().chain(self.sessions.values()).copied();
        let needed = untils.chain(users).map(|until| until.offset);
        needed.chain(self.unread).min().unwrap_or(next)
    }

    /// What is to be written at the end of the log so that the record at `offset` is needed no
    /// more; `None`: it is not needed.
    pub(super) fn anew(&self, revocation: &Revocation, offset: u64) -> Option<Revocation> {
        let is_here = |until: &Until| until.offset == offset;
        match revocation {
            Revocation::Token { id, .. } => {
                let until = self.tokens.get(&token_id(id)?).filter(|u| is_here(u))?;
                Some(Revocation::Token {
                    id: id.clone(),
                    until: until.unix_ms,
                })
            }
            Revocation::UserTokens { user, .. } => {
                let (before, until) = self.users.get(&id_of_user(user))?.tokens?;
                is_here(&until).then(|| Revocation::UserTokens {
                    user: user.clone(),
                    before,
                    until: until.unix_ms,
                })
            }
            Revocation::Block { user, .. } => {
                let until = self.users.get(&id_of_user(user))?.blocked?;
                is_here(&until).then(|| Revocation::Block {
                    user: user.clone(),
                    until: (until.unix_ms < i64::MAX).then_some(until.unix_ms),
                })
            }
            Revocation::Unblock { .. } => None,
            Revocation::Session { client, .. } => {
                let until = self.sessions.get(&id_of_client(client));
                let until = until.filter(|u| is_here(u))?;
                Some(Revocation::Session {
                    client: client.clone(),
                    until: until.unix_ms,
                })
            }
        }
    }

    /// Takes in what the record at `offset` says.
    pub(super) fn apply(&mut self, revocation: &Revocation, offset: u64, unix_ms: i64) {
        let remembered = |until: i64| self.is_remembered(until, unix_ms);
        let until = |unix_ms: i64| Until { unix_ms, offset };
        let speaks = match revocation {
            Revocation::Token { until, .. }
            | Revocation::UserTokens { until, .. }
            | Revocation::Session { until, .. } => remembered(*until),
            Revocation::Block { .. } | Revocation::Unblock { .. } => true,
        };
        if !speaks {
            return;
        }
        if !self.has_place_for(revocation) {
            self.make_room(unix_ms);
        }
        match revocation {
            Revocation::Token { id, until: end } => {
                if let Some(id) = token_id(id) {
                    let known = self.tokens.entry(id).or_insert(until(*end));
                    known.prolong(until(*end));
                }
            }
            Revocation::UserTokens {
                user,
                before,
                until: end,
            } => {
                self.user(user).revoke_tokens(*before, until(*end));
            }
            Revocation::Block { user, until: end } => {
                let end = until(end.unwrap_or(i64::MAX));
                self.user(user).blocked = Some(end);
            }
            Revocation::Unblock { user } => {
                let id = id_of_user(user);
                if let Some(user) = self.users.get_mut(&id) {
                    user.blocked = None;
                    if user.tokens.is_none() {
                        self.users.remove(&id);
                    }
                }
            }
            Revocation::Session { client, until: end } => {
                let known = self.sessions.entry(id_of_client(client));
                known.or_insert(until(*end)).prolong(until(*end));
            }
        }
    }

    fn user(&mut self, user: &str) -> &mut User {
        self.users.entry(id_of_user(user)).or_default()
    }

    /// Makes room for another one.
    // overflow: what ends first is forgotten, counted and told: whoever writes revocations is
    // refused well before, so only very many writers that do not know of each other come here.
    fn make_room(&mut self, unix_ms: i64) {
        if self.len() < self.max {
            return;
        }
        let untils = self.tokens.values().chain(self.sessions.values());
        let mut ends: Vec<End> = untils.map(Until::end).collect();
        ends.extend(self.users.values().filter_map(User::end));
        if ends.is_empty() {
            return;
        }
        // A thousandth at once, so that the next ones cost nothing. No two have the same offset, so
        // no more go where many end together.
        let last = (self.max / 1_000).max(1).min(ends.len()) - 1;
        let (before, limit, _) = ends.select_nth_unstable(last);
        let limit = *limit;
        // What is over would have gone anyway.
        let going = before.iter().chain([&limit]);
        let missed = going.filter(|(until, _)| self.is_remembered(*until, unix_ms));
        self.forgotten += missed.count() as u64;
        if self.is_remembered(limit.0, unix_ms) {
            self.missing_until = self.missing_until.max(Some(limit.0));
        }
        self.tokens.retain(|_, until| until.end() > limit);
        self.sessions.retain(|_, until| until.end() > limit);
        self.users.retain(|_, user| user.end() > Some(limit));
    }

    /// Forgets what does not matter any more at `unix_ms`.
    pub(super) fn expire(&mut self, unix_ms: i64) {
        let end = unix_ms.saturating_sub(self.grace_ms);
        self.missing_until = self.missing_until.filter(|until| *until > end);
        self.forget_through(end);
    }

    /// Whether something that ends then is remembered.
    fn is_remembered(&self, until: i64, unix_ms: i64) -> bool {
        until > unix_ms.saturating_sub(self.grace_ms)
    }

    /// Forgets what ends at `end` or before.
    fn forget_through(&mut self, end: i64) {
        let stays = |until: &Until| until.unix_ms > end;
        self.tokens.retain(|_, until| stays(until));
        self.sessions.retain(|_, until| stays(until));
        self.users.retain(|_, user| {
            user.tokens = user.tokens.filter(|(_, until)| stays(until));
            user.blocked = user.blocked.filter(stays);
            user.tokens.is_some() || user.blocked.is_some()
        });
    }

    /// Whether this token, which is of the user with the key `user`, is taken back, alone or with
    /// others of the user.
    pub(super) fn has_token(&self, token: &TokenRef, user: &[u8; 16], unix_ms: i64) -> bool {
        let lasts = |until: &Until| until.unix_ms > unix_ms;
        if self.tokens.get(&token.id).is_some_and(lasts) {
            return true;
        }
        let Some(user) = self.users.get(user) else {
            return false;
        };
        let blocked = user.blocked.as_ref().is_some_and(lasts);
        let too_old = user.tokens.is_some_and(|(before, until)| {
            lasts(&until) && token.issued_unix_ms.is_none_or(|issued| issued < before)
        });
        blocked || too_old
    }

    /// Why a connection may not be, if it may not.
    pub(super) fn verdict(&self, identity: &Identity, unix_ms: i64) -> Option<Disconnect> {
        let lasts = |until: &Until| until.unix_ms > unix_ms;
        if self.sessions.get(&identity.client).is_some_and(lasts) {
            return Some(Disconnect::ForceDisconnect);
        }
        let token = TokenRef {
            id: identity.token?,
            issued_unix_ms: identity.issued_unix_ms,
        };
        let revoked = self.has_token(&token, &identity.user, unix_ms);
        revoked.then_some(Disconnect::InvalidToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn identity(token: u8, user: &str, issued: Option<i64>) -> Identity {
        Identity {
            token: Some([token; 16]),
            issued_unix_ms: issued,
            user: id_of_user(user),
            client: id_of_client("c"),
        }
    }

    fn set(revocations: &[Revocation]) -> RevokedSet {
        let mut set = RevokedSet::new(100, 0);
        for (revocation, offset) in revocations.iter().zip(1..) {
            set.apply(revocation, offset, NOW);
        }
        set
    }

    fn block(user: &str, until: Option<i64>) -> Revocation {
        Revocation::Block {
            user: user.to_owned(),
            until,
        }
    }

    #[test]
    fn tokens_until_they_have_expired() {
        let set = set(&[
            Revocation::of_token([1; 16], NOW + 10),
            Revocation::of_token([2; 16], NOW),
        ]);
        assert_eq!(set.len(), 1);
        let verdict = |token, at| set.verdict(&identity(token, "u", None), at);
        assert_eq!(verdict(1, NOW), Some(Disconnect::InvalidToken));
        assert_eq!(verdict(1, NOW + 10), None);
        assert_eq!(verdict(2, NOW), None);
        assert_eq!(verdict(3, NOW), None);
    }

    #[test]
    fn the_tokens_of_a_user_that_were_issued_before() {
        let records = [(500, NOW + 10), (400, NOW + 5)];
        let set = set(&records.map(|(before, until)| user_tokens("u", before, until)));
        let verdict = |user: &str, issued| set.verdict(&identity(1, user, issued), NOW);
        assert!(verdict("u", Some(499)).is_some());
        assert!(verdict("u", None).is_some(), "it does not say when");
        assert!(verdict("u", Some(500)).is_none());
        assert!(verdict("v", Some(1)).is_none());
        // Whatever they are for.
        let has = |user: &str, issued_unix_ms, at| {
            let id = [9; 16];
            let token = TokenRef { id, issued_unix_ms };
            set.has_token(&token, &id_of_user(user), at)
        };
        assert!(has("u", Some(499), NOW) && has("u", None, NOW));
        assert!(!has("u", Some(500), NOW) && !has("v", None, NOW));
        assert!(!has("u", Some(499), NOW + 10));
        assert!(set.verdict(&identity(1, "u", None), NOW + 10).is_none());
    }

    #[test]
    fn blocks_in_the_order_of_the_log() {
        let blocked = |revocations: &[Revocation]| {
            let found = set(revocations).verdict(&identity(1, "u", Some(NOW)), NOW);
            found.is_some()
        };
        let unblock = Revocation::Unblock {
            user: "u".to_owned(),
        };
        assert!(blocked(&[block("u", None)]));
        assert!(blocked(&[block("u", Some(NOW + 1))]));
        assert!(!blocked(&[block("u", Some(NOW))]));
        assert!(!blocked(&[block("v", None)]));
        assert!(!blocked(&[block("u", None), unblock.clone()]));
        assert!(blocked(&[
            block("u", None),
            unblock.clone(),
            block("u", None)
        ]));
        assert_eq!(set(&[block("u", None), unblock]).len(), 0);
    }

    #[test]
    fn connections_by_their_client_ids_with_and_without_a_token() {
        let session = |until| Revocation::Session {
            client: "c".to_owned(),
            until,
        };
        let set = set(&[session(NOW + 5), session(NOW + 3)]);
        assert_eq!(set.len(), 1);
        let mut one = identity(1, "u", None);
        for token in [Some([1; 16]), None] {
            one.token = token;
            let cut = Some(Disconnect::ForceDisconnect);
            assert_eq!(set.verdict(&one, NOW + 4), cut);
            assert_eq!(set.verdict(&one, NOW + 5), None);
        }
        one.client = id_of_client("other");
        assert_eq!(set.verdict(&one, NOW), None);
    }

    fn user_tokens(user: &str, before: i64, until: i64) -> Revocation {
        Revocation::UserTokens {
            user: user.to_owned(),
            before,
            until,
        }
    }

    #[test]
    fn the_first_record_that_is_needed_is_the_oldest_that_still_says_something() {
        let token = |n: u8, until| Revocation::of_token([n; 16], until);
        let unblock = |user: &str| Revocation::Unblock {
            user: user.to_owned(),
        };
        for (records, first) in [
            (vec![], 1),
            (vec![token(1, NOW)], 2),
            (vec![token(1, NOW), token(2, NOW + 1)], 2),
            // What is said again is needed where it was said last, if that says no less.
            (vec![token(1, NOW + 1), token(1, NOW + 1)], 2),
            (vec![token(1, NOW + 2), token(1, NOW + 1)], 1),
            (vec![block("u", None), block("u", None)], 2),
            (vec![block("u", None), unblock("u")], 3),
            (vec![block("u", None), unblock("v")], 1),
            (
                vec![user_tokens("u", 1, NOW + 1), user_tokens("u", 2, NOW + 1)],
                2,
            ),
            // Neither of two says all.
            (
                vec![user_tokens("u", 1, NOW + 9), user_tokens("u", 2, NOW + 1)],
                1,
            ),
            (vec![block("u", None), user_tokens("u", 2, NOW + 1)], 1),
        ] {
            let set = set(&records);
            let next = records.len() as u64 + 1;
            assert_eq!(set.first_needed(next), first, "{records:?}");
        }
        let mut unread = set(&[token(1, NOW), token(2, NOW)]);
        unread.could_not_read(2);
        unread.could_not_read(3);
        assert_eq!(unread.first_needed(4), 2);
        assert!(!unread.is_whole());
        unread.clear();
        assert!(unread.is_whole());
        assert_eq!(unread.first_needed(4), 4);
    }

    #[test]
    fn what_is_written_anew_takes_the_place_of_what_it_is_of() {
        let records = [
            Revocation::of_token([1; 16], NOW + 9),
            user_tokens("u", 5, NOW + 9),
            user_tokens("u", 7, NOW + 4),
            block("v", None),
            block("w", Some(NOW + 3)),
            Revocation::Session {
                client: "c".to_owned(),
                until: NOW + 2,
            },
            Revocation::Unblock {
                user: "x".to_owned(),
            },
            block("v", Some(NOW + 8)),
            block("gone", Some(NOW)),
        ];
        let mut all = set(&records);
        all.expire(NOW);
        let before = all.len();
        let mut next = records.len() as u64 + 1;
        let mut written = Vec::new();
        for (record, offset) in records.iter().zip(1..) {
            if let Some(anew) = all.anew(record, offset) {
                all.apply(&anew, next, NOW);
                written.push(anew);
                next += 1;
            }
        }
        assert_eq!(written.len(), 5, "{written:?}");
        assert!(all.first_needed(next) > records.len() as u64);
        assert_eq!(all.len(), before);
        // Who reads only what was written anew knows the same.
        let again = set(&written);
        for user in ["u", "v", "w", "x", "gone"] {
            for token in [1, 2] {
                for at in 0..10 {
                    for issued in [None, Some(4), Some(6), Some(7)] {
                        let mut who = identity(token, user, issued);
                        for client in ["c", "d"] {
                            who.client = id_of_client(client);
                            let verdict = all.verdict(&who, NOW + at);
                            assert_eq!(again.verdict(&who, NOW + at), verdict);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_ended_is_remembered_a_little_longer() {
        let mut set = RevokedSet::new(10, 5);
        let revocation = Revocation::of_token([1; 16], NOW);
        set.apply(&revocation, 1, NOW + 4);
        assert!(set.verdict(&identity(1, "u", None), NOW).is_none());
        set.expire(NOW + 4);
        assert_eq!(set.first_needed(2), 1);
        set.expire(NOW + 5);
        assert_eq!((set.len(), set.first_needed(2)), (0, 2));
        set.apply(&revocation, 1, NOW + 5);
        assert_eq!(set.len(), 0);
    }

    fn numbered(n: u32) -> [u8; 16] {
        u128::from(n).to_be_bytes()
    }

    #[test]
    fn the_set_is_bounded_and_forgets_what_ends_first_and_no_more_than_it_must() {
        let mut set = RevokedSet::new(100, 0);
        set.apply(&block("for good", None), 1, NOW);
        for n in 0..1_000_u32 {
            let revocation = Revocation::of_token(numbered(n), NOW + 1 + i64::from(n));
            set.apply(&revocation, u64::from(n) + 2, NOW);
            assert!(set.len() <= 100);
        }
        assert!(set.forgotten == 901 && !set.is_whole());
        assert!(set.verdict(&identity(9, "for good", None), NOW).is_some());
        for n in 0..1_000 {
            let token = Some(numbered(n));
            let who = Identity {
                token,
                ..identity(0, "u", None)
            };
            assert_eq!(set.verdict(&who, NOW).is_some(), n >= 901, "{n}");
        }
        // What was forgotten is over by then: nothing is missing any more.
        set.expire(NOW + 900);
        assert!(!set.is_whole());
        set.expire(NOW + 901);
        assert!(set.is_whole() && set.forgotten == 901);
    }

    #[test]
    fn of_many_that_end_together_only_the_oldest_goes() {
        let mut set = RevokedSet::new(100, 0);
        for n in 0..100 {
            set.apply(&block(&format!("u{n}"), None), n + 1, NOW);
        }
        assert!(set.is_whole());
        set.apply(&block("last", None), 101, NOW);
        let blocked = |set: &RevokedSet, user: &str| {
            let verdict = set.verdict(&identity(1, user, Some(NOW)), NOW);
            verdict.is_some()
        };
        assert_eq!((set.len(), set.forgotten), (100, 1));
        for n in 0..100 {
            assert_eq!(blocked(&set, &format!("u{n}")), n > 0, "{n}");
        }
        assert!(blocked(&set, "last"));
        // What is missing is so for good, until the log is read again.
        set.expire(i64::MAX - 1);
        assert!(!set.is_whole());
        set.clear();
        assert!(set.is_whole());
        assert_eq!(set.forgotten, 1, "a count never goes back");
    }

    #[test]
    fn what_is_known_needs_no_room_when_it_is_said_again() {
        let session = |client: u64, until| Revocation::Session {
            client: client.to_string(),
            until,
        };
        let mut set = RevokedSet::new(40, 0);
        let known: Vec<Revocation> = (0..10)
            .flat_map(|n| {
                [
                    Revocation::of_token([n; 16], NOW + 5),
                    block(&format!("b{n}"), None),
                    user_tokens(&format!("t{n}"), 1, NOW + 5),
                    session(n.into(), NOW + 5),
                ]
            })
            .collect();
        for (revocation, offset) in known.iter().zip(1..) {
            set.apply(revocation, offset, NOW);
        }
        assert_eq!(set.len(), 40);
        for (revocation, offset) in known.iter().zip(41..) {
            assert!(set.has_place_for(revocation));
            set.apply(revocation, offset, NOW);
        }
        // Nor what is over, or names a user that is not known.
        set.apply(&Revocation::of_token([99; 16], NOW), 81, NOW);
        let unblock = Revocation::Unblock {
            user: "nobody".to_owned(),
        };
        set.apply(&unblock, 82, NOW);
        assert_eq!((set.len(), set.forgotten), (40, 0));
        assert!(set.is_whole());
        // What is over makes room, and nothing is missing for it.
        set.apply(&session(10, NOW + 9), 83, NOW + 5);
        assert_eq!(set.forgotten, 0);
    }
}
