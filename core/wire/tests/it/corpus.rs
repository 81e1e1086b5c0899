//! Replays the corpus of the fuzzers: every file is an input that a parser must survive.

use std::path::Path;

fn replay(name: &str, parse: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        parse(&bytes);
        // Cut anywhere, it must be survived as well; long inputs are cut at fewer places.
        let step = 1 + bytes.len() / 64;
        for end in (0..bytes.len()).step_by(step) {
            parse(&bytes[..end]);
        }
        seen += 1;
    }
    assert!(
        seen >= 10,
        "{} holds only {seen} files",
        directory.display()
    );
}

#[test]
fn client_frames() {
    replay("client_frame", gb6_core_wire::fuzz::client_frame);
}

#[test]
fn mesh_frames() {
    replay("mesh_frame", gb6_core_wire::fuzz::mesh_frame);
}

#[test]
fn records() {
    replay("record", gb6_core_wire::fuzz::record);
}

#[test]
fn fossil_deltas() {
    replay("fossil", gb6_core_wire::fuzz::fossil_delta);
}

#[test]
fn tags_filters() {
    replay("filter", gb6_core_wire::fuzz::tags_filter);
}

#[test]
fn one_way() {
    replay("one_way", gb6_core_wire::fuzz::one_way);
}
