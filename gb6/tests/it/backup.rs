//! The procedure of docs/operations.md: stop, copy, restore, and everything is there.

use std::path::Path;
use std::process::Command;

use gb6_core_wire::client::Dialect;
use gb6_tests_harness::client::{LogContent, Session, Target, read_log};
use gb6_tests_harness::history::Recorder;

use crate::dev::dev;
use crate::{Node, block_on, printed, refused};

const ROOM: &str = "room:backup";

/// Publishes `texts` as alice with `token` and reads the room.
async fn publish(node: &Node, token: &str, texts: &[&str]) -> LogContent {
    let target = Target::new(node.text("ws"), token, Dialect::Json);
    let (session, _pushes) = Session::connect(&target).await.unwrap();
    for text in texts {
        let data = format!("{{\"text\":\"{text}\"}}");
        let published = session.room_publish(ROOM, Some(text), &data).await;
        published.unwrap();
    }
    read_log(&session, "alice", ROOM, false, &Recorder::new())
        .await
        .unwrap()
}

fn copy(dir: &Path, from: &str, to: &str) {
    let mut cp = Command::new("cp");
    let status = cp.args(["-a", from, to]).current_dir(dir).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_was_copied_as_the_procedure_says_is_there_after_restoring_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let node = Node::start(dev(dir.path()));
    let token = node.ready["tokens"]["alice"].as_str().unwrap().to_owned();
    let before = block_on(publish(&node, &token, &["one", "two", "three"]));
    assert_eq!((before.first, before.top), (1, 3));
    assert!(node.stop().0.success());
    copy(dir.path(), "data", "backup");

    // What comes later is not in the copy.
    let node = Node::start(dev(dir.path()));
    assert_eq!(block_on(publish(&node, &token, &["later"])).top, 4);
    assert!(node.stop().0.success());

    std::fs::rename(at("data"), at("data.broken")).unwrap();
    copy(dir.path(), "backup", "data");
    // The index need not be in it.
    std::fs::remove_dir_all(at("data/rooms")).unwrap();
    let whole = printed(dir.path(), &["log", "verify", "data"]);
    assert_eq!(whole.matches(": whole;").count(), 4, "{whole}");
    let node = Node::start(dev(dir.path()));
    // The token and the message ids are those of before.
    assert_eq!(block_on(publish(&node, &token, &["two"])), before);
    assert_eq!(block_on(publish(&node, &token, &["four"])).top, 4);
    assert!(node.stop().0.success());

    // A copy of the segments alone is none.
    std::fs::remove_file(at("backup/record-keys.json")).unwrap();
    let args = ["dev", "--data-dir", "backup", "--http", "127.0.0.1:0"];
    let said = refused(dir.path(), &args, 1);
    assert!(said.contains("record-keys.json is gone"), "{said}");
}
