//! Webhooks of an instance: how they are written, what is wrong with one, and which nodes are given
//! what.

use std::collections::BTreeSet;

use gb6_core_model::snapshot::Snapshot;
use gb6_core_model::{Role, WebhookEvent};
use gb6_geo_config_plan::{EXAMPLE, Problems, read_snapshot};

use crate::SECRET;

const URL: &str = "https://chat.example.org/hooks?token=deep-secret";

fn with(lines: &str) -> Result<Snapshot, Problems> {
    let text = format!("{EXAMPLE}\n[instances.demo.webhooks]\n{lines}\n");
    read_snapshot(&text, 1, |path| match path {
        "demo.secret" | "hook.secret" => Ok(format!("{SECRET}\n")),
        other => Err(format!("no file {other}")),
    })
}

#[test]
fn in_full_and_in_short() {
    let full = with(&format!(
        "url = \"{URL}\"\nsecret = \"{SECRET}\"\nevents = [\"unsubscribe\"]\ntimeout = \"2s\""
    ));
    let full = full.unwrap().instances["demo"].webhooks.clone().unwrap();
    assert_eq!((full.url.as_str(), full.secret.as_str()), (URL, SECRET));
    assert_eq!(full.events, BTreeSet::from([WebhookEvent::Unsubscribe]));
    assert_eq!(full.timeout_ms, 2_000);
    let short = with("url = \"http://10.0.0.7:8080/\"\nsecret_file = \"hook.secret\"");
    let short = short.unwrap().instances["demo"].webhooks.clone().unwrap();
    assert_eq!(short.secret, SECRET, "a line end does not belong to it");
    assert_eq!(short.events, WebhookEvent::ALL.iter().copied().collect());
    assert_eq!(short.timeout_ms, 5_000);
    let none = read_snapshot(EXAMPLE, 1, |_| Ok(SECRET.into())).unwrap();
    assert_eq!(none.instances["demo"].webhooks, None);
}

#[test]
fn what_is_wrong_is_told_without_the_secret() {
    let good = format!("url = \"{URL}\"\nsecret = \"{SECRET}\"\n");
    for (lines, want) in [
        (format!("secret = \"{SECRET}\""), "missing"),
        (format!("url = \"{URL}\""), "need `secret` or `secret_file`"),
        (
            format!("url = \"ftp://deep-secret/\"\nsecret = \"{SECRET}\""),
            "https URL",
        ),
        (
            format!("url = \"https://u:deep-secret@h/\"\nsecret = \"{SECRET}\""),
            "https URL",
        ),
        (
            format!("url = \"{URL}\"\nsecret = \"deep-secret\""),
            "the secret has 11 bytes, needed are 32",
        ),
        (
            format!("{good}secret_file = \"hook.secret\""),
            "either `secret` or `secret_file`, not both",
        ),
        (
            format!("url = \"{URL}\"\nsecret_file = \"nowhere\""),
            "no file nowhere",
        ),
        (format!("{good}events = []"), "no event would be told"),
        (
            format!("{good}events = [\"conect\"]"),
            "webhooks.events[0]: unknown value (known here: disconnect, unsubscribe)",
        ),
        (format!("{good}timeout = \"10ms\""), "out of range"),
        (format!("{good}timeout = \"31s\""), "out of range"),
        (format!("{good}retries = 3"), "unknown key `retries`"),
    ] {
        let told = with(&lines).expect_err(&lines).to_string();
        assert!(told.contains(want), "{lines}: {told}");
        assert!(
            told.contains(".webhooks") || told.starts_with("line "),
            "where: {told}"
        );
        assert!(
            !told.contains("deep-secret") && !told.contains(SECRET),
            "{told}"
        );
    }
}

#[test]
fn each_role_is_given_what_it_works_with() {
    let lines = format!("url = \"{URL}\"\nsecret = \"hooks-{SECRET}\"");
    let snapshot = with(&lines).unwrap();
    assert!(!format!("{snapshot:?}").contains("deep-secret"));
    for (roles, keys, hooks) in [
        (&[][..], false, false),
        (&[Role::Geo], false, false),
        (&[Role::Edge], true, false),
        (&[Role::Region], false, true),
        (&[Role::Region, Role::Edge], true, true),
    ] {
        let given = snapshot.for_roles(roles);
        let text = serde_json::to_string(&given).unwrap();
        assert_eq!(!given.instances["demo"].keys.is_empty(), keys, "{roles:?}");
        assert_eq!(text.contains("hooks-"), hooks, "{roles:?}");
        assert_eq!(text.contains("deep-secret"), hooks, "{roles:?}");
        let webhooks = given.instances["demo"].webhooks.as_ref().unwrap();
        assert_eq!(webhooks.events.len(), 2, "everybody knows what is told");
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), given);
    }
}
