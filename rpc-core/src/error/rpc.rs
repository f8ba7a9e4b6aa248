//! Error of one call.

use std::error::Error as StdError;
use std::fmt;

use super::causes::{BoxError, chain};
use super::kind::ErrorKind;

/// The error text in other runtimes that use a connection, after the runtime that opened the connection has ended.
pub(super) const RUNTIME_ENDED: &str = "the runtime that opened the connection has ended, and the connection with it: open one connection in each runtime, or keep that runtime running";

/// The error text of a call for which the connection opens no channel.
pub(crate) const NO_CHANNEL: &str = "the connection may not open another channel: raise the limit of channels, or use fewer clients and servers";

/// Error of a call: an [`ErrorKind`], a message for people, and a flag that is `false` if the request certainly did not run.
///
/// An `RpcError` is one word wide, so a `Result<T, RpcError>` takes little more room than `T`.
pub struct RpcError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    may_have_executed: bool,
    source: Option<BoxError>,
}

impl RpcError {
    /// Creates an error of `kind`. `message` is for people; the library never interprets it.
    ///
    /// Layers on either side, and services written by hand, refuse requests with such an error. A server sends kind and message to the
    /// caller as a fault, along with the information whether a handler saw the request. On the client's side, errors of
    /// [`PermissionDenied`](ErrorKind::PermissionDenied), [`Overloaded`](ErrorKind::Overloaded) and the other kinds that refuse a request
    /// count as not executed.
    ///
    /// # Examples
    ///
    /// ```
    /// use rpc_core::{ErrorKind, Request, RpcError};
    ///
    /// fn checked(request: Request) -> Result<Request, RpcError> {
    ///     match request.headers().get_as("token") {
    ///         Some("sesame") => Ok(request),
    ///         _ => Err(RpcError::new(ErrorKind::PermissionDenied, "the token is not known")),
    ///     }
    /// }
    /// # let _layer = tower::filter::FilterLayer::new(checked);
    /// ```
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            may_have_executed: kind.may_follow_execution(),
            source: None,
        }))
    }

    /// Sets the cause of this error, which [`source`](StdError::source) returns.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// States that the request certainly did not run.
    #[must_use]
    pub fn not_executed(mut self) -> Self {
        self.0.may_have_executed = false;
        self
    }

    /// States that the request may have run if `earlier` is `true`: an earlier attempt or delivery may have run it.
    #[must_use]
    pub(crate) fn executed_if(mut self, earlier: bool) -> Self {
        self.0.may_have_executed |= earlier;
        self
    }

    /// Removes the cause of any type, and returns it if its type is `E`.
    pub(crate) fn take_source<E: StdError + 'static>(&mut self) -> Option<E> {
        let source = self.0.source.take()?;
        source.downcast().ok().map(|source| *source)
    }

    /// Appends a note to the message.
    #[must_use]
    pub(crate) fn with_note(mut self, note: &str) -> Self {
        self.0.message += note;
        self
    }

    /// Returns a copy, for another call. The copy's source keeps the text of the original source, not its type.
    pub(crate) fn copied(&self) -> Self {
        let Inner {
            kind,
            message,
            may_have_executed,
            source,
        } = &*self.0;
        Self(Box::new(Inner {
            kind: *kind,
            message: message.clone(),
            may_have_executed: *may_have_executed,
            source: source.as_ref().map(|source| source.to_string().into()),
        }))
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns `true` if the deadline passed, as seen by the client ([`ErrorKind::Timeout`]) or by the server
    /// ([`ErrorKind::DeadlineExceeded`]).
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Timeout | ErrorKind::DeadlineExceeded
        )
    }

    /// Returns `true` if the same request may succeed when sent again a little later.
    ///
    /// The answer depends on the cause of the failure only. A retry is *safe* if the method is idempotent, or if
    /// [`may_have_executed`](Self::may_have_executed) returns `false`.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Disconnected
                | ErrorKind::Rejected
                | ErrorKind::Cancelled
                | ErrorKind::Overloaded
        )
    }

    /// Returns `true` if a handler may have run this request, in part or whole, and `false` only if the request certainly did not run.
    pub fn may_have_executed(&self) -> bool {
        self.0.may_have_executed
    }

    /// Converts the error of a layer. An `RpcError` is returned unchanged; any other error becomes the source of a new one. The first cause of
    /// a known type determines the kind, because layers such as tower's `BufferLayer` wrap the errors of their inner services.
    pub(crate) fn from_layer(error: impl Into<BoxError>) -> Self {
        let error = match error.into().downcast::<Self>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        let known = chain(Some(&*error)).find_map(Self::from_cause);
        let failed = || {
            let message = "a layer failed with an error of unknown kind; return one made with `RpcError::new` to state the kind";
            Self::new(ErrorKind::Cancelled, message)
        };
        known.unwrap_or_else(failed).with_source(error)
    }

    /// Converts a cause of a known type. Returns `None` for other types.
    fn from_cause(cause: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(error) = cause.downcast_ref::<Self>() {
            Some(error.copied())
        } else if cause.is::<tower::load_shed::error::Overloaded>() {
            let message = "a layer refused the request because of load";
            Some(Self::new(ErrorKind::Overloaded, message))
        } else if cause.is::<tower::timeout::error::Elapsed>()
            || cause.is::<tokio::time::error::Elapsed>()
        {
            let message = "the time limit of a layer passed";
            Some(Self::new(ErrorKind::Timeout, message))
        } else {
            None
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn no_runtime() -> Self {
        Self::new(
            ErrorKind::Closed,
            "a call needs a Tokio runtime: await it inside `Runtime::block_on`",
        )
        .not_executed()
    }

    pub(crate) fn runtime_ended() -> Self {
        Self::new(ErrorKind::Closed, RUNTIME_ENDED).not_executed()
    }

    pub(crate) fn closed() -> Self {
        Self::new(
            ErrorKind::Closed,
            "the connection was closed by this process",
        )
        .not_executed()
    }
}

impl fmt::Display for RpcError {
    /// Writes the message in one line. Control characters are escaped: the other side could use them to forge log lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.message.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((text, control)) if control.is_control() => {
                    write!(f, "{}{}", &part[..text], control.escape_debug())?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RpcError");
        debug
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("may_have_executed", &self.0.may_have_executed);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for RpcError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::super::causes::with_causes;
    use super::*;

    #[test]
    fn rpc_error_is_one_word_wide() {
        assert_eq!(size_of::<Result<(), RpcError>>(), size_of::<usize>());
    }

    #[test]
    fn display_escapes_control_characters_and_message_keeps_them() {
        let message = "no method 'a\nb\u{1b}[2J\u{85}\r' – Zoë\\\"\t";
        let error = RpcError::new(ErrorKind::UnknownMethod, message);
        let shown = "no method 'a\\nb\\u{1b}[2J\\u{85}\\r' – Zoë\\\"\\t";
        assert_eq!(error.to_string(), shown);
        assert_eq!(error.message(), message);
        assert_eq!(RpcError::new(ErrorKind::Closed, "").to_string(), "");
    }

    #[test]
    fn rpc_error_of_a_layer_is_kept_and_another_error_becomes_its_source() {
        let boxed: BoxError = Box::new(RpcError::new(ErrorKind::TooLarge, "big"));
        assert_eq!(RpcError::from_layer(boxed).kind(), ErrorKind::TooLarge);
        let other = RpcError::from_layer("busy");
        assert_eq!(other.kind(), ErrorKind::Cancelled);
        assert_eq!(other.source().expect("kept").to_string(), "busy");
    }

    /// An error of a layer that wraps the error of its inner service.
    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] BoxError);

    #[test]
    fn first_known_cause_of_a_layer_error_determines_its_kind() {
        let refusal = || RpcError::new(ErrorKind::PermissionDenied, "no token");
        for (cause, kind, executed) in [
            (
                Box::new(tower::load_shed::error::Overloaded::new()) as BoxError,
                ErrorKind::Overloaded,
                false,
            ),
            (
                Box::new(tower::timeout::error::Elapsed::new()),
                ErrorKind::Timeout,
                true,
            ),
            (Box::new(refusal()), ErrorKind::PermissionDenied, false),
        ] {
            let error = RpcError::from_layer(Wrapped(Box::new(Wrapped(cause))));
            assert_eq!(error.kind(), kind);
            assert_eq!(error.may_have_executed(), executed, "{kind:?}");
            assert!(error.source().expect("kept").is::<Wrapped>());
        }
        let error = RpcError::from_layer(Wrapped(refusal().into()));
        assert_eq!(error.to_string(), "no token");
    }

    /// An error that is its own cause.
    #[derive(Debug)]
    struct Loop;

    impl fmt::Display for Loop {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("round and round")
        }
    }

    impl StdError for Loop {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(self)
        }
    }

    #[test]
    fn endless_chain_of_causes_is_cut() {
        assert_eq!(RpcError::from_layer(Loop).kind(), ErrorKind::Cancelled);
        // Equal texts are not repeated.
        assert_eq!(with_causes(&Loop), "round and round");
    }
}
