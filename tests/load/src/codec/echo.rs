//! The protocol of the bare fan-out server: a frame with one byte subscribes and is answered with
//! it, any other frame goes to every subscriber as it is.

use super::{Event, Position, ProtocolError};

/// Subscribes.
pub(crate) const SUBSCRIBE: &[u8] = b"S";

/// One connection.
#[derive(Default)]
pub(crate) struct Echo {
    subscribed: bool,
}

impl Echo {
    pub(super) fn subscribe(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(SUBSCRIBE);
    }

    pub(super) fn publish(&mut self, data: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(data);
    }

    pub(super) fn read(
        &mut self,
        message: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        if !self.subscribed && message == SUBSCRIBE {
            self.subscribed = true;
            on(Event::Subscribed {
                position: Position::default(),
                recovered: false,
            });
        } else {
            on(Event::Delivered {
                offset: 0,
                data: message,
            });
        }
        Ok(())
    }
}
