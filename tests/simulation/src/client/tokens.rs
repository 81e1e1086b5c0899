//! The tokens of a client: the application issues them, they are renewed in time or forgotten, and
//! asked for anew where they are refused.

use bytes::Bytes;
use gb6_core_wire::client::Reply;
use serde_json::json;

use super::{Client, Wish};
use crate::tokens::Token;
use crate::world::unix_of;

impl Client {
    /// The application issues a token.
    pub(super) fn fresh_token(&mut self, now: u64) -> String {
        let token = Token {
            user: self.user.clone(),
            issued: unix_of(now),
        };
        self.token.insert(token).text()
    }

    /// Its token is good no longer: the application is asked for another.
    pub(crate) fn refused(&mut self) {
        self.token = None;
    }

    /// Renews tokens that expire, most of them.
    pub(super) fn renew(&mut self, now: u64) -> Vec<Wish> {
        let due = self.renew_at.iter().filter(|(_, at)| **at <= now);
        let due: Vec<Option<String>> = due.map(|(what, _)| what.clone()).collect();
        let mut wishes = Vec::new();
        for what in due {
            self.renew_at.remove(&what);
            self.renewals += 1;
            if self.renewals.is_multiple_of(4) {
                // Forgotten: the server ends what it was for.
                continue;
            }
            let body = match &what {
                None => json!({"refresh": {"token": self.fresh_token(now)}}),
                Some(room) => json!({"sub_refresh": {"channel": room, "token": self.user}}),
            };
            let (id, line) = self.command(body);
            self.renewing.insert(id, what);
            wishes.push(Wish::Send(Bytes::from(line)));
        }
        wishes
    }

    /// A token lasts so long.
    pub(super) fn lasts(&mut self, now: u64, what: Option<String>, expires: bool, ttl: u32) {
        assert_eq!(expires, ttl > 0, "{}: {what:?}", self.user);
        if expires {
            self.renew_at.insert(what, now + u64::from(ttl) * 1000);
        }
    }

    pub(super) fn renewed(&mut self, now: u64, what: Option<String>, reply: &Reply) {
        self.renewed += u64::from(reply.error.is_none());
        if let Some(result) = &reply.refresh {
            return self.lasts(now, what, result.expires, result.ttl);
        }
        if let Some(result) = &reply.sub_refresh {
            return self.lasts(now, what, result.expires, result.ttl);
        }
        match reply.error.as_ref().map(|e| e.code) {
            // It could not be verified: again, soon.
            Some(100) => {
                self.renew_at.insert(what, now + 500);
            }
            // It had expired, or the subscription has: a push has said so.
            Some(103 | 109) => {}
            _ => panic!("{}: {reply:?}", self.user),
        }
    }
}
