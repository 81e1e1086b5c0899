//! Cuts a stream into runs of whole commands, keeping nothing between two complete ones: an idle
//! stream has no read buffer, and a command that was announced large costs only the bytes of it
//! that have come.

use bytes::Bytes;
use gb6_core_model::limits::COMMAND_BYTES_MAX;
use gb6_core_wire::client::Dialect;

/// Longest length prefix in bytes: a varint of 64 bits.
const PREFIX_BYTES_MAX: usize = 10;

/// Why a stream's bytes are no commands, or not acceptable ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// A length prefix does not end.
    #[error("the length of a command is no varint")]
    Length,
    /// A command is longer than allowed.
    #[error("a command of at least {0} bytes is longer than allowed")]
    TooLarge(u64),
}

/// The state between two reads: at most one incomplete command.
#[derive(Debug)]
pub(crate) struct CommandReader {
    dialect: Dialect,
    /// Bytes of a command that is not complete; empty otherwise.
    partial: Vec<u8>,
    /// The most that the next command may have, with what ends or announces it.
    bytes_max: usize,
}

impl CommandReader {
    /// A reader of commands of which the first, which must be the connect, may have up to
    /// `first_max` bytes and the others as many as a single command may.
    pub(crate) fn new(dialect: Dialect, first_max: usize) -> Self {
        Self {
            dialect,
            partial: Vec::new(),
            bytes_max: first_max,
        }
    }

    /// Drops what is kept of an incomplete command.
    pub(crate) fn forget(&mut self) {
        self.partial = Vec::new();
    }

    /// The next run of whole commands in what came before and `input`, which is advanced past what
    /// was used. `None`: everything is used and no further command is complete. After an error the
    /// stream is to be ended.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, StreamError> {
        if !self.partial.is_empty() {
            return self.complete(input);
        }
        let mut whole = 0;
        loop {
            match self.end_of(&input[whole..], 0) {
                Ok(Some(end)) => whole += end,
                Ok(None) => break,
                Err(error) if whole == 0 => return Err(error),
                // First what stands before it; the next call comes back to it.
                Err(_) => break,
            }
            self.begun();
        }
        let (run, rest) = input.split_at(whole);
        if whole == 0 {
            self.partial.extend_from_slice(rest);
            *input = &[];
            return Ok(None);
        }
        // What is left over is kept by the next call.
        *input = rest;
        Ok(Some(Bytes::copy_from_slice(run)))
    }

    /// Goes on with the command that is not complete, and with it alone.
    fn complete(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, StreamError> {
        let had = self.partial.len();
        // A length prefix says how much is wanted; a line only whether it ends here.
        let take = match self.dialect {
            Dialect::Json => match input.iter().position(|b| *b == b'\n') {
                Some(at) => at + 1,
                None => input.len(),
            },
            Dialect::Protobuf => match self.length_of(&self.partial)? {
                Some((prefix, length)) => (prefix + length - had).min(input.len()),
                None => input.len().min(1),
            },
        };
        if self.dialect == Dialect::Json && had + take > self.bytes_max {
            return Err(StreamError::TooLarge((had + take) as u64));
        }
        self.partial.extend_from_slice(&input[..take]);
        *input = &input[take..];
        match self.end_of(&self.partial, had)? {
            Some(_) => {
                self.begun();
                Ok(Some(Bytes::from(std::mem::take(&mut self.partial))))
            }
            None if input.is_empty() => Ok(None),
            None => self.complete(input),
        }
    }

    /// Where the command that begins `bytes` ends; `None`: not in them. The first `seen` bytes hold
    /// no end of a line.
    fn end_of(&self, bytes: &[u8], seen: usize) -> Result<Option<usize>, StreamError> {
        match self.dialect {
            Dialect::Json => {
                let end = bytes[seen..].iter().position(|b| *b == b'\n');
                let length = end.map_or(bytes.len(), |at| seen + at + 1);
                if length > self.bytes_max {
                    return Err(StreamError::TooLarge(length as u64));
                }
                Ok(end.map(|_| length))
            }
            Dialect::Protobuf => Ok(self
                .length_of(bytes)?
                .map(|(prefix, length)| prefix + length)
                .filter(|end| *end <= bytes.len())),
        }
    }

    /// The bytes of the length prefix that begins `bytes`, and the length; `None`: it is not
    /// complete.
    fn length_of(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, StreamError> {
        let mut length: u64 = 0;
        for (i, byte) in bytes.iter().take(PREFIX_BYTES_MAX).enumerate() {
            length |= u64::from(byte & 0x7f)
                .checked_shl(7 * i as u32)
                .unwrap_or(0);
            if byte & 0x80 == 0 {
                return match usize::try_from(length) {
                    Ok(length) if length <= self.bytes_max => Ok(Some((i + 1, length))),
                    _ => Err(StreamError::TooLarge(length)),
                };
            }
        }
        match bytes.len() < PREFIX_BYTES_MAX {
            true => Ok(None),
            false => Err(StreamError::Length),
        }
    }

    /// A command is complete: the ones behind it have the bound of any command.
    fn begun(&mut self) {
        self.bytes_max = self.bytes_max.min(COMMAND_BYTES_MAX);
    }
}
