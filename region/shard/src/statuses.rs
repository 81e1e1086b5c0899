//! Statuses of users: when one was online and active last, and what it says of itself. The machine knows
//! who is here and says so as it changes; the driver keeps the rest, outside of the log, and answers. Only
//! users of instances that keep statuses are told of.

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{ErrorCode, limits};
use gb6_core_wire::mesh::{EdgeFrame, RefusedReason, UserStatusAnswer, UserStatusQuery};

use crate::machine::{LinkId, Output, Shard};

/// What is wanted of the status of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusAsked {
    /// The link on which the answer goes back.
    pub link: LinkId,
    /// The question.
    pub query: UserStatusQuery,
    /// Whether some edge has sessions of the user.
    pub here: bool,
    /// How long its instance keeps statuses, in ms.
    pub ttl_ms: u64,
}

impl StatusAsked {
    /// The user that it is about.
    pub fn user(&self) -> &str {
        self.query
            .room
            .channel
            .strip_prefix('#')
            .unwrap_or_default()
    }
}

impl Shard {
    /// Hands a question to the driver, unless it makes no sense here.
    pub(crate) fn user_status(&mut self, link: LinkId, query: UserStatusQuery) {
        let user = query.room.channel.strip_prefix('#').unwrap_or_default();
        let bounded = query.room.channel.len() <= limits::CHANNEL_BYTES_MAX
            && query.state.len() <= limits::USER_STATE_BYTES_MAX;
        if user.is_empty() || !bounded {
            return self.refuse(link, RefusedReason::Violation, "a status out of bounds");
        }
        let here = self.users.find(&query.room.instance, user).is_some();
        match self.may_keep_status(&query) {
            Ok(ttl_ms) => self.out.push_back(Output::Status(Box::new(StatusAsked {
                link,
                query,
                here,
                ttl_ms,
            }))),
            Err(code) => {
                let refused = UserStatusAnswer {
                    request: query.request,
                    error: code.code(),
                    ..UserStatusAnswer::default()
                };
                self.send(link, EdgeFrame::UserStatusAnswer(refused));
            }
        }
    }

    fn may_keep_status(&self, query: &UserStatusQuery) -> Result<u64, ErrorCode> {
        if self.serving.is_none() {
            return Err(ErrorCode::OwnerMoving);
        }
        let (room, epoch) = (&query.room, query.instance_epoch);
        let here = Some(&self.config.shard);
        self.ownership.check(room, epoch, &self.snapshot, here)?;
        match ttl_ms(&self.snapshot, &room.instance) {
            0 => Err(ErrorCode::NotAvailable),
            ttl_ms => Ok(ttl_ms),
        }
    }

    /// A user's first edge has come, or its last one has gone.
    pub(crate) fn user_is_here(&mut self, instance: &str, user: &str, here: bool) {
        let ttl_ms = ttl_ms(&self.snapshot, instance);
        if ttl_ms > 0 {
            self.out.push_back(Output::UserHere {
                instance: instance.to_owned(),
                user: user.to_owned(),
                here,
                ttl_ms,
            });
        }
    }

    /// With another snapshot other instances may keep statuses: who is here counts as having come, or
    /// gone.
    pub(crate) fn statuses_anew(&mut self, before: &Snapshot) {
        let mut told = Vec::new();
        let after = self.snapshot.instances.keys();
        let gone = before.instances.keys();
        let gone = gone.filter(|id| !self.snapshot.instances.contains_key(*id));
        for id in after.chain(gone) {
            let ttl_ms = |snapshot| ttl_ms(snapshot, id.as_str());
            let (ttl_ms, before) = (ttl_ms(&self.snapshot), ttl_ms(before));
            let here = ttl_ms > 0;
            if here == (before > 0) {
                continue;
            }
            told.extend(self.users.of(id.as_str()).map(|user| Output::UserHere {
                instance: id.as_str().to_owned(),
                user: user.as_ref().to_owned(),
                here,
                ttl_ms,
            }));
        }
        self.out.extend(told);
    }
}

/// How long an instance keeps statuses, in ms; 0: it does not.
fn ttl_ms(snapshot: &Snapshot, instance: &str) -> u64 {
    let instance = snapshot.instances.get(instance);
    instance.map_or(0, |instance| instance.user_status_ttl_ms)
}
