//! Many clients at once: storms of reconnects, and a user who is blocked.

use anyhow::Result;

use super::All;
use super::clients::IDLE_BYTES;
use crate::codec::Method;
use crate::load::figures::{ReconnectFigures, StormMemory};
use crate::load::reconnect::{self, ReconnectPlan};
use crate::load::revoke::{self, RevokePlan};
use crate::report::Row;
use crate::subject;

/// Clients of the memory and reconnect goals, and connections of the user who is blocked.
pub(super) const CLIENTS: usize = 10_000;
/// The goal of a client in a reconnect storm, in bytes of the edge's peak: four times that of an idle
/// one. It has its session and its subscription as that one, the handshake's buffers, and what it
/// missed (here ten publications of 200 bytes, some 3 kB with what is around them) once in its queue
/// and once in its socket.
const STORM_BYTES: f64 = 4.0 * IDLE_BYTES;
/// What each further room of a client may add to that.
const STORM_ROOM_BYTES: f64 = 1_000.0;
/// The goal of a region in the storm, in bytes beyond those before: it knows no clients, but reads a
/// page of at most 512 KiB for each of the 100 rooms.
const STORM_REGION_BYTES: u64 = 64 * 1024 * 1024;
/// Rooms of a client in the storm of many rooms, and the goal of all being back, in seconds.
const MANY_ROOMS: usize = 20;
const MANY_BACK_S: f64 = 20.0;
/// The goal of a revocation, in seconds.
const REVOKED_S: f64 = 1.0;

/// What a client may take of the edge's peak, in bytes.
fn storm_bytes(each: usize) -> f64 {
    STORM_BYTES + STORM_ROOM_BYTES * each.saturating_sub(1) as f64
}

/// Whether the memory of a reconnect storm kept its bounds; `None`: the edge was not watched.
fn storm_is_bounded(memory: &[StormMemory], clients: usize, each: usize) -> Option<bool> {
    memory.iter().find(|m| m.name == "edge")?;
    let kept = memory.iter().all(|m| match m.name.as_str() {
        "edge" => m.peak as f64 <= storm_bytes(each) * clients as f64,
        _ => m.peak <= m.before.resident + STORM_REGION_BYTES,
    });
    Some(kept)
}

/// The peaks of a run's processes in words.
fn peaks(memory: &[StormMemory]) -> String {
    let one = |m: &StormMemory| {
        let (before, peak) = (m.before.resident as f64 / 1e6, m.peak as f64 / 1e6);
        format!("{} {before:.0} MB, then {peak:.0} MB at most", m.name)
    };
    memory.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl All<'_> {
    /// Clients in one room each, and clients in many.
    pub(super) fn reconnect(&mut self) -> Result<()> {
        self.storm(
            ReconnectPlan {
                clients: CLIENTS,
                rooms: 100,
                each: 1,
                missed: 10,
                storm_rate: 1.0,
                size: 200,
            },
            None,
        )?;
        self.storm(
            // As many deliveries a second while they come back as above.
            ReconnectPlan {
                clients: CLIENTS,
                rooms: 1_000,
                each: MANY_ROOMS,
                missed: 2,
                storm_rate: 1.0 / MANY_ROOMS as f64,
                size: 200,
            },
            Some(MANY_BACK_S),
        )
    }

    fn storm(&mut self, plan: ReconnectPlan, back_s: Option<f64>) -> Result<()> {
        self.check_budget()?;
        let edge = subject::mesh(&self.workspace, Method::Publish)?.subject;
        let figures: ReconnectFigures = reconnect::run(&edge, &plan)?;
        self.keep("reconnect", &figures);
        let whole = figures.back == plan.clients
            && figures.lost == 0
            && figures.doubled == 0
            && figures.unrecovered == 0
            && back_s.is_none_or(|most| figures.all_back_s <= most);
        let what = match plan.each {
            1 => format!("{} clients reconnect at once", plan.clients),
            each => format!("{} clients in {each} rooms reconnect at once", plan.clients),
        };
        self.rows.push(Row::plain(
            &what,
            &match back_s {
                None => "all back, nothing lost".to_owned(),
                Some(most) => format!("all back in {most:.0} s, nothing lost"),
            },
            format!(
                "{} back in {:.2} s, lost {}, doubled {}, not recovered {}",
                figures.back,
                figures.all_back_s,
                figures.lost,
                figures.doubled,
                figures.unrecovered
            ),
            Some(whole),
        ));
        self.rows.push(Row::plain(
            &format!("{what}, memory"),
            &format!(
                "edge <= {:.1} kB a client, region + {} MiB",
                storm_bytes(plan.each) / 1000.0,
                STORM_REGION_BYTES >> 20
            ),
            peaks(&figures.memory),
            storm_is_bounded(&figures.memory, plan.clients, plan.each),
        ));
        Ok(())
    }

    /// A user with connections at two edges is blocked.
    pub(super) fn revoke(&mut self) -> Result<()> {
        self.check_budget()?;
        let mesh = subject::mesh_of(&self.workspace, Method::Publish, 2)?;
        let plan = RevokePlan {
            connections: CLIENTS,
            others: 500,
        };
        let figures = revoke::run(&mesh, &plan)?;
        self.keep("revoke", &figures);
        self.rows.push(Row::plain(
            &format!("{CLIENTS} connections of a user at two edges cut off by block_user"),
            "all within 1 s of the answer, no others",
            format!(
                "{} in {:.2} s after it ({:.0} ms), others {}, peak {}",
                figures.cut,
                figures.last_s,
                figures.answered_ms,
                figures.others_cut,
                peaks(&figures.memory)
            ),
            Some(
                figures.cut == plan.connections
                    && figures.last_s <= REVOKED_S
                    && figures.otherwise == 0
                    && figures.others_cut == 0,
            ),
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Memory;

    #[test]
    fn the_memory_of_a_storm_is_judged() {
        let memory = |name: &str, before: u64, peak: u64| StormMemory {
            name: name.to_owned(),
            before: Memory {
                resident: before << 20,
                peak: before << 20,
            },
            peak: peak << 20,
        };
        let judge = |edge, region| {
            let both = [memory("edge", 60, edge), memory("region", 80, region)];
            storm_is_bounded(&both, 10_000, 1)
        };
        assert_eq!(judge(120, 90), Some(true));
        assert_eq!(judge(300, 90), Some(false), "more than 29.6 kB a client");
        assert_eq!(
            judge(120, 150),
            Some(false),
            "the region has grown by 70 MiB"
        );
        assert_eq!(storm_is_bounded(&[memory("gb6", 1, 2)], 1, 1), None);
    }
}
