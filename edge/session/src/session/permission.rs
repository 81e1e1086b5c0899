//! Whether a session may do a thing in a channel: name, namespace, switches, capabilities.

use gb6_core_model::snapshot::{Namespace, Snapshot, Who};
use gb6_core_model::{Allow, Caps, Channel, ErrorCode, InstanceId};

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) instance: &'a InstanceId,
    pub(super) user: &'a str,
    pub(super) caps: &'a Caps,
}

impl Asker<'_> {
    /// The channel and its rules, if this session may do `what` there. Errors: 107 no channel
    /// name, 103 restricted by its name or not allowed, 102 no such namespace, 108 not offered.
    pub(super) fn may<'s>(
        &self,
        snapshot: &'s Snapshot,
        name: &str,
        what: Allow,
    ) -> Result<(Channel, &'s Namespace), ErrorCode> {
        let channel = Channel::parse(name).map_err(|_| ErrorCode::BadRequest)?;
        // Such names need a proof of their own, which connection tokens do not carry.
        if channel.is_restricted() {
            return Err(ErrorCode::PermissionDenied);
        }
        let namespace = snapshot.namespace(self.instance, &channel)?;
        let (offered, who) = match what {
            Allow::Subscribe => (true, namespace.allow_subscribe),
            Allow::Publish => (true, namespace.allow_publish),
            Allow::Presence => (namespace.presence, namespace.allow_presence),
            Allow::History => (true, namespace.allow_history),
        };
        if !offered {
            return Err(ErrorCode::NotAvailable);
        }
        let member = match &self.caps.0 {
            Some(_) => self.caps.allows(name, what),
            None => !self.user.is_empty(),
        };
        match who {
            Who::Anyone => Ok((channel, namespace)),
            Who::Member if member => Ok((channel, namespace)),
            Who::Member | Who::Token | Who::Nobody => Err(ErrorCode::PermissionDenied),
        }
    }
}
