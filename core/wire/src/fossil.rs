//! The fossil delta format, on bytes: what turns one publication's data into the next one's.
//!
//! A delta is the length of the target and a line break, then commands: `N@off,` copies `N` bytes
//! of the base from `off`, `N:` is followed by `N` bytes of its own, `sum;` ends it with the sum
//! of the target's big-endian 32-bit words. Numbers are in base 64 with the alphabet
//! `0-9A-Z_a-z~`, the highest digit first.
//!
//! [`make`] finds copies as fossil itself does, by the hashes of blocks of the base, and cuts them
//! where characters of UTF-8 begin: of two texts the delta is a text too, which a JSON string can
//! carry. Time and memory are linear in base and target, whatever they are.

/// Bytes of one block of the base.
const BLOCK: usize = 16;
/// Blocks of one hash that are compared for one place of the target.
const CANDIDATES_MAX: usize = 8;
/// Bytes compared for each byte of base and target before no more copies are looked for: so much
/// takes only data made to be slow.
const WORK_PER_BYTE: usize = 8;

const ALPHABET: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The delta that makes `target` of `base`; `None` where it would not be shorter than the target.
///
/// Of anything above 4 GiB, which the format can not say, there is none.
pub fn make(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if u32::try_from(base.len()).is_err() || u32::try_from(target.len()).is_err() {
        return None;
    }
    let mut delta = Delta {
        base,
        target,
        out: Vec::with_capacity(64 + target.len() / 8),
        done: 0,
    };
    put_number(target.len() as u32, &mut delta.out);
    delta.out.push(b'\n');
    // What both begin and end with needs no search.
    let start = common_prefix(base, target);
    let rest = base.len().min(target.len()) - start;
    let end = common_suffix(base, target, rest);
    delta.copy(0, 0, start);
    delta.search(start..base.len() - end, start..target.len() - end);
    delta.copy(base.len() - end, target.len() - end, end);
    delta.insert(target.len());
    put_number(checksum(target), &mut delta.out);
    delta.out.push(b';');
    (delta.out.len() < target.len()).then_some(delta.out)
}

/// A delta while it is made: everything of the target before `done` is said.
struct Delta<'a> {
    base: &'a [u8],
    target: &'a [u8],
    out: Vec<u8>,
    done: usize,
}

impl Delta<'_> {
    /// Says the bytes of the target up to `end` as they are.
    fn insert(&mut self, end: usize) {
        if self.done < end {
            put_number((end - self.done) as u32, &mut self.out);
            self.out.push(b':');
            self.out.extend_from_slice(&self.target[self.done..end]);
            self.done = end;
        }
    }

    /// Says that `length` bytes of the target from `at` are those of the base from `from`, as far
    /// as whole characters go and it takes fewer bytes than to say them. Returns whether it did.
    fn copy(&mut self, from: usize, at: usize, length: usize) -> bool {
        let continues = |at: usize| self.target.get(at).is_some_and(|b| b & 0xc0 == 0x80);
        let (mut start, mut end) = (at, at + length);
        // A character has at most three bytes behind its first: more are no text.
        for _ in 0..3 {
            if start < end && continues(start) {
                start += 1;
            }
            if start < end && continues(end) {
                end -= 1;
            }
        }
        let (from, length) = (from + start - at, end - start);
        let cost = 2 + digits(length as u32) + digits(from as u32);
        if length <= cost {
            return false;
        }
        self.insert(start);
        put_number(length as u32, &mut self.out);
        self.out.push(b'@');
        put_number(from as u32, &mut self.out);
        self.out.push(b',');
        self.done = end;
        true
    }

    /// Finds copies between these parts of base and target, which differ at both ends.
    fn search(&mut self, base: std::ops::Range<usize>, target: std::ops::Range<usize>) {
        if base.len() < BLOCK || target.len() < BLOCK {
            return;
        }
        let blocks = Blocks::of(self.base, base.clone());
        let mut work = WORK_PER_BYTE * (base.len() + target.len());
        let mut at = target.start;
        while at + BLOCK <= target.end && work > 0 {
            let block = word(self.target, at);
            let mut best = (0, 0, 0);
            for from in blocks.find(block).take(CANDIDATES_MAX) {
                if word(self.base, from) != block {
                    continue;
                }
                let ahead = common_prefix(&self.base[from..base.end], &self.target[at..target.end]);
                let most = (from - base.start).min(at - self.done);
                let back = common_suffix(&self.base[..from], &self.target[..at], most);
                work = work.saturating_sub(ahead + back);
                if ahead + back > best.2 {
                    best = (from - back, at - back, ahead + back);
                }
            }
            let (from, start, length) = best;
            if length > 0 && self.copy(from, start, length) {
                at = self.done.max(at + 1);
            } else {
                at += 1;
            }
        }
    }
}

/// The blocks of a part of the base by their hashes.
struct Blocks {
    start: usize,
    /// For each hash the number of its last block, from 1; 0: none.
    last: Vec<u32>,
    /// For each block the number of the one before it with its hash; 0: none.
    before: Vec<u32>,
    shift: u32,
}

impl Blocks {
    fn of(base: &[u8], part: std::ops::Range<usize>) -> Self {
        let count = part.len() / BLOCK;
        let bits = (2 * count).next_power_of_two().trailing_zeros().max(1);
        let mut blocks = Self {
            start: part.start,
            last: vec![0; 1 << bits],
            before: Vec::with_capacity(count),
            shift: 64 - bits,
        };
        for number in 0..count {
            let hash = blocks.hash(word(base, part.start + number * BLOCK));
            let last = &mut blocks.last[hash];
            blocks
                .before
                .push(std::mem::replace(last, number as u32 + 1));
        }
        blocks
    }

    fn hash(&self, block: u128) -> usize {
        let folded = (block as u64) ^ ((block >> 64) as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Where blocks that may be this one begin, the last first.
    fn find(&self, block: u128) -> impl Iterator<Item = usize> {
        let number = |n: u32| (n > 0).then_some(n);
        let first = number(self.last[self.hash(block)]);
        std::iter::successors(first, move |n| number(self.before[*n as usize - 1]))
            .map(|n| self.start + (n as usize - 1) * BLOCK)
    }
}

/// The block at `at`; 0 where it does not fit, which the callers rule out.
fn word(bytes: &[u8], at: usize) -> u128 {
    let block = bytes.get(at..at + BLOCK).and_then(|b| b.try_into().ok());
    block.map_or(0, u128::from_le_bytes)
}

/// How many bytes both begin with.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK));
    let same = BLOCK * words.take_while(|(a, b)| a == b).count();
    let bytes = a[same..].iter().zip(&b[same..]);
    same + bytes.take_while(|(a, b)| a == b).count()
}

/// How many bytes both end with, at most `most`.
fn common_suffix(a: &[u8], b: &[u8], most: usize) -> usize {
    let (a, b) = (&a[a.len() - most..], &b[b.len() - most..]);
    let words = a.rchunks_exact(BLOCK).zip(b.rchunks_exact(BLOCK));
    let same = BLOCK * words.take_while(|(a, b)| a == b).count();
    let bytes = a[..most - same]
        .iter()
        .rev()
        .zip(b[..most - same].iter().rev());
    same + bytes.take_while(|(a, b)| a == b).count()
}

fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let sum = |sum: u32, word: &[u8]| {
        let word = word.try_into().map_or(0, u32::from_be_bytes);
        sum.wrapping_add(word)
    };
    sum(words.fold(0, sum), &last)
}

/// Digits of a number in base 64.
fn digits(number: u32) -> usize {
    (number.max(1).ilog2() / 6 + 1) as usize
}

fn put_number(number: u32, out: &mut Vec<u8>) {
    for place in (0..digits(number)).rev() {
        out.push(ALPHABET[(number >> (6 * place)) as usize & 63]);
    }
}

/// Why a delta can not be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeltaError {
    /// It ends inside a command, or without its sum.
    #[error("the delta ends too early")]
    Eof,
    /// A number is missing or does not fit into 32 bits.
    #[error("byte {at} of the delta is no number of 32 bits")]
    Number {
        /// Where it should begin.
        at: usize,
    },
    /// Something that is no command.
    #[error("byte {at} of the delta is no command")]
    Command {
        /// Where.
        at: usize,
    },
    /// A copy of bytes that the base does not have.
    #[error("the delta copies {length} bytes from {from}, the base has {base}")]
    Copy {
        /// From where.
        from: u32,
        /// How many.
        length: u32,
        /// How many the base has.
        base: usize,
    },
    /// The result would be longer than the delta says, or than the caller takes.
    #[error("the delta makes more than {max} bytes")]
    TooLong {
        /// What the result may have.
        max: usize,
    },
    /// The result is shorter than the delta says, or its sum is another: it is meant for another
    /// base.
    #[error("the delta is for another base")]
    OtherBase,
}

/// What `delta` makes of `base`, at most `max` bytes. Safe on any delta: never takes more memory
/// than the result and never reads outside of the base.
pub fn apply(base: &[u8], delta: &[u8], max: usize) -> Result<Vec<u8>, DeltaError> {
    let mut reader = Reader { delta, at: 0 };
    let length = reader.number()? as usize;
    reader.expect(b'\n')?;
    if length > max {
        return Err(DeltaError::TooLong { max });
    }
    let mut out = Vec::new();
    loop {
        let number = reader.number()?;
        let command = reader.byte()?;
        let part = match command {
            b'@' => {
                let from = reader.number()?;
                reader.expect(b',')?;
                let end = (from as usize).checked_add(number as usize);
                let part = end.and_then(|end| base.get(from as usize..end));
                part.ok_or(DeltaError::Copy {
                    from,
                    length: number,
                    base: base.len(),
                })?
            }
            b':' => reader.take(number as usize)?,
            b';' if out.len() == length && checksum(&out) == number => return Ok(out),
            b';' => return Err(DeltaError::OtherBase),
            _ => return Err(DeltaError::Command { at: reader.at - 1 }),
        };
        if out.len() + part.len() > length {
            return Err(DeltaError::TooLong { max: length });
        }
        out.extend_from_slice(part);
    }
}

struct Reader<'a> {
    delta: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DeltaError> {
        let byte = *self.delta.get(self.at).ok_or(DeltaError::Eof)?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), DeltaError> {
        match self.byte()? {
            byte if byte == wanted => Ok(()),
            _ => Err(DeltaError::Command { at: self.at - 1 }),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DeltaError> {
        let end = self.at.checked_add(length).ok_or(DeltaError::Eof)?;
        let part = self.delta.get(self.at..end).ok_or(DeltaError::Eof)?;
        self.at = end;
        Ok(part)
    }

    fn number(&mut self) -> Result<u32, DeltaError> {
        let start = self.at;
        let mut number = 0u64;
        while let Some(digit) = self.delta.get(self.at).and_then(|b| digit(*b)) {
            number = number << 6 | u64::from(digit);
            self.at += 1;
            if number > u64::from(u32::MAX) {
                return Err(DeltaError::Number { at: start });
            }
        }
        match self.at {
            at if at > start => Ok(number as u32),
            at if at == self.delta.len() => Err(DeltaError::Eof),
            at => Err(DeltaError::Number { at }),
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'Z' => Some(byte - b'A' + 10),
        b'_' => Some(36),
        b'a'..=b'z' => Some(byte - b'a' + 37),
        b'~' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(delta: Option<Vec<u8>>) -> String {
        delta.map_or("none".into(), |d| String::from_utf8(d).expect("text"))
    }

    #[test]
    fn golden_deltas() {
        let base = b"{\"score\":1,\"team\":\"the long name of a team\",\"minute\":17}";
        let target = b"{\"score\":2,\"team\":\"the long name of a team\",\"minute\":18}";
        let delta = make(base, target);
        assert_eq!(text(delta.clone()), "t\n9@0,1:2h@A,2:8}2rft4s;");
        let made = apply(base, &delta.unwrap_or_default(), 100);
        assert_eq!(made.as_deref(), Ok(&target[..]));
        // The sum pads the last word; numbers have their highest digit first.
        assert_eq!(checksum(b"abcde"), 0x6162_6364 + 0x6500_0000);
        let mut number = Vec::new();
        put_number(u32::MAX, &mut number);
        put_number(64, &mut number);
        put_number(0, &mut number);
        assert_eq!(number, b"3~~~~~100");
    }

    #[test]
    fn none_where_it_is_not_shorter() {
        assert_eq!(make(b"", b""), None);
        assert_eq!(make(b"abc", b"xyz"), None);
        assert_eq!(make(&[b'x'; 100], b"short"), None);
        let same = [b'x'; 40];
        assert_eq!(text(make(&same, &same)), "d\nd@0,2piBIl;");
    }

    #[test]
    fn what_moved_is_copied() {
        let part = |n: u32| (0..40).map(|i| format!("{n}.{i} ")).collect::<String>();
        let base = format!("{}{}{}", part(1), part(2), part(3));
        let target = format!("{}{}{}", part(3), part(1), part(2));
        let delta = make(base.as_bytes(), target.as_bytes()).expect("shorter");
        assert!(delta.len() < 60, "{}", String::from_utf8_lossy(&delta));
        let made = apply(base.as_bytes(), &delta, usize::MAX);
        assert_eq!(made.as_deref(), Ok(target.as_bytes()));
    }

    #[test]
    fn wrong_deltas_are_named() {
        let base = b"0123456789";
        for (delta, error) in [
            ("", DeltaError::Eof),
            ("A", DeltaError::Eof),
            ("!", DeltaError::Number { at: 0 }),
            ("4~~~~~\n", DeltaError::Number { at: 0 }),
            ("A;", DeltaError::Command { at: 1 }),
            ("A\n5", DeltaError::Eof),
            ("A\n5?", DeltaError::Command { at: 3 }),
            ("A\n5@0", DeltaError::Eof),
            ("A\n5@0;", DeltaError::Command { at: 5 }),
            (
                "A\nA@1,",
                DeltaError::Copy {
                    from: 1,
                    length: 10,
                    base: 10,
                },
            ),
            (
                "A\n3~~~~~@3~~~~~,",
                DeltaError::Copy {
                    from: u32::MAX,
                    length: u32::MAX,
                    base: 10,
                },
            ),
            ("A\n5:1234", DeltaError::Eof),
            ("A\n3~~~~~:1", DeltaError::Eof),
            ("4\n5@0,", DeltaError::TooLong { max: 4 }),
            ("1000\n", DeltaError::TooLong { max: 1000 }),
            ("A\nA@0,", DeltaError::Eof),
            ("A\nA@0,0;", DeltaError::OtherBase),
            ("B\nA@0,0;", DeltaError::OtherBase),
        ] {
            assert_eq!(apply(base, delta.as_bytes(), 1000), Err(error), "{delta:?}");
        }
    }

    #[test]
    fn a_small_delta_can_not_take_much_memory() {
        let copies = "10000@0,".repeat(1000);
        let delta = format!("3~~~~~\n{copies}");
        let made = apply(&vec![0; 1 << 24], delta.as_bytes(), 1 << 20);
        assert_eq!(made, Err(DeltaError::TooLong { max: 1 << 20 }));
    }

    /// Data made to be slow for a search by hashes: many equal blocks that go on differently.
    #[test]
    fn hostile_data_take_linear_time() {
        let mut base = Vec::new();
        let mut target = Vec::new();
        for n in 0..20_000u32 {
            base.extend_from_slice(&[b'a'; 48]);
            base.extend_from_slice(&n.to_le_bytes());
            target.extend_from_slice(&[b'a'; 47]);
            target.extend_from_slice(&(n ^ 0x5555).to_be_bytes());
        }
        let began = std::time::Instant::now();
        let delta = make(&base, &target);
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        if let Some(delta) = delta {
            assert_eq!(apply(&base, &delta, usize::MAX), Ok(target));
        }
    }

    /// Two texts or two strings of bytes with much in common.
    fn pairs() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let words = prop::collection::vec("[a-c]{1,9}|[äжж€漢𝄞]{1,12}|\\PC{0,6}", 0..60);
        let parts = prop_oneof![
            words.prop_map(|w| w.into_iter().map(String::into_bytes).collect::<Vec<_>>()),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
            prop::collection::vec(prop::collection::vec(120u8..140, 0..40), 0..40),
        ];
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        (parts, edits).prop_map(|(parts, edits)| {
            let mut edited = parts.clone();
            for (at, what) in edits {
                if edited.is_empty() {
                    break;
                }
                let at = at.index(edited.len());
                match what % 4 {
                    0 => drop(edited.remove(at)),
                    1 => edited.insert(at, edited[at].clone()),
                    2 => edited[at] = format!("{what}ü").into_bytes(),
                    _ => edited.swap(0, at),
                }
            }
            (parts.concat(), edited.concat())
        })
    }

    proptest! {
        #[test]
        fn a_delta_makes_the_target((base, target) in pairs()) {
            if let Some(delta) = make(&base, &target) {
                prop_assert!(delta.len() < target.len());
                prop_assert_eq!(apply(&base, &delta, target.len()), Ok(target.clone()));
                let texts = std::str::from_utf8(&base).is_ok() && std::str::from_utf8(&target).is_ok();
                prop_assert!(!texts || std::str::from_utf8(&delta).is_ok());
            }
        }

        #[test]
        fn any_delta_is_survived(base in prop::collection::vec(any::<u8>(), 0..100), delta in "[0-9A-Za-c@:;,\n]{0,60}") {
            if let Ok(made) = apply(&base, delta.as_bytes(), 64) {
                prop_assert!(made.len() <= 64);
            }
        }
    }
}
