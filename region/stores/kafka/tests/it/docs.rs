//! The page about the log on Kafka, held against the code.

use gb6_region_stores_kafka::Config;
use gb6_region_stores_kafka::frame::{FRAME_HEADER_BYTES, FRAME_VERSION};

const PAGE: &str = include_str!("../../../../../docs/kafka.md");

/// The rows of the table whose first column is headed `head`.
fn rows(head: &str) -> Vec<Vec<&'static str>> {
    let begin = format!("| {head} |");
    let table = PAGE.lines().skip_while(|line| !line.starts_with(&begin));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_option_of_the_page_exists_with_its_default() {
    let plain = Config::parse("kafka://a:1").expect("a URI");
    let mut tried = 0;
    for row in rows("option") {
        for option in row[0].split(", ").map(|name| name.trim_matches('`')) {
            let default = row[1].trim_matches('`');
            let error = Config::parse(&format!("kafka://a:1?{option}=!"));
            let error = format!("{error:?}");
            assert!(!error.contains("no option"), "{option}: {error}");
            if row[1].starts_with('`') && option != "mechanism" {
                let same = Config::parse(&format!("kafka://a:1?{option}={default}"));
                assert_eq!(same.expect(option), plain, "{option}={default}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 7, "the table is missing");
}

#[test]
fn the_message_is_as_the_page_says() {
    let fields = rows("byte");
    let mut at = 0;
    for field in &fields {
        assert_eq!(field[0], at.to_string(), "{field:?}");
        at += field[1].parse::<usize>().unwrap_or(0);
    }
    assert_eq!(at, FRAME_HEADER_BYTES);
    let version = format!("version, {FRAME_VERSION}");
    assert!(fields.iter().any(|field| field[2] == version));
}
