//! Layers, examples and errors of the configuration files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Command, FromArgMatches};

use super::key::{Keys, Value};
use super::load::parse_role;
use super::overrides::Given;
use super::*;

fn given<F: RoleFile>(pairs: &[(&str, &str)]) -> Overrides<F> {
    let mut overrides = Overrides::<F>::default();
    for (path, text) in pairs {
        let given = Given {
            source: format!("--{path}"),
            text: (*text).to_owned(),
        };
        overrides.given.insert((*path).to_owned(), given);
    }
    overrides
}

fn flags<F: RoleFile>(args: &[&str]) -> Overrides<F> {
    let command = Overrides::<F>::augment_args(Command::new("gb6"));
    let matches = command
        .try_get_matches_from([&["gb6"], args].concat())
        .unwrap();
    Overrides::<F>::from_arg_matches(&matches).unwrap()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("role.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

fn the_example_says_the_defaults<F: RoleFile + std::fmt::Debug>() {
    let text = example::<F>();
    assert_eq!(parse_role::<F>(&text).unwrap(), F::default(), "{text}");
    // And every key stands in it, so that nothing is a default only because it was left out.
    let written: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(written, toml::Table::try_from(F::default()).unwrap());
    // Its words fit the house's line length.
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
}

#[test]
fn examples_say_the_defaults() {
    the_example_says_the_defaults::<DevFile>();
    the_example_says_the_defaults::<EdgeFile>();
    the_example_says_the_defaults::<RegionFile>();
    the_example_says_the_defaults::<GeoFile>();
}

fn keys_are_distinct<F: RoleFile>() {
    let mut seen = BTreeSet::new();
    for key in F::sections("", "").into_iter().flat_map(|s| s.keys) {
        assert!(seen.insert(key.flag()), "--{} is there twice", key.flag());
        assert!(
            seen.insert(key.variable()),
            "{} is there twice",
            key.variable()
        );
        assert!(
            key.doc.trim().ends_with('.'),
            "{}: {:?}",
            key.path(),
            key.doc
        );
    }
}

#[test]
fn flags_and_variables_are_distinct_and_keys_have_words() {
    keys_are_distinct::<DevFile>();
    keys_are_distinct::<EdgeFile>();
    keys_are_distinct::<RegionFile>();
    keys_are_distinct::<GeoFile>();
}

#[test]
fn a_file_goes_over_the_defaults_and_flags_over_the_file() {
    let (_dir, path) = file("name = \"e7\"\ndrain = \"3s\"\nhttp = \"127.0.0.1:9000\"\n");
    let config = load::<EdgeFile>(Some(&path), &Overrides::default()).unwrap();
    assert_eq!(config.drain, gb6_geo_config_plan::Millis(3_000));
    assert_eq!(config.default_instance, "demo");

    let config = load::<EdgeFile>(
        Some(&path),
        &flags(&[
            "--http",
            "127.0.0.1:9001",
            "--log-format",
            "json",
            "--mesh-geo",
            "g1@a:1, g2@b:2",
            "--dev-tokens",
            "true",
        ]),
    )
    .unwrap();
    assert_eq!(config.http.port(), 9001);
    assert_eq!(config.drain, gb6_geo_config_plan::Millis(3_000));
    assert_eq!(config.mesh.geo, ["g1@a:1", "g2@b:2"]);
    assert!(config.dev_tokens);
}

#[test]
fn the_name_stands_in_paths() {
    let (_dir, path) = file(&example::<EdgeFile>());
    let config = load::<EdgeFile>(Some(&path), &flags(&["--name", "e2"])).unwrap();
    assert_eq!(config.data_dir, "mesh-data/e2");
    assert_eq!(config.mesh.key, "mesh-data/certs/e2.key");
    let config = load::<EdgeFile>(
        Some(&path),
        &flags(&["--name", "e2", "--data-dir", "/x/{name}/y"]),
    )
    .unwrap();
    assert_eq!(config.data_dir, "/x/e2/y");
}

#[test]
fn mistakes_say_where_they_are() {
    let (_dir, path) = file("name = \"e1\"\nhtpp = \"127.0.0.1:1\"\n");
    let error = load::<EdgeFile>(Some(&path), &Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("role.toml: line 2: unknown key `htpp` (did you mean `http`?)"),
        "{error}"
    );

    let error = load::<EdgeFile>(None, &given(&[("http", "8080")]))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--http: `8080` is no address as in 127.0.0.1:8080"),
        "{error}"
    );

    let (_dir, path) = file(
        "name = \"E 1\"\ndev_tokens = true\nhttp = \"0.0.0.0:8080\"\ndrain = \"11m\"\n[mesh]\ngeo = [\"nowhere\"]\n",
    );
    let error = load::<EdgeFile>(Some(&path), &Overrides::default())
        .unwrap_err()
        .to_string();
    for key in ["name:", "dev_tokens:", "drain:", "mesh.geo:"] {
        assert!(error.contains(key), "{key} {error}");
    }

    let error =
        load::<GeoFile>(Some(&PathBuf::from("/no/such/file")), &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}

#[test]
fn values_from_texts() {
    assert_eq!(bool::from_text("yes"), Ok(toml::Value::Boolean(true)));
    assert!(bool::from_text("maybe").is_err());
    assert!(u32::from_text("-1").is_err());
    assert_eq!(
        Vec::<String>::from_text(""),
        Ok(toml::Value::Array(Vec::new()))
    );
    assert!(EdgeFile::sections("", "").iter().any(|s| s.name == "mesh"));
}

#[test]
fn bounds_are_kept_and_named() {
    for (flag, value, words) in [
        (
            "--clients-queue",
            "1KiB",
            "1KiB is out of range: 1MiB to 64MiB",
        ),
        ("--clients-ping", "1500ms", "whole seconds"),
        ("--clients-pong", "0", "0s is out of range: 1s to 1d"),
        ("--clients-write", "2d", "out of range"),
        ("--default-instance", "No", "no name of an instance"),
    ] {
        let error = load::<EdgeFile>(None, &flags(&[flag, value]))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(flag) && error.contains(words), "{error}");
    }
    for (flag, value) in [
        ("--shards-edge-lease", "10ms"),
        ("--shards-checkpoint-bytes", "5B"),
        ("--shards-checkpoint-interval", "0"),
        ("--shards-dedupe-ids-max", "0"),
    ] {
        let error = load::<RegionFile>(None, &flags(&[flag, value]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("out of range"), "{flag}: {error}");
    }
}

#[test]
fn what_is_shown_has_no_secrets() {
    let mut file = RegionFile::default();
    file.stores.map = "postgres://gb6:hunter2@db/gb6".into();
    let shown = toml::to_string(&file.shown()).unwrap();
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("postgres://gb6:***@db/gb6"), "{shown}");
    assert!(!format!("{file:?}").contains("hunter2"));
    let mut file = GeoFile::default();
    file.stores.directory.0 = vec!["postgres://gb6:hunter2@db/gb6".into()];
    let shown = toml::to_string(&file.shown()).unwrap();
    assert!(shown.contains("postgres://gb6:***@db/gb6"), "{shown}");
    assert!(!format!("{file:?}").contains("hunter2"));
}
