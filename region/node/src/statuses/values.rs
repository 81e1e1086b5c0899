//! What is kept of a user behind its lease, and under which names.

use gb6_core_model::InstanceId;
use gb6_core_ports::{PersonKey, TemporaryKey};
use gb6_core_wire::mesh::UserStatusAnswer;

use super::{Answered, Question};

/// When the user was active, in Unix seconds.
pub(super) const ACTIVE: &str = "status/active";
/// When it was online, in Unix seconds.
pub(super) const ONLINE: &str = "status/online";
/// What it says of itself.
pub(super) const STATE: &str = "status/state";

pub(super) fn person(question: &Question) -> PersonKey {
    PersonKey {
        instance: InstanceId::from(question.asked.query.room.instance.as_str()),
        user: question.asked.user().to_owned(),
    }
}

pub(super) fn key(what: &str, person: &PersonKey) -> TemporaryKey {
    TemporaryKey {
        instance: person.instance.clone(),
        name: format!("{what}:{}", person.user),
    }
}

pub(super) fn done(question: &Question) -> Answered {
    let answer = UserStatusAnswer {
        request: question.asked.query.request,
        ..UserStatusAnswer::default()
    };
    (question.asked.link, answer)
}

pub(super) fn bytes_of(unix_s: i64) -> Vec<u8> {
    unix_s.to_string().into_bytes()
}

/// 0 for what is no number.
pub(super) fn seconds_of(value: &[u8]) -> i64 {
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.parse().unwrap_or(0)
}
