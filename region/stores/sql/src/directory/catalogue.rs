//! The catalogue: in which database each customer is, and whose each instance is. The first database that is
//! named keeps it; it has ids and nothing else.
//!
//! A new customer goes to the database that wins a rendezvous hash, and stays there: where it is is
//! stored, so that another list of databases moves nobody.

use gb6_core_model::InstanceId;
use gb6_core_model::hash::stable_hash64;
use gb6_core_ports::directory::{Change, DirectoryError, OrgId, PAGE_MAX, Record};

use super::{Shard, SqlDirectory};
use crate::db::Progress;
use crate::fault::Fault;
use crate::value::Statement;

/// Placements that are remembered; about 100 bytes each.
const REMEMBERED_MAX: usize = 100_000;

const PLACE: Statement = Statement::both(
    "catalogue_place",
    "INSERT INTO catalogue_roots (root, shard) VALUES ($1, $2) ON CONFLICT DO NOTHING",
);
const PLACED: Statement = Statement::both(
    "catalogue_placed",
    "SELECT shard FROM catalogue_roots WHERE root = $1",
);
const CLAIM: Statement = Statement::both(
    "catalogue_claim",
    "INSERT INTO catalogue_instances (instance, root) VALUES ($1, $2) ON CONFLICT DO NOTHING",
);
const CLAIMED: Statement = Statement::both(
    "catalogue_claimed",
    "SELECT root FROM catalogue_instances WHERE instance = $1",
);
const ROOTS: Statement = Statement::both(
    "catalogue_roots",
    "SELECT root FROM catalogue_roots WHERE root > $1 ORDER BY root LIMIT $2",
);
const NAME_PLACE: Statement = Statement::both(
    "place_name",
    "INSERT INTO directory_place (one, shard, catalogue) VALUES (1, $1, $2) \
     ON CONFLICT DO NOTHING",
);
const PLACE_NAMED: Statement = Statement::both(
    "place_named",
    "SELECT shard, catalogue FROM directory_place WHERE one = 1",
);

/// Gives a new database its name; refuses one that has another, or belongs to another catalogue.
pub(super) async fn name(shard: &Shard, catalogue: &str, progress: &Progress) -> Result<(), Fault> {
    let mut session = shard.db.begin().await?;
    let args = [shard.name.as_str().into(), catalogue.into()];
    session.run(&NAME_PLACE, &args).await?;
    let row = session.row(&PLACE_NAMED, &[]).await?;
    let row = row.ok_or_else(|| Fault::Damaged("the database has no name".into()))?;
    let (name, of) = (row.text(0)?, row.text(1)?);
    if (name.as_str(), of.as_str()) != (&shard.name, catalogue) {
        session.rollback().await;
        return Err(Fault::Refused(format!(
            "this database is the shard `{name}`, whose catalogue is in the shard `{of}`: name it \
             with shard={name}, and the database with shard={of} first"
        )));
    }
    progress.commit(session).await
}

/// The database that a new customer goes to: the one whose `stable_hash64(customer, name)` is highest, of
/// equal ones the first name.
pub(super) fn choose<'a>(root: &OrgId, shards: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    shards.max_by_key(|name| {
        let score = stable_hash64(&[root.as_str().as_bytes(), name.as_bytes()]);
        (score, std::cmp::Reverse(*name))
    })
}

impl SqlDirectory {
    fn home(&self) -> &Shard {
        &self.shards[0]
    }

    fn by_name(&self, name: &str) -> Result<usize, Fault> {
        let at = self.shards.iter().position(|shard| shard.name == name);
        at.ok_or_else(|| {
            Fault::Refused(format!(
                "the customer is in the shard `{name}`, which is not configured"
            ))
        })
    }

    /// The database of a customer; `None`: there is no such customer.
    pub(super) async fn shard_of(&self, root: &OrgId) -> Result<Option<&Shard>, Fault> {
        if let Some(at) = self.placements.lock().get(root) {
            return Ok(Some(&self.shards[*at]));
        }
        let args = [root.as_str().into()];
        let rows = self.home().db.query(&PLACED, &args).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let at = self.by_name(&row.text(0)?)?;
        let mut placements = self.placements.lock();
        // overflow: all are forgotten; each is looked up again when it is next asked for.
        if placements.len() >= REMEMBERED_MAX {
            placements.clear();
        }
        placements.insert(root.clone(), at);
        Ok(Some(&self.shards[at]))
    }

    /// The database of a customer, who is placed if it is new and `begins`.
    pub(super) async fn place(
        &self,
        root: &OrgId,
        begins: bool,
        progress: &Progress,
    ) -> Result<&Shard, Fault> {
        if let Some(shard) = self.shard_of(root).await? {
            return Ok(shard);
        }
        let chosen = choose(root, self.shards.iter().map(|shard| shard.name.as_str()));
        if let (true, Some(chosen)) = (begins, chosen) {
            let mut session = self.home().db.begin().await?;
            let args = [root.as_str().into(), chosen.into()];
            session.run(&PLACE, &args).await?;
            progress.commit_again(session).await?;
            // Somebody else may have been first.
            if let Some(shard) = self.shard_of(root).await? {
                return Ok(shard);
            }
        }
        Err(DirectoryError::not_found(format!("customer {root}")).into())
    }

    /// Takes the names of new instances for a customer.
    pub(super) async fn claim(
        &self,
        root: &OrgId,
        changes: &[Change],
        progress: &Progress,
    ) -> Result<(), Fault> {
        for change in changes {
            let Change::Create(record @ Record::Instance(instance)) = change else {
                continue;
            };
            let mut session = self.home().db.begin().await?;
            let args = [instance.id.as_str().into(), root.as_str().into()];
            session.run(&CLAIM, &args).await?;
            let row = session.row(&CLAIMED, &args[..1]).await?;
            let whose = row.map(|row| row.text(0)).transpose()?;
            if whose.as_deref() != Some(root.as_str()) {
                session.rollback().await;
                let what = record.reference().to_string();
                return Err(DirectoryError::AlreadyExists { what }.into());
            }
            progress.commit_again(session).await?;
        }
        Ok(())
    }

    pub(super) async fn claimed_by(&self, instance: &InstanceId) -> Result<OrgId, Fault> {
        let args = [instance.as_str().into()];
        let rows = self.home().db.query(&CLAIMED, &args).await?;
        let Some(row) = rows.first() else {
            return Err(DirectoryError::not_found(format!("instance {instance}")).into());
        };
        OrgId::parse(&row.text(0)?).map_err(|e| Fault::Damaged(e.0))
    }

    pub(super) async fn all_roots(&self, after: &str, limit: usize) -> Result<Vec<OrgId>, Fault> {
        let args = [after.into(), limit.min(PAGE_MAX).into()];
        let rows = self.home().db.query(&ROOTS, &args).await?;
        rows.iter()
            .map(|row| OrgId::parse(&row.text(0)?).map_err(|e| Fault::Damaged(e.0)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(n: u64) -> OrgId {
        OrgId::parse(&format!("org_{n:026}")).unwrap()
    }

    /// Computed by an independent program from the description of the hash.
    #[test]
    fn placements_never_change() {
        let names = ["a", "b", "c"];
        let got: String = (0..12)
            .filter_map(|n| choose(&root(n), names.into_iter()))
            .collect();
        assert_eq!(got, "abbbacaaccac");
    }

    #[test]
    fn another_database_wins_its_part_alone() {
        let mut moved = 0;
        for n in 0..3_000 {
            let before = choose(&root(n), ["a", "b"].into_iter());
            let after = choose(&root(n), ["a", "b", "c"].into_iter());
            if before != after {
                assert_eq!(after, Some("c"));
                moved += 1;
            }
        }
        assert!((850..1_150).contains(&moved), "{moved} of 3000");
    }
}
