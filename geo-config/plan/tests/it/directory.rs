//! Instances of a directory: read by the rules of a file, laid over its instances, each by itself.

use gb6_core_model::InstanceId;
use gb6_core_model::snapshot::{Instance, KeyAlgorithm, KeyUse, Snapshot};
use gb6_geo_config_plan::{
    DirectoryInstance, DirectoryKey, DirectoryKeyUse, DirectoryPlan, EXAMPLE, Laid, Problems, fuzz,
    settings_as_toml, settings_from_toml,
};
use proptest::prelude::*;

use crate::{SECRET, read};

fn token_key(id: &str) -> DirectoryKey {
    DirectoryKey {
        id: id.into(),
        usage: DirectoryKeyUse::Client,
        algorithm: KeyAlgorithm::HS256,
        secret: Some(SECRET.into()),
        public_key: None,
    }
}

fn named(id: &str, secret: &str) -> DirectoryKey {
    DirectoryKey {
        usage: DirectoryKeyUse::Named,
        secret: Some(secret.into()),
        ..token_key(id)
    }
}

fn instance(id: &str, settings: &str, keys: &[DirectoryKey]) -> DirectoryInstance {
    DirectoryInstance {
        id: id.into(),
        region: "eu".into(),
        settings: settings.into(),
        keys: Ok(keys.to_vec()),
    }
}

/// The file of the example, and over it what the directory has.
struct World {
    plan: DirectoryPlan,
    base: Snapshot,
    last: Option<Snapshot>,
}

impl World {
    fn new() -> Self {
        Self {
            plan: DirectoryPlan::default(),
            base: read(EXAMPLE).unwrap(),
            last: None,
        }
    }

    fn lay(&mut self, directory: &[DirectoryInstance]) -> Result<Laid, Problems> {
        let laid = self.plan.lay(&self.base, directory, self.last.as_ref())?;
        // What nodes ask of it, whatever the directory has.
        let mut snapshot = laid.snapshot.clone();
        snapshot.revision = 1;
        snapshot.check().unwrap();
        self.last = Some(snapshot);
        Ok(laid)
    }

    /// What is laid, where nothing is wrong.
    fn good(&mut self, directory: &[DirectoryInstance]) -> Snapshot {
        let laid = self.lay(directory).unwrap();
        assert_eq!(laid.problems, []);
        laid.snapshot
    }

    /// What is laid, and what is wrong.
    fn wrong(&mut self, directory: &[DirectoryInstance]) -> (Snapshot, String) {
        let laid = self.lay(directory).unwrap();
        assert!(!laid.problems.is_empty());
        (laid.snapshot, Problems(laid.problems).to_string())
    }
}

fn keys(instance: &Instance) -> Vec<&str> {
    instance.keys.iter().map(|key| key.id.as_str()).collect()
}

#[test]
fn an_instance_of_the_directory_is_what_the_same_words_in_a_file_say() {
    let words = "hosts = [\"chat.acme.example\"]\nsubscriptions_max = 7\ncommand_rate = \"unlimited\"\n\
        [anonymous]\nallow = true\n[namespaces.room]\npresence = true\nhistory_ttl = \"3d\"\n\
        [webhooks]\nurl = \"https://acme.example/hook\"\n";
    let hook = "h".repeat(40);
    let kept = [token_key("acme.main"), named("hooks", &hook)];
    let settings = format!("{words}secret_file = \"hooks\"\n");
    let settings = settings_from_toml(&settings, &"acme".into(), &kept).unwrap();
    let laid = World::new().good(&[instance("acme", &settings, &kept)]);

    let mut file = format!("{EXAMPLE}\n[instances.acme]\nregion = \"eu\"\n");
    file.push_str("keys = [{ id = \"acme.main\", secret = \"");
    file.push_str(&format!("{SECRET}\" }}]\n"));
    let words = words.replace('[', "[instances.acme.");
    let words = words.replace("[instances.acme.\"", "[\"");
    file.push_str(&format!("{words}secret = \"{hook}\"\n"));
    let mut same = read(&file).unwrap();
    same.revision = 0;
    assert_eq!(laid, same);
    // What is kept can be read back, and says the same.
    let again = settings_as_toml(&settings).unwrap();
    let again = settings_from_toml(&again, &"acme".into(), &kept).unwrap();
    assert_eq!(again, settings);
}

#[test]
fn settings_have_the_errors_of_a_file_and_no_secrets() {
    let keys = [named("hooks", &"h".repeat(32))];
    for (text, want) in [
        (
            "subscripions_max = 5\n",
            "line 1: instances.acme: unknown key `subscripions_max` (did you mean `subscriptions_max`?)",
        ),
        (
            "\nsubscriptions_max = 0\n",
            "line 2: instances.acme.subscriptions_max: 0 is out of range",
        ),
        (
            "hosts = 5\n",
            "line 1: instances.acme.hosts: invalid type: integer, expected a sequence",
        ),
        (
            "subscriptions_max = \"0123456789\"\n",
            "line 1: instances.acme.subscriptions_max: invalid type: string, expected u64",
        ),
        (
            "[namespaces.room]\nkind = \"0123456789\"\n",
            "line 2: instances.acme.namespaces.room.kind: unknown value (known here: stream, signal)",
        ),
        (
            "[namespaces.room]\nhistory_ttl = \"0123456789\"\n",
            "line 2: instances.acme.namespaces.room.history_ttl: this is a number without a unit",
        ),
        ("a = \n", "line 1"),
        (
            "region = \"eu\"\n",
            "instances.acme.region: the region does not stand in the settings",
        ),
        (
            "keys = [{ id = \"k\", secret = \"s\" }]\n",
            "instances.acme.keys: keys do not stand in the settings, which are not sealed \
             (add it with: gb6 ctl key add acme)",
        ),
        ("hmac_secret = \"0123456789\"\n", "keys do not stand"),
        ("hmac_secret_file = \"/etc/passwd\"\n", "keys do not stand"),
        ("api_keys = [\"gb6_acme_x\"]\n", "keys do not stand"),
        ("api_key_files = [\"x\"]\n", "keys do not stand"),
        (
            "public_keys = [{ public_key = \"x\" }]\n",
            "keys do not stand",
        ),
        (
            "[webhooks]\nurl = \"https://a.example\"\nsecret = \"0123456789012345678901234567890123\"\n",
            "line 3: instances.acme.webhooks.secret: a secret does not stand in the settings",
        ),
        (
            "[webhooks]\nurl = \"https://a.example\"\nsecret_file = \"0123456789\"\n",
            "instances.acme.webhooks.secret_file: the instance has no secret of this name",
        ),
    ] {
        let said = settings_from_toml(text, &"acme".into(), &keys).unwrap_err();
        let said = said.to_string();
        assert!(said.contains(want), "{text}: {said}");
        assert!(!said.contains("0123456789"), "{said}");
    }
    for json in [
        "",
        "[]",
        "{\"a\":null}",
        "{\"a\":1",
        "{\"a\":18446744073709551615}",
    ] {
        let said = settings_as_toml(json).unwrap_err();
        assert!(said.contains("no JSON object"), "{said}");
    }
}

#[test]
fn an_instance_in_both_places_is_a_mistake_of_the_whole() {
    let mut world = World::new();
    let error = world.lay(&[instance("demo", "{}", &[])]).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("instances.demo: the instance is in the snapshot file and"),
        "{said}"
    );
}

#[test]
fn a_mistake_leaves_the_last_settings_in_force_and_keys_are_those_of_the_directory() {
    let mut world = World::new();
    let two = [token_key("acme.1"), token_key("acme.2")];
    let other = instance("shop", "{}", &[]);
    let first = "{\"subscriptions_max\":5}";
    world.good(&[instance("acme", first, &two), other.clone()]);
    let shop = |max: u32| instance("shop", &format!("{{\"subscriptions_max\":{max}}}"), &[]);
    let directory = [
        instance("acme", "{\"subscriptions_max\":0}", &two[1..]),
        shop(9),
    ];
    let (laid, said) = world.wrong(&directory);
    assert!(
        said.starts_with("instances.acme.subscriptions_max: 0 is out of range"),
        "{said}"
    );
    let acme = &laid.instances["acme"];
    assert_eq!((acme.subscriptions_max, keys(acme)), (5, vec!["acme.2"]));
    assert_eq!(laid.instances["shop"].subscriptions_max, 9);
    // What is wrong is said with the instance and the key, and without what stands there.
    let (_, said) = world.wrong(&[
        instance("acme", "{\"subscriptions_max\":\"hunter2\"}", &two[1..]),
        shop(9),
    ]);
    assert_eq!(
        said,
        "instances.acme.subscriptions_max: invalid type: string, expected u64"
    );
    // One that was never good is not there, and nobody else is the worse for it.
    let mut world = World::new();
    let (laid, _) = world.wrong(&directory);
    assert!(!laid.instances.contains_key("acme") && laid.instances.contains_key("shop"));
    // Mended.
    assert_eq!(
        world.good(&[shop(8)]).instances["shop"].subscriptions_max,
        8
    );
}

#[test]
fn keys_that_can_not_be_read_leave_the_instance_as_it_is() {
    let mut world = World::new();
    let good = instance("acme", "{}", &[token_key("acme.1")]);
    world.good(std::slice::from_ref(&good));
    let unread = DirectoryInstance {
        keys: Err("the secret is sealed with a key that was not given".into()),
        settings: "{\"subscriptions_max\":5}".into(),
        ..good
    };
    let (laid, said) = world.wrong(std::slice::from_ref(&unread));
    assert!(
        said.contains("instances.acme.keys: the secret is sealed"),
        "{said}"
    );
    assert_eq!(keys(&laid.instances["acme"]), ["acme.1"]);
    let (laid, _) = World::new().wrong(&[unread]);
    assert!(!laid.instances.contains_key("acme"));
}

#[test]
fn a_bad_key_is_left_out_by_itself() {
    let short = DirectoryKey {
        secret: Some("short-secret".into()),
        ..token_key("acme.short")
    };
    let elsewhere = token_key("shop.main");
    let api = |n: u32| DirectoryKey {
        usage: DirectoryKeyUse::Api,
        secret: Some(format!("gb6_acme_{n:032}")),
        ..token_key(&format!("api-{n}"))
    };
    let directory = [instance(
        "acme",
        "{}",
        &[
            token_key("acme.main"),
            short,
            api(1),
            api(2),
            api(3),
            elsewhere,
        ],
    )];
    let (laid, said) = World::new().wrong(&directory);
    let acme = &laid.instances["acme"];
    assert_eq!(keys(acme), ["acme.main", "api-1", "api-2"]);
    assert_eq!(acme.keys[1].usage, KeyUse::Api);
    for want in [
        "instances.acme.keys.acme.short.secret: the secret has 12 bytes",
        "names the instance `shop`, but stands in `acme`",
        "at most 2 keys of the server API, these are 3",
    ] {
        assert!(said.contains(want), "{said}");
    }
    assert!(
        !said.contains("short-secret") && !said.contains("0000"),
        "{said}"
    );
}

#[test]
fn who_has_a_host_keeps_it() {
    let mut world = World::new();
    let with = |id: &str, hosts: &str| instance(id, &format!("{{\"hosts\":[{hosts}]}}"), &[]);
    world.good(&[with("zoo", "\"chat.example\"")]);
    // The newcomer is before it by name.
    let (laid, said) = world.wrong(&[
        with("acme", "\"chat.example\",\"acme.example\""),
        with("zoo", "\"chat.example\""),
    ]);
    assert_eq!(laid.instances["zoo"].hosts, ["chat.example"]);
    assert_eq!(laid.instances["acme"].hosts, ["acme.example"]);
    assert_eq!(
        said,
        "instances.acme.hosts: `chat.example` is a host of instance `zoo` already"
    );
    // Given up, it is free.
    let laid = world.good(&[with("acme", "\"chat.example\""), with("zoo", "")]);
    assert_eq!(laid.instances["acme"].hosts, ["chat.example"]);
    // The file's come first.
    let demo = InstanceId::from("demo");
    let hosts = vec!["chat.example".to_owned()];
    world.base.instances.get_mut(&demo).unwrap().hosts = hosts;
    let (laid, _) = world.wrong(&[with("acme", "\"chat.example\"")]);
    assert!(laid.instances["acme"].hosts.is_empty());
}

#[test]
fn who_asks_for_more_keeps_what_it_has() {
    let mut world = World::new();
    let with = |id: &str, hosts: &str, audience: &str| {
        let url = "https://id.example/jwks.json";
        let settings = format!(
            "{{\"hosts\":[{hosts}],\"jwks_url\":\"{url}\",\"token_audience\":\"{audience}\"}}"
        );
        instance(id, &settings, &[])
    };
    world.good(&[with("zoo", "\"x.example\"", "a")]);
    let both = |zoo: &str| [with("acme", "\"x.example\"", "a"), with("zoo", zoo, "a")];
    for zoo in ["\"x.example\"", "\"x.example\",\"y.example\""] {
        let (laid, _) = world.wrong(&both(zoo));
        assert!(laid.instances["acme"].hosts.is_empty());
        assert_eq!(laid.instances["acme"].jwks_url, None);
        assert_eq!(laid.instances["zoo"].hosts[0], "x.example");
        assert!(laid.instances["zoo"].jwks_url.is_some());
    }
}

#[test]
fn key_sets_are_told_apart_by_audience() {
    let with = |id: &str, audience: &str| {
        let url = "https://id.example/jwks.json";
        let settings = format!("{{\"jwks_url\":\"{url}\"{audience}}}");
        instance(id, &settings, &[])
    };
    let mut world = World::new();
    world.good(&[
        with("acme", ",\"token_audience\":\"a\""),
        with("shop", ",\"token_audience\":\"s\""),
    ]);
    let (laid, said) = world.wrong(&[
        with("acme", ",\"token_audience\":\"a\""),
        with("aaa", ""),
        with("shop", ",\"token_audience\":\"s\""),
    ]);
    assert!(
        said.starts_with("instances.aaa.jwks_url: `acme` fetches the same keys"),
        "{said}"
    );
    assert!(laid.instances["aaa"].jwks_url.is_none() && laid.instances["acme"].jwks_url.is_some());
}

#[test]
fn a_region_that_is_not_there() {
    let mut world = World::new();
    let far = DirectoryInstance {
        region: "us".into(),
        ..instance("acme", "{}", &[])
    };
    let (laid, said) = world.wrong(std::slice::from_ref(&far));
    assert_eq!(said, "instances.acme.region: there is no region `us`");
    assert!(!laid.instances.contains_key("acme"));
    // In force somewhere, it stays there.
    world.good(&[instance("acme", "{}", &[])]);
    let (laid, _) = world.wrong(&[far]);
    assert_eq!(laid.instances["acme"].region, "eu");
    // Taken out of the file under an instance, it is the operator who has to decide.
    let region = world.base.regions.remove("eu").unwrap();
    world.base.instances.clear();
    let error = world.lay(&[instance("acme", "{}", &[])]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("regions.eu: the region is not in the file"),
        "{error}"
    );
    world.base.regions.insert("eu".into(), region);
    world.good(&[instance("acme", "{}", &[])]);
}

#[test]
fn what_is_printed_shows_no_secret() {
    let one = instance(
        "acme",
        "{\"hosts\":[\"hidden.example\"]}",
        &[token_key("k")],
    );
    let shown = format!("{one:?} {:?}", one.keys);
    assert!(
        !shown.contains(SECRET) && !shown.contains("hidden"),
        "{shown}"
    );
}

#[test]
fn whatever_settings_are_reading_them_answers() {
    let dir =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/instance_settings");
    let files = std::fs::read_dir(dir).unwrap();
    let corpus: Vec<_> = files
        .map(|f| std::fs::read(f.unwrap().path()).unwrap())
        .collect();
    assert!(corpus.len() >= 15);
    corpus.iter().for_each(|data| fuzz::instance_settings(data));
}

/// Settings as somebody may have put them into a database: near to good ones.
fn settings() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("hosts"),
        Just("slots"),
        Just("keys"),
        Just("namespaces"),
        Just("webhooks"),
        Just("proxies"),
        Just("defaults"),
        Just("jwks_url"),
        Just("token_audience"),
        Just("x"),
        Just("region"),
        Just("command_rate"),
        Just("anonymous"),
    ];
    let leaf = prop_oneof![
        any::<i64>().prop_map(serde_json::Value::from),
        "[a-z.]{0,12}".prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        Just(serde_json::json!(["a.example"])),
        Just(serde_json::json!({"room": {"presence": true}})),
        Just(serde_json::json!({"url": "https://a.example", "secret_file": "hooks"})),
    ];
    proptest::collection::btree_map(name, leaf, 0..4)
        .prop_map(|map| serde_json::to_string(&map).unwrap())
}

proptest! {
    // Each one chooses slots, which takes a while in a build for tests.
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever a directory has, the snapshot is one that nodes take, has the file's instances as they are, and no
    /// two instances with one host or key set.
    #[test]
    fn whatever_a_directory_has_nodes_can_work_by_it(
        rounds in proptest::collection::vec(
            proptest::collection::btree_map(prop_oneof![Just("a"), Just("b"), Just("c")], settings(), 0..3),
            1..4,
        ),
    ) {
        let mut world = World::new();
        for round in rounds {
            let directory: Vec<_> = round
                .iter()
                .map(|(id, settings)| instance(id, settings, &[named("hooks", &"h".repeat(32))]))
                .collect();
            let laid = world.lay(&directory).unwrap().snapshot;
            prop_assert_eq!(&laid.instances["demo"], &world.base.instances["demo"]);
            let hosts: Vec<_> = laid.instances.values().flat_map(|i| &i.hosts).collect();
            let distinct: std::collections::BTreeSet<_> = hosts.iter().collect();
            prop_assert_eq!(hosts.len(), distinct.len());
            let sets = laid.instances.values().filter_map(|i| Some((i.jwks_url.as_ref()?, &i.token_audience)));
            let sets: Vec<_> = sets.collect();
            for (n, one) in sets.iter().enumerate() {
                for other in &sets[..n] {
                    prop_assert!(one.0 != other.0 || (one.1.is_some() && other.1.is_some() && one.1 != other.1));
                }
            }
        }
    }
}
