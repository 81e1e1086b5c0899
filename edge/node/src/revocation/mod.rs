//! Tokens, users and connections that are taken back.
//!
//! Revocations are records of a system channel of their instance. Each edge follows that channel for
//! the instances that it serves: it holds every token against them, and cuts off connections that are
//! open. While it can not know the newest of them it delivers nothing and accepts nothing for the
//! instance: what it missed is applied first.

mod config;
mod follow;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gb6_core_model::{Disconnect, ErrorCode, InstanceEpoch, InstanceId};
use gb6_core_obs::metrics::Samples;
use gb6_core_wire::mesh::{RoomRef, ShardRef};
use gb6_edge_session::{
    Answer, HistoryAnswer, HistoryQuery, Identity, Request, Revocation, RevocationFollower,
    RevocationPage, RevocationRead, TokenRef,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::connection::handle::{Event, SessionHandle};
use crate::connection::instance::InstanceTag;
use crate::shared::Shared;

pub use config::RevocationConfig;

/// Connections that are held against what is revoked before others of the machine have a turn.
const AT_ONCE: usize = 2_000;
/// Longest user id that can be named, in bytes: that of tokens.
const USER_BYTES_MAX: usize = 255;

/// The revocations of all instances that this edge serves.
#[derive(Default)]
pub(crate) struct Revocations {
    instances: RwLock<BTreeMap<InstanceId, Following>>,
    stopped: AtomicBool,
}

struct Following {
    revoked: Arc<Revoked>,
    task: JoinHandle<()>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The revocations of one instance, as far as this edge knows them.
pub(crate) struct Revoked {
    instance: InstanceId,
    follower: RwLock<RevocationFollower>,
    /// Whether that is current, to be waited for. Written under its lock, as the next two.
    current: watch::Sender<bool>,
    /// Whether connections may be served, to be looked at often.
    open: AtomicBool,
    /// Whether they may be because too much time has gone by, not because all is known.
    outdated: AtomicBool,
    /// The shard that the channel is in.
    shard: Mutex<Option<ShardRef>>,
    /// Something may be new in the log.
    bell: Notify,
    /// Connections that were cut off.
    cut: AtomicU64,
}

impl Revocations {
    /// Those of `instance`, which are followed from here on.
    pub(crate) fn of(&self, shared: &Arc<Shared>, instance: &InstanceId) -> Arc<Revoked> {
        if let Some(following) = self.instances.read().get(instance) {
            return following.revoked.clone();
        }
        let mut instances = self.instances.write();
        let following = instances.entry(instance.clone()).or_insert_with(|| {
            let revoked = Arc::new(Revoked::new(instance.clone(), &shared.config.revocations));
            let task = follow::run(Arc::downgrade(shared), revoked.clone());
            let task = match self.stopped.load(Ordering::Acquire) {
                // Nobody is let in any more either.
                true => tokio::spawn(async {}),
                false => tokio::spawn(task),
            };
            Following { revoked, task }
        });
        following.revoked.clone()
    }

    /// Instances that are placed no longer are followed no longer, and hold nobody.
    pub(crate) fn keep(&self, shared: &Shared, placed: impl Fn(&InstanceId) -> bool) {
        let mut gone = Vec::new();
        self.instances.write().retain(|id, following| {
            let stays = placed(id);
            if !stays {
                gone.push(following.revoked.clone());
            }
            stays
        });
        for revoked in gone {
            revoked.opens_for_good(shared);
        }
    }

    /// Nothing is followed any more.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        for following in self.instances.read().values() {
            following.task.abort();
        }
    }

    /// The streams to a shard's owner have ended: what is revoked there is not known meanwhile.
    pub(crate) fn lost(&self, shard: &ShardRef) {
        for following in self.instances.read().values() {
            if following.revoked.shard.lock().as_ref() == Some(shard) {
                following.revoked.close();
                following.revoked.bell.notify_one();
            }
        }
    }

    /// There are streams to a shard's owner again.
    pub(crate) fn found(&self, shard: &ShardRef) {
        for following in self.instances.read().values() {
            if following.revoked.shard.lock().as_ref() == Some(shard) {
                following.revoked.bell.notify_one();
            }
        }
    }

    /// Shows what is known.
    pub(crate) fn collect(&self, out: &mut Samples<'_>) {
        for (id, following) in self.instances.read().iter() {
            let (labels, revoked) = ([("instance", id.as_str())], &following.revoked);
            let (entries, forgotten) = {
                let follower = revoked.follower.read();
                (follower.entries(), follower.forgotten())
            };
            out.gauge(
                "gb6_edge_revocations",
                "Tokens, users and connections of an instance that are remembered as revoked.",
                &labels,
                entries as f64,
            );
            out.gauge(
                "gb6_edge_revocations_current",
                "Whether the newest revocations of an instance are known here.",
                &labels,
                f64::from(u8::from(revoked.is_current())),
            );
            out.gauge(
                "gb6_edge_revocations_outdated",
                "Whether an instance is served though its newest revocations are not known here.",
                &labels,
                f64::from(u8::from(revoked.outdated.load(Ordering::Relaxed))),
            );
            out.counter(
                "gb6_edge_revoked_connections_total",
                "Open connections that a revocation cut off.",
                &labels,
                revoked.cut.load(Ordering::Relaxed),
            );
            out.counter(
                "gb6_edge_revocations_forgotten_total",
                "Revocations that were forgotten before their time, because there were too many.",
                &labels,
                forgotten,
            );
        }
    }
}

impl Revoked {
    fn new(instance: InstanceId, config: &RevocationConfig) -> Self {
        let grace_ms = i64::try_from(config.grace.as_millis()).unwrap_or(i64::MAX);
        let follower = RevocationFollower::with_grace(RevocationFollower::ENTRIES_MAX, grace_ms);
        Self {
            instance,
            follower: RwLock::new(follower),
            current: watch::channel(false).0,
            open: AtomicBool::new(false),
            outdated: AtomicBool::new(false),
            shard: Mutex::default(),
            bell: Notify::new(),
            cut: AtomicU64::new(0),
        }
    }

    /// The channel as shards know it.
    fn room(&self) -> RoomRef {
        RoomRef {
            instance: self.instance.as_str().to_owned(),
            channel: RevocationFollower::CHANNEL.to_owned(),
        }
    }

    /// Whether its connections may be served: the newest revocations are known, or were waited for
    /// for as long as the operator wants.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether the newest revocations are known.
    fn is_current(&self) -> bool {
        *self.current.borrow()
    }

    /// Waits until they are. Safe to cancel.
    pub(crate) async fn until_current(&self) {
        let mut current = self.current.subscribe();
        // An error says that there is nobody to tell it.
        let _ = current.wait_for(|current| *current).await;
    }

    /// The way to the log is lost: the newest revocations are not known from here on.
    fn close(&self) {
        let mut follower = self.follower.write();
        follower.lost();
        self.follows(&follower);
    }

    /// Takes in a page of the log.
    fn take(&self, page: &HistoryAnswer, unix_ms: i64) -> Result<RevocationPage, ErrorCode> {
        let mut follower = self.follower.write();
        let taken = follower.page(page, unix_ms);
        self.follows(&follower);
        taken
    }

    /// Says whether connections may be served, by what `follower` knows.
    fn follows(&self, follower: &RevocationFollower) {
        let current = follower.is_current();
        if current {
            self.outdated.store(false, Ordering::Release);
        }
        // Who is served by what was known goes on so until all is known.
        let open = current || self.outdated.load(Ordering::Acquire);
        self.open.store(open, Ordering::Release);
        self.current
            .send_if_modified(|was| std::mem::replace(was, current) != current);
    }

    /// Everything up to now is applied, unless the way was lost since this read began.
    fn opens(&self, shared: &Shared, read: RevocationRead) {
        {
            let mut follower = self.follower.write();
            if !follower.finished(read) {
                return;
            }
            self.follows(&follower);
        }
        self.wake(shared);
    }

    /// The newest revocations have not been known for too long: connections are served by those
    /// that are.
    fn opens_outdated(&self, shared: &Shared) {
        {
            let follower = self.follower.write();
            if self.is_open() {
                return;
            }
            self.outdated.store(true, Ordering::Release);
            self.follows(&follower);
        }
        tracing::error!(
            instance = %self.instance,
            "the newest revocations can not be read, and the instance is served without them"
        );
        self.wake(shared);
    }

    /// The instance is gone, and nobody follows this any more: what is told its sessions gets to them.
    fn opens_for_good(&self, shared: &Shared) {
        self.open.store(true, Ordering::Release);
        self.wake(shared);
    }

    /// What waited goes on. Who is not among the people of the instance yet has nothing that waits.
    fn wake(&self, shared: &Shared) {
        for session in shared.people.all(&self.instance) {
            session.outbox.wake();
        }
    }

    /// The connections that these records may cut off, as far as they can be found.
    fn named_by(&self, shared: &Shared, records: &[Revocation]) -> Vec<Arc<SessionHandle>> {
        let mut users = BTreeSet::new();
        for record in records {
            match record {
                Revocation::UserTokens { user, .. } | Revocation::Block { user, .. } => {
                    users.insert(user.as_str());
                }
                Revocation::Unblock { .. } => {}
                // No index leads to these: it would cost every connection memory.
                Revocation::Token { .. } | Revocation::Session { .. } => {
                    return shared.people.all(&self.instance);
                }
            }
        }
        let tag = InstanceTag::of(self.instance.as_str());
        let of = |user| shared.people.of(tag, user);
        users.into_iter().flat_map(of).collect()
    }

    /// Cuts off whom a page names that was applied.
    async fn cut_off(&self, shared: &Shared, page: &RevocationPage) {
        if !page.cuts() {
            return;
        }
        let names_tokens = page.names_tokens();
        let mut cut = 0;
        // Who is entered meanwhile looks for itself, once it can be found.
        let mut named = self.named_by(shared, &page.records).into_iter();
        while !named.as_slice().is_empty() {
            let some = named.by_ref().take(AT_ONCE);
            cut += self.cut_off_some(shared, some, names_tokens);
            tokio::task::yield_now().await;
        }
        self.cut.fetch_add(cut, Ordering::Relaxed);
        for record in &page.records {
            let (instance, kind) = (&self.instance, record.kind());
            tracing::debug!(%instance, kind, "a revocation is applied");
        }
        if cut > 0 {
            tracing::info!(instance = %self.instance, connections = cut, "connections were cut off");
        }
    }

    /// Cuts off those of these that are revoked, and has the others look at their subscriptions if
    /// tokens are named; how many it were.
    fn cut_off_some(
        &self,
        shared: &Shared,
        sessions: impl Iterator<Item = Arc<SessionHandle>>,
        names_tokens: bool,
    ) -> u64 {
        let unix_ms = shared.clock.unix_ms();
        let mut cut = 0;
        let late = !self.is_current();
        let follower = self.follower.read();
        for session in sessions {
            let identity = session.identity_of(self);
            let why = identity.and_then(|identity| follower.verdict(&identity, unix_ms));
            if let Some(why) = why {
                session.outbox.event(Event::Cut(why));
                cut += 1;
            } else if names_tokens && session.has_shown_tokens() {
                session.outbox.event(Event::TokensRevoked { late });
            }
        }
        cut
    }

    /// Why a connection may not be, if it may not.
    pub(crate) fn verdict(&self, identity: &Identity, unix_ms: i64) -> Option<Disconnect> {
        self.follower.read().verdict(identity, unix_ms)
    }

    /// Whether this token, which is of the user with the key `user`, is taken back, alone or with
    /// others of the user.
    pub(crate) fn has_token(&self, token: &TokenRef, user: &[u8; 16], unix_ms: i64) -> bool {
        self.follower.read().has_token(token, user, unix_ms)
    }
}

/// Writes a revocation to the log of `instance`. When it returns it is durable, and edges in contact
/// apply it within a second.
///
/// # Errors
/// 107: it names nobody, or too long a name. 106: too much of the instance is revoked. Others as of a
/// publish: it was not written, or for 1003 maybe.
pub(crate) async fn revoke(
    shared: &Arc<Shared>,
    instance: &InstanceId,
    revocation: &Revocation,
) -> Result<(), ErrorCode> {
    let name = match revocation {
        Revocation::Token { id, .. } => id,
        Revocation::UserTokens { user, .. }
        | Revocation::Block { user, .. }
        | Revocation::Unblock { user } => user,
        Revocation::Session { client, .. } => client,
    };
    if !(1..=USER_BYTES_MAX).contains(&name.len()) {
        return Err(ErrorCode::BadRequest);
    }
    let revoked = shared.revocations.of(shared, instance);
    let unix_ms = shared.clock.unix_ms();
    if !revoked.follower.write().has_room(revocation, unix_ms) {
        return Err(ErrorCode::LimitExceeded);
    }
    revoked.write(shared, revocation, None).await?;
    // This edge need not wait until it is told.
    revoked.bell.notify_one();
    Ok(())
}

impl Revoked {
    /// Writes a record to the log, only behind `after` if that is given; its offset.
    async fn write(
        &self,
        shared: &Arc<Shared>,
        revocation: &Revocation,
        after: Option<u64>,
    ) -> Result<u64, ErrorCode> {
        let publish = revocation.to_publish(self.instance_epoch(shared), after);
        match self.ask(shared, publish).await? {
            Answer::Published(written) => Ok(written.offset),
            _ => Err(ErrorCode::Internal),
        }
    }

    /// Asks for a page of the log.
    async fn read(
        &self,
        shared: &Arc<Shared>,
        query: HistoryQuery,
    ) -> Result<Box<HistoryAnswer>, ErrorCode> {
        match self.ask(shared, Request::History(query)).await? {
            Answer::History(page) => Ok(page),
            _ => Err(ErrorCode::Internal),
        }
    }

    /// Asks the shard of the channel.
    async fn ask(&self, shared: &Arc<Shared>, request: Request) -> Result<Answer, ErrorCode> {
        let session = shared.api.of(shared, &self.instance);
        session.ask(shared, self.room(), request).await
    }

    /// The epoch of the instance that requests are routed by.
    fn instance_epoch(&self, shared: &Shared) -> InstanceEpoch {
        let snapshot = shared.snapshot.load();
        let placed = snapshot.instances.get(&self.instance);
        placed.map_or_else(Default::default, |i| i.epoch)
    }
}
