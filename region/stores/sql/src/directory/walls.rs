//! Whether row-level security binds the role that this program connects with.

use crate::db::Db;
use crate::fault::Fault;
use crate::value::Statement;

const ROLE: Statement = Statement::both(
    "role",
    "SELECT rolname, (rolsuper OR rolbypassrls)::int::bigint FROM pg_roles \
     WHERE rolname = current_user",
);

/// Refuses a role that it does not bind.
pub(super) async fn hold(db: &Db) -> Result<(), Fault> {
    let rows = db.query(&ROLE, &[]).await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    match row.int(1)? {
        0 => Ok(()),
        _ => Err(Fault::Refused(format!(
            "the role {} is a superuser or has BYPASSRLS: row-level security would not hold \
             customers apart. Use a role of its own that owns the database, or say \
             superuser=allow in the URI",
            row.text(0)?
        ))),
    }
}
