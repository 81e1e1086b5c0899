//! Names of keys and channels. Each begins with the prefix, the region and the instance, whose length
//! stands before it: no name of one instance can be that of another. What has to be changed in one step
//! lies in one slot of a cluster by the hash tag `{…}`.

use gb6_core_ports::{LimitKey, PersonKey, TemporaryKey};

/// What all names of a region begin with.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    before: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, region: &str) -> Self {
        let before = format!("{prefix}:{}:{region}:", region.len());
        Self { before }
    }

    /// What every name begins with.
    pub(crate) fn before(&self) -> &str {
        &self.before
    }

    /// The channel of a room's signals. Without a tag: an instance's rooms are spread over a cluster.
    pub(crate) fn room(&self, instance: &str, channel: &str) -> Vec<u8> {
        let Self { before } = self;
        // Braces of names must not make a tag, which would gather rooms in one slot: an empty tag in
        // front is none, and ends the search for one.
        format!("{before}{{}}room:{}:{instance}:{channel}", instance.len()).into_bytes()
    }

    /// The hash of a limit's shares. The limits of an instance are in one slot.
    pub(crate) fn limit(&self, key: &LimitKey) -> Vec<u8> {
        let instance = key.instance.as_str();
        let name = match &key.user {
            None => "all".to_owned(),
            Some(user) => format!("user:{user}"),
        };
        self.of_instance(instance, &format!("limit:{name}"))
    }

    /// A value that ends by itself. Without a tag, as rooms.
    pub(crate) fn temporary(&self, key: &TemporaryKey) -> Vec<u8> {
        let (Self { before }, instance) = (self, key.instance.as_str());
        format!(
            "{before}{{}}temporary:{}:{instance}:{}",
            instance.len(),
            key.name
        )
        .into_bytes()
    }

    /// The hash of what is said of a person. Those of an instance are in one slot.
    pub(crate) fn person(&self, person: &PersonKey) -> Vec<u8> {
        self.of_instance(person.instance.as_str(), &format!("status:{}", person.user))
    }

    /// The channel of a person's changes. Without a tag, as rooms.
    pub(crate) fn changes(&self, person: &PersonKey) -> Vec<u8> {
        let (Self { before }, instance) = (self, person.instance.as_str());
        format!(
            "{before}{{}}status:{}:{instance}:{}",
            instance.len(),
            person.user
        )
        .into_bytes()
    }

    fn of_instance(&self, instance: &str, name: &str) -> Vec<u8> {
        let Self { before } = self;
        format!("{before}{{{}:{instance}}}{name}", instance.len()).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(instance: &str, user: Option<&str>) -> LimitKey {
        LimitKey {
            instance: instance.into(),
            user: user.map(str::to_owned),
        }
    }

    #[test]
    fn names_are_as_they_were() {
        // Nodes of two versions run side by side.
        let keys = Keys::new("gb6", "eu");
        assert_eq!(
            keys.room("demo", "chat:1"),
            b"gb6:2:eu:{}room:4:demo:chat:1"
        );
        let text = |key| String::from_utf8(keys.limit(&key)).unwrap();
        assert_eq!(
            text(limit("demo", Some("ann"))),
            "gb6:2:eu:{4:demo}limit:user:ann"
        );
        assert_eq!(text(limit("demo", None)), "gb6:2:eu:{4:demo}limit:all");
    }

    proptest! {
        #[test]
        fn different_rooms_and_limits_have_different_names(
            a in ("[a:{}1]{1,4}", "[a:{}1]{1,4}"), b in ("[a:{}1]{1,4}", "[a:{}1]{1,4}")
        ) {
            let keys = Keys::new("gb6", "eu");
            prop_assert_eq!(keys.room(&a.0, &a.1) == keys.room(&b.0, &b.1), a == b);
            let one = keys.limit(&limit(&a.0, Some(&a.1)));
            prop_assert_eq!(one == keys.limit(&limit(&b.0, Some(&b.1))), a == b);
            prop_assert_ne!(one, keys.limit(&limit(&a.0, None)));
        }
    }
}
