//! Whether a session may do a thing in a channel: name, namespace, switches, capabilities, tokens.

use gb6_core_model::prefix::{self, PrefixError};
use gb6_core_model::snapshot::{ChannelKind, Namespace, Snapshot, Who};
use gb6_core_model::{Allow, Caps, Channel, ErrorCode, InstanceId, limits};

use super::subscription::Subscription;

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) instance: &'a InstanceId,
    pub(super) user: &'a str,
    pub(super) caps: &'a Caps,
    /// What it holds, ascending by name.
    pub(super) subscriptions: &'a [Subscription],
}

impl Asker<'_> {
    /// The channel and its rules, if this session may do `what` there. Errors: 107 no channel
    /// name, 103 the server's own, for others, or not allowed, 102 no such namespace, 108 not
    /// offered.
    pub(super) fn may<'s>(
        &self,
        snapshot: &'s Snapshot,
        name: &str,
        what: Allow,
    ) -> Result<(Channel, &'s Namespace), ErrorCode> {
        let (channel, namespace) = known(snapshot, self.instance, name)?;
        // It stands for channels, and is none.
        if prefix_in(&channel, namespace).is_some() {
            return Err(ErrorCode::BadRequest);
        }
        let held = || {
            let by_name = |s: &Subscription| s.channel.as_str().cmp(channel.as_str());
            let at = self.subscriptions.binary_search_by(by_name);
            at.is_ok_and(|at| self.subscriptions[at].is_proof())
        };
        self.allowed(&channel, namespace, what, held)?;
        Ok((channel, namespace))
    }

    /// The same for a subscribe, where `token` says whether one for this channel comes with it.
    pub(super) fn may_subscribe<'s>(
        &self,
        snapshot: &'s Snapshot,
        name: &str,
        token: bool,
    ) -> Result<(Channel, &'s Namespace), ErrorCode> {
        let (channel, namespace) = known(snapshot, self.instance, name)?;
        match prefix_in(&channel, namespace) {
            Some(prefix) => self.may_follow(prefix, namespace, token)?,
            None => self.allowed(&channel, namespace, Allow::Subscribe, || token)?,
        }
        Ok((channel, namespace))
    }

    /// Whether this session may follow a prefix, which says nothing of single channels.
    fn may_follow(&self, prefix: &str, rules: &Namespace, token: bool) -> Result<(), ErrorCode> {
        let covered = self.caps.allow_prefix(prefix);
        let member = covered && (self.caps.0.is_some() || !self.user.is_empty());
        let allowed = match rules.allow_prefix {
            Who::Anyone => true,
            Who::Member => member || token,
            Who::Token => token,
            Who::Nobody => false,
        };
        if !allowed {
            return Err(ErrorCode::PermissionDenied);
        }
        let mine = self
            .subscriptions
            .iter()
            .filter(|s| s.following().is_some());
        match mine.count() >= limits::PREFIXES_SESSION_MAX {
            true => Err(ErrorCode::LimitExceeded),
            false => Ok(()),
        }
    }

    fn allowed(
        &self,
        channel: &Channel,
        rules: &Namespace,
        what: Allow,
        proven: impl Fn() -> bool,
    ) -> Result<(), ErrorCode> {
        if !channel.admits(self.user) {
            return Err(ErrorCode::PermissionDenied);
        }
        let (offered, who) = match what {
            Allow::Subscribe => (true, rules.allow_subscribe),
            Allow::Publish => (true, rules.allow_publish),
            Allow::Presence => (rules.presence, rules.allow_presence),
            // Signals are kept nowhere.
            Allow::History => (rules.kind != ChannelKind::Signal, rules.allow_history),
        };
        if !offered {
            return Err(ErrorCode::NotAvailable);
        }
        let member = match &self.caps.0 {
            Some(_) => self.caps.allows(channel.as_str(), what),
            None => !self.user.is_empty(),
        };
        // Being on the list of a channel's name is as good as a token for it.
        let proof = || channel.is_user_limited() || proven();
        let allowed = match who {
            Who::Anyone => true,
            Who::Member if what == Allow::Subscribe => member || proof(),
            Who::Member => member,
            Who::Token => proof(),
            Who::Nobody => false,
        };
        match allowed && (!channel.is_private() || proven()) {
            true => Ok(()),
            false => Err(ErrorCode::PermissionDenied),
        }
    }
}

/// A channel that may be named from outside, with its rules: 107, 103 for the server's own, 102; and
/// 107 or 103 for what ends like a prefix and is none.
pub(super) fn known<'s>(
    snapshot: &'s Snapshot,
    instance: &InstanceId,
    name: &str,
) -> Result<(Channel, &'s Namespace), ErrorCode> {
    let channel = Channel::parse(name).map_err(|_| ErrorCode::BadRequest)?;
    if channel.is_system() {
        return Err(ErrorCode::PermissionDenied);
    }
    let namespace = snapshot.namespace(instance, &channel)?;
    if let Some(Err(why)) = prefix_of(&channel, namespace) {
        return Err(match why {
            PrefixError::Reserved => ErrorCode::PermissionDenied,
            PrefixError::Short | PrefixError::Mark => ErrorCode::BadRequest,
        });
    }
    Ok((channel, namespace))
}

/// The prefix that a channel's name stands for, where its namespace has prefixes: one that ends in
/// `*` there is a prefix, or nothing.
fn prefix_of<'c>(channel: &'c Channel, rules: &Namespace) -> Option<Result<&'c str, PrefixError>> {
    let offered = rules.allow_prefix != Who::Nobody && channel.namespace().is_some();
    prefix::prefix_of(channel.as_str()).filter(|_| offered)
}

/// The prefix that a name stands for of which it is known that it may be named.
pub(super) fn prefix_in<'c>(channel: &'c Channel, rules: &Namespace) -> Option<&'c str> {
    prefix_of(channel, rules)?.ok()
}
