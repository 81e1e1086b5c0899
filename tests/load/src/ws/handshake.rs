//! The opening handshake (RFC 6455 section 4): both sides, since the floor is a server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::WsError;

/// The longest head that is read, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The text that asks for a WebSocket. `key` is the 16 random bytes of section 4.1.
pub(crate) fn request(host: &str, path: &str, subprotocol: Option<&str>, key: [u8; 16]) -> Vec<u8> {
    let mut text = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
        STANDARD.encode(key)
    );
    if let Some(subprotocol) = subprotocol {
        text.push_str("Sec-WebSocket-Protocol: ");
        text.push_str(subprotocol);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// What must stand in `Sec-WebSocket-Accept` for this `Sec-WebSocket-Key`.
fn accept_of(key: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

/// Reads the server's answer to the handshake with `key`. How many bytes it has; `None` while it
/// is not complete.
pub(crate) fn read_response(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, WsError> {
    let Some((head, length)) = head(bytes)? else {
        return Ok(None);
    };
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.splitn(3, ' ');
    if !words.next().unwrap_or_default().starts_with("HTTP/1.") {
        return Err(WsError::NoHttp);
    }
    if words.next() != Some("101") {
        return Err(WsError::Refused(status.to_owned()));
    }
    if header(&head, "sec-websocket-accept") != Some(accept_of(&STANDARD.encode(key)).as_str()) {
        return Err(WsError::BadAccept);
    }
    Ok(Some(length))
}

/// Reads a client's request and answers it. The answer and how many bytes the request has; `None`
/// while it is not complete.
pub(crate) fn answer(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, WsError> {
    let Some((head, length)) = head(bytes)? else {
        return Ok(None);
    };
    let Some(key) = header(&head, "sec-websocket-key") else {
        return Err(WsError::Refused("no Sec-WebSocket-Key".to_owned()));
    };
    let text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_of(key)
    );
    Ok(Some((text.into_bytes(), length)))
}

/// The text up to the empty line, and its length with that line.
fn head(bytes: &[u8]) -> Result<Option<(String, usize)>, WsError> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    match window.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(end) => Ok(Some((
            String::from_utf8_lossy(&bytes[..end]).into_owned(),
            end + 4,
        ))),
        None if bytes.len() >= HEAD_BYTES_MAX => Err(WsError::HeadTooLong(HEAD_BYTES_MAX)),
        None => Ok(None),
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_of_rfc_6455_section_1_3() {
        assert_eq!(
            accept_of("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn both_sides_agree_at_every_cut() {
        let key = [9; 16];
        let request = request("127.0.0.1:1", "/connection/websocket", Some("p"), key);
        for cut in 0..request.len() {
            assert_eq!(answer(&request[..cut]).unwrap(), None);
        }
        let (response, length) = answer(&request).unwrap().unwrap();
        assert_eq!(length, request.len());
        for cut in 0..response.len() {
            assert_eq!(read_response(&response[..cut], key).unwrap(), None);
        }
        let mut more = response.clone();
        more.extend_from_slice(b"\x82\x00");
        assert_eq!(read_response(&more, key), Ok(Some(response.len())));
        assert_eq!(read_response(&more, [8; 16]), Err(WsError::BadAccept));
    }

    #[test]
    fn refusals_are_quoted() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n";
        assert_eq!(
            read_response(answer, [0; 16]),
            Err(WsError::Refused("HTTP/1.1 503 Service Unavailable".into()))
        );
        assert_eq!(
            read_response(b"hello\r\n\r\n", [0; 16]),
            Err(WsError::NoHttp)
        );
        let endless = vec![b'x'; HEAD_BYTES_MAX];
        assert_eq!(
            read_response(&endless, [0; 16]),
            Err(WsError::HeadTooLong(HEAD_BYTES_MAX))
        );
    }
}
