//! The NATS client protocol, over TCP or WebSocket, as far as the two peers need it: subjects that
//! fan out, and publishes that JetStream acknowledges.

use std::io::Write as _;

use super::{Event, Position, ProtocolError};

/// The longest line of the protocol that is read; `max_control_line` of the server is 4096, but
/// its INFO may be longer.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Subjects that the stream of the benchmark takes.
pub(crate) const STREAM_SUBJECTS: &str = "js.*";

/// One connection.
pub(crate) struct Nats {
    /// The inbox for acknowledgements; `None`: publishes are not acknowledged.
    inbox: Option<String>,
    ready: bool,
    subscribing: bool,
    /// Bytes of an operation that is not complete yet.
    rest: Vec<u8>,
}

impl Nats {
    /// A connection whose publishes nobody acknowledges.
    pub(crate) fn plain() -> Self {
        Nats {
            inbox: None,
            ready: false,
            subscribing: false,
            rest: Vec::new(),
        }
    }

    /// A connection whose publishes go to a stream and are acknowledged.
    pub(crate) fn jetstream(connection: usize) -> Self {
        Nats {
            inbox: Some(format!("_INBOX.{connection}")),
            ..Nats::plain()
        }
    }

    pub(super) fn hello(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\
              \"version\":\"1\",\"protocol\":1,\"headers\":true,\"no_responders\":true}\r\n",
        );
        if let Some(inbox) = &self.inbox {
            let _ = write!(out, "SUB {inbox}.* 1\r\n");
        }
        out.extend_from_slice(b"PING\r\n");
    }

    pub(super) fn subscribe(&mut self, room: &str, out: &mut Vec<u8>) {
        self.subscribing = true;
        let _ = write!(out, "SUB {room} 2\r\nPING\r\n");
    }

    pub(super) fn publish(&mut self, tag: u32, room: &str, data: &[u8], out: &mut Vec<u8>) {
        let _ = match &self.inbox {
            None => write!(out, "PUB {room} {}\r\n", data.len()),
            Some(inbox) => write!(out, "PUB js.{room} {inbox}.{tag} {}\r\n", data.len()),
        };
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }

    pub(super) fn read(
        &mut self,
        message: &[u8],
        out: &mut Vec<u8>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        if self.rest.is_empty() {
            let used = self.operations(message, out, on)?;
            self.rest.extend_from_slice(&message[used..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(message);
            let used = self.operations(&all, out, on)?;
            all.drain(..used);
            self.rest = all;
        }
        Ok(())
    }

    /// Handles the complete operations of `bytes`; how many bytes they have.
    fn operations(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<usize, ProtocolError> {
        let mut used = 0;
        while let Some((line, behind)) = line(&bytes[used..])? {
            used += match line {
                Line::Message {
                    subject,
                    size,
                    headers,
                } => {
                    let Some(content) = bytes[used + behind..].get(..size) else {
                        break;
                    };
                    if bytes.len() < used + behind + size + 2 {
                        break;
                    }
                    self.message(subject, headers, content, on)?;
                    behind + size + 2
                }
                Line::Ping => {
                    out.extend_from_slice(b"PONG\r\n");
                    behind
                }
                Line::Pong => {
                    if !self.ready {
                        self.ready = true;
                        on(Event::Ready);
                    } else if self.subscribing {
                        self.subscribing = false;
                        on(Event::Subscribed {
                            nth: 0,
                            position: Position::default(),
                            recovered: false,
                        });
                    }
                    behind
                }
                Line::Nothing => behind,
                Line::Refused(message) => {
                    return Err(ProtocolError::Session { code: 0, message });
                }
            };
        }
        Ok(used)
    }

    fn message(
        &self,
        subject: &str,
        headers: bool,
        content: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        let inbox = self.inbox.as_deref();
        let tag = inbox
            .and_then(|inbox| subject.strip_prefix(inbox)?.strip_prefix('.'))
            .map(|tag| {
                tag.parse()
                    .map_err(|_| ProtocolError::Malformed(format!("a message to {subject}")))
            })
            .transpose()?;
        match tag {
            None => on(Event::Delivered {
                nth: 0,
                offset: 0,
                data: content,
            }),
            // {"stream":"BENCH","seq":1} or {"error":{…}}; headers only say that nobody listens.
            Some(tag) if !headers && content.starts_with(b"{\"stream\"") => {
                on(Event::Acked { tag });
            }
            Some(tag) => on(Event::Failed {
                tag,
                code: 0,
                message: String::from_utf8_lossy(content).into_owned(),
            }),
        }
        Ok(())
    }
}

enum Line<'a> {
    Message {
        subject: &'a str,
        size: usize,
        headers: bool,
    },
    Ping,
    Pong,
    Nothing,
    Refused(String),
}

/// The line at the start of `bytes` and its length with the line end; `None` if it is not
/// complete.
fn line(bytes: &[u8]) -> Result<Option<(Line<'_>, usize)>, ProtocolError> {
    let Some(end) = bytes
        .iter()
        .take(LINE_BYTES_MAX)
        .position(|byte| *byte == b'\n')
    else {
        if bytes.len() >= LINE_BYTES_MAX {
            return Err(ProtocolError::Malformed("a line does not end".to_owned()));
        }
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end])
        .map_err(|_| ProtocolError::Malformed("a line is no text".to_owned()))?
        .trim_end_matches('\r');
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let line = match word {
        "MSG" | "HMSG" => {
            // subject, subscription, [reply,] [bytes of headers,] bytes.
            let mut words = rest.split(' ').filter(|word| !word.is_empty());
            let subject = words.next();
            let size = words.next_back().and_then(|size| size.parse().ok());
            match (subject, size) {
                (Some(subject), Some(size)) => Line::Message {
                    subject,
                    size,
                    headers: word == "HMSG",
                },
                _ => return Err(ProtocolError::Malformed(text.to_owned())),
            }
        }
        "PING" => Line::Ping,
        "PONG" => Line::Pong,
        "INFO" | "+OK" => Line::Nothing,
        "-ERR" => Line::Refused(rest.to_owned()),
        _ => return Err(ProtocolError::Malformed(text.to_owned())),
    };
    Ok(Some((line, end + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(codec: &mut Nats, pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        for piece in pieces {
            codec
                .read(piece, &mut out, &mut |event| {
                    seen.push(format!("{event:?}"))
                })
                .unwrap();
        }
        (seen, out)
    }

    const STREAM: &[u8] = b"INFO {\"server_id\":\"X\"}\r\nPONG\r\nPING\r\n\
        MSG room:1 2 2\r\nhi\r\nMSG _INBOX.7.42 1 27\r\n{\"stream\":\"BENCH\", \"seq\":1}\r\n\
        HMSG _INBOX.7.43 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n\
        MSG _INBOX.7.44 1 13\r\n{\"error\":{} }\r\n";

    #[test]
    fn operations_become_events_at_every_cut() {
        let whole = events(&mut Nats::jetstream(7), &[STREAM]);
        assert_eq!(whole.1, b"PONG\r\n");
        assert_eq!(whole.0[0], "Ready");
        assert_eq!(
            whole.0[1],
            "Delivered { nth: 0, offset: 0, data: [104, 105] }"
        );
        assert_eq!(whole.0[2], "Acked { tag: 42 }");
        assert!(whole.0[3].starts_with("Failed { tag: 43"));
        assert!(whole.0[4].starts_with("Failed { tag: 44"));
        for cut in 0..STREAM.len() {
            let (a, b) = STREAM.split_at(cut);
            assert_eq!(events(&mut Nats::jetstream(7), &[a, b]), whole, "{cut}");
        }
    }

    #[test]
    fn a_subscription_begins_with_the_pong_behind_it() {
        let mut codec = Nats::plain();
        let (seen, _) = events(&mut codec, &[b"PONG\r\n"]);
        assert_eq!(seen, ["Ready"]);
        codec.subscribe("room:1", &mut Vec::new());
        let (seen, _) = events(&mut codec, &[b"PONG\r\n", b"PONG\r\n"]);
        assert_eq!(seen.len(), 1);
        assert!(seen[0].starts_with("Subscribed"));
    }

    #[test]
    fn what_is_sent_is_nats() {
        let mut out = Vec::new();
        Nats::plain().publish(1, "room:1", b"hi", &mut out);
        Nats::jetstream(7).publish(1, "room:1", b"hi", &mut out);
        assert_eq!(
            out,
            b"PUB room:1 2\r\nhi\r\nPUB js.room:1 _INBOX.7.1 2\r\nhi\r\n"
        );
    }

    #[test]
    fn refusals_and_foreign_bytes_are_errors() {
        let read = |bytes: &[u8]| Nats::plain().read(bytes, &mut Vec::new(), &mut |_| ());
        assert!(matches!(
            read(b"-ERR 'Authorization Violation'\r\n"),
            Err(ProtocolError::Session { .. })
        ));
        assert!(matches!(
            read(b"HTTP/1.1 400\r\n"),
            Err(ProtocolError::Malformed(_))
        ));
        assert!(matches!(
            read(b"MSG a b c\r\n"),
            Err(ProtocolError::Malformed(_))
        ));
        assert!(read(&vec![b'x'; LINE_BYTES_MAX]).is_err());
    }
}
