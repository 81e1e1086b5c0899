//! Errors of the server API: a stable code with words, and the HTTP status that stands for it.

use std::borrow::Cow;

use gb6_core_model::ErrorCode;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

/// Why a method failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ApiError {
    /// The code.
    pub(super) code: ErrorCode,
    /// What is wrong with what; empty where the code says it all.
    why: Cow<'static, str>,
}

impl ApiError {
    /// A request that makes no sense, and why.
    pub(super) fn bad(why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: ErrorCode::BadRequest,
            why: why.into(),
        }
    }

    /// An error with more words than the code has.
    pub(super) fn with(code: ErrorCode, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            why: why.into(),
        }
    }

    /// What happened, in words.
    pub(super) fn words(&self) -> String {
        let text = self.code.text();
        match self.why.is_empty() {
            true => text.to_owned(),
            false => format!("{text}: {}", self.why),
        }
    }

    /// As it is written in an answer.
    pub(super) fn body(&self) -> ErrorBody {
        ErrorBody {
            code: self.code.code(),
            message: self.words(),
        }
    }

    /// The HTTP status of the error in the error mode `transport`.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorCode::UnknownChannel | ErrorCode::MethodNotFound => StatusCode::NOT_FOUND,
            ErrorCode::AlreadySubscribed
            | ErrorCode::LimitExceeded
            | ErrorCode::BadRequest
            | ErrorCode::NotAvailable
            | ErrorCode::TokenExpired
            | ErrorCode::Expired => StatusCode::BAD_REQUEST,
            ErrorCode::ConcurrentPagination => StatusCode::CONFLICT,
            ErrorCode::UnrecoverablePosition => StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            ErrorCode::OwnerMoving => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self {
            code,
            why: Cow::Borrowed(""),
        }
    }
}

/// An error: what clients see.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ErrorBody {
    /// A stable number; the table is in docs/protocol.md.
    code: u32,
    /// What happened, in words.
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_statuses() {
        for (code, status) in [
            (102, 404),
            (104, 404),
            (107, 400),
            (108, 400),
            (112, 416),
            (113, 409),
            (100, 500),
            (111, 429),
        ] {
            let code = ErrorCode::from_code(code).unwrap();
            assert_eq!(ApiError::from(code).status().as_u16(), status);
        }
    }

    #[test]
    fn words_follow_the_codes_own() {
        let error = ApiError::bad("the channel's name is empty");
        let body = serde_json::to_string(&error.body()).unwrap();
        assert_eq!(
            body,
            r#"{"code":107,"message":"bad request: the channel's name is empty"}"#
        );
        let plain = ApiError::from(ErrorCode::Internal).body();
        assert_eq!(plain.message, "internal server error");
    }
}
