//! What is kept beside a body to know it again: its length, its CRC-32C and a tag of its own. In a
//! local file it is the trailer; on S3 it is in the object's metadata.

use gb6_core_ports::{BlobKey, StoreError};
use ring::rand::{SecureRandom, SystemRandom};

/// Names one put, and no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(pub(crate) [u8; 16]);

impl Tag {
    /// A new one.
    pub(crate) fn new() -> Result<Self, StoreError> {
        let mut bytes = [0; 16];
        match SystemRandom::new().fill(&mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(StoreError::Unavailable {
                cause: "the system gives no random numbers".to_owned(),
            }),
        }
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The length and the checksum of a body, part by part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sum {
    /// Bytes.
    pub(crate) size: u64,
    /// CRC-32C of all of them.
    pub(crate) crc: u32,
}

impl Sum {
    pub(crate) fn of(body: &[u8]) -> Self {
        let mut sum = Self::default();
        sum.add(body);
        sum
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.size += bytes.len() as u64;
    }
}

/// That what is stored under `key` is not what was written.
pub(crate) fn corrupt(key: &BlobKey, detail: String) -> StoreError {
    StoreError::Corrupt {
        segment: format!("object {key}"),
        byte: 0,
        position: 0,
        detail,
    }
}

/// Whether `body` is what was summed.
pub(crate) fn verify(key: &BlobKey, body: &[u8], expected: Sum) -> Result<(), StoreError> {
    let found = Sum::of(body);
    if found == expected {
        return Ok(());
    }
    Err(corrupt(
        key,
        format!(
            "{} bytes with CRC-32C {:08x} were written, there are {} with {:08x}: restore it from a copy",
            expected.size, expected.crc, found.size, found.crc
        ),
    ))
}
