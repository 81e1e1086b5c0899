//! Who carries the instance over. All that it knows is in its memory: when it dies, the next one
//! begins from the start and finds in the target how far the last one came.

use gb6_core_wire::mesh::RoomRef;
use gb6_core_wire::record::{Kind, Record};
use gb6_region_shard::{Admin, AdminOutcome};

use super::world::{Event, MoveWorld};
use super::{EDGES, EPOCHS, INSTANCES, SOURCE, TARGET};

/// How long an answer is waited for before the step is done again, in ms.
const ANSWER_MS: u64 = 700;
/// Records read at once.
const PAGE: usize = 16;

/// Where the move stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Before anything comes, the target must not be written by an edge that is early.
    ShutTarget,
    /// Following the source while it is written.
    Follow,
    /// Ending the instance's writes in the source.
    SealSource,
    /// Reading the rest, up to the seal.
    Drain,
    /// Beginning the instance's writes in the target.
    OpenTarget,
    /// The edges have been told.
    Done,
}

/// The mover.
pub(crate) struct Mover {
    pub(crate) life: u64,
    pub(crate) phase: Phase,
    /// Position in the source.
    at: u64,
    /// Read and not known to be imported.
    page: Vec<Record>,
    /// The seal has been read: nothing of the instance stands behind it.
    sealed: bool,
    /// The command without an answer, and since when.
    waiting: Option<(u64, u64)>,
}

impl Mover {
    pub(crate) fn new(life: u64) -> Self {
        Self {
            life,
            phase: Phase::ShutTarget,
            at: 0,
            page: Vec::new(),
            sealed: false,
            waiting: None,
        }
    }
}

fn seal() -> Admin {
    Admin::Seal {
        instance: INSTANCES[0].into(),
        epoch: EPOCHS.1,
        slots: Vec::new(),
    }
}

impl MoveWorld {
    /// Does the next thing, unless an answer is waited for.
    pub(crate) fn mover_step(&mut self, life: u64) {
        if self.own.mover.life != life || self.own.mover.phase == Phase::Done {
            return;
        }
        self.soon(4, 12, Event::MoverStep { life });
        let now = self.now;
        if self
            .own
            .mover
            .waiting
            .is_some_and(|(_, at)| now < at + ANSWER_MS)
        {
            return;
        }
        self.own.mover.waiting = None;
        match self.own.mover.phase {
            Phase::ShutTarget => self.ask(TARGET, seal()),
            Phase::SealSource => self.ask(SOURCE, seal()),
            Phase::Follow | Phase::Drain => self.carry(),
            Phase::OpenTarget => {
                let open = Admin::Open {
                    instance: INSTANCES[0].into(),
                    epoch: EPOCHS.2,
                    slots: Vec::new(),
                };
                self.ask(TARGET, open);
            }
            Phase::Done => {}
        }
    }

    fn ask(&mut self, shard: usize, admin: Admin) {
        let token = self.token();
        if self.admin(shard, token, admin) {
            self.own.mover.waiting = Some((token, self.now));
        }
    }

    /// Reads the next page, or imports the one that was read.
    fn carry(&mut self) {
        if self.own.mover.page.is_empty() && !self.read_on() {
            if self.own.mover.phase == Phase::Drain && self.own.mover.sealed {
                self.own.mover.phase = Phase::OpenTarget;
            } else if self.own.mover.phase == Phase::Follow && self.now >= self.own.seal_at {
                self.own.mover.phase = Phase::SealSource;
            }
            return;
        }
        let Some(target) = &self.own.shards[TARGET].up else {
            return;
        };
        let before = self.own.mover.page.len();
        self.own.mover.page.retain(|record| {
            let room = RoomRef {
                instance: record.instance.clone(),
                channel: record.channel.clone(),
            };
            record.offset > target.shard.top_offset(&room)
        });
        self.own.repeated += (before - self.own.mover.page.len()) as u64;
        if !self.own.mover.page.is_empty() {
            let page = self.own.mover.page.clone();
            self.ask(TARGET, Admin::Import(page));
        }
    }

    /// Reads from the source; `false` when nothing is left for now.
    fn read_on(&mut self) -> bool {
        let Some(source) = &self.own.shards[SOURCE].up else {
            return true;
        };
        let page = match source.follow(self.own.mover.at, PAGE) {
            Ok(page) => page,
            Err(error) => panic!("the source can not be followed: {error}"),
        };
        let mover = &mut self.own.mover;
        mover.at = page.next;
        for record in page.records {
            if record.instance != INSTANCES[0] {
                continue;
            }
            if record.kind() == Kind::Seal && record.instance_epoch == EPOCHS.1 {
                mover.sealed = true;
            } else if record.takes_offset() {
                assert!(!mover.sealed, "{record:?} stands behind the seal");
                mover.page.push(record);
            }
        }
        !mover.page.is_empty() || page.next < page.end
    }

    pub(crate) fn mover_hears(&mut self, token: u64, outcome: AdminOutcome) {
        if self.own.mover.waiting.is_none_or(|(mine, _)| mine != token) {
            return;
        }
        self.own.mover.waiting = None;
        let AdminOutcome::Done(_) = outcome else {
            // Refused because it is there already, or of unknown outcome: the target knows.
            return;
        };
        match self.own.mover.phase {
            Phase::ShutTarget => {
                self.own.mover.phase = Phase::Follow;
                self.own.early = true;
            }
            Phase::Follow | Phase::Drain => self.own.mover.page.clear(),
            Phase::SealSource => {
                self.own.mover.phase = Phase::Drain;
                self.own.sealed_ms.get_or_insert(self.now);
            }
            Phase::OpenTarget => {
                self.own.mover.phase = Phase::Done;
                self.own.opened_ms.get_or_insert(self.now);
                for edge in 0..EDGES {
                    self.soon(0, 200, Event::Placed(edge));
                }
            }
            Phase::Done => {}
        }
    }

    /// Another mover begins.
    pub(crate) fn mover_dies(&mut self) {
        let life = self.own.mover.life + 1;
        self.own.mover = Mover::new(life);
        self.soon(20, 300, Event::MoverStep { life });
    }
}
