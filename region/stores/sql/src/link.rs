//! One connection to either engine.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row as _, TypeInfo, ValueRef};

use crate::fault::Fault;
use crate::value::{Row, Statement, Value};

/// A connection.
#[derive(Debug)]
pub(crate) enum Link {
    Sqlite(Box<SqliteConnection>),
    #[cfg(feature = "postgres")]
    Postgres(Box<sqlx::postgres::PgConnection>),
}

/// Binds each parameter to a query.
macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match arg {
                Value::Int(n) => query.bind(*n),
                Value::Text(s) => query.bind(s.clone()),
                Value::Bytes(b) => query.bind(b.clone()),
            };
        }
        query
    }};
}

impl Link {
    /// Runs a statement; answers its rows.
    pub(crate) async fn rows(
        &mut self,
        statement: &Statement,
        args: &[Value],
    ) -> Result<Vec<Row>, Fault> {
        match self {
            Link::Sqlite(link) => {
                let rows = bound!(statement.sqlite, args)
                    .fetch_all(&mut **link)
                    .await?;
                rows.iter().map(sqlite_row).collect()
            }
            #[cfg(feature = "postgres")]
            Link::Postgres(link) => {
                let rows = bound!(statement.postgres, args)
                    .fetch_all(&mut **link)
                    .await?;
                rows.iter().map(postgres_row).collect()
            }
        }
    }

    /// Runs a statement; answers how many rows it changed.
    pub(crate) async fn run(
        &mut self,
        statement: &Statement,
        args: &[Value],
    ) -> Result<u64, Fault> {
        Ok(match self {
            Link::Sqlite(link) => bound!(statement.sqlite, args)
                .execute(&mut **link)
                .await?
                .rows_affected(),
            #[cfg(feature = "postgres")]
            Link::Postgres(link) => bound!(statement.postgres, args)
                .execute(&mut **link)
                .await?
                .rows_affected(),
        })
    }

    /// Runs several statements without parameters, as a migration or a transaction's ends are.
    pub(crate) async fn script(&mut self, sql: &'static str) -> Result<(), Fault> {
        self.raw(sqlx::raw_sql(sql)).await
    }

    /// As [`Link::script`], of a text that was built. No part of it may come from outside.
    pub(crate) async fn script_built(&mut self, sql: String) -> Result<(), Fault> {
        self.raw(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await
    }

    async fn raw(&mut self, sql: sqlx::RawSql) -> Result<(), Fault> {
        match self {
            Link::Sqlite(link) => sql.execute(&mut **link).await.map(drop)?,
            #[cfg(feature = "postgres")]
            Link::Postgres(link) => sql.execute(&mut **link).await.map(drop)?,
        }
        Ok(())
    }
}

fn sqlite_row(row: &SqliteRow) -> Result<Row, Fault> {
    let value = |i| {
        let kind = row.try_get_raw(i)?.type_info().name().to_owned();
        Ok(match kind.as_str() {
            "TEXT" => Value::Text(row.try_get(i)?),
            "BLOB" => Value::Bytes(row.try_get(i)?),
            "NULL" => Value::Int(None),
            _ => Value::Int(row.try_get(i)?),
        })
    };
    let values: Result<_, sqlx::Error> = (0..row.len()).map(value).collect();
    Ok(Row(values?))
}

#[cfg(feature = "postgres")]
fn postgres_row(row: &sqlx::postgres::PgRow) -> Result<Row, Fault> {
    use sqlx::Column;
    let value = |i: usize| {
        Ok(match row.column(i).type_info().name() {
            "TEXT" | "VARCHAR" | "NAME" => Value::Text(row.try_get(i)?),
            "BYTEA" => Value::Bytes(row.try_get(i)?),
            // What a function answers that answers nothing.
            "VOID" => Value::Int(None),
            _ => Value::Int(row.try_get(i)?),
        })
    };
    let values: Result<_, sqlx::Error> = (0..row.len()).map(value).collect();
    Ok(Row(values?))
}
