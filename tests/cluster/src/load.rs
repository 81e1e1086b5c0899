//! Publishers and subscribers on a mesh, and the check of what they saw.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

use std::path::PathBuf;
use std::time::Duration;

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{
    Publisher, PublisherOptions, Session, Subscriber, SubscriberOptions, Target, read_log,
};
use gb6_tests_harness::history::{Recorder, Summary, What};
use gb6_tests_harness::process::{Mesh, Metrics, member, target_dir};

/// How long anything that must happen may take.
pub const LONG: Duration = Duration::from_secs(90);

/// Clients at work on a mesh with the edges e1 and e2.
pub struct Load {
    /// What everybody saw.
    pub recorder: Recorder,
    /// The rooms.
    pub rooms: Vec<String>,
    name: &'static str,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    /// Who reads everything in the end.
    reader: Target,
}

/// Who [`Load::finish`] reads as.
const READER: &str = "reads-everything";

/// A client of the demo instance at an edge.
pub fn target(mesh: &Mesh, edge: &str, user: &str, dialect: Dialect) -> Target {
    Target::new(&mesh.ws(edge), &mesh.token(&member(user)), dialect)
}

/// How much work there is.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Publishers, who go from room to room.
    pub publishers: usize,
    /// Rooms.
    pub rooms: usize,
    /// Of a publisher, after each acknowledgement.
    pub pause: Duration,
}

impl Load {
    /// Starts a subscriber on each edge, one in each dialect, and publishers that go to the other
    /// edge when theirs fails.
    pub async fn start(
        mesh: &Mesh,
        name: &'static str,
        seed: u64,
        (publishers, rooms): (usize, usize),
        pause: Duration,
    ) -> Self {
        let amount = Amount {
            publishers,
            rooms,
            pause,
        };
        Self::start_by(mesh, name, seed, amount, [mesh.ws("e1"), mesh.ws("e2")]).await
    }

    /// As [`Load::start`], where clients reach the two edges by these addresses.
    pub async fn start_by(
        mesh: &Mesh,
        name: &'static str,
        seed: u64,
        amount: Amount,
        urls: [String; 2],
    ) -> Self {
        let by = |edge: usize, n: usize, user: &str| {
            let dialect = Dialect::ALL[n % 2];
            Target::new(&urls[edge], &mesh.token(&member(user)), dialect)
        };
        Self::start_with(name, seed, amount, by).await
    }

    /// As [`Load::start`], where clients reach edge 0 or 1 by what `by` says for the nth of them and
    /// its user.
    pub async fn start_with(
        name: &'static str,
        seed: u64,
        amount: Amount,
        by: impl Fn(usize, usize, &str) -> Target,
    ) -> Self {
        let Amount {
            publishers,
            rooms,
            pause,
        } = amount;
        let recorder = Recorder::new();
        let rooms: Vec<String> = (0..rooms).map(|n| format!("room:{name}-{n}")).collect();
        let subscribers: Vec<Subscriber> = (0..2)
            .map(|edge| {
                let user = format!("reader-e{}", edge + 1);
                let options = SubscriberOptions {
                    name: user.clone(),
                    instance: "demo".into(),
                    targets: vec![by(edge, edge, &user)],
                    user,
                    rooms: rooms.clone(),
                    seed,
                };
                Subscriber::start(options, recorder.clone())
            })
            .collect();
        for subscriber in &subscribers {
            subscriber
                .until_subscribed(rooms.len(), LONG)
                .await
                .unwrap();
        }
        let publishers = (0..publishers)
            .map(|n| {
                let user = format!("writer-{n}");
                let options = PublisherOptions {
                    name: user.clone(),
                    instance: "demo".into(),
                    targets: vec![by(n % 2, n / 2, &user), by((n + 1) % 2, n / 2, &user)],
                    user: user.clone(),
                    rooms: rooms.clone(),
                    pause,
                    filling: 200,
                    seed: seed.wrapping_add(n as u64),
                };
                Publisher::start(options, recorder.clone())
            })
            .collect();
        Load {
            reader: by(0, 0, READER),
            recorder,
            rooms,
            name,
            publishers,
            subscribers,
        }
    }

    /// Waits until every publisher has so many more acknowledgements.
    pub async fn progress(&self, more: u64) {
        let goals: Vec<u64> = self
            .publishers
            .iter()
            .map(|p| p.acknowledged() + more)
            .collect();
        for (publisher, goal) in self.publishers.iter().zip(goals) {
            if let Err(error) = publisher.until_acknowledged(goal, LONG).await {
                panic!("{error}; {}", self.saved());
            }
        }
    }

    /// Where the history is written when a test fails.
    fn history(&self) -> PathBuf {
        target_dir().join(format!("histories/{}.jsonl", self.name))
    }

    /// Writes what everybody saw so far, and says where.
    pub fn saved(&self) -> String {
        let path = self.history();
        match self.recorder.write(&path) {
            Ok(()) => format!("the history is in {}", path.display()),
            Err(e) => format!("the history can not be written: {e}"),
        }
    }

    /// Ends everybody, reads every room to its beginning, and checks the history.
    pub async fn finish(mut self, mesh: &Mesh) -> Summary {
        for publisher in std::mem::take(&mut self.publishers) {
            if let Err(error) = publisher.stop().await {
                panic!("{error}; {}", self.saved());
            }
        }
        let name = READER;
        let (session, _pushes) = Session::connect(&self.reader).await.unwrap();
        let client = What::Client {
            instance: "demo".into(),
            user: name.into(),
        };
        self.recorder.record(name, client);
        for room in &self.rooms {
            let log = read_log(&session, name, room, false, &self.recorder)
                .await
                .unwrap_or_else(|e| panic!("{room} can not be read: {e}; {}", self.saved()));
            for subscriber in &self.subscribers {
                if let Err(error) = subscriber.until_at(room, log.top, LONG).await {
                    panic!("{error}; {}", self.saved());
                }
            }
        }
        for subscriber in std::mem::take(&mut self.subscribers) {
            if let Err(error) = subscriber.stop().await {
                panic!("{error}; {}", self.saved());
            }
        }
        for (node, address) in mesh.addresses().filter(|(node, _)| *node != "g1") {
            let metrics = Metrics::read(address).await.unwrap();
            let violations = metrics.sum("gb6_invariant_violations_total", &[]);
            assert_eq!(violations, Some(0.0), "{node}: {}", self.saved());
        }
        let summary = self.recorder.assert_kept(&self.history());
        println!("{}: {summary}", self.name);
        summary
    }
}
