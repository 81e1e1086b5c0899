//! Which rooms of an instance have subscribers at this edge: asked of every shard's task at once.

use gb6_core_model::Glob;
use gb6_core_wire::mesh::{CHANNELS_MAX, ChannelThere};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// What is wanted of the rooms; sent to who asked when the last shard's task has dropped it.
pub(crate) struct Census {
    /// The instance.
    pub(crate) instance: String,
    /// For whole names; `None`: all.
    pattern: Option<Glob>,
    sums_only: bool,
    found: Mutex<Found>,
    done: Mutex<Option<oneshot::Sender<Found>>>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Channels, at most [`CHANNELS_MAX`].
    pub(crate) channels: Vec<ChannelThere>,
    /// Whether there are more.
    pub(crate) more: bool,
    /// How many there are.
    pub(crate) channels_sum: u64,
    /// Subscriptions in them.
    pub(crate) subscriptions: u64,
}

impl Census {
    /// A question for all shards, and where its answer comes.
    pub(super) fn new(
        instance: String,
        pattern: Option<Glob>,
        sums_only: bool,
    ) -> (Self, oneshot::Receiver<Found>) {
        let (done, answer) = oneshot::channel();
        let census = Self {
            instance,
            pattern,
            sums_only,
            found: Mutex::default(),
            done: Mutex::new(Some(done)),
        };
        (census, answer)
    }

    /// Adds the rooms of one shard.
    pub(super) fn add<'a>(&self, rooms: impl Iterator<Item = (&'a str, usize)>) {
        let mut found = self.found.lock();
        for (channel, subscribers) in rooms {
            // The server's own are nobody's business.
            if channel.starts_with('!') {
                continue;
            }
            if self.pattern.as_ref().is_some_and(|p| !p.matches(channel)) {
                continue;
            }
            found.channels_sum += 1;
            found.subscriptions += subscribers as u64;
            if self.sums_only {
                continue;
            }
            // Overflow: the rest is left out, and the answer says so.
            if found.channels.len() >= CHANNELS_MAX {
                found.more = true;
                continue;
            }
            found.channels.push(ChannelThere {
                channel: channel.to_owned(),
                clients: u32::try_from(subscribers).unwrap_or(u32::MAX),
            });
        }
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        if let Some(done) = self.done.get_mut().take() {
            // Whoever asked may have gone.
            let _ = done.send(std::mem::take(self.found.get_mut()));
        }
    }
}
