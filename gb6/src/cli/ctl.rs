//! `gb6 ctl`: looks at a running region and changes it, through the records that its nodes agree by.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use gb6_core_model::NodeId;
use gb6_core_obs::Metrics;
use gb6_core_ports::{Expect, MapEntry, MapStore, StoreError};
use gb6_region_assign::{Key, NodeRecord, ShardRecord, moved, released, shard_key};
use gb6_region_stores_sql::{Config, SqlMap};
use serde::Serialize;

use super::exit::{Failure, print};

/// What all keys of assignments begin with.
const REGIONS: &str = "regions/";
/// Records that are looked at.
const RECORDS_MAX: usize = 64 * 1024;
/// A node rewrites its record several times in this time.
const BEATS: Duration = Duration::from_millis(1_000);
/// How often a change is tried again when somebody else changed the record meanwhile.
const TRIES: u32 = 8;
/// How often it is looked whether a shard has been moved.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Subcommand, Debug)]
pub(crate) enum CtlCommand {
    /// Who owns which shard
    #[command(subcommand)]
    Shard(ShardCommand),
}

#[derive(Subcommand, Debug)]
pub(crate) enum ShardCommand {
    /// Show the shards of every region, and the nodes
    List {
        #[command(flatten)]
        records: Records,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Move a shard to a node, where it stays until it is released
    Move {
        /// Which one: REGION/NUMBER, as in eu/3
        shard: String,
        /// The node that is to own it
        #[arg(long)]
        to: String,
        #[command(flatten)]
        records: Records,
        /// How long to wait until it is there, in seconds; 0: not at all
        #[arg(long, default_value_t = 30)]
        wait: u64,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Let a shard that was moved by hand be moved again as the region sees fit
    Release {
        /// Which one: REGION/NUMBER, as in eu/3
        shard: String,
        #[command(flatten)]
        records: Records,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

/// Where the records are.
#[derive(Args, Debug)]
pub(crate) struct Records {
    /// The store by which the region's nodes agree: postgres://USER@HOST:PORT/DATABASE or sqlite:PATH
    #[arg(long, env = "GB6_MAP", value_name = "URI", hide_env_values = true)]
    map: String,
}

impl CtlCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let CtlCommand::Shard(command) = self;
        match command {
            ShardCommand::List { records, json } => records.with(|map| {
                let before = look(map)?;
                std::thread::sleep(BEATS);
                before.told_by(&look(map)?, json)
            }),
            ShardCommand::Move {
                shard,
                to,
                records,
                wait,
                json,
            } => {
                let (region, number) = parse(&shard).map_err(Failure::Usage)?;
                records.with(|map| {
                    let to = node_of(&look(map)?, &region, &to)?;
                    let changed = change(map, &region, number, |record| moved(record, &to))?;
                    let patience = Duration::from_secs(wait);
                    let arrived = arrive(map, &region, number, changed, patience)?;
                    told(&shard, &arrived, json)
                })
            }
            ShardCommand::Release {
                shard,
                records,
                json,
            } => {
                let (region, number) = parse(&shard).map_err(Failure::Usage)?;
                records.with(|map| {
                    let changed = change(map, &region, number, released)?;
                    told(&shard, &changed, json)
                })
            }
        }
    }
}

impl Records {
    /// Opens the store, and prints what `ask` says of it.
    fn with(
        &self,
        ask: impl FnOnce(&dyn MapStore) -> anyhow::Result<String>,
    ) -> Result<(), Failure> {
        let config =
            Config::parse(&self.map).map_err(|why| Failure::Usage(anyhow!("--map: {why}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("a runtime for the store's client")?;
        let map = SqlMap::open(&config, runtime.handle().clone(), &Metrics::bare())
            .context("the store by which the region's nodes agree can not be opened")?;
        print(&ask(&map)?)
    }
}

/// A region and the number of one of its shards.
fn parse(shard: &str) -> anyhow::Result<(String, u32)> {
    let parts = shard.split_once('/');
    let number = parts.and_then(|(region, number)| Some((region.to_owned(), number.parse().ok()?)));
    number.ok_or_else(|| anyhow!("`{shard}` is no shard: write REGION/NUMBER, as in eu/3"))
}

/// The records of all regions.
#[derive(Default, Debug)]
struct Looked {
    nodes: BTreeMap<(String, NodeId), NodeRecord>,
    shards: BTreeMap<(String, u32), ShardRecord>,
    /// Records that this program can not read, and why.
    unreadable: Vec<String>,
}

fn look(map: &dyn MapStore) -> anyhow::Result<Looked> {
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
    shards: Vec<ShownShard<'a>>,
    nodes: Vec<ShownNode<'a>>,
}

#[derive(Serialize)]
struct ShownShard<'a> {
    shard: String,
    owner: Option<&'a str>,
    epoch: u64,
    standby: Option<&'a str>,
    pinned: Option<&'a str>,
    moving_to: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownNode<'a> {
    region: &'a str,
    node: &'a str,
    /// `heard`, `draining` or `silent`.
    state: &'static str,
    mesh: Option<&'a str>,
    owns: usize,
    follows: usize,
}

fn shown<'a>(shard: String, record: &'a ShardRecord) -> ShownShard<'a> {
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

impl Looked {
    /// What a second look makes of it: nodes whose records have not changed are silent.
    fn told_by(&self, now: &Looked, json: bool) -> anyhow::Result<String> {
        let shards = now.shards.iter();
        let shards = shards.map(|((region, n), record)| shown(format!("{region}/{n}"), record));
        let nodes = now.nodes.iter().map(|((region, node), record)| {
            let before = self.nodes.get(&(region.clone(), node.clone()));
            let beats = |before: &NodeRecord| {
                (before.incarnation, before.beat) != (record.incarnation, record.beat)
            };
            let heard = before.is_none_or(beats);
            let of_node = |(of, _): &(&(String, u32), &ShardRecord)| of.0 == *region;
            let count = |is: &dyn Fn(&ShardRecord) -> bool| {
                let shards = now.shards.iter().filter(of_node);
                shards.filter(|(_, record)| is(record)).count()
            };
            ShownNode {
                region,
                node: node.as_str(),
                state: match (heard, record.draining) {
                    (false, _) => "silent",
                    (true, true) => "draining",
                    (true, false) => "heard",
                },
                mesh: record.mesh.as_deref(),
                owns: count(&|shard| shard.node.as_ref() == Some(node)),
                follows: count(&|shard| shard.standby.as_ref() == Some(node)),
            }
        });
        let shown = Shown {
            shards: shards.collect(),
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
        "{:<16} {:<16} {:>8} {:<16} state",
        "shard", "owner", "epoch", "standby"
    );
    for s in &shown.shards {
        let state = match (s.owner, s.moving_to, s.pinned) {
            (None, _, _) => "given up".to_owned(),
            (_, Some(to), _) => format!("moving to {to}"),
            (_, _, Some(at)) => format!("pinned to {at}"),
            _ => String::new(),
        };
        let (owner, standby) = (s.owner.unwrap_or("nobody"), s.standby.unwrap_or("nobody"));
        let line = format!(
            "{:<16} {owner:<16} {:>8} {standby:<16} {state}",
            s.shard, s.epoch
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let _ = writeln!(
        out,
        "\n{:<16} {:<16} {:<10} {:>5} {:>8} mesh",
        "region", "node", "state", "owns", "follows"
    );
    for n in &shown.nodes {
        let _ = writeln!(
            out,
            "{:<16} {:<16} {:<10} {:>5} {:>8} {}",
            n.region,
            n.node,
            n.state,
            n.owns,
            n.follows,
            n.mesh.unwrap_or("-")
        );
    }
}

/// A node of the region by its name.
fn node_of(looked: &Looked, region: &str, name: &str) -> anyhow::Result<NodeId> {
    let nodes = looked.nodes.keys().filter(|(of, _)| of == region);
    let names: Vec<&str> = nodes.map(|(_, node)| node.as_str()).collect();
    if names.contains(&name) {
        return Ok(NodeId::from(name));
    }
    match names.as_slice() {
        [] => bail!("region {region} has no node here: look with `gb6 ctl shard list`"),
        names => bail!(
            "no node {name} takes part in region {region}: there are {}",
            names.join(", ")
        ),
    }
}

/// Changes the record of a shard, as often as others change it meanwhile.
fn change<E: std::error::Error + Send + Sync + 'static>(
    map: &dyn MapStore,
    region: &str,
    shard: u32,
    edit: impl Fn(&ShardRecord) -> Result<ShardRecord, E>,
) -> anyhow::Result<ShardRecord> {
    let key = shard_key(region, shard);
    for _ in 0..TRIES {
        let Some((record, revision)) = read(map, region, shard)? else {
            bail!("there is no shard {region}/{shard}: look with `gb6 ctl shard list`");
        };
        let changed = edit(&record)?;
        match map.put(&key, &changed.encode(), Expect::Revision(revision)) {
            Ok(_) => return Ok(changed),
            Err(StoreError::Conflict { .. }) => {}
            // It may have been written: whether it was is seen by reading it again.
            Err(StoreError::OutcomeUnknown { .. }) => std::thread::sleep(LOOK),
            Err(error) => return Err(error).context("the record of the shard can not be changed"),
        }
    }
    bail!(
        "the record of shard {region}/{shard} changes all the time: it is being moved; try again in a while"
    )
}

fn read(
    map: &dyn MapStore,
    region: &str,
    shard: u32,
) -> anyhow::Result<Option<(ShardRecord, u64)>> {
    let key = shard_key(region, shard);
    let entry = map
        .get(&key)
        .context("the record of the shard can not be read")?;
    let Some((value, revision)) = entry.and_then(|e| Some((e.value?, e.revision))) else {
        return Ok(None);
    };
    Ok(Some((ShardRecord::decode(&key, &value)?, revision)))
}

/// Waits until a shard is where it is to be.
fn arrive(
    map: &dyn MapStore,
    region: &str,
    shard: u32,
    mut record: ShardRecord,
    patience: Duration,
) -> anyhow::Result<ShardRecord> {
    let until = Instant::now() + patience;
    while record.node != record.pinned && !patience.is_zero() {
        if Instant::now() >= until {
            let owner = record.node.as_ref().map_or("nobody", NodeId::as_str);
            bail!(
                "shard {region}/{shard} is still owned by {owner} after {patience:?}: it is moved once the other node has caught up with it and as long as that one is heard; look with `gb6 ctl shard list`, undo it with `gb6 ctl shard release {region}/{shard}`"
            );
        }
        std::thread::sleep(LOOK);
        if let Some((now, _)) = read(map, region, shard)? {
            record = now;
        }
    }
    Ok(record)
}

/// What has become of a shard.
fn told(shard: &str, record: &ShardRecord, json: bool) -> anyhow::Result<String> {
    if json {
        let shown = shown(shard.to_owned(), record);
        return Ok(format!("{}\n", serde_json::to_string(&shown)?));
    }
    let owner = record.node.as_ref().map_or("nobody", NodeId::as_str);
    Ok(match (&record.wanted, &record.pinned) {
        (Some(to), _) => format!("shard {shard} is on its way from {owner} to {to}\n"),
        (None, Some(at)) => format!("shard {shard} is owned by {owner} and pinned to {at}\n"),
        (None, None) => format!("shard {shard} is owned by {owner} and may be moved\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_ports::memory::MemoryMap;
    use gb6_region_assign::node_key;

    fn map() -> MemoryMap {
        let map = MemoryMap::default();
        for (n, name) in (1..).zip(["r1", "r2"]) {
            let node = NodeRecord::new(n, Some(format!("10.0.0.{n}:7600")));
            let key = node_key("eu", &name.into());
            map.put(&key, &node.encode(), Expect::Absent).unwrap();
        }
        let record = ShardRecord {
            node: Some("r1".into()),
            incarnation: 1,
            epoch: 7,
            standby: Some("r2".into()),
            ..ShardRecord::unowned()
        };
        map.put(&shard_key("eu", 0), &record.encode(), Expect::Absent)
            .unwrap();
        map
    }

    #[test]
    fn shards_and_nodes_are_shown_and_who_is_silent() {
        let map = map();
        let before = look(&map).unwrap();
        let mut beats = NodeRecord::new(2, None);
        beats.beat = 1;
        let key = node_key("eu", &"r2".into());
        map.put(&key, &beats.encode(), Expect::Any).unwrap();
        let now = look(&map).unwrap();
        let text = before.told_by(&now, false).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["eu/0", "r1", "7", "r2"]);
        assert_eq!(lines[4], ["eu", "r1", "silent", "1", "0", "10.0.0.1:7600"]);
        assert_eq!(lines[5], ["eu", "r2", "heard", "0", "1", "-"]);
        let json = before.told_by(&now, true).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["shards"][0]["owner"], "r1");
        assert_eq!(json["nodes"][0]["state"], "silent");
        let nothing = Looked::default()
            .told_by(&Looked::default(), false)
            .unwrap();
        assert!(nothing.contains("assigned = \"region\""), "{nothing}");
    }

    #[test]
    fn a_move_is_asked_for_and_waited_for() {
        let map = map();
        let to = node_of(&look(&map).unwrap(), "eu", "r2").unwrap();
        let changed = change(&map, "eu", 0, |record| moved(record, &to)).unwrap();
        let text = told("eu/0", &changed, false).unwrap();
        assert_eq!(text, "shard eu/0 is on its way from r1 to r2\n");
        let late = arrive(&map, "eu", 0, changed.clone(), Duration::from_millis(1));
        let late = late.unwrap_err().to_string();
        assert!(
            late.contains("still owned by r1") && late.contains("release eu/0"),
            "{late}"
        );
        let there = ShardRecord {
            node: Some("r2".into()),
            wanted: None,
            ..changed.clone()
        };
        map.put(&shard_key("eu", 0), &there.encode(), Expect::Any)
            .unwrap();
        let arrived = arrive(&map, "eu", 0, changed, Duration::from_secs(5)).unwrap();
        assert_eq!(arrived, there);
        let free = change(&map, "eu", 0, released).unwrap();
        assert_eq!(
            told("eu/0", &free, false).unwrap(),
            "shard eu/0 is owned by r2 and may be moved\n"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        let map = map();
        let looked = look(&map).unwrap();
        let error = node_of(&looked, "eu", "r9").unwrap_err().to_string();
        assert!(error.contains("there are r1, r2"), "{error}");
        let error = node_of(&looked, "us", "r1").unwrap_err().to_string();
        assert!(error.contains("shard list"), "{error}");
        let error = change(&map, "eu", 9, released).unwrap_err().to_string();
        assert!(error.contains("no shard eu/9"), "{error}");
        let error = change(&map, "eu", 0, released).unwrap_err().to_string();
        assert!(error.contains("not pinned"), "{error}");
        for wrong in ["3", "eu/", "eu/x", "eu/-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse("eu/3").unwrap(), ("eu".to_owned(), 3));
    }
}
