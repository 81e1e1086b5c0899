//! What `gb6 ctl shard list` shows: who owns which shard, how its nodes are, and what keeps a shard from
//! moving.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Context;
use gb6_core_model::NodeId;
use gb6_core_ports::{MapEntry, MapStore};
use gb6_region_assign::{Key, NodeRecord, ShardRecord};
use serde::Serialize;

/// What all keys of assignments begin with.
const REGIONS: &str = "regions/";
/// Records that are looked at.
const RECORDS_MAX: usize = 64 * 1024;

/// The records of all regions.
#[derive(Default, Debug)]
pub(super) struct Looked {
    pub(super) nodes: BTreeMap<(String, NodeId), NodeRecord>,
    shards: BTreeMap<(String, u32), ShardRecord>,
    /// Records that this program can not read, and why.
    unreadable: Vec<String>,
}

/// Looks at all there are.
pub(super) fn look(map: &dyn MapStore) -> anyhow::Result<Looked> {
    let page = map
        .list(REGIONS, RECORDS_MAX)
        .context("the records of the regions can not be read")?;
    let mut looked = Looked::default();
    for MapEntry { key, value, .. } in page.entries {
        let region = key
            .strip_prefix(REGIONS)
            .and_then(|rest| rest.split_once('/'));
        let (Some((region, _)), Some(value)) = (region, value) else {
            continue;
        };
        let read = match Key::parse(region, &key) {
            Some(Key::Node(name)) => NodeRecord::decode(&key, &value)
                .map(|record| drop(looked.nodes.insert((region.to_owned(), name), record))),
            Some(Key::Shard(shard)) => ShardRecord::decode(&key, &value)
                .map(|record| drop(looked.shards.insert((region.to_owned(), shard), record))),
            None => Ok(()),
        };
        if let Err(error) = read {
            looked.unreadable.push(error.to_string());
        }
    }
    Ok(looked)
}

#[derive(Serialize)]
struct Shown<'a> {
    shards: Vec<ListedShard<'a>>,
    nodes: Vec<ShownNode<'a>>,
}

/// A shard's record, in JSON.
#[derive(Serialize)]
pub(super) struct ShownShard<'a> {
    shard: String,
    owner: Option<&'a str>,
    epoch: u64,
    standby: Option<&'a str>,
    pinned: Option<&'a str>,
    moving_to: Option<&'a str>,
}

/// A shard, and what its nodes' records say of it.
#[derive(Serialize)]
struct ListedShard<'a> {
    #[serde(flatten)]
    shown: ShownShard<'a>,
    /// Whether its owner is heard.
    owner_heard: bool,
    /// Whether its standby is heard and has read the shard's log to the end.
    standby_ready: bool,
    /// What is to be said of it; empty: nothing.
    state: String,
}

#[derive(Serialize)]
struct ShownNode<'a> {
    region: &'a str,
    node: &'a str,
    /// `heard`, `cut off` (from the log), `draining` or `silent`.
    state: &'static str,
    mesh: Option<&'a str>,
    owns: usize,
    follows: usize,
    /// Of those that it follows, the ones whose logs it has read to the end.
    ready: usize,
}

/// What a record says.
pub(super) fn shown<'a>(shard: String, record: &'a ShardRecord) -> ShownShard<'a> {
    let name = |name: &'a Option<NodeId>| name.as_ref().map(NodeId::as_str);
    ShownShard {
        shard,
        owner: name(&record.node),
        epoch: record.epoch,
        standby: name(&record.standby),
        pinned: name(&record.pinned),
        moving_to: name(&record.wanted),
    }
}

/// Two looks, a few beats of the nodes apart.
struct Looks<'a> {
    before: &'a Looked,
    now: &'a Looked,
}

impl Looks<'_> {
    fn node(&self, region: &str, node: &NodeId) -> Option<&NodeRecord> {
        self.now.nodes.get(&(region.to_owned(), node.clone()))
    }

    /// Whether a node's record has changed between the looks, or is new.
    fn is_heard(&self, region: &str, node: &NodeId) -> bool {
        let key = (region.to_owned(), node.clone());
        let life = |record: &NodeRecord| (record.incarnation, record.beat);
        let now = self.now.nodes.get(&key).map(life);
        now.is_some() && now != self.before.nodes.get(&key).map(life)
    }

    fn is_owner_heard(&self, region: &str, record: &ShardRecord) -> bool {
        let owner = record.node.as_ref();
        owner.is_some_and(|owner| {
            let node = self.node(region, owner);
            let same_life = node.is_some_and(|node| node.incarnation == record.incarnation);
            same_life && self.is_heard(region, owner)
        })
    }

    /// What keeps a node from taking a shard; `None`: nothing.
    fn keeps(&self, region: &str, shard: u32, node: &NodeId) -> Option<&'static str> {
        match self.node(region, node) {
            None => Some("is not there"),
            Some(_) if !self.is_heard(region, node) => Some("is silent"),
            Some(record) if record.draining => Some("is draining"),
            Some(record) if record.cut_off => Some("does not reach the log"),
            Some(record) if !record.ready.contains(&shard) => Some("has not caught up"),
            Some(_) => None,
        }
    }

    /// What is to be said of a shard.
    fn state(&self, region: &str, shard: u32, record: &ShardRecord) -> String {
        let Some(owner) = &record.node else {
            return "given up: whoever is heard takes it".to_owned();
        };
        if !self.is_owner_heard(region, record) {
            return "its owner is silent: its standby takes it".to_owned();
        }
        let why = |to: &NodeId| match self.keeps(region, shard, to) {
            Some(why) => format!(", which {why}"),
            None => String::new(),
        };
        match (&record.wanted, &record.pinned) {
            (Some(to), _) => format!("moving to {to}{}", why(to)),
            (None, Some(at)) if at != owner => format!("pinned to {at}{}", why(at)),
            (None, Some(at)) => format!("pinned to {at}"),
            (None, None) => String::new(),
        }
    }

    fn shard(&self, region: &str, shard: u32) -> Option<ListedShard<'_>> {
        let record = self.now.shards.get(&(region.to_owned(), shard))?;
        let standby = record.standby.as_ref();
        Some(ListedShard {
            shown: shown(format!("{region}/{shard}"), record),
            owner_heard: self.is_owner_heard(region, record),
            standby_ready: standby.is_some_and(|node| self.keeps(region, shard, node).is_none()),
            state: self.state(region, shard, record),
        })
    }
}

impl Looked {
    /// What a second look makes of it: nodes whose records have not changed are silent.
    pub(super) fn told_by(&self, now: &Looked, json: bool) -> anyhow::Result<String> {
        let looks = Looks { before: self, now };
        let shards = now.shards.keys();
        let nodes = now.nodes.iter().map(|((region, node), record)| {
            let count = |is: &dyn Fn(&ShardRecord) -> bool| {
                let shards = now.shards.iter().filter(|((of, _), _)| of == region);
                shards.filter(|(_, record)| is(record)).count()
            };
            ShownNode {
                region,
                node: node.as_str(),
                state: match (looks.is_heard(region, node), record.draining) {
                    (false, _) => "silent",
                    (true, true) => "draining",
                    (true, false) if record.cut_off => "cut off",
                    (true, false) => "heard",
                },
                mesh: record.mesh.as_deref(),
                owns: count(&|shard| shard.node.as_ref() == Some(node)),
                follows: count(&|shard| shard.standby.as_ref() == Some(node)),
                ready: record.ready.len(),
            }
        });
        let shown = Shown {
            shards: shards
                .filter_map(|(region, shard)| looks.shard(region, *shard))
                .collect(),
            nodes: nodes.collect(),
        };
        if json {
            return Ok(format!("{}\n", serde_json::to_string(&shown)?));
        }
        let mut out = String::new();
        if shown.shards.is_empty() && shown.nodes.is_empty() {
            out.push_str("no region has records here: none has a node that was started with this map and `assigned = \"region\"` in the snapshot's file\n");
        } else {
            table(&mut out, &shown);
        }
        for error in &now.unreadable {
            // Writing to a string can not fail.
            let _ = writeln!(out, "warning: {error}");
        }
        Ok(out)
    }
}

fn table(out: &mut String, shown: &Shown<'_>) {
    // Writing to a string can not fail.
    let _ = writeln!(
        out,
        "{:<16} {:<16} {:>8} {:<16} {:<6} state",
        "shard", "owner", "epoch", "standby", "ready"
    );
    for listed in &shown.shards {
        let s = &listed.shown;
        let (owner, standby) = (s.owner.unwrap_or("nobody"), s.standby.unwrap_or("nobody"));
        let ready = match (s.standby, listed.standby_ready) {
            (None, _) => "-",
            (Some(_), true) => "yes",
            (Some(_), false) => "no",
        };
        let line = format!(
            "{:<16} {owner:<16} {:>8} {standby:<16} {ready:<6} {}",
            s.shard, s.epoch, listed.state
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let _ = writeln!(
        out,
        "\n{:<16} {:<16} {:<10} {:>5} {:>8} {:>6} mesh",
        "region", "node", "state", "owns", "follows", "ready"
    );
    for n in &shown.nodes {
        let _ = writeln!(
            out,
            "{:<16} {:<16} {:<10} {:>5} {:>8} {:>6} {}",
            n.region,
            n.node,
            n.state,
            n.owns,
            n.follows,
            n.ready,
            n.mesh.unwrap_or("-")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_ports::Expect;
    use gb6_core_ports::memory::MemoryMap;
    use gb6_region_assign::{node_key, shard_key};

    /// The records of a region: nodes by name, with what they say, and one shard.
    fn looked(nodes: &[(&str, NodeRecord)], shard: ShardRecord) -> Looked {
        let map = MemoryMap::default();
        for (name, record) in nodes {
            let key = node_key("eu", &(*name).into());
            map.put(&key, &record.encode(), Expect::Any).unwrap();
        }
        map.put(&shard_key("eu", 0), &shard.encode(), Expect::Any)
            .unwrap();
        look(&map).unwrap()
    }

    fn node(incarnation: u64, beat: u64, ready: &[u32]) -> NodeRecord {
        let mut node = NodeRecord::new(incarnation, Some(format!("10.0.0.{incarnation}:7600")));
        node.beat = beat;
        node.ready = ready.to_vec();
        node
    }

    fn shard() -> ShardRecord {
        ShardRecord {
            node: Some("r1".into()),
            incarnation: 1,
            epoch: 7,
            standby: Some("r2".into()),
            ..ShardRecord::unowned()
        }
    }

    #[test]
    fn shards_and_nodes_are_shown_and_who_is_silent() {
        let before = looked(&[("r1", node(1, 1, &[])), ("r2", node(2, 1, &[]))], shard());
        let now = looked(
            &[("r1", node(1, 2, &[])), ("r2", node(2, 1, &[0]))],
            shard(),
        );
        let text = before.told_by(&now, false).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["eu/0", "r1", "7", "r2", "no"]);
        assert_eq!(
            lines[4],
            ["eu", "r1", "heard", "1", "0", "0", "10.0.0.1:7600"]
        );
        assert_eq!(
            lines[5],
            ["eu", "r2", "silent", "0", "1", "1", "10.0.0.2:7600"]
        );
        let json = before.told_by(&now, true).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["shards"][0]["owner"], "r1");
        assert_eq!(json["shards"][0]["standby_ready"], false);
        assert_eq!(json["nodes"][1]["state"], "silent");
        let nothing = Looked::default()
            .told_by(&Looked::default(), false)
            .unwrap();
        assert!(nothing.contains("assigned = \"region\""), "{nothing}");
    }

    #[test]
    fn it_is_said_why_a_shard_stays_where_it_is() {
        let state = |shard: ShardRecord, r1: NodeRecord, r2: Option<NodeRecord>| {
            let all = |r1: NodeRecord, r2: Option<NodeRecord>| {
                let mut nodes = vec![("r1", r1)];
                nodes.extend(r2.map(|r2| ("r2", r2)));
                looked(&nodes, shard.clone())
            };
            let before = all(node(1, 1, &[]), Some(node(2, 1, &[])));
            let json = before.told_by(&all(r1, r2), true).unwrap();
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            json["shards"][0]["state"].as_str().unwrap().to_owned()
        };
        let heard = || node(1, 2, &[]);
        let to_r2 = || ShardRecord {
            wanted: Some("r2".into()),
            ..shard()
        };
        let ready = node(2, 2, &[0]);
        assert_eq!(state(shard(), heard(), Some(ready.clone())), "");
        assert_eq!(state(to_r2(), heard(), Some(ready.clone())), "moving to r2");
        for (r2, why) in [
            (None, "moving to r2, which is not there"),
            (Some(node(2, 1, &[0])), "moving to r2, which is silent"),
            (
                Some(node(2, 2, &[4])),
                "moving to r2, which has not caught up",
            ),
            (
                Some(NodeRecord {
                    cut_off: true,
                    ..ready.clone()
                }),
                "moving to r2, which does not reach the log",
            ),
            (
                Some(NodeRecord {
                    draining: true,
                    ..ready.clone()
                }),
                "moving to r2, which is draining",
            ),
        ] {
            assert_eq!(state(to_r2(), heard(), r2), why);
        }
        let pinned = ShardRecord {
            pinned: Some("r2".into()),
            ..shard()
        };
        let away = state(pinned, heard(), None);
        assert_eq!(away, "pinned to r2, which is not there");
        let silent = "its owner is silent: its standby takes it";
        assert_eq!(state(shard(), node(1, 1, &[]), None), silent);
        assert_eq!(
            state(to_r2(), node(9, 9, &[]), None),
            silent,
            "another life"
        );
        let free = ShardRecord {
            node: None,
            incarnation: 0,
            ..shard()
        };
        let free = state(free, heard(), None);
        assert_eq!(free, "given up: whoever is heard takes it");
    }
}
