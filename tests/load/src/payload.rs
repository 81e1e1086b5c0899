//! The data of a measured publication: JSON text of an exact size that carries its number and the
//! moment of sending, and otherwise characters that do not compress.

/// The text before the number.
const HEAD: &[u8] = b"{\"s\":\"";
/// Between the number and the moment.
const MIDDLE: &[u8] = b"\",\"t\":\"";
/// Before the filling.
const FILL: &[u8] = b"\",\"x\":\"";
const TAIL: &[u8] = b"\"}";
const DIGITS: usize = 16;
const MOMENT_AT: usize = HEAD.len() + DIGITS + MIDDLE.len();

/// The smallest payload in bytes.
pub(crate) const SIZE_MIN: usize = MOMENT_AT + DIGITS + FILL.len() + TAIL.len();

/// Writes payloads of one size.
pub(crate) struct Payload {
    bytes: Vec<u8>,
}

/// What a payload says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// The publication's number in its run.
    pub(crate) number: u64,
    /// When it was sent, or should have been, by [`crate::clock::now_ns`].
    pub(crate) sent_ns: u64,
}

impl Payload {
    /// Payloads of `size` bytes, but at least [`SIZE_MIN`].
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        let size = size.max(SIZE_MIN);
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(HEAD);
        bytes.extend_from_slice(&[b'0'; DIGITS]);
        bytes.extend_from_slice(MIDDLE);
        bytes.extend_from_slice(&[b'0'; DIGITS]);
        bytes.extend_from_slice(FILL);
        let mut random = Random::new(seed);
        while bytes.len() < size - TAIL.len() {
            bytes.push(ALPHABET[(random.next() >> 58) as usize]);
        }
        bytes.extend_from_slice(TAIL);
        Payload { bytes }
    }

    /// The payload with this stamp, until the next call.
    pub(crate) fn stamped(&mut self, stamp: Stamp) -> &[u8] {
        put_hex(
            &mut self.bytes[HEAD.len()..HEAD.len() + DIGITS],
            stamp.number,
        );
        put_hex(
            &mut self.bytes[MOMENT_AT..MOMENT_AT + DIGITS],
            stamp.sent_ns,
        );
        &self.bytes
    }
}

/// What a payload says; `None` for data of somebody else.
pub(crate) fn read(data: &[u8]) -> Option<Stamp> {
    if !data.starts_with(HEAD) {
        return None;
    }
    Some(Stamp {
        number: hex(data.get(HEAD.len()..HEAD.len() + DIGITS)?)?,
        sent_ns: hex(data.get(MOMENT_AT..MOMENT_AT + DIGITS)?)?,
    })
}

const ALPHABET: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

fn put_hex(out: &mut [u8], value: u64) {
    for (n, digit) in out.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (4 * n)) as usize & 15];
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// Numbers that look random and repeat with the seed (splitmix64, public domain).
pub(crate) struct Random(u64);

impl Random {
    /// Begins at `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_payload_is_json_of_its_size_and_tells_its_stamp(
            size in SIZE_MIN..2000, number: u64, sent_ns: u64
        ) {
            let mut payload = Payload::new(size, 1);
            let stamp = Stamp { number, sent_ns };
            let data = payload.stamped(stamp).to_vec();
            prop_assert_eq!(data.len(), size);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&data).is_ok());
            prop_assert_eq!(read(&data), Some(stamp));
        }

        #[test]
        fn foreign_data_has_no_stamp(data: Vec<u8>) {
            prop_assume!(!data.starts_with(HEAD));
            prop_assert_eq!(read(&data), None);
        }
    }

    #[test]
    fn cut_payloads_have_no_stamp() {
        let mut payload = Payload::new(100, 1);
        let data = payload
            .stamped(Stamp {
                number: 1,
                sent_ns: 2,
            })
            .to_vec();
        for cut in 0..MOMENT_AT + DIGITS {
            assert_eq!(read(&data[..cut]), None, "{cut}");
        }
    }
}
