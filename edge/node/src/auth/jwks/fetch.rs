//! The task that fetches one key set: when, from where, and what becomes of failures.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gb6_core_outbound::{Limits, Request, Target};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::Instant;

use super::disk::{self, Kept};
use super::set::{SET_BYTES_MAX, parse_key_set};
use super::{KeySets, Set};
use crate::auth::keys::Fetched;

/// How long a set is used before it is fetched again, where its server does not say.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// The shortest and the longest time that a server may say.
const FRESH_MIN: Duration = Duration::from_secs(60);
const FRESH_MAX: Duration = Duration::from_secs(24 * 3600);
/// Waits after failures: doubled from the one to the other.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LONGEST: Duration = Duration::from_secs(5 * 60);

/// Keeps one set fresh until it is not placed any more.
pub(super) async fn run(sets: Weak<KeySets>, set: Arc<Set>) {
    let Some(mut next) = begin(&sets, &set).await else {
        return;
    };
    let mut failures = 0;
    let mut last: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = set.wanted.notified() => {
                let Some(sets) = sets.upgrade() else { return };
                let pause = sets.timing.asked_at_most_every;
                drop(sets);
                if let Some(last) = last {
                    tokio::time::sleep_until(last + pause).await;
                }
            }
        }
        let Some(sets) = sets.upgrade() else { return };
        last = Some(Instant::now());
        let number = {
            let mut state = set.state.lock();
            state.begun += 1;
            state.begun
        };
        let fetched = fetch(&sets, &set).await;
        let well = fetched.is_ok();
        let wait = match fetched {
            Ok(fresh) => {
                failures = 0;
                fresh.mul_f64(rand::random_range(0.8..1.0))
            }
            Err(Failure { result, why }) => {
                sets.metrics.fetches.with(&[result]).inc();
                let (instance, url) = (&set.instance, shown(&set.url));
                tracing::warn!(%instance, url, why, "the key set was not fetched; what is known of it stays");
                drop_what_is_old(&sets, &set);
                failures += 1;
                let wait = RETRY_FIRST.saturating_mul(1 << failures.min(8));
                wait.min(RETRY_LONGEST)
                    .mul_f64(rand::random_range(0.5..1.0))
            }
        };
        next = Instant::now() + wait;
        set.ended.send_modify(|ended| {
            ended.last = number;
            if well {
                ended.well = number;
            }
        });
    }
}

/// The URL without its query, which may hold a secret.
fn shown(url: &str) -> &str {
    url.split_once('?').map_or(url, |(path, _)| path)
}

/// Takes what the disk has; when to fetch first.
async fn begin(sets: &Weak<KeySets>, set: &Arc<Set>) -> Option<Instant> {
    let dir = sets.upgrade()?.dir.clone();
    let now = Instant::now();
    let Some(dir) = dir else {
        return Some(now);
    };
    let instance = set.instance.clone();
    let loaded = tokio::task::spawn_blocking(move || disk::load(&dir, &instance)).await;
    let sets = sets.upgrade()?;
    let kept = match loaded {
        Ok(Ok(Some(kept))) if kept.url == set.url => kept,
        Ok(Ok(_)) | Err(_) => return Some(now),
        Ok(Err(error)) => {
            tracing::warn!(instance = %set.instance, %error, "the key set on disk is of no use");
            return Some(now);
        }
    };
    let age = unix_ms().saturating_sub(kept.fetched_unix_ms);
    if u128::try_from(age).is_ok_and(|age| age < sets.timing.trusted_for.as_millis())
        && let Ok(parsed) = parse_key_set(kept.body.as_bytes())
    {
        take(
            &sets,
            set,
            Fetched::Keys(parsed.keys.into()),
            kept.fetched_unix_ms,
        );
    }
    Some(now)
}

fn take(sets: &KeySets, set: &Set, fetched: Fetched, fetched_unix_ms: i64) {
    {
        let mut state = set.state.lock();
        state.fetched = fetched;
        state.fetched_unix_ms = fetched_unix_ms;
    }
    sets.changed();
}

/// Keys that nobody has vouched for in long are trusted no more.
fn drop_what_is_old(sets: &KeySets, set: &Set) {
    let fetched = set.state.lock().fetched_unix_ms;
    let age = unix_ms().saturating_sub(fetched);
    if fetched > 0
        && u128::try_from(age).is_ok_and(|age| age >= sets.timing.trusted_for.as_millis())
    {
        tracing::error!(instance = %set.instance, "its fetched keys are too old to be trusted");
        take(sets, set, Fetched::Missing, 0);
    }
}

struct Failure {
    /// A short name for metrics.
    result: &'static str,
    why: String,
}

impl Failure {
    fn of(result: &'static str, why: impl ToString) -> Self {
        Self {
            result,
            why: why.to_string(),
        }
    }
}

/// Fetches the set once; how long it is fresh.
async fn fetch(sets: &KeySets, set: &Set) -> Result<Duration, Failure> {
    let target = Target::parse(&set.url).map_err(|error| Failure::of(error.name(), error))?;
    let mut headers = HeaderMap::new();
    let accept = "application/jwk-set+json, application/json";
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("gb6"));
    let request = Request {
        method: Method::GET,
        target,
        headers,
        body: Bytes::new(),
    };
    let limits = Limits {
        deadline: sets.timing.deadline,
        body_bytes_max: SET_BYTES_MAX,
    };
    let response = sets.outbound.send(request, limits).await;
    let response = response.map_err(|error| Failure::of(error.name(), error))?;
    if response.status != StatusCode::OK {
        return Err(Failure::of(
            "status",
            format!("the answer has status {}", response.status.as_u16()),
        ));
    }
    let body = response.body;
    let parsed = parse_key_set(&body).map_err(|error| Failure::of("no_set", error))?;
    for (place, why) in &parsed.refused {
        tracing::info!(instance = %set.instance, place, why, "a key of the set is left out");
    }
    sets.metrics.refused.inc_by(parsed.refused.len() as u64);
    sets.metrics.fetches.with(&["fetched"]).inc();
    let fetched_unix_ms = unix_ms();
    take(
        sets,
        set,
        Fetched::Keys(parsed.keys.into()),
        fetched_unix_ms,
    );
    keep(sets, set, &body, fetched_unix_ms).await;
    Ok(freshness(&response.headers))
}

/// Writes the set to the disk. Without that it is only gone at the next start.
async fn keep(sets: &KeySets, set: &Set, body: &[u8], fetched_unix_ms: i64) {
    let (Some(dir), Ok(body)) = (sets.dir.clone(), std::str::from_utf8(body)) else {
        return;
    };
    let kept = Kept {
        url: set.url.clone(),
        fetched_unix_ms,
        body: body.to_owned(),
    };
    let instance = set.instance.clone();
    let stored = tokio::task::spawn_blocking(move || disk::store(&dir, &instance, &kept)).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(instance = %set.instance, %error, "the key set can not be kept on disk");
    }
}

/// How long an answer is fresh (RFC 9111 section 4.2.1: `max-age`, less its `Age`), within bounds.
fn freshness(headers: &HeaderMap) -> Duration {
    let seconds = |name, prefix: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values
            .flat_map(|v| v.split(','))
            .find_map(|part| {
                let part = part.trim();
                let head = part.get(..prefix.len())?;
                head.eq_ignore_ascii_case(prefix)
                    .then(|| &part[prefix.len()..])
            })
            .and_then(|n| n.trim_matches('"').parse::<u64>().ok())
    };
    let age = seconds(header::AGE, "").unwrap_or(0);
    let fresh = seconds(header::CACHE_CONTROL, "max-age=")
        .map_or(FRESH, |max| Duration::from_secs(max.saturating_sub(age)));
    fresh.clamp(FRESH_MIN, FRESH_MAX)
}

fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_an_answer_is_fresh() {
        let fresh = |lines: &[(header::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_static(value));
            }
            freshness(&headers).as_secs()
        };
        use header::{AGE, CACHE_CONTROL};
        assert_eq!(fresh(&[]), 600);
        assert_eq!(fresh(&[(CACHE_CONTROL, "public, Max-Age=3600")]), 3600);
        assert_eq!(
            fresh(&[(CACHE_CONTROL, "max-age=3600"), (AGE, "600")]),
            3000
        );
        assert_eq!(fresh(&[(CACHE_CONTROL, "max-age=1")]), 60);
        assert_eq!(fresh(&[(CACHE_CONTROL, "no-store")]), 600);
        assert_eq!(fresh(&[(CACHE_CONTROL, "max-age=x")]), 600);
        assert_eq!(fresh(&[(CACHE_CONTROL, "max-age=99999999999")]), 86_400);
    }

    #[test]
    fn a_query_is_not_shown() {
        assert_eq!(shown("https://a.b/c?key=s3cret"), "https://a.b/c");
    }
}
