//! The options of a URI: `NAME=VALUE&NAME=VALUE`. Each is there once, its value is percent-encoded and within
//! bounds, and one that nobody asks for is an error.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::decoded;

/// Most options of one URI.
pub const OPTIONS_MAX: usize = 64;
/// Characters of what is wrong that are shown.
const SHOWN_MAX: usize = 40;

/// What stands behind a `?`. Options are taken by their names and types; [`Options::end`] tells of those that
/// were not.
#[derive(Debug)]
pub struct Options {
    given: Vec<(String, String)>,
    /// Those that were asked for.
    known: Vec<&'static str>,
}

impl Options {
    /// Takes them apart.
    ///
    /// # Errors
    /// One has no value, is there twice, or is not percent-encoded.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut given: Vec<(String, String)> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| {
                let name = shown(option);
                format!("the option {name:?} has no value: {name}=…")
            })?;
            if given.iter().any(|(other, _)| other == name) {
                return Err(format!("the option {:?} is there twice", shown(name)));
            }
            if given.len() == OPTIONS_MAX {
                return Err(format!("it has more than {OPTIONS_MAX} options"));
            }
            given.push((name.to_owned(), decoded(value)?));
        }
        Ok(Self {
            given,
            known: Vec::new(),
        })
    }

    /// Whether an option is there, and stays.
    pub fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| given == name)
    }

    /// Whether an option is this word; it stays.
    pub fn is(&self, name: &str, word: &str) -> bool {
        let mut given = self.given.iter();
        given.any(|(given, value)| given == name && value == word)
    }

    /// The value of an option.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.given.iter().position(|(given, _)| given == name)?;
        Some(self.given.remove(at).1)
    }

    /// A whole number.
    ///
    /// # Errors
    /// It is none of `bounds`.
    pub fn number(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Result<Option<u64>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        number(name, &text, bounds).map(Some)
    }

    /// A time in whole milliseconds.
    ///
    /// # Errors
    /// It is none of `bounds`.
    pub fn millis(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Result<Option<Duration>, String> {
        let millis = self.number(name, bounds)?;
        Ok(millis.map(Duration::from_millis))
    }

    /// One of some words, each with what it means.
    ///
    /// # Errors
    /// It is another.
    pub fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let words = listed(&words, "or");
                Err(format!("{name}={}: it is {words}", shown(&text)))
            }
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// It is neither.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, String> {
        self.choice(name, &[("true", true), ("false", false)])
    }

    /// The path of a file.
    ///
    /// # Errors
    /// It is empty.
    pub fn path(&mut self, name: &'static str) -> Result<Option<PathBuf>, String> {
        match self.take(name) {
            Some(path) if path.is_empty() || path.contains('\0') => {
                Err(format!("{name} names no file"))
            }
            path => Ok(path.map(PathBuf::from)),
        }
    }

    /// A name of ASCII letters, digits and `others`.
    ///
    /// # Errors
    /// It is empty, longer than `bytes_max`, or has something else in it.
    pub fn name(
        &mut self,
        name: &'static str,
        bytes_max: usize,
        others: &str,
    ) -> Result<Option<String>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
        match (1..=bytes_max).contains(&text.len()) && text.chars().all(plain) {
            true => Ok(Some(text)),
            false => Err(format!(
                "{name} is not 1 to {bytes_max} letters, digits or {others}"
            )),
        }
    }

    /// A whole number of one unit: `500ms`, `10s`, `15m`, `2h`, `7d`.
    ///
    /// # Errors
    /// It is none of `bounds`.
    pub fn duration(
        &mut self,
        name: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, String> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let digits = text.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
        let unit: Option<u64> = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            "d" => Some(86_400_000),
            _ => None,
        };
        let number = number.parse::<u64>().ok();
        let millis = number.zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
        match millis.map(Duration::from_millis) {
            Some(given) if bounds.contains(&given) => Ok(Some(given)),
            _ => Err(format!(
                "{name}={} is not from {:?} to {:?}, written as 500ms, 10s, 15m, 2h or 7d",
                shown(&text),
                bounds.start(),
                bounds.end()
            )),
        }
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// An option was not asked for: those that were are named.
    pub fn end(self) -> Result<(), String> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => {
                let known = listed(&self.known, "and");
                Err(format!(
                    "there is no option {:?}; there are {known}",
                    shown(name)
                ))
            }
        }
    }
}

/// A whole number, of an option or of another part of a URI that is called `what`.
///
/// # Errors
/// It is none of `bounds`.
pub fn number(what: &str, text: &str, bounds: RangeInclusive<u64>) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if bounds.contains(&number) => Ok(number),
        _ => Err(format!(
            "{what}={} is not a number from {} to {}",
            shown(text),
            bounds.start(),
            bounds.end()
        )),
    }
}

/// What is shown of something that is wrong: on one line, and not all of it.
fn shown(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(SHOWN_MAX).collect()
}

/// `a, b and c`.
fn listed(words: &[&str], last: &str) -> String {
    match words {
        [] => "none".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., end] => format!("{} {last} {end}", most.join(", ")),
    }
}
