//! The end of an object's file, 40 bytes, numbers little-endian: the length of the body (8), its CRC-32C
//! (4), the tag of the put (16), the version of this format (4), the CRC-32C of these 32 bytes (4), and
//! the letters `GB6B`.

use std::path::Path;

use gb6_core_ports::{BlobKey, StoreError};

use crate::sum::{Sum, Tag, corrupt};

/// Its bytes.
pub(super) const LEN: u64 = 40;
const VERSION: u32 = 1;
const MAGIC: &[u8; 4] = b"GB6B";

/// What is known of the body before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trailer {
    pub(super) sum: Sum,
    pub(super) tag: Tag,
}

impl Trailer {
    pub(super) fn to_bytes(self) -> [u8; LEN as usize] {
        let mut bytes = [0; LEN as usize];
        bytes[..8].copy_from_slice(&self.sum.size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.sum.crc.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.tag.0);
        bytes[28..32].copy_from_slice(&VERSION.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        bytes[36..].copy_from_slice(MAGIC);
        bytes
    }
}

/// What the last [`LEN`] bytes of a file say.
pub(super) fn read(bytes: &[u8], key: &BlobKey, path: &Path) -> Result<Trailer, StoreError> {
    let damaged = || corrupt(key, "the trailer of its file is damaged".to_owned());
    let bytes: &[u8; LEN as usize] = bytes.try_into().map_err(|_| damaged())?;
    let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[at + n]));
    if &bytes[36..] != MAGIC || number(32) != crc32c::crc32c(&bytes[..32]) {
        return Err(damaged());
    }
    if number(28) > VERSION {
        return Err(StoreError::Format {
            path: path.display().to_string(),
            found: number(28),
            supported: VERSION,
        });
    }
    let mut tag = [0; 16];
    tag.copy_from_slice(&bytes[12..28]);
    Ok(Trailer {
        sum: Sum {
            size: u64::from(number(0)) | u64::from(number(4)) << 32,
            crc: number(8),
        },
        tag: Tag(tag),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_by_name_and_every_changed_byte_is_seen() {
        let key = BlobKey::parse("a").expect("a key");
        let trailer = Trailer {
            sum: Sum {
                size: 0x0102_0304_0506_0708,
                crc: 0x0a0b_0c0d,
            },
            tag: Tag([7; 16]),
        };
        let bytes = trailer.to_bytes();
        assert_eq!(read(&bytes, &key, Path::new("f")), Ok(trailer));
        for at in 0..bytes.len() {
            let mut changed = bytes;
            changed[at] ^= 0x10;
            let error = read(&changed, &key, Path::new("f")).expect_err("damaged");
            assert!(matches!(error, StoreError::Corrupt { .. }), "{at}: {error}");
        }
        let mut newer = bytes;
        newer[28] = 2;
        let crc = crc32c::crc32c(&newer[..32]);
        newer[32..36].copy_from_slice(&crc.to_le_bytes());
        let error = read(&newer, &key, Path::new("f")).expect_err("newer");
        assert!(
            matches!(error, StoreError::Format { found: 2, .. }),
            "{error}"
        );
        read(&bytes[1..], &key, Path::new("f")).expect_err("too short");
    }
}
