//! Old messages: one room in each shard whose first messages no node has in memory, so that only the
//! index and the archive lead to them.

use std::time::Instant;

use gb6_core_model::hash::slot_of;
use gb6_core_model::{InstanceId, ShardId};
use gb6_core_wire::client::Dialect;
use gb6_geo_config_plan::choose_slots;
use gb6_tests_cluster::load::{LONG, target};
use gb6_tests_harness::client::{Published, Session};
use gb6_tests_harness::history::fingerprint;
use rand::distr::{Alphanumeric, SampleString};
use rand::{SeedableRng, rngs::StdRng};

use crate::world::World;

/// Of the region, as in the example of a snapshot.
pub(crate) const SHARDS: u32 = 4;
/// Slots of the demo instance there.
const SLOTS: u16 = 8;
/// Bytes of a message: near the most that one may have.
const BYTES: usize = 60 * 1024;
/// Behind the old messages: more than a node keeps of a shard in memory (4 MiB).
const BEHIND: u64 = 80;
/// Messages from one that is asked for to the next: more than are read from the archive at once
/// (256 KiB), so that what was asked for before does not help.
const STEP: u64 = 10;

/// The rooms and what is in them; by default there are none.
#[derive(Default)]
pub(crate) struct Old {
    rooms: Vec<Room>,
    /// How many of them were asked for.
    asked: u64,
    /// How many can be.
    count: u64,
}

struct Room {
    name: String,
    epoch: String,
    /// What each message is, from offset 1 on.
    data: Vec<String>,
}

/// A message to be asked for.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) room: String,
    pub(crate) epoch: String,
    pub(crate) offset: u64,
    /// What it is; `None`: the newest messages, whatever they are.
    pub(crate) data: Option<String>,
}

impl Question {
    /// For the newest messages of a room.
    pub(crate) fn newest(room: &str) -> Self {
        Self {
            room: room.to_owned(),
            epoch: String::new(),
            offset: 0,
            data: None,
        }
    }
}

impl Old {
    /// Publishes what nobody has asked for `count` times, and what makes it old.
    pub(crate) async fn publish(world: &World, name: &str, count: u64) -> Self {
        let tasks: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let room = in_shard(name, ShardId(shard));
                let target = target(&world.mesh, "e1", "old", Dialect::Protobuf);
                tokio::spawn(async move {
                    let (session, _pushes) = Session::connect(&target).await.unwrap();
                    // Cheap, for whoever publishes is not what is tested: each is another part of it.
                    let mut random = StdRng::seed_from_u64(u64::from(shard));
                    let by_chance = Alphanumeric.sample_string(&mut random, 2 * BYTES);
                    let (mut epoch, mut all) = (String::new(), Vec::new());
                    for offset in 1..=(count + 1) * STEP + BEHIND {
                        let from = offset as usize * 7;
                        let filling = &by_chance[from..from + BYTES];
                        let data = format!("{{\"filling\":\"{filling}\"}}");
                        let id = format!("{room}-{offset}");
                        let published = published(&session, &room, &id, &data).await;
                        assert_eq!(published.offset, offset, "nobody else publishes here");
                        epoch = published.epoch;
                        all.push(fingerprint(data.as_bytes()));
                    }
                    Room {
                        name: room,
                        epoch,
                        data: all,
                    }
                })
            })
            .collect();
        let mut rooms = Vec::new();
        for task in tasks {
            rooms.push(task.await.unwrap());
        }
        world.until_archived().await;
        Self {
            rooms,
            asked: 0,
            count,
        }
    }

    /// A message of each room that nobody has asked for before.
    pub(crate) fn next(&mut self) -> Vec<Question> {
        assert!(self.asked < self.count, "everything was asked for");
        self.asked += 1;
        self.questions(self.asked * STEP + 1)
    }

    /// A message of each room that may have been asked for.
    pub(crate) fn any(&self) -> Vec<Question> {
        self.questions(1)
    }

    fn questions(&self, offset: u64) -> Vec<Question> {
        let question = |room: &Room| Question {
            room: room.name.clone(),
            epoch: room.epoch.clone(),
            offset,
            data: Some(room.data[offset as usize - 1].clone()),
        };
        self.rooms.iter().map(question).collect()
    }

    /// Reads every message: none may be missing, doubled or another one.
    pub(crate) async fn check(&self, world: &World) {
        let target = target(&world.mesh, "e2", "old", Dialect::Protobuf);
        let (session, _pushes) = Session::connect(&target).await.unwrap();
        for room in &self.rooms {
            let begun = Instant::now();
            let mut found = Vec::new();
            while found.len() < room.data.len() {
                let since = Some((found.len() as u64, room.epoch.as_str()));
                let page = match session.history(&room.name, -1, since, false).await {
                    Ok(page) => page,
                    // Its shard may be on its way to another owner.
                    Err(error) => {
                        assert!(begun.elapsed() < LONG, "{} {since:?}: {error}", room.name);
                        continue;
                    }
                };
                assert!(!page.publications.is_empty(), "{} ends early", room.name);
                found.extend(page.publications.iter().map(|p| fingerprint(&p.data)));
            }
            assert_eq!(found, room.data, "{}", room.name);
        }
    }
}

/// Publishes until it is acknowledged. Nothing is broken, but a machine may be slow.
async fn published(session: &Session, room: &str, id: &str, data: &str) -> Published {
    let begun = Instant::now();
    loop {
        match session.room_publish(room, Some(id), data).await {
            Ok(published) => return published,
            Err(error) => assert!(begun.elapsed() < LONG, "{id}: {error}"),
        }
    }
}

/// The name of a room that lies in this shard.
fn in_shard(name: &str, shard: ShardId) -> String {
    let demo = InstanceId::from("demo");
    let slots = choose_slots(&demo, SLOTS);
    let lies_there = |room: &String| {
        let slot = slot_of(&demo, room, &slots).unwrap();
        u32::from(slot.0) % SHARDS == shard.0
    };
    let mut names = (0..).map(|n| format!("room:{name}-old-{n}"));
    names.find(lies_there).unwrap()
}
