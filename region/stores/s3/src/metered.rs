//! What a store does, in numbers: operations by kind and outcome, their time, and bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gb6_core_obs::metrics::{Buckets, Counter, CounterFamily, HistogramFamily, Label, Metrics};
use gb6_core_ports::{BlobKey, BlobMeta, BlobStore, BlobWriter, Presigned, PutIf, StoreError};

/// Seconds, 200 µs to 60 s: from a small file of a fast disk to a large object of a slow server.
const SECONDS: Buckets = Buckets::new(&[
    200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0, 60.0,
]);

/// A store that counts what another does.
pub(crate) struct Metered {
    inner: Arc<dyn BlobStore>,
    numbers: Numbers,
}

#[derive(Clone)]
struct Numbers {
    kind: &'static str,
    operations: CounterFamily,
    seconds: HistogramFamily,
    read: Counter,
    written: Counter,
}

impl Metered {
    /// `kind` is the engine's.
    pub(crate) fn new(inner: Arc<dyn BlobStore>, kind: &'static str, metrics: &Metrics) -> Self {
        let store = Label::new("store", 4);
        let operation = Label::new("operation", 16);
        let bytes = metrics.counter_family(
            "gb6_blob_bytes_total",
            "Bytes of objects, read and written.",
            &[store, Label::new("direction", 2)],
        );
        let numbers = Numbers {
            kind,
            operations: metrics.counter_family(
                "gb6_blob_operations_total",
                "Operations on objects, by what came of them.",
                &[store, operation, Label::new("outcome", 16)],
            ),
            seconds: metrics.histogram_family(
                "gb6_blob_operation_seconds",
                "How long operations on objects took; of a writer its whole time.",
                SECONDS,
                &[store, operation],
            ),
            read: bytes.with(&[kind, "read"]),
            written: bytes.with(&[kind, "written"]),
        };
        Self { inner, numbers }
    }
}

impl Numbers {
    fn count<T>(
        &self,
        operation: &str,
        begun: Instant,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let outcome = match &result {
            Ok(_) => "ok",
            Err(error) => outcome(error),
        };
        self.operations.with(&[self.kind, operation, outcome]).inc();
        let seconds = begun.elapsed().as_secs_f64();
        self.seconds.with(&[self.kind, operation]).observe(seconds);
        result
    }

    fn time<T>(
        &self,
        operation: &str,
        run: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        self.count(operation, begun, run())
    }
}

fn outcome(error: &StoreError) -> &'static str {
    match error {
        StoreError::Conflict { .. } => "conflict",
        StoreError::OutcomeUnknown { .. } => "unknown",
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::StorageFull { .. } => "full",
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::TooLarge { .. } => "too_large",
        StoreError::Unsupported { .. } => "unsupported",
        _ => "error",
    }
}

impl BlobStore for Metered {
    fn put(&self, key: &BlobKey, body: Bytes, when: PutIf) -> Result<BlobMeta, StoreError> {
        let meta = self
            .numbers
            .time("put", || self.inner.put(key, body, when))?;
        self.numbers.written.inc_by(meta.size);
        Ok(meta)
    }

    fn writer(&self, key: &BlobKey) -> Result<Box<dyn BlobWriter>, StoreError> {
        let begun = Instant::now();
        match self.inner.writer(key) {
            Ok(inner) => Ok(Box::new(Writer {
                inner: Some(inner),
                begun,
                numbers: self.numbers.clone(),
            })),
            Err(error) => self.numbers.count("write", begun, Err(error)),
        }
    }

    fn get(&self, key: &BlobKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let body = self
            .numbers
            .time("get", || self.inner.get(key, bytes_max))?;
        self.numbers
            .read
            .inc_by(body.as_ref().map_or(0, Bytes::len) as u64);
        Ok(body)
    }

    fn get_range(&self, key: &BlobKey, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let body = self
            .numbers
            .time("get_range", || self.inner.get_range(key, range))?;
        self.numbers
            .read
            .inc_by(body.as_ref().map_or(0, Bytes::len) as u64);
        Ok(body)
    }

    fn head(&self, key: &BlobKey) -> Result<Option<BlobMeta>, StoreError> {
        self.numbers.time("head", || self.inner.head(key))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobMeta>, StoreError> {
        self.numbers
            .time("list", || self.inner.list(prefix, after, limit))
    }

    fn delete(&self, key: &BlobKey) -> Result<(), StoreError> {
        self.numbers.time("delete", || self.inner.delete(key))
    }

    fn presign(
        &self,
        key: &BlobKey,
        what: Presigned,
        valid: Duration,
    ) -> Result<String, StoreError> {
        self.numbers
            .time("presign", || self.inner.presign(key, what, valid))
    }
}

/// A writer is one operation, which ends when it is finished, has failed or is given up.
struct Writer {
    inner: Option<Box<dyn BlobWriter>>,
    begun: Instant,
    numbers: Numbers,
}

impl BlobWriter for Writer {
    fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let Some(inner) = &mut self.inner else {
            return Err(given_up());
        };
        let written = inner.write(bytes);
        if written.is_err() {
            self.inner = None;
            return self.numbers.count("write", self.begun, written);
        }
        written
    }

    fn finish(mut self: Box<Self>) -> Result<BlobMeta, StoreError> {
        let Some(inner) = self.inner.take() else {
            return Err(given_up());
        };
        let meta = self.numbers.count("write", self.begun, inner.finish())?;
        self.numbers.written.inc_by(meta.size);
        Ok(meta)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.inner.is_some() {
            let numbers = &self.numbers;
            let outcome = [numbers.kind, "write", "given_up"];
            numbers.operations.with(&outcome).inc();
        }
    }
}

fn given_up() -> StoreError {
    StoreError::Conflict {
        what: "the object was given up when a write of it failed".to_owned(),
    }
}
