//! The owners of a shard, one after the other, on any engine's log: the machine, driven by an input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gb6_core_model::{Incarnation, ShardEpoch, ShardId};
use gb6_core_ports::contract::log::LogFixture;
use gb6_core_ports::retention::{RetentionOffset, erase, retention_offset};
use gb6_core_ports::{Acquire, Fence, Retain, ShardLog, StoreError, wait};
use gb6_core_wire::mesh::{
    Attach, HistoryPage, HistoryRequest, OwnerFrame, Publication, RoomRef, ShardRef,
};
use gb6_core_wire::record::{
    KeyRing, NONCE_BYTES, Record, SealKey, body_with_keys, compress_body, seal_body,
};
use gb6_region_shard::{Batch, HistoryRead, LinkId, Output, Shard, ShardConfig, SyncStats};

use crate::input::{EDGES, SEALED, Step, snapshot};

/// The region of the shard.
pub(crate) const REGION: &str = "eu";
/// The shard.
pub(crate) const SHARD: ShardId = ShardId(0);
/// The key of the instance that has one.
const KEY: (u32, [u8; 32]) = (1, [7; 32]);
/// The link of history requests: no edge's.
const READER: LinkId = LinkId(1);

/// The keys of record bodies.
struct Keys;

impl KeyRing for Keys {
    fn key(&self, instance: &str, key_id: u32) -> Option<[u8; 32]> {
        (instance == SEALED && key_id == KEY.0).then_some(KEY.1)
    }
}

/// A shard on the log of one engine, and everything that came out of it.
pub(crate) struct Owner<'a> {
    engine: &'a dyn LogFixture,
    pub(crate) log: Arc<dyn ShardLog>,
    fence: Fence,
    shard: Shard,
    /// The monotonic clock that is given, in ms.
    now_ms: u64,
    /// What the wall clock of the owner's node shows at 0 of the other, Unix ms.
    began_ms: i64,
    /// Position → what the log is to hold there.
    pub(crate) given: BTreeMap<u64, Record>,
    /// Room → offset → position.
    index: BTreeMap<RoomRef, BTreeMap<u64, u64>>,
    /// Erased messages, whose bodies are not shown whether or not they still lie in the log.
    erased: BTreeSet<(RoomRef, u64)>,
    /// Positions of the checkpoints.
    checkpoints: Vec<u64>,
    /// What the machine said, to edges and to its driver, and what the log answered, in order.
    pub(crate) said: Vec<String>,
    reads: Vec<HistoryRead>,
    pages: Vec<HistoryPage>,
}

impl<'a> Owner<'a> {
    /// The first owner of an empty log.
    pub(crate) fn new(engine: &'a dyn LogFixture) -> Self {
        let mut owner = Self {
            engine,
            log: engine.open(),
            fence: fence(1),
            shard: machine(),
            now_ms: 1_000,
            began_ms: 1_700_000_000_000,
            given: BTreeMap::new(),
            index: BTreeMap::new(),
            erased: BTreeSet::new(),
            checkpoints: Vec::new(),
            said: Vec::new(),
            reads: Vec::new(),
            pages: Vec::new(),
        };
        owner.begin();
        owner
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Frame(edge, frame) => {
                let link = self.link(edge);
                self.shard.frame(self.now_ms, link, *frame);
            }
            Step::Admin(admin) => self.shard.admin(self.said.len() as u64, admin),
            Step::Tick(ms) => {
                self.now_ms += ms;
                self.shard.tick(self.now_ms, self.unix_ms());
            }
            Step::Commit => self.commit(),
            Step::Seal(part) => {
                let position = (self.shard.log_state().2 - 1) * part / 1_000;
                // Where segments end, and their numbers, are the engine's own.
                let sealed = self.log.seal_around(&self.fence, position);
                assert!(sealed.expect("sealed").is_some(), "{position} is kept");
            }
            Step::Rewrite => self.rewrite(),
            Step::Checkpoint => {
                let (position, state) = self.shard.checkpoint();
                self.log
                    .save_checkpoint(position, &state)
                    .expect("the checkpoint is saved");
                self.checkpoints.push(position);
                self.said.push(format!("{position} {state:?}"));
            }
            Step::Takeover => self.takeover(),
        }
        self.drain();
    }

    /// Each owner has its links.
    fn link(&self, edge: u64) -> LinkId {
        LinkId(self.fence.shard_epoch.0 * 100 + edge)
    }

    /// The wall clock that is given.
    fn unix_ms(&self) -> i64 {
        self.began_ms + self.now_ms as i64
    }

    /// Reads what is there, acquires, and serves the edges, which all come at once.
    fn begin(&mut self) {
        let mut from = 0;
        if let Some((position, state)) = self.log.load_checkpoint().expect("loaded") {
            from = self.shard.restore(&state).expect("a good checkpoint");
            assert_eq!(from, position);
        }
        self.index.clear();
        // The index is rebuilt from the whole log, the state from the checkpoint on.
        for record in read_all(&*self.log, |_| (300, 1 << 18)) {
            note(&mut self.index, &record);
            if record.position >= from {
                self.shard.replay(&record);
            }
        }
        let (_, served_ms, next) = self.shard.log_state();
        let (fence, time) = (self.fence.clone(), self.unix_ms());
        let acquired = wait(|done| self.log.acquire(fence, Acquire { time, served_ms }, done));
        let acquired = acquired.expect("acquired");
        assert_eq!(acquired.record.position, next);
        self.said.push(format!("{acquired:?}"));
        self.shard.replay(&acquired.record);
        self.given.insert(next, acquired.record);
        let (epoch, incarnation) = (self.fence.shard_epoch.0, self.fence.owner_incarnation.0);
        let next = acquired.range.next;
        self.shard.serve(self.now_ms, epoch, incarnation, next);
        for edge in 0..EDGES {
            let attach = OwnerFrame::Attach(Attach {
                edge_incarnation: 10 + edge,
                revision: 1,
                shard_epoch: epoch - 1,
            });
            self.take(Step::frame(edge, attach));
            for room in crate::input::rooms() {
                self.take(Step::frame(edge, OwnerFrame::Interest(room)));
            }
        }
    }

    fn next_batch(&mut self) -> Option<Batch> {
        let batch = self.shard.next_batch(self.now_ms, self.unix_ms());
        self.drain();
        batch
    }

    fn commit(&mut self) {
        let Some(batch) = self.next_batch() else {
            return;
        };
        let records = for_log(&batch.records);
        let given = records.iter().map(|r| (r.position, r.clone()));
        self.given.extend(given);
        let commit = wait(|done| self.log.append(&self.fence, records, done)).expect("committed");
        self.said
            .push(format!("committed {}..{}", commit.first, commit.next));
        for record in &*batch.records {
            note(&mut self.index, record);
        }
        // How long it took is the engine's own.
        self.shard.committed(self.now_ms, SyncStats::default());
    }

    /// Another node takes over while a batch of this one is on its way: it comes late, and its
    /// owner hears so.
    fn takeover(&mut self) {
        let late = self.next_batch().expect("something waits");
        let (deposed, old) = (self.fence.clone(), self.log.clone());
        self.fence = fence(deposed.shard_epoch.0 + 1);
        self.log = self.engine.open();
        self.shard = machine();
        // It has taken 5 s, and the wall clock of that node is 7 s behind this one's.
        self.now_ms += 5_000;
        self.began_ms -= 7_000;
        self.begin();
        let answer = wait(|done| old.append(&deposed, for_log(&late.records), done));
        let fenced = matches!(&answer, Err(StoreError::Fenced { .. }));
        assert!(fenced, "a deposed owner is answered {answer:?}");
    }

    /// Takes the bodies of erased messages out of the log.
    fn rewrite(&mut self) {
        let erasures: Vec<(RoomRef, u64)> = self.shard.erasures().cloned().collect();
        for (room, offset) in erasures {
            let position = self.index[&room][&offset];
            let sealed = self.log.seal_around(&self.fence, position);
            let segment = sealed.expect("sealed").expect("it is kept");
            let mut retain = |record: &Record| match record.position == position {
                true => Retain::Erase,
                false => Retain::Keep,
            };
            let freed = self.log.rewrite(&self.fence, segment, &mut retain);
            freed.expect("rewritten");
            self.given
                .get_mut(&position)
                .map(erase)
                .expect("it was given");
            self.shard.erased(room, offset);
        }
    }

    /// First kept offsets of rooms of which something was trimmed.
    pub(crate) fn first_kept(&self) -> HashMap<RoomRef, u64> {
        self.shard.trimmed_rooms().into_iter().collect()
    }

    /// Gives space back as far as the engine finds it worth while.
    pub(crate) fn retain(&mut self) {
        let first = self.first_kept();
        let [.., settled, _] = self.checkpoints[..] else {
            panic!("two checkpoints")
        };
        self.log
            .seal_around(&self.fence, settled - 1)
            .expect("sealed");
        let of_room = |instance: &str, channel: &str| first_of(&first, instance, channel);
        let plan = self.log.plan_retention(&of_room, settled).expect("planned");
        self.log.trim(&self.fence, plan.trim_to).expect("trimmed");
        for segment in plan.rewrite {
            let mut retain = |record: &Record| match may_go(&first, record) {
                true if record.position < settled => Retain::Drop,
                _ => Retain::Keep,
            };
            self.log
                .rewrite(&self.fence, segment.segment, &mut retain)
                .expect("rewritten");
        }
    }

    /// What clients are answered of `room`: forwards, backwards, from the middle, and in small pages.
    pub(crate) fn history(&mut self, room: &RoomRef) -> Vec<HistoryPage> {
        let (top, first) = (self.shard.top_offset(room), self.shard.first_offset(room));
        let middle = (first + top) / 2;
        let asked = [
            (0, true, false, 300, 1 << 19),
            (0, true, true, 300, 1 << 19),
            (first.saturating_sub(1), false, false, 7, 1 << 19),
            (middle, false, false, 300, 2_000),
            (middle, false, true, 300, 2_000),
            (0, false, false, 10, 1 << 19),
            (top, false, false, 10, 1 << 19),
        ];
        let mut answers = Vec::new();
        for (request, (since, from_end, reverse, limit, bytes)) in (1..).zip(asked) {
            let request = HistoryRequest {
                request,
                room: room.clone(),
                since,
                from_end,
                reverse,
                limit,
                bytes,
            };
            self.shard.history(self.now_ms, READER, request);
            self.drain();
            while let Some(read) = self.reads.pop() {
                let page = self.page(read);
                self.pages.push(page);
            }
            answers.push(self.pages.pop().expect("an answer"));
        }
        answers
    }

    /// Fills a page from the log.
    fn page(&self, read: HistoryRead) -> HistoryPage {
        let mut offsets: Vec<u64> = (read.low..=read.high).collect();
        if read.reverse {
            offsets.reverse();
        }
        let of_room = &self.index[&read.room];
        let positions: Vec<u64> = offsets.iter().map(|offset| of_room[offset]).collect();
        let records = self.log.read_at(&positions).expect("read");
        let (mut page, mut bytes) = (read.page, 0);
        for (offset, record) in offsets.into_iter().zip(records) {
            let record = record.expect("what is shown is kept");
            let mut publication = published(record);
            assert_eq!(publication.offset, offset);
            if self.erased.contains(&(read.room.clone(), offset)) {
                publication.erase();
            }
            bytes += publication.size() as u64;
            if bytes > read.bytes && !page.publications.is_empty() {
                break;
            }
            page.publications.push(publication);
        }
        page
    }

    fn drain(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Read(read) => self.reads.push(read),
                Output::Page { page, .. } => self.pages.push(page),
                Output::Unfounded { offset, head } => {
                    panic!("offset {offset} was to be acknowledged above the durable {head}")
                }
                other => {
                    if let Output::Erased { room, offset } = &other {
                        self.erased.insert((room.clone(), *offset));
                    }
                    self.said.push(format!("{other:?}"));
                }
            }
        }
    }
}

/// All records that a log holds, in pages of (records, bytes) that `bounds` says for each position.
pub(crate) fn read_all(
    log: &dyn ShardLog,
    mut bounds: impl FnMut(u64) -> (usize, usize),
) -> Vec<Record> {
    let range = log.range().expect("range");
    let (mut records, mut from) = (Vec::new(), range.first);
    while from < range.next {
        let (most, bytes) = bounds(from);
        let page = log.read(from, most, bytes).expect("read");
        assert!(page.records.len() <= most && page.next > from, "{from}");
        records.extend(page.records);
        from = page.next;
    }
    records
}

/// What clients see of a record.
pub(crate) fn published(mut record: Record) -> Publication {
    match body_with_keys(&record, &Keys) {
        Ok(body) => record.body = body,
        Err(error) => panic!("{}: {error}", record.position),
    }
    record.compression = 0;
    record.key_id = 0;
    Publication::of(&record)
}

/// Whether the shard's state has no need of a record once a checkpoint covers it.
pub(crate) fn may_go(first: &HashMap<RoomRef, u64>, record: &Record) -> bool {
    match retention_offset(record) {
        RetentionOffset::Room(offset) => {
            offset < first_of(first, &record.instance, &record.channel)
        }
        RetentionOffset::Settled => true,
        RetentionOffset::Pinned => false,
    }
}

fn first_of(first: &HashMap<RoomRef, u64>, instance: &str, channel: &str) -> u64 {
    let room = RoomRef {
        instance: instance.to_owned(),
        channel: channel.to_owned(),
    };
    first.get(&room).copied().unwrap_or(1)
}

fn fence(epoch: u64) -> Fence {
    Fence {
        region: REGION.into(),
        shard: SHARD,
        shard_epoch: ShardEpoch(epoch),
        owner_incarnation: Incarnation(0x1000 + epoch),
    }
}

fn machine() -> Shard {
    let mut config = ShardConfig::new(ShardRef {
        region: REGION.into(),
        shard: SHARD.0,
    });
    // Batches that are full, too.
    config.batch_records_max = 16;
    Shard::new(config, snapshot())
}

/// The records as they go to the log. The nonces, which a node draws by lot, are given: they are part
/// of the input.
fn for_log(records: &[Record]) -> Vec<Record> {
    let key = SealKey::new(&KEY.1);
    let sealed = records.iter().cloned().map(|mut record| {
        compress_body(&mut record);
        if record.instance == SEALED && record.takes_offset() {
            let mut nonce = [0; NONCE_BYTES];
            nonce[..8].copy_from_slice(&record.position.to_le_bytes());
            nonce[8] = record.shard_epoch as u8;
            seal_body(&mut record, KEY.0, &key, nonce).expect("sealed");
        }
        record
    });
    sealed.collect()
}

fn note(index: &mut BTreeMap<RoomRef, BTreeMap<u64, u64>>, record: &Record) {
    if record.takes_offset() {
        let room = RoomRef {
            instance: record.instance.clone(),
            channel: record.channel.clone(),
        };
        let of_room = index.entry(room).or_default();
        of_room.insert(record.offset, record.position);
    }
}
