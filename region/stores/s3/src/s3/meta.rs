//! What is kept with an object in its metadata: `gb6-tag` (32 hex digits), the tag of its put;
//! `gb6-size` and `gb6-crc32c` (8 hex digits), of its body. An object that was written in parts has
//! `gb6-sum: apart` instead of these two, since metadata is sent before the first part: they are in an
//! object of their own then.

use gb6_core_ports::{BlobKey, BlobMeta};
use object_store::{Attribute, Attributes};

use crate::sum::{Sum, Tag};

const TAG: &str = "gb6-tag";
const SIZE: &str = "gb6-size";
const CRC: &str = "gb6-crc32c";
const SUM: &str = "gb6-sum";
const APART: &str = "apart";

/// What is kept with one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// It was put at once.
    Whole { tag: Tag, sum: Sum },
    /// It was put in parts.
    Apart { tag: Tag },
    /// Nothing of ours: it was put through a URL, or by somebody else.
    Nothing,
    /// Something that can not be read.
    Damaged,
}

impl Kept {
    pub(super) fn tag(&self) -> Option<Tag> {
        match self {
            Kept::Whole { tag, .. } | Kept::Apart { tag } => Some(*tag),
            Kept::Nothing | Kept::Damaged => None,
        }
    }

    pub(super) fn to_attributes(self) -> Attributes {
        let mut attributes = Attributes::new();
        let mut set = |name: &'static str, value: String| {
            attributes.insert(Attribute::Metadata(name.into()), value.into());
        };
        match self {
            Kept::Whole { tag, sum } => {
                set(TAG, tag.to_string());
                set(SIZE, sum.size.to_string());
                set(CRC, format!("{:08x}", sum.crc));
            }
            Kept::Apart { tag } => {
                set(TAG, tag.to_string());
                set(SUM, APART.to_owned());
            }
            Kept::Nothing | Kept::Damaged => {}
        }
        attributes
    }

    pub(super) fn from_attributes(attributes: &Attributes) -> Self {
        let get = |name: &'static str| {
            let value = attributes.get(&Attribute::Metadata(name.into()));
            value.map(|value| value.as_ref())
        };
        if [TAG, SIZE, CRC, SUM].iter().all(|name| get(name).is_none()) {
            return Kept::Nothing;
        }
        let Some(tag) = get(TAG).and_then(parse_tag) else {
            return Kept::Damaged;
        };
        match (get(SUM), get(SIZE), get(CRC)) {
            (Some(APART), None, None) => Kept::Apart { tag },
            (None, Some(size), Some(crc)) => match parse_sum(size, crc) {
                Some(sum) => Kept::Whole { tag, sum },
                None => Kept::Damaged,
            },
            _ => Kept::Damaged,
        }
    }
}

fn parse_tag(text: &str) -> Option<Tag> {
    let mut tag = [0; 16];
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (n, byte) in tag.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(Tag(tag))
}

fn parse_sum(size: &str, crc: &str) -> Option<Sum> {
    if crc.len() != 8 || !crc.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(Sum {
        size: size.parse().ok()?,
        crc: u32::from_str_radix(crc, 16).ok()?,
    })
}

/// A sum as the text of an object of its own.
pub(super) fn sum_to_text(sum: Sum) -> String {
    format!("{} {:08x}\n", sum.size, sum.crc)
}

/// What [`sum_to_text`] made.
pub(super) fn sum_from_text(text: &[u8]) -> Option<Sum> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (size, crc) = text.split_once(' ')?;
    parse_sum(size, crc)
}

/// What is told of an object; servers give ETags in quotes or without.
pub(super) fn meta(key: BlobKey, size: u64, e_tag: &str) -> BlobMeta {
    BlobMeta {
        key,
        size,
        tag: e_tag.trim_matches('"').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_what_is_damaged_is_seen() {
        let tag = Tag(*b"0123456789abcdef");
        let sum = Sum {
            size: 12_345,
            crc: 0xab,
        };
        for kept in [Kept::Whole { tag, sum }, Kept::Apart { tag }, Kept::Nothing] {
            assert_eq!(Kept::from_attributes(&kept.to_attributes()), kept);
        }
        for (name, value) in [
            (TAG, "0123"),
            (TAG, "zz000000000000000000000000000000"),
            (SIZE, "-1"),
            (CRC, "+00000ab"),
            (CRC, "ab"),
            (SUM, APART),
        ] {
            let mut attributes = Kept::Whole { tag, sum }.to_attributes();
            attributes.insert(Attribute::Metadata(name.into()), value.into());
            let kept = Kept::from_attributes(&attributes);
            assert_eq!(kept, Kept::Damaged, "{name}: {value}");
        }
        assert_eq!(sum_from_text(sum_to_text(sum).as_bytes()), Some(sum));
        for bad in [
            "",
            "12345 000000ab",
            "12345\n",
            " 000000ab\n",
            "1 2 3\n",
            "1 xyzxyzxy\n",
        ] {
            assert_eq!(sum_from_text(bad.as_bytes()), None, "{bad}");
        }
    }
}
