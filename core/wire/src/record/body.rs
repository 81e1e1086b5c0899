//! The body of a record: compressed and encrypted on its own, so that one instance's key can be
//! destroyed, and one message erased, without touching what lies beside it.
//!
//! Written in this order: compress, then seal. Compressed: the length before compression
//! (little-endian u32), then an LZ4 block. Sealed: the nonce (12 bytes), then the AES-256-GCM
//! ciphertext with its tag (16 bytes); authenticated with it are instance and channel (each behind
//! its length as big-endian u32), offset (big-endian u64) and generation (big-endian u32), so that
//! a body can not be moved to another place. An erased record's body is empty.

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{Compression, Record, flags};

/// Shorter bodies are never compressed: the gain is smaller than the work.
pub const COMPRESS_BYTES_MIN: usize = 512;
/// Largest body in bytes after decompression: far above any publication, small enough to allocate.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of the nonce of a sealed body.
pub const NONCE_BYTES: usize = ring::aead::NONCE_LEN;

const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
/// An LZ4 block can not unfold to more than this many times its bytes (LZ4 block format: a length
/// byte stands for at most 255).
const LZ4_RATIO_MAX: usize = 255;

/// The keys of record bodies. A key that was destroyed is gone: `None`.
pub trait KeyRing {
    /// The key of an instance with this id.
    fn key(&self, instance: &str, key_id: u32) -> Option<[u8; 32]>;
}

/// Why a body can not be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// The body is sealed and no keys were given.
    #[error("the body is sealed with key {key_id}; read it with the instance's keys")]
    Sealed {
        /// The key.
        key_id: u32,
    },
    /// The key is gone, and with it the body, for ever.
    #[error("key {key_id} of instance {instance} was destroyed: the body can not be read any more")]
    KeyDestroyed {
        /// The instance.
        instance: String,
        /// The key.
        key_id: u32,
    },
    /// The body does not belong to this place, was changed, or another key sealed it.
    #[error(
        "the body of offset {offset} in {channel} fails authentication under key {key_id}: \
         it was changed or moved; restore it from a copy of the log"
    )]
    Unauthentic {
        /// The channel.
        channel: String,
        /// The offset.
        offset: u64,
        /// The key.
        key_id: u32,
    },
    /// A compressed body claims to be larger than any body may be.
    #[error("the body claims {claimed} bytes after decompression, at most {max} are possible")]
    TooLarge {
        /// The claimed length.
        claimed: usize,
        /// The bound for this body.
        max: usize,
    },
    /// A compressed body is damaged.
    #[error("the compressed body is damaged: {problem}; restore it from a copy of the log")]
    Damaged {
        /// What was seen.
        problem: &'static str,
    },
    /// A newer writer used a compression that this code does not know.
    #[error("compression {compression} is not known here; read the log with a newer version")]
    UnknownCompression {
        /// The number in the record.
        compression: i32,
    },
    /// The record can not be sealed.
    #[error("the record can not be sealed: {problem}")]
    NotSealable {
        /// Why.
        problem: &'static str,
    },
}

/// Compresses a body of at least [`COMPRESS_BYTES_MIN`] if that saves at least an eighth of it.
/// Leaves a record alone whose body is compressed or sealed already.
pub fn compress_body(record: &mut Record) {
    let size = record.body.len();
    let eligible = (COMPRESS_BYTES_MIN..=BODY_BYTES_MAX).contains(&size)
        && record.compression == Compression::None as i32
        && record.key_id == 0;
    if !eligible {
        return;
    }
    let compressed = lz4_flex::block::compress_prepend_size(&record.body);
    if compressed.len() <= size - size / 8 {
        record.body = compressed.into();
        record.compression = Compression::Lz4.into();
    }
}

/// A key that seals bodies (AES-256-GCM), expanded once for all of them.
#[derive(Clone)]
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// The key of these bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(aead_key(key).expect("AES-256 takes any 32 bytes"))
    }
}

/// Seals a body. The record's instance, channel, offset and generation must be final. `nonce` must
/// be random and never used twice under one key (with 12 random bytes: below 2^32 records a key);
/// it comes from the caller, because this crate has no randomness.
pub fn seal_body(
    record: &mut Record,
    key_id: u32,
    key: &SealKey,
    nonce: [u8; NONCE_BYTES],
) -> Result<(), BodyError> {
    let refuse = |problem| Err(BodyError::NotSealable { problem });
    if key_id == 0 {
        return refuse("key id 0 means clear");
    }
    if record.key_id != 0 {
        return refuse("it is sealed already");
    }
    let aad = Aad::from(place(record));
    let mut sealed = Vec::with_capacity(NONCE_BYTES + record.body.len() + TAG_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&record.body);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .0
        .seal_in_place_separate_tag(nonce, aad, &mut sealed[NONCE_BYTES..]);
    let Ok(tag) = tag else {
        return refuse("the body is too long for AES-GCM");
    };
    sealed.extend_from_slice(tag.as_ref());
    record.body = sealed.into();
    record.key_id = key_id;
    Ok(())
}

/// The body of a record that is not sealed, as it was written.
pub fn body(record: &Record) -> Result<Bytes, BodyError> {
    if erased(record) {
        return Ok(Bytes::new());
    }
    match record.key_id {
        0 => decompress(record.compression, record.body.clone()),
        key_id => Err(BodyError::Sealed { key_id }),
    }
}

/// The body of any record, as it was written.
pub fn body_with_keys(record: &Record, keys: &(impl KeyRing + ?Sized)) -> Result<Bytes, BodyError> {
    if record.key_id == 0 || erased(record) {
        return body(record);
    }
    let key = keys
        .key(&record.instance, record.key_id)
        .ok_or_else(|| BodyError::KeyDestroyed {
            instance: record.instance.clone(),
            key_id: record.key_id,
        })?;
    let clear = open(record, &key).ok_or_else(|| BodyError::Unauthentic {
        channel: record.channel.clone(),
        offset: record.offset,
        key_id: record.key_id,
    })?;
    decompress(record.compression, clear)
}

/// Whether nothing of the body is left, whatever the record says about its writing.
fn erased(record: &Record) -> bool {
    record.flags & flags::ERASED != 0 && record.body.is_empty()
}

/// `None`: authentication failed.
fn open(record: &Record, key: &[u8; 32]) -> Option<Bytes> {
    let (nonce, ciphertext) = record.body.split_first_chunk::<NONCE_BYTES>()?;
    let mut buffer = ciphertext.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let aad = Aad::from(place(record));
    let key = aead_key(key).ok()?;
    let length = key.open_in_place(nonce, aad, &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer.into())
}

fn aead_key(key: &[u8; 32]) -> Result<LessSafeKey, ring::error::Unspecified> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new)
}

/// What the body is bound to.
fn place(record: &Record) -> Vec<u8> {
    let names = [record.instance.as_bytes(), record.channel.as_bytes()];
    let mut place = Vec::with_capacity(names[0].len() + names[1].len() + 20);
    for name in names {
        place.extend_from_slice(&(name.len() as u32).to_be_bytes());
        place.extend_from_slice(name);
    }
    place.extend_from_slice(&record.offset.to_be_bytes());
    place.extend_from_slice(&record.generation.to_be_bytes());
    place
}

fn decompress(compression: i32, body: Bytes) -> Result<Bytes, BodyError> {
    match Compression::try_from(compression) {
        Ok(Compression::None) => Ok(body),
        Ok(Compression::Lz4) => decompress_lz4(&body),
        Err(_) => Err(BodyError::UnknownCompression { compression }),
    }
}

fn decompress_lz4(body: &[u8]) -> Result<Bytes, BodyError> {
    let damaged = |problem| BodyError::Damaged { problem };
    let (length, block) = body
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| damaged("it is shorter than its length"))?;
    let claimed = u32::from_le_bytes(*length) as usize;
    // Checked before anything is allocated.
    let max = BODY_BYTES_MAX.min(block.len().saturating_mul(LZ4_RATIO_MAX));
    if claimed > max {
        return Err(BodyError::TooLarge { claimed, max });
    }
    let clear = lz4_flex::block::decompress(block, claimed)
        .map_err(|_| damaged("it is no valid LZ4 block of the length that it claims"))?;
    if clear.len() != claimed {
        return Err(damaged("it is shorter than it claims"));
    }
    Ok(clear.into())
}
