//! The commands of one incoming frame, one by one.

use bytes::Bytes;

use super::{CodecError, Command, Dialect, json, protobuf};

/// The commands of one incoming frame, in order, each read when it is asked for: the frame's bytes
/// bound the memory of all of them, however small and many they are. The caller bounds the frame
/// (`gb6_core_model::limits::CLIENT_FRAME_BYTES_MAX`); the size of a command, entries of maps and
/// the depth of JSON data are bounded here, before memory is spent on them. Ends behind the first
/// error.
///
/// In JSON white space at the end of the frame is accepted, as a client that ends its lines sends
/// it. Protobuf data fields share the frame's memory.
#[derive(Debug)]
pub struct Commands {
    dialect: Dialect,
    rest: Bytes,
    index: usize,
    over: bool,
}

impl Commands {
    /// The commands of `frame`.
    pub fn new(dialect: Dialect, mut frame: Bytes) -> Self {
        if dialect == Dialect::Json {
            frame.truncate(frame.trim_ascii_end().len());
        }
        Self {
            dialect,
            rest: frame,
            index: 0,
            over: false,
        }
    }

    /// Bytes that are still to be read.
    pub fn bytes_left(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left to be read.
    pub fn is_over(&self) -> bool {
        self.over
    }

    fn read(&mut self) -> Result<Command, CodecError> {
        if self.rest.is_empty() {
            return Err(CodecError::EmptyFrame);
        }
        match self.dialect {
            Dialect::Protobuf => {
                let command = protobuf::decode_command(self.index, &mut self.rest)?;
                self.over = self.rest.is_empty();
                Ok(command)
            }
            Dialect::Json => {
                let end = self.rest.iter().position(|b| *b == b'\n');
                let line = self.rest.split_to(end.unwrap_or(self.rest.len()));
                match end {
                    // The line break; the frame does not end with one.
                    Some(_) => drop(self.rest.split_to(1)),
                    None => self.over = true,
                }
                json::decode_command(self.index, &line)
            }
        }
    }
}

impl Iterator for Commands {
    type Item = Result<Command, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let command = self.read();
        self.over |= command.is_err();
        self.index += 1;
        Some(command)
    }
}
