//! `gb6 ctl`: looks at a running region and changes it, through the records that its nodes agree by.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use gb6_core_model::NodeId;
use gb6_core_obs::Metrics;
use gb6_core_ports::{Expect, MapStore, StoreError};
use gb6_region_assign::{CommandError, ShardRecord, moved, released, shard_key};
use gb6_region_stores_sql::{Config, SqlMap};

use super::ctl_list::{Looked, look, shown};
use super::directory::{AuditCommand, InstanceCommand, KeyCommand, OrgCommand};
use super::exit::{Failure, print};
use crate::config::{Overrides, RegionFile, load};

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
    /// Customers, and the organizations below them
    #[command(subcommand)]
    Org(OrgCommand),
    /// The instances of customers, and their settings
    #[command(subcommand)]
    Instance(InstanceCommand),
    /// The keys of instances
    #[command(subcommand)]
    Key(KeyCommand),
    /// What was done to an organization
    #[command(subcommand)]
    Audit(AuditCommand),
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
    #[arg(
        long,
        env = "GB6_MAP",
        value_name = "URI",
        hide_env_values = true,
        required_unless_present = "config"
    )]
    map: Option<String>,
    /// The configuration file of a node of the region, whose `stores.map` it is; goes before --map
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl CtlCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let command = match self {
            CtlCommand::Shard(command) => command,
            CtlCommand::Org(command) => return command.run(),
            CtlCommand::Instance(command) => return command.run(),
            CtlCommand::Key(command) => return command.run(),
            CtlCommand::Audit(command) => return command.run(),
        };
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
    /// The store, and the place of the records in it.
    fn store(&self) -> anyhow::Result<Config> {
        if let Some(path) = &self.config {
            let file: RegionFile = load(Some(path), &Overrides::default())?;
            let map = &file.stores.map;
            if map.scheme() == "snapshot" {
                bail!(
                    "{}: stores.map is \"snapshot\", so the nodes of this region decide nothing: the owners of \
                     its shards stand in the snapshot's file",
                    path.display()
                );
            }
            let parsed = Config::parse(&map.0);
            return parsed.map_err(|why| anyhow!("{}: stores.map: {why}", path.display()));
        }
        let map = self.map.as_deref().unwrap_or_default();
        Config::parse(map).map_err(|why| anyhow!("--map: {why}"))
    }

    /// Opens the store, and prints what `ask` says of it.
    fn with(
        &self,
        ask: impl FnOnce(&dyn MapStore) -> anyhow::Result<String>,
    ) -> Result<(), Failure> {
        let config = self.store().map_err(Failure::Usage)?;
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
fn change(
    map: &dyn MapStore,
    region: &str,
    shard: u32,
    edit: impl Fn(&ShardRecord) -> Result<ShardRecord, CommandError>,
) -> anyhow::Result<ShardRecord> {
    let key = shard_key(region, shard);
    // A change that may have been made.
    let mut unknown = false;
    for _ in 0..TRIES {
        let Some((record, revision)) = read(map, region, shard)? else {
            bail!("there is no shard {region}/{shard}: look with `gb6 ctl shard list`");
        };
        let changed = match edit(&record) {
            // It was: what is asked for is so already.
            Err(CommandError::There(_) | CommandError::NotPinned) if unknown => return Ok(record),
            changed => changed?,
        };
        match map.put(&key, &changed.encode(), Expect::Revision(revision)) {
            Ok(_) => return Ok(changed),
            Err(StoreError::Conflict { .. }) => {}
            // It may have been written: whether it was is seen by reading it again.
            Err(StoreError::OutcomeUnknown { .. }) => {
                unknown = true;
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(error).context("the record of the shard can not be changed"),
        }
    }
    match unknown {
        true => bail!(
            "whether the record of shard {region}/{shard} was changed is not known, because the store answers \
             badly: look with `gb6 ctl shard list`"
        ),
        false => bail!(
            "the record of shard {region}/{shard} changes all the time: it is being moved; try again in a while"
        ),
    }
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
    use std::cell::Cell;

    use gb6_core_ports::MapLayer;
    use gb6_core_ports::memory::MemoryMap;
    use gb6_region_assign::{NodeRecord, node_key};

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

    /// A store that does not answer its first changes, whether or not it has made them.
    struct Unsure {
        map: MemoryMap,
        made: bool,
        unanswered: std::sync::Mutex<Cell<u32>>,
    }

    impl MapLayer for Unsure {
        fn below(&self) -> &dyn MapStore {
            &self.map
        }

        fn put(&self, key: &str, value: &[u8], expect: Expect) -> Result<u64, StoreError> {
            let left = self.unanswered.lock().unwrap();
            if left.get() == 0 {
                return self.map.put(key, value, expect);
            }
            left.set(left.get() - 1);
            if self.made {
                self.map.put(key, value, expect)?;
            }
            let cause = "no answer".to_owned();
            Err(StoreError::OutcomeUnknown { cause })
        }
    }

    #[test]
    fn a_change_without_an_answer_is_looked_after_and_not_called_a_mistake() {
        for made in [true, false] {
            let unsure = |map: MemoryMap, unanswered: u32| Unsure {
                map,
                made,
                unanswered: std::sync::Mutex::new(Cell::new(unanswered)),
            };
            let pinned = unsure(map(), 1);
            let here = |record: &ShardRecord| moved(record, &"r1".into());
            let stays = change(&pinned, "eu", 0, here).unwrap();
            assert_eq!(stays.pinned, Some("r1".into()));
            // Once that is known, asking for it again is a mistake.
            assert!(change(&pinned, "eu", 0, here).is_err());
            let released_one = unsure(pinned.map, 1);
            let free = change(&released_one, "eu", 0, released).unwrap();
            assert_eq!(free.pinned, None, "made: {made}");
            let never = unsure(map(), u32::MAX);
            let there = |record: &ShardRecord| moved(record, &"r2".into());
            let error = change(&never, "eu", 0, there).unwrap_err().to_string();
            assert!(error.contains("is not known"), "{error}");
        }
    }

    #[test]
    fn the_store_is_that_of_a_nodes_file() {
        let dir = tempfile::tempdir().unwrap();
        let write = |map: &str| {
            let path = dir.path().join("r1.toml");
            let key = match map {
                "snapshot" => "",
                _ => "record_key_file = \"keys\"\n",
            };
            let text = format!("[stores]\nmap = \"{map}\"\n{key}");
            std::fs::write(&path, text).unwrap();
            Records {
                map: Some("no store at all".into()),
                config: Some(path),
            }
        };
        let uri = "sqlite:/var/lib/gb6/map.db?namespace=blue";
        let store = write(uri).store().unwrap();
        assert_eq!(store, Config::parse(uri).unwrap());
        let error = write("snapshot").store().unwrap_err().to_string();
        assert!(
            error.contains("r1.toml") && error.contains("snapshot"),
            "{error}"
        );
        let wrong = Records {
            map: Some("no store at all".into()),
            config: None,
        };
        let error = wrong.store().unwrap_err().to_string();
        assert!(error.starts_with("--map: "), "{error}");
        let lost = Records {
            map: None,
            config: Some(dir.path().join("r9.toml")),
        };
        let error = lost.store().unwrap_err().to_string();
        assert!(error.contains("r9.toml"), "{error}");
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
