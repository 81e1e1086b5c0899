//! What can go wrong with a database, told apart by what the caller should do next.

use std::time::Duration;

use gb6_core_ports::StoreError;
use gb6_core_ports::directory::{DirectoryError, Ref};
use sqlx::error::ErrorKind;

/// An error of a database. Texts name no parameters: they may be secrets.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection, or it broke before anything was committed.
    Lost(String),
    /// Nobody knows whether the transaction was committed.
    Unknown(String),
    /// Others were in the way: nothing was written.
    Busy(String),
    /// No space is left.
    Full,
    /// The database is not fit for use as it is: its settings, its permissions, the wrong password.
    Refused(String),
    /// What is stored is not what this program writes.
    Damaged(String),
    /// A row with this key exists.
    Exists,
    /// What the row points at does not exist, or the row is pointed at.
    Linked,
    /// A statement that the engine refuses: a defect of this program, or a schema changed by hand.
    Statement(String),
    /// An answer of the port.
    Store(StoreError),
    /// An answer of the directory.
    Answer(Box<DirectoryError>),
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

impl From<DirectoryError> for Fault {
    fn from(e: DirectoryError) -> Self {
        Self::Answer(Box::new(e))
    }
}

impl Fault {
    /// A statement's fault, said of the record that it was about.
    pub(crate) fn about(self, what: &Ref) -> Self {
        match self {
            Fault::Exists => DirectoryError::AlreadyExists {
                what: what.to_string(),
            }
            .into(),
            Fault::Linked => DirectoryError::invalid(format!("{what} is in use")).into(),
            other => other,
        }
    }

    /// As the directory says it; `database` names it for people, without secrets.
    pub(crate) fn into_directory(self, database: &str) -> DirectoryError {
        match self {
            Fault::Answer(answer) => *answer,
            other => other.into_store(database).into(),
        }
    }

    /// Whether the connection can not be used any more.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Fault::Lost(_) | Fault::Unknown(_))
    }

    /// The outcome in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Fault::Lost(_) => "lost",
            Fault::Unknown(_) => "unknown",
            Fault::Busy(_) => "busy",
            Fault::Full => "full",
            Fault::Refused(_) => "refused",
            Fault::Damaged(_) | Fault::Statement(_) => "defect",
            Fault::Exists | Fault::Linked | Fault::Store(_) | Fault::Answer(_) => "conflict",
        }
    }

    /// A call that had no answer in time; `committing`: after its commit was sent.
    pub(crate) fn late(what: &str, deadline: Duration, committing: bool) -> Self {
        let text = format!("{what}: no answer within {} ms", deadline.as_millis());
        match committing {
            true => Self::Unknown(text),
            false => Self::Lost(text),
        }
    }

    /// As the port says it; `database` names it for people, without secrets.
    pub(crate) fn into_store(self, database: &str) -> StoreError {
        let unavailable = |cause: String| StoreError::Unavailable {
            cause: format!("{database}: {cause}"),
        };
        match self {
            Fault::Lost(cause) | Fault::Busy(cause) | Fault::Refused(cause) => unavailable(cause),
            Fault::Unknown(cause) => StoreError::OutcomeUnknown {
                cause: format!("{database}: {cause}"),
            },
            Fault::Full => StoreError::StorageFull {
                path: database.to_owned(),
            },
            Fault::Damaged(detail) | Fault::Statement(detail) => StoreError::Io {
                operation: "query",
                path: database.to_owned(),
                detail,
            },
            Fault::Exists | Fault::Linked => StoreError::Conflict {
                what: format!("{database}: another change came between"),
            },
            Fault::Store(e) => e,
            Fault::Answer(answer) => StoreError::Conflict {
                what: answer.to_string(),
            },
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(e: sqlx::Error) -> Self {
        let sqlx::Error::Database(ref d) = e else {
            return match e {
                sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => {
                    Fault::Refused(e.to_string())
                }
                sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                    Fault::Damaged(e.to_string())
                }
                _ => Fault::Lost(e.to_string()),
            };
        };
        match d.kind() {
            ErrorKind::UniqueViolation => return Fault::Exists,
            ErrorKind::ForeignKeyViolation => return Fault::Linked,
            _ => {}
        }
        let message = d.message().to_owned();
        let code = d.code().unwrap_or_default();
        match code.parse::<u32>() {
            // SQLite: result codes are numbers, whose lowest byte is the primary one. SQLSTATEs of
            // PostgreSQL that are numbers have five digits.
            Ok(number) if code.len() < 5 => match number & 0xff {
                5 | 6 => Fault::Busy(message),
                13 => Fault::Full,
                3 | 8 | 14 | 23 => Fault::Refused(message),
                10 => Fault::Lost(message),
                11 | 26 => Fault::Damaged(message),
                _ => Fault::Statement(message),
            },
            _ => from_sqlstate(&code, message),
        }
    }
}

/// By the class or code of PostgreSQL's manual, appendix A.
fn from_sqlstate(code: &str, message: String) -> Fault {
    match (code.get(..2).unwrap_or_default(), code) {
        // The disk is full, or a limit of space is reached.
        (_, "53100") => Fault::Full,
        // Connection exceptions, insufficient resources, operator's intervention; a server that has
        // become a standby refuses writes with 25006.
        ("08" | "53", _) | (_, "57P01" | "57P02" | "57P03" | "25006") => Fault::Lost(message),
        // Serialization failures and deadlocks, locks that were not had in time, cancelled queries.
        ("40" | "55", _) | (_, "57014") => Fault::Busy(message),
        // Authorization, privileges, a database that does not exist.
        ("28" | "3D", _) | (_, "42501") => Fault::Refused(message),
        ("XX", _) => Fault::Damaged(message),
        _ => Fault::Statement(format!("{code}: {message}")),
    }
}
