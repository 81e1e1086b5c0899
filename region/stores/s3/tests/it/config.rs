//! URIs of stores: what they mean, and what is wrong with bad ones.

use std::time::Duration;

use gb6_region_stores_s3::Config;
use proptest::prelude::*;

fn s3(uri: &str) -> gb6_region_stores_s3::S3Config {
    match Config::parse(uri).expect(uri) {
        Config::S3(s3) => s3,
        Config::Directory(_) => panic!("{uri} is no directory"),
    }
}

#[test]
fn directories_are_paths() {
    for (uri, path) in [
        ("file:/var/lib/gb6/objects", "/var/lib/gb6/objects"),
        ("file:///var/lib/gb6/objects", "/var/lib/gb6/objects"),
        ("file:data/objects", "data/objects"),
    ] {
        match Config::parse(uri).expect(uri) {
            Config::Directory(directory) => assert_eq!(directory.path.to_str(), Some(path)),
            Config::S3(_) => panic!("{uri} is no bucket"),
        }
    }
}

#[test]
fn options_have_defaults_and_are_taken() {
    let plain = s3("s3://bucket");
    assert_eq!((&*plain.bucket, plain.prefix.is_none()), ("bucket", true));
    assert_eq!(plain.region, "us-east-1");
    assert!(!plain.path_style && !plain.allow_http && plain.server_checksums);
    assert_eq!(plain.deadline, Duration::from_secs(30));
    assert_eq!((plain.part_bytes, plain.parts_in_flight), (8 << 20, 4));
    let full = s3(
        "s3://my.bucket-1/gb6/eu/?endpoint=http://127.0.0.1:9000/&region=eu-central-1&access_key=AK&\
         secret_file=/run/secrets/s3%20key&path_style=false&allow_http=true&checksums=none&\
         deadline_ms=5000&part_bytes=5242880&parts_in_flight=2",
    );
    assert_eq!(full.prefix.as_ref().map(|p| p.as_str()), Some("gb6/eu"));
    assert_eq!(full.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(full.access_key.as_deref(), Some("AK"));
    let secret = full.secret_file.as_deref().and_then(|p| p.to_str());
    assert_eq!(secret, Some("/run/secrets/s3 key"));
    assert!(!full.path_style && full.allow_http && !full.server_checksums);
    assert_eq!(full.deadline, Duration::from_secs(5));
    assert_eq!((full.part_bytes, full.parts_in_flight), (5_242_880, 2));
    assert!(s3("s3://bucket?endpoint=https%3A%2F%2Fs3.example.com").path_style);
}

#[test]
fn what_is_wrong_is_said_with_what_is_right() {
    for (uri, said) in [
        ("", "file:/var/lib"),
        ("gcs://bucket", "file:/var/lib"),
        ("file:", "the path of a directory"),
        ("file:/a?fsync=no", "without options"),
        ("file://host/a", "file:/PATH"),
        ("s3://", "is no bucket"),
        ("s3://UPPER", "is no bucket"),
        ("s3://bucket/../x", "the prefix must be a key"),
        ("s3://bucket/a//b", "the prefix must be a key"),
        ("s3://bucket?colour=red", "no option \"colour\""),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?region=", "region is a word"),
        ("s3://bucket?endpoint=ftp://x", "endpoint is a URL"),
        ("s3://bucket?endpoint=localhost", "endpoint is a URL"),
        ("s3://bucket?endpoint=http://x/?a=b", "endpoint is a URL"),
        ("s3://bucket?endpoint=http://x", "allow_http=true"),
        ("s3://bucket?allow_http=maybe", "true or false"),
        ("s3://bucket?access_key=AK", "go together"),
        ("s3://bucket?secret_file=/x", "go together"),
        ("s3://bucket?secret_file=", "names no file"),
        ("s3://bucket?deadline_ms=10", "from 1000 to 600000"),
        ("s3://bucket?part_bytes=1024", "from 5242880"),
        ("s3://bucket?parts_in_flight=17", "from 1 to 16"),
        ("s3://bucket?checksums=md5", "sha256 or none"),
    ] {
        let error = Config::parse(uri).expect_err(uri);
        assert!(error.contains(said), "{uri}: {error}");
    }
}

#[test]
fn secrets_are_neither_taken_nor_shown() {
    for uri in [
        "s3://user:hunter2@bucket",
        "s3://bucket?secret=hunter2",
        "s3://bucket?secret_access_key=hunter2",
        "s3://bucket?password=hunter2",
        "s3://bucket?endpoint=https://u:hunter2@host",
        "hunter2hunter2hunter2hunter2",
        "s3://bucket?region=hunter2&region=hunter2",
    ] {
        let error = Config::parse(uri).expect_err(uri);
        assert!(
            !error.contains("hunter2\"") && !error.contains("hunter2@"),
            "{error}"
        );
    }
    let config = Config::parse("s3://bucket/eu?endpoint=https://host&access_key=AK&secret_file=/x");
    assert_eq!(
        config.expect("good").to_string(),
        "s3://bucket/eu at https://host"
    );
}

proptest! {
    /// Whatever is written: an answer, and one that can be written on a line. What is taken is shown
    /// without what followed its `?`.
    #[test]
    fn any_text_is_answered(text in "(s3://|file:|)[a-z0-9./:@?&=%_ \\u{e4}-]{0,60}") {
        match Config::parse(&text) {
            Ok(config) => prop_assert!(!config.to_string().contains('?')),
            Err(error) => prop_assert!(!error.is_empty() && !error.contains('\n')),
        }
    }
}
