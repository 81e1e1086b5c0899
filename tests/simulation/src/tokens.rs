//! Tokens: what an application signs for the clients of this world, how long they last, and what
//! verifiers say of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use gb6_core_model::{Caps, Channel, InstanceId};
use gb6_edge_session::{Claims, SubscriptionClaims, SubscriptionGrant, TokenError};

use crate::client::Way;
use crate::world::{Event, World};

impl World {
    /// A connection token was shown.
    pub(crate) fn verify(&mut self, edge: usize, connection: u64, request: u32, user: String) {
        let client = self.clients.iter().find(|c| c.user == user);
        let rooms = client.filter(|c| c.way == Way::Granted).map(|c| &c.rooms);
        let grant = |room: &String| (room.clone(), SubscriptionGrant::default());
        let subscriptions: BTreeMap<String, SubscriptionGrant> =
            rooms.into_iter().flatten().map(grant).collect();
        let result = self.verdict().map(|expires_unix_ms| Claims {
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
        let verified = Event::Verified {
            edge,
            connection,
            request,
            channel,
        };
        self.soon(0, 300, verified);
    }

    /// The verdict about a subscription token.
    pub(crate) fn verified(
        &mut self,
        edge: usize,
        connection: u64,
        request: u32,
        channel: &Channel,
    ) {
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
                token: [0; 16],
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
