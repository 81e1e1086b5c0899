//! What a failed request means: whether something may have been written, and what to do about it.

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// Longest text of a server that is passed on, in characters.
const TEXT_MAX: usize = 300;

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The server refused it, and would again: nothing was written.
    Refused(String),
    /// The server has no space: nothing was written.
    Full(String),
    /// It was not made or not taken: nothing was written, and it may be made again.
    NotTaken(String),
    /// Something is there, or somebody else is putting it there now: nothing was written by this
    /// request.
    Taken(String),
    /// Nobody knows whether it was done.
    Unknown(String),
}

impl Failure {
    pub(super) fn cause(&self) -> &str {
        match self {
            Failure::Refused(cause)
            | Failure::Full(cause)
            | Failure::NotTaken(cause)
            | Failure::Taken(cause)
            | Failure::Unknown(cause) => cause,
        }
    }

    pub(super) fn of(error: &Error) -> Self {
        let cause = cause(error);
        match error {
            Error::AlreadyExists { .. } => return Failure::Taken(cause),
            Error::NotFound { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. } => return Failure::Refused(cause),
            _ => {}
        }
        match (status(error), http(error)) {
            (Some(507), _) => Failure::Full(cause),
            // Too fast, or the request came in too slowly.
            (Some(408 | 429), _) => Failure::NotTaken(cause),
            (Some(400..500), _) if is_full(&cause) => Failure::Full(cause),
            (Some(300..500), _) => Failure::Refused(cause),
            (None, _) if is_elsewhere(error) => Failure::Refused(cause),
            (None, Some(HttpErrorKind::Connect)) => Failure::NotTaken(cause),
            _ => Failure::Unknown(cause),
        }
    }
}

fn is_full(cause: &str) -> bool {
    ["QuotaExceeded", "StorageFull"]
        .iter()
        .any(|code| cause.contains(code))
}

/// The errors that led to this one, itself first.
fn chain(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |&error| error.source())
}

fn http(error: &Error) -> Option<HttpErrorKind> {
    chain(error)
        .find_map(|error| error.downcast_ref::<HttpError>())
        .map(HttpError::kind)
}

/// The status of the answer, where there was one. The client has no other way to tell it than its text.
pub(super) fn status(error: &Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("non-2xx status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// Whether there is no such object.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && !is_no_bucket(error)
}

/// A bucket that is not there is no object that is not there. Where only a head is asked for, servers do
/// not tell them apart.
fn is_no_bucket(error: &Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// Whether the server sends us elsewhere without saying where to.
fn is_elsewhere(error: &Error) -> bool {
    error.to_string().contains("redirect without LOCATION")
}

/// What happened, and what to do about it, in a line.
fn cause(error: &Error) -> String {
    let text = error.to_string();
    if let Some(code) = element(&text, "Code") {
        let message = element(&text, "Message").unwrap_or("");
        return format!("{code}: {message}{}", advice(code));
    }
    match (status(error), chain(error).last()) {
        (Some(status @ (401 | 403)), _) => format!("status {status}{}", advice("AccessDenied")),
        (Some(status), _) => format!("status {status}"),
        _ if is_elsewhere(error) => format!("a redirect{}", advice("PermanentRedirect")),
        // The deepest says the most: what the system answered.
        (None, Some(deepest)) => shorten(&deepest.to_string()),
        (None, None) => shorten(&text),
    }
}

fn shorten(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_MAX)
        .collect()
}

/// The text of an element in a server's XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    let end = inner
        .char_indices()
        .nth(TEXT_MAX)
        .map_or(inner.len(), |(at, _)| at);
    inner
        .get(..end)
        .filter(|text| !text.contains(char::is_control))
}

fn advice(code: &str) -> &'static str {
    match code {
        "NoSuchBucket" => " (make the bucket, or correct its name and region)",
        "AccessDenied" | "AllAccessDisabled" => {
            " (allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, s3:DeleteObject and \
             s3:AbortMultipartUpload on its objects)"
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" => {
            " (correct access_key and the secret, and look at the region)"
        }
        "RequestTimeTooSkewed" => " (set the clock of this machine)",
        "AuthorizationHeaderMalformed" | "PermanentRedirect" => {
            " (correct the region and the endpoint)"
        }
        "InvalidRequest" | "NotImplemented" => {
            " (where the server does not know checksums: checksums=none)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, code: &str) -> Error {
        Error::Generic {
            store: "S3",
            source: format!(
                "Error performing PUT http://h/b/k in 1ms - Server returned non-2xx status code: {status}: \
                 <Error><Code>{code}</Code><Message>what it says</Message></Error>"
            )
            .into(),
        }
    }

    #[test]
    fn what_was_surely_not_done_is_told_from_what_may_have_been() {
        let text = |code: &str| format!("{code}: what it says");
        for (status, code, expected) in [
            ("507 Insufficient Storage", "X", Failure::Full(text("X"))),
            (
                "403 Forbidden",
                "QuotaExceeded",
                Failure::Full(text("QuotaExceeded")),
            ),
            ("429 Too Many Requests", "X", Failure::NotTaken(text("X"))),
            ("400 Bad Request", "X", Failure::Refused(text("X"))),
            ("301 Moved Permanently", "X", Failure::Refused(text("X"))),
            (
                "500 Internal Server Error",
                "X",
                Failure::Unknown(text("X")),
            ),
            (
                "503 Service Unavailable",
                "SlowDown",
                Failure::Unknown(text("SlowDown")),
            ),
        ] {
            assert_eq!(Failure::of(&answer(status, code)), expected, "{status}");
        }
        let denied = Failure::of(&answer("403 Forbidden", "AccessDenied"));
        assert!(denied.cause().contains("s3:PutObject"), "{denied:?}");
        let nonsense = Error::Generic {
            store: "S3",
            source: "x\n".repeat(10_000).into(),
        };
        let failure = Failure::of(&nonsense);
        assert!(matches!(failure, Failure::Unknown(_)));
        assert!(failure.cause().len() <= TEXT_MAX && !failure.cause().contains('\n'));
        assert_eq!(element("<Code>a\nb</Code>", "Code"), None);
        assert_eq!(element("<Code>ab", "Code"), None);
    }
}
