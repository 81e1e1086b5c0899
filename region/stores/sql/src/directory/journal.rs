//! What only grows: the outbox, the audit and the usage.

use std::collections::BTreeMap;
use std::ops::Range;

use gb6_core_model::InstanceId;
use gb6_core_ports::directory::{
    AUDIT_GENESIS, Actor, AuditEntry, DirectoryError, Kind, OrgId, OutboxEntry, PAGE_MAX, Ref,
    Usage, UsageSum,
};

use super::Shard;
use super::change::{SEE, Tx};
use crate::fault::Fault;
use crate::pool::Session;
use crate::value::{Row, Statement, Value};

const HEAD: Statement = Statement::both(
    "audit_head",
    "SELECT number, hash FROM audit_heads WHERE root = $1 AND org = $2",
);
const SET_HEAD: Statement = Statement::both(
    "audit_set_head",
    "INSERT INTO audit_heads (root, org, number, hash) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (root, org) DO UPDATE SET number = excluded.number, hash = excluded.hash",
);
const NOTE: Statement = Statement::both(
    "audit_note",
    "INSERT INTO audit_entries \
     (root, org, number, at_ms, actor, action, target, version, detail, previous, hash) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
);
const AUDIT: Statement = Statement::both(
    "audit_read",
    "SELECT number, at_ms, actor, action, target, version, detail, previous, hash \
     FROM audit_entries WHERE root = $1 AND org = $2 AND number > $3 ORDER BY number LIMIT $4",
);
/// Locked until the commit, so that numbers come in the order of commits.
const RAISE: Statement = Statement::both(
    "outbox_raise",
    "UPDATE outbox_clock SET last = last + $1 WHERE one = 1 RETURNING last",
);
const TELL: Statement = Statement::both(
    "outbox_tell",
    "INSERT INTO outbox (number, root, kind, id, version) VALUES ($1, $2, $3, $4, $5)",
);
/// Lets the transaction see the outbox of all customers.
const SEE_OUTBOX: Statement = Statement::each(
    "see_outbox",
    "SELECT 'all'",
    "SELECT set_config('gb6.outbox', 'all', true)",
);
const CLOCK: Statement = Statement::both(
    "outbox_clock",
    "SELECT first FROM outbox_clock WHERE one = 1",
);
const OUTBOX: Statement = Statement::both(
    "outbox_read",
    "SELECT number, root, kind, id, version FROM outbox WHERE number > $1 ORDER BY number LIMIT $2",
);
const OLDEST: Statement = Statement::both(
    "outbox_oldest",
    "SELECT min(number) FROM outbox WHERE number >= $1 AND number <= $2",
);
const TRIM: Statement = Statement::both(
    "outbox_trim",
    "DELETE FROM outbox WHERE number >= $1 AND number <= $2",
);
const SET_FIRST: Statement = Statement::each(
    "outbox_set_first",
    "UPDATE outbox_clock SET first = max(first, min($1, last) + 1) WHERE one = 1 RETURNING first",
    "UPDATE outbox_clock SET first = greatest(first, least($1, last) + 1) WHERE one = 1 RETURNING first",
);
const KEEP: Statement = Statement::both(
    "usage_keep",
    "INSERT INTO usage_facts \
     (root, region, shard, epoch, position, dimension, at_ms, instance, amount) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
);
const SUM: Statement = Statement::both(
    "usage_sum",
    "SELECT CAST(coalesce(sum(amount), 0) AS BIGINT), count(*) FROM usage_facts \
     WHERE root = $1 AND instance = $2 AND dimension = $3 AND at_ms >= $4 AND at_ms < $5",
);

/// Entries that are deleted at once: few enough for a slow database to do it within a call's deadline, however
/// many there are.
const TRIM_STEP: u64 = 1_000;

/// Adds an entry to the audit of an organization.
pub(super) async fn note(
    tx: &mut Tx<'_>,
    by: &Actor,
    action: &str,
    (version, org, target): (u64, OrgId, String),
) -> Result<(), Fault> {
    let (root, id) = (Value::from(tx.root.as_str()), Value::from(org.as_str()));
    let end = head(&mut tx.session, tx.root, &org).await?;
    let (number, previous) = end.unwrap_or((0, AUDIT_GENESIS));
    let mut entry = AuditEntry {
        root: tx.root.clone(),
        org,
        number: number + 1,
        at_ms: by.at_ms,
        actor: by.name.clone(),
        action: action.to_owned(),
        target,
        version,
        detail: by.detail.clone(),
        previous,
        hash: AUDIT_GENESIS,
    };
    entry.hash = entry.digest();
    let args = [
        root.clone(),
        id.clone(),
        entry.number.into(),
        entry.at_ms.into(),
        entry.actor.as_str().into(),
        entry.action.as_str().into(),
        entry.target.as_str().into(),
        entry.version.into(),
        entry.detail.as_str().into(),
        entry.previous[..].into(),
        entry.hash[..].into(),
    ];
    tx.session.run(&NOTE, &args).await?;
    let args = [root, id, entry.number.into(), entry.hash[..].into()];
    tx.session.run(&SET_HEAD, &args).await?;
    Ok(())
}

/// The number and the hash of an audit's newest entry.
pub(super) async fn head(
    session: &mut Session,
    root: &OrgId,
    org: &OrgId,
) -> Result<Option<(u64, [u8; 32])>, Fault> {
    let args = [root.as_str().into(), org.as_str().into()];
    let row = session.row(&HEAD, &args).await?;
    row.map(|row| Ok((row.count(0)?, hash(&row, 1)?)))
        .transpose()
}

fn hash(row: &Row, column: usize) -> Result<[u8; 32], Fault> {
    let bytes = row.bytes_or_null(column)?.unwrap_or_default();
    let length = bytes.len();
    bytes
        .try_into()
        .map_err(|_| Fault::Damaged(format!("a hash of the audit has {length} bytes")))
}

/// Entries of an audit.
pub(super) async fn audit(
    session: &mut Session,
    root: &OrgId,
    org: &OrgId,
    after: u64,
    limit: usize,
) -> Result<Vec<AuditEntry>, Fault> {
    let args = [
        root.as_str().into(),
        org.as_str().into(),
        after.into(),
        limit.min(PAGE_MAX).into(),
    ];
    let rows = session.rows(&AUDIT, &args).await?;
    rows.iter()
        .map(|row| {
            Ok(AuditEntry {
                root: root.clone(),
                org: org.clone(),
                number: row.count(0)?,
                at_ms: row.count(1)?,
                actor: row.text(2)?,
                action: row.text(3)?,
                target: row.text(4)?,
                version: row.count(5)?,
                detail: row.text(6)?,
                previous: hash(row, 7)?,
                hash: hash(row, 8)?,
            })
        })
        .collect()
}

/// Tells what was changed.
pub(super) async fn tell(tx: &mut Tx<'_>, told: &[(Ref, Option<u64>)]) -> Result<(), Fault> {
    if told.is_empty() {
        return Ok(());
    }
    let row = tx.session.row(&RAISE, &[told.len().into()]).await?;
    let row = row.ok_or_else(|| Fault::Damaged("the outbox has no clock".into()))?;
    let before = row.count(0)? - told.len() as u64;
    for (number, (what, version)) in (before + 1..).zip(told) {
        let version = match version {
            Some(version) => Value::from(*version),
            None => Value::Int(None),
        };
        let args = [
            number.into(),
            tx.root.as_str().into(),
            what.kind.as_str().into(),
            what.id.as_str().into(),
            version,
        ];
        tx.session.run(&TELL, &args).await?;
    }
    Ok(())
}

/// Entries of one database's outbox behind `after`.
pub(super) async fn outbox(
    shard: &Shard,
    after: u64,
    limit: usize,
) -> Result<Vec<OutboxEntry>, Fault> {
    let mut session = shard.db.snapshot().await?;
    session.rows(&SEE_OUTBOX, &[]).await?;
    let row = session.row(&CLOCK, &[]).await?;
    let first = row.map_or(Ok(1), |row| row.count(0))?;
    let args = [after.into(), limit.min(PAGE_MAX).into()];
    let rows = session.rows(&OUTBOX, &args).await?;
    session.rollback().await;
    if after + 1 < first {
        let shard = shard.name.clone();
        return Err(DirectoryError::Trimmed { shard, first }.into());
    }
    rows.iter()
        .map(|row| {
            let kind = Kind::parse(&row.text(2)?)
                .ok_or_else(|| Fault::Damaged("an unknown kind in the outbox".into()))?;
            Ok(OutboxEntry {
                shard: shard.name.clone(),
                number: row.count(0)?,
                root: OrgId::parse(&row.text(1)?).map_err(|e| Fault::Damaged(e.0))?,
                what: Ref::new(kind, row.text(3)?),
                version: match row.is_null(4) {
                    true => None,
                    false => Some(row.count(4)?),
                },
            })
        })
        .collect()
}

/// From its commit on nobody reads entries up to `upto` of one database's outbox; answers the last of those, and
/// the transaction. By itself, since every change of the database waits for this row.
pub(super) async fn forget(shard: &Shard, upto: u64) -> Result<(u64, Session), Fault> {
    let mut session = shard.db.begin().await?;
    let row = session.row(&SET_FIRST, &[upto.into()]).await?;
    let row = row.ok_or_else(|| Fault::Damaged("the outbox has no clock".into()))?;
    // Where it ends before `upto`, what is written from now on is nobody's to forget.
    let last = upto.min(row.count(0)?.saturating_sub(1));
    Ok((last, session))
}

/// Deletes the oldest [`TRIM_STEP`] entries of `from` to `upto`; answers where the next step begins, if there is
/// anything left, and the transaction, to be committed.
pub(super) async fn trim(
    shard: &Shard,
    from: u64,
    upto: u64,
) -> Result<Option<(u64, Session)>, Fault> {
    let mut session = shard.db.begin().await?;
    session.rows(&SEE_OUTBOX, &[]).await?;
    // From where the step before ended: what was deleted before that is not looked through again.
    let row = session.row(&OLDEST, &[from.into(), upto.into()]).await?;
    let Some(row) = row.filter(|row| !row.is_null(0)) else {
        session.rollback().await;
        return Ok(None);
    };
    let oldest = row.count(0)?;
    let last = upto.min(oldest.saturating_add(TRIM_STEP - 1));
    let range = [oldest.into(), last.into()];
    session.run(&TRIM, &range).await?;
    Ok(Some((last.saturating_add(1), session)))
}

/// Keeps facts of usage; answers how many are new.
pub(super) async fn keep_usage(tx: &mut Tx<'_>, facts: &[Usage]) -> Result<u64, Fault> {
    // In the order of their keys, so that two calls with the same facts never wait for each other in a
    // circle; each once.
    let ordered: BTreeMap<_, _> = facts
        .iter()
        .map(|fact| {
            let place = (&fact.region, fact.shard, fact.epoch, fact.position);
            ((place, &fact.dimension, fact.at_ms), fact)
        })
        .collect();
    let mut new = 0;
    for fact in ordered.values() {
        let args = [
            tx.root.as_str().into(),
            fact.region.as_str().into(),
            u64::from(fact.shard.0).into(),
            fact.epoch.into(),
            fact.position.into(),
            fact.dimension.as_str().into(),
            fact.at_ms.into(),
            fact.instance.as_str().into(),
            fact.amount.into(),
        ];
        new += tx.session.run(&KEEP, &args).await?;
    }
    Ok(new)
}

/// What an instance used.
pub(super) async fn sum_usage(
    session: &mut Session,
    root: &OrgId,
    instance: &InstanceId,
    dimension: &str,
    time_ms: Range<u64>,
) -> Result<UsageSum, Fault> {
    let args = [
        root.as_str().into(),
        instance.as_str().into(),
        dimension.into(),
        time_ms.start.into(),
        time_ms.end.into(),
    ];
    let row = session.row(&SUM, &args).await?;
    let row = row.ok_or_else(|| Fault::Damaged("a sum without an answer".into()))?;
    Ok(UsageSum {
        amount: row.count(0)?,
        facts: row.count(1)?,
    })
}

/// Names the customer whose rows a reading transaction may see.
pub(super) async fn see(session: &mut Session, root: &OrgId) -> Result<(), Fault> {
    session.rows(&SEE, &[root.as_str().into()]).await.map(drop)
}
