//! Kinds of a call's failure, and their codes on the wire.

/// Kind of a call's failure. Each kind suggests a different reaction of the caller.
///
/// New kinds may be added, so a `match` needs a `_` arm. [`RpcError::is_retryable`](crate::RpcError::is_retryable),
/// [`is_timeout`](crate::RpcError::is_timeout) and [`may_have_executed`](crate::RpcError::may_have_executed) answer the usual questions
/// without a `match`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The deadline passed before a reply arrived, for any reason.
    Timeout,
    /// The service's queue does not exist: no server of the service was ever started on this broker. (The queue stays when its servers
    /// stop. Calls then wait in it for the next server, until their deadlines.) For a call to all instances, or a question to them: no
    /// instance is running, or none takes part.
    Unroutable,
    /// The broker refused the request, for instance because the queue is full.
    Rejected,
    /// The connection to the broker was lost with the call in flight, or is down.
    Disconnected,
    /// The server was told to cancel this call, or shut down before running it. Also the kind of a call made in a handler whose
    /// own caller has dropped its call ([`Context`](crate::Context)), and of a layer's error of unknown kind.
    Cancelled,
    /// The service has no method of this name.
    UnknownMethod,
    /// The server could not decode the request's arguments.
    BadRequest,
    /// The server does not support the request's content type.
    UnsupportedContentType,
    /// The server did not run the request, or stopped running it, because the request's deadline or a layer's time limit had passed.
    DeadlineExceeded,
    /// The handler panicked.
    Panicked,
    /// The request or its reply is larger than allowed.
    TooLarge,
    /// The server could not encode the reply, or the client could not decode it.
    BadReply,
    /// The request could not be encoded, or the method cannot be called in this way; nothing was sent.
    Encode,
    /// A layer, the server or the broker does not allow this caller to make the call. Never retried: the outcome would be the same.
    PermissionDenied,
    /// A layer or the server refused the request before it ran, because of load. May be retried later.
    Overloaded,
    /// The connection was closed on this side.
    Closed,
}

/// Kinds that a server reports as faults, and their codes in the wire protocol.
const FAULT_CODES: &[(ErrorKind, &str)] = &[
    (ErrorKind::Cancelled, "cancelled"),
    (ErrorKind::UnknownMethod, "unknown_method"),
    (ErrorKind::BadRequest, "bad_request"),
    (
        ErrorKind::UnsupportedContentType,
        "unsupported_content_type",
    ),
    (ErrorKind::DeadlineExceeded, "deadline_exceeded"),
    (ErrorKind::Panicked, "panicked"),
    (ErrorKind::TooLarge, "too_large"),
    (ErrorKind::BadReply, "bad_reply"),
    (ErrorKind::PermissionDenied, "permission_denied"),
    (ErrorKind::Overloaded, "overloaded"),
];

impl ErrorKind {
    /// Returns the code of this kind in a fault. A layer of the server may return a kind that has no code: `Timeout` is reported as
    /// `deadline_exceeded`, because the time limit passed on the server, and any other kind as `cancelled`.
    pub(crate) fn fault_code(self) -> &'static str {
        let reported = match self {
            Self::Timeout => Self::DeadlineExceeded,
            other => other,
        };
        FAULT_CODES
            .iter()
            .find(|(kind, _)| *kind == reported)
            .map_or("cancelled", |(_, code)| code)
    }

    /// Returns the name of this kind in snake case, for telemetry. The name of a fault is its code.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected",
            Self::Disconnected => "disconnected",
            Self::Encode => "encode",
            Self::Closed => "closed",
            Self::Cancelled
            | Self::UnknownMethod
            | Self::BadRequest
            | Self::UnsupportedContentType
            | Self::DeadlineExceeded
            | Self::Panicked
            | Self::TooLarge
            | Self::BadReply
            | Self::PermissionDenied
            | Self::Overloaded => self.fault_code(),
        }
    }

    pub(crate) fn from_fault_code(code: &str) -> Option<Self> {
        FAULT_CODES
            .iter()
            .find(|(_, known)| *known == code)
            .map(|(kind, _)| *kind)
    }

    /// Returns `false` if a request that failed with this kind certainly did not run.
    pub(super) fn may_follow_execution(self) -> bool {
        !matches!(
            self,
            Self::Unroutable
                | Self::Rejected
                | Self::UnknownMethod
                | Self::BadRequest
                | Self::UnsupportedContentType
                | Self::Encode
                | Self::PermissionDenied
                | Self::Overloaded
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_codes_are_snake_case_names_of_kinds() {
        for (kind, code) in FAULT_CODES {
            let mut snake = String::new();
            for letter in format!("{kind:?}").chars() {
                if letter.is_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.extend(letter.to_lowercase());
            }
            assert_eq!(*code, snake);
            assert_eq!(ErrorKind::from_fault_code(code), Some(*kind));
        }
    }

    #[test]
    fn timeout_of_a_server_layer_is_reported_as_deadline_exceeded() {
        assert_eq!(ErrorKind::Timeout.fault_code(), "deadline_exceeded");
        assert_eq!(ErrorKind::Unroutable.fault_code(), "cancelled");
    }
}
