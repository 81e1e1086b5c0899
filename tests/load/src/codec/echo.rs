//! The protocol of the bare servers. Of the fan-out one: a frame with one byte subscribes and is
//! answered with it, any other frame goes to every subscriber as it is. Of the durable one: a frame
//! begins with four bytes of the sender's, which come back when the rest is synced.

use super::{Event, Position, ProtocolError};

/// Subscribes.
pub(crate) const SUBSCRIBE: &[u8] = b"S";

/// Bytes by which the sender knows what was acknowledged.
pub(crate) const TAG_BYTES: usize = 4;

/// One connection.
#[derive(Default)]
pub(crate) struct Echo {
    subscribed: bool,
    acknowledged: bool,
}

impl Echo {
    /// A connection to the server that acknowledges.
    pub(crate) fn acknowledged() -> Self {
        Self {
            acknowledged: true,
            ..Self::default()
        }
    }

    pub(super) fn subscribe(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(SUBSCRIBE);
    }

    pub(super) fn publish(&mut self, tag: u32, data: &[u8], out: &mut Vec<u8>) {
        if self.acknowledged {
            out.extend_from_slice(&tag.to_be_bytes());
        }
        out.extend_from_slice(data);
    }

    pub(super) fn read(
        &mut self,
        message: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        if self.acknowledged {
            let tag = <[u8; TAG_BYTES]>::try_from(message).map_err(|_| {
                ProtocolError::Malformed(format!("{} bytes acknowledge nothing", message.len()))
            })?;
            on(Event::Acked {
                tag: u32::from_be_bytes(tag),
            });
        } else if !self.subscribed && message == SUBSCRIBE {
            self.subscribed = true;
            on(Event::Subscribed {
                nth: 0,
                position: Position::default(),
                recovered: false,
            });
        } else {
            on(Event::Delivered {
                nth: 0,
                offset: 0,
                data: message,
            });
        }
        Ok(())
    }
}
