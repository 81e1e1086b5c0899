//! Hears of changes that other processes commit to a PostgreSQL database.
//!
//! What is not heard (a connection that broke, or hangs) is found a little later: who waits looks by
//! itself from time to time too.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;

use crate::db::Db;

/// The channel of the map's changes; the payload is the namespace.
pub(crate) const CHANNEL: &str = "gb6_map";
/// Between tries to connect.
const AGAIN: Duration = Duration::from_millis(250);
/// How often it is looked whether another server has become the primary.
const LOOK: Duration = Duration::from_millis(500);

/// Raises `changed` after each change in `space`, and after whatever may have hidden one.
pub(crate) async fn listen(db: Arc<Db>, space: String, changed: watch::Sender<u64>) {
    loop {
        // An error is met again by who asks the database; here only the next try counts.
        let _ = hear(&db, &space, &changed).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn hear(db: &Db, space: &str, changed: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let Some(hosts) = db.hosts() else {
        return Ok(());
    };
    let (at, options) = hosts.current();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(db.deadline)
        .connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    changed.send_modify(|n| *n += 1);
    loop {
        tokio::select! {
            heard = listener.try_recv() => match heard? {
                Some(notice) if notice.payload() == space => changed.send_modify(|n| *n += 1),
                Some(_) => {}
                None => return Ok(()),
            },
            () = tokio::time::sleep(LOOK) => {
                if hosts.current().0 != at {
                    return Ok(());
                }
            }
        }
    }
}
