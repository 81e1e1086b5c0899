//! The backends that an instance asks: what is read of them, and what is refused.

use gb6_core_model::Role;
use gb6_core_model::snapshot::{OnFailure, Proxies};
use gb6_geo_config_plan::{EXAMPLE, read_instances};

use crate::{example_with, read};

const URL: &str = "url = \"https://app.example/ask?key=hunter2\"\n";

/// The example with this publish proxy, about which its rooms' publications are asked.
fn publish(keys: &str) -> String {
    let text = example_with("publish_proxy = false", "publish_proxy = true");
    format!("{text}\n[instances.demo.proxies.publish]\n{keys}")
}

fn connect(keys: &str) -> String {
    format!("{EXAMPLE}\n[instances.demo.proxies.connect]\n{keys}")
}

#[test]
fn what_a_file_says_is_what_is_asked() {
    let demo = read(&publish(URL)).unwrap().instances["demo"].clone();
    let proxy = demo.proxies.publish.unwrap();
    assert_eq!(proxy.url, "https://app.example/ask?key=hunter2");
    assert_eq!(
        (proxy.timeout_ms, proxy.on_failure),
        (1000, OnFailure::Refuse)
    );
    assert!(demo.proxies.connect.is_none() && demo.namespaces["room"].publish_proxy);

    let keys = "url = \"http://10.0.0.7:8080/\"\ntimeout = \"250ms\"\non_failure = \"allow\"\n\
                headers = [\"Cookie\", \"X-Real-IP\"]\nbinary_encoding = true\ninclude_meta = true\n\
                static_headers = { Authorization = \"Bearer hunter2\" }\n";
    let snapshot = read(&publish(keys)).unwrap();
    let proxy = snapshot.instances["demo"].proxies.publish.clone().unwrap();
    assert_eq!(
        (proxy.timeout_ms, proxy.on_failure),
        (250, OnFailure::Allow)
    );
    assert_eq!(proxy.headers, ["cookie", "x-real-ip"]);
    assert_eq!(proxy.static_headers["authorization"], "Bearer hunter2");
    assert!(proxy.binary_encoding && proxy.include_meta);

    // Nodes that ask nobody are not told where, or with which secret.
    let bare = snapshot.for_roles(&[Role::Region]);
    assert_eq!(bare.instances["demo"].proxies, Proxies::default());
    let edges = snapshot.for_roles(&[Role::Edge]);
    assert_eq!(edges.instances["demo"].proxies.publish, Some(proxy));
}

#[test]
fn mistakes_are_told_without_secrets() {
    for (text, want) in [
        (connect("timeout = \"1s\""), "missing key `url`"),
        (connect("url = \"hunter2\""), "at an https or http URL"),
        (
            connect("url = \"https://hunter2@app.example/\""),
            "at an https or http URL",
        ),
        (
            connect(&format!("{URL}timeout = \"9ms\"")),
            "9 is out of range: 10 to 5000",
        ),
        (
            connect(&format!("{URL}timeout = \"6s\"")),
            "6000 is out of range: 10 to 5000",
        ),
        (
            connect(&format!("{URL}headers = [\"a b\"]")),
            "no name of a header",
        ),
        (
            connect(&format!("{URL}headers = [\"Content-Length\"]")),
            "`Content-Length` is made anew",
        ),
        (
            connect(&format!(
                "{URL}static_headers = {{ X-Key = \"hunter2\\n\" }}"
            )),
            "printable ASCII",
        ),
        (
            connect(&format!("{URL}on_failure = \"alow\"")),
            "unknown value `alow` (did you mean `allow`?)",
        ),
        (
            connect(&format!("{URL}on_failure = \"allow\"")),
            "let in as a connection without a token",
        ),
        (
            connect(&format!("{URL}include_meta = true")),
            "no meta before this backend gives it some",
        ),
        (
            connect(&format!("{URL}endpoint = \"x\"")),
            "unknown key `endpoint`",
        ),
        (
            example_with("publish_proxy = false", "publish_proxy = true"),
            "no publish proxy that could be asked",
        ),
    ] {
        let problems = read(&text).unwrap_err().to_string();
        assert!(problems.contains(want), "{want}: {problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
    let open = example_with("allow = false", "allow = true");
    let text = format!("{open}\n[instances.demo.proxies.connect]\n{URL}on_failure = \"allow\"");
    assert!(read(&text).is_ok(), "an anonymous connection is let in");
}

#[test]
fn the_page_shows_a_configuration_that_is_one() {
    let page = include_str!("../../../../docs/proxies.md");
    let toml = page
        .split("```")
        .find_map(|part| part.strip_prefix("toml\n"));
    let instances = read_instances(toml.unwrap(), "here", |_| Err("none".to_owned())).unwrap();
    let demo = instances.values().next().unwrap();
    assert!(demo.proxies.connect.is_some() && demo.namespaces["room"].publish_proxy);
    assert_eq!(
        demo.proxies.publish.as_ref().unwrap().on_failure,
        OnFailure::Allow
    );
}
