//! The port `RateLimiter`: who shares a limit and what each wants stands in Redis, so that it does not
//! matter which node is asked. Time is Redis' own; no clocks of nodes are compared.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use gb6_core_obs::metrics::Metrics;
use gb6_core_ports::{RateLimiter, Share, StoreError, Want};
use redis::RedisResult;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::connect::Connection;
use crate::keys::Keys;
use crate::link::Link;
use crate::script::Script;
use crate::temporary;

/// Edges that share one limit; one more has an equal share, which nobody else lacks.
const HOLDERS_MAX: usize = 4_096;
/// Limits that one run of the script looks at: so long does it hold up others.
const PART: usize = 64;
/// The most that one holder can want, in thousandths of a command a second: sums stay exact in the
/// script's numbers.
const DEMAND_MAX: u64 = 1 << 40;

/// The script that shares out.
pub(crate) const SHARE: &str = include_str!("share.lua");

/// Shares of limits in one Redis.
pub struct RedisLimiter {
    link: Link,
    keys: Keys,
    script: Script,
    valid_ms: u64,
}

impl std::fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLimiter").finish_non_exhaustive()
    }
}

impl RedisLimiter {
    /// Begins to connect; it answers at once. `region` keeps apart those that share a Redis.
    pub fn open(config: &Config, region: &str, runtime: &Handle, metrics: &Metrics) -> Self {
        Self {
            // To ask for a share twice is to ask for it once.
            link: Link::open(config, "limits", 2, runtime, metrics),
            keys: Keys::new(&config.prefix, region),
            script: Script::new(SHARE),
            valid_ms: u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Whether shares are given out now.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    async fn ask(
        &self,
        connection: Connection,
        holder: &str,
        wants: &[(usize, &Want)],
    ) -> RedisResult<Vec<(usize, Share)>> {
        let keys: Vec<Vec<u8>> = wants.iter().map(|(_, w)| self.keys.limit(&w.key)).collect();
        let demands = || wants.iter().map(|(_, want)| want.demand.min(DEMAND_MAX));
        let mut args = vec![
            holder.to_owned(),
            self.valid_ms.to_string(),
            HOLDERS_MAX.to_string(),
        ];
        args.extend(demands().map(|demand| demand.to_string()));
        let told: Vec<(u64, u128)> = self.script.run(connection, &keys, &args).await?;
        let shares = wants.iter().zip(demands()).zip(told);
        Ok(shares
            .map(|(((at, _), demand), (holders, all))| {
                let share = match demand {
                    0 => Share::whole(self.valid_ms),
                    _ => Share::of(demand, all, holders, self.valid_ms),
                };
                (*at, share)
            })
            .collect())
    }
}

impl RateLimiter for RedisLimiter {
    fn lease(&self, holder: &str, wants: &[Want], _now_ms: u64) -> Result<Vec<Share>, StoreError> {
        if wants.is_empty() {
            return Ok(Vec::new());
        }
        // What one run of the script touches must lie in one slot: an instance's limits do.
        let mut instances: BTreeMap<_, Vec<(usize, &Want)>> = BTreeMap::new();
        for (at, want) in wants.iter().enumerate() {
            instances
                .entry(&want.key.instance)
                .or_default()
                .push((at, want));
        }
        let parts: Vec<&[(usize, &Want)]> = instances
            .values()
            .flat_map(|wants| wants.chunks(PART))
            .collect();
        let ask = |connection: Connection| {
            try_join_all(
                parts
                    .iter()
                    .map(move |part| self.ask(connection.clone(), holder, part)),
            )
        };
        // To ask again does no harm.
        let told = self.link.call(ask).map_err(temporary::read)?;
        let mut shares = vec![Share::whole(self.valid_ms); wants.len()];
        for (at, share) in told.into_iter().flatten() {
            shares[at] = share;
        }
        Ok(shares)
    }
}
