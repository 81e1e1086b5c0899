//! A checkpoint takes any bytes: the corpus of past findings, and one with everything in it that is
//! changed at every byte.

use gb6_core_wire::mesh::OwnerFrame;
use gb6_region_shard::{Admin, fuzz};

use crate::world::{World, publish, room, rules};

/// A checkpoint with rooms, ids, numbers, a seal and an erasure.
fn full() -> Vec<u8> {
    let mut world = World::new(rules());
    let link = world.attach(7);
    for number in 1..=4 {
        let mut one = publish(room(number as u32 % 2), number, 3, number);
        one.id = bytes::Bytes::from(format!("id-{number}"));
        world.frame(link, OwnerFrame::Publish(one));
        world.commit();
    }
    let admins = [
        Admin::Erase {
            room: room(1),
            offset: 1,
        },
        Admin::Seal {
            instance: "other".into(),
            epoch: 2,
            slots: vec![1],
        },
    ];
    for (token, admin) in (1..).zip(admins) {
        world.shard.admin(token, admin);
        assert_eq!(world.commit(), 1);
    }
    world.shard.checkpoint().1.to_vec()
}

#[test]
fn the_corpus_does_no_harm() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/checkpoint");
    let mut files = 0;
    for file in std::fs::read_dir(corpus).expect("a corpus") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("a file");
        (0..=bytes.len()).for_each(|end| fuzz::checkpoint(&bytes[..end]));
        files += 1;
    }
    assert!(files >= 5, "only {files} files");
}

#[test]
fn a_checkpoint_changed_anywhere_does_no_harm() {
    let whole = full();
    fuzz::checkpoint(&whole);
    for at in 0..whole.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff, whole[at] ^ 8] {
            let mut changed = whole.clone();
            changed[at] = byte;
            fuzz::checkpoint(&changed);
        }
    }
}
