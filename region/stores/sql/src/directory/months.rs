//! The months of the audit and of usage: on PostgreSQL each has a table of its own, so that old ones are
//! taken away at once, without a scan. Made ahead, and where a time needs one that is not there.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use gb6_core_ports::directory::DirectoryError;

use super::Shard;
use crate::db::Progress;
use crate::fault::Fault;
use crate::pool::Session;
use crate::value::Statement;

/// The tables that have months.
const TABLES: [&str; 2] = ["audit_entries", "usage_facts"];
/// Months that are made ahead.
const AHEAD: u32 = 3;
const DAY_MS: u64 = 86_400_000;

const LOCK: Statement = Statement::both("months_lock", "SELECT pg_advisory_xact_lock(7377431802)");
const HAS: Statement = Statement::both(
    "months_has",
    "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
     WHERE c.relname = $1 AND c.relnamespace = current_schema()::regnamespace",
);
const ALL: Statement = Statement::both(
    "months_all",
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
     WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1",
);
/// Those that were taken away and not dropped yet.
const DETACHED: Statement = Statement::both(
    "months_detached",
    "SELECT relname FROM pg_class \
     WHERE relkind = 'r' AND NOT relispartition AND relnamespace = current_schema()::regnamespace \
     AND relname ~ '^(audit_entries|usage_facts)_[0-9]{4}_[0-9]{2}_detached(_[0-9]+)?$' ORDER BY 1",
);

/// A month: its number from year 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Month(u32);

impl Month {
    /// The month of a time (UTC); by the algorithm `civil_from_days` of H. Hinnant, "chrono-Compatible
    /// Low-Level Date Algorithms".
    pub(super) fn of(at_ms: u64) -> Self {
        let days = at_ms / DAY_MS + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // From March on.
        let month = (5 * day + 2) / 153;
        let (month, carry) = match month {
            0..=9 => (month + 2, 0),
            _ => (month - 10, 1),
        };
        Self(((era * 400 + year + carry) * 12 + month) as u32)
    }

    fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its first moment, in ms since 1970; by `days_from_civil`.
    fn begins(self) -> u64 {
        let (year, month) = (u64::from(self.0 / 12), u64::from(self.0 % 12) + 1);
        let year = if month <= 2 { year - 1 } else { year };
        let from_march = (month + 9) % 12;
        let (era, of_era) = (year / 400, year % 400);
        let day = (153 * from_march + 2) / 5;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day;
        (days - 719_468) * DAY_MS
    }

    /// The name of its table.
    fn table(self, of: &str) -> String {
        format!("{of}_{:04}_{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

/// The months that a database is known to have.
#[derive(Debug, Default)]
pub(super) struct Months(Mutex<BTreeSet<Month>>);

impl Months {
    /// Makes the tables of these times' months, where they are missing.
    pub(super) async fn ensure(
        &self,
        shard: &Shard,
        times_ms: impl Iterator<Item = u64>,
        progress: &Progress,
    ) -> Result<(), Fault> {
        if shard.db.is_sqlite() {
            return Ok(());
        }
        // Bounded: times are of 2020 to 2099.
        let mut missing: BTreeSet<Month> = times_ms.map(Month::of).collect();
        missing.retain(|month| !self.0.lock().contains(month));
        for month in missing {
            make(shard, month, progress).await?;
            self.0.lock().insert(month);
        }
        Ok(())
    }

    /// Makes those of `now` and of the months ahead.
    pub(super) async fn ahead(
        &self,
        shard: &Shard,
        now_ms: u64,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let mut month = Month::of(now_ms);
        let mut times = vec![now_ms];
        for _ in 0..AHEAD {
            month = month.next();
            times.push(month.begins());
        }
        self.ensure(shard, times.into_iter(), progress).await
    }

    /// Takes away the months that end before `before_ms`; answers the tables of all that are away.
    pub(super) async fn detach(
        &self,
        shard: &Shard,
        before_ms: u64,
        progress: &Progress,
    ) -> Result<Vec<String>, Fault> {
        if shard.db.is_sqlite() {
            let name = &shard.db.name;
            let why = format!(
                "{name} is SQLite, which keeps no months apart: nothing is taken out of it"
            );
            return Err(DirectoryError::invalid(why).into());
        }
        let first_kept = Month::of(before_ms);
        let mut session = shard.db.begin().await?;
        session.rows(&LOCK, &[]).await?;
        let mut away = names(&mut session, &DETACHED).await?;
        for name in names(&mut session, &ALL).await? {
            let of = TABLES.iter().find(|table| {
                // Names of one table are in the order of their months.
                name.starts_with(&format!("{table}_")) && name < first_kept.table(table)
            });
            if let Some(table) = of {
                let aside = aside(&name, &away);
                let sql = format!(
                    "ALTER TABLE {table} DETACH PARTITION {name}; \
                     ALTER TABLE {name} RENAME TO {aside}"
                );
                session.script_built("months_detach", sql).await?;
                away.insert(aside);
            }
        }
        // Done twice, it answers the same.
        progress.commit_again(session).await?;
        self.0.lock().retain(|month| *month >= first_kept);
        Ok(away.into_iter().collect())
    }
}

async fn names(session: &mut Session, statement: &Statement) -> Result<BTreeSet<String>, Fault> {
    let rows = session.rows(statement, &[]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// What the table of a month is called when it is taken away: a month that had a late entry after it was taken
/// away has more than one.
fn aside(name: &str, taken: &BTreeSet<String>) -> String {
    let first = format!("{name}_detached");
    let more = (2_u32..).map(|n| format!("{name}_detached_{n}"));
    let mut names = std::iter::once(first).chain(more);
    // One of them is free: as many are taken as `taken` has.
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// A month's tables, each behind its own wall: a policy of the whole table does not hold for who asks a
/// part of it by name.
async fn make(shard: &Shard, month: Month, progress: &Progress) -> Result<(), Fault> {
    let mut session = shard.db.begin().await?;
    session.rows(&LOCK, &[]).await?;
    for table in TABLES {
        let name = month.table(table);
        let row = session.row(&HAS, &[name.as_str().into()]).await?;
        if row.map_or(Ok(0), |row| row.int(0))? > 0 {
            continue;
        }
        let (from, to) = (month.begins(), month.next().begins());
        // Attached when it is whole: making it as a part would lock the table against everybody.
        let sql = format!(
            "CREATE TABLE {name} (LIKE {table} INCLUDING ALL); \
             ALTER TABLE {name} ENABLE ROW LEVEL SECURITY; \
             ALTER TABLE {name} FORCE ROW LEVEL SECURITY; \
             CREATE POLICY customer ON {name} \
                 USING (root = current_setting('gb6.root', true)); \
             ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
        );
        session.script_built("months_make", sql).await?;
    }
    progress.commit_again(session).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_that_is_taken_away_again_gets_another_name() {
        let mut taken = BTreeSet::new();
        for wanted in [
            "t_2027_01_detached",
            "t_2027_01_detached_2",
            "t_2027_01_detached_3",
        ] {
            let name = aside("t_2027_01", &taken);
            assert_eq!(name, wanted);
            taken.insert(name);
        }
        taken.remove("t_2027_01_detached_2");
        assert_eq!(aside("t_2027_01", &taken), "t_2027_01_detached_2");
        assert_eq!(aside("t_2027_02", &taken), "t_2027_02_detached");
    }

    #[test]
    fn months_begin_where_they_do() {
        for (at_ms, table, begins) in [
            (0, "t_1970_01", 0),
            (951_782_399_999, "t_2000_02", 949_363_200_000),
            (951_782_400_000, "t_2000_02", 949_363_200_000),
            (951_868_800_000, "t_2000_03", 951_868_800_000),
            (1_577_836_799_999, "t_2019_12", 1_575_158_400_000),
            (1_577_836_800_000, "t_2020_01", 1_577_836_800_000),
            (1_800_000_000_000, "t_2027_01", 1_798_761_600_000),
            (4_102_444_799_999, "t_2099_12", 4_099_766_400_000),
        ] {
            let month = Month::of(at_ms);
            assert_eq!(month.table("t"), table, "{at_ms}");
            assert_eq!(month.begins(), begins, "{at_ms}");
            assert_eq!(Month::of(month.next().begins()), month.next());
            assert_eq!(Month::of(month.next().begins() - 1), month);
        }
    }
}
