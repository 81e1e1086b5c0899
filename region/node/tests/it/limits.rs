//! Shares of limits, as edges are given them.

use gb6_core_mesh::{FrameReceiver, FrameSender, QueueLimits};
use gb6_core_model::limits::LIMITS_ENTRIES_MAX;
use gb6_core_model::snapshot::Namespace;
use gb6_core_wire::mesh::{
    Class, LimitShared, LimitWanted, LimitsOpen, LimitsShared, LimitsWanted, Purpose, StreamOpen,
};

use crate::edge::{Edge, Machine, PATIENCE};

pub(crate) struct Asking {
    ask: FrameSender<LimitsWanted>,
    answers: FrameReceiver<LimitsShared>,
}

impl Asking {
    pub(crate) async fn of(edge: &Edge) -> Self {
        let open = StreamOpen {
            purpose: Some(Purpose::Limits(LimitsOpen {})),
        };
        let stream = edge.link.open(open).await.expect("a stream");
        let (ask, answers) = stream.split(QueueLimits::default());
        Self { ask, answers }
    }

    /// Asks, whether or not there will be an answer.
    pub(crate) fn ask(&self, limits: Vec<LimitWanted>) {
        let question = LimitsWanted { limits };
        self.ask
            .try_send(Class::Control, question)
            .expect("room in the lane");
    }

    async fn shares(&mut self, limits: Vec<LimitWanted>) -> Vec<LimitShared> {
        self.ask(limits);
        let answer = tokio::time::timeout(PATIENCE, self.answers.recv()).await;
        answer
            .expect("an answer in time")
            .expect("an answer")
            .expect("no end of the stream")
            .limits
    }

    pub(crate) async fn parts(&mut self, instance: &str, user: &str, demand: u64) -> u32 {
        let shares = self.shares(vec![wanted(instance, user, demand)]).await;
        assert_eq!(shares.len(), 1, "{shares:?}");
        assert_eq!((&*shares[0].instance, &*shares[0].user), (instance, user));
        assert!(shares[0].valid_ms > shares[0].renew_ms && shares[0].renew_ms > 0);
        shares[0].parts
    }
}

pub(crate) fn wanted(instance: &str, user: &str, demand: u64) -> LimitWanted {
    LimitWanted {
        instance: instance.to_owned(),
        user: user.to_owned(),
        demand,
    }
}

#[tokio::test]
async fn edges_have_a_limit_together() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let (one, other) = (machine.edge("e1").await, machine.edge("e2").await);
    let (mut e1, mut e2) = (Asking::of(&one).await, Asking::of(&other).await);
    assert_eq!(e1.parts("demo", "alice", 9).await, 1_000_000);
    assert_eq!(e2.parts("demo", "alice", 9).await, 500_000);
    assert_eq!(e1.parts("demo", "alice", 9).await, 500_000);
    assert_eq!(e2.parts("demo", "", 9).await, 1_000_000);
    // A stream that ends takes nothing away; who gives back does.
    drop(e1);
    assert_eq!(e2.parts("demo", "alice", 9).await, 500_000);
    let mut e1 = Asking::of(&one).await;
    e1.parts("demo", "alice", 0).await;
    assert_eq!(e2.parts("demo", "alice", 9).await, 1_000_000);
    let metrics = machine.metrics.text();
    let given = "gb6_region_limit_shares_total 7";
    assert!(metrics.lines().any(|line| line == given), "{metrics}");
    region.drain().await;
}

#[tokio::test]
async fn what_is_not_shared_out_here_or_too_much_is_passed_over() {
    let mut machine = Machine::new(Namespace::default());
    let region = machine.start().await;
    let edge = machine.edge("e1").await;
    let mut asking = Asking::of(&edge).await;
    let mut limits = vec![wanted("acme", "", 1), wanted("", "x", 1)];
    limits.push(wanted("demo", "alice", u64::MAX));
    let shares = asking.shares(limits).await;
    assert_eq!(shares.len(), 1, "{shares:?}");
    assert_eq!(shares[0].instance, "demo");
    let users = 0..LIMITS_ENTRIES_MAX + 10;
    let many = users.map(|n| wanted("demo", &format!("u{n}"), 1)).collect();
    assert_eq!(asking.shares(many).await.len(), LIMITS_ENTRIES_MAX);
    region.drain().await;
}
