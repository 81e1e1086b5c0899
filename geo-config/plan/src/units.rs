//! Durations and sizes as people write them: `"10s"`, `"1h30m"`, `"64KiB"`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in whole milliseconds, written as a number and a unit: `ms`, `s`, `m`, `h`, `d`, or
/// several of them (`1h30m`). `"0"` needs no unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Millis(pub u64);

/// A number of bytes, written as a number and a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`, or `kB`,
/// `MB`, `GB`, `TB` for powers of 1,000. A plain number is a number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Bytes(pub u64);

/// Units of time, largest first.
const TIME: &[(&str, u64)] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size; those that sizes are written back in come first, largest first.
const SIZE: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Why a text is no duration or size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// It is not a whole number with a unit behind it.
    #[error("`{text}` is {}", self.what())]
    Malformed {
        /// The text.
        text: String,
        /// What was expected.
        what: &'static str,
        /// How one looks.
        example: &'static str,
    },
    /// It is a number without a unit.
    #[error("`{text}` is {}", self.what())]
    NoUnit {
        /// The text.
        text: String,
    },
    /// It does not fit into 64 bits.
    #[error("`{text}` is {}", self.what())]
    TooLarge {
        /// The text.
        text: String,
    },
}

impl UnitError {
    /// What the text is, without the text: somebody may have put a secret there.
    fn what(&self) -> String {
        match self {
            Self::Malformed { what, example, .. } => {
                format!("no {what}: write a whole number and a unit, as in {example}")
            }
            Self::NoUnit { .. } => {
                "a number without a unit: write ms, s, m, h or d behind it".to_owned()
            }
            Self::TooLarge { .. } => "too large".to_owned(),
        }
    }
}

impl std::str::FromStr for Millis {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Malformed {
            text: shown(text),
            what: "duration",
            example: "500ms, 10s, 1h30m or 7d",
        };
        let too_large = || UnitError::TooLarge { text: shown(text) };
        if text == "0" {
            return Ok(Self(0));
        }
        let (mut rest, mut total) = (text, 0_u64);
        if rest.is_empty() {
            return Err(malformed());
        }
        while !rest.is_empty() {
            let (number, after) = split_digits(rest).ok_or_else(malformed)?;
            let end = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            if unit.is_empty() {
                return Err(UnitError::NoUnit { text: shown(text) });
            }
            let (_, factor) = TIME
                .iter()
                .find(|(u, _)| *u == unit)
                .ok_or_else(malformed)?;
            let number: u64 = number.parse().map_err(|_| too_large())?;
            total = number
                .checked_mul(*factor)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(too_large)?;
            rest = next;
        }
        Ok(Self(total))
    }
}

impl std::str::FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let malformed = || UnitError::Malformed {
            text: shown(text),
            what: "size",
            example: "300B, 64KiB or 1MiB",
        };
        let too_large = || UnitError::TooLarge { text: shown(text) };
        let (number, unit) = split_digits(text).ok_or_else(malformed)?;
        let unit = unit.trim_start();
        let factor = match unit {
            "" => 1,
            unit => {
                SIZE.iter()
                    .find(|(u, _)| *u == unit)
                    .ok_or_else(malformed)?
                    .1
            }
        };
        let number: u64 = number.parse().map_err(|_| too_large())?;
        number.checked_mul(factor).map(Self).ok_or_else(too_large)
    }
}

/// The leading digits and what follows; `None` when there are none.
fn split_digits(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// An outside text as far as an error message should repeat it.
fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, factor) in TIME {
            if rest >= *factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE
            .iter()
            .take(5)
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

macro_rules! as_text {
    ($name:ident, $expecting:literal $(, $visit_number:item)?) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(|e: UnitError| E::custom(format!("this is {}", e.what())))
                    }

                    $($visit_number)?
                }
                d.deserialize_any(Visitor)
            }
        }
    };
}

as_text!(Millis, "a duration such as \"500ms\", \"10s\" or \"7d\"");
as_text!(
    Bytes,
    "a size such as \"64KiB\" or a number of bytes",
    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Bytes, E> {
        u64::try_from(n)
            .map(Bytes)
            .map_err(|_| E::custom("a size is never negative"))
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_people_write_them() {
        for (text, ms) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(text.parse(), Ok(Millis(ms)), "{text}");
        }
        for (text, bytes) in [
            ("0", 0),
            ("300B", 300),
            ("64KiB", 65_536),
            ("1 MiB", 1 << 20),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "s",
            "10",
            "1.5s",
            "-1s",
            "10 s",
            "10S",
            "1s2",
            "99999999999999999999s",
            "300000000000000d",
        ] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
        for text in [
            "",
            "KiB",
            "1.5MiB",
            "-1",
            "64kib",
            "99999999999999999999",
            "99999999999TiB",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_and_read_again(n in any::<u64>()) {
            prop_assert_eq!(Millis(n).to_string().parse(), Ok(Millis(n)));
            prop_assert_eq!(Bytes(n).to_string().parse(), Ok(Bytes(n)));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = text.parse::<Millis>();
            let _ = text.parse::<Bytes>();
        }
    }
}
