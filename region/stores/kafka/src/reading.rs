//! Reading a shard's log: from the archive, from memory, or piece by piece from Kafka.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gb6_core_model::Position;
use gb6_core_ports::{Page, StoreError};
use gb6_core_wire::record::Record;
use parking_lot::Mutex;
use prost::Message;

use crate::fetch::{FetchError, Piece};
use crate::kept::Batch;
use crate::share::What;
use crate::shared::Shared;

/// How often a read begins again because the archive has moved on.
const READ_TRIES: usize = 4;
/// For how long they are kept while nobody reads them.
const PIECES_KEPT: Duration = Duration::from_secs(10);
/// Bytes of batches that were read from Kafka and are kept, for a shard.
const PIECES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// See the module.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// The last pieces that were read from Kafka.
    pieces: Mutex<Pieces>,
}

struct Pieces {
    all: VecDeque<Arc<Vec<Batch>>>,
    used: Instant,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pieces: Mutex::new(Pieces {
                all: VecDeque::new(),
                used: Instant::now(),
            }),
        }
    }

    /// As [`gb6_core_ports::ShardLog::read`].
    pub(crate) fn read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Page, StoreError> {
        self.shared.live(|live| live.check_whole())?;
        for _ in 0..READ_TRIES {
            if let Some(page) = self.try_read(from, max_records, max_bytes)? {
                return Ok(page);
            }
        }
        Err(moving())
    }

    /// As [`gb6_core_ports::ShardLog::read_at`].
    pub(crate) fn read_at(
        &self,
        positions: &[Position],
    ) -> Result<Vec<Option<Record>>, StoreError> {
        self.shared.live(|live| live.check_whole())?;
        let mut found: Vec<Option<Record>> = vec![None; positions.len()];
        let mut order: Vec<usize> = (0..positions.len()).collect();
        order.sort_by_key(|index| positions[*index]);
        let begin = self.shared.live_from();
        let archived: Vec<usize> = (order.iter().copied())
            .filter(|index| positions[*index] < begin)
            .collect();
        if !archived.is_empty() {
            let asked: Vec<Position> = archived.iter().map(|index| positions[*index]).collect();
            let records = self.shared.archive.read_at(&asked)?;
            for (index, record) in archived.into_iter().zip(records) {
                found[index] = record;
            }
        }
        let mut batch: Option<(Position, Vec<Record>)> = None;
        for index in order {
            let position = positions[index];
            if position < begin {
                continue;
            }
            let has = |batch: &(Position, Vec<Record>)| {
                (batch.0..batch.0 + batch.1.len() as u64).contains(&position)
            };
            if !batch.as_ref().is_some_and(has) {
                batch = self.batch_of(position)?;
            }
            found[index] = batch
                .as_ref()
                .filter(|b| has(b))
                .and_then(|(first, records)| records.get((position - first) as usize).cloned());
        }
        Ok(found)
    }

    /// The batch that holds a position, with its first one.
    fn batch_of(&self, position: Position) -> Result<Option<(Position, Vec<Record>)>, StoreError> {
        for _ in 0..READ_TRIES {
            let (begin, end) = self
                .shared
                .live(|live| (live.kept().begin().next, live.tail().next));
            if position >= end {
                return Ok(None);
            }
            if position < begin {
                // It was archived since this read began.
                let mut record = self.shared.archive.read_at(&[position])?;
                return Ok(record.pop().flatten().map(|r| (position, vec![r])));
            }
            self.forget_archived();
            if let Some(batches) = self.batches(position, 1)?
                && let Some(batch) = batches.first()
            {
                return Ok(Some((batch.first, batch.records(&self.shared.topic)?)));
            }
        }
        Err(moving())
    }

    /// The batches from `from` on, which lies behind the archive: those in memory, or a piece from Kafka.
    /// `None`: look again, for it was archived meanwhile.
    fn batches(&self, from: Position, bytes_max: usize) -> Result<Option<Vec<Batch>>, StoreError> {
        let shared = &self.shared;
        let mut bytes = 0;
        let cached = shared.live(|live| {
            let batches = live.kept().cached(from)?;
            let enough = |batch: &&Batch| {
                let before = bytes;
                bytes += batch.message.len();
                before < bytes_max
            };
            // Cheap: the messages are shared.
            Some(batches.take_while(enough).cloned().collect::<Vec<_>>())
        });
        if cached.is_some() {
            return Ok(cached);
        }
        let has = |piece: &&Arc<Vec<Batch>>| {
            let (first, last) = (piece.first(), piece.last());
            first.is_some_and(|b| b.first <= from) && last.is_some_and(|b| from < b.next)
        };
        let mut pieces = self.pieces.lock();
        pieces.used = Instant::now();
        if let Some(piece) = pieces.all.iter().find(has) {
            let at = piece.partition_point(|batch| batch.next <= from);
            return Ok(Some(piece[at..].to_vec()));
        }
        drop(pieces);
        let Some((tail, until)) = shared.live(|live| live.kept().find(from, live.tail())) else {
            return Ok(None);
        };
        let piece = Piece {
            topic: &shared.topic,
            shard: shared.shard,
            from: tail,
            until,
            bytes_max: usize::MAX,
        };
        match shared.cluster.fetcher.fetch(piece) {
            Ok(batches) => {
                let batches = Arc::new(batches);
                self.keep(batches.clone());
                let at = batches.partition_point(|batch| batch.next <= from);
                Ok(Some(batches[at..].to_vec()))
            }
            Err(FetchError::OutOfRange) => {
                shared.refresh()?;
                Ok(None)
            }
            Err(FetchError::Store(error)) => Err(error),
        }
    }

    fn keep(&self, piece: Arc<Vec<Batch>>) {
        let mut pieces = self.pieces.lock();
        pieces.all.push_back(piece);
        let mut bytes = bytes_of(&pieces.all);
        let bytes_max = self.shared.share.of(What::Read, PIECES_BYTES_MAX);
        // overflow: the oldest go, and are read again.
        while bytes > bytes_max
            && pieces.all.len() > 1
            && let Some(oldest) = pieces.all.pop_front()
        {
            bytes -= size_of(&oldest);
        }
        self.shared.share.uses(What::Read, bytes);
    }

    /// What was archived is found in the archive alone.
    fn forget_archived(&self) {
        let begin = self.shared.live_from();
        let behind = |piece: &Arc<Vec<Batch>>| piece.first().is_some_and(|b| b.first >= begin);
        let mut pieces = self.pieces.lock();
        pieces.all.retain(behind);
        self.shared.share.uses(What::Read, bytes_of(&pieces.all));
    }

    /// Nobody may have read them for a while.
    pub(crate) fn forget_unused(&self) {
        let mut pieces = self.pieces.lock();
        if pieces.used.elapsed() > PIECES_KEPT {
            pieces.all = VecDeque::new();
            self.shared.share.uses(What::Read, 0);
        }
    }

    fn try_read(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Option<Page>, StoreError> {
        let shared = &self.shared;
        let (begin, end) = shared.live(|live| (live.kept().begin().next, live.tail().next));
        if from >= end {
            return Ok(Some(Page {
                records: Vec::new(),
                next: from,
                end,
            }));
        }
        if from < begin {
            let mut page = shared.archive.read(from, max_records, max_bytes)?;
            page.end = end;
            return Ok(Some(page));
        }
        self.forget_archived();
        let Some(batches) = self.batches(from, max_bytes)? else {
            return Ok(None);
        };
        let mut page = Page {
            records: Vec::new(),
            next: from,
            end,
        };
        let mut bytes = 0;
        for batch in batches {
            for record in batch.records(&shared.topic)? {
                if record.position < from {
                    continue;
                }
                bytes += record.encoded_len();
                let full = page.records.len() >= max_records || bytes > max_bytes;
                if full && !page.records.is_empty() {
                    return Ok(Some(page));
                }
                page.next = record.position + 1;
                page.records.push(record);
            }
        }
        Ok((page.next > from).then_some(page))
    }
}

fn moving() -> StoreError {
    StoreError::Unavailable {
        cause: "the log is archived faster than it can be read".into(),
    }
}

fn size_of(piece: &Arc<Vec<Batch>>) -> usize {
    piece.iter().map(|batch| batch.message.len()).sum()
}

fn bytes_of(pieces: &VecDeque<Arc<Vec<Batch>>>) -> usize {
    pieces.iter().map(size_of).sum()
}
