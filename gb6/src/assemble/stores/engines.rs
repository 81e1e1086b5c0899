//! Which engine keeps what, as the table `stores` says: read, and held against each other, before
//! anything is opened.

use gb6_region_stores_s3 as objects;
use gb6_region_stores_sql as sql;

#[cfg(feature = "kafka")]
use gb6_region_stores_kafka as kafka;
#[cfg(feature = "redis")]
use gb6_region_stores_redis as redis;
#[cfg(feature = "tikv")]
use gb6_region_stores_tikv as tikv;

use crate::config::{StoreUri, StoresTable};

/// The engine of one port: ours in the data directory or in memory, or another.
#[derive(Clone, Debug)]
pub(in crate::assemble) enum Engine<C> {
    Embedded,
    #[cfg_attr(
        not(all(feature = "kafka", feature = "redis", feature = "tikv")),
        allow(dead_code, reason = "what is not compiled in is never chosen")
    )]
    Other(C),
}

#[cfg(not(feature = "kafka"))]
mod kafka {
    #[derive(Clone, Debug)]
    pub(in crate::assemble) enum Config {}
}
#[cfg(not(feature = "redis"))]
mod redis {
    #[derive(Clone, Debug)]
    pub(in crate::assemble) enum Config {}
}
#[cfg(not(feature = "tikv"))]
mod tikv {
    #[derive(Clone, Debug)]
    pub(in crate::assemble) enum Config {}
}

/// The engines of a region.
#[derive(Clone, Debug)]
pub(crate) struct Engines {
    pub(in crate::assemble) log: Engine<kafka::Config>,
    pub(in crate::assemble) rooms: Engine<tikv::Config>,
    pub(in crate::assemble) signals: Engine<redis::Config>,
    pub(in crate::assemble) limits: Engine<redis::Config>,
    /// `None`: owners are those of the snapshot.
    pub(in crate::assemble) map: Option<sql::Config>,
    /// `None`: nothing is archived.
    pub(in crate::assemble) blobs: Option<objects::Config>,
    /// Whether a log on an empty disk goes on from an archive of another node.
    pub(in crate::assemble) take_over: bool,
    /// `None`: what is committed is told to nobody outside.
    pub(in crate::assemble) events: Option<kafka::Config>,
}

/// What is wrong: key and words.
type Problem = (&'static str, String);

impl Engines {
    /// Whether the logs lie in this node's data directory, where no other node finds them.
    pub(in crate::assemble) fn logs_are_local(&self) -> bool {
        matches!(self.log, Engine::Embedded)
    }

    /// What the table says.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(in crate::assemble) fn of(table: &StoresTable) -> anyhow::Result<Self> {
        Self::parse(table)
            .map_err(|problems| anyhow::anyhow!("{}: {}", problems[0].0, problems[0].1))
    }

    /// What the table says.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn parse(table: &StoresTable) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut keep = |key, problem: String| problems.push((key, problem));
        let log = log(&table.log).map_err(|why| keep("stores.log", why)).ok();
        let rooms = rooms(&table.rooms)
            .map_err(|why| keep("stores.rooms", why))
            .ok();
        let signals = on_redis(&table.signals)
            .map_err(|why| keep("stores.signals", why))
            .ok();
        let limits = on_redis(&table.limits)
            .map_err(|why| keep("stores.limits", why))
            .ok();
        let map = map(&table.map).map_err(|why| keep("stores.map", why)).ok();
        let blobs = blobs(&table.blobs)
            .map_err(|why| keep("stores.blobs", why))
            .ok();
        let events = events(&table.events)
            .map_err(|why| keep("stores.events", why))
            .ok();
        let (
            (Some(log), Some(rooms), Some(signals), Some(limits)),
            (Some(map), Some(blobs), Some(events)),
        ) = ((log, rooms, signals, limits), (map, blobs, events))
        else {
            return Err(problems);
        };
        let shared = !matches!(log, Engine::Embedded);
        if shared && blobs.is_none() {
            let why =
                "a log on Kafka needs a place for what is sealed of it: file:DIRECTORY or s3://…";
            problems.push(("stores.blobs", why.to_owned()));
        }
        if shared && map.is_none() {
            let why = "a log on Kafka needs a database in which the nodes agree who owns what, and which \
                 has the keys of the records: postgres://… or, for one node, sqlite:PATH";
            problems.push(("stores.map", why.to_owned()));
        }
        if !shared && matches!(table.map.scheme(), "postgres" | "postgresql") {
            let why = "the logs are in the data directory of this node alone, so no other node can take \
                 over its shards: several nodes need stores.log on Kafka; one node needs \"snapshot\"";
            problems.push(("stores.map", why.to_owned()));
        }
        if map.is_some() == table.record_key_file.is_empty() {
            let why = match map {
                Some(_) => {
                    "it is needed where stores.map is a database: make the file with `openssl rand -hex 32`, the same on every node"
                }
                None => {
                    "without a database in stores.map the keys of records lie in data_dir, and this is of no use"
                }
            };
            problems.push(("stores.record_key_file", why.to_owned()));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            log,
            rooms,
            signals,
            limits,
            map,
            blobs,
            take_over: table.archive_take_over,
            events,
        })
    }
}

/// What is said of an engine that this program was built without.
#[allow(
    dead_code,
    reason = "with every engine compiled in, nothing is missing"
)]
pub(in crate::assemble) fn missing(what: &str, feature: &str) -> String {
    format!("this gb6 was built without {what}: build it with `--features {feature}`")
}

fn log(uri: &StoreUri) -> Result<Engine<kafka::Config>, String> {
    match uri.scheme() {
        "embedded" => Ok(Engine::Embedded),
        #[cfg(feature = "kafka")]
        "kafka" => kafka::Config::parse(&uri.0).map(Engine::Other),
        #[cfg(not(feature = "kafka"))]
        "kafka" => Err(missing("Kafka", "kafka")),
        _ => Err(format!(
            "there is no log {uri}: write embedded, or kafka://HOST:PORT/PREFIX"
        )),
    }
}

fn rooms(uri: &StoreUri) -> Result<Engine<tikv::Config>, String> {
    match uri.scheme() {
        "embedded" => Ok(Engine::Embedded),
        #[cfg(feature = "tikv")]
        "tikv" => tikv::Config::parse(&uri.0).map(Engine::Other),
        #[cfg(not(feature = "tikv"))]
        "tikv" => Err(missing("TiKV", "tikv")),
        _ => Err(format!(
            "there is no index {uri}: write embedded, or tikv://HOST:PORT of PD"
        )),
    }
}

fn on_redis(uri: &StoreUri) -> Result<Engine<redis::Config>, String> {
    match uri.scheme() {
        "embedded" => Ok(Engine::Embedded),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+cluster" | "rediss+cluster" => {
            redis::Config::parse(&uri.0).map(Engine::Other)
        }
        #[cfg(not(feature = "redis"))]
        "redis" | "rediss" | "redis+cluster" | "rediss+cluster" => Err(missing("Redis", "redis")),
        _ => Err(format!(
            "there is no engine {uri} for this: write embedded, or redis://HOST:PORT"
        )),
    }
}

fn map(uri: &StoreUri) -> Result<Option<sql::Config>, String> {
    match uri.scheme() {
        "snapshot" => Ok(None),
        "sqlite" => sql::Config::parse(&uri.0).map(Some),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => sql::Config::parse(&uri.0).map(Some),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(missing("PostgreSQL", "postgres")),
        _ => Err(format!(
            "there is no map {uri}: write snapshot, postgres://USER@HOST/DATABASE, or sqlite:PATH"
        )),
    }
}

fn blobs(uri: &StoreUri) -> Result<Option<objects::Config>, String> {
    match uri.scheme() {
        "none" => Ok(None),
        "file" => objects::Config::parse(&uri.0).map(Some),
        #[cfg(feature = "s3")]
        "s3" => objects::Config::parse(&uri.0).map(Some),
        #[cfg(not(feature = "s3"))]
        "s3" => Err(missing("S3", "s3")),
        _ => Err(format!(
            "there is no store of objects {uri}: write none, file:DIRECTORY, or s3://BUCKET/PREFIX"
        )),
    }
}

fn events(uri: &StoreUri) -> Result<Option<kafka::Config>, String> {
    match uri.scheme() {
        "none" => Ok(None),
        #[cfg(feature = "kafka")]
        "kafka" => kafka::Config::parse(&uri.0).map(Some),
        #[cfg(not(feature = "kafka"))]
        "kafka" => Err(missing("Kafka", "kafka")),
        _ => Err(format!(
            "events can not go to {uri}: write none, or kafka://HOST:PORT/PREFIX"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(change: impl FnOnce(&mut StoresTable)) -> Vec<&'static str> {
        let mut table = StoresTable::default();
        change(&mut table);
        match Engines::parse(&table) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|(key, _)| key).collect(),
        }
    }

    #[test]
    fn engines_that_do_not_go_together_are_named() {
        assert_eq!(problems(|_| {}), [""; 0]);
        let alone = problems(|table| {
            table.map = "sqlite:map.db".into();
            table.record_key_file = "key".into();
            table.blobs = "file:blobs".into();
        });
        assert_eq!(alone, [""; 0]);
        assert_eq!(
            problems(|table| table.map = "sqlite:map.db".into()),
            ["stores.record_key_file"]
        );
        assert_eq!(
            problems(|table| table.record_key_file = "key".into()),
            ["stores.record_key_file"]
        );
        for (key, uri) in [
            ("stores.log", "raft://x"),
            ("stores.rooms", "mongo://x"),
            ("stores.signals", "nats://x"),
            ("stores.limits", ""),
            ("stores.map", "etcd://x"),
            ("stores.blobs", "gopher://x"),
            ("stores.events", "amqp://x"),
        ] {
            let wrong = problems(|table| {
                let at = match key {
                    "stores.log" => &mut table.log,
                    "stores.rooms" => &mut table.rooms,
                    "stores.signals" => &mut table.signals,
                    "stores.limits" => &mut table.limits,
                    "stores.map" => &mut table.map,
                    "stores.events" => &mut table.events,
                    _ => &mut table.blobs,
                };
                *at = uri.into();
            });
            assert_eq!(wrong, [key]);
        }
    }

    #[cfg(all(feature = "kafka", feature = "postgres"))]
    #[test]
    fn a_shared_log_needs_a_shared_map_and_an_archive() {
        let kafka = "kafka://127.0.0.1:9092/gb6";
        for postgres in ["postgres", "postgresql"] {
            let embedded = problems(|table| {
                table.map = format!("{postgres}://gb6@127.0.0.1/gb6").as_str().into();
                table.record_key_file = "key".into();
            });
            assert_eq!(embedded, ["stores.map"]);
        }
        let postgres = "postgres://gb6@127.0.0.1/gb6";
        let lacking = problems(|table| table.log = kafka.into());
        assert_eq!(lacking, ["stores.blobs", "stores.map"]);
        let whole = problems(|table| {
            table.log = kafka.into();
            table.map = postgres.into();
            table.blobs = "file:blobs".into();
            table.record_key_file = "key".into();
        });
        assert_eq!(whole, [""; 0]);
    }

    #[cfg(not(feature = "kafka"))]
    #[test]
    fn what_is_not_compiled_in_says_how_to_get_it() {
        let table = StoresTable {
            log: "kafka://127.0.0.1:9092/gb6".into(),
            ..StoresTable::default()
        };
        let problems = Engines::parse(&table).unwrap_err();
        assert!(problems[0].1.contains("--features kafka"), "{problems:?}");
    }
}
