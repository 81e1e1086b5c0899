//! The manifest: what an archive holds. One line of JSON and one with its checksum, so that an archive
//! can be read without GB6; `docs/log-format.md` describes it.

use bytes::Bytes;
use gb6_core_model::{Incarnation, Position, ShardEpoch};
use gb6_core_ports::{Fence, LogRange};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::format::{FOOTER_BYTES, HEADER_BYTES, SegmentHeader};
use crate::names::is_part;

/// The version of the manifest that this code writes, and the newest that it reads.
pub(crate) const MANIFEST_VERSION: u32 = 1;
/// Largest manifest in bytes: some 400,000 segments.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Largest state of an engine in bytes.
pub(crate) const RESUME_BYTES_MAX: usize = 64 * 1024;

/// Whoever wrote something: an ownership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) epoch: u64,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub(crate) incarnation: u64,
}

impl Owner {
    pub(crate) fn of(fence: &Fence) -> Self {
        Self::new(fence.shard_epoch, fence.owner_incarnation)
    }

    pub(crate) fn new(epoch: ShardEpoch, incarnation: Incarnation) -> Self {
        Self {
            epoch: epoch.0,
            incarnation: incarnation.0,
        }
    }
}

/// A segment of the archive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SegmentEntry {
    /// Its name, without folder and extension.
    pub(crate) name: String,
    /// Its number, as in its header.
    pub(crate) seq: u64,
    pub(crate) generation: u32,
    /// The ownership that its batches are of.
    pub(crate) owner: Owner,
    pub(crate) first: Position,
    /// The position after its last.
    pub(crate) next: Position,
    /// Bytes of the object.
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

/// A checkpoint of the archive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct CheckpointEntry {
    /// Its name, without folder and extension.
    pub(crate) name: String,
    pub(crate) position: Position,
    /// Bytes of the object.
    pub(crate) bytes: u64,
}

/// What an archive holds at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The version of this format.
    pub(crate) format: u32,
    /// As in its name; 0: there is none yet.
    pub(crate) number: u64,
    pub(crate) region: String,
    pub(crate) shard: u32,
    /// The node that wrote it.
    pub(crate) node: String,
    /// The ownership under which it was written.
    pub(crate) owner: Owner,
    /// Tells this write from every other: who does not know what became of a put looks for it.
    pub(crate) write: String,
    /// The first position kept.
    pub(crate) first: Position,
    /// The position after the last.
    pub(crate) next: Position,
    /// The number of the next segment.
    pub(crate) next_seq: u64,
    /// Ascending, without gaps from `first` to `next`.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Ascending by position.
    pub(crate) checkpoints: Vec<CheckpointEntry>,
    /// What the engine needs to go on behind `next`.
    #[serde(serialize_with = "bytes_to_hex", deserialize_with = "bytes_from_hex")]
    pub(crate) resume: Bytes,
}

/// Why bytes are no manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ManifestError {
    Damaged(&'static str),
    Newer(u32),
}

impl SegmentEntry {
    /// Where its batches end, in bytes.
    pub(crate) fn frames_end(&self) -> u64 {
        self.bytes.saturating_sub(FOOTER_BYTES as u64)
    }

    /// Its header, as far as reading needs it.
    pub(crate) fn header(&self, manifest: &Manifest) -> SegmentHeader {
        SegmentHeader {
            seq: self.seq,
            shard_epoch: ShardEpoch(self.owner.epoch),
            owner_incarnation: Incarnation(self.owner.incarnation),
            first: self.first,
            shard: gb6_core_model::ShardId(manifest.shard),
            generation: self.generation,
            region: manifest.region.clone(),
        }
    }
}

impl Manifest {
    /// What the archive holds.
    pub(crate) fn range(&self) -> LogRange {
        LogRange {
            first: self.first,
            next: self.next,
        }
    }

    /// Bytes of its segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// The place of the segment that holds `position`.
    pub(crate) fn index_of(&self, position: Position) -> Option<usize> {
        let index = self.segments.partition_point(|s| s.next <= position);
        let holds = self.segments.get(index)?.first <= position;
        holds.then_some(index)
    }

    /// The text.
    pub(crate) fn encode(&self) -> Bytes {
        // Nothing in it can not be JSON.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("\ncrc {crc:08x}\n"));
        text.into()
    }

    /// Reads the text.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text =
            std::str::from_utf8(bytes).map_err(|_| ManifestError::Damaged("it is no text"))?;
        let lines = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .and_then(|(json, last)| Some((json, last.strip_prefix("crc ")?)));
        let Some((json, crc)) = lines else {
            return Err(ManifestError::Damaged("its checksum is missing"));
        };
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(json.as_bytes())) {
            return Err(ManifestError::Damaged("its checksum does not fit"));
        }
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_str(json)
            .map_err(|_| ManifestError::Damaged("it does not say its version"))?;
        if version.format > MANIFEST_VERSION {
            return Err(ManifestError::Newer(version.format));
        }
        let manifest: Self = serde_json::from_str(json)
            .map_err(|_| ManifestError::Damaged("a field is missing or of another kind"))?;
        manifest.check().map_err(ManifestError::Damaged)?;
        Ok(manifest)
    }

    /// Whether what it says fits together.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut at = self.first;
        let mut seq = 0;
        for segment in &self.segments {
            if segment.first != at || segment.next <= segment.first {
                return Err("its segments do not follow each other");
            }
            if segment.seq < seq || segment.seq >= self.next_seq {
                return Err("the numbers of its segments do not ascend");
            }
            if !is_part(&segment.name) || segment.bytes < (HEADER_BYTES + FOOTER_BYTES) as u64 {
                return Err("a segment can not be what it says");
            }
            if segment.records > segment.next - segment.first {
                return Err("a segment has more records than positions");
            }
            at = segment.next;
            seq = segment.seq.saturating_add(1);
        }
        if at != self.next {
            return Err("its segments do not reach its end");
        }
        let ascend = self
            .checkpoints
            .windows(2)
            .all(|pair| pair[0].position < pair[1].position);
        if !ascend || self.checkpoints.iter().any(|c| !is_part(&c.name)) {
            return Err("its checkpoints can not be what it says");
        }
        if self.resume.len() > RESUME_BYTES_MAX {
            return Err("the engine's state is too large");
        }
        Ok(())
    }
}

fn to_hex<S: Serializer>(number: &u64, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&format!("{number:016x}"))
}

fn from_hex<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    let text = String::deserialize(input)?;
    u64::from_str_radix(&text, 16).map_err(|_| de::Error::custom("no hexadecimal number"))
}

fn bytes_to_hex<S: Serializer>(bytes: &Bytes, out: S) -> Result<S::Ok, S::Error> {
    let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    out.serialize_str(&text)
}

fn bytes_from_hex<'de, D: Deserializer<'de>>(input: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(input)?;
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    let bytes: Option<Vec<u8>> = digits.collect();
    bytes
        .map(Bytes::from)
        .ok_or_else(|| de::Error::custom("no hexadecimal bytes"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest with a little of everything.
    pub(crate) fn sample() -> Manifest {
        let segment = |seq, first, next| SegmentEntry {
            name: format!("{first:020}-0-5.{:016x}.1", u64::MAX),
            seq,
            generation: 0,
            owner: Owner {
                epoch: 5,
                incarnation: u64::MAX,
            },
            first,
            next,
            bytes: 1000,
            records: next - first,
        };
        Manifest {
            format: MANIFEST_VERSION,
            number: 7,
            region: "eu".into(),
            shard: 3,
            node: "r1".into(),
            owner: Owner {
                epoch: 6,
                incarnation: 17,
            },
            write: "6.0000000000000011.4".into(),
            first: 10,
            next: 40,
            next_seq: 9,
            segments: vec![segment(4, 10, 30), segment(8, 30, 40)],
            checkpoints: vec![CheckpointEntry {
                name: format!("{:020}-5.{:016x}.2", 25, u64::MAX),
                position: 25,
                bytes: 99,
            }],
            resume: Bytes::from_static(b"\x00offset\xff"),
        }
    }

    #[test]
    fn it_reads_back_and_damage_is_seen() {
        let manifest = sample();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let wrong: [fn(&mut Manifest); 9] = [
            |m| m.first = 9,
            |m| m.next = 41,
            |m| m.segments[1].first = 31,
            |m| m.segments[1].seq = 4,
            |m| m.next_seq = 8,
            |m| m.segments[0].name = "../x".into(),
            |m| m.segments[0].records = 21,
            |m| m.segments[0].bytes = 5,
            |m| m.checkpoints.push(m.checkpoints[0].clone()),
        ];
        for (n, change) in wrong.into_iter().enumerate() {
            let mut manifest = sample();
            change(&mut manifest);
            assert!(Manifest::decode(&manifest.encode()).is_err(), "{n}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut manifest = sample();
        manifest.format = MANIFEST_VERSION + 1;
        let read = Manifest::decode(&manifest.encode());
        assert_eq!(read, Err(ManifestError::Newer(MANIFEST_VERSION + 1)));
    }
}
