//! One contract for the links of the simulation and those of the mesh: what may overtake what
//! (`docs/decisions/0010-simulated-links.md`).

use gb6_core_mesh::{LocalNode, NodeIdentity, QueueLimits, memory_pair};
use gb6_core_model::{Incarnation, Role};
use gb6_core_wire::mesh::{Class, Purpose, ShardRef, SnapshotPush, StreamOpen};
use gb6_tests_simulation::network::Lanes;

const CLASSES: [Class; 3] = [Class::Control, Class::Acknowledgement, Class::Live];

/// What is sent: a class each, in this order. Small numbers, so that classes meet in every way.
fn sent(seed: u64) -> Vec<Class> {
    let draw = |n: u64| (seed.wrapping_mul(6_364_136_223_846_793_005) >> (n % 50)) % 3;
    (0..40).map(|n| CLASSES[draw(n) as usize]).collect()
}

/// In which order the numbers of frames come out behind each other.
fn check(sent: &[Class], came: &[usize]) {
    assert_eq!(came.len(), sent.len(), "everything comes before the end");
    let place = |frame: usize| came.iter().position(|c| *c == frame);
    for earlier in 0..sent.len() {
        for later in earlier + 1..sent.len() {
            if sent[earlier] as usize <= sent[later] as usize {
                assert!(
                    place(earlier) < place(later),
                    "frame {later} of class {:?} has overtaken {earlier} of {:?}: {came:?}",
                    sent[later],
                    sent[earlier]
                );
            }
        }
    }
}

#[test]
fn in_the_simulation() {
    let mut overtaken = 0;
    for seed in 1..=200 {
        let sent = sent(seed);
        let mut lanes = Lanes::default();
        let mut arrivals: Vec<(u64, usize)> = Vec::new();
        for (frame, class) in sent.iter().enumerate() {
            let delay = (seed * 31 + frame as u64 * 17) % 40;
            arrivals.push((lanes.arrival(*class, frame as u64 + delay), frame));
        }
        let end = lanes.end(0);
        assert!(arrivals.iter().all(|(at, _)| *at <= end));
        arrivals.sort_unstable();
        let came: Vec<usize> = arrivals.into_iter().map(|(_, frame)| frame).collect();
        overtaken += came.windows(2).filter(|w| w[0] > w[1]).count();
        check(&sent, &came);
    }
    assert!(overtaken > 0, "a higher class overtakes a lower one");
}

#[tokio::test]
async fn in_memory() {
    let node = |name, role, n| {
        let identity = NodeIdentity::new(name, [role]).expect("a good name");
        LocalNode::new(identity, Incarnation(n))
    };
    let (edge, region) = (node("e1", Role::Edge, 1), node("r1", Role::Region, 2));
    let (at_edge, at_region) = memory_pair(&edge, &region).expect("a link");
    let mut overtaken = 0;
    for seed in 1..=50 {
        let sent = sent(seed);
        let open = StreamOpen {
            purpose: Some(Purpose::Shard(ShardRef::default())),
        };
        let (opened, accepted) = tokio::join!(at_edge.open(open), at_region.accept_stream());
        let limits = QueueLimits::default();
        let (_, mut from) = opened
            .expect("a stream")
            .split::<SnapshotPush, SnapshotPush>(limits);
        let (to, _) = accepted
            .expect("a stream")
            .1
            .split::<SnapshotPush, SnapshotPush>(limits);
        for (frame, class) in sent.iter().enumerate() {
            let push = SnapshotPush {
                revision: frame as u64,
                ..SnapshotPush::default()
            };
            to.try_send(*class, push).expect("room in the lane");
        }
        drop(to);
        let mut came = Vec::new();
        while let Some(push) = from.recv().await.expect("an open link") {
            came.push(push.revision as usize);
        }
        overtaken += came.windows(2).filter(|w| w[0] > w[1]).count();
        check(&sent, &came);
    }
    assert!(overtaken > 0, "a higher class overtakes a lower one");
}
