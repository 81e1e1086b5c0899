//! When a run has come to rest: everybody is where the log is, and nothing is forgotten or left over.

use crate::client::Client;
use crate::region::Owner;
use crate::revocations::revoked_room;
use crate::world::{World, client_id, room};

impl World {
    /// What keeps the run from being at rest; empty: nothing. A run ends only where this has been so
    /// for longer than a lease: so a person who stays present, or is never seen, fails it.
    pub(crate) fn unrest(&self) -> String {
        let newest = self.geo.newest().revision;
        let edges = self.edges.iter().map(|e| e.kept.revision);
        let regions = self.regions.iter().map(|r| r.kept.revision);
        if edges.chain(regions).any(|revision| revision != newest) {
            return format!("somebody has not heard of revision {newest}");
        }
        let Some(owner) = &self.regions[self.owner()].up else {
            return "the shard has no owner".into();
        };
        for client in &self.clients {
            if client.connection.is_none() || !client.wanted.is_empty() {
                return format!("{} has {:?}", client.user, client.wanted);
            }
            for name in &client.rooms {
                let at = client.positions.get(name).map_or(0, |p| p.0);
                let top = owner.shard.top_offset(&room(name));
                if at != top {
                    return format!("{} is at {at} of {top} in {name}", client.user);
                }
            }
        }
        let unfollowed = self.unfollowed(owner.shard.top_offset(&revoked_room()));
        if !unfollowed.is_empty() {
            return unfollowed;
        }
        // Last, because a session that comes or goes is a moment ahead of its presence.
        self.absent(owner)
    }

    /// Everybody who is connected is present, and nobody else; else what is wrong.
    fn absent(&self, owner: &Owner) -> String {
        for name in ["room:a", "room:b", "room:c"] {
            let here = |c: &&Client| c.connection.is_some() && c.rooms.iter().any(|r| r == name);
            let want = self.clients.iter().filter(here).count();
            let got = owner.shard.present_clients(&room(name));
            if got != want {
                return format!("{got} people are present in {name}, not {want}");
            }
            for client in self.clients.iter().filter(here) {
                let connection = client.connection.map_or(0, |c| c.1);
                if !owner.shard.is_present(&room(name), &client_id(connection)) {
                    return format!(
                        "{} is not present in {name}, but somebody else is",
                        client.user
                    );
                }
            }
        }
        String::new()
    }
}
