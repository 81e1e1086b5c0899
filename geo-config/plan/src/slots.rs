//! Which slots a new instance is given: shuffle sharding by a fixed rule.

use gb6_core_model::hash::stable_hash64;
use gb6_core_model::ids::SLOT_COUNT;
use gb6_core_model::{InstanceId, Slot};

/// Slots of an instance whose file does not say.
pub const SLOTS_DEFAULT: u16 = 8;

/// Neighbouring slots of one instance differ modulo this, so that it is spread evenly over up to as
/// many shards and has as many shards of its own where there are more.
const STRATA: u64 = 8;

/// The `count` slots of `instance`, ascending. With `h = stable_hash64("slots", instance)`, its
/// slot number `i`, from 0, is taken from the slots `s` with `s % 8 == (h + i) % 8`: the one not
/// yet taken whose `stable_hash64("slots", instance, s as two big-endian bytes)` is highest, of two
/// equal ones the lower.
///
/// So two instances rarely share many of theirs (shuffle sharding), none has two of its first eight
/// in one shard of a mesh whose shards are a multiple of eight, and a larger count keeps every slot
/// of a smaller one. More than 16,384 are as many as there are.
pub fn choose_slots(instance: &InstanceId, count: u16) -> Vec<Slot> {
    let name = instance.as_str().as_bytes();
    let first = stable_hash64(&[b"slots", name]) % STRATA;
    let mut ranked: Vec<(u64, u16)> = (0..SLOT_COUNT)
        .map(|slot| (stable_hash64(&[b"slots", name, &slot.to_be_bytes()]), slot))
        .collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut strata: Vec<_> = (0..STRATA)
        .map(|n| {
            let stratum = (first + n) % STRATA;
            ranked
                .iter()
                .map(|(_, s)| *s)
                .filter(move |s| u64::from(*s) % STRATA == stratum)
        })
        .collect();
    let in_turn = (0..usize::from(SLOT_COUNT)).filter_map(|i| strata[i % STRATA as usize].next());
    let mut slots: Vec<Slot> = in_turn.take(usize::from(count)).map(Slot).collect();
    slots.sort();
    slots
}
