//! What is revoked in one instance: compact, bounded, and in the order of the log.

use std::collections::{HashMap, HashSet};

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

/// What is revoked of a user.
#[derive(Clone, Copy, Default)]
struct User {
    /// Tokens issued before are not valid, and until when that matters, Unix ms.
    tokens: Option<(i64, i64)>,
    /// Blocked until then, Unix ms; `i64::MAX`: for good.
    blocked_until: Option<i64>,
}

impl User {
    fn matters_until(&self) -> i64 {
        let tokens = self.tokens.map_or(i64::MIN, |(_, until)| until);
        tokens.max(self.blocked_until.unwrap_or(i64::MIN))
    }
}

/// The revocations of one instance.
#[derive(Default)]
pub(super) struct RevokedSet {
    tokens: HashMap<[u8; 16], i64>,
    users: HashMap<[u8; 16], User>,
    /// Revocations that were forgotten before their time, because there were too many.
    pub(super) forgotten: u64,
    max: usize,
}

impl RevokedSet {
    /// A set of at most `max` tokens and users.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    /// Tokens and users in it.
    pub(super) fn len(&self) -> usize {
        self.tokens.len() + self.users.len()
    }

    /// Whether another one needs the place of one that is known.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.max
    }

    /// Takes in what `revocation` says. Connections that it cuts off by their client id are added to
    /// `clients`.
    pub(super) fn apply(
        &mut self,
        revocation: &Revocation,
        unix_ms: i64,
        clients: &mut HashSet<[u8; 16]>,
    ) {
        match revocation {
            Revocation::Token { id, until } => {
                if let Some(id) = token_id(id).filter(|_| *until > unix_ms) {
                    self.make_room(unix_ms);
                    let known = self.tokens.entry(id).or_insert(*until);
                    *known = (*known).max(*until);
                }
            }
            Revocation::UserTokens {
                user,
                before,
                until,
            } => {
                let user = self.user(user, unix_ms);
                let (known, known_until) = user.tokens.unwrap_or((i64::MIN, i64::MIN));
                user.tokens = Some((known.max(*before), known_until.max(*until)));
            }
            Revocation::Block { user, until } => {
                self.user(user, unix_ms).blocked_until = Some(until.unwrap_or(i64::MAX));
            }
            Revocation::Unblock { user } => {
                let id = id_of_user(user);
                if let Some(user) = self.users.get_mut(&id) {
                    user.blocked_until = None;
                    if user.tokens.is_none() {
                        self.users.remove(&id);
                    }
                }
            }
            Revocation::Session { client } => {
                clients.insert(id_of_client(client));
            }
        }
    }

    fn user(&mut self, user: &str, unix_ms: i64) -> &mut User {
        self.make_room(unix_ms);
        self.users.entry(id_of_user(user)).or_default()
    }

    /// Forgets what has expired, and where that is not enough what expires first.
    // overflow: what expires first is forgotten, counted and told: whoever writes revocations is
    // refused before, so only writers that did not know of each other come here.
    fn make_room(&mut self, unix_ms: i64) {
        if !self.is_full() {
            return;
        }
        self.expire(unix_ms);
        if !self.is_full() {
            return;
        }
        let mut ends: Vec<i64> = self.tokens.values().copied().collect();
        ends.extend(self.users.values().map(User::matters_until));
        // A tenth at once, so that the next ones cost nothing.
        let nth = (ends.len() / 10).min(ends.len().saturating_sub(1));
        let before = self.len();
        if !ends.is_empty() {
            let (_, limit, _) = ends.select_nth_unstable(nth);
            self.expire(*limit);
        }
        self.forgotten += (before - self.len()) as u64;
    }

    /// Forgets what does not matter any more at `unix_ms`.
    pub(super) fn expire(&mut self, unix_ms: i64) {
        self.tokens.retain(|_, until| *until > unix_ms);
        self.users.retain(|_, user| user.matters_until() > unix_ms);
    }

    /// Whether this token is taken back.
    pub(super) fn has_token(&self, id: &[u8; 16], unix_ms: i64) -> bool {
        self.tokens.get(id).is_some_and(|until| *until > unix_ms)
    }

    /// Why a connection may not be, if it may not.
    pub(super) fn verdict(&self, identity: &Identity, unix_ms: i64) -> Option<Disconnect> {
        let token = identity.token?;
        if self.has_token(&token, unix_ms) {
            return Some(Disconnect::InvalidToken);
        }
        let user = self.users.get(&identity.user)?;
        let blocked = user.blocked_until.is_some_and(|until| until > unix_ms);
        let too_old = user.tokens.is_some_and(|(before, until)| {
            until > unix_ms && identity.issued_unix_ms.is_none_or(|issued| issued < before)
        });
        (blocked || too_old).then_some(Disconnect::InvalidToken)
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
        let mut set = RevokedSet::new(100);
        for revocation in revocations {
            set.apply(revocation, NOW, &mut HashSet::new());
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
        let of = |before, until| Revocation::UserTokens {
            user: "u".to_owned(),
            before,
            until,
        };
        let set = set(&[of(500, NOW + 10), of(400, NOW + 5)]);
        let verdict = |user: &str, issued| set.verdict(&identity(1, user, issued), NOW);
        assert!(verdict("u", Some(499)).is_some());
        assert!(verdict("u", None).is_some(), "it does not say when");
        assert!(verdict("u", Some(500)).is_none());
        assert!(verdict("v", Some(1)).is_none());
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
    fn sessions_are_cut_and_not_remembered() {
        let mut clients = HashSet::new();
        let mut set = RevokedSet::new(10);
        let session = Revocation::Session {
            client: "c".to_owned(),
        };
        set.apply(&session, NOW, &mut clients);
        assert!(clients.contains(&id_of_client("c")));
        assert_eq!(set.len(), 0);
    }

    #[test]
    fn the_set_is_bounded_and_forgets_what_expires_first() {
        let mut set = RevokedSet::new(100);
        let nothing = &mut HashSet::new();
        set.apply(&block("for good", None), NOW, nothing);
        for n in 0..1_000_u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            let revocation = Revocation::of_token(id, NOW + 1 + i64::from(n));
            set.apply(&revocation, NOW, nothing);
            assert!(set.len() <= 100);
        }
        assert!(set.forgotten >= 900);
        assert!(set.verdict(&identity(9, "for good", None), NOW).is_some());
        let mut last = [0; 16];
        last[..4].copy_from_slice(&999_u32.to_be_bytes());
        assert!(set.has_token(&last, NOW));
    }
}
