//! The instances in the file of `gb6 dev`: the rules of a snapshot file, without a place.

use gb6_core_model::snapshot::Who;
use gb6_core_model::{InstanceEpoch, InstanceId, NodeId};
use gb6_geo_config_plan::{
    DEMO_REGION, DevMesh, EXAMPLE, Problems, choose_slots, dev_snapshot, parse_toml_without,
    read_instances, read_snapshot,
};

use crate::SECRET;

type Instances = std::collections::BTreeMap<InstanceId, gb6_core_model::snapshot::Instance>;

fn read(text: &str) -> Result<Instances, Problems> {
    read_instances(text, DEMO_REGION, |_| Ok(SECRET.to_owned()))
}

const TWO: &str = r#"
data_dir = "somewhere"
[clients]
ping = "5s"
[instances.acme]
hosts = ["chat.acme.example", "[::1]", "10.0.0.7"]
[instances.acme.namespaces.room]
allow_history = "nobody"
[[instances.acme.keys]]
id = "acme.k"
secret_file = "s"
[instances.shop]
slots = 2
defaults = {}
"#;

#[test]
fn instances_need_no_place_and_get_one_that_nodes_can_work_by() {
    let instances = read(TWO).unwrap();
    let acme = &instances["acme"];
    assert_eq!(acme.hosts, ["chat.acme.example", "[::1]", "10.0.0.7"]);
    assert_eq!(acme.region, DEMO_REGION);
    assert_eq!(acme.epoch, InstanceEpoch(1));
    assert_eq!(acme.slots, choose_slots(&"acme".into(), 8));
    assert_eq!(acme.keys[0].secret, SECRET);
    assert_eq!(acme.namespaces["room"].allow_history, Who::Nobody);
    assert_eq!(instances["shop"].slots.len(), 2);
    assert!(instances["shop"].defaults.is_some());

    let node = NodeId::from("dev");
    let mesh = DevMesh {
        region_node: &node,
        edge_node: &node,
    };
    let snapshot = dev_snapshot(4, instances, &mesh);
    snapshot.check().unwrap();
    assert!(snapshot.route(&"shop".into(), "any").is_some());
}

#[test]
fn they_say_what_a_snapshot_file_says() {
    let there = read_snapshot(EXAMPLE, 1, |_| Ok(SECRET.to_owned())).unwrap();
    let here = read(&EXAMPLE.replace("region = \"eu\"\n", "")).unwrap();
    let mut placed = there.instances;
    for instance in placed.values_mut() {
        instance.region = DEMO_REGION.to_owned();
    }
    assert_eq!(here, placed);
}

#[test]
fn mistakes_are_named() {
    for (text, line, want) in [
        (
            "[instances.acme]\nregion = \"eu\"\n",
            2,
            "there is no region `eu` here (all instances are in `local`: take the line out)",
        ),
        (
            "[instances.acme]\nreigon = \"local\"\n",
            2,
            "unknown key `reigon` (did you mean `region`?)",
        ),
        (
            "[instances.acme]\nhosts = [\"Chat.example.org\"]\n",
            2,
            "`Chat.example.org` is no host name",
        ),
        (
            "[instances.acme]\nhosts = [\"chat.example.org:443\"]\n",
            2,
            "`chat.example.org:443` is no host name",
        ),
        (
            "[instances.acme]\nhosts = [\"::1\"]\n",
            2,
            "`::1` is no host name",
        ),
        (
            "[instances.acme]\nhosts = [\"c.org\"]\n[instances.shop]\nhosts = [\"c.org\"]\n",
            4,
            "`c.org` is a host of instance `acme` already",
        ),
        (
            "x = 1\n[instances.Acme]\n",
            2,
            "the name of a instance has 1 to 63",
        ),
        ("instances = 5\n", 1, "invalid type: integer"),
    ] {
        let problems = read(text).expect_err(text).0;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].line, Some(line), "{problems:?}");
        let said = problems[0].to_string();
        assert!(said.contains(want), "{said}");
    }
    let missing = read_snapshot("[instances.acme]\n", 1, |_| Err(String::new())).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "line 1: instances.acme.region: missing key `region` (the region that owns its rooms, as \
         in region = \"eu\")"
    );
}

#[derive(serde::Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Rest {
    #[serde(default)]
    #[expect(dead_code, reason = "read to see that it may stand there")]
    data_dir: String,
}

#[test]
fn the_rest_of_the_text_knows_the_table_of_instances_and_passes_over_it() {
    let rest = |text: &str| parse_toml_without::<Rest>(text, &["instances"]);
    rest("data_dir = \"x\"\n[instances.acme]\nno_key_of_mine = 1\n").unwrap();
    for (text, want) in [
        (
            "[instanecs.acme]\n",
            "line 1: unknown key `instanecs` (did you mean `instances`?)",
        ),
        (
            "[colours]\n",
            "line 1: unknown key `colours` (known here: data_dir, instances)",
        ),
    ] {
        assert_eq!(rest(text).unwrap_err().to_string(), want);
    }
}
