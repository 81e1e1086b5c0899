//! What `gb6 region --check` asks a Redis before anything runs on it: whether it answers, its version, how
//! it is run, what it does when its memory is full, and every command that is used, by using it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_ports::{Check, LimitKey, PersonKey, TemporaryKey};
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{FromRedisValue, PushInfo, RedisError, RedisResult, Value};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::connect::{Connection, Use};
use crate::keys::Keys;
use crate::link::told;
use crate::script::Script;
use crate::{limiter, people};

/// How long one question may take here: nobody waits for it.
const ANSWER: Duration = Duration::from_secs(5);
/// The oldest version whose pub/sub a cluster can keep in its slots.
const VERSION_MIN: u32 = 7;
/// An instance of this name can not exist: what is written for a look is nobody's.
const NOBODY: &str = "{check}";

/// What a Redis is to be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// `Signals`.
    Signals,
    /// `RateLimiter`.
    Limits,
    /// `PeopleStatus`.
    People,
    /// `Temporary`.
    Temporary,
}

/// Connects and looks; blocks the calling thread, for seconds at most. What is written ends by itself
/// within seconds. `region` is the one that would use it.
pub fn check(config: &Config, region: &str, purposes: &[Purpose], runtime: &Handle) -> Vec<Check> {
    runtime.block_on(look(config, region, purposes))
}

async fn look(config: &Config, region: &str, purposes: &[Purpose]) -> Vec<Check> {
    let what = |of: &str| format!("Redis at {config}: {of}");
    let pushes = |_: PushInfo| Ok::<(), std::convert::Infallible>(());
    let how = Use {
        answer: ANSWER,
        retries: 2,
        pushes: Some(Arc::new(pushes)),
    };
    let began = Instant::now();
    let mut connection = match Connection::open(config, &how).await {
        Ok(connection) => connection,
        Err(error) => return vec![Check::bad(what("connection"), advice(config, &error))],
    };
    let mut checks = vec![Check::good(
        what("connection"),
        format!(
            "it answers, {} ms from the start of the connection on",
            began.elapsed().as_millis()
        ),
    )];
    match infos(&mut connection).await {
        Err(error) => {
            let found = format!(
                "INFO is refused ({}): version and settings are not known; allow +info",
                told(&error)
            );
            checks.push(Check::bad(what("settings"), found));
        }
        Ok(infos) => {
            for (node, info) in &infos {
                let what = |of: &str| match node.is_empty() {
                    true => what(of),
                    false => format!("Redis at {config}, node {node}: {of}"),
                };
                checks.push(Check {
                    what: what("version"),
                    found: version(info),
                });
                checks.push(Check {
                    what: what("mode"),
                    found: mode(info, config.cluster),
                });
                checks.push(Check {
                    what: what("memory"),
                    found: memory(info),
                });
            }
        }
    }
    for (of, done) in commands(config, region, purposes, connection).await {
        let found = match done {
            Ok(()) => Ok("allowed".to_owned()),
            Err(error) => Err(format!(
                "{}: allow the user these commands and keys that begin with {:?}",
                told(&error),
                Keys::new(&config.prefix, region).before()
            )),
        };
        checks.push(Check {
            what: what(of),
            found,
        });
    }
    checks
}

/// What to do about a connection that does not come about.
fn advice(config: &Config, error: &RedisError) -> String {
    let told = told(error);
    let lower = told.to_lowercase();
    let advice = if lower.contains("noauth")
        || lower.contains("wrongpass")
        || lower.contains("auth")
    {
        "give the right user and password"
    } else if lower.contains("certificate") || lower.contains("ca") && config.tls.is_some() {
        "give the authority of its certificate as ca_file, and cert_file with key_file where it asks for ours"
    } else if config.cluster {
        "see that all masters of the cluster are reached from here at the addresses that it tells, and that it is a cluster"
    } else {
        "see that it runs, is reached from here, and speaks TLS if and only if the URI says rediss"
    };
    format!("{told}: {advice}")
}

/// What each server says of itself; the name of the only one is empty.
async fn infos(connection: &mut Connection) -> RedisResult<Vec<(String, String)>> {
    let info = redis::cmd("INFO");
    match connection {
        Connection::Single(_) => {
            let text: String = info.query_async(connection).await?;
            Ok(vec![(String::new(), text)])
        }
        Connection::Cluster(cluster) => {
            let masters = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            let told: Value = cluster.route_command(info, masters).await?;
            Ok(Vec::from_redis_value(told)?)
        }
    }
}

/// A field of INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim())
}

fn version(info: &str) -> Result<String, String> {
    let version = field(info, "redis_version").unwrap_or("unknown");
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= VERSION_MIN => Ok(version.to_owned()),
        _ => Err(format!(
            "{version}: version {VERSION_MIN} or later is needed"
        )),
    }
}

fn mode(info: &str, cluster: bool) -> Result<String, String> {
    match (field(info, "redis_mode").unwrap_or("unknown"), cluster) {
        ("cluster", false) => {
            Err("it is a node of a cluster: write redis+cluster:// (or rediss+cluster://)".into())
        }
        ("standalone", true) => Err("it is no cluster: write redis:// (or rediss://)".into()),
        ("sentinel", _) => {
            Err("it is a sentinel: name the primary, or a name that follows it".into())
        }
        (mode, _) => match field(info, "role") {
            Some("slave") => {
                Err("it is a replica: name the primary, or a name that follows it".into())
            }
            _ => Ok(mode.to_owned()),
        },
    }
}

fn memory(info: &str) -> Result<String, String> {
    let policy = field(info, "maxmemory_policy").unwrap_or("unknown");
    let bound = match field(info, "maxmemory") {
        Some("0") => {
            "there is no maxmemory: set one, or the machine's memory is the bound".to_owned()
        }
        Some(bytes) => format!("maxmemory {bytes}"),
        None => "maxmemory unknown".to_owned(),
    };
    if policy == "noeviction" {
        Ok(format!(
            "{policy}: when memory is full new statuses and shares of limits are refused until some end; {bound}"
        ))
    } else if policy.starts_with("volatile-") {
        Ok(format!(
            "{policy}: when memory is full statuses and shares of limits end early, so that limits may be passed for a while; {bound}"
        ))
    } else {
        Err(format!(
            "maxmemory-policy is {policy}: whatever else is kept there may be evicted for this, and this for that; set noeviction or volatile-ttl; {bound}"
        ))
    }
}

/// Uses every command of some purposes.
async fn commands(
    config: &Config,
    region: &str,
    purposes: &[Purpose],
    mut connection: Connection,
) -> Vec<(&'static str, RedisResult<()>)> {
    let keys = Keys::new(&config.prefix, region);
    let wanted = |any: &[Purpose]| any.iter().any(|purpose| purposes.contains(purpose));
    let mut done = Vec::new();
    if wanted(&[Purpose::Limits]) {
        let key = keys.limit(&LimitKey {
            instance: NOBODY.into(),
            user: None,
        });
        let script = Script::new(limiter::SHARE);
        let args = ["check", "1000", "1", "1"];
        let ran = script.run::<Value>(connection.clone(), &[key], &args).await;
        done.push((
            "shares of limits (EVALSHA, EVAL, TIME, HGETALL, HSET, HDEL, PEXPIRE)",
            ran.map(drop),
        ));
    }
    let person = PersonKey {
        instance: NOBODY.into(),
        user: "check".to_owned(),
    };
    if wanted(&[Purpose::People]) {
        let script = Script::new(people::STATUS);
        let args = ["check", "1000", "1", "+"];
        let ran = script
            .run::<Value>(connection.clone(), &[keys.person(&person)], &args)
            .await;
        done.push((
            "people's statuses (EVALSHA, EVAL, TIME, HGETALL, HSET, HDEL, PEXPIRE)",
            ran.map(drop),
        ));
    }
    if wanted(&[Purpose::Temporary]) {
        let key = keys.temporary(&TemporaryKey {
            instance: NOBODY.into(),
            name: "check".to_owned(),
        });
        done.push((
            "temporary values (SET, GET, DEL)",
            keep(&mut connection, &key).await,
        ));
    }
    if wanted(&[Purpose::Signals, Purpose::People]) {
        let channel = keys.changes(&person);
        let publish = if config.cluster {
            "SPUBLISH"
        } else {
            "PUBLISH"
        };
        let mut publish = redis::cmd(publish);
        publish.arg(&channel).arg("");
        let sent = publish.query_async::<Value>(&mut connection).await;
        done.push((
            "sending to other nodes (PUBLISH, SPUBLISH of a cluster)",
            sent.map(drop),
        ));
        done.push((
            "following other nodes (SUBSCRIBE, UNSUBSCRIBE; SSUBSCRIBE, SUNSUBSCRIBE of a cluster)",
            follow(connection, &channel).await,
        ));
    }
    done
}

async fn keep(connection: &mut Connection, key: &[u8]) -> RedisResult<()> {
    let mut set = redis::cmd("SET");
    set.arg(key).arg("").arg("PX").arg(1000);
    set.query_async::<Value>(connection).await?;
    for name in ["GET", "DEL"] {
        redis::cmd(name)
            .arg(key)
            .query_async::<Value>(connection)
            .await?;
    }
    Ok(())
}

async fn follow(connection: Connection, channel: &[u8]) -> RedisResult<()> {
    match connection {
        Connection::Single(mut connection) => {
            connection.subscribe(channel).await?;
            connection.unsubscribe(channel).await
        }
        Connection::Cluster(mut connection) => {
            connection.ssubscribe(channel).await?;
            connection.sunsubscribe(channel).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n";

    #[test]
    fn what_a_server_says_of_itself_is_judged() {
        assert_eq!(version(GOOD), Ok("7.0.15".to_owned()));
        assert!(mode(GOOD, false).is_ok() && memory(GOOD).is_ok());
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        assert!(version(&with("7.0.15", "6.2.1")).is_err_and(|e| e.contains("6.2.1")));
        assert!(version("").is_err());
        assert!(mode(GOOD, true).is_err_and(|e| e.contains("no cluster")));
        let cluster = with("standalone", "cluster");
        assert!(mode(&cluster, true).is_ok());
        assert!(mode(&cluster, false).is_err_and(|e| e.contains("redis+cluster")));
        assert!(mode(&with("standalone", "sentinel"), false).is_err());
        assert!(
            mode(&with("role:master", "role:slave"), false).is_err_and(|e| e.contains("replica"))
        );
        assert!(memory(&with("noeviction", "volatile-ttl")).is_ok());
        assert!(
            memory(&with("noeviction", "allkeys-lru")).is_err_and(|e| e.contains("allkeys-lru"))
        );
    }
}
