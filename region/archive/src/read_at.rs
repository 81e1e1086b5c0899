//! What reading a segment needs of where it lies: a file, or an object in a `BlobStore`.

use std::io;

use gb6_core_ports::StoreError;

/// Bytes that can be read from anywhere in them. Offsets are explicit, so that readers share one.
pub trait ReadAt: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end.
    ///
    /// # Errors
    /// Whatever the system says; of a `BlobStore` see [`carry`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The length in bytes.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    fn len(&self) -> io::Result<u64>;

    /// Whether it is empty.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
}

/// Fills `buf` from `offset`.
///
/// # Errors
/// `UnexpectedEof` when `file` ends before; otherwise as [`ReadAt::read_at`].
pub fn read_exact_at<F: ReadAt>(file: &F, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => done += n,
        }
    }
    Ok(())
}

/// Whether the system said that there is no space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// An I/O error as a store error; one that carries a store error is that one again.
pub fn io_error(operation: &'static str, path: String, error: &io::Error) -> StoreError {
    if let Some(carried) = error.get_ref().and_then(|e| e.downcast_ref::<StoreError>()) {
        return carried.clone();
    }
    if is_full(error) {
        return StoreError::StorageFull { path };
    }
    StoreError::Io {
        operation,
        path,
        detail: error.to_string(),
    }
}

/// A store error on its way through code that knows I/O errors only ([`io_error`] takes it out).
pub fn carry(error: StoreError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_error_is_carried_through() {
        let error = StoreError::Unavailable {
            cause: "no answer".into(),
        };
        let carried = carry(error.clone());
        assert_eq!(io_error("read", "x".into(), &carried), error);
    }
}
