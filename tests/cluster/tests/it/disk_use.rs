//! What a data directory takes of the disk while there is little in it: everything that is
//! allocated beforehand counts.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{Session, Target};
use gb6_tests_harness::process::{DevOptions, DevServer, PATIENCE, Scratch};

/// Blocks, not lengths of files.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_directory_stays_small() {
    let scratch = Scratch::new("fresh").unwrap();
    let data = scratch.path().join("data");
    let mut dev = DevServer::start(DevOptions::new(&data)).await.unwrap();
    // Ended in every way, and begun again each time: that makes new segments.
    for end in ["asked", "killed", "asked"] {
        let target = Target::new(&dev.ready.ws, &dev.ready.tokens["alice"], Dialect::Json);
        let (session, _pushes) = Session::connect(&target).await.unwrap();
        // Enough rooms for every shard to have some.
        for n in 0..40 {
            let room = format!("room:{n}");
            let data = format!("{{\"text\":\"{}\"}}", "hello ".repeat(20));
            session.room_publish(&room, None, &data).await.unwrap();
        }
        let shards = std::fs::read_dir(data.join("shards")).unwrap().count();
        assert_eq!(shards, 4);
        small(&data, "while it runs");
        drop(session);
        match end {
            "killed" => dev.process.kill().await.unwrap(),
            _ => {
                dev.process.terminate();
                dev.process.wait(PATIENCE).await.unwrap();
            }
        }
        small(&data, end);
        dev.restart().await.unwrap();
    }
    small(&data, "begun again");
}

fn small(data: &Path, when: &str) {
    let bytes = blocks(data);
    println!("{when}: {} kB", bytes / 1024);
    assert!(bytes < BYTES_MAX, "{when}: {bytes} bytes of blocks");
}

/// The bytes that the blocks below a path take; a file that is being replaced may be gone.
fn blocks(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        bytes += entries.map(|entry| blocks(&entry.path())).sum::<u64>();
    }
    bytes
}
