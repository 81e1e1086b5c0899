//! The keys: what lies where, and that nothing of one region, instance or room lies within
//! another's range.
//!
//! Every key begins with the base: the configured prefix and the region's name. Behind it:
//!
//! | key | value |
//! |---|---|
//! | `a` shard | how far the shard's index is: see `applied.rs` |
//! | `e` instance, shard, generation, channel, first offset, position of it | a run of entries |
//! | `g` | when versions were last collected |
//! | `i` shard, generation, instance | a byte: the shard has entries of this instance |
//! | `p` number | what a check writes and removes |
//!
//! Names are ended by `00 01`, and a zero byte in one is `00 ff`, so that no name is a prefix of
//! another's key and names keep their order. Numbers are big-endian: 4 bytes for a shard, 8 for the
//! others. A run is ordered by its first offset; the position behind it makes the key its own, for a
//! record of the log is indexed once in a generation, so that a write reads no runs and changes none.
//!
//! Of a shard one key is changed by every transaction, whichever rooms that is about: `a`. Its shard has one
//! writer, whose transactions follow each other and have up to 4,096 entries each. So it is changed as
//! often as there are transactions and not messages: at most 40 times a second while the index keeps up
//! (the indexer pauses for 50 ms after one or two), and behind it by transactions that are full.

use gb6_core_model::{ChannelKey, Offset, Position, ShardId};
use gb6_core_ports::runs::{self, Positions};

use crate::commit::Writes;

const APPLIED: u8 = b'a';
const ENTRY: u8 = b'e';
const COLLECTED: u8 = b'g';
const INSTANCE: u8 = b'i';
const PROBE: u8 = b'p';

/// A range of keys: from, up to and without.
pub(crate) type Range = std::ops::Range<Vec<u8>>;

/// Makes the keys of one region.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    base: Vec<u8>,
}

impl Keys {
    pub(crate) fn new(prefix: &str, region: &str) -> Self {
        let mut base = Vec::new();
        name(&mut base, prefix.as_bytes());
        name(&mut base, region.as_bytes());
        Self { base }
    }

    fn of(&self, kind: u8, room: usize) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.base.len() + 1 + room);
        key.extend_from_slice(&self.base);
        key.push(kind);
        key
    }

    /// Where the state of a shard's index lies.
    pub(crate) fn applied(&self, shard: ShardId) -> Vec<u8> {
        let mut key = self.of(APPLIED, 4);
        key.extend_from_slice(&shard.0.to_be_bytes());
        key
    }

    /// Where it lies when versions were last collected.
    pub(crate) fn collected(&self) -> Vec<u8> {
        self.of(COLLECTED, 0)
    }

    /// A key that nothing else uses.
    pub(crate) fn probe(&self, number: u64) -> Vec<u8> {
        let mut key = self.of(PROBE, 8);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    /// The mark that a shard has entries of an instance.
    pub(crate) fn mark(&self, shard: ShardId, generation: u64, instance: &[u8]) -> Vec<u8> {
        let mut key = self.of(INSTANCE, 12 + instance.len());
        key.extend_from_slice(&shard.0.to_be_bytes());
        key.extend_from_slice(&generation.to_be_bytes());
        key.extend_from_slice(instance);
        key
    }

    /// The marks of a shard, of all generations.
    pub(crate) fn marks(&self, shard: ShardId) -> Range {
        let mut key = self.of(INSTANCE, 4);
        key.extend_from_slice(&shard.0.to_be_bytes());
        below(key)
    }

    /// The generation and the instance of a mark.
    pub(crate) fn read_mark<'a>(&self, key: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let rest = key.strip_prefix(self.of(INSTANCE, 0).as_slice())?;
        let (generation, instance) = rest.get(4..)?.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*generation), instance))
    }

    /// All entries of an instance in one generation of a shard.
    pub(crate) fn entries(&self, instance: &[u8], shard: ShardId, generation: u64) -> Range {
        below(self.instance(instance, shard, generation))
    }

    fn instance(&self, instance: &[u8], shard: ShardId, generation: u64) -> Vec<u8> {
        let mut key = self.of(ENTRY, instance.len() + 14 + 300);
        name(&mut key, instance);
        key.extend_from_slice(&shard.0.to_be_bytes());
        key.extend_from_slice(&generation.to_be_bytes());
        key
    }

    /// The keys of a room in one generation of its shard.
    pub(crate) fn room(&self, shard: ShardId, generation: u64, room: &ChannelKey) -> RoomKeys {
        let mut key = self.instance(room.instance.as_str().as_bytes(), shard, generation);
        name(&mut key, room.channel.as_str().as_bytes());
        RoomKeys(key)
    }
}

/// Makes the keys of one room's runs.
#[derive(Clone, Debug)]
pub(crate) struct RoomKeys(Vec<u8>);

impl RoomKeys {
    /// The key of the run that begins with the entry `first`, which lies at `position`.
    pub(crate) fn run(&self, first: Offset, position: Position) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + 16);
        key.extend_from_slice(&self.0);
        key.extend_from_slice(&first.to_be_bytes());
        key.extend_from_slice(&position.to_be_bytes());
        key
    }

    /// The runs that hold `positions`, as they are written.
    pub(crate) fn runs(&self, positions: &Positions) -> Writes {
        let runs = runs::cut(positions).into_iter();
        runs.map(|(first, run)| {
            let position = run.first().copied().unwrap_or_default();
            (self.run(first, position), Some(runs::encode(&run)))
        })
        .collect()
    }

    /// The end of the room's keys.
    pub(crate) fn end(&self) -> Vec<u8> {
        below(self.0.clone()).end
    }

    /// Where the runs end that begin with `last` or before.
    pub(crate) fn end_of(&self, last: Offset) -> Vec<u8> {
        match last.checked_add(1) {
            Some(next) => self.run(next, 0),
            None => self.end(),
        }
    }
}

/// The first offset that a run's key names.
pub(crate) fn first_of(key: &[u8]) -> Option<Offset> {
    let (rest, _) = key.split_last_chunk::<8>()?;
    rest.last_chunk::<8>().map(|word| u64::from_be_bytes(*word))
}

fn name(key: &mut Vec<u8>, name: &[u8]) {
    for byte in name {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 1]);
}

/// All keys that begin with `prefix`, which has a byte below 255.
fn below(prefix: Vec<u8>) -> Range {
    let mut end = prefix.clone();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    prefix..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_model::{Channel, InstanceId};
    use proptest::prelude::*;

    fn room(instance: &str, channel: &str) -> ChannelKey {
        ChannelKey::new(
            InstanceId::from(instance),
            Channel::parse(channel).expect("a channel's name"),
        )
    }

    /// Names that are prefixes of each other, and any others: zero bytes and 255 too.
    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ab\u{0}\u{1}]{0,4}",
            Just("a\u{ff}".to_owned()),
            any::<String>()
        ]
    }

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..3_u64,
            Just(255),
            Just(256),
            Just(u64::MAX - 1),
            Just(u64::MAX),
            any::<u64>()
        ]
    }

    fn any_shard() -> impl Strategy<Value = ShardId> {
        prop_oneof![0..3_u32, Just(u32::MAX), any::<u32>()].prop_map(ShardId)
    }

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Place {
        region: String,
        instance: String,
        shard: ShardId,
        generation: u64,
        channel: String,
    }

    fn any_place() -> impl Strategy<Value = Place> {
        let channel = prop_oneof!["[ab!~]{1,3}", "[!-~]{1,20}"];
        (any_name(), any_name(), any_shard(), any_number(), channel).prop_map(
            |(region, instance, shard, generation, channel)| Place {
                region,
                instance,
                shard,
                generation,
                channel,
            },
        )
    }

    fn keys_of(place: &Place) -> RoomKeys {
        Keys::new("gb6", &place.region).room(
            place.shard,
            place.generation,
            &room(&place.instance, &place.channel),
        )
    }

    #[test]
    fn ranges_of_a_prefix_end_behind_it() {
        assert_eq!(below(vec![1, 2]), vec![1, 2]..vec![1, 3]);
        assert_eq!(below(vec![1, 255, 255]), vec![1, 255, 255]..vec![2]);
    }

    #[test]
    fn an_instance_whose_name_begins_with_another_s_lies_outside_its_range() {
        let keys = Keys::new("gb6", "eu");
        let range = keys.entries(b"a", ShardId(1), 7);
        let other = keys.room(ShardId(1), 7, &room("ab", "b")).run(1, 1);
        assert!(!range.contains(&other));
        assert!(range.contains(&keys.room(ShardId(1), 7, &room("a", "bb")).run(1, 1)));
    }

    proptest! {
        #[test]
        fn a_room_s_runs_are_ordered_by_offset_and_lie_in_its_range(
            place in any_place(), a in any_number(), b in any_number(), p in any_number(), q in any_number(),
        ) {
            let keys = keys_of(&place);
            let (one, other) = (keys.run(a, p), keys.run(b, q));
            prop_assert_eq!(one.cmp(&other), (a, p).cmp(&(b, q)));
            prop_assert_eq!(first_of(&one), Some(a));
            prop_assert!(keys.run(0, 0) <= one && one < keys.end());
            prop_assert_eq!(one < keys.end_of(b), a <= b);
            let of_instance = Keys::new("gb6", &place.region)
                .entries(place.instance.as_bytes(), place.shard, place.generation);
            prop_assert!(of_instance.contains(&one));
        }

        #[test]
        fn rooms_instances_generations_shards_and_regions_do_not_mix(
            one in any_place(), other in any_place(), mut mixed in any_place(), part in 0..5,
            offset in any_number(), position in any_number(),
        ) {
            // Two places that differ in one thing are the hard case.
            let from = mixed.clone();
            mixed = one.clone();
            match part {
                0 => mixed.region = from.region,
                1 => mixed.instance = from.instance,
                2 => mixed.shard = from.shard,
                3 => mixed.generation = from.generation,
                _ => mixed.channel = from.channel,
            }
            for other in [other, mixed] {
                let key = keys_of(&other).run(offset, position);
                let keys = keys_of(&one);
                let inside = keys.run(0, 0) <= key && key < keys.end();
                prop_assert_eq!(inside, one == other);
                let region = Keys::new("gb6", &one.region);
                let of_instance = region.entries(one.instance.as_bytes(), one.shard, one.generation);
                let same = (&one.region, &one.instance, one.shard, one.generation)
                    == (&other.region, &other.instance, other.shard, other.generation);
                prop_assert_eq!(of_instance.contains(&key), same);
            }
        }

        #[test]
        fn marks_are_found_by_their_shard_and_read_back(
            region in any_name(), instance in any_name(), shard in any_shard(), other in any_shard(),
            generation in any_number(),
        ) {
            let keys = Keys::new("gb6", &region);
            let mark = keys.mark(shard, generation, instance.as_bytes());
            prop_assert_eq!(keys.marks(other).contains(&mark), shard == other);
            prop_assert_eq!(keys.read_mark(&mark), Some((generation, instance.as_bytes())));
            prop_assert!(keys.read_mark(&keys.applied(shard)).is_none());
        }

        #[test]
        fn any_bytes_can_be_read_as_a_key(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let keys = Keys::new("gb6", "eu");
            first_of(&bytes);
            keys.read_mark(&bytes);
            let mut mark = keys.marks(ShardId(0)).start;
            mark.extend(bytes);
            keys.read_mark(&mark);
        }
    }
}
