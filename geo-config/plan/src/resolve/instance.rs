//! Instances: their slots, limits and namespaces.

use std::collections::BTreeSet;

use gb6_core_model::ids::SLOT_COUNT;
use gb6_core_model::snapshot::{ChannelKind, CommandRate, Instance, Namespace, Who};
use gb6_core_model::{InstanceEpoch, InstanceId, Slot, limits};
use toml::Spanned;

use super::address::{is_host, is_origin};
use super::{Resolver, names};
use crate::file::{
    COMMAND_RATE_DEFAULT, CONNECTIONS_MAX_MAX, CommandRateFile, DEDUPE_FIELD_BYTES_MAX,
    InstanceFile, JOIN_LEAVE_MAX_MAX, MESSAGE_BYTES_MAX, NamespaceFile, PUBLISH_DEBOUNCE_MAX,
    SUBSCRIPTIONS_MAX_MAX, SlotsFile, USER_STATUS_TTL_MS_MIN,
};
use crate::slots::choose_slots;

impl Resolver<'_> {
    pub(super) fn instance(
        &mut self,
        name: &Spanned<String>,
        instance: &InstanceFile,
        secret_of: &mut impl FnMut(&str) -> Result<String, String>,
    ) -> Instance {
        let path = format!("instances.{}", name.get_ref());
        self.label(name, &path, "instance");
        let region = self.region_of(name, &path, instance);
        let hosts = self.hosts_of(name.get_ref(), &path, instance);

        let epoch = match &instance.epoch {
            Some(epoch) => {
                self.within(
                    epoch,
                    &format!("{path}.epoch"),
                    *epoch.get_ref(),
                    1,
                    i64::MAX as u64,
                );
                *epoch.get_ref()
            }
            None => 1,
        };
        let subscriptions_max = match &instance.subscriptions_max {
            Some(max) => {
                let path = format!("{path}.subscriptions_max");
                self.within(max, &path, *max.get_ref(), 1, SUBSCRIPTIONS_MAX_MAX);
                *max.get_ref() as usize
            }
            None => limits::SUBSCRIPTIONS_MAX,
        };
        let connections_max = instance.connections_max.as_ref().and_then(|max| {
            let path = format!("{path}.connections_max");
            self.within(max, &path, *max.get_ref(), 0, CONNECTIONS_MAX_MAX);
            (*max.get_ref() > 0).then_some(*max.get_ref() as usize)
        });
        let command_rate = match &instance.command_rate {
            None => Some(COMMAND_RATE_DEFAULT),
            Some(rate) => self.rate(rate, &format!("{path}.command_rate")),
        };
        let shared_rate = |r: &mut Self, key: &str, rate: &Option<Spanned<CommandRateFile>>| {
            let rate = rate.as_ref()?;
            r.rate(rate, &format!("{path}.{key}"))
        };
        let user_command_rate = shared_rate(self, "user_command_rate", &instance.user_command_rate);
        let instance_command_rate = shared_rate(
            self,
            "instance_command_rate",
            &instance.instance_command_rate,
        );
        for origin in &instance.allowed_origins {
            if !is_origin(origin.get_ref()) {
                self.wrong_with(
                    origin,
                    &format!("{path}.allowed_origins"),
                    format!("`{}` is no origin", origin.get_ref()),
                    "as in \"https://chat.example.org\", in lower case and without a path".into(),
                );
            }
        }
        let personal_channel = instance.personal_channel.as_ref();
        if let Some(on) = personal_channel.filter(|on| *on.get_ref() && instance.defaults.is_none())
        {
            self.wrong_with(
                on,
                &format!("{path}.personal_channel"),
                "a channel `#user` stands outside every namespace, and this instance has no rules for such channels".into(),
                format!("add a table [{path}.defaults]"),
            );
        }
        let user_status_ttl_ms = instance.user_status_ttl.as_ref().map_or(0, |ttl| {
            let ms = ttl.get_ref().0;
            if ms > 0 {
                let (path, most) = (
                    format!("{path}.user_status_ttl"),
                    limits::USER_STATUS_TTL_MS_MAX,
                );
                self.within(ttl, &path, ms, USER_STATUS_TTL_MS_MIN, most);
            }
            ms
        });
        if let Some(rules) = &instance.defaults
            && rules.get_ref().allow_prefix != Who::Nobody
        {
            self.wrong(
                rules,
                &format!("{path}.defaults.allow_prefix"),
                "channels outside every namespace have no prefixes",
            );
        }
        self.statuses_to_tell(&path, instance, user_status_ttl_ms > 0);
        let keys = self.keys(name, &path, instance, secret_of);
        let webhooks = self.webhooks(&path, instance, secret_of);
        let proxies = self.proxies(&path, instance);
        let namespaces = instance
            .namespaces
            .iter()
            .map(|(namespace, rules)| {
                let path = format!("{path}.namespaces.{}", namespace.get_ref());
                let rules = self.namespace(namespace, &path, rules.get_ref());
                (namespace.get_ref().clone(), rules)
            })
            .collect();
        Instance {
            region,
            hosts,
            epoch: InstanceEpoch(epoch),
            slots: self.slots(name, &path, instance),
            keys,
            jwks_url: self.jwks_url(&path, instance),
            token_audience: self.claim(&path, "token_audience", &instance.token_audience),
            token_issuer: self.claim(&path, "token_issuer", &instance.token_issuer),
            namespaces,
            defaults: instance
                .defaults
                .as_ref()
                .map(|rules| self.rules(rules, &format!("{path}.defaults"), rules.get_ref())),
            anonymous: instance
                .anonymous
                .as_ref()
                .map(|a| a.get_ref().clone())
                .unwrap_or_default(),
            personal_channel: personal_channel.is_some_and(|on| *on.get_ref()),
            user_status_ttl_ms,
            allowed_origins: instance
                .allowed_origins
                .iter()
                .map(|o| o.get_ref().clone())
                .collect(),
            command_rate,
            user_command_rate,
            instance_command_rate,
            subscriptions_max,
            connections_max,
            webhooks,
            proxies,
        }
    }

    /// A rate of commands; `None`: no limit.
    fn rate(&mut self, rate: &Spanned<CommandRateFile>, path: &str) -> Option<CommandRate> {
        let CommandRateFile::Limited(limit) = *rate.get_ref() else {
            return None;
        };
        if limit.per_second == 0 || limit.burst == 0 {
            let key = path.rsplit('.').next().unwrap_or(path);
            self.wrong_with(
                rate,
                path,
                "a rate or burst of 0 would let no command through".into(),
                format!("for no limit write {key} = \"unlimited\""),
            );
        }
        Some(limit)
    }

    /// The region that owns its rooms.
    fn region_of(&mut self, name: &Spanned<String>, path: &str, instance: &InstanceFile) -> String {
        let path = format!("{path}.region");
        match (&instance.region, self.home) {
            (None, Some(home)) => home.to_owned(),
            (Some(region), Some(home)) => {
                if region.get_ref() != home {
                    self.wrong_with(
                        region,
                        &path,
                        format!("there is no region `{}` here", region.get_ref()),
                        format!("all instances are in `{home}`: take the line out"),
                    );
                }
                home.to_owned()
            }
            (Some(region), None) => {
                let known = names(&self.file.regions);
                self.refers(region, &path, "region", known.into_iter());
                region.get_ref().clone()
            }
            (None, None) => {
                let help = "the region that owns its rooms, as in region = \"eu\"";
                self.wrong_with(name, &path, "missing key `region`".into(), help.into());
                String::new()
            }
        }
    }

    /// The host names that belong to it, in lower case: each belongs to one instance.
    fn hosts_of(&mut self, name: &str, path: &str, instance: &InstanceFile) -> Vec<String> {
        let path = format!("{path}.hosts");
        for host in &instance.hosts {
            if !is_host(host.get_ref()) {
                self.wrong_with(
                    host,
                    &path,
                    format!("`{}` is no host name", host.get_ref()),
                    "as in \"chat.example.org\", in lower case and without a port".into(),
                );
                continue;
            }
            let others = self.hosts.insert(host.get_ref().clone(), name.to_owned());
            if let Some(other) = others {
                self.wrong(
                    host,
                    &path,
                    format!(
                        "`{}` is a host of instance `{other}` already",
                        host.get_ref()
                    ),
                );
            }
        }
        instance.hosts.iter().map(|h| h.get_ref().clone()).collect()
    }

    fn slots(&mut self, name: &Spanned<String>, path: &str, instance: &InstanceFile) -> Vec<Slot> {
        let path = format!("{path}.slots");
        let written = instance.slots.as_ref();
        let default = SlotsFile::default();
        match written.map_or(&default, |s| s.get_ref()) {
            SlotsFile::Count(count) => {
                let fits = match written {
                    Some(at) => self.within(at, &path, *count, 1, u64::from(SLOT_COUNT)),
                    None => true,
                };
                let id = InstanceId::from(name.get_ref().as_str());
                if fits {
                    choose_slots(&id, *count as u16)
                } else {
                    Vec::new()
                }
            }
            SlotsFile::List(list) => {
                let mut slots = BTreeSet::new();
                // The default is a count, so a list was written somewhere.
                if let Some(at) = written {
                    if list.is_empty() {
                        self.wrong(at, &path, "an instance needs at least one slot");
                    }
                    for slot in list {
                        if self.within(at, &path, *slot, 0, u64::from(SLOT_COUNT) - 1)
                            && !slots.insert(Slot(*slot as u16))
                        {
                            self.wrong(at, &path, format!("slot {slot} is named twice"));
                        }
                    }
                }
                slots.into_iter().collect()
            }
        }
    }

    fn namespace(
        &mut self,
        name: &Spanned<String>,
        path: &str,
        rules: &NamespaceFile,
    ) -> Namespace {
        let text = name.get_ref();
        let fits = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !fits {
            self.wrong(
                name,
                path,
                "a namespace's name has 1 to 63 characters of a-z, A-Z, 0-9, _, - and .",
            );
        }
        self.rules(name, path, rules)
    }

    /// Channels that can not tell of statuses.
    fn statuses_to_tell(&mut self, path: &str, instance: &InstanceFile, kept: bool) {
        let namespaces = instance.namespaces.iter();
        let named = namespaces.map(|(name, rules)| {
            let path = format!("{path}.namespaces.{}", name.get_ref());
            (path, rules.get_ref(), true)
        });
        let defaults = instance.defaults.iter();
        let defaults = defaults.map(|rules| (format!("{path}.defaults"), rules.get_ref(), false));
        let all: Vec<(String, &NamespaceFile, bool)> = named.chain(defaults).collect();
        for (rules_path, rules, is_named) in all {
            let Some(on) = rules.user_status.as_ref().filter(|on| *on.get_ref()) else {
                continue;
            };
            let (what, help) = if !is_named {
                let what = "channels outside every namespace tell of no statuses";
                (what, "name a namespace for it, as in `status`".to_owned())
            } else if rules.kind != ChannelKind::Signal {
                let what = "statuses are signals";
                (what, "write kind = \"signal\" beside it".to_owned())
            } else if !kept {
                let what = "this instance keeps no statuses of users";
                (what, format!("write {path}.user_status_ttl = \"1d\""))
            } else if rules.allow_publish != Who::Nobody {
                let what = "clients could publish there what looks like somebody's status";
                (
                    what,
                    "write allow_publish = \"nobody\" beside it".to_owned(),
                )
            } else {
                continue;
            };
            let at = format!("{rules_path}.user_status");
            self.wrong_with(on, &at, what.to_owned(), help);
        }
    }

    /// The rules of a namespace, or of the channels outside every namespace; `at` is where they
    /// stand.
    fn rules<T>(&mut self, at: &Spanned<T>, path: &str, rules: &NamespaceFile) -> Namespace {
        let join_leave_max = match &rules.join_leave_max {
            Some(max) => {
                let path = format!("{path}.join_leave_max");
                self.within(max, &path, *max.get_ref(), 0, JOIN_LEAVE_MAX_MAX);
                *max.get_ref() as usize
            }
            None => limits::JOIN_LEAVE_MEMBERS_MAX,
        };
        let max_message_bytes = match &rules.max_message_bytes {
            Some(max) => {
                let path = format!("{path}.max_message_bytes");
                self.within(max, &path, max.get_ref().0, 1, MESSAGE_BYTES_MAX);
                max.get_ref().0 as usize
            }
            None => limits::PUBLISH_BYTES_MAX,
        };
        let debounce = rules.publish_debounce.0;
        self.within(
            at,
            &format!("{path}.publish_debounce"),
            debounce,
            0,
            PUBLISH_DEBOUNCE_MAX,
        );
        if let Some(field) = &rules.dedupe_field
            && !(1..=DEDUPE_FIELD_BYTES_MAX).contains(&field.get_ref().len())
        {
            self.wrong(
                field,
                &format!("{path}.dedupe_field"),
                format!("the name of a field has 1 to {DEDUPE_FIELD_BYTES_MAX} bytes"),
            );
        }
        Namespace {
            kind: rules.kind,
            history_size: rules.history_size,
            history_ttl_ms: rules.history_ttl.0,
            presence: rules.presence,
            join_leave: rules.join_leave,
            force_join_leave: rules.force_join_leave,
            join_leave_max,
            force_recovery: rules.force_recovery,
            force_positioning: rules.force_positioning,
            recovery_mode: rules.recovery_mode,
            delta: rules.delta,
            tags_filter: rules.tags_filter,
            publish_debounce_ms: u32::try_from(debounce).unwrap_or(u32::MAX),
            dedupe_field: rules.dedupe_field.as_ref().map(|f| f.get_ref().clone()),
            allow_subscribe: rules.allow_subscribe,
            allow_publish: rules.allow_publish,
            allow_presence: rules.allow_presence,
            allow_history: rules.allow_history,
            allow_prefix: rules.allow_prefix,
            max_message_bytes,
            publish_proxy: rules.publish_proxy.as_ref().is_some_and(|on| *on.get_ref()),
            user_status: rules.user_status.as_ref().is_some_and(|on| *on.get_ref()),
        }
    }
}
