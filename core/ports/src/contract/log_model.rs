//! The contract of `ShardLog`, by chance: an engine and the reference get the same calls and must
//! give the same answers.

use gb6_core_model::{Incarnation, ShardEpoch};

use super::Random;
use super::log::{LogFixture, acquire, append, everything, fence, message};
use crate::error::StoreError;
use crate::fence::Fence;
use crate::log::{Retain, ShardLog};
use crate::memory::MemoryStorage;

/// Makes `steps` random calls that follow from `seed` on both, with two owners that contend,
/// and compares every answer and, in the end, everything that is stored.
pub fn matches_the_reference(fixture: &impl LogFixture, seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    let storage = MemoryStorage::default();
    let reference: [std::sync::Arc<dyn ShardLog>; 2] =
        [0, 1].map(|_| std::sync::Arc::new(storage.open()) as _);
    let mut engine = [fixture.open(), fixture.open()];
    let mut fences = [fence(0), fence(0)];
    // A handle that does not own the shard may read an old state.
    let mut owner = 2;
    let mut epoch = 0;
    for step in 0..steps {
        let who = random.below(2) as usize;
        let context = format!("seed {seed}, step {step}, owner {who}");
        match random.below(20) {
            0 => {
                // Mostly a higher epoch, at times one that was used.
                epoch += random.below(3);
                fences[who] = Fence {
                    shard_epoch: ShardEpoch(epoch),
                    owner_incarnation: Incarnation(step as u64 + 1),
                    ..fence(0)
                };
                let a = acquire(&*engine[who], &fences[who]);
                let b = acquire(&*reference[who], &fences[who]);
                match (a, b) {
                    (Ok(a), Ok(b)) => {
                        assert_eq!(a.record, b.record, "{context}");
                        owner = who;
                    }
                    (a, b) => same_error(a.err(), b.err(), owner == who, &context),
                }
            }
            1 => {
                engine[who] = fixture.open();
                fences[who] = fence(0);
                owner = if owner == who { 2 } else { owner };
            }
            2 => {
                let next = reference[who].range().expect("range").next;
                let position = random.below(next + 1);
                let a = engine[who].seal_around(&fences[who], position);
                let b = reference[who].seal_around(&fences[who], position);
                if let (Ok(Some(a)), Ok(Some(b))) = (&a, &b) {
                    let (modulus, drop) = (2 + random.below(4), random.below(2) == 0);
                    let change = if drop { Retain::Drop } else { Retain::Erase };
                    // Segments differ: only what both have in the segment is changed.
                    let inside = |r: u64| r == position && r.is_multiple_of(modulus);
                    let mut retain = |r: &gb6_core_wire::record::Record| {
                        if inside(r.position) {
                            change
                        } else {
                            Retain::Keep
                        }
                    };
                    engine[who]
                        .rewrite(&fences[who], *a, &mut retain)
                        .expect("rewrite");
                    reference[who]
                        .rewrite(&fences[who], *b, &mut retain)
                        .expect("rewrite");
                }
                same_error(a.err(), b.err(), owner == who, &context);
            }
            3 if owner == who => {
                let position = random.below(reference[who].range().expect("range").next + 2);
                let a = engine[who].read_at(&[position]).expect("read");
                let b = reference[who].read_at(&[position]).expect("read");
                assert_eq!(a, b, "{context}");
            }
            _ => {
                let next = reference[who].range().expect("range").next;
                let begin = next + random.below(20) / 19;
                let count = random.below(6);
                let batch: Vec<_> = (begin..begin + count)
                    .map(|p| message(p, "room:a", p, random.below(600) as usize))
                    .collect();
                let a = append(&*engine[who], &fences[who], batch.clone());
                let b = append(&*reference[who], &fences[who], batch);
                match (a, b) {
                    (Ok(a), Ok(b)) => {
                        assert_eq!((a.first, a.next), (b.first, b.next), "{context}");
                    }
                    (a, b) => same_error(a.err(), b.err(), owner == who, &context),
                }
            }
        }
    }
    let log = fixture.open();
    assert_eq!(everything(&*log), everything(&*reference[0]), "seed {seed}");
}

/// An owner that lost the shard without knowing may see another error first.
fn same_error(a: Option<StoreError>, b: Option<StoreError>, owns: bool, context: &str) {
    if !owns && a.is_some() && b.is_some() {
        return;
    }
    let kind = |e: &Option<StoreError>| e.as_ref().map(std::mem::discriminant);
    assert_eq!(
        kind(&a),
        kind(&b),
        "{context}: {a:?} but the reference {b:?}"
    );
}
