//! What this edge answers to other edges, and to itself.

use std::sync::Arc;

use gb6_core_wire::mesh::{AnswerKind, Done, EdgeAnswer, EdgeQuestion, QuestionKind};

use crate::shared::Shared;

/// Carries a question out; `None`: its kind is of a later version. It must not wait: questions of
/// one edge are answered in their order, on the task that reads them.
pub(super) fn answer(shared: &Arc<Shared>, question: &EdgeQuestion) -> Option<EdgeAnswer> {
    let kind = match question.kind.as_ref()? {
        QuestionKind::Emulation(emulation) => {
            shared.emulated(&emulation.session, emulation.data.clone());
            // Whether there is such a session is nobody's business.
            AnswerKind::Done(Done {})
        }
    };
    Some(EdgeAnswer { kind: Some(kind) })
}
