//! Statuses of users: for how long they are kept, and which namespaces tell of them.

use gb6_core_model::snapshot::Snapshot;
use gb6_geo_config_plan::{EXAMPLE, Problems, read_snapshot};

use crate::SECRET;

/// The example with this time, and a namespace `status` with these lines.
fn with(ttl: &str, lines: &str) -> Result<Snapshot, Problems> {
    let table = format!("[instances.demo.namespaces.status]\n{lines}\n[regions.eu]");
    let text = EXAMPLE
        .replace(
            "user_status_ttl = \"0\"",
            &format!("user_status_ttl = \"{ttl}\""),
        )
        .replace("[regions.eu]", &table);
    read_snapshot(&text, 1, |_| Ok(SECRET.into()))
}

#[test]
fn they_are_kept_and_told_where_the_file_says_so() {
    let lines = "kind = \"signal\"\nallow_publish = \"nobody\"\nuser_status = true";
    let snapshot = with("31d", lines).expect("a good file");
    let demo = &snapshot.instances["demo"];
    assert_eq!(demo.user_status_ttl_ms, 31 * 24 * 60 * 60 * 1_000);
    assert!(demo.namespaces["status"].user_status && !demo.namespaces["room"].user_status);
    let without = with("1m", "").expect("a good file");
    let demo = &without.instances["demo"];
    assert_eq!(demo.user_status_ttl_ms, 60_000);
    assert!(!demo.namespaces["status"].user_status);
}

#[test]
fn nobody_can_publish_what_looks_like_a_status() {
    let told =
        with("1d", "kind = \"signal\"\nuser_status = true").expect_err("clients may publish");
    let told = told.to_string();
    assert!(told.contains("looks like somebody's status"), "{told}");
    assert!(told.contains("allow_publish = \"nobody\""), "{told}");
}
