//! The hashes that placement and names rest on. They are part of the format: documented, with
//! golden values, and never a library's default hasher.

use ring::digest;

use crate::ids::{InstanceId, Slot};

/// FNV-1a, 64 bits, over `parts` with a zero byte after each part, so that `("ab","c")` and
/// `("a","bc")` differ; then the 64-bit finalizer of MurmurHash3, because FNV's high bits alone
/// mix too little to rank slots by.
pub fn stable_hash64(parts: &[&[u8]]) -> u64 {
    let mut hash = StableHash::default();
    for part in parts {
        hash.part(part);
    }
    hash.finish()
}

/// [`stable_hash64`] part by part: what several hashes begin with is gone through once.
#[derive(Clone, Copy)]
struct StableHash(u64);

impl Default for StableHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl StableHash {
    fn part(&mut self, part: &[u8]) {
        for byte in part.iter().chain(&[0]) {
            self.0 ^= u64::from(*byte);
            self.0 = self.0.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(self) -> u64 {
        let mut h = self.0;
        h ^= h >> 33;
        h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 33;
        h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }
}

/// The slot of a room: among the instance's slots the one whose
/// `stable_hash64(instance, channel, slot as two big-endian bytes)` is highest (rendezvous
/// hashing); of two equal ones the lower slot. Adding a slot moves only the rooms that it wins.
/// `None` when the instance has no slots.
pub fn slot_of(instance: &InstanceId, channel: &str, slots: &[Slot]) -> Option<Slot> {
    let mut room = StableHash::default();
    room.part(instance.as_str().as_bytes());
    room.part(channel.as_bytes());
    slots.iter().copied().max_by_key(|slot| {
        let mut score = room;
        score.part(&slot.0.to_be_bytes());
        (score.finish(), std::cmp::Reverse(*slot))
    })
}

/// The stream epoch that clients see: the first 8 characters, in lower-case base 32 (RFC 4648
/// alphabet), of SHA-256 over instance, channel and generation. It follows from the name, so an
/// empty room has one without a record, and it changes only when a deleted room's name is used
/// again (`generation` + 1).
pub fn stream_epoch(instance: &InstanceId, channel: &str, generation: u32) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let d = sha256(&[
        instance.as_str().as_bytes(),
        channel.as_bytes(),
        &generation.to_be_bytes(),
    ]);
    let bits = u64::from_be_bytes([d[0], d[1], d[2], d[3], d[4], 0, 0, 0]);
    (0..8)
        .map(|i| ALPHABET[(bits >> (59 - 5 * i)) as usize & 31] as char)
        .collect()
}

/// The first 16 bytes of SHA-256 over `parts`, each behind its length: the key under which a
/// client's message id is remembered, long enough that two ids never share one.
pub fn digest128(parts: &[&[u8]]) -> [u8; 16] {
    let d = sha256(parts);
    let mut out = [0; 16];
    out.copy_from_slice(&d[..16]);
    out
}

/// SHA-256 over `parts`, each behind its length (four bytes, big-endian).
pub fn digest256(parts: &[&[u8]]) -> [u8; 32] {
    sha256(parts)
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut ctx = digest::Context::new(&digest::SHA256);
    for part in parts {
        ctx.update(&(part.len() as u32).to_be_bytes());
        ctx.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(ctx.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> InstanceId {
        InstanceId::from("demo")
    }

    #[test]
    // Computed by an independent program from the description above.
    fn golden_values_never_change() {
        assert_eq!(
            stable_hash64(&[b"demo", b"room:1"]),
            2_371_080_872_473_406_272
        );
        let slots: Vec<Slot> = [7, 2048, 4096, 9000, 16_383].map(Slot).to_vec();
        let got: Vec<u16> = (1..=6)
            .filter_map(|n| slot_of(&demo(), &format!("room:{n}"), &slots))
            .map(|s| s.0)
            .collect();
        assert_eq!(got, [4096, 16_383, 2048, 2048, 2048, 4096]);
        assert_eq!(stream_epoch(&demo(), "room:1", 0), "ptvck7js");
    }

    #[test]
    fn adding_a_slot_moves_only_what_it_wins() {
        let before: Vec<Slot> = (0..8).map(|n| Slot(n * 2000)).collect();
        let mut after = before.clone();
        after.push(Slot(16_001));
        let mut moved = 0;
        for n in 0..9000 {
            let name = format!("room:{n}");
            let (a, b) = (
                slot_of(&demo(), &name, &before),
                slot_of(&demo(), &name, &after),
            );
            if a != b {
                assert_eq!(b, Some(Slot(16_001)));
                moved += 1;
            }
        }
        assert!((800..1200).contains(&moved), "{moved} of 9000 moved");
    }

    #[test]
    fn parts_have_boundaries() {
        assert_ne!(stable_hash64(&[b"ab", b"c"]), stable_hash64(&[b"a", b"bc"]));
        assert_ne!(digest128(&[b"ab", b"c"]), digest128(&[b"a", b"bc"]));
        assert_ne!(
            stream_epoch(&demo(), "room:1", 0),
            stream_epoch(&demo(), "room:1", 1)
        );
    }
}
