//! Who calls the server API: an instance's key, sent with every request.

use gb6_core_model::snapshot::{KeyUse, Snapshot};
use gb6_core_model::{InstanceId, limits};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use ring::digest::{SHA256, digest};

/// The header of the key alone.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The scheme of the header `Authorization`, in any case.
const SCHEME: &str = "apikey";
/// The query parameter, for callers that can set no header. Nothing logs a query.
const PARAMETER: &str = "api_key";
/// Keys of one instance that are compared: two of its own, and one of `gb6 dev`.
const KEYS_MAX: usize = 4;
/// Longest key in bytes that is looked at.
const KEY_BYTES_MAX: usize = limits::CHANNEL_BYTES_MAX;

/// The instance whose key came with a request, by any of the three ways.
pub(super) fn instance_of(
    snapshot: &Snapshot,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<InstanceId> {
    let text = |name: HeaderName| crate::http::single(headers, name);
    let scheme = text(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.trim().split_once(' ')?;
        scheme
            .eq_ignore_ascii_case(SCHEME)
            .then(|| key.trim().to_owned())
    });
    [
        text(X_API_KEY).map(str::to_owned),
        scheme,
        query.and_then(parameter),
    ]
    .into_iter()
    .flatten()
    .find_map(|key| verified(snapshot, &key))
}

/// The instance that the key belongs to. How long it takes does not depend on how much of a key is
/// right, nor on whether the instance exists.
fn verified(snapshot: &Snapshot, key: &str) -> Option<InstanceId> {
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let named = Snapshot::instance_of_api_key(key)?;
    let found = snapshot.instances.get_key_value(named);
    let keys = found.into_iter().flat_map(|(_, instance)| &instance.keys);
    let secrets = keys.filter(|k| k.usage == KeyUse::Api && !k.secret.is_empty());
    let given = digest(&SHA256, key.as_bytes());
    let secrets = secrets.map(|k| (k.secret.as_bytes(), true));
    // In place of keys that are not there: as much work, and never good.
    let nobodys = std::iter::repeat((key.as_bytes(), false));
    let mut good = false;
    for (secret, counts) in secrets.chain(nobodys).take(KEYS_MAX) {
        // Of two digests only their difference shows, and nobody can choose those.
        let equal = same(given.as_ref(), digest(&SHA256, secret).as_ref());
        good |= equal & counts;
    }
    found.filter(|_| good).map(|(id, _)| id.clone())
}

/// Whether two digests are equal, looking at all of them whatever is found.
fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |acc, (a, b)| acc | (a ^ b));
    std::hint::black_box(difference) == 0 && one.len() == other.len()
}

/// The parameter of a query (`application/x-www-form-urlencoded`).
pub(super) fn parameter(query: &str) -> Option<String> {
    let mut named = form_urlencoded::parse(query.as_bytes());
    let (_, value) = named.find(|(name, _)| name == PARAMETER)?;
    Some(value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::snapshot::{Instance, Key, KeyAlgorithm};
    use std::collections::BTreeMap;

    fn snapshot() -> Snapshot {
        let key = |usage, secret: &str| Key {
            id: secret.to_owned(),
            usage,
            algorithm: KeyAlgorithm::HS256,
            secret: secret.to_owned(),
            public_key: String::new(),
        };
        let instance = |keys| Instance {
            keys,
            ..Instance::default()
        };
        let demo = instance(vec![
            key(KeyUse::Client, "gb6_demo_client"),
            key(KeyUse::Api, "gb6_demo_one"),
            key(KeyUse::Api, "gb6_demo_two"),
            key(KeyUse::Api, ""),
        ]);
        let acme = instance(vec![
            key(KeyUse::Api, "gb6_acme_one"),
            // A key that names another instance opens neither.
            key(KeyUse::Api, "gb6_demo_wrong"),
        ]);
        Snapshot {
            revision: 1,
            instances: BTreeMap::from([("demo".into(), demo), ("acme".into(), acme)]),
            ..Snapshot::default()
        }
    }

    fn of(headers: &[(&str, &str)], query: Option<&str>) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        instance_of(&snapshot(), &map, query).map(|i| i.as_str().to_owned())
    }

    #[test]
    fn three_ways_and_two_live_keys() {
        let demo = Some("demo".to_owned());
        assert_eq!(of(&[("x-api-key", "gb6_demo_one")], None), demo);
        assert_eq!(of(&[("x-api-key", "gb6_demo_two")], None), demo);
        for scheme in ["apikey", "ApiKey", "APIKEY"] {
            let value = format!("{scheme} gb6_demo_one");
            assert_eq!(of(&[("authorization", &value)], None), demo);
        }
        for query in ["a=b&api_key=gb6%5fdemo_one", "&&api%5Fkey=gb6_demo%5Fone"] {
            assert_eq!(of(&[], Some(query)), demo, "{query}");
        }
        assert_eq!(
            of(&[("x-api-key", "gb6_acme_one")], None),
            Some("acme".to_owned())
        );
        // A wrong one beside a good one does no harm.
        assert_eq!(
            of(
                &[
                    ("x-api-key", "no"),
                    ("authorization", "apikey gb6_demo_one")
                ],
                None
            ),
            demo
        );
    }

    #[test]
    fn whatever_is_no_key_of_its_instance_is_nobodys() {
        for key in [
            "",
            "gb6_demo_",
            "gb6_demo_on",
            "gb6_demo_one ",
            "gb6_demo_onee",
            "gb6_demo_client",
            "gb6_acme_two",
            "gb6_demo_wrong",
            "gb6_nobody_one",
            "demo_one",
            &format!("gb6_demo_{}", "1".repeat(300)),
        ] {
            // Spaces around a header's value are no part of it.
            if !key.ends_with(' ') {
                assert_eq!(of(&[("x-api-key", key)], None), None, "{key}");
            }
            let query = format!("api_key={}", key.replace(' ', "%20"));
            assert_eq!(of(&[], Some(&query)), None, "{key}");
        }
        assert_eq!(of(&[("authorization", "Bearer gb6_demo_one")], None), None);
        assert_eq!(of(&[], Some("api_key=%")), None);
        assert_eq!(of(&[], Some("api_key=%zz")), None);
        assert_eq!(of(&[], Some("api_key=%ffgb6_demo_one")), None);
        assert_eq!(of(&[], Some("api_key=gb6_demo_one%")), None);
        assert_eq!(of(&[], Some("api_key=gb6_demo_one+")), None);
        let twice = [("x-api-key", "gb6_demo_one"), ("x-api-key", "gb6_demo_one")];
        assert_eq!(of(&twice, None), None);
    }
}
