//! Tokens: what an application signs for the clients of this world, how long they last, and what
//! verifiers say of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::hash::digest128;
use gb6_core_model::{Caps, Channel, InstanceId};
use gb6_edge_session::{
    Claims, Identity, SubscriptionClaims, SubscriptionGrant, TokenError, TokenRef, id_of_client,
    id_of_user,
};

use crate::client::Way;
use crate::world::{Event, World, client_id};

/// A connection token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) user: String,
    /// When it was issued, Unix ms.
    pub(crate) issued: i64,
}

impl Token {
    /// What the client shows.
    pub(crate) fn text(&self) -> String {
        format!("{}@{}", self.user, self.issued)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (user, issued) = text.split_once('@')?;
        Some(Self {
            user: user.to_owned(),
            issued: issued.parse().ok()?,
        })
    }

    /// The key by which revocations name it.
    pub(crate) fn key(&self) -> [u8; 16] {
        digest128(&[b"token", self.text().as_bytes()])
    }

    /// By what the connection that showed it can be cut off.
    pub(crate) fn identity(&self, connection: u64) -> Identity {
        Identity {
            token: Some(self.key()),
            issued_unix_ms: Some(self.issued),
            user: id_of_user(&self.user),
            client: id_of_client(&client_id(connection)),
        }
    }
}

impl World {
    /// What follows from a connection token, for whose connection is named by it from here on.
    pub(crate) fn judge(&mut self, edge: usize, connection: u64, request: u32, token: Token) {
        let (unix_ms, user) = (self.unix(), token.user.clone());
        let verdict = self.verdict();
        let Some(running) = &mut self.edges[edge].up else {
            return;
        };
        let Some(connected) = running.sessions.get_mut(&connection) else {
            return;
        };
        let identity = token.identity(connection);
        connected.token = Some(token);
        let revoked = running.following.follower.verdict(&identity, unix_ms);
        let verdict = match revoked {
            Some(_) => Err(TokenError::Invalid),
            None => verdict,
        };
        let client = self.clients.iter().find(|c| c.user == user);
        let rooms = client.filter(|c| c.way == Way::Granted).map(|c| &c.rooms);
        let grant = |room: &String| (room.clone(), SubscriptionGrant::default());
        let subscriptions: BTreeMap<String, SubscriptionGrant> =
            rooms.into_iter().flatten().map(grant).collect();
        let result = verdict.map(|expires_unix_ms| Claims {
            instance: InstanceId::from("demo"),
            user,
            info: Bytes::new(),
            caps: Caps(None),
            expires_unix_ms,
            subscriptions,
            data: Bytes::new(),
            meta: Bytes::new(),
            client_refreshes: true,
        });
        self.with_session(edge, connection, |session, cx, out| {
            session.verified(cx, request, result, out);
        });
    }

    /// A subscription token was shown: its key has to be fetched, so the verdict comes later.
    pub(crate) fn verify_subscription(
        &mut self,
        edge: usize,
        connection: u64,
        request: u32,
        channel: Channel,
    ) {
        let proven = Event::Proven {
            edge,
            connection,
            request,
            channel,
        };
        self.soon(0, 300, proven);
    }

    /// The verdict about a subscription token.
    pub(crate) fn proven(&mut self, edge: usize, connection: u64, request: u32, channel: &Channel) {
        let verdict = self.verdict();
        self.with_session(edge, connection, |session, cx, out| {
            let user = session.identity().map_or("", |(_, user)| user).to_owned();
            let result = verdict.map(|expires_unix_ms| SubscriptionClaims {
                instance: InstanceId::from("demo"),
                user,
                channel: channel.as_str().to_owned(),
                client: None,
                grant: SubscriptionGrant {
                    expires_unix_ms,
                    ..SubscriptionGrant::default()
                },
                token: TokenRef {
                    id: [0; 16],
                    issued_unix_ms: None,
                },
            });
            session.subscription_verified(cx, request, result, out);
        });
    }

    /// When a token expires, Unix ms, if it is good. In the end they all are, for ever.
    fn verdict(&mut self) -> Result<Option<i64>, TokenError> {
        if self.calm {
            return Ok(None);
        }
        if self.rng.one_in(12) {
            return Err(TokenError::Expired);
        }
        if self.rng.one_in(20) {
            return Err(TokenError::Unavailable);
        }
        let lasts = self.rng.range(1_500, 6_000) as i64;
        Ok(self.rng.percent(60).then(|| self.unix() + lasts))
    }
}
