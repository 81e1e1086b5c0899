//! The port `PeopleStatus`: who says what of a person stands in a hash of Redis with the ends of the leases by
//! Redis' own clock; changes are told through a channel for each person that is followed.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use gb6_core_model::InstanceId;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::people::admit;
use gb6_core_ports::{Hold, PeopleStatus, PersonKey, Status, StatusSink, StoreError};
use parking_lot::Mutex;
use redis::RedisResult;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::connect::Connection;
use crate::followers::{Followers, Subject};
use crate::keys::Keys;
use crate::link::Link;
use crate::script::Script;
use crate::temporary;
use crate::topics::Topics;

/// Nodes that may say something of one person; one more says nothing.
const HOLDERS_MAX: usize = 64;
/// People that one run of the script looks at: so long does it hold up others.
const PART: usize = 64;
/// The script that holds and reads.
pub(crate) const STATUS: &str = include_str!("status.lua");

/// Statuses in one Redis.
pub struct RedisPeople {
    link: Link,
    keys: Keys,
    script: Script,
    lease: Duration,
    people: Followers<Followed>,
}

impl std::fmt::Debug for RedisPeople {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisPeople")
            .field("followed", &self.people.len())
            .finish_non_exhaustive()
    }
}

/// Which version a person's followers were told last.
pub(crate) struct Followed(Mutex<u64>);

impl Subject for Followed {
    type Key = PersonKey;
    type Sink = dyn StatusSink;
    type News = Status;

    fn new() -> Self {
        Self(Mutex::new(0))
    }

    fn decode(payload: &[u8]) -> Option<Status> {
        let (version, said) = payload.split_first_chunk::<8>()?;
        Some(Status {
            version: u64::from_le_bytes(*version),
            said: said_of(said)?,
        })
    }

    fn tell(&self, person: &PersonKey, status: &Status, sinks: &[Arc<dyn StatusSink>]) {
        // What was made elsewhere may have come first. Held while they are told, so that two who tell
        // do not overtake each other.
        let mut told = self.0.lock();
        if *told < status.version {
            *told = status.version;
            for sink in sinks {
                sink.changed(person, status);
            }
        }
    }

    fn live(person: &PersonKey, sink: &dyn StatusSink) {
        sink.live(person);
    }
}

/// `+` and what was said, or `-`; `None`: neither.
fn said_of(text: &[u8]) -> Option<Option<Vec<u8>>> {
    match text.split_first()? {
        (b'+', said) => Some(Some(said.to_vec())),
        (b'-', []) => Some(None),
        _ => None,
    }
}

fn word_of(said: Option<&[u8]>) -> Vec<u8> {
    match said {
        Some(said) => [b"+", said].concat(),
        None => b"-".to_vec(),
    }
}

impl RedisPeople {
    /// Begins to connect; it answers at once. `region` keeps apart those that share a Redis.
    pub fn open(config: &Config, region: &str, runtime: &Handle, metrics: &Metrics) -> Self {
        let topics = Topics::open(config, "people-changes", runtime, metrics);
        Self {
            link: Link::open(config, "people", 2, runtime, metrics),
            keys: Keys::new(&config.prefix, region),
            script: Script::new(STATUS),
            lease: config.lease,
            people: Followers::new(topics),
        }
    }

    /// Whether calls are answered and changes told now.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected() && self.people.is_connected()
    }

    /// Runs the script: for each person of `asked` what is said of it, if something is.
    fn run(
        &self,
        holder: &str,
        asked: &[(&PersonKey, Vec<u8>)],
    ) -> Result<Vec<(bool, Status)>, StoreError> {
        // What one run touches must lie in one slot: an instance's people do.
        let mut instances: BTreeMap<&InstanceId, Vec<usize>> = BTreeMap::new();
        for (at, (person, _)) in asked.iter().enumerate() {
            instances.entry(&person.instance).or_default().push(at);
        }
        let parts: Vec<&[usize]> = instances
            .values()
            .flat_map(|all| all.chunks(PART))
            .collect();
        let ask = |connection: Connection| {
            let parts = parts.iter();
            try_join_all(parts.map(move |part| self.part(connection.clone(), holder, asked, part)))
        };
        let told = self.link.call(ask)?;
        let mut statuses = vec![(false, Status::default()); asked.len()];
        for (at, status) in told.into_iter().flatten() {
            statuses[at] = status;
        }
        Ok(statuses)
    }

    fn part<'a>(
        &'a self,
        connection: Connection,
        holder: &str,
        asked: &[(&PersonKey, Vec<u8>)],
        part: &'a [usize],
    ) -> impl Future<Output = RedisResult<Vec<(usize, (bool, Status))>>> + use<'a> {
        let keys: Vec<Vec<u8>> = part
            .iter()
            .map(|at| self.keys.person(asked[*at].0))
            .collect();
        let mut args = vec![
            holder.as_bytes().to_vec(),
            self.lease.as_millis().to_string().into_bytes(),
            HOLDERS_MAX.to_string().into_bytes(),
        ];
        args.extend(part.iter().map(|at| asked[*at].1.clone()));
        async move {
            let told: Vec<(u8, u64, Vec<u8>)> = self.script.run(connection, &keys, &args).await?;
            let told = part.iter().zip(told).map(|(at, (changed, version, said))| {
                let said = said_of(&said).flatten();
                (*at, (changed == 1, Status { version, said }))
            });
            Ok(told.collect())
        }
    }

    fn channel(&self, person: &PersonKey) -> Vec<u8> {
        self.keys.changes(person)
    }
}

impl PeopleStatus for RedisPeople {
    fn hold(&self, holder: &str, holds: &[Hold]) -> Result<Duration, StoreError> {
        admit(
            holds
                .iter()
                .map(|hold| (&hold.person, hold.status.as_ref())),
        )?;
        if holder.is_empty() {
            let what = "a hold of people's statuses without a holder".to_owned();
            return Err(StoreError::Conflict { what });
        }
        let word = |hold: &Hold| word_of(hold.status.as_deref());
        let asked: Vec<_> = holds
            .iter()
            .map(|hold| (&hold.person, word(hold)))
            .collect();
        for ((person, _), (changed, status)) in asked.iter().zip(self.run(holder, &asked)?) {
            if changed {
                let said = word_of(status.said.as_deref());
                let payload = [&status.version.to_le_bytes()[..], &said].concat();
                // One that is not told elsewhere is counted there, and read when its lease is renewed.
                let _ = self
                    .people
                    .tell(person, self.channel(person), &status, &payload);
            }
        }
        Ok(self.lease)
    }

    fn read(&self, people: &[PersonKey]) -> Result<Vec<Status>, StoreError> {
        admit(people.iter().map(|person| (person, None)))?;
        let asked: Vec<_> = people.iter().map(|person| (person, Vec::new())).collect();
        let read = self.run("", &asked).map_err(temporary::read)?;
        Ok(read.into_iter().map(|(_, status)| status).collect())
    }

    fn follow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        self.people.follow(person, &self.channel(person), sink);
    }

    fn unfollow(&self, person: &PersonKey, sink: &Arc<dyn StatusSink>) {
        self.people.unfollow(person, &self.channel(person), sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_answered_and_changes_come_back(
            bytes in prop::collection::vec(any::<u8>(), 0..40), version: u64, said: Option<Vec<u8>>
        ) {
            let _ = Followed::decode(&bytes);
            let word = word_of(said.as_deref());
            let payload = [&version.to_le_bytes()[..], &word].concat();
            prop_assert_eq!(Followed::decode(&payload), Some(Status { version, said }));
        }
    }
}
