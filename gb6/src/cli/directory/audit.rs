//! `gb6 ctl audit`: what was done to an organization, and whether the chain of it is whole.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use gb6_core_ports::Directory;
use gb6_core_ports::directory::{AuditEntry, Freshness, OrgId, PAGE_MAX, verify};
use serde::Serialize;

use super::{Desk, Place, Stale, org_id};
use crate::cli::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum AuditCommand {
    /// Show what was done to an organization, its instances and their keys
    List {
        #[command(flatten)]
        which: Which,
        /// The number behind which to begin
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        /// How many entries at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
        limit: u64,
    },
    /// Check that no entry was changed, left out or put in, and print the newest, to be kept elsewhere
    Verify {
        #[command(flatten)]
        which: Which,
        /// NUMBER:HASH as an earlier check printed it: shows whether the end was cut off since
        #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
        head: Option<Head>,
    },
    /// Take the months before one out of the audit and the usage of all customers, and print the tables that have
    /// them now, to be dumped and dropped (PostgreSQL)
    Detach {
        /// The first month that stays: YYYY-MM, in UTC
        #[arg(long, value_name = "MONTH", value_parser = month)]
        before: Month,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Which {
    /// The organization
    #[arg(value_parser = org_id)]
    org: OrgId,
    /// The customer whose tree it is in [default: itself]
    #[arg(long, value_name = "ORG", value_parser = org_id)]
    customer: Option<OrgId>,
    #[command(flatten)]
    stale: Stale,
    #[command(flatten)]
    place: Place,
}

/// The number and the hash of an entry.
type Head = (u64, [u8; 32]);

/// A month.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Month {
    year: u64,
    /// 1 to 12.
    month: u64,
}

impl Month {
    /// Its first moment in ms since 1970 (UTC; the inverse of [`date`], Howard Hinnant's `days_from_civil`).
    fn begins(self) -> u64 {
        let year = self.year - u64::from(self.month <= 2);
        let (era, of_era) = (year / 400, year % 400);
        let of_year = (153 * ((self.month + 9) % 12) + 2) / 5;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        (days - 719_468) * 86_400_000
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

/// A month of the years that an audit may have.
fn month(text: &str) -> Result<Month, String> {
    let digits = |text: &str, count| {
        let whole = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
        whole.then(|| text.parse().ok())?
    };
    let parse = || {
        let (year, month) = text.split_once('-')?;
        let month = Month {
            year: digits(year, 4)?,
            month: digits(month, 2)?,
        };
        let known = (2020..=2099).contains(&month.year) && (1..=12).contains(&month.month);
        known.then_some(month)
    };
    parse().ok_or_else(|| format!("`{text}` is no month: write one as in 2026-01, from 2020 on"))
}

fn head(text: &str) -> Result<Head, String> {
    let parse = || {
        let (number, hash) = text.split_once(':')?;
        let mut bytes = [0; 32];
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hash.get(2 * n..2 * n + 2)?, 16).ok()?;
        }
        Some((number.parse().ok().filter(|n| *n > 0)?, bytes))
    };
    parse().ok_or_else(|| "write NUMBER:HASH as `gb6 ctl audit verify` prints it".to_owned())
}

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

impl AuditCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            AuditCommand::List {
                which,
                after,
                limit,
            } => which.with(|desk, root, org| list(desk, root, org, (after, limit))),
            AuditCommand::Verify { which, head } => {
                which.with(|desk, root, org| check(desk, root, org, head.as_ref()))
            }
            AuditCommand::Detach { before, place } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |now| now.as_millis());
                // The present month is written to.
                if u128::from(before.begins()) > now {
                    let why =
                        anyhow!("--before {before} is in the future: the present month stays");
                    return Err(Failure::Usage(why));
                }
                place.with(|desk| detach(desk, before))
            }
        }
    }
}

impl Which {
    fn with(
        &self,
        ask: impl FnOnce(&Desk<'_>, &OrgId, &OrgId) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let root = self.customer.as_ref().unwrap_or(&self.org);
        self.place.read(&self.stale, |desk| {
            desk.organization(root, &self.org)?;
            ask(desk, root, &self.org)
        })
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    number: u64,
    at_ms: u64,
    actor: &'a str,
    action: &'a str,
    target: &'a str,
    version: u64,
    detail: &'a str,
    hash: String,
}

fn list(
    desk: &Desk<'_>,
    root: &OrgId,
    org: &OrgId,
    (mut after, limit): (u64, u64),
) -> Result<String, Failure> {
    let mut found: Vec<AuditEntry> = Vec::new();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    while found.len() < limit {
        let wanted = (limit - found.len()).min(PAGE_MAX);
        let entries = desk.directory.audit(root, org, after, wanted, desk.fresh)?;
        let Some(last) = entries.last() else { break };
        after = last.number;
        found.extend(entries);
    }
    let shown: Vec<Shown<'_>> = found
        .iter()
        .map(|entry| Shown {
            number: entry.number,
            at_ms: entry.at_ms,
            actor: &entry.actor,
            action: &entry.action,
            target: &entry.target,
            version: entry.version,
            detail: &entry.detail,
            hash: hex(&entry.hash),
        })
        .collect();
    desk.say(&shown, || {
        let mut out = String::new();
        for one in &shown {
            // Writing to a string can not fail. Whoever wrote them chose names and details.
            let _ = writeln!(
                out,
                "{:>6}  {}  {}  {}  {}  {}",
                one.number,
                utc(one.at_ms),
                one.actor.escape_debug(),
                one.action.escape_debug(),
                one.target.escape_debug(),
                one.detail.escape_debug()
            );
        }
        out
    })
}

fn check(
    desk: &Desk<'_>,
    root: &OrgId,
    org: &OrgId,
    earlier: Option<&Head>,
) -> Result<String, Failure> {
    let (mut count, mut end, mut seen) = (0_usize, None::<Head>, earlier.is_none());
    let mut fresh = desk.fresh;
    loop {
        let after = end.map_or(0, |(number, _)| number);
        let entries = desk.directory.audit(root, org, after, PAGE_MAX, fresh)?;
        let Some(first) = entries.first() else {
            // What a standby did not have yet, and the end, are the primary's.
            if fresh == Freshness::Current {
                break;
            }
            fresh = Freshness::Current;
            continue;
        };
        // Old months may have been taken away: what is left begins behind an entry that is not there.
        let begin = end.unwrap_or((first.number.saturating_sub(1), first.previous));
        seen |= earlier == Some(&begin);
        let new = verify(begin, &entries).map_err(|number| {
            anyhow!(
                "entry {number} of the audit of {org} does not fit: it was changed, or what was before it was \
                 left out or put in"
            )
        })?;
        seen |= entries.iter().any(|e| earlier == Some(&(e.number, e.hash)));
        count += entries.len();
        end = Some(new);
    }
    let stored = desk.directory.audit_head(root, org, Freshness::Current)?;
    // Where every month was taken away, an earlier check knows the end.
    if end.is_none() && stored.is_some() && stored.as_ref() == earlier {
        (end, seen) = (stored, true);
    }
    compare(org, end, stored)?;
    let Some((number, hash)) = end else {
        return Err(anyhow!("the audit of {org} has no entry").into());
    };
    if !seen {
        let wanted = earlier.map_or(0, |(number, _)| *number);
        let why = anyhow!(
            "the audit of {org} has no entry {wanted} with the hash that was given: its end was cut off, and \
             perhaps written anew"
        );
        return Err(why.into());
    }
    let hash = hex(&hash);
    let shown = serde_json::json!({
        "org": org.as_str(), "entries": count, "number": number, "hash": hash,
    });
    desk.say(&shown, || {
        format!("the audit of {org} is whole: {count} entries, the newest is\n{number}:{hash}\n")
    })
}

#[derive(Serialize)]
struct Away {
    database: String,
    table: String,
}

fn detach(desk: &Desk<'_>, before: Month) -> Result<String, Failure> {
    let mut away: Vec<Away> = Vec::new();
    for database in desk.directory.databases() {
        let tables = desk.directory.detach_months(&database, before.begins())?;
        away.extend(tables.into_iter().map(|table| Away {
            database: database.clone(),
            table,
        }));
    }
    desk.say(&away, || {
        if away.is_empty() {
            return format!("no month before {before} is there\n");
        }
        let mut out = "database  table, to be dumped and dropped\n".to_owned();
        for one in &away {
            // Writing to a string can not fail.
            let _ = writeln!(out, "{:<9} {}", one.database, one.table);
        }
        out
    })
}

/// Whether entries end where the directory says that they do.
fn compare(org: &OrgId, end: Option<Head>, stored: Option<Head>) -> anyhow::Result<()> {
    let number = |head: Option<Head>| head.map_or(0, |(number, _)| number);
    match (end, stored) {
        (Some(end), Some(stored)) if end == stored => Ok(()),
        (None, None) => Ok(()),
        (None, Some((number, _))) => bail!(
            "the audit of {org} has none of its {number} entries: all months of it were taken away (`gb6 ctl \
             audit detach`; then give --head as the check before that printed it), or entries are gone"
        ),
        // Something was done between the two readings.
        (end, stored) if number(stored) > number(end) => bail!(
            "the audit of {org} ends with entry {} and is to have {}: something was done meanwhile (run it \
             again), or entries are gone",
            number(end),
            number(stored)
        ),
        _ => {
            bail!("the newest entry of the audit of {org} is not the one that is noted as its end")
        }
    }
}

/// A time in ms since 1970 as people read it, in UTC.
fn utc(at_ms: u64) -> String {
    let (days, ms) = (at_ms / 86_400_000, at_ms % 86_400_000);
    let (year, month, day) = date(days);
    let seconds = ms / 1_000;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1_000
    )
}

/// The date of a day since 1970-01-01 (Gregorian; Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (at_ms, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_800_000_000_000, "2027-01-15T08:00:00.000Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(at_ms), want);
        }
    }

    #[test]
    fn months_begin_where_times_say() {
        for (text, begins) in [
            ("2020-01", "2020-01-01T00:00:00.000Z"),
            ("2024-02", "2024-02-01T00:00:00.000Z"),
            ("2024-03", "2024-03-01T00:00:00.000Z"),
            ("2026-12", "2026-12-01T00:00:00.000Z"),
            ("2099-10", "2099-10-01T00:00:00.000Z"),
        ] {
            let month = month(text).unwrap();
            assert_eq!(
                (utc(month.begins()).as_str(), &*month.to_string()),
                (begins, text)
            );
        }
        for bad in [
            "",
            "2026",
            "2026-1",
            "2026-13",
            "2026-00",
            "1999-01",
            "2026-+1",
            "2026-01-01",
        ] {
            assert!(month(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_audit_whose_months_are_all_away_is_told_from_one_that_ends_early() {
        let org = OrgId::parse("org_01ARYZ6S410000000000000000").unwrap();
        let said = |end, stored| compare(&org, end, stored).unwrap_err().to_string();
        let (earlier, stored) = (Some((3, [3; 32])), Some((7, [7; 32])));
        compare(&org, stored, stored).unwrap();
        assert!(said(None, stored).contains("none of its 7 entries: all months"));
        assert!(said(earlier, stored).contains("ends with entry 3 and is to have 7"));
        assert!(said(stored, earlier).contains("not the one that is noted"));
    }

    #[test]
    fn a_head_is_what_was_printed() {
        let hash = "0f".repeat(32);
        assert_eq!(head(&format!("7:{hash}")), Ok((7, [15; 32])));
        for bad in [
            "",
            "7",
            "7:",
            "x:00",
            &format!("0:{hash}"),
            &format!("7:+{}", &hash[1..]),
        ] {
            assert!(head(bad).is_err(), "{bad}");
        }
    }
}
