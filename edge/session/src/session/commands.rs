//! The commands of a session's frames, carried out in order, one by one.
//!
//! They are read only as far as they are carried out. That stops while a token is verified, and
//! while the client's queue is long: a frame of ten thousand small commands has more bytes of
//! replies than the queue holds, and a client that takes nothing gets nothing done.

use std::collections::VecDeque;

use gb6_core_model::{Disconnect, limits};
use gb6_core_wire::client::Commands;

use super::reply::Turn;
use super::types::count;
use super::{Closes, Session, State};

/// Commands of one client in one turn: what comes from others has its turn between.
const COMMANDS_AT_ONCE: usize = 1_024;
/// Frames with commands that wait.
const FRAMES_WAITING_MAX: usize = 16 * 1024;

/// Frames whose commands wait, the first of them begun.
#[derive(Default)]
pub(super) struct Rest {
    frames: VecDeque<Commands>,
    bytes: usize,
}

impl Session {
    /// Carries out the commands of a frame, behind those that wait.
    pub(super) fn commands(&mut self, turn: &mut Turn<'_>, mut commands: Commands) -> Closes {
        if self.rest.is_none() && self.carry_out(turn, &mut commands)? {
            return Ok(());
        }
        let opening = !self.is_connected();
        let rest = self.rest.get_or_insert_default();
        rest.bytes += commands.bytes_left();
        rest.frames.push_back(commands);
        // While the queue is long nothing more is read of the client, so that only what a read
        // brings at once comes on top of one frame.
        let bytes_max = match opening {
            true => limits::CLIENT_FRAME_BYTES_MAX,
            false => 2 * limits::CLIENT_FRAME_BYTES_MAX,
        };
        // Overflow policy of this queue: the client did not wait, so it goes.
        match rest.bytes > bytes_max || rest.frames.len() > FRAMES_WAITING_MAX {
            true => Err(Disconnect::TooManyRequests),
            false => Ok(()),
        }
    }

    /// Goes on with commands that wait, as far as they may be carried out now.
    pub(super) fn waiting_commands(&mut self, turn: &mut Turn<'_>) -> Closes {
        let Some(mut rest) = self.rest.take() else {
            return Ok(());
        };
        while let Some(mut commands) = rest.frames.pop_front() {
            let before = commands.bytes_left();
            let done = self.carry_out(turn, &mut commands)?;
            rest.bytes -= before - commands.bytes_left();
            if !done {
                rest.frames.push_front(commands);
                self.rest = Some(rest);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Carries out commands until all are done (`true`) or the others must wait.
    fn carry_out(
        &mut self,
        turn: &mut Turn<'_>,
        commands: &mut Commands,
    ) -> Result<bool, Disconnect> {
        loop {
            let waits = match &self.state {
                State::Opening(opening) => opening.is_verifying(),
                State::Live(live) if live.is_joining() => true,
                State::Live(_) => {
                    turn.outbox_bytes() > turn.cx.config.commands_high_water_bytes
                        || turn.commands >= COMMANDS_AT_ONCE
                }
                State::Closed => return Ok(true),
            };
            if waits {
                return Ok(commands.is_over());
            }
            let command = match commands.next() {
                None => return Ok(true),
                Some(Ok(command)) => command,
                Some(Err(fault)) => {
                    self.fault = Some(Box::new(fault));
                    count(&turn.cx.counters.bad_frames);
                    return Err(Disconnect::BadRequest);
                }
            };
            turn.commands += 1;
            match &mut self.state {
                State::Opening(opening) => opening.command(turn, command)?,
                State::Live(live) => live.command(turn, command)?,
                State::Closed => return Ok(true),
            }
        }
    }
}
