//! Is this machine's clock that of the server? Signatures carry the time, and servers refuse what is 15
//! minutes off.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gb6_core_ports::Check;
use tokio::runtime::Handle;

use crate::config::S3Config;

/// How far the clocks may be apart, in seconds: a third of what servers allow.
const SKEW_MAX: u64 = 300;

/// Asks the server for anything at all and compares the time of its answer; so it also says whether the
/// server is reached.
pub(crate) fn clock(config: &S3Config, runtime: &Handle) -> Check {
    let url = match &config.endpoint {
        Some(endpoint) => endpoint.clone(),
        None => format!("https://s3.{}.amazonaws.com", config.region),
    };
    let what = format!("{config}: reached, and its clock");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer: Result<_, reqwest::Error> = runtime.block_on(async {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        client.head(&url).send().await
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let mut deepest: &dyn std::error::Error = &error;
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            return Check::bad(what, format!("{url} does not answer: {deepest}"));
        }
    };
    let date = answer
        .headers()
        .get("date")
        .and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(seconds_of) else {
        return Check::good(what, "reached; it does not tell the time");
    };
    let ours = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    match ours.abs_diff(theirs) {
        apart @ 0..=SKEW_MAX => Check::good(what, format!("{apart} s apart")),
        apart => Check::bad(
            what,
            format!(
                "the clocks are {apart} s apart: set the clock of this machine, or the server's"
            ),
        ),
    }
}

/// Seconds since 1970 of a date as HTTP has it (RFC 9110, section 5.6.7, IMF-fixdate), such as
/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn seconds_of(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = months.iter().position(|name| *name == month)? as u64;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (
        clock.next()?.ok()?,
        clock.next()?.ok()?,
        clock.next()?.ok()?,
    );
    let good =
        (1970..10_000).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    if !good || second > 60 {
        return None;
    }
    // Years that begin in March: the leap day is the last of one.
    let (y, m) = match month {
        0 | 1 => (year - 1, month + 10),
        _ => (year, month - 2),
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 23:59:59 GMT", Some(1_709_251_199)),
            ("Fri, 01 Mar 2024 00:00:00 GMT", Some(1_709_251_200)),
            ("Fri, 01 Mar 0001 00:00:00 GMT", None),
            ("Fri, 01 Xyz 2024 00:00:00 GMT", None),
            ("Fri, 01 Mar 2024 25:00:00 GMT", None),
            ("Fri, 01 Mar 2024 00:00 GMT", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(text), seconds, "{text}");
        }
    }
}
