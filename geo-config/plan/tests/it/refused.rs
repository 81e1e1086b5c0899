//! Bad files: every mistake is found, with its line and advice.

use gb6_geo_config_plan::{EXAMPLE, read_snapshot};
use proptest::prelude::*;

use crate::{SECRET, example_with, read};

/// The 1-based line of the first occurrence of `needle`.
fn line_of(text: &str, needle: &str) -> usize {
    text.lines()
        .position(|l| l.contains(needle) && !l.starts_with('#'))
        .map_or(0, |n| n + 1)
}

#[test]
fn one_mistake_one_message() {
    for (from, to, marker, want) in [
        (
            "history_size = 0",
            "histroy_size = 0",
            "histroy_size",
            "unknown key `histroy_size` (did you mean `history_size`?)",
        ),
        (
            "kind = \"stream\"",
            "kind = \"steam\"",
            "kind =",
            "unknown value `steam` (did you mean `stream`?)",
        ),
        (
            "allow_history = \"member\"",
            "allow_history = \"everyone\"",
            "allow_history",
            "allow_history: unknown value (known here: member, token, anyone, nobody)",
        ),
        (
            "region = \"eu\"",
            "region = \"ue\"",
            "region = \"ue\"",
            "there is no region `ue` (did you mean `eu`?)",
        ),
        (
            "region = \"eu\"",
            "region = \"asia\"",
            "region = \"asia\"",
            "there is no region `asia` (add [regions.asia])",
        ),
        (
            "owners = [\"r1\"]",
            "owners = [\"e1\"]",
            "owners",
            "node `e1` has not the role region",
        ),
        (
            "owners = [\"r1\"]",
            "owners = [\"r9\"]",
            "owners",
            "there is no node `r9`",
        ),
        (
            "owners = [\"r1\"]",
            "owners = []",
            "owners",
            "a region needs a node",
        ),
        (
            "owners = [\"r1\"]",
            "owners = [\"r1\",\"r1\",\"r1\",\"r1\",\"r1\"]",
            "owners",
            "5 owners for 4 shards",
        ),
        (
            "shards = 4",
            "shards = 0",
            "shards = 0",
            "0 is out of range: 1 to 1024",
        ),
        (
            "shards = 4",
            "shards = -4",
            "shards = -4",
            "shards: invalid value: integer, expected u64",
        ),
        (
            "slots = {}",
            "slots = { \"16384\" = 0 }",
            "16384\" =",
            "a slot is a number from 0 to 16383",
        ),
        (
            "slots = {}",
            "slots = { \"5\" = 4 }",
            "\"5\" = 4",
            "4 is out of range: 0 to 3",
        ),
        (
            "slots = 8",
            "slots = 0",
            "slots = 0",
            "0 is out of range: 1 to 16384",
        ),
        ("slots = 8", "slots = []", "slots = []", "at least one slot"),
        (
            "slots = 8",
            "slots = [16384]",
            "slots = [",
            "16384 is out of range: 0 to 16383",
        ),
        (
            "slots = 8",
            "slots = [4, 4]",
            "slots = [",
            "slot 4 is named twice",
        ),
        (
            "slots = 8",
            "slots = \"8\"",
            "slots = \"8\"",
            "a number of slots, or a list",
        ),
        ("epoch = 1", "epoch = 0", "epoch = 0", "0 is out of range"),
        (
            "subscriptions_max = 1024",
            "subscriptions_max = 0",
            "subscriptions_max",
            "0 is out of range: 1 to 65536",
        ),
        (
            "personal_channel = false",
            "personal_channel = true",
            "personal_channel",
            "this instance has no rules for such channels",
        ),
        (
            "user_status_ttl = \"0\"",
            "user_status_ttl = \"59s\"",
            "user_status_ttl",
            "59000 is out of range: 60000 to 2678400000",
        ),
        (
            "user_status = false",
            "user_status = true",
            "user_status = ",
            "statuses are signals",
        ),
        (
            "[regions.eu]",
            "[instances.demo.namespaces.s]\nkind = \"signal\"\nuser_status = true\n[regions.eu]",
            "user_status = true",
            "this instance keeps no statuses of users",
        ),
        (
            "[regions.eu]",
            "[instances.demo.defaults]\nkind = \"signal\"\nuser_status = true\n[regions.eu]",
            "user_status = true",
            "channels outside every namespace tell of no statuses",
        ),
        (
            "user_status_ttl = \"0\"",
            "user_status_ttl = \"32d\"",
            "user_status_ttl",
            "2764800000 is out of range",
        ),
        (
            "[regions.eu]",
            "[instances.demo.defaults]\nallow_prefix = \"anyone\"\n[regions.eu]",
            "[instances.demo.defaults]",
            "channels outside every namespace have no prefixes",
        ),
        (
            "per_second = 1000",
            "per_second = 0",
            "command_rate",
            "a rate or burst of 0",
        ),
        (
            "{ per_second = 1000, burst = 5000 }",
            "\"fast\"",
            "command_rate",
            "\"unlimited\" or { per_second",
        ),
        (
            "{ per_second = 1000, burst = 5000 }",
            "{ per_second = 1000, brust = 5000 }",
            "command_rate",
            "unknown key `brust` (did you mean `burst`?)",
        ),
        (
            "allowed_origins = []",
            "allowed_origins = [\"chat.example.org\"]",
            "allowed_origins =",
            "`chat.example.org` is no origin",
        ),
        (
            "allowed_origins = []",
            "allowed_origins = [\"https://a.b/c\"]",
            "allowed_origins =",
            "is no origin",
        ),
        (
            "allowed_origins = []",
            "allowed_origins = [\"https://a.b:443\"]",
            "allowed_origins =",
            "is no origin",
        ),
        (
            "join_leave_max = 200",
            "join_leave_max = 10001",
            "join_leave_max = 1",
            "10001 is out of range",
        ),
        (
            "history_ttl = \"0\"",
            "history_ttl = \"7 days\"",
            "history_ttl = ",
            "history_ttl: this is no duration",
        ),
        (
            "history_ttl = \"0\"",
            "history_ttl = 10",
            "history_ttl = ",
            "a duration such as",
        ),
        (
            "max_message_bytes = \"64KiB\"",
            "max_message_bytes = \"65KiB\"",
            "max_message_bytes",
            "66560 is out of range: 1 to 65536",
        ),
        (
            "id = \"demo.main\"",
            "id = \"acme.main\"",
            "id = \"acme.main\"",
            "names the instance `acme`, but stands in `demo`",
        ),
        (
            "id = \"demo.main\"",
            "id = \"\"",
            "id = \"\"",
            "1 to 128 printable",
        ),
        (
            "algorithm = \"HS256\"",
            "algorithm = \"none\"",
            "algorithm",
            "unknown value `none`",
        ),
        (
            "secret_file = \"demo.secret\"",
            "secret = \"short\"",
            "secret = \"short\"",
            "the secret has 5 bytes, needed are 32",
        ),
        (
            "secret_file = \"demo.secret\"",
            "",
            "[[instances.demo.keys]]",
            "a key needs `secret` or `secret_file`",
        ),
        (
            "mesh = \"127.0.0.1:7600\"",
            "mesh = \"127.0.0.1\"",
            "mesh = \"127.0.0.1\"",
            "is no host and port",
        ),
        (
            "mesh = \"127.0.0.1:7600\"",
            "mesh = \"127.0.0.1:0\"",
            "mesh = \"127.0.0.1:0\"",
            "is no host and port",
        ),
        (
            "mesh = \"127.0.0.1:7600\"\n",
            "",
            "[nodes.r1]",
            "needs the address of its mesh listener",
        ),
        (
            "roles = [\"geo\"]",
            "roles = []",
            "roles = []",
            "a node needs a role",
        ),
        (
            "roles = [\"geo\"]",
            "roles = [\"geo\", \"geo\"]",
            "\"geo\", \"geo\"",
            "a role is named twice",
        ),
        (
            "roles = [\"geo\"]",
            "roles = [\"goe\"]",
            "\"goe\"",
            "unknown value `goe` (did you mean `geo`?)",
        ),
        (
            "[nodes.e1]\n",
            "[nodes.e1]\nregion = \"eu\"\n",
            "[nodes.e1]",
            "only a node with the role region",
        ),
        (
            "[nodes.e1]",
            "[nodes.E1]",
            "[nodes.E1]",
            "the name of a node has",
        ),
        (
            "[instances.demo.namespaces.room]",
            "[instances.demo.namespaces.\"a b\"]",
            "\"a b\"",
            "a namespace's name has",
        ),
    ] {
        let text = example_with(from, to);
        let problems = read(&text).expect_err(to);
        assert_eq!(problems.0.len(), 1, "{to}: {problems}");
        let problem = &problems.0[0];
        assert!(problem.to_string().contains(want), "{to}: {problem}");
        let line = line_of(&text, marker) + usize::from(to.starts_with("[nodes.e1]\n"));
        // A missing line is reported where its table begins.
        assert_eq!(problem.line, Some(line), "{to}: {problem}");
    }
}

#[test]
fn all_mistakes_at_once_in_the_order_of_their_lines() {
    let text = example_with("region = \"eu\"", "region = \"ue\"")
        .replace("slots = 8", "slots = [4, 4, 16384]")
        .replace("shards = 4", "shards = 5000")
        .replace("[nodes.e2]", "[nodes.2e]");
    let problems = read(&text).expect_err("four mistakes");
    let paths: Vec<&str> = problems.0.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "instances.demo.region",
            "instances.demo.slots",
            "instances.demo.slots",
            "regions.eu.shards",
            "nodes.2e"
        ]
    );
    assert!(problems.0.windows(2).all(|w| w[0].line <= w[1].line));
}

#[test]
fn all_unknown_keys_at_once() {
    let text = example_with("history_size", "histroy_size")
        .replace("presence =", "presense =")
        .replace("shards =", "shrads =");
    let shown = read(&text).expect_err("unknown keys").to_string();
    for near in ["`history_size`?", "`presence`?", "`shards`?"] {
        assert!(shown.contains(near), "{near}: {shown}");
    }
}

#[test]
fn two_keys_with_one_id_and_two_secrets_in_one_key() {
    let second =
        "\n[[instances.demo.keys]]\nid = \"demo.main\"\nsecret_file = \"x\"\nsecret = \"y\"\n";
    let problems = read(&format!("{EXAMPLE}{second}"))
        .expect_err("two mistakes")
        .to_string();
    assert!(
        problems.contains("two keys with the id `demo.main`"),
        "{problems}"
    );
    assert!(problems.contains("not both"), "{problems}");
}

#[test]
fn api_keys_name_their_instance_and_are_two_at_most() {
    let key = |n: u32, secret: &str| {
        format!("\n[[instances.demo.keys]]\nid = \"a{n}\"\nuse = \"api\"\nsecret = \"{secret}\"\n")
    };
    let good = format!("gb6_demo_{SECRET}");
    let two = format!("{EXAMPLE}{}{}", key(1, &good), key(2, &good));
    let keys = read(&two).expect("two keys").instances["demo"].keys.clone();
    assert_eq!(keys.len(), 3);
    let three = read(&format!("{two}{}", key(3, &good))).expect_err("three");
    assert!(three.to_string().contains("at most 2 keys"), "{three}");
    for secret in [
        SECRET.to_owned(),
        format!("gb6_other_{SECRET}"),
        format!("gb6_demo_{SECRET} "),
    ] {
        let problems = read(&format!("{EXAMPLE}{}", key(1, &secret))).expect_err("a foreign key");
        let shown = problems.to_string();
        assert!(shown.contains("begins with gb6_demo_"), "{shown}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

#[test]
fn a_secret_file_that_can_not_be_read() {
    let problems = read_snapshot(EXAMPLE, 1, |path| Err(format!("no such file ({path})")))
        .expect_err("no file");
    assert!(
        problems.to_string().contains("demo.secret: no such file"),
        "{problems}"
    );
}

#[test]
fn a_secret_stands_in_no_message() {
    let text = example_with(
        "secret_file = \"demo.secret\"",
        "secret = \"hunter2-hunter2\"",
    );
    let problems = read(&text).expect_err("short secret");
    assert!(!format!("{problems} {problems:?}").contains("hunter2"));
}

#[test]
fn broken_toml_has_a_line() {
    let problems = read("[instances.demo\nregion = 1").expect_err("broken");
    assert_eq!(problems.0[0].line, Some(1));
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(\\[[a-z.\"]{0,12}\\]\n|[a-z_]{1,8} = [0-9\"a-z\\[\\]{}]{0,8}\n|.{0,20}\n){0,8}") {
        let _ = read(&text);
    }

    #[test]
    fn a_damaged_example_is_answered(at in 0..EXAMPLE.len(), cut in 0_usize..40, with in "[ -~\n]{0,6}") {
        let end = (at + cut).min(EXAMPLE.len());
        if let (Some(head), Some(tail)) = (EXAMPLE.get(..at), EXAMPLE.get(end..))
            && let Ok(snapshot) = read(&format!("{head}{with}{tail}"))
        {
            // Whatever is accepted can be routed.
            for id in snapshot.instances.keys() {
                prop_assert!(snapshot.route(id, "room:1").is_some());
            }
        }
    }
}
