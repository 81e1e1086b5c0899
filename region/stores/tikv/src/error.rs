//! What TiKV's client answers, told apart by what follows from it, and without keys in the text:
//! a key has the names of an instance and of a room in it.

use gb6_core_ports::StoreError;
use tikv_client::Error as Client;

/// How a step of a call failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It did not end in time.
    Deadline,
    /// There is no connection, and why.
    Unreachable(String),
    /// The client answered with an error.
    Client(Box<Client>),
    /// The client said that it had committed, and it had not: a defect of its.
    NotMade,
    /// The client said that it had committed, and only a part was written: a defect of its.
    PartMade,
    /// The client panicked: a defect of its.
    Panicked,
    /// What is stored is not as expected; TiKV works.
    Stored(StoreError),
}

impl From<Client> for Failure {
    fn from(error: Client) -> Self {
        Self::Client(Box::new(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Stored(error)
    }
}

impl Failure {
    /// Whether it says that TiKV works and refused.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Stored(_) | Self::NotMade | Self::PartMade => true,
            Self::Client(error) => is_write_conflict(error) || is_lock(error),
            _ => false,
        }
    }

    /// Whether another transaction wrote first: nothing of this one was written, and nothing will be.
    pub(crate) fn is_write_conflict(&self) -> bool {
        matches!(self, Self::Client(error) if is_write_conflict(error))
    }

    /// Whether a read that met it may be made again at once, and what stands in the way passes soon:
    /// what a dead transaction left, which goes away with its lease; or the stream of timestamps, which
    /// the client makes anew no more than once a second.
    pub(crate) fn passes_soon(&self) -> bool {
        matches!(self, Self::Client(error) if is_lock(error) || is_stream_end(error))
    }

    /// The label of a metric.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Unreachable(_) => "unreachable",
            Self::NotMade => "not_made",
            Self::PartMade => "part_made",
            Self::Panicked => "panicked",
            Self::Stored(_) => "stored",
            Self::Client(error) if is_write_conflict(error) => "conflict",
            Self::Client(error) if is_lock(error) => "locked",
            Self::Client(error) if is_full(error) => "full",
            Self::Client(_) => "client",
        }
    }

    /// What happened, in words without a key.
    pub(crate) fn text(&self, place: &str) -> String {
        match self {
            Self::Deadline => format!("TiKV at {place} did not answer in time"),
            Self::Unreachable(why) => format!("no connection to TiKV at {place}: {why}"),
            Self::Client(error) => format!("TiKV at {place}: {}", describe(error)),
            Self::NotMade => {
                format!("a commit was not made: TiKV at {place} was lost before it was sent")
            }
            Self::PartMade => format!(
                "a commit was made in part: a part of TiKV at {place} was lost before it was sent there"
            ),
            Self::Panicked => format!("the client of TiKV at {place} panicked"),
            Self::Stored(error) => error.to_string(),
        }
    }

    /// As the error of a call that wrote nothing.
    pub(crate) fn unavailable(self, place: &str) -> StoreError {
        match self {
            Self::Stored(error) => error,
            other => StoreError::Unavailable {
                cause: other.text(place),
            },
        }
    }

    /// As the error of a call that may have written.
    pub(crate) fn unknown(self, place: &str) -> StoreError {
        match self {
            Self::Stored(error) => error,
            other => StoreError::OutcomeUnknown {
                cause: other.text(place),
            },
        }
    }
}

/// Errors that say several things at once hold them in lists, and those in each other.
fn any(error: &Client, is: &dyn Fn(&Client) -> bool) -> bool {
    match error {
        Client::ExtractedErrors(errors) | Client::MultipleKeyErrors(errors) => {
            errors.iter().any(|error| any(error, is))
        }
        Client::UndeterminedError(inner) => any(inner, is),
        Client::PessimisticLockError { inner, .. } => any(inner, is),
        error => is(error),
    }
}

/// Found while writing begins; a transaction that fails so is never committed.
fn is_write_conflict(error: &Client) -> bool {
    any(
        error,
        &|e| matches!(e, Client::KeyError(key) if key.conflict.is_some()),
    )
}

fn is_lock(error: &Client) -> bool {
    any(error, &|e| match e {
        Client::ResolveLockError(_) | Client::TxnNotFound(_) => true,
        Client::KeyError(key) => key.locked.is_some() || key.txn_not_found.is_some(),
        _ => false,
    })
}

/// A store has no space for what begins; TiKV keeps some for ending what has begun.
fn is_full(error: &Client) -> bool {
    any(
        error,
        &|e| matches!(e, Client::RegionError(region) if region.disk_full.is_some()),
    )
}

fn is_stream_end(error: &Client) -> bool {
    match error {
        Client::Canceled(_) | Client::Channel(_) => true,
        Client::InternalError { message } => message.contains("TimestampRequest channel is closed"),
        _ => false,
    }
}

/// The error without the keys that the client's own text has in it.
pub(crate) fn describe(error: &Client) -> String {
    match error {
        Client::ExtractedErrors(errors) | Client::MultipleKeyErrors(errors) => {
            match errors.first() {
                Some(first) => describe(first),
                None => "an error without a text".into(),
            }
        }
        Client::UndeterminedError(inner) => describe(inner),
        Client::PessimisticLockError { inner, .. } => describe(inner),
        Client::KeyError(key) => {
            let what = if key.conflict.is_some() {
                "another transaction wrote first"
            } else if key.locked.is_some() {
                "what another transaction left is locked"
            } else if key.txn_not_found.is_some() || key.commit_ts_expired.is_some() {
                "the transaction took too long and was rolled back"
            } else if !key.abort.is_empty() {
                "the transaction was rolled back"
            } else if !key.retryable.is_empty() {
                "the transaction has to be repeated"
            } else {
                "a key was refused"
            };
            what.into()
        }
        Client::ResolveLockError(_) | Client::TxnNotFound(_) => {
            "what a dead transaction left is locked until its lease ends".into()
        }
        Client::RegionError(region) if region.server_is_busy.is_some() => {
            "a store is too busy".into()
        }
        Client::RegionError(region) if region.disk_full.is_some() => {
            "a store's disk is full".into()
        }
        Client::RegionError(region) if region.not_leader.is_some() => {
            "a part of the keys has no leader".into()
        }
        Client::RegionError(_)
        | Client::RegionForKeyNotFound { .. }
        | Client::RegionForRangeNotFound { .. }
        | Client::RegionNotFoundInResponse { .. }
        | Client::LeaderNotFound { .. }
        | Client::NoCurrentRegions
        | Client::EntryNotFoundInRegionCache => "a part of the keys can not be reached".into(),
        Client::GrpcAPI(status) => format!("{:?}: {}", status.code(), status.message()),
        Client::Grpc(error) => chain(error),
        Client::Io(error) => error.to_string(),
        error if is_stream_end(error) => "the stream of timestamps from PD ended".into(),
        Client::InternalError { message } => without_source(message),
        Client::KeyspaceNotFound(_) => "there is no such keyspace".into(),
        Client::KvError { .. } | Client::StringError(_) => "the store refused".into(),
        _ => "the client failed".into(),
    }
}

/// An error of the transport says little itself; its cause says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Internal errors of the client begin with `[file:line]: `, and list PD's members in full.
fn without_source(message: &str) -> String {
    let text = match message.strip_prefix('[').and_then(|m| m.split_once("]: ")) {
        Some((_, text)) => text,
        None => message,
    };
    let end = text.find(['{', '\n']).unwrap_or(text.len());
    text.chars().take(end.min(200)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tikv_client::{ProtoKeyError, ProtoRegionError};

    fn key_error(set: impl FnOnce(&mut ProtoKeyError)) -> Client {
        let mut error = ProtoKeyError::default();
        set(&mut error);
        Client::KeyError(Box::new(error))
    }

    #[test]
    fn a_write_conflict_is_found_wherever_it_is() {
        let conflict = || key_error(|e| e.conflict = Some(Default::default()));
        for error in [
            conflict(),
            Client::MultipleKeyErrors(vec![Client::Unimplemented, conflict()]),
            Client::ExtractedErrors(vec![Client::MultipleKeyErrors(vec![conflict()])]),
        ] {
            let failure = Failure::from(error);
            assert!(failure.is_write_conflict());
            assert!(failure.is_answer());
        }
        let lost = Failure::from(Client::ExtractedErrors(vec![key_error(|e| {
            e.abort = "aborted".into();
        })]));
        assert!(!lost.is_write_conflict(), "it may have been committed");
    }

    #[test]
    fn a_full_disk_is_told_from_other_refusals() {
        let region = |set: fn(&mut ProtoRegionError)| {
            let mut error = ProtoRegionError::default();
            set(&mut error);
            Client::MultipleKeyErrors(vec![Client::RegionError(Box::new(error))])
        };
        let full = Failure::from(region(|e| e.disk_full = Some(Default::default())));
        assert_eq!(full.kind(), "full");
        assert_eq!(
            full.text("pd:2379"),
            "TiKV at pd:2379: a store's disk is full"
        );
        let busy = Failure::from(region(|e| e.server_is_busy = Some(Default::default())));
        assert_eq!(busy.kind(), "client");
    }

    #[test]
    fn what_passes_soon_is_told_from_what_does_not() {
        let locked = key_error(|e| e.locked = Some(Default::default()));
        let ended = "[/a/b.rs:73]: TimestampRequest channel is closed".to_owned();
        for error in [
            Client::MultipleKeyErrors(vec![locked]),
            Client::ResolveLockError(Vec::new()),
            Client::InternalError { message: ended },
        ] {
            assert!(Failure::from(error).passes_soon());
        }
        assert!(!Failure::Deadline.passes_soon());
        let down = "[/a/b.rs:9]: failed to connect".to_owned();
        let down = Failure::from(Client::InternalError { message: down });
        assert!(!down.passes_soon());
    }

    #[test]
    fn texts_have_no_keys_in_them() {
        let key = b"secret-room".to_vec();
        let errors = [
            Client::RegionForKeyNotFound { key: key.clone() },
            key_error(|e| {
                e.locked = Some(tikv_client::ProtoLockInfo {
                    key: key.clone(),
                    ..Default::default()
                });
            }),
            Client::KvError {
                message: "secret-room".into(),
            },
        ];
        for error in errors {
            let text = Failure::from(error).text("pd:2379");
            assert!(text.starts_with("TiKV at pd:2379: "), "{text}");
            assert!(!text.contains("secret") && !text.contains("115"), "{text}");
        }
    }

    #[test]
    fn internal_errors_are_shown_without_the_client_s_source() {
        let internal = Client::InternalError {
            message: "[/a/b.rs:12]: failed to connect to [Member { name: x }]".into(),
        };
        assert_eq!(describe(&internal), "failed to connect to [Member ");
    }
}
